"""What is more than another name in the settings of TRL, LLaMA-Factory, Axolotl and ms-swift.

One function for each: it takes the keys that need more than a table, and returns what is done when
all keys are settled. Facts are from the sources of the releases that `tables.yaml` names;
docs/migrate.md says from which files, and what differs in the numbers.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.migrate import rules
from orpo.migrate.ledger import FILL_IN, Ledger
from orpo.runs.reading import read_json

_BY_RANK = "lora_r decides whether an adapter is trained"
_PART = "{} is a part of a data set: write its rows to a file and name that"


def require_orpo(ledger: Ledger, peer: str) -> None:
    """Make sure that it is ORPO that is trained."""
    for name, needed in rules.PEERS[peer].get("required", {}).items():
        value = ledger.get(name, "dpo" if peer == "ms-swift" else None)
        if value != needed:
            raise ConfigError(
                f"ORPO is `{name}: {needed}` there, and it is {value!r}",
                where=ledger.where(name),
                fix="Only runs of ORPO are converted.",
            )


def settle(ledger: Ledger, peer: str, known: rules.Known) -> Callable[[], None]:
    """Settle every key of a trainer that has a rule; `known` as in `known_to_transformers`.

    What is returned writes down what the trainer does itself, when the other keys are settled too.
    """
    table = rules.PEERS[peer]
    first, *others = ledger.given(*table["strength"]) or [""]
    for name in others:
        ledger.not_needed(name, f"{first} counts there")
    note = f"lambda; there is no temperature in {table['called']}"
    ledger.converted(first, {"orpo_alpha": ledger.get(first)}, note)
    special = _SPECIAL[peer](ledger, table["source"])
    for name in ledger.given(*table.get("chosen", {})):
        rules.choose(ledger, name, table["chosen"][name], known)
    for name in ledger.given(*table["renamed"]):
        ledger.converted(name, {table["renamed"][name]: ledger.get(name)})
    rules.from_table(ledger, table)
    rules.of_accelerate(ledger)
    rules.carry_over(ledger, known)

    def finish() -> None:
        special()
        ledger.default(table["source"], table["defaults"])
        ledger.keep_small_updates()

    return finish


def _trl(ledger: Ledger, source: str) -> Callable[[], None]:
    # `--no_gradient_checkpointing` switches off what is on, as HfArgumentParser has it.
    on = ("gradient_checkpointing", "disable_dropout", "bf16", "dataloader_pin_memory")
    for name in [n for n in ledger.names if n.startswith("no_") and ledger.get(n) is True]:
        if name[3:] in on:
            ledger.converted(name, {name[3:]: False})
        ledger.not_needed(name, f"{name[3:]} has nothing to decide here")
    if ledger.get("load_in_4bit") is True:
        kind, double = ledger.get("bnb_4bit_quant_type", "nf4"), ledger.get("use_bnb_nested_quant")
        bits = ("load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant")
        rules.four_bits(ledger, bits, kind, bool(double))
    for name in ("load_in_4bit", "load_in_8bit"):
        ledger.refuse_unless_off(name, rules.KWARGS)
    if ledger.get("use_peft") is True:
        defaults = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
        names = {name: name for name in rules.LORA}
        rules.adapter(ledger, names, defaults, "TRL's default (1.16.0, model_config.py)")
        ledger.default(rules.TARGETS, {"lora_target_modules": "q_proj,v_proj"})
    else:
        for name in [n for n in ledger.names if n.startswith("lora_")]:
            ledger.not_needed(name, "use_peft is off: the whole model is trained")
    _data_of_trl(ledger)
    fp16 = ledger.get("fp16") is True or ledger.get("accelerate.mixed_precision") == "fp16"
    if not fp16 and not ledger.given("bf16") and "bf16" not in ledger.settings:
        ledger.default(source, {"bf16": True})
    if not ledger.given("max_length"):
        ledger.converted("max_length", {"max_length": 512}, "which None means there")
    # Before TRL's pull requests 4966 and 5378 (2026) a long prompt was cut to this first.
    mode, value = ledger.get("truncation_mode", "keep_end"), ledger.get("max_prompt_length")
    if value is not None and mode in ("keep_end", "keep_start"):
        note = f"older TRL, which cuts the prompt of a pair that is too long: {mode}"
        settings = {"max_prompt_length": value, "truncation": mode}
        ledger.converted("max_prompt_length", settings, note)
        ledger.not_needed("truncation_mode", "is part of truncation")
    return lambda: None


def _data_of_trl(ledger: Ledger) -> None:
    name = "dataset_name" if ledger.has("dataset_name") else "dataset"
    value, split = ledger.get(name), ledger.get("dataset_train_split", "train")
    rules.data_sets(ledger, "train_dataset", rules.listed(ledger.get("train_dataset")), "dataset")
    if any(one.startswith("datasets[") for one in ledger.names):
        _entries(ledger, "datasets", "dataset")
        ledger.not_needed(name, "datasets count there")
    elif isinstance(value, str):
        wrong = rules.cut_out(value, split)
        if wrong:
            rules.fill_in(ledger, name, wrong, "dataset")
            ledger.not_supported("dataset_train_split", wrong)
        ledger.converted(name, {"dataset": value if split == "train" else f"{value}:{split}"})
        ledger.not_needed("dataset_train_split", "is part of dataset")
    if ledger.given("eval_dataset"):
        given = rules.listed(ledger.get("eval_dataset"))
        rules.data_sets(ledger, "eval_dataset", given, "eval_dataset")
    if ledger.given("test_split_size"):
        ledger.not_needed("dataset_test_split", "is what is held out")
        rules.held_out(ledger, "test_split_size", "nothing is held out")
    when = ledger.get("eval_strategy", ledger.get("evaluation_strategy", "no"))
    found = {"eval_dataset", "held_out"} & ledger.settings.keys()
    if isinstance(value, str) and when not in ("no", False) and not found:
        split, name = ledger.get("dataset_test_split", "test"), "dataset_test_split"
        if rules.cut_out(value, "["):
            why = f"{split} of {value} is evaluated there: name the file of its rows"
            rules.fill_in(ledger, name, why, "eval_dataset")
        rules.data_sets(ledger, name, [f"{value}:{split}"], "eval_dataset")
        ledger.default("the split that TRL evaluates", {"eval_dataset": f"{value}:{split}"})


def _llama_factory(ledger: Ledger, source: str) -> Callable[[], None]:
    # Weights that are trained are in float32, frozen ones in the dtype of the computation.
    kind = ledger.get("finetuning_type", "lora")
    half = {"bf16": "bfloat16", "fp16": "float16"}
    asked = next((half[name] for name in half if ledger.get(name) is True), "auto")
    pure = ledger.get("pure_bf16") is True
    dtype = {"model_dtype": "bfloat16" if pure else "float32" if kind == "full" else asked}
    ledger.converted("pure_bf16", dtype)
    bits = ("quantization_bit", "quantization_type", "double_quantization", "quantization_method")
    if ledger.get(bits[0]) == 4 and ledger.get(bits[3], "bnb") in ("bnb", "bitsandbytes"):
        double = bool(ledger.get("double_quantization", True))
        rules.four_bits(ledger, bits, ledger.get("quantization_type", "nf4"), double)
    for name in bits:
        ledger.refuse_unless_off(name, rules.KWARGS)
    names, rank = {**rules.LORA, "lora_target_modules": "lora_target"}, ledger.get("lora_rank", 8)
    if kind == "lora":
        defaults = {"lora_r": 8, "lora_dropout": 0.0, "lora_target_modules": "all-linear"}
        alpha = {"lora_alpha": 2 * rank} if isinstance(rank, int) else {}
        rules.adapter(ledger, names, {**defaults, **alpha}, source)
    else:
        rules.no_adapter(ledger, names.values())
    if kind not in ("lora", "full"):
        python = "train from Python: ORPOTrainer(peft_config=LoraConfig(...))"
        instead = f"orpo trains the whole model or a LoRA adapter, no {kind!r}: {python}"
        ledger.not_supported("finetuning_type", instead)
    _data_of_llama_factory(ledger)
    for name in ledger.given("disable_gradient_checkpointing"):
        ledger.converted(name, {"gradient_checkpointing": not ledger.get(name)})
    for name in ledger.given("disable_shuffling"):
        order = "sequential" if ledger.get(name) is True else "random"
        ledger.converted(name, {"train_sampling_strategy": order})
    return lambda: ledger.default("LLaMA-Factory's way (0.9.5, model/adapter.py)", dtype)


def _data_of_llama_factory(ledger: Ledger) -> None:
    folder = ledger.get("dataset_dir", "data")
    where = Path(folder if isinstance(folder, str) else "data") / "dataset_info.json"
    registry = read_json(where) if where.is_file() else {}
    entries = registry if isinstance(registry, dict) else {}
    for name in ("dataset", "eval_dataset"):
        specs = {n: _located(entries.get(n), where) for n in rules.listed(ledger.get(name))}
        unknown = ", ".join(one for one, spec in specs.items() if not spec)
        if specs and not unknown:
            rules.data_sets(ledger, name, [str(spec) for spec in specs.values()], name)
        elif specs:
            why = f"{unknown} is a name in {where}, which is not there or says more than a file or "
            why += f"Hub id: put that into the recipe as {name}"
            if name == "dataset":
                ledger.default(f"a name in {where.name}", {name: next(iter(specs))})
                ledger.not_supported(name, why)
            else:
                rules.fill_in(ledger, name, why, name)
    rules.held_out(ledger, "val_size", "is 0: nothing is held out")


def _located(entry: Any, path: Path) -> str | None:
    """The file or Hub id of a data set whose columns orpo knows; None if more would be needed."""
    if not isinstance(entry, dict) or not entry.get("ranking"):
        return None
    columns = {v for v in (entry.get("columns") or {}).values() if isinstance(v, str)}
    usual = {"instruction", "input", "prompt", "chosen", "rejected", "conversations", "system"}
    if columns - usual or entry.keys() & {"subset", "num_samples", "folder", "tags"}:
        return None
    split, hub, file = entry.get("split", "train"), entry.get("hf_hub_url"), entry.get("file_name")
    if isinstance(hub, str):
        return hub if split == "train" else f"{hub}:{split}"
    spec = str(path.parent / file) if isinstance(file, str) else None
    return None if spec and rules.cut_out(spec, split) else spec


def _axolotl(ledger: Ledger, source: str) -> Callable[[], None]:
    builder = "Axolotl's default (0.19.0, core/builders/base.py)"
    dtype, kind = _precision_of_axolotl(ledger, source), ledger.get("adapter")
    names = {name: name for name in rules.LORA}
    if kind in ("lora", "qlora"):
        if ledger.get("lora_target_linear") is True:
            ledger.converted("lora_target_linear", {"lora_target_modules": "all-linear"})
            for name in ledger.given("lora_target_modules"):
                ledger.not_needed(name, "all linear layers are adapted")
        defaults = {"lora_dropout": 0.0, "lora_r": 8, "lora_alpha": 8}
        rules.adapter(ledger, names, defaults, source + ", else peft's")
        ledger.default(rules.TARGETS, {"lora_target_modules": "q_proj,v_proj"})
        ledger.not_needed("adapter", _BY_RANK)
    elif kind is None:
        rules.no_adapter(ledger, (*names, "lora_target_linear"))
    else:
        ledger.not_supported("adapter", f"orpo trains LoRA adapters, no {kind!r}")
    if ledger.get("load_in_4bit") is True:
        rules.four_bits(ledger, ("load_in_4bit",), "nf4", True)
    ledger.not_needed("load_in_4bit", "is off")
    for block, setting in (("datasets", "dataset"), ("test_datasets", "eval_dataset")):
        _entries(ledger, block, setting)
    rules.held_out(ledger, "val_set_size", "nothing is held out")
    _steps_of_axolotl(ledger, builder)
    _loggers_of_axolotl(ledger)
    template, tokens = ledger.get("chat_template"), ledger.get("special_tokens")
    if template == "tokenizer_default":
        ledger.not_needed("chat_template", "the tokenizer's own is used")
    elif isinstance(template, str):
        instead = f"{template} is Axolotl's own template, and the tokenizer's is used here: see "
        instead += "`orpo data show DATASET --model MODEL`, or write another to a file, "
        ledger.not_supported("chat_template", f"{instead}--chat_template FILE")
    ways = {"drop": "drop", "truncate": "truncate_answer", "raise": "error"}
    rules.truncation(ledger, "excess_length_strategy", ways)
    if isinstance(tokens, dict) and tokens.keys() <= {"pad_token"}:
        ledger.not_needed("special_tokens", "padding is masked, whatever its token")

    def finish() -> None:
        ledger.default(builder + ", at most 100 steps there", {"warmup_steps": 0.03})
        ledger.default("Axolotl's way (0.19.0, utils/config/__init__.py)", {"model_dtype": dtype})
        ledger.default("Axolotl needs it as well", {"learning_rate": FILL_IN})

    return finish


def _precision_of_axolotl(ledger: Ledger, source: str) -> str:
    """bf16 is on where the GPU has it, unless something else is said; weights follow it."""
    for old, new in (("bfloat16", "bf16"), ("float16", "fp16")):
        for name in ledger.given(old):
            ledger.converted(name, {new: ledger.get(name)})
    fp16, bf16 = ledger.get("fp16") is True, ledger.get("bf16", "auto")
    on = (bf16 == "auto" and not fp16) or bf16 is True or bf16 == "full"
    ledger.converted("bf16", {"bf16": on}, "auto: on where the GPU has it" * (bf16 == "auto"))
    ledger.default(source + ": auto", {"bf16": on})
    if ledger.get("tf32") == "auto":
        ledger.not_needed("tf32", "is torch's own choice")
    return "bfloat16" if on else "float16" if fp16 else "float32"


def _entries(ledger: Ledger, block: str, setting: str) -> None:
    """Data sets of TRL and Axolotl that are a list of entries, each with keys of its own."""
    names = [name for name in ledger.names if name.startswith(f"{block}[")]
    paths = [name for name in names if name.endswith("].path")]
    found = [_specs(ledger, name.removesuffix("path")) for name in paths]
    wrong = next((why for _, why in found if why), "")
    specs = [spec for some, _ in found for spec in some]
    if paths and wrong:
        rules.fill_in(ledger, paths[0], wrong, setting)
    elif paths:
        rules.data_sets(ledger, paths[0], specs, setting)
    for name in paths[1:]:
        ledger.not_needed(name, f"is with {paths[0]}")
    for name in names:
        own, value = name.rpartition(".")[2], ledger.get(name)
        if own in ("split", "revision", "ds_type", "data_files"):
            ledger.not_needed(name, "is part of dataset, or seen from the file")
        elif own in ("name", "data_dir", "shards", "preprocess_shards"):
            ledger.not_supported(name, _PART.format(f"{own} {value}"))
        elif own == "type" and value == "chat_template.argilla":
            why = "the columns are recognised: chosen and rejected conversations"
            ledger.not_needed(name, why)
        elif own in ("type", "chat_template"):
            instead = "columns are recognised: see what the model gets with `orpo data show "
            instead += "DATASET --model MODEL`, and say --data_format NAME where they can be read"
            ledger.not_supported(name, f"{instead} in two ways")
        else:
            ledger.not_supported(name, "columns are recognised by name: rename them in the file")


def _specs(ledger: Ledger, prefix: str) -> tuple[list[str], str]:
    """(an entry's files, or Hub id with revision and split; what of it cannot be said so)."""
    files, split = ledger.get(f"{prefix}data_files"), ledger.get(f"{prefix}split", "train")
    path, revision = str(ledger.get(f"{prefix}path")), ledger.get(f"{prefix}revision")
    given = files if isinstance(files, list) else [files] if files else []
    specs = [str(file) for file in given] or [path]
    part = next((n for n in ("name", "data_dir", "shards") if ledger.given(prefix + n)), None)
    wrong = _PART.format(f"{part} {ledger.get(f'{prefix}{part}')} of {path}") if part else ""
    wrong = wrong or next(filter(None, (rules.cut_out(spec, split) for spec in specs)), "")
    if given or rules.cut_out(path, "["):
        return specs, wrong
    pinned = f"{path}@{revision}" if revision else path
    return [pinned if split == "train" else f"{pinned}:{split}"], wrong


def _steps_of_axolotl(ledger: Ledger, builder: str) -> None:
    """Steps by epoch become shares of all steps, as Axolotl reckons them."""
    epochs = ledger.get("num_epochs", 1)
    for name, setting in (("evals_per_epoch", "eval"), ("saves_per_epoch", "save")):
        value = ledger.get(name)
        if isinstance(value, int | float) and value and isinstance(epochs, int | float):
            share = 1 / (value * epochs)
            settings: dict[str, Any] = {f"{setting}_strategy": "steps", f"{setting}_steps": share}
            ledger.converted(name, settings if share < 1 else {f"{setting}_strategy": "epoch"})
        ledger.not_needed(name, "is off")
    for name in ledger.given("eval_steps", "save_steps"):
        ledger.default(f"{name} is given", {f"{name[:4]}_strategy": "steps"})
    if not any(ledger.get(name) for name in ("save_strategy", "save_steps")):
        ledger.default(builder, {"save_strategy": "epoch"})
    ledger.default(builder, {"save_total_limit": ledger.get("save_total_limit", 4)})
    total, part = ledger.get("batch_size"), ledger.get("micro_batch_size", 1)
    if isinstance(total, int) and isinstance(part, int) and part:
        ledger.converted("batch_size", {"gradient_accumulation_steps": total // part})
    if ledger.get("warmup_steps") == 1:
        ledger.converted("warmup_steps", {"warmup_steps": 2}, "Axolotl makes 1 to 2")


def _loggers_of_axolotl(ledger: Ledger) -> None:
    flags = {"use_wandb": "wandb", "use_tensorboard": "tensorboard", "use_mlflow": "mlflow"}
    used = [logger for flag, logger in flags.items() if ledger.get(flag) is True]
    if ledger.get("wandb_project") and "wandb" not in used and not ledger.has("use_wandb"):
        used.append("wandb")
        ledger.default("wandb_project is given", {"report_to": used})
    for flag in flags:
        if ledger.get(flag) is True:
            ledger.converted(flag, {"report_to": used})
        ledger.not_needed(flag, "is off")


def _ms_swift(ledger: Ledger, source: str) -> Callable[[], None]:
    given = ledger.given("tuner_type", "train_type", "sft_type")
    kind = ledger.get(given[0]) if given else "lora"
    names = {**rules.LORA, "lora_target_modules": "target_modules"}
    if kind == "lora":
        defaults = {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
        rules.adapter(ledger, names, {**defaults, "lora_target_modules": "all-linear"}, source)
    else:
        rules.no_adapter(ledger, names.values())
    for name in given:
        if kind in ("lora", "full"):
            ledger.not_needed(name, _BY_RANK)
        ledger.not_supported(name, f"orpo trains the whole model or LoRA, no {kind!r}")
    if not ledger.given("learning_rate"):
        ledger.default(source, {"learning_rate": 1e-5 if kind == "full" else 1e-4})
    _precision_of_ms_swift(ledger)
    _data_of_ms_swift(ledger)
    scale = ledger.get("loss_scale")
    if isinstance(scale, str) and scale.split("+")[0] in ("default", "last_round"):
        ledger.converted("loss_scale", {"nll_scope": "completion"})
    elif scale is not None:
        instead = "leave it out: answers count in both terms; nll_scope adds the prompt to the NLL"
        ledger.not_supported("loss_scale", instead)
    ways = {"delete": "drop", "left": "keep_end", "right": "truncate_answer"}
    rules.truncation(ledger, "truncation_strategy", ways)
    if ledger.get("train_dataloader_shuffle") is False:
        order = {"train_sampling_strategy": "sequential"}
        ledger.converted("train_dataloader_shuffle", order)
    size = ledger.get("per_device_train_batch_size", 1)
    if not ledger.given("gradient_accumulation_steps") and isinstance(size, int) and size > 0:
        steps = {"gradient_accumulation_steps": max(1, math.ceil(16 / size))}
        ledger.default(f"{source}: 16 pairs", steps)
    for name in [n for n in ledger.names if n.startswith("swanlab_") and n != "swanlab_token"]:
        ledger.not_needed(name, "set SwanLab's own variables")

    def finish() -> None:
        """It evaluates whenever it saves."""
        if ledger.settings.keys() & {"held_out", "eval_dataset"}:
            for end, usual in (("strategy", "steps"), ("steps", 500)):
                saving = ledger.settings.get(f"save_{end}")
                value = usual if saving is None else saving.value
                ledger.default(source, {f"eval_{end}": value})

    return finish


def _precision_of_ms_swift(ledger: Ledger) -> None:
    """The weights' dtype decides the mixed precision, where that is not given itself."""
    name = next(iter(ledger.given("torch_dtype", "dtype")), "")
    dtype, halves = ledger.get(name), ledger.given("bf16", "fp16")
    ledger.converted(name, {"model_dtype": dtype})
    half = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp16"}
    if not halves and isinstance(dtype, str) and dtype in half:
        ledger.default(f"ms-swift follows {name}", {half[dtype]: True})
    elif not name:
        ledger.default("ms-swift reads config.json", {"model_dtype": "auto"})
        if not halves:
            ledger.default("ms-swift does so for bfloat16 weights, as most are", {"bf16": True})
    if ledger.get("quant_bits") == 4 and ledger.get("quant_method", "bnb") == "bnb":
        bits = [one for one in ledger.names if one.startswith(("quant_", "bnb_4bit_"))]
        double = bool(ledger.get("bnb_4bit_use_double_quant", True))
        compute = ledger.get("bnb_4bit_compute_dtype", "bfloat16")
        rules.four_bits(ledger, bits, ledger.get("bnb_4bit_quant_type", "nf4"), double, compute)


def _data_of_ms_swift(ledger: Ledger) -> None:
    for name, setting in (("dataset", "dataset"), ("val_dataset", "eval_dataset")):
        given = rules.listed(ledger.get(name))
        specs = [spec.removeprefix("hf::").removeprefix("ms::") for spec in given]
        part = next((spec for spec in specs if "#" in spec or ":" in spec), None)
        if part is not None:
            rules.fill_in(ledger, name, f"of {part} a part is drawn: write it to a file", setting)
        elif specs:
            # Ids are ModelScope's unless something else is said.
            foreign = [s for s in given if "/" in s and not Path(s).suffix and s[:4] != "hf::"]
            note = "an id of ModelScope there: see that the Hugging Face Hub has it"
            told = note if foreign and ledger.get("use_hf") is not True else ""
            rules.data_sets(ledger, name, specs, setting, told)
    if "eval_dataset" in ledger.settings:
        ledger.not_needed("split_dataset_ratio", "val_dataset counts there")
    rules.held_out(ledger, "split_dataset_ratio", "nothing is held out")
    ledger.not_needed("use_hf", "ids are those of the Hugging Face Hub")


_SPECIAL = {
    "trl": _trl,
    "llama-factory": _llama_factory,
    "axolotl": _axolotl,
    "ms-swift": _ms_swift,
}
