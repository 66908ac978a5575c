"""An adapter's folder: where its base model is, what the base must look like, how it is saved."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from orpo.config import ORPOConfig
from orpo.errors import ConfigError, DataError, ModelError, did_you_mean, refuse_first
from orpo.runs.files import ADAPTER_FILE
from orpo.runs.reading import read_object

if TYPE_CHECKING:
    from peft import PeftConfig


ADAPTER_WEIGHTS = "adapter_model.safetensors"
_SUFFIX = r"(?:modules_to_save\.|base_layer\.|original_module\.)*"
_ROWS = ((f"{_SUFFIX}weight", 0), ("lora_embedding_A", -1))
_FETCHING = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
_BITS_AND_BYTES = "quantization_config=BitsAndBytesConfig(...)"
_NOT_THEMSELVES = "cannot be trained themselves"
_ADAPT = "Train an adapter on them: add --lora_r 16 (peft_config in Python)."
_SHOWN = 12
_ROWS_OF_HEAD = (("lora_B.weight", 0), *_ROWS)


@contextlib.contextmanager
def peft_quiet() -> Iterator[None]:
    """Within it peft keeps to itself what is seen to here, or is not for the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`")
        warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied")
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")  # see merge_check
        yield


def read_adapter(folder: str | Path) -> dict[str, Any]:
    """The settings of an adapter's folder."""
    try:
        return read_object(Path(folder, ADAPTER_FILE))
    except DataError as error:
        raise ModelError(error.what, where=error.where, fix=error.fix) from error


def base_of_adapter(folder: str | Path) -> str:
    """The base model that an adapter names, as `found_from` its folder."""
    name = read_adapter(folder).get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        what = "the adapter does not name its base model"
        fix = "Set base_model_name_or_path."
        raise ModelError(what, where=str(Path(folder, ADAPTER_FILE)), fix=fix)
    return found_from(folder, name)


def found_from(folder: str | Path, name: str) -> str:
    """A model that a run's folder names: where it is, or else the name as it is, as of a Hub id.

    A relative name was meant from where the run was started, which is mostly a folder above its
    own; so it is looked for from there, if it is not found from here.
    """
    if not Path(name).expanduser().is_dir():
        for above in Path(folder).resolve().parents:
            if any((above / name / file).is_file() for file in ("config.json", ADAPTER_FILE)):
                return str(above / name)
    return name


def fit_vocabulary(base: Any, folder: str | Path) -> None:
    """Give a base model the rows of the embedding that its adapter was trained on.

    Tokens that were added before the training are not in the base model's files; an adapter that
    was trained with them holds the whole tables, or rows for them.
    """
    rows = base.get_input_embeddings().num_embeddings
    tables = {base.get_input_embeddings(): _ROWS, base.get_output_embeddings(): _ROWS_OF_HEAD}
    found: set[int] = set()
    with safe_open(Path(folder, ADAPTER_WEIGHTS), framework="pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    for name, module in base.named_modules():
        for suffix, dimension in tables.get(module, ()):
            ending = re.compile(rf"(.*\.)?{re.escape(name)}\.{suffix}")
            found |= {shape[dimension] for key, shape in shapes.items() if ending.fullmatch(key)}
    indices = read_adapter(folder).get("trainable_token_indices") or []
    named = indices.values() if isinstance(indices, dict) else [indices]
    last = max((int(one) for group in named for one in group), default=-1)
    wanted = max(found) if found else max(rows, last + 1)
    if wanted != rows:
        base.resize_token_embeddings(wanted, mean_resizing=False)


def save_adapter(model: Any, folder: str, **how: Any) -> None:
    """Save the adapter that is active, so that whoever loads the folder finds it.

    peft puts every adapter that is not called "default" into a folder below, and remembers the
    base model by the name that it was loaded by, which may only be right from here.
    """
    active = model.active_adapters[0]
    config = model.peft_config[active]
    base = config.base_model_name_or_path
    if base and Path(base).expanduser().is_dir():
        config.base_model_name_or_path = str(Path(base).expanduser().absolute())
    with peft_quiet():
        model.save_pretrained(folder, selected_adapters=[active], **how)
    if active != "default" and how.get("is_main_process", True):
        for path in Path(folder, active).iterdir():
            path.replace(Path(folder, path.name))
        Path(folder, active).rmdir()


def check_names(model: nn.Module, config: PeftConfig) -> None:
    """Whether all that an adapter's settings name is in the model: peft asks for one match."""
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters()]
    for field in ("target_modules", "exclude_modules", "modules_to_save"):
        _check(field, getattr(config, field, None), modules)
    _check("target_parameters", getattr(config, "target_parameters", None), parameters)
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field, None) or {}:
            _check(field, rf"(.*\.)?({pattern})", modules, shown=pattern)
    layers = getattr(config, "layers_to_transform", None)
    layers = [layers] if isinstance(layers, int) else layers or []
    there = {int(number) for name in modules for number in re.findall(r"\.(\d+)\b", name)}
    for layer in layers:
        if layer not in there:
            what = f"there is no layer {layer}, the last is {max(there, default=0)}"
            raise ConfigError(f"layers_to_transform: {what}", where="peft_config")


def _check(field: str, given: Any, names: list[str], *, shown: str = "") -> None:
    """Name every one of the given that matches nothing, each with what is near it."""
    if given is None or given == "all-linear":
        return
    wrong, near = [], list[str]()
    parts = {part for name in names for part in (name, name.rsplit(".", 1)[-1])}
    there = sorted(part for part in parts if not part.isdigit())
    for one in [given] if isinstance(given, str) else cast(Iterable[str], given):
        pattern = one if isinstance(given, str) else rf"(.*\.)?{re.escape(one)}"
        if not any(re.fullmatch(pattern, name) for name in names):
            wrong.append(shown or one)
            near.append(did_you_mean(wrong[-1], there, most=2))
    if wrong:
        verb = "matches" if len(wrong) == 1 else "match"
        what = f"{field}: {', '.join(sorted(map(repr, wrong)))} {verb} nothing in the model"
        fix = " ".join(filter(None, near)) or _some(names)
        raise ConfigError(what, where="peft_config", fix=fix)


def _some(names: list[str]) -> str:
    """What there is to choose from: the last parts of names that nothing stands under."""
    inner = {name.rpartition(".")[0] for name in names}
    last = sorted({name.rsplit(".", 1)[-1] for name in names if name not in inner})
    return f"There are {', '.join(last[:_SHOWN])}{' and more' if len(last) > _SHOWN else ''}."


def check_quantize(args: ORPOConfig, *, by_name: bool = True, adapter: bool) -> None:
    """Whether `quantize` can be meant."""
    if args.quantize == "none":
        return
    an_object = "only used for a model given by path or id, but the model is an object"
    twice = "cannot be combined with quantization_config in model_init_kwargs"
    refuse_first(
        (not by_name, "quantize", an_object, f"Load it with {_BITS_AND_BYTES}."),
        (not adapter, "quantize", f"weights in {args.quantize} {_NOT_THEMSELVES}", _ADAPT),
        (
            "quantization_config" in (args.model_init_kwargs or {}),
            *("quantize", twice, "Use one of them."),
        ),
    )


def in_four_bits(args: ORPOConfig) -> dict[str, Any]:
    """What `from_pretrained` is told about it; nothing where it is not asked for."""
    if args.quantize == "none":
        return {}
    from transformers import BitsAndBytesConfig  # noqa: PLC0415

    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    how = {"quant_type": "nf4", "use_double_quant": True, "compute_dtype": dtype}
    told = {f"bnb_4bit_{name}": value for name, value in how.items()}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **told)}


def check_stored(config: Any, name: str, *, adapter: bool) -> None:
    """Whether a model whose weights are stored quantised can be trained, from its configuration."""
    stored = getattr(config, "quantization_config", None)
    if stored is None or adapter:
        return
    given = stored if isinstance(stored, dict) else vars(stored)
    kind = str(getattr(given.get("quant_method"), "value", given.get("quant_method")))
    described = AUTO_QUANTIZATION_CONFIG_MAPPING.get(kind)
    if described is None or "dequantize" not in signature(described).parameters:
        raise _frozen(kind, name)


def check_loaded(model: nn.Module, name: str) -> None:
    """The same of a model that is loaded, with its adapter if it has one."""
    quantizer = getattr(model, "hf_quantizer", None)
    if not getattr(model, "is_quantized", False) or quantizer is None:
        return
    kind = str(getattr(quantizer.quantization_config.quant_method, "value", "") or "few bits")
    if hasattr(model, "peft_config"):
        if not quantizer.is_trainable:
            what = f"weights stored as {kind} cannot be trained on, says transformers"
            fix = "Give the model with weights that are not quantised."
            raise ConfigError(what, where=name, fix=fix)
    elif not getattr(quantizer, "is_qat_trainable", False):
        raise _frozen(kind, name)


def _frozen(kind: str, name: str) -> ConfigError:
    return ConfigError(
        f"its weights are stored quantised ({kind}) and {_NOT_THEMSELVES}", where=name, fix=_ADAPT
    )


def is_quantized(args: ORPOConfig) -> bool:
    """Whether the layers are loaded in four bits, however that was asked for."""
    how = init_kwargs(args).get("quantization_config")
    return args.quantize != "none" or bool(isinstance(how, dict) and how.get("load_in_4bit"))


def init_kwargs(args: ORPOConfig) -> dict[str, Any]:
    """What `from_pretrained` is told beside our own settings."""
    return args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}


def fetching(args: ORPOConfig) -> dict[str, Any]:
    """Those of the model's arguments that say where its files are."""
    given = {"revision": args.model_revision, **init_kwargs(args)}
    return {key: given[key] for key in _FETCHING if given.get(key) is not None}


def add_adapter(model: PreTrainedModel, peft_config: PeftConfig, args: ORPOConfig) -> nn.Module:
    """Wrap a model with a peft adapter."""
    import peft  # noqa: PLC0415 - slow

    if isinstance(model, peft.PeftModel):
        what = "the model already carries an adapter"
        fix = "Merge it first (model.merge_and_unload()), or leave peft_config out to train it."
        raise ConfigError(what, where="peft_config", fix=fix)
    if getattr(model, "is_quantized", False):
        checkpointed = args.gradient_checkpointing
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointed)
    elif args.gradient_checkpointing:
        model.enable_input_require_grads()
    try:
        check_names(model, peft_config)
        with peft_quiet():
            revision = fetching(args).get("revision")
            adapted: nn.Module = peft.get_peft_model(model, peft_config, revision=revision)
    except ConfigError:
        raise
    except (ValueError, re.error) as error:
        raise ConfigError(str(error), where="peft_config") from error
    return adapted
