"""A model and its tokenizer by name: loaded, checked, and given what they lack for training."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from accelerate import PartialState
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.fsdp import is_fsdp_enabled
from transformers.models.auto import modeling_auto as auto

from orpo.config import ORPOConfig
from orpo.data.asked import forget_asked
from orpo.data.lengths import LengthPolicy
from orpo.data.rendering import PLAIN_TEMPLATE
from orpo.data.tokenize import PairTokenizer
from orpo.engine.probing import has_last_position, positions_of_text
from orpo.errors import ConfigError, ModelError, UserError
from orpo.runs.checkpoints import ensure_as_committed
from orpo.runs.files import ADAPTER_FILE, OTHER_TEMPLATE, located
from orpo.runs.hub import refusal
from orpo.train import adapters
from orpo.train.weights import check_weight_files, ensure_sound

if TYPE_CHECKING:
    from peft import PeftConfig

    from orpo.config import ORPOConfig


GENERATION = "generation_config.json"
MEND = f"Mend the model's {GENERATION}, or delete it."
ModelInit: TypeAlias = Callable[..., nn.Module]

_DROPOUT_IN_CONFIG = ("blt", "falcon", "gpt_neo", "gptj", "persimmon")
_FIXES = {
    "model": "Give a folder with config.json and *.safetensors, or a Hub id.",
    "adapter": "Give a folder with adapter_config.json and adapter_model.safetensors.",
    "tokenizer": "Pass tokenizer=..., or give a folder with tokenizer.json, or a Hub id.",
}
UNREADABLE = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError),
    *(RuntimeError, SafetensorError, StrictDataclassError, TypeError, ValueError),
)


def resolve_model(
    model: nn.Module | str | Path | None,
    model_init: ModelInit | None,
    args: ORPOConfig,
    peft_config: PeftConfig | None,
) -> tuple[nn.Module, ModelInit | None]:
    """The model to train, and a `model_init` that prepares its models in the same way."""
    if (model is None) == (model_init is None):
        raise ConfigError("exactly one of model and model_init is needed", where="model")
    if model_init is not None:
        return _resolve_init(model_init, args, peft_config)
    if not isinstance(model, str | Path) and args.model_init_kwargs:
        what = "only used for a model given by path or id, but the model is an object"
        raise ConfigError(what, where="model_init_kwargs")
    assert model is not None
    name = str(model) if isinstance(model, str | Path) else ""
    adapted = peft_config is not None or bool(name and Path(name, ADAPTER_FILE).is_file())
    adapters.check_quantize(args, by_name=bool(name), adapter=adapted)
    if isinstance(model, nn.Module):
        ensure_sound(model, name_of(model) or "model")
        return _ready(model, args, peft_config), None
    if not adapted:
        adapters.check_stored(read_config(located(name), args), name, adapter=False)
    return _ready(load_model(name, args), args, peft_config), None


def _resolve_init(
    model_init: ModelInit, args: ORPOConfig, peft_config: PeftConfig | None
) -> tuple[nn.Module, ModelInit]:
    takes_trial = bool(inspect.signature(model_init).parameters)

    def build(trial: Any = None) -> nn.Module:
        model = model_init(trial) if takes_trial else model_init()
        ensure_sound(model, name_of(model) or "model_init")
        return _ready(model, args, peft_config)

    first = [build()]

    def init(trial: Any = None) -> nn.Module:
        return first.pop() if first else build(trial)

    return first[0], init


def _ready(model: nn.Module, args: ORPOConfig, peft_config: PeftConfig | None) -> nn.Module:
    ensure_trainable(getattr(model, "config", None), name_of(model))
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        what = "a compiled model cannot be trained: packed rows change their shape all the time"
        fix = "Pass the model itself; compile_blocks=True compiles what pays."
        raise ConfigError(what, where="model", fix=fix)
    if peft_config is not None:
        model = adapters.add_adapter(cast(PreTrainedModel, model), peft_config, args)
    adapters.check_loaded(model, name_of(model) or "model")
    if args.disable_dropout:
        disable_dropout(model)
    return model


def name_of(model: nn.Module) -> str:
    """The path or Hub id that a model came from, or an empty string."""
    return str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")


def load_model(name: str, args: ORPOConfig) -> PreTrainedModel:
    """A causal language model from a folder or a Hub id, weights from safetensors only.

    The folder of an adapter gives its base model with the adapter, ready to be trained further.
    """
    name = located(name)
    if Path(name, ADAPTER_FILE).is_file() and not Path(name, "config.json").is_file():
        return load_adapter(name, args, trained=True)
    check_weight_files(name, adapters.fetching(args))
    ensure_as_committed(Path(name))
    kwargs: dict[str, Any] = {
        "dtype": args.model_dtype,
        "trust_remote_code": args.trust_remote_code,
        **adapters.in_four_bits(args),
        **adapters.init_kwargs(args),
        **adapters.fetching(args),
        "use_safetensors": True,
        "ignore_mismatched_sizes": True,  # then they are named; transformers points at its log
    }
    try:
        kind = auto_class(read_config(name, args))
        read_generation_settings(name, args)
        model: PreTrainedModel
        model, report = kind.from_pretrained(name, output_loading_info=True, **kwargs)
    except UNREADABLE as error:
        raise unloadable("model", name, error) from error
    complete = "Give a complete model; config.json and *.safetensors must belong together."
    for key, found, wanted in sorted(report["mismatched_keys"]):
        what = f"{key} has the shape {tuple(found)}, and config.json says {tuple(wanted)}"
        raise ModelError(what, where=name, fix=complete)
    missing = sorted(report["missing_keys"])  # transformers draws them at random, with a warning
    if missing:
        what = f"{len(missing)} weights are missing, the first is {missing[0]}"
        raise ModelError(what, where=name, fix=complete)
    if not _is_filled_later():
        ensure_sound(model, name)
    where = {key: adapters.fetching(args).get(key) for key in ("revision", "cache_dir")}
    found = None if Path(name).is_dir() else try_to_load_from_cache(name, "config.json", **where)
    commit = Path(found).parent.name if isinstance(found, str) else None
    cast(Any, model).loaded_commit = commit  # of a Hub id
    return model


def auto_class(config: Any) -> Any:
    """The class of transformers that loads a model as a whole, with what it sees or hears by."""
    composite = config.get_text_config() is not config
    whole = composite or type(config) not in auto.MODEL_FOR_CAUSAL_LM_MAPPING
    if whole and type(config) in auto.MODEL_FOR_MULTIMODAL_LM_MAPPING:
        return auto.AutoModelForMultimodalLM
    return auto.AutoModelForCausalLM


def read_config(name: str, args: ORPOConfig) -> Any:
    """The configuration of a model that can be trained; `name` as `located` gives it."""
    trusted = adapters.init_kwargs(args).get("trust_remote_code", args.trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(
            name, trust_remote_code=trusted, **adapters.fetching(args)
        )
    except UNREADABLE as error:
        raise unloadable("model", name, error) from error
    ensure_trainable(config, name)
    named = getattr(config, "transformers_weights", None)
    if named and Path(str(named)).name != str(named):
        what = f"transformers_weights names {named}, which lies elsewhere"
        raise ModelError(what, where=str(Path(name, "config.json")), fix="Leave it out.")
    text = config.get_text_config()
    pad, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and not -size <= pad < size:
        raise ModelError(  # torch cannot build such an embedding
            f"pad_token_id is {pad}, and the model has the tokens 0 to {size - 1}",
            where=str(Path(name, "config.json")),
            fix="Set it to null there, or to one of them: padding is never trained on.",
        )
    return config


def read_generation_settings(name: str, args: ORPOConfig) -> GenerationConfig | None:
    """The settings of a model's folder or Hub id; None where it has none."""
    try:
        found: GenerationConfig = GenerationConfig.from_pretrained(name, **adapters.fetching(args))
        return found
    except OSError as error:
        if not isinstance(error.__context__, json.JSONDecodeError | UnicodeDecodeError):
            return None
        reason: Exception = ValueError("it is not JSON")
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = error
    raise ModelError(f"{GENERATION}: {reason}".rstrip("."), where=name, fix=MEND) from reason


def load_adapter(folder: str, args: ORPOConfig, *, trained: bool) -> PreTrainedModel:
    """The adapter of a folder on its base model, weights from safetensors only."""
    from peft import PeftModel  # noqa: PLC0415

    check_weight_files(folder)
    ensure_as_committed(Path(folder))
    weights = adapters.ADAPTER_WEIGHTS
    if not Path(folder, weights).is_file():  # peft would unpickle adapter_model.bin
        raise ModelError(f"the adapter has no {weights}", where=folder, fix=_FIXES["adapter"])
    try:
        of_base = copy.copy(args)
        told = adapters.read_adapter(folder)
        of_base.model_revision = told.get("revision") or args.model_revision
        base = load_model(adapters.base_of_adapter(folder), of_base)
        adapters.fit_vocabulary(base, folder)
        with adapters.peft_quiet():
            model: PreTrainedModel = PeftModel.from_pretrained(base, folder, is_trainable=trained)
    except UNREADABLE as error:
        raise unloadable("adapter", folder, error) from error
    if not _is_filled_later():
        ensure_sound(model, folder)
    return model


def _is_filled_later() -> bool:
    """FSDP may have one rank alone read the weights; the others get them as they are wrapped."""
    return is_fsdp_enabled() and not PartialState().is_local_main_process


def ensure_trainable(config: Any, name: str) -> None:
    """Refuse models that do not continue a text."""
    masked = getattr(config, "model_type", None) in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    text = config.get_text_config() if isinstance(config, PretrainedConfig) else config
    if any(getattr(part, "is_encoder_decoder", False) for part in (config, text)):
        kind = "an encoder-decoder model"
    elif masked and not getattr(config, "is_decoder", True):
        kind = "a masked language model"
    else:
        return
    raise ModelError(
        f"{type(config).__name__.removesuffix('Config')} is {kind}; "
        "orpo trains decoder-only models",
        where=name or "model",
        fix="Use a causal language model such as Llama, Qwen or Mistral.",
    )


def vocabulary_size(model: nn.Module) -> int | None:
    """Number of token ids that the model has an embedding for; None if it does not say."""
    get = getattr(cast(Any, model), "get_input_embeddings", None)
    table = get() if get else None
    wrapped = (getattr(table, name, None) for name in ("base_layer", "original_module"))  # peft's
    sizes = (getattr(one, "num_embeddings", None) for one in (table, *wrapped))
    return next((int(size) for size in sizes if size is not None), None)


def fit_positions(model: nn.Module, args: ORPOConfig) -> tuple[int | None, str | None]:
    """`max_length` within the positions that a model has, and a line if they are fewer.

    A table of positions ends where it ends; rotary ones go on, so the user's `max_length` stands.
    """
    limit = positions_of_text(model)
    if limit is None or (args.max_length is not None and args.max_length <= limit):
        return args.max_length, None
    if has_last_position(model):
        return limit, f"max_length is {limit}: the model has no more positions"
    return args.max_length, (
        f"max_length is {args.max_length}, but the model was made for {limit} positions: "
        f"longer pairs may train badly; --max_length {limit} keeps to them"
    )


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability of a model to zero.

    Those of modules, those that layers keep as plain numbers (`attention_dropout`, `layerdrop`),
    and those that a few families look up in their configuration while they run.
    """
    config = getattr(model, "config", None)
    looked_up = getattr(config, "model_type", None) in _DROPOUT_IN_CONFIG
    for holder in (*model.modules(), *((config,) if looked_up else ())):
        if isinstance(holder, _DropoutNd):
            holder.p = 0.0
        for name, value in list(vars(holder).items()):
            if "drop" in name and isinstance(value, float):
                setattr(holder, name, 0.0)


def unloadable(what: str, name: str, error: Exception) -> UserError:
    """The error of whatever a library says about a model, an adapter or a tokenizer."""
    if isinstance(error, UserError):
        return error
    reason = (" ".join(str(error).split()) or repr(error)).rstrip(".")
    if "trust_remote_code" in str(error):
        what_to_do = "Read that code, and add --trust_remote_code true if you trust it."
        return ModelError(f"the {what} comes with code of its own", where=name, fix=what_to_do)
    said = None if Path(name).is_dir() else refusal(error, name, what)
    if said:
        return ModelError(said[0], where=name, fix=said[1])
    return ModelError(f"the {what} cannot be loaded ({reason})", where=name, fix=_FIXES[what])


def load_tokenizer(
    name: str, args: ORPOConfig, *, of_model: bool = True
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id."""
    name = located(name, "tokenizer_config.json")
    where = {k: v for k, v in adapters.fetching(args).items() if of_model or k != "revision"}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, trust_remote_code=args.trust_remote_code, **where
        )
    except Exception as error:  # what tokenizers raises is no more than that
        raise unloadable("tokenizer", name, error) from error
    return tokenizer


def named_tokenizer(name: str, config: ORPOConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, or of a folder that holds a tokenizer and no model."""
    tokenizer = load_tokenizer(name, config)
    prepare_tokenizer(tokenizer, config)
    return tokenizer


def pair_tokenizer(name: str, config: ORPOConfig) -> PairTokenizer:
    """What turns pairs into the tokens of a named tokenizer, of any length."""
    variables = config.chat_template_kwargs
    assert isinstance(variables, dict)
    return PairTokenizer(named_tokenizer(name, config), LengthPolicy(None), variables)


def resolve_tokenizer(
    processing_class: PreTrainedTokenizerBase | None,
    tokenizer: PreTrainedTokenizerBase | None,
    name: str,
    args: ORPOConfig,
) -> PreTrainedTokenizerBase:
    """The tokenizer by whichever of its two names it was given, or else the model's own."""
    if processing_class is not None and tokenizer is not None and tokenizer is not processing_class:
        what = "processing_class and tokenizer are two names of one argument"
        raise ConfigError(what, where="tokenizer", fix="Pass one of them.")
    given: Any = processing_class if processing_class is not None else tokenizer
    if isinstance(given, PreTrainedTokenizerBase):
        return given
    if given is not None:
        inner = isinstance(getattr(given, "tokenizer", None), PreTrainedTokenizerBase)
        own = "Pass processor.tokenizer."
        what = f"expected a tokenizer, got {type(given).__name__}; orpo trains on text"
        fix = own if inner else "Pass AutoTokenizer.from_pretrained(...)."
        raise ConfigError(what, where="tokenizer", fix=fix)
    if not name:
        what = "no tokenizer was given, and the model does not know where it came from"
        raise ModelError(what, where="tokenizer", fix="Pass tokenizer=...")
    return load_tokenizer(name, args)


def padding_id(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None) -> int:
    """A token id to fill padding with: masked, so any that the model has an embedding for."""
    pad = tokenizer.pad_token_id
    known = pad is not None and (vocabulary is None or pad < vocabulary)
    return int(pad) if known else 0


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, args: ORPOConfig) -> list[str]:
    """Give a tokenizer what training and chatting need; one line for each thing that was missing.

    A padding token (the end-of-sequence token: padding is masked and never trained on) and the
    chat template of `args.chat_template`.
    """
    said = []
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
        said.append(f"the tokenizer has no padding token: {tokenizer.eos_token!r} is used, masked")
    if args.chat_template is not None:
        own, given = tokenizer.chat_template, Path(args.chat_template).read_text(encoding="utf-8")
        tokenizer.chat_template = given
        forget_asked(tokenizer)
        instead = f", {OTHER_TEMPLATE}" if own and own != given else ""
        said.append(f"chat template taken from {args.chat_template}{instead}")
    return said


def give_plain_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Give a tokenizer without chat template that of plain transcripts; says so in one line."""
    tokenizer.chat_template = PLAIN_TEMPLATE
    return (
        "the tokenizer has no chat template: messages are written as "
        "'Human: ... Assistant: ...' transcripts, and this template is saved with the model"
    )
