"""A model's generation_config.json: read, and put in a form that can be saved and used again.

Published files hold what transformers refuses to write again, such as a temperature without
do_sample. A run must not find that out when its steps are taken.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.generation import (
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from orpo.data.tokenize import answer_endings
from orpo.errors import ModelError

_FILE = "generation_config.json"
_MEND = f"Mend the model's {_FILE}, or delete it."
_OF_SAMPLING = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
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
_SWITCHES = ("do_sample", "use_cache")
_NUMBERS = (
    *("temperature", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("repetition_penalty", "length_penalty"),
)
_TRIED: dict[str, tuple[Callable[[Any], object], tuple[Any, ...]]] = {
    "temperature": (TemperatureLogitsWarper, (1.0,)),
    "top_k": (TopKLogitsWarper, (0,)),
    "top_p": (TopPLogitsWarper, (1.0,)),
    "min_p": (MinPLogitsWarper, ()),
    "typical_p": (TypicalLogitsWarper, (1.0,)),
    "repetition_penalty": (RepetitionPenaltyLogitsProcessor, (1.0,)),
    "no_repeat_ngram_size": (NoRepeatNGramLogitsProcessor, (0,)),
}
"""What `generate` makes of a setting, and the values of which it makes nothing."""


def read_generation_settings(name: str, where: dict[str, Any]) -> GenerationConfig | None:
    """The settings of a model's folder or Hub id; None where it has none."""
    try:
        found: GenerationConfig = GenerationConfig.from_pretrained(name, **where)
        return found
    except OSError as error:
        if not isinstance(error.__context__, json.JSONDecodeError | UnicodeDecodeError):
            return None
        reason: Exception = ValueError("it is not JSON")
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = error
    raise ModelError(f"{_FILE}: {reason}".rstrip("."), where=name, fix=_MEND) from reason


def settle_generation(
    settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None
) -> list[str]:
    """Mend in place what can be mended without a change of meaning; a line for each.

    What ends an answer is added: whoever generates with the saved model, a server above all, looks
    there and nowhere else.
    """
    for name in (*_WHOLE, *_SWITCHES, *_NUMBERS):
        _check_kind(name, getattr(settings, name, None))
    said = _settle_ids(settings, tokenizer, vocabulary)
    said += _settle_sampling(settings)
    said += _drop_what_has_no_effect(settings)
    for name, (make, nothing) in _TRIED.items():
        value = getattr(settings, name, None)
        if value is not None and value not in nothing:
            _try(name, value, make)
    return said


def _settle_sampling(settings: GenerationConfig) -> list[str]:
    """Whoever sets a temperature means answers to be drawn; at 0, the likeliest token each time."""
    greedy = settings.temperature == 0
    drawn = [n for n, off in _OF_SAMPLING.items() if getattr(settings, n, None) not in {None, off}]
    if greedy:
        settings.do_sample = False
        for name in drawn:
            setattr(settings, name, None)
        return [f"{_FILE} sets a temperature of 0: it is saved as do_sample false"]
    if not drawn or settings.do_sample is True:
        return []
    settings.do_sample = True
    return [
        f"{_FILE} sets {', '.join(drawn)} without do_sample, which transformers refuses to save: "
        "do_sample true is saved, so that they count"
    ]


def _check_kind(name: str, value: Any) -> None:
    if value is None:
        return
    kind: Any = bool if name in _SWITCHES else Integral if name in _WHOLE else Real
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return
    wanted = {bool: "true or false", Integral: "a whole number"}.get(kind, "a number")
    raise ModelError(f"{name} must be {wanted}, is {value!r}", where=_FILE, fix=_MEND)


def _settle_ids(
    settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None
) -> list[str]:
    """Ids outside the vocabulary go, what ends an answer comes."""
    said = []
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(settings, name)
        given = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
        if not all(isinstance(one, Integral) and not isinstance(one, bool) for one in given):
            raise ModelError(f"{name} must be token ids, is {value!r}", where=_FILE, fix=_MEND)
        ids = range(vocabulary if vocabulary is not None else 2**31)
        outside = [one for one in given if one not in ids]
        kept: list[Any] = [one for one in given if one not in outside]
        if outside:
            setattr(settings, name, kept or None)
            said.append(f"{name} {outside[0]} is no token of the model: it is left out of {_FILE}")
        if name == "eos_token_id":
            missing = sorted(answer_endings(tokenizer) - set(kept))
            if missing:
                settings.eos_token_id = [*kept, *missing]
    return said


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
        raise ModelError(complaint, where=_FILE, fix=_MEND)
    if not dropped:
        return []
    have = "has" if len(dropped) == 1 else "have"
    return [f"{_FILE}: {', '.join(dropped)} {have} no effect and cannot be saved: left out"]


def _complaint(settings: GenerationConfig) -> str:
    """Why transformers would not save the settings; empty if it would."""
    try:
        settings.validate(strict=True)
    except (ValueError, TypeError, AttributeError) as error:
        return str(error)
    return ""


def _try(name: str, value: Any, make: Callable[[Any], object]) -> None:
    try:
        make(value)
    except (ValueError, TypeError) as error:
        reason = f"{name} {value!r} cannot be used ({error})"
        raise ModelError(reason, where=_FILE, fix=_MEND) from error
