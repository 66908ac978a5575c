"""The part of a model that reads: what it is configured to, and how far its positions go.

A model that also sees or hears keeps the sizes of each part in a configuration of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import PretrainedConfig

from orpo.engine.attention import transformer
from orpo.engine.trial import on_trial

__all__ = [
    "has_last_position",
    "positions_of_text",
    "random_ids",
    "text_config",
    "vocabulary_of",
]

_TRIED = 1024
"""Most tokens of a text that is only tried out to see whether it can be read."""


def text_config(model: nn.Module) -> Any:
    """The configuration of the part of a model that reads; None if there is none."""
    config = getattr(extract_model_from_parallel(model), "config", None)
    return config.get_text_config() if isinstance(config, PretrainedConfig) else config


def positions_of_text(model: nn.Module) -> int | None:
    """The longest text that a model was made for, in tokens; None if it does not say."""
    config = text_config(model)
    said = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    limit = next((n for n in said if isinstance(n, int) and n > 0), None)
    return min(_tables(model), default=None) if limit is None else limit


def has_last_position(model: nn.Module) -> bool:
    """Whether a model cannot read on beyond the positions that it was made for.

    It looks each of them up in a table, or else fails when it is tried with one token more, which
    only a processor gets over.
    """
    limit = positions_of_text(model)
    if limit is None:
        return False
    if any(size >= limit for size in _tables(model)):
        return True
    if limit > _TRIED or any(p.device.type != "cpu" for p in model.parameters()):
        return False
    ids = torch.tensor([random_ids(model, limit + 1, torch.Generator().manual_seed(0))])
    try:
        with on_trial(model), torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except (LookupError, RuntimeError, ValueError):
        return True
    return False


def _tables(model: nn.Module) -> list[int]:
    """Sizes of the tables of positions in the part that reads."""
    bare = transformer(model)
    reader = model if bare is None else bare.get_decoder()
    sizes = []
    for name, module in reader.named_modules():
        own = name.rsplit(".", 1)[-1]
        if isinstance(module, nn.Embedding) and ("pos" in own or own == "wpe"):
            sizes.append(module.num_embeddings)
        held = {**vars(module), **module._buffers}
        sizes += [
            len(tensor)
            for key, tensor in held.items()
            if "pos" in key and isinstance(tensor, Tensor) and tensor.is_floating_point()
        ]
    return sizes


def vocabulary_of(model: nn.Module) -> int:
    """Number of token ids that a model has an embedding for."""
    find = getattr(extract_model_from_parallel(model), "get_input_embeddings", None)
    table = None if find is None else find()
    said = getattr(table, "num_embeddings", None) or getattr(text_config(model), "vocab_size", None)
    return int(said or 2)


def random_ids(model: nn.Module, count: int, generator: torch.Generator) -> list[int]:
    """Random tokens, none of which stands for an image, a sound or the like."""
    config = getattr(extract_model_from_parallel(model), "config", None)
    stand_ins = set()
    if text_config(model) is not config:
        named = vars(config).items()
        stand_ins = {
            v for k, v in named if k.endswith(("token_id", "token_index")) and isinstance(v, int)
        }
    ids = torch.randint(0, vocabulary_of(model), (count,), generator=generator).tolist()
    while stand_ins.intersection(ids):
        others = torch.randint(0, vocabulary_of(model), (count,), generator=generator).tolist()
        ids = [b if a in stand_ins else a for a, b in zip(ids, others, strict=True)]
    return ids
