"""What a save needs is tried before the first step, and a save that fails keeps the weights."""

from __future__ import annotations

import contextlib
import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_model as save_weights
from torch import nn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from orpo.errors import ModelError
from orpo.train.adapters import save_adapter
from orpo.train.before.generation import settle_generation
from orpo.train.checkpoints import explain_write_error
from orpo.train.models import name_of, vocabulary_size

_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def try_saving(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    trusted: bool = False,
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
            raise ModelError(
                f"what is trained could not be saved and loaded again ({error})".rstrip("."),
                where=name_of(model) or "model",
                fix="Mend the model's configuration or its tokenizer.",
            ) from error
    return said


def _try_adapter(model: Any, scratch: str) -> None:
    from peft import PeftConfig  # noqa: PLC0415

    active = model.active_adapters
    if len(active) != 1:
        raise ModelError(
            f"{len(active)} adapters are active ({', '.join(active)}), and one can be saved",
            where=name_of(model) or "model",
            fix="Activate the one to train: model.set_adapter(NAME).",
        )
    model.peft_config[active[0]].save_pretrained(scratch)
    PeftConfig.from_pretrained(scratch)


def _settle_generation(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, in_place: bool = True
) -> list[str]:
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return []
    settings = settings if in_place else copy.deepcopy(settings)
    try:
        return settle_generation(settings, tokenizer, vocabulary_size(model))
    except ModelError as error:
        where = f"{name_of(model) or 'model'}: {error.where}"
        raise ModelError(error.what, where=where, fix=error.fix) from None


def _try_model(model: PreTrainedModel, scratch: str) -> None:
    """The model as it would be built from the saved configuration has this model's weights."""
    if model.is_remote_code():  # its code is imported by Hub id
        return
    config = type(model.config).from_pretrained(scratch)
    if (Path(scratch) / "generation_config.json").is_file():
        GenerationConfig.from_pretrained(scratch).validate(strict=True)
    with torch.device("meta"):
        empty = type(model)(config)
    expected = {name: tuple(weight.shape) for name, weight in empty.state_dict().items()}
    for name, weight in model.state_dict().items():
        shape = tuple(getattr(weight, "ds_shape", weight.shape))  # of DeepSpeed's ZeRO-3
        if expected.get(name, shape) != shape:
            raise ModelError(
                f"{name} has the shape {shape}, and its configuration says {expected[name]}",
                where=name_of(model) or "model",
                fix="Resize it with model.resize_token_embeddings, or correct model.config.",
            )


def _settle_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Ids outside the embedding make a model that cannot be loaded, or that breaks in use."""
    vocabulary, said = vocabulary_size(model), []
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if vocabulary is None:
        return []
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is not None and pad >= vocabulary and end is not None and end < vocabulary:
        said.append(
            f"the tokenizer's padding token {tokenizer.pad_token!r} is outside the model's "
            f"vocabulary of {vocabulary}: {tokenizer.eos_token!r} is used, masked"
        )
        tokenizer.pad_token = tokenizer.eos_token
    elif pad is not None and pad >= vocabulary:
        raise ModelError(
            f"the tokenizer's padding token {pad} is outside the vocabulary of {vocabulary}",
            where=name_of(model) or "model",
            fix="Use the model's own tokenizer, or model.resize_token_embeddings.",
        )
    for name in _IDS:
        value, given = getattr(text, name, None), getattr(tokenizer, name)
        if isinstance(value, int) and not 0 <= value < vocabulary:
            setattr(text, name, given)
            if given is None or name != "pad_token_id":
                said.append(f"{name} {value} of config.json is no token of the model: not saved")
    return said


def save_files(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: str, **how: Any
) -> list[str]:
    """Save a model with its tokenizer; the weights are written whatever else cannot be."""
    said, writes = [], how.get("is_main_process", True)
    adapted = hasattr(model, "peft_config")
    save: Callable[..., None] = (
        functools.partial(save_adapter, model) if adapted else cast(Any, model).save_pretrained
    )
    with contextlib.suppress(ModelError):  # then they are left out below
        _settle_generation(model, tokenizer)
    try:
        save(folder, **how)
    except Exception as error:
        if adapted or _of_the_disk(error, folder):
            raise
        said.append(f"the model's settings could not be saved as they are ({error})")
        if writes:
            _save_weights(model, folder, how.get("state_dict"))
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


def _save_weights(model: Any, folder: str, weights: dict[str, Any] | None) -> None:
    """The weights, and the configuration as it is: nobody asks whether it is sound."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if weights is None:
        save_weights(model, str(path / "model.safetensors"), metadata={"format": "pt"})
    else:
        from safetensors.torch import save_file  # noqa: PLC0415

        own = {name: weight.contiguous().clone() for name, weight in weights.items()}
        save_file(own, path / "model.safetensors", metadata={"format": "pt"})
    model.config.to_json_file(path / "config.json")
