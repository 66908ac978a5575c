"""Settings of Axolotl: rl: orpo, which is TRL's ORPOTrainer under it.

Facts from the sources of axolotl 0.19.0 (which needs trl 1.9.0): `utils/schemas/*.py` for names
and defaults; `core/builders/rl.py`: lambda is trl.beta, else rl_beta, else orpo_alpha, else TRL's
0.1; `core/builders/base.py`: schedule and warm-up, saving once an epoch; `utils/data/rl.py`: pairs
longer than sequence_len are dropped unless excess_length_strategy says otherwise;
`utils/config/__init__.py`: the dtype of the weights.
"""

from __future__ import annotations

from typing import Any

from orpo.errors import ConfigError
from orpo.migrate.ledger import FILL_IN, Computed, Ledger
from orpo.migrate.shared import (
    adapter,
    carry_over,
    choose,
    data_sets,
    four_bits,
    refuse_unless_off,
)

__all__ = ["convert_axolotl", "defaults_of_axolotl"]

_SOURCE = "Axolotl's default (0.19.0, utils/schemas)"
_BUILDER = "Axolotl's default (0.19.0, core/builders/base.py)"
_FROM_PYTHON = "train from Python: ORPOTrainer(peft_config=LoraConfig(...))"
_DEFAULTS = {
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 1,
    "optim": "adamw_torch_fused",
    "seed": 42,
    "orpo_alpha": 0.1,
    "orpo_beta": 1.0,
    "nll_scope": "sequence",
    "max_length": 512,
    "truncation": "drop",
    "gradient_checkpointing": False,
}
_RENAMED = {
    "base_model": "model",
    "revision_of_model": "model_revision",
    "tokenizer_config": "tokenizer",
    "sequence_len": "max_length",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "num_epochs": "num_train_epochs",
    "trust_remote_code": "trust_remote_code",
    "chat_template_kwargs": "chat_template_kwargs",
}
_STRATEGIES = {"drop": "drop", "truncate": "truncate_answer", "raise": "error"}
_NEEDLESS = {
    "rl": "ORPO is what orpo trains",
    "model_type": "transformers finds the class of the model",
    "tokenizer_type": "transformers finds the class of the tokenizer",
    "train_on_inputs": "nll_scope decides whether the prompt counts in the NLL",
    "pad_to_sequence_len": "nothing is padded, or it is masked",
    "dataset_prepared_path": "see data_cache",
    "shuffle_merged_datasets": "the order is drawn by `seed`, anew in each epoch",
    "dataset_keep_in_memory": "tokens are kept in Arrow files",
    "eval_sample_packing": "pairs are packed without mixing them",
    "wandb_project": "set WANDB_PROJECT",
    "wandb_entity": "set WANDB_ENTITY",
    "wandb_watch": "set WANDB_WATCH",
    "wandb_log_model": "set WANDB_LOG_MODEL",
    "wandb_name": "set run_name",
    "wandb_run_id": "set WANDB_RUN_ID",
    "xformers_attention": "the engine chooses its attention",
    "flex_attention": "the engine chooses its attention",
    "eager_attention": "the engine chooses its attention",
    "lora_mlp_kernel": "is a kernel, no setting of the run",
    "lora_qkv_kernel": "is a kernel, no setting of the run",
    "lora_o_kernel": "is a kernel, no setting of the run",
    "lora_fan_in_fan_out": "peft decides it",
    "strict": "no model of settings is checked",
    "gc_steps": "is no setting of a run",
    "save_first_step": "is no setting of a run",
    "device_map": "the trainer places the model",
    "dataset_exact_deduplication": "`orpo data fix` writes a copy without duplicates",
    "eval_table_size": "held-out prompts are answered before and after (`samples`)",
    "eval_max_new_tokens": "held-out prompts are answered before and after (`samples`)",
    "is_llama_derived_model": "transformers finds the class of the model",
    "is_mistral_derived_model": "transformers finds the class of the model",
    "is_qwen_derived_model": "transformers finds the class of the model",
}
_REFUSED = {
    "sample_packing": "leave it out: pairs are packed without mixing them",
    "special_tokens": "set them in the tokenizer and save it, then name the folder: tokenizer",
    "tokens": "add them to the tokenizer and save it, then name the folder: tokenizer",
    "lora_modules_to_save": _FROM_PYTHON,
    "lora_model_dir": "name the adapter's folder as model",
    "lora_target_parameters": _FROM_PYTHON,
    "peft_use_dora": _FROM_PYTHON,
    "peft_use_rslora": _FROM_PYTHON,
    "peft": _FROM_PYTHON,
    "early_stopping_patience": "train from Python: callbacks=[EarlyStoppingCallback(...)]",
    "plugins": "leave it out: plugins are Axolotl's",
    "load_in_8bit": "model_init_kwargs: {quantization_config: ...} takes what transformers takes",
    "chat_template_jinja": "write the template to a file: --chat_template FILE",
    "default_system_message": "give the rows a column `system`",
    "max_prompt_len": "max_prompt_length: N, if prompts are to be cut (Axolotl's ORPO does not)",
    "cosine_min_lr_ratio": "lr_scheduler_type: cosine_with_min_lr, with lr_scheduler_kwargs",
    "cosine_constant_lr_ratio": "choose a scheduler of transformers: --lr_scheduler_type NAME",
    "loraplus_lr_ratio": "train from Python: ORPOTrainer(optimizers=...)",
    "embedding_lr": "train from Python: ORPOTrainer(optimizers=...)",
    "unfrozen_parameters": "train from Python: freeze parameters of the model first",
    "activation_offloading": "gradient_checkpointing: true, or max_tokens_per_microbatch: N",
    "context_parallel_size": "leave it out: a sequence stays on one device",
    "sequence_parallel_degree": "leave it out: a sequence stays on one device",
}


def convert_axolotl(ledger: Ledger) -> None:
    """Apply Axolotl's rules; what stands on transformers is left to `shared.carry_over`.

    Raises:
        ConfigError: It is not ORPO that is trained.
    """
    if ledger.get("rl") != "orpo":
        raise ConfigError(
            f"ORPO is `rl: orpo` there, and it is {ledger.get('rl')!r}",
            where=ledger.where("rl") if ledger.has("rl") else "rl",
            fix="Only runs of ORPO are converted.",
        )
    _strength(ledger)
    dtype = _precision(ledger)
    _adapter(ledger)
    _data(ledger)
    _steps(ledger)
    _loggers(ledger)
    _template(ledger)
    _lengths(ledger)
    tokens = ledger.get("special_tokens")
    if isinstance(tokens, dict) and tokens.keys() <= {"pad_token"}:
        ledger.not_needed("special_tokens", "padding is masked, whatever its token")
    if ledger.get("lr_scheduler") is not None:
        choose(ledger, "lr_scheduler", "lr_scheduler_type")
    if ledger.get("optimizer") is not None:
        choose(ledger, "optimizer", "optim")
    for name, setting in _RENAMED.items():
        if ledger.get(name) is not None:
            ledger.converted(name, {setting: ledger.get(name)})
    for name in ledger.names:
        if name in _REFUSED and ledger.get(name) is not None:
            refuse_unless_off(ledger, name, _REFUSED[name])
        elif name in _NEEDLESS:
            ledger.not_needed(name, _NEEDLESS[name])
    carry_over(ledger)
    ledger.default(_BUILDER + ", at most 100 steps there", {"warmup_steps": 0.03})
    ledger.default(*dtype)
    if "learning_rate" not in ledger.settings:
        ledger.default("Axolotl needs it as well", {"learning_rate": FILL_IN})


def defaults_of_axolotl(ledger: Ledger) -> None:
    """What Axolotl does where nothing is said."""
    ledger.default(_SOURCE, _DEFAULTS)


def _strength(ledger: Ledger) -> None:
    given = [
        n for n in ("trl.beta", "rl_beta", "dpo_beta", "orpo_alpha") if ledger.get(n) is not None
    ]
    for name in given[1:]:
        ledger.not_needed(name, f"{given[0]} counts there")
    if given:
        note = "lambda; there is no temperature in Axolotl"
        ledger.converted(given[0], {"orpo_alpha": ledger.get(given[0])}, note)


def _precision(ledger: Ledger) -> tuple[str, dict[str, Any]]:
    """bf16 is on where the GPU has it, unless something else is said; weights follow it."""
    for old, new in (("bfloat16", "bf16"), ("float16", "fp16")):
        if ledger.get(old) is not None:
            ledger.converted(old, {new: ledger.get(old)})
    fp16 = ledger.get("fp16") is True
    bf16 = ledger.get("bf16", "auto")
    on = (bf16 == "auto" and not fp16) or bf16 is True or bf16 == "full"
    if ledger.has("bf16"):
        ledger.converted(
            "bf16", {"bf16": on}, "auto: on where the GPU has it" if bf16 == "auto" else ""
        )
    else:
        ledger.default(_SOURCE + ": auto", {"bf16": on})
    if ledger.get("tf32") == "auto":
        ledger.not_needed("tf32", "is torch's own choice")
    dtype = "bfloat16" if on else "float16" if fp16 else "float32"
    return "Axolotl's way (0.19.0, utils/config/__init__.py)", {"model_dtype": dtype}


def _adapter(ledger: Ledger) -> None:
    kind = ledger.get("adapter")
    names = {
        "lora_r": "lora_r",
        "lora_alpha": "lora_alpha",
        "lora_dropout": "lora_dropout",
        "lora_target_modules": "lora_target_modules",
    }
    if kind in {"lora", "qlora"}:
        if ledger.get("lora_target_linear") is True:
            ledger.converted("lora_target_linear", {"lora_target_modules": "all-linear"})
            if ledger.get("lora_target_modules") is not None:
                ledger.not_needed("lora_target_modules", "all linear layers are adapted")
        adapter(
            ledger,
            names,
            everything=("all-linear",),
            defaults={"lora_dropout": 0.0, "lora_r": 8, "lora_alpha": 8},
            source=_SOURCE + ", else peft's",
        )
        ledger.default(
            "peft's own choice for Llama, Mistral and Qwen; look it up for other models",
            {"lora_target_modules": "q_proj,v_proj"},
        )
        ledger.not_needed("adapter", "lora_r decides whether an adapter is trained")
    elif kind is None:
        for name in (*names.values(), "lora_target_linear"):
            if ledger.has(name):
                ledger.not_needed(name, "no adapter is trained")
    else:
        ledger.not_supported("adapter", f"orpo trains LoRA adapters, no {kind!r}")
    if ledger.get("load_in_4bit") is True:
        four_bits(
            ledger,
            ["load_in_4bit"],
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_use_double_quant": True,
                "bnb_4bit_compute_dtype": "bfloat16",
            },
        )
    elif ledger.has("load_in_4bit"):
        ledger.not_needed("load_in_4bit", "is off")


def _data(ledger: Ledger) -> None:
    for block, setting in (("datasets", "dataset"), ("test_datasets", "eval_dataset")):
        paths = [n for n in ledger.names if n.startswith(f"{block}[") and n.endswith("].path")]
        specs = [_spec(ledger, name.removesuffix("path")) for name in paths]
        for i, name in enumerate(paths):
            if i == 0 and (setting == "dataset" or len(specs) == 1):
                data_sets(ledger, name, specs, setting)
            elif setting == "dataset":
                ledger.converted(name, {"dataset": ledger.settings["dataset"].value})
            else:
                ledger.not_supported(name, "eval_dataset is one data set")
        for name in [n for n in ledger.names if n.startswith(f"{block}[")]:
            _of_data(ledger, name)
    share = ledger.get("val_set_size")
    if isinstance(share, float) and 0 < share < 1:
        ledger.converted("val_set_size", {"held_out": share}, "held out by prompt")
    elif share:
        ledger.not_supported("val_set_size", "held_out: SHARE, such as 0.05, holds prompts out")
    elif ledger.has("val_set_size"):
        ledger.not_needed("val_set_size", "nothing is held out")


def _spec(ledger: Ledger, prefix: str) -> str:
    """A data set by file, or by Hub id with revision and split."""
    files = ledger.get(f"{prefix}data_files")
    files = files[0] if isinstance(files, list) and len(files) == 1 else files
    if isinstance(files, str):
        return files
    path, split = str(ledger.get(f"{prefix}path")), ledger.get(f"{prefix}split", "train")
    revision = ledger.get(f"{prefix}revision")
    pinned = f"{path}@{revision}" if revision else path
    is_file = path.startswith((".", "/")) or path.endswith((".json", ".jsonl", ".csv", ".parquet"))
    return path if is_file else pinned if split == "train" else f"{pinned}:{split}"


def _of_data(ledger: Ledger, name: str) -> None:
    own = name.rpartition(".")[2]
    value = ledger.get(name)
    if own in {"split", "revision", "ds_type", "data_files"}:
        several = own == "data_files" and isinstance(value, list) and len(value) > 1
        if several:
            ledger.not_supported(name, "name the files as dataset, one after the other")
        else:
            ledger.not_needed(name, "is part of dataset, or seen from the file")
    elif own == "type" and value == "chat_template.argilla":
        ledger.not_needed(name, "the columns are recognised: chosen and rejected conversations")
    elif own in {"type", "chat_template"}:
        ledger.not_supported(
            name,
            "columns are recognised: see what the model gets with `orpo data show DATASET --model "
            "MODEL`, and say --data_format NAME where they can be read in two ways",
        )
    else:
        ledger.not_supported(name, "columns are recognised by name: rename them in the file")


def _steps(ledger: Ledger) -> None:
    """Steps by epoch become shares of all steps, as Axolotl reckons them."""
    epochs = ledger.get("num_epochs", 1)
    for name, setting in (("evals_per_epoch", "eval"), ("saves_per_epoch", "save")):
        value = ledger.get(name)
        if isinstance(value, int | float) and value and isinstance(epochs, int | float):
            share = 1 / (value * epochs)
            settings: dict[str, Any] = {f"{setting}_strategy": "steps", f"{setting}_steps": share}
            if share >= 1:
                settings = {f"{setting}_strategy": "epoch"}
            ledger.converted(name, settings)
        elif ledger.has(name):
            ledger.not_needed(name, "is off")
    for setting in ("eval", "save"):
        if ledger.get(f"{setting}_steps") is not None:
            ledger.default(f"{setting}_steps is given", {f"{setting}_strategy": "steps"})
    if not any(ledger.get(n) for n in ("save_strategy", "save_steps")):
        ledger.default(_BUILDER, {"save_strategy": "epoch"})
    ledger.default(_BUILDER, {"save_total_limit": ledger.get("save_total_limit", 4)})
    if ledger.get("batch_size") is not None:
        total, part = ledger.get("batch_size"), ledger.get("micro_batch_size", 1)
        if isinstance(total, int) and isinstance(part, int) and part:
            ledger.converted("batch_size", {"gradient_accumulation_steps": total // part})
    if ledger.get("warmup_steps") == 1:
        ledger.converted("warmup_steps", {"warmup_steps": 2}, "Axolotl makes 1 to 2")


def _loggers(ledger: Ledger) -> None:
    flags = {"use_wandb": "wandb", "use_tensorboard": "tensorboard", "use_mlflow": "mlflow"}
    used = [logger for flag, logger in flags.items() if ledger.get(flag) is True]
    if ledger.get("wandb_project") and "wandb" not in used and not ledger.has("use_wandb"):
        used.append("wandb")
        ledger.default("wandb_project is given", {"report_to": used})
    for flag in flags:
        if ledger.get(flag) is True:
            ledger.converted(flag, {"report_to": used})
        elif ledger.has(flag):
            ledger.not_needed(flag, "is off")


def _template(ledger: Ledger) -> None:
    value = ledger.get("chat_template")
    if value == "tokenizer_default":
        ledger.not_needed("chat_template", "the tokenizer's own is used")
    elif isinstance(value, str | Computed):
        ledger.not_supported(
            "chat_template",
            f"{value} is Axolotl's own template, and the tokenizer's is used here: see `orpo data "
            "show DATASET --model MODEL`, or write another to a file, --chat_template FILE",
        )


def _lengths(ledger: Ledger) -> None:
    value = ledger.get("excess_length_strategy")
    if isinstance(value, str) and value.lower() in _STRATEGIES:
        ledger.converted("excess_length_strategy", {"truncation": _STRATEGIES[value.lower()]})
