"""What a run is made of, beside its settings: told from content, not from names."""

from __future__ import annotations

import hashlib
import re
import weakref
from typing import Any, cast

import datasets
import numpy as np
import pyarrow.compute as pc
from torch import nn

from orpo.data.types import COLUMNS
from orpo.train.weights import frozen_weights

_TOKENS = COLUMNS[:3]
_TOGETHER = 1000  # rows
_OF_NO_MATTER = ("base_model_name_or_path", "inference_mode", "auto_mapping", "peft_version")
_LAYER = re.compile(r"\.\d+(?=\.|$)")
_known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def identity(model: nn.Module, train_dataset: Any) -> dict[str, Any]:
    """Entries of a recipe's `_run` by which a run that goes on is recognised."""
    adapters: dict[str, Any] = {}  # what makes each compute what it computes, by its name
    for adapter, config in (cast(Any, getattr(model, "peft_config", None)) or {}).items():
        settings = {k: v for k, v in sorted(config.to_dict().items()) if k not in _OF_NO_MATTER}
        adapters[str(adapter)] = {name: _plain(value) for name, value in settings.items() if value}
    return {
        "data_fingerprint": data_fingerprint(train_dataset),
        "model_commit": getattr(model, "loaded_commit", None),
        "adapter_settings": adapters or None,
        "frozen_weights": frozen_weights(model),
    }


def data_fingerprint(dataset: Any) -> str | None:
    """A digest of the token ids and weights of prepared pairs, in order; None for a stream.

    It depends neither on where the data set lies nor on what it was made from.
    """
    if not isinstance(dataset, datasets.Dataset) or not {*_TOKENS} <= {*dataset.column_names}:
        return None
    if dataset in _known:
        return _known[dataset]
    # Lengths apart from values, so that it does not matter how the rows are cut into batches.
    digests = [hashlib.sha256() for _ in range(2 * len(_TOKENS) + 1)]
    for table in dataset.with_format("arrow").iter(_TOGETHER):
        columns: list[tuple[Any, type[np.generic]]] = []
        for name in _TOKENS:
            ids = table.column(name)
            columns.append((pc.fill_null(pc.list_value_length(ids), -1), np.int32))
            columns.append((pc.list_flatten(ids), np.int32))
        if "weight" in table.column_names:
            columns.append((table.column("weight"), np.float32))
        for digest, (values, kind) in zip(digests, columns, strict=False):
            digest.update(np.ascontiguousarray(values.to_numpy(), kind).data)
    together = "".join(digest.hexdigest() for digest in digests).encode()
    _known[dataset] = hashlib.sha256(together).hexdigest()[:32]
    return _known[dataset]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):  # names of modules, once for all layers
        return sorted({_LAYER.sub(".*", str(_plain(one))) for one in value})
    value = getattr(value, "value", value)
    return value if isinstance(value, bool | int | float | str) else str(value)
