"""What a save needs is tried before the first step, and a save that fails keeps the weights.

Published models come with what transformers refuses to write again, such as a temperature without
do_sample in generation_config.json. A run must not find that out when its steps are taken.
"""

import contextlib
import copy
import tempfile
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file, save_model
from torch import nn
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers import generation as hf

from orpo.data.tokenize import answer_endings
from orpo.errors import ModelError
from orpo.train.adapters import save_adapter
from orpo.train.checkpoints import explain_write_error
from orpo.train.models import GENERATION, MEND, name_of, vocabulary_size

_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
_OF_SAMPLING = {
    **{"temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0},
    **{"min_p": None, "top_h": None, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
}
"""What only counts where answers are drawn, with the values that change nothing."""
_WITHOUT_EFFECT = (
    *("early_stopping", "length_penalty", "cache_implementation", "cache_config", "pad_token_id"),
    *("output_scores", "output_logits", "output_attentions", "output_hidden_states"),
    *("num_beam_groups", "diversity_penalty", "constraints", "force_words_ids"),
)
"""What transformers ignores, and refuses to save, where beams, a cache or outputs are not used."""
_WHOLE = (
    *("num_beams", "num_return_sequences", "max_length", "max_new_tokens", "top_k"),
    *("min_length", "min_new_tokens", "no_repeat_ngram_size"),
)
_NUMBERS = (
    *("temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("repetition_penalty", "length_penalty"),
)
_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(_WHOLE, (Integral, "a whole number")),
    **dict.fromkeys(("do_sample", "use_cache"), (bool, "true or false")),
    **dict.fromkeys(_NUMBERS, (Real, "a number")),
}
_TRIED: dict[str, tuple[Callable[[Any], object], tuple[Any, ...]]] = {
    "temperature": (hf.TemperatureLogitsWarper, (None, 1.0)),
    "top_k": (hf.TopKLogitsWarper, (None, 0)),
    "top_p": (hf.TopPLogitsWarper, (None, 1.0)),
    "min_p": (hf.MinPLogitsWarper, (None,)),
    "typical_p": (hf.TypicalLogitsWarper, (None, 1.0)),
    "repetition_penalty": (hf.RepetitionPenaltyLogitsProcessor, (None, 1.0)),
    "no_repeat_ngram_size": (hf.NoRepeatNGramLogitsProcessor, (None, 0)),
}
"""What `generate` makes of a setting, and the values of which it makes nothing."""


def try_saving(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, trusted: bool = False
) -> list[str]:
    """Write all of a model but its weights to a scratch folder, and load it again.

    What cannot be saved, or not be loaded again, and can be mended without a change of meaning is
    mended in place; of an adapter it is its own settings and the tokenizer.
    """
    adapted = hasattr(model, "peft_config")
    said = _settle_ids(model, tokenizer)
    mended = _settle_generation(model, tokenizer, in_place=not adapted)
    said += [] if adapted else mended  # an adapter is saved without them, and merged with them
    with tempfile.TemporaryDirectory(prefix="orpo-") as scratch:
        try:
            if adapted:
                _try_adapter(model, scratch)
            elif isinstance(model, PreTrainedModel):
                model.save_pretrained(scratch, state_dict={})
                model.config.save_pretrained(scratch)  # the line above: on the first rank only
                _try_model(model, scratch)
            tokenizer.save_pretrained(scratch)
            AutoTokenizer.from_pretrained(scratch, trust_remote_code=trusted)
        except (ModelError, OSError):
            raise
        except Exception as error:
            what = f"what is trained could not be saved and loaded again ({error})".rstrip(".")
            fix = "Mend the model's configuration or its tokenizer."
            raise ModelError(what, where=name_of(model) or "model", fix=fix) from error
    return said


def _settle_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Ids outside the embedding make a model that cannot be loaded, or that breaks in use."""
    vocabulary, said = vocabulary_size(model), []
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if vocabulary is None:
        return []
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is not None and pad >= vocabulary:
        if end is None or end >= vocabulary:
            what = f"the tokenizer's padding token {pad} is outside the vocabulary of {vocabulary}"
            fix = "Use the model's own tokenizer, or model.resize_token_embeddings."
            raise ModelError(what, where=name_of(model) or "model", fix=fix)
        said.append(
            f"the tokenizer's padding token {tokenizer.pad_token!r} is outside the model's "
            f"vocabulary of {vocabulary}: {tokenizer.eos_token!r} is used, masked"
        )
        tokenizer.pad_token = tokenizer.eos_token
    for name in _IDS:
        value, given = getattr(text, name, None), getattr(tokenizer, name)
        if isinstance(value, int) and not 0 <= value < vocabulary:
            setattr(text, name, given)
            if given is None or name != "pad_token_id":
                said.append(f"{name} {value} of config.json is no token of the model: not saved")
    return said


def _try_adapter(model: Any, scratch: str) -> None:
    from peft import PeftConfig  # noqa: PLC0415 - slow

    active = model.active_adapters
    if len(active) != 1:
        what = f"{len(active)} adapters are active ({', '.join(active)}), and one can be saved"
        fix = "Activate the one to train: model.set_adapter(NAME)."
        raise ModelError(what, where=name_of(model) or "model", fix=fix)
    model.peft_config[active[0]].save_pretrained(scratch)
    PeftConfig.from_pretrained(scratch)


def _try_model(model: PreTrainedModel, scratch: str) -> None:
    """The model as it would be built from the saved configuration has this model's weights."""
    if model.is_remote_code():  # its code is imported by Hub id
        return
    config = type(model.config).from_pretrained(scratch)
    if Path(scratch, GENERATION).is_file():
        GenerationConfig.from_pretrained(scratch).validate(strict=True)
    with torch.device("meta"):
        empty = type(model)(config)
    expected = {name: tuple(weight.shape) for name, weight in empty.state_dict().items()}
    for name, weight in model.state_dict().items():
        shape = tuple(getattr(weight, "ds_shape", weight.shape))  # of DeepSpeed's ZeRO-3
        if expected.get(name, shape) != shape:
            what = f"{name} has the shape {shape}, and its configuration says {expected[name]}"
            fix = "Resize it with model.resize_token_embeddings, or correct model.config."
            raise ModelError(what, where=name_of(model) or "model", fix=fix)


# What generate is told


def _settle_generation(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, in_place: bool = True
) -> list[str]:
    """Mend in place what can be mended without a change of meaning; a line for each.

    What ends an answer is added: whoever generates with the saved model, a server above all, looks
    there and nowhere else.
    """
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return []
    settings = settings if in_place else copy.deepcopy(settings)
    try:
        for name, (kind, words) in _KINDS.items():
            value = getattr(settings, name, None)
            fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
            if value is not None and not fits:
                raise _refused(f"{name} must be {words}, is {value!r}")
        said = _settle_tokens(settings, tokenizer, vocabulary_size(model))
        said += _settle_sampling(settings)
        said += _drop_what_has_no_effect(settings)
        for name, (make, nothing) in _TRIED.items():
            value = getattr(settings, name, None)
            try:
                if value not in nothing:
                    make(value)
            except (ValueError, TypeError) as error:
                raise _refused(f"{name} {value!r} cannot be used ({error})") from error
        return said
    except ModelError as error:
        where = f"{name_of(model) or 'model'}: {error.where}"
        raise ModelError(error.what, where=where, fix=error.fix) from None


def _refused(what: str) -> ModelError:
    return ModelError(what, where=GENERATION, fix=MEND)


def _settle_tokens(
    settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None
) -> list[str]:
    """Ids outside the vocabulary go, what ends an answer comes."""
    said, ids = [], range(vocabulary if vocabulary is not None else 2**31)
    for name in _IDS:
        value = getattr(settings, name)
        given = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
        if not all(isinstance(one, Integral) and not isinstance(one, bool) for one in given):
            raise _refused(f"{name} must be token ids, is {value!r}")
        kept = [one for one in given if one in ids]
        if len(kept) < len(given):
            outside = next(one for one in given if one not in ids)
            setattr(settings, name, kept or None)
            said.append(
                f"{name} {outside} is no token of the model: it is left out of {GENERATION}"
            )
        if name == "eos_token_id":
            missing = sorted(answer_endings(tokenizer) - set(kept))
            if missing:
                settings.eos_token_id = [*kept, *missing]
    return said


def _settle_sampling(settings: GenerationConfig) -> list[str]:
    """Whoever sets a temperature means answers to be drawn; at 0, the likeliest token each time."""
    drawn = [n for n, off in _OF_SAMPLING.items() if getattr(settings, n, None) not in {None, off}]
    if settings.temperature == 0:
        settings.do_sample = False
        for name in drawn:
            setattr(settings, name, None)
        return [f"{GENERATION} sets a temperature of 0: it is saved as do_sample false"]
    if not drawn or settings.do_sample is True:
        return []
    settings.do_sample = True
    return [
        f"{GENERATION} sets {', '.join(drawn)} without do_sample, which transformers refuses to "
        "save: do_sample true is saved, so that they count"
    ]


def _drop_what_has_no_effect(settings: GenerationConfig) -> list[str]:
    """Leave out what transformers would refuse to save, one by one, and only that."""
    dropped = []
    for name in _WITHOUT_EFFECT:
        complaint = _complaint(settings)
        if not complaint:
            break
        without = copy.copy(settings)
        setattr(without, name, None)
        if getattr(settings, name, None) is not None and _complaint(without) != complaint:
            setattr(settings, name, None)
            dropped.append(name)
    complaint = _complaint(settings)
    if complaint:
        raise _refused(complaint)
    have = "has" if len(dropped) == 1 else "have"
    line = f"{GENERATION}: {', '.join(dropped)} {have} no effect and cannot be saved: left out"
    return [line] if dropped else []


def _complaint(settings: GenerationConfig) -> str:
    """Why transformers would not save the settings; empty if it would."""
    try:
        settings.validate(strict=True)
    except (ValueError, TypeError, AttributeError) as error:
        return str(error)
    return ""


# The save itself


def save_files(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: str, **how: Any
) -> list[str]:
    """Save a model with its tokenizer; the weights are written whatever else cannot be."""
    said, writes = [], how.get("is_main_process", True)
    adapted = hasattr(model, "peft_config")
    with contextlib.suppress(ModelError):  # then they are left out below
        _settle_generation(model, tokenizer)
    try:
        if adapted:
            save_adapter(model, folder, **how)
        else:
            cast(Any, model).save_pretrained(folder, **how)
    except Exception as error:
        if adapted or _of_the_disk(error, folder):
            raise
        said.append(f"the model's settings could not be saved as they are ({error})")
        if writes:
            _save_weights(model, Path(folder), how.get("state_dict"))
    if writes:
        try:
            tokenizer.save_pretrained(folder)
        except Exception as error:
            if _of_the_disk(error, folder):
                raise
            said.append(f"the tokenizer could not be saved ({error}): the base model's fits")
    return [" ".join(line.split()) for line in said]


def _of_the_disk(error: Exception, folder: str) -> bool:
    return isinstance(error, OSError) or explain_write_error(error, Path(folder)) is not None


def _save_weights(model: Any, folder: Path, weights: dict[str, Any] | None) -> None:
    """The weights, and the configuration as it is: nobody asks whether it is sound."""
    folder.mkdir(parents=True, exist_ok=True)
    path, metadata = folder / "model.safetensors", {"format": "pt"}
    if weights is None:
        save_model(model, str(path), metadata=metadata)
    else:
        own = {name: weight.contiguous().clone() for name, weight in weights.items()}
        save_file(own, path, metadata=metadata)
    model.config.to_json_file(folder / "config.json")
