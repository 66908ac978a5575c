"""Settings of ms-swift: swift rlhf --rlhf_type orpo, which is TRL's ORPOTrainer under it.

Facts from the sources of ms-swift 4.6.0: `trainers/arguments.py`, `arguments/*.py` for names and
defaults; `arguments/rlhf_args.py`: beta is the paper's lambda; `rlhf_trainers/rlhf_mixin.py`: the
labels stand in for the inputs where TRL computes the NLL, so that it counts answers only;
`template/base.py`: pairs longer than max_length are dropped unless truncation_strategy says
otherwise; `arguments/base_args/model_args.py`: mixed precision follows the dtype of the weights.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.migrate.ledger import FILL_IN, Computed, Ledger
from orpo.migrate.shared import adapter, carry_over, four_bits, listed, refuse_unless_off

__all__ = ["convert_ms_swift", "defaults_of_ms_swift"]

_SOURCE = "ms-swift's default (4.6.0, arguments)"
_PAIRS = 16
"""Pairs of an optimizer step where gradient_accumulation_steps is not given."""
_FROM_PYTHON = "train from Python: ORPOTrainer(peft_config=LoraConfig(...))"
_DEFAULTS = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "per_device_train_batch_size": 1,
    "num_train_epochs": 3,
    "orpo_alpha": 0.1,
    "orpo_beta": 1.0,
    "nll_scope": "completion",
    "max_length": None,
    "truncation": "drop",
    "gradient_checkpointing": True,
    "seed": 42,
}
_LORA = {
    "lora_r": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_target_modules": "all-linear",
}
_SAME = {
    "model": "model",
    "model_id_or_path": "model",
    "model_revision": "model_revision",
    "max_length": "max_length",
}
_TRUNCATIONS = {"delete": "drop", "left": "keep_end", "right": "truncate_answer"}
_NEEDLESS = {
    "rlhf_type": "ORPO is what orpo trains",
    "model_type": "transformers finds the class of the model",
    "tuner_backend": "adapters are peft's",
    "task_type": "is causal_lm",
    "dataset_shuffle": "the order is drawn by `seed`, anew in each epoch",
    "lazy_tokenize": "see data_cache",
    "use_logits_to_keep": "no logits are kept",
    "add_version": "the run folder is output_dir",
    "create_checkpoint_symlink": "`orpo doctor RUN` names the newest checkpoint that is sound",
    "check_model": "what was committed is verified",
    "acc_strategy": "rewards/accuracies is by pairs",
    "logging_first_step": "logging_steps decides it",
    "use_chat_template": "messages go through the tokenizer's chat template",
    "init_weights": "adapters begin as the identity",
    "lora_dtype": "peft decides it",
    "padding_free": "pairs are packed without mixing them",
    "ddp_backend": "torch chooses it",
    "metric": "preference metrics are always there",
    "max_new_tokens": "is for methods that generate",
    "temperature": "is for methods that generate",
    "max_completion_length": "is for methods that generate",
    "swift_version": "is no setting of the run",
    "strict": "on_bad_row decides what a malformed row does",
    "template_backend": "the tokenizer's own chat template is used",
    "ignore_args_error": "unknown settings are always named",
    "target_regex": "is empty",
    "freeze_vit": "there are no pictures",
    "freeze_aligner": "there are no pictures",
    "freeze_llm": "there are no pictures",
}
_REFUSED = {
    "template": "the tokenizer's own chat template is used: see it with `orpo data show DATASET "
    "--model MODEL`; another one goes into a Jinja file, --chat_template FILE",
    "system": "give the rows a column `system`",
    "columns": "rename the columns in the file",
    "streaming": "train from Python: ORPOTrainer takes streaming data sets",
    "interleave_prob": "mix: shares of several data sets, such as 3 1",
    "modules_to_save": _FROM_PYTHON,
    "target_parameters": _FROM_PYTHON,
    "lora_bias": _FROM_PYTHON,
    "lorap_lr_ratio": "train from Python: ORPOTrainer(optimizers=...)",
    "optimizer": "choose one of transformers: --optim NAME",
    "rope_scaling": "model_init_kwargs: {rope_parameters: ...} takes what transformers takes",
    "new_special_tokens": "add them to the tokenizer and save it, then name the folder: tokenizer",
    "sequence_parallel_size": "leave it out: a sequence stays on one device",
    "external_plugins": "leave it out: plugins are ms-swift's",
    "callbacks": "train from Python: ORPOTrainer(callbacks=...)",
    "early_stop_interval": "train from Python: callbacks=[EarlyStoppingCallback(...)]",
    "adapters": "name the adapter's folder as model",
    "enable_thinking": "chat_template_kwargs: {enable_thinking: false} if the template takes it",
    "quant_method": "model_init_kwargs: {quantization_config: ...} takes what transformers takes",
    "router_aux_loss_coef": "model_init_kwargs: {router_aux_loss_coef: ...}",
    "custom_dataset_info": "name the file or Hub id as dataset",
    "cached_dataset": "name the rows it was made of as dataset",
    "swanlab_token": "a secret is not written down: set SWANLAB_API_KEY",
    "device_map": "leave it out: the trainer places the model",
}


def convert_ms_swift(ledger: Ledger) -> None:
    """Apply ms-swift's rules; what stands on transformers is left to `shared.carry_over`.

    Raises:
        ConfigError: It is not ORPO that is trained.
    """
    if ledger.get("rlhf_type", "dpo") != "orpo":
        raise ConfigError(
            f"ORPO is `rlhf_type: orpo` there, and it is {ledger.get('rlhf_type', 'dpo')!r}",
            where=ledger.where("rlhf_type") if ledger.has("rlhf_type") else "rlhf_type",
            fix="Only runs of ORPO are converted.",
        )
    if ledger.get("beta") is not None:
        note = "lambda; there is no temperature in ms-swift"
        ledger.converted("beta", {"orpo_alpha": ledger.get("beta")}, note)
    _tuner(ledger)
    _precision(ledger)
    _quantised(ledger)
    _data(ledger)
    _scope(ledger)
    for name, setting in _SAME.items():
        if ledger.get(name) is not None:
            ledger.converted(name, {setting: ledger.get(name)})
    value = ledger.get("truncation_strategy")
    if value in _TRUNCATIONS:
        ledger.converted("truncation_strategy", {"truncation": _TRUNCATIONS[value]})
    if ledger.get("train_dataloader_shuffle") is False:
        order = {"train_sampling_strategy": "sequential"}
        ledger.converted("train_dataloader_shuffle", order)
    _batch(ledger)
    for name in ledger.names:
        if name in _REFUSED and ledger.get(name) is not None:
            refuse_unless_off(ledger, name, _REFUSED[name])
        elif name.startswith("swanlab_"):
            ledger.not_needed(name, "set SwanLab's own variables")
        elif name in _NEEDLESS:
            ledger.not_needed(name, _NEEDLESS[name])
    carry_over(ledger)


def defaults_of_ms_swift(ledger: Ledger) -> None:
    """What ms-swift does where nothing is said; it evaluates whenever it saves."""
    if ledger.settings.keys() & {"held_out", "eval_dataset"}:
        saving = ledger.settings.get("save_strategy")
        ledger.default(_SOURCE, {"eval_strategy": "steps" if saving is None else saving.value})
        every = ledger.settings.get("save_steps")
        ledger.default(_SOURCE, {"eval_steps": 500 if every is None else every.value})
    ledger.default(_SOURCE, _DEFAULTS)


def _tuner(ledger: Ledger) -> None:
    given = [n for n in ("tuner_type", "train_type", "sft_type") if ledger.get(n) is not None]
    kind = ledger.get(given[0]) if given else "lora"
    names = {
        "lora_r": "lora_rank",
        "lora_alpha": "lora_alpha",
        "lora_dropout": "lora_dropout",
        "lora_target_modules": "target_modules",
    }
    if kind == "lora":
        adapter(ledger, names, everything=("all-linear",), defaults=_LORA, source=_SOURCE)
    else:
        for name in names.values():
            if ledger.has(name):
                ledger.not_needed(name, "no adapter is trained")
    for name in given:
        if kind in {"lora", "full"}:
            ledger.not_needed(name, "lora_r decides whether an adapter is trained")
        else:
            ledger.not_supported(name, f"orpo trains the whole model or LoRA, no {kind!r}")
    if ledger.get("learning_rate") is None:
        ledger.default(_SOURCE, {"learning_rate": 1e-5 if kind == "full" else 1e-4})


def _precision(ledger: Ledger) -> None:
    """The weights' dtype decides the mixed precision, where that is not given itself."""
    name = next((n for n in ("torch_dtype", "dtype") if ledger.get(n) is not None), None)
    dtype = ledger.get(name) if name else None
    if name:
        ledger.converted(name, {"model_dtype": dtype})
    given = {n for n in ("bf16", "fp16") if ledger.get(n) is not None}
    half = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp16"}
    if not given and isinstance(dtype, str) and dtype in half:
        ledger.default(f"ms-swift follows {name}", {half[dtype]: True})
    elif not name:
        ledger.default("ms-swift reads config.json", {"model_dtype": "auto"})
        if not given:
            ledger.default("ms-swift does so for bfloat16 weights, as most are", {"bf16": True})


def _quantised(ledger: Ledger) -> None:
    names = [n for n in ledger.names if n.startswith(("quant_", "bnb_4bit_"))]
    if ledger.get("quant_bits") != 4 or ledger.get("quant_method", "bnb") != "bnb":
        return
    config = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": ledger.get("bnb_4bit_quant_type", "nf4"),
        "bnb_4bit_use_double_quant": bool(ledger.get("bnb_4bit_use_double_quant", True)),
        "bnb_4bit_compute_dtype": ledger.get("bnb_4bit_compute_dtype", "bfloat16"),
    }
    four_bits(ledger, names, config)


def _data(ledger: Ledger) -> None:
    for name, setting in (("dataset", "dataset"), ("val_dataset", "eval_dataset")):
        value = ledger.get(name)
        if value is None:
            continue
        specs = [value] if isinstance(value, Computed) else listed(value)
        sampled = next((s for s in specs if isinstance(s, str) and "#" in s), None)
        if sampled is not None:
            ledger.default(f"of {sampled} a part is drawn: cut the file", {setting: FILL_IN})
            ledger.not_supported(name, f"of {sampled} a part is drawn: cut the file, and name it")
        elif setting == "eval_dataset" and len(specs) > 1:
            ledger.not_supported(name, "eval_dataset is one data set")
        else:
            named = [s if isinstance(s, Computed) else s.removeprefix("hf::") for s in specs]
            one: Any = named[0] if len(named) == 1 else named
            ledger.converted(name, {setting: one}, _hub(ledger, specs))
    share = ledger.get("split_dataset_ratio")
    if isinstance(share, float) and 0 < share < 1:
        ledger.converted("split_dataset_ratio", {"held_out": share}, "held out by prompt")
    elif share is not None:
        ledger.not_needed("split_dataset_ratio", "nothing is held out")
    if ledger.has("use_hf"):
        ledger.not_needed("use_hf", "ids are those of the Hugging Face Hub")


def _hub(ledger: Ledger, specs: list[Any]) -> str:
    """Ids are ModelScope's unless something else is said."""
    ids = [s for s in specs if isinstance(s, str) and not Path(s).suffix and "/" in s]
    foreign = [s for s in ids if not s.startswith("hf::")]
    if foreign and ledger.get("use_hf") is not True:
        return "an id of ModelScope there: see that the Hugging Face Hub has it"
    return ""


def _scope(ledger: Ledger) -> None:
    value = ledger.get("loss_scale")
    if isinstance(value, str) and value.split("+")[0] in {"default", "last_round"}:
        ledger.converted("loss_scale", {"nll_scope": "completion"})
    elif value is not None:
        instead = "leave it out: answers count in both terms; nll_scope adds the prompt to the NLL"
        ledger.not_supported("loss_scale", instead)


def _batch(ledger: Ledger) -> None:
    """Without gradient_accumulation_steps a step has at least sixteen pairs, over all ranks."""
    if ledger.get("num_epochs") is not None:
        ledger.converted("num_epochs", {"num_train_epochs": ledger.get("num_epochs")})
    if ledger.get("max_epochs") is not None:
        ledger.converted("max_epochs", {"num_train_epochs": ledger.get("max_epochs")})
    if ledger.get("batch_size") is not None:
        ledger.converted("batch_size", {"per_device_train_batch_size": ledger.get("batch_size")})
    if ledger.get("gradient_accumulation_steps") is not None:
        return
    size = ledger.get("per_device_train_batch_size", 1)
    ranks = ledger.get("env.NPROC_PER_NODE", 1)
    if isinstance(size, int) and isinstance(ranks, int) and size > 0 and ranks > 0:
        steps = max(1, math.ceil(_PAIRS / size / ranks))
        ledger.default(f"{_SOURCE}: {_PAIRS} pairs", {"gradient_accumulation_steps": steps})
