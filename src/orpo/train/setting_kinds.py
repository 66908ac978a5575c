"""What each setting of a recipe can change, by which a run that goes on is judged.

A setting that is in none of these groups, such as one that a later version of transformers adds,
is taken to make another run.
"""

from __future__ import annotations

__all__ = ["DATA", "EVALUATION", "KNOWN", "LENGTH", "OTHER", "ROUNDING", "SAVING", "SPLIT"]
__all__ += ["WORKERS", "WRITTEN"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


WRITTEN = _names("""
    output_dir run_name report_to project trackio_space_id trackio_bucket_id
    trackio_static_space_id logging_strategy logging_steps logging_first_step log_on_each_node
    logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm
    save_only_model save_on_each_node enable_jit_checkpoint push_to_hub hub_token hub_private_repo
    hub_model_id hub_strategy hub_always_push hub_revision do_train do_eval do_predict debug
    skip_memory_metrics include_for_metrics batch_eval_metrics label_names remove_unused_columns
    resume_from_checkpoint restore_callback_states_from_checkpoint resume_changed local_rank
    dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context torch_empty_cache_steps ddp_timeout data_cache samples
    sample_tokens strict resume overwrite nproc stall_timeout on_nonfinite max_nonfinite_steps
""")
"""What is logged, saved, sent or waited for; the weights do not know of it."""

EVALUATION = _names("""
    eval_strategy eval_steps eval_delay eval_on_start eval_dataset per_device_eval_batch_size
    prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps
""")
"""When and on what is evaluated."""

SAVING = _names("save_strategy save_steps save_total_limit")
"""When is saved; the best model at the end is one of those saved."""

ROUNDING = _names("""
    max_tokens_per_microbatch engine compile_blocks use_cpu gradient_checkpointing
    gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs
    torch_compile torch_compile_backend torch_compile_mode use_cache full_determinism
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
""")
"""How the same numbers are computed; random numbers would be drawn in another order."""

LENGTH = _names("max_steps num_train_epochs")
"""Where the run ends; most schedules of the learning rate look ahead to it."""

SPLIT = _names("per_device_train_batch_size gradient_accumulation_steps")
"""How the pairs of an optimizer step are divided."""

WORKERS = _names("dataloader_num_workers")
"""Who reads the rows; those of a stream are dealt out among the workers."""

DATA = _names("""
    dataset mix held_out on_bad_row data_format pair_rule max_length max_prompt_length truncation
    tokenizer chat_template chat_template_kwargs
""")
"""What the prepared pairs are made from; the same pairs are the same, whatever made them."""

OTHER = _names("""
    model model_revision model_dtype model_init_kwargs quantize trust_remote_code lora_r
    lora_alpha lora_dropout lora_target_modules learning_rate lr_scheduler_type lr_scheduler_kwargs
    warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon
    optim_target_modules average_tokens_across_devices max_grad_norm label_smoothing_factor bf16
    fp16 tf32 bf16_full_eval fp16_full_eval use_liger_kernel liger_kernel_config
    neftune_noise_alpha auto_find_batch_size load_best_model_at_end metric_for_best_model
    greater_is_better ignore_data_skip seed data_seed accelerator_config parallelism_config
    dataloader_drop_last dataloader_in_order train_sampling_strategy length_column_name fsdp
    fsdp_config deepspeed objective orpo_alpha orpo_beta dpo_beta beta nll_scope disable_dropout
""")
"""What always makes another run."""

KNOWN = WRITTEN | EVALUATION | SAVING | ROUNDING | LENGTH | SPLIT | WORKERS | DATA | OTHER
