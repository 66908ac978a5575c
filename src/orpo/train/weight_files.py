"""Which files the weights of a model may be read from: safetensors, and its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from orpo.errors import DataError, ModelError
from orpo.runs import read_object

__all__ = ["check_weight_files"]

_INDEX = "model.safetensors.index.json"
_KINDS = ("*.safetensors", "*.safetensors.index.json")
_FIX = "Weights are read from *.safetensors in the model's own folder only."


def check_weight_files(name: str, where: dict[str, Any] | None = None) -> None:
    """Refuse weights that lie elsewhere or are pickles, before any of them is read.

    An index of shards can name any file, and a link can lead to any.

    Args:
        name: A folder of a model, an adapter or a checkpoint, or a Hub id.
        where: What `fetching` gives.

    Raises:
        ModelError: Names the index and the file, or the link.
    """
    where = where or {}
    folder = Path(name, where.get("subfolder", ""))
    if Path(name).is_dir():
        for path in sorted(path for kind in _KINDS for path in folder.glob(kind)):
            _check_link(path)
            if path.suffix == ".json":
                _check_index(path)
        return
    index = _cached(name, where)
    if index is not None:  # its shards are not there yet
        _check_index(index, there=False)


def _cached(name: str, where: dict[str, Any]) -> Path | None:
    try:
        found = cached_file(name, _INDEX, **where)
    except OSError:  # it has none, as most
        return None
    return Path(found) if found else None


def _check_index(path: Path, *, there: bool = True) -> None:
    try:
        names = sorted(set(read_object(path)["weight_map"].values()))
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"is no index of shards ({error!r})", where=str(path), fix=_FIX) from error
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"names {name!r}, which is no file", where=str(path), fix=_FIX)
        if "/" in name or "\\" in name or name in {"", ".", ".."}:
            raise ModelError(f"names {name}, which lies elsewhere", where=str(path), fix=_FIX)
        if not name.endswith(".safetensors"):
            raise ModelError(f"names {name}, which is not safetensors", where=str(path), fix=_FIX)
        if there and not (path.parent / name).is_file():
            raise ModelError(f"names {name}, which is not there", where=str(path), fix=_FIX)


def _check_link(path: Path) -> None:
    """A link must stay in the folder; those of the Hub's cache lead to its blobs."""
    try:
        target, home = path.resolve(), path.parent.resolve()
    except (OSError, RuntimeError) as error:  # Python 3.13 says otherwise that links go in circles
        raise ModelError("is a link that leads nowhere", where=str(path), fix=_FIX) from error
    blobs = target.parent
    in_cache = blobs.name == "blobs" and blobs.parent.name.startswith("models--")
    if path.is_symlink() and target.parent != home and not in_cache:
        raise ModelError(f"is a link to {target}", where=str(path), fix=_FIX)
