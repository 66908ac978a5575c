"""Settings of LLaMA-Factory: stage dpo with pref_loss orpo.

Facts from the sources of llamafactory 0.9.5: `hparams/*_args.py` for names and defaults;
`train/dpo/trainer.py`: pref_beta is the paper's lambda, the NLL is the mean over the chosen answer,
then over pairs, and every dropout is off; `data/processor/processor_utils.py`: an over-long pair
loses the end of its prompt, of its answers, or of both; `model/adapter.py`: what is trained is
trained in float32 unless pure_bf16; `model/model_utils/checkpointing.py`: gradient checkpointing
is on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.migrate.ledger import Computed, Ledger
from orpo.migrate.shared import (
    adapter,
    carry_over,
    data_sets,
    four_bits,
    listed,
    refuse_unless_off,
)
from orpo.runs import read_json

__all__ = ["convert_llama_factory", "defaults_of_llama_factory"]

_SOURCE = "LLaMA-Factory's default (0.9.5, hparams)"
_FROM_PYTHON = "train from Python: ORPOTrainer(peft_config=LoraConfig(...))"
_DEFAULTS = {
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "orpo_alpha": 0.1,
    "orpo_beta": 1.0,
    "nll_scope": "completion",
    "max_length": 2048,
    "truncation": "keep_start",
    "gradient_checkpointing": True,
}
_LORA = {"lora_r": 8, "lora_dropout": 0.0, "lora_target_modules": "all-linear"}
_SAME = {
    "model_name_or_path": "model",
    "adapter_name_or_path": "model",
    "model_revision": "model_revision",
    "trust_remote_code": "trust_remote_code",
    "cutoff_len": "max_length",
}
_NEEDLESS = {
    "stage": "ORPO is what orpo trains",
    "pref_loss": "ORPO is what orpo trains",
    "finetuning_type": "lora_r decides whether an adapter is trained",
    "dataset_dir": "dataset names files and Hub ids",
    "use_reentrant_gc": "checkpointing does not change the numbers",
    "upcast_layernorm": "autocast decides it",
    "upcast_lmhead_output": "the loss is computed in float32",
    "ignore_pad_token_for_loss": "padding never counts",
    "preprocessing_batch_size": "rows are tokenised in batches",
    "neat_packing": "pairs are packed without mixing them",
    "compute_accuracy": "rewards/accuracies is always there",
    "include_effective_tokens_per_second": "tokens_per_second is always there",
    "print_param_status": "is no setting of a run",
    "cache_dir": "set HF_HOME",
    "use_swanlab": "report_to names loggers",
    "tokenized_path": "see data_cache",
    "mask_history": "only the last answer counts",
}
_REFUSED = {
    "template": "the tokenizer's own chat template is used: see it with `orpo data show DATASET "
    "--model MODEL`; another one goes into a Jinja file, --chat_template FILE",
    "max_samples": "cut the file: head -n N",
    "interleave_probs": "mix: shares of several data sets, such as 3 1",
    "mix_strategy": "mix: shares of several data sets, such as 3 1",
    "streaming": "train from Python: ORPOTrainer takes streaming data sets",
    "additional_target": _FROM_PYTHON,
    "pissa_init": _FROM_PYTHON,
    "loraplus_lr_ratio": "train from Python: ORPOTrainer(optimizers=...)",
    "default_system": "give the rows a column `system`",
    "enable_thinking": "chat_template_kwargs: {enable_thinking: false} if the template takes it",
    "train_on_prompt": "nll_scope: sequence counts the prompt's tokens in the NLL",
    "pref_ftx": "leave it out: it adds the NLL once more, which ORPO has already",
    "pref_bco_weight": "leave it out: it is no part of ORPO",
    "dpo_label_smoothing": "leave it out: LLaMA-Factory refuses it with orpo as well",
    "rope_scaling": "model_init_kwargs: {rope_parameters: ...} takes what transformers takes",
    "resize_vocab": "resize the model's embeddings and save it, then name the folder",
    "add_tokens": "add them to the tokenizer and save it, then name the folder: tokenizer",
    "early_stopping_steps": "train from Python: callbacks=[EarlyStoppingCallback(...)]",
    "shift_attn": "leave it out: attention is exact",
    "moe_aux_loss_coef": "model_init_kwargs: {router_aux_loss_coef: ...}",
    "use_galore": "leave it out, or choose a GaLore optimizer of transformers: --optim",
    "use_badam": "leave it out: BAdam is no optimizer of transformers",
    "use_adam_mini": "leave it out: Adam-mini is no optimizer of transformers",
    "create_new_adapter": "merge the adapter first, `orpo merge`, and train the result",
    "eval_on_each_dataset": "eval_dataset is one data set",
}


def convert_llama_factory(ledger: Ledger) -> None:
    """Apply LLaMA-Factory's rules; what stands on transformers is left to `shared.carry_over`.

    Raises:
        ConfigError: It is not ORPO that is trained.
    """
    _require_orpo(ledger)
    dtype = _dtype(ledger)
    if ledger.get("pref_beta") is not None:
        note = "lambda; there is no temperature in LLaMA-Factory"
        ledger.converted("pref_beta", {"orpo_alpha": ledger.get("pref_beta")}, note)
    _quantised(ledger)
    _adapter(ledger)
    _data(ledger)
    for name, setting in _SAME.items():
        if ledger.get(name) is not None:
            ledger.converted(name, {setting: ledger.get(name)})
    if ledger.get("disable_gradient_checkpointing") is not None:
        off = ledger.get("disable_gradient_checkpointing")
        ledger.converted("disable_gradient_checkpointing", {"gradient_checkpointing": not off})
    if ledger.get("disable_shuffling") is not None:
        order = "sequential" if ledger.get("disable_shuffling") is True else "random"
        ledger.converted("disable_shuffling", {"train_sampling_strategy": order})
    for name in ledger.names:
        if name in _REFUSED and ledger.get(name) is not None:
            refuse_unless_off(ledger, name, _REFUSED[name])
        elif name in _NEEDLESS:
            ledger.not_needed(name, _NEEDLESS[name])
    carry_over(ledger)
    ledger.default(*dtype)


def defaults_of_llama_factory(ledger: Ledger) -> None:
    """What LLaMA-Factory does where nothing is said."""
    ledger.default(_SOURCE, _DEFAULTS)


def _require_orpo(ledger: Ledger) -> None:
    for name, needed in (("stage", "dpo"), ("pref_loss", "orpo")):
        value = ledger.get(name)
        if value != needed:
            raise ConfigError(
                f"ORPO is `{name}: {needed}` there, and it is {value!r}",
                where=ledger.where(name) if ledger.has(name) else name,
                fix="Only runs of ORPO are converted.",
            )


def _dtype(ledger: Ledger) -> tuple[str, dict[str, Any]]:
    """Weights that are trained are in float32, frozen ones in the dtype of the computation."""
    pure = ledger.get("pure_bf16") is True
    trained = ledger.get("finetuning_type", "lora") == "full"
    half = {"bf16": "bfloat16", "fp16": "float16"}
    asked = next((half[name] for name in half if ledger.get(name) is True), "auto")
    dtype = "bfloat16" if pure else "float32" if trained else asked
    if ledger.has("pure_bf16"):
        ledger.converted("pure_bf16", {"model_dtype": dtype})
    return "LLaMA-Factory's way (0.9.5, model/adapter.py)", {"model_dtype": dtype}


def _adapter(ledger: Ledger) -> None:
    kind = ledger.get("finetuning_type", "lora")
    names = {
        "lora_r": "lora_rank",
        "lora_alpha": "lora_alpha",
        "lora_dropout": "lora_dropout",
        "lora_target_modules": "lora_target",
    }
    if kind == "lora":
        rank = ledger.get("lora_rank", _LORA["lora_r"])
        alpha = {"lora_alpha": 2 * rank} if isinstance(rank, int) else {}
        adapter(ledger, names, everything=("all",), defaults={**_LORA, **alpha}, source=_SOURCE)
        return
    for name in names.values():
        if ledger.has(name):
            ledger.not_needed(name, "no adapter is trained")
    if kind != "full":
        instead = f"orpo trains the whole model or a LoRA adapter, no {kind!r}: {_FROM_PYTHON}"
        ledger.not_supported("finetuning_type", instead)


def _quantised(ledger: Ledger) -> None:
    names = ("quantization_bit", "quantization_type", "double_quantization", "quantization_method")
    bits = ledger.get("quantization_bit")
    given = [name for name in names if ledger.has(name)]
    if not given:
        return
    if bits == 4 and ledger.get("quantization_method", "bnb") in {"bnb", "bitsandbytes"}:
        four_bits(
            ledger,
            given,
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": ledger.get("quantization_type", "nf4"),
                "bnb_4bit_use_double_quant": bool(ledger.get("double_quantization", True)),
                "bnb_4bit_compute_dtype": "bfloat16",
            },
        )
        return
    for name in given:
        instead = "model_init_kwargs: {quantization_config: ...} takes what transformers takes"
        refuse_unless_off(ledger, name, instead)


def _data(ledger: Ledger) -> None:
    registry, where = _registry(ledger)
    for name in ("dataset", "eval_dataset"):
        value = ledger.get(name)
        if value is None:
            continue
        if isinstance(value, Computed):
            ledger.converted(name, {name: value})
            continue
        specs = [_located(spec, registry, where) for spec in listed(value)]
        if all(specs):
            data_sets(ledger, name, [spec or "" for spec in specs], name)
        else:
            unknown = ", ".join(
                s for s, found in zip(listed(value), specs, strict=True) if not found
            )
            ledger.default(
                f"a name in {where.name}: put the file or Hub id here", {name: listed(value)[0]}
            )
            ledger.not_supported(
                name,
                f"{unknown} is a name in {where}, which is not there or says more than a file or "
                f"Hub id: put that into the recipe as {name}",
            )
    share = ledger.get("val_size")
    if isinstance(share, float) and share < 1:
        ledger.converted("val_size", {"held_out": share}, "held out by prompt")
    elif share:
        ledger.not_supported("val_size", "held_out: SHARE, such as 0.05, holds prompts out")
    elif share == 0:
        ledger.not_needed("val_size", "is 0: nothing is held out")


def _registry(ledger: Ledger) -> tuple[dict[str, Any], Path]:
    """What the names of data sets stand for, where the file that says it is there."""
    folder = ledger.get("dataset_dir", "data")
    path = Path(folder if isinstance(folder, str) else "data") / "dataset_info.json"
    if not path.is_file():
        return {}, path
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path)) from error
    return (found if isinstance(found, dict) else {}), path


def _located(name: str, registry: dict[str, Any], path: Path) -> str | None:
    """The file or Hub id of a data set whose columns orpo knows; None if more would be needed."""
    entry = registry.get(name)
    if not isinstance(entry, dict) or not entry.get("ranking"):
        return None
    columns = {v for v in (entry.get("columns") or {}).values() if isinstance(v, str)}
    usual = {"instruction", "input", "prompt", "chosen", "rejected", "conversations", "system"}
    if columns - usual or entry.keys() & {"subset", "num_samples", "folder", "tags"}:
        return None
    if isinstance(entry.get("file_name"), str):
        return str(path.parent / entry["file_name"])
    split = entry.get("split", "train")
    hub = entry.get("hf_hub_url")
    return hub if split == "train" or hub is None else f"{hub}:{split}"
