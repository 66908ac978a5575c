"""Settings of TRL's ORPOTrainer (trl.experimental.orpo), from a script, a command or YAML.

Facts from the sources of trl 1.16.0, `experimental/orpo/orpo_config.py` and `orpo_trainer.py`: lr
1e-6, and beta is the paper's lambda, without temperature; each answer is cut on its own to what
the prompt leaves of max_length, None meaning 512; bf16 and gradient checkpointing are on; the
NLL is over prompt and chosen answer, and every dropout is off, that of LoRA included.
"""

from __future__ import annotations

from typing import Any

from orpo.errors import ConfigError
from orpo.migrate.ledger import Computed, Ledger
from orpo.migrate.shared import adapter, data_sets, four_bits, listed, refuse_unless_off

__all__ = ["convert_trl", "defaults_of_trl"]

_SOURCE = "TRL's default (1.16.0, orpo_config.py)"
_PEFT = "peft's default (LoraConfig)"
_MODEL_CONFIG = "TRL's default (1.16.0, model_config.py)"
_TARGETS = "q_proj,v_proj"
_SAME = ("max_length", "disable_dropout", "trust_remote_code", "model_init_kwargs", "tokenizer")
_DEFAULTS = {
    "learning_rate": 1e-6,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "orpo_alpha": 0.1,
    "orpo_beta": 1.0,
    "nll_scope": "sequence",
    "max_length": 1024,
    "truncation": "truncate_answer",
    "gradient_checkpointing": True,
    "logging_steps": 10,
}
_SWITCHES = {"gradient_checkpointing", "disable_dropout", "bf16", "dataloader_pin_memory"}
"""Settings that are on in TRL."""
_NEEDLESS = {
    "max_completion_length": "is for encoder-decoder models",
    "is_encoder_decoder": "orpo trains decoders",
    "generate_during_eval": "held-out prompts are answered before and after (`samples`)",
    "label_pad_token_id": "is no setting here: labels are never padded",
    "truncation_mode": "decides nothing without max_prompt_length",
    "dataset_train_split": "is `train`",
    "dataset_test_split": "without an evaluation nothing is read from it",
    "use_peft": "an adapter is trained where lora_r is given",
    "lora_task_type": "is CAUSAL_LM",
    "LoraConfig.task_type": "is CAUSAL_LM",
    "LoraConfig.inference_mode": "is off in training",
    "from_pretrained.use_cache": "is off in training",
    "from_pretrained.device_map": "the trainer places the model",
    "from_pretrained.attn_implementation": "the engine chooses its attention",
    "from_pretrained.low_cpu_mem_usage": "transformers decides it",
    "tokenizer.use_fast": "transformers decides it",
    "tokenizer.padding_side": "nothing is padded, or it is masked",
    "tokenizer.trust_remote_code": "trust_remote_code of the model is for both",
    "prepare_model_for_kbit_training": "is done for a model in four bits",
    "dataset.shuffle": "the order is drawn by `seed`, anew in each epoch",
    "ignore_bias_buffers": "is a detail of TRL's DDP",
}
_REFUSED = {
    "LoraConfig.use_rslora": "train from Python: ORPOTrainer(peft_config=LoraConfig(...))",
    "LoraConfig.use_dora": "train from Python: ORPOTrainer(peft_config=LoraConfig(...))",
    "LoraConfig.modules_to_save": "train from Python: ORPOTrainer(peft_config=LoraConfig(...))",
    "lora_modules_to_save": "train from Python: ORPOTrainer(peft_config=LoraConfig(...))",
    "lora_target_parameters": "train from Python: ORPOTrainer(peft_config=LoraConfig(...))",
    "LoraConfig.bias": "train from Python: ORPOTrainer(peft_config=LoraConfig(...))",
    "get_peft_model": "leave it out: lora_r makes the adapter",
    "dataset_config": "load this configuration and save it to a file, then name that",
    "dataset_streaming": "train from Python: ORPOTrainer takes streaming data sets",
    "tokenizer.chat_template": "write the template to a file: --chat_template FILE",
    "dataset.map": "rows are changed by code: write the changed rows to a .jsonl and name that",
    "dataset.filter": "rows are left out by code: write the rest to a .jsonl and name that",
    "dataset.select": "rows are chosen by code: write them to a .jsonl and name that",
    "dataset.train_test_split": "held_out: SHARE holds prompts out",
    "dataset.rename_column": "write the renamed rows to a .jsonl and name that",
    "ORPOTrainer.callbacks": "train from Python: ORPOTrainer(callbacks=...)",
    "ORPOTrainer.optimizers": "train from Python: ORPOTrainer(optimizers=...)",
    "ORPOTrainer.compute_metrics": "train from Python: ORPOTrainer(compute_metrics=...)",
    "ORPOTrainer.data_collator": "leave it out: orpo makes its own batches",
    "dataset": "give the file or Hub id as dataset",
}


def convert_trl(ledger: Ledger) -> None:
    """Apply TRL's rules; what stands on transformers is left to `shared.carry_over`."""
    _parser(ledger)
    _switched_off(ledger)
    _strength(ledger)
    _model(ledger)
    _quantised(ledger)
    _lora(ledger)
    _data(ledger)
    _precision(ledger)
    if ledger.has("max_length") and ledger.get("max_length") is None:
        ledger.converted("max_length", {"max_length": 512}, "which None means there")
    if ledger.has("max_prompt_length"):
        _prompt_length(ledger)
    for name in _SAME:
        if ledger.get(name) is not None:
            ledger.converted(name, {name: ledger.get(name)})
    for name in ledger.names:
        if name in _NEEDLESS:
            ledger.not_needed(name, _NEEDLESS[name])
        elif name in _REFUSED and ledger.get(name) is not None:
            refuse_unless_off(ledger, name, _REFUSED[name])


def defaults_of_trl(ledger: Ledger) -> None:
    """What TRL does where nothing is said, once all keys are settled."""
    ledger.default(_SOURCE, _DEFAULTS)


def _switched_off(ledger: Ledger) -> None:
    """`--no_gradient_checkpointing` switches off what is on, as HfArgumentParser has it."""
    for name in ledger.names:
        if name.startswith("no_") and ledger.get(name) is True:
            if name[3:] in _SWITCHES:
                ledger.converted(name, {name[3:]: False})
            else:
                ledger.not_needed(name, f"{name[3:]} has nothing to decide here")


def _parser(ledger: Ledger) -> None:
    """A script that parses its settings says nothing of them itself."""
    if not ledger.has("HfArgumentParser"):
        return
    if not {*ledger.names} & {"learning_rate", "output_dir", "beta"}:
        raise ConfigError(
            "takes its settings from the command line",
            where=ledger.where("HfArgumentParser"),
            fix="Give the command (.sh) or the YAML as well: orpo convert-config SCRIPT COMMAND.sh",
        )
    ledger.not_needed("HfArgumentParser", "the other file gives what it parses")


def _strength(ledger: Ledger) -> None:
    if ledger.has("beta"):
        value = ledger.get("beta")
        ledger.converted("beta", {"orpo_alpha": value}, "lambda; there is no temperature in TRL")


def _model(ledger: Ledger) -> None:
    script = ledger.has("ORPOTrainer.model") or any("from_pretrained" in n for n in ledger.names)
    if ledger.get("model_name_or_path") is not None:
        ledger.converted("model_name_or_path", {"model": ledger.get("model_name_or_path")})
    for prefix in ("", "from_pretrained."):
        for name in ("dtype", "torch_dtype"):
            if ledger.get(prefix + name) is not None:
                ledger.converted(prefix + name, {"model_dtype": ledger.get(prefix + name)})
        for name in ("model_revision", "revision"):
            if ledger.get(prefix + name) is not None:
                ledger.converted(prefix + name, {"model_revision": ledger.get(prefix + name)})
    name = "from_pretrained.trust_remote_code"
    if ledger.has(name):
        ledger.converted(name, {"trust_remote_code": ledger.get(name)})
    if script or ledger.has("LoraConfig.r"):
        ledger.default("transformers 5 keeps the checkpoint's dtype", {"model_dtype": "auto"})


def _quantised(ledger: Ledger) -> None:
    prefix = "BitsAndBytesConfig."
    of_script = [name for name in ledger.names if name.startswith(prefix)]
    if of_script and ledger.get(f"{prefix}load_in_4bit") is True:
        given = {name.removeprefix(prefix): ledger.get(name) for name in of_script}
        computed = any(isinstance(value, Computed) for value in given.values())
        if not computed:
            first = f"{prefix}load_in_4bit"
            four_bits(ledger, [first, *(n for n in of_script if n != first)], given)
            if ledger.has("from_pretrained.quantization_config"):
                ledger.not_needed("from_pretrained.quantization_config", "see BitsAndBytesConfig")
            return
    if ledger.get("load_in_4bit") is True:
        names = [n for n in ("bnb_4bit_quant_type", "use_bnb_nested_quant") if ledger.has(n)]
        four_bits(
            ledger,
            ["load_in_4bit", *names],
            {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": ledger.get("bnb_4bit_quant_type", "nf4"),
                "bnb_4bit_use_double_quant": bool(ledger.get("use_bnb_nested_quant", False)),
                "bnb_4bit_compute_dtype": "bfloat16",
            },
        )
    for name in ledger.names:
        if name.startswith(prefix) or name in {"load_in_4bit", "load_in_8bit"}:
            instead = "model_init_kwargs: {quantization_config: ...} takes what transformers takes"
            refuse_unless_off(ledger, name, instead)


def _lora(ledger: Ledger) -> None:
    if any(name.startswith("LoraConfig.") for name in ledger.names):
        names = {
            "lora_r": "LoraConfig.r",
            "lora_alpha": "LoraConfig.lora_alpha",
            "lora_dropout": "LoraConfig.lora_dropout",
            "lora_target_modules": "LoraConfig.target_modules",
        }
        if ledger.get("LoraConfig.bias") == "none":
            ledger.not_needed("LoraConfig.bias", "biases are not trained")
        defaults: dict[str, Any] = {"lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
        _with_targets(ledger, names, defaults, _PEFT)
    elif ledger.get("use_peft") is True:
        names = {n: n for n in ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")}
        _with_targets(
            ledger, names, {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05}, _MODEL_CONFIG
        )
    else:
        for name in ledger.names:
            if name.startswith("lora_"):
                ledger.not_needed(name, "use_peft is off: the whole model is trained")


def _with_targets(
    ledger: Ledger, names: dict[str, str], defaults: dict[str, Any], source: str
) -> None:
    adapter(ledger, names, everything=("all-linear",), defaults=defaults, source=source)
    ledger.default(
        "peft's own choice for Llama, Mistral and Qwen; look it up for other models",
        {"lora_target_modules": _TARGETS},
    )


def _data(ledger: Ledger) -> None:
    for name, setting in (("train_dataset", "dataset"), ("eval_dataset", "eval_dataset")):
        value = ledger.get(name)
        if value is not None:
            specs: list[Any] = [value] if isinstance(value, Computed) else listed(value)
            data_sets(ledger, name, specs, setting)
    name = "dataset_name" if ledger.has("dataset_name") else "dataset"
    value = ledger.get(name)
    if isinstance(value, Computed | str):
        split = ledger.get("dataset_train_split", "train")
        train = value if isinstance(value, Computed) or split == "train" else f"{value}:{split}"
        ledger.converted(name, {"dataset": train})
        if ledger.has("dataset_train_split"):
            ledger.not_needed("dataset_train_split", "is part of dataset")
        evaluated = ledger.get("eval_strategy", "no") not in {"no", False}
        if evaluated and isinstance(value, str):
            spec = f"{value}:{ledger.get('dataset_test_split', 'test')}"
            ledger.default("the split that TRL evaluates", {"eval_dataset": spec})


def _precision(ledger: Ledger) -> None:
    """TRL switches bf16 on unless fp16 is asked for, or bf16 is switched off."""
    fp16 = ledger.get("fp16") is True or ledger.get("accelerate.mixed_precision") == "fp16"
    if not fp16 and ledger.get("bf16") is None and "bf16" not in ledger.settings:
        ledger.default(_SOURCE, {"bf16": True})


def _prompt_length(ledger: Ledger) -> None:
    """Before TRL's pull requests 4966 and 5378 (2026) a long prompt was cut to this first."""
    mode = ledger.get("truncation_mode", "keep_end")
    value = ledger.get("max_prompt_length")
    if value is None or mode not in {"keep_end", "keep_start"}:
        return
    note = f"older TRL, which cuts the prompt of a pair that is too long: {mode}"
    settings = {"max_prompt_length": value, "truncation": mode}
    ledger.converted("max_prompt_length", settings, note)
    if ledger.has("truncation_mode"):
        ledger.not_needed("truncation_mode", "is part of truncation")
