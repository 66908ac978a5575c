"""What several trainers call alike, because they stand on transformers, peft and accelerate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from orpo.migrate.ledger import Computed, Ledger

__all__ = [
    "adapter",
    "carry_over",
    "data_sets",
    "four_bits",
    "launch",
    "listed",
    "no_lines",
]

_NEEDLESS = {
    "do_train": "training is what `orpo train` does",
    "do_eval": "held-out pairs are evaluated where there are some",
    "do_predict": "nothing is predicted",
    "overwrite_output_dir": "`orpo train --overwrite` replaces a run; nothing does it silently",
    "remove_unused_columns": "the columns that are needed are read, others are left alone",
    "save_safetensors": "weights are always written as safetensors",
    "label_names": "there are no labels to name",
    "disable_tqdm": "the command line has its own progress",
    "use_liger_kernel": "no logits are kept: the fused head is part of the engine",
    "enable_liger_kernel": "no logits are kept: the fused head is part of the engine",
    "local_rank": "the launcher says it",
    "attn_implementation": "the engine chooses its attention, and tries it out at the start",
    "attn_impl": "the engine chooses its attention, and tries it out at the start",
    "flash_attn": "the engine chooses its attention, and tries it out at the start",
    "flash_attention": "the engine chooses its attention, and tries it out at the start",
    "sdp_attention": "the engine chooses its attention, and tries it out at the start",
    "padding_side": "nothing is padded, or it is masked",
    "padding_value": "nothing is padded, or it is masked",
    "dataset_num_proc": "rows are tokenised on all cores",
    "dataset_processes": "rows are tokenised on all cores",
    "preprocessing_num_workers": "rows are tokenised on all cores",
    "overwrite_cache": "the cache of tokens notices every change",
    "load_from_cache_file": "the cache of tokens notices every change",
    "plot_loss": "the report has the curves",
    "low_cpu_mem_usage": "transformers decides it",
    "use_fast_tokenizer": "transformers decides it",
    "ref_model": "ORPO has no reference model",
    "logging_dir": "logs are in the run folder; loggers have variables of their own",
    "debug": "is no setting of a run",
    **dict.fromkeys(
        ("fp16_backend", "fp16_opt_level", "half_precision_backend", "jit_mode_eval", "use_ipex"),
        "torch decides how it computes in half precision",
    ),
    **dict.fromkeys(
        ("past_index", "mp_parameters", "ray_scope", "tpu_num_cores", "use_mps_device"),
        "transformers has it no more",
    ),
    **dict.fromkeys(
        ("loss_type", "f_divergence_type", "simpo_gamma", "cpo_alpha", "label_smoothing"),
        "is of other methods: ORPO's loss has orpo_alpha and orpo_beta",
    ),
    **dict.fromkeys(
        ("precompute_ref_log_probs", "reference_free", "sync_ref_model", "ref_model_name_or_path"),
        "ORPO has no reference model",
    ),
    "rpo_alpha": "the NLL of the chosen answer is part of ORPO's loss as it is",
}
_COMPILE = "leave it out: compile_blocks compiles what pays"
_REFUSED = {
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "deepspeed": "start with accelerate launch --config_file recipes/accelerate/zero2.yaml "
    "(or zero3.yaml) -m orpo train RECIPE",
    "fsdp": "start with accelerate launch --config_file recipes/accelerate/fsdp2.yaml "
    "-m orpo train RECIPE",
    "fsdp_config": "see recipes/accelerate/fsdp2.yaml",
    "group_by_length": "leave it out: micro-batches are cut by tokens, and nothing is padded",
    "use_rslora": "train from Python with peft_config=LoraConfig(use_rslora=True, ...)",
    "use_dora": "train from Python with peft_config=LoraConfig(use_dora=True, ...)",
    "use_unsloth": "leave it out: unsloth patches what the engine replaces",
    "label_smoothing_factor": "leave it out: ORPO has no smoothed labels",
    "length_column_name": "leave it out: nothing is sampled by length",
}
_SECRETS = ("hub_token", "hf_token", "token", "use_auth_token", "hf_hub_token", "ms_hub_token")
_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
    "torchdynamo": "torch_compile_backend",
    "push_to_hub_model_id": "hub_model_id",
}
_OFF = (False, "none", "no", "", 0)
_SAME = {f.name for f in fields(TrainingArguments)} - _NEEDLESS.keys() - _REFUSED.keys()
_CHECKED = {
    "optim": (OptimizerNames, "transformers has"),
    "lr_scheduler_type": (SchedulerType, "transformers has"),
}


def carry_over(ledger: Ledger) -> None:
    """Take the keys that mean the same here as in `TrainingArguments`, under their old names too.

    `use_cache` and `resume_from_checkpoint` are for one call; secrets are never written.
    """
    for name in ledger.names:
        if ledger.get(name) is None:  # empty, or settled along with another
            continue
        if name in _SECRETS:
            ledger.not_supported(name, "a secret is not written down: set HF_TOKEN, or log in")
        elif name in _NEEDLESS:
            ledger.not_needed(name, _NEEDLESS[name])
        elif name in _REFUSED:
            refuse_unless_off(ledger, name, _REFUSED[name])
        elif name == "resume_from_checkpoint":
            ledger.not_supported(name, "go on with `orpo train RECIPE --resume`")
        elif name == "packing":
            refuse_unless_off(ledger, name, "leave it out: pairs are packed without mixing them")
        elif name in _RENAMED:
            _rename(ledger, name)
        elif name in _CHECKED:
            choose(ledger, name, name)
        elif name in _SAME:
            ledger.converted(name, {name: ledger.get(name)})


def refuse_unless_off(ledger: Ledger, name: str, instead: str) -> None:
    """A key that cannot be carried over, and needs not be where it is switched off."""
    if ledger.get(name) in _OFF:
        ledger.not_needed(name, "is off, as it is here")
    else:
        ledger.not_supported(name, instead)


def choose(ledger: Ledger, name: str, setting: str) -> None:
    """An optimizer or a scheduler by its name in transformers."""
    kinds, owner = _CHECKED[setting]
    value = ledger.get(name)
    known = [str(kind.value) for kind in kinds]
    if isinstance(value, Computed) or value in known:
        ledger.converted(name, {setting: value})
    else:
        ledger.not_supported(name, f"{owner} no {value!r}: choose another, --{setting} NAME")


def _rename(ledger: Ledger, name: str) -> None:
    """`warmup_ratio` counts where `warmup_steps` is not above 0, as in transformers."""
    setting = _RENAMED[name]
    if name == "warmup_ratio":
        steps = ledger.get("warmup_steps", 0)
        decided = ledger.settings.get("warmup_steps")
        if steps or (decided is not None and decided.value):
            ledger.not_needed(name, "warmup_steps is given, which counts")
            return
        if ledger.has("warmup_steps"):
            ledger.not_needed("warmup_steps", "is 0, so that warmup_ratio counts")
    ledger.converted(name, {setting: ledger.get(name)})


def launch(ledger: Ledger) -> None:
    """Take what belongs to starting processes: variables, launchers, accelerate's configuration."""
    for name in ledger.names:
        kind, dot, own = name.partition(".")
        if not dot or kind not in {"env", "launcher", "accelerate"}:
            continue
        value = ledger.get(name)
        if own in {"NPROC_PER_NODE", "nproc_per_node", "num_processes"} and kind != "accelerate":
            if isinstance(value, int) and value > 1:
                ledger.launch.append(f"--nproc {value}")
            ledger.not_needed(name, f"orpo train RECIPE --nproc {value} starts as many")
        elif own == "mixed_precision" and value in {"bf16", "fp16"}:
            ledger.converted(name, {str(value): True})
        elif kind == "env":
            ledger.not_needed(name, "set it as before: it is read by what it was read by")
        elif own == "config_file":
            ledger.not_needed(name, "accelerate launch takes it as before: -m orpo train RECIPE")
        else:
            ledger.not_needed(name, "stays there: accelerate launch ... -m orpo train RECIPE")


def adapter(
    ledger: Ledger,
    names: dict[str, str],
    *,
    everything: Iterable[str],
    defaults: dict[str, Any],
    source: str,
) -> None:
    """Take the keys of LoRA.

    Args:
        ledger: The keys.
        names: Fields of `TrainJob` -> keys.
        everything: Values of the targets that mean all linear layers.
        defaults: What holds for those fields where nothing is given.
        source: Whose defaults they are.
    """
    for setting, name in names.items():
        if not ledger.has(name) or ledger.get(name) is None:
            continue
        value = ledger.get(name)
        if setting == "lora_target_modules" and not isinstance(value, Computed):
            parts = listed(value)
            value = "all-linear" if set(parts) & set(everything) else ",".join(parts)
        elif setting == "lora_alpha" and isinstance(value, float) and value == int(value):
            value = int(value)
        ledger.converted(name, {setting: value})
    ledger.default(source, defaults)


def four_bits(ledger: Ledger, names: Iterable[str], kwargs: dict[str, Any]) -> None:
    """Keys of quantization become arguments of the model for bitsandbytes.

    Args:
        ledger: The keys.
        names: Those that are taken for it, the first of them as the source.
        kwargs: Arguments of `BitsAndBytesConfig`.
    """
    first, *others = [name for name in names if ledger.has(name)]
    config = {"quant_method": "bitsandbytes", **kwargs}
    where = {"model_init_kwargs": {"quantization_config": config}}
    ledger.converted(first, where, "needs pip install 'orpo[qlora]'")
    for name in others:
        ledger.converted(name, where)


def data_sets(ledger: Ledger, name: str, specs: list[Any], setting: str = "dataset") -> None:
    """A key that names data sets which orpo reads as well."""
    if setting == "dataset":
        ledger.converted(name, {"dataset": specs[0] if len(specs) == 1 else specs})
    elif len(specs) == 1:
        ledger.converted(name, {"eval_dataset": specs[0]})
    else:
        ledger.not_supported(
            name, "give one data set as eval_dataset, or hold prompts out: held_out"
        )


def listed(value: Any) -> list[str]:
    """A list, or a text with commas, as a list of texts."""
    parts = value if isinstance(value, list) else str(value).split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def no_lines(text: str) -> str:
    """A text on one line, without what would steer a terminal or end a comment."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
