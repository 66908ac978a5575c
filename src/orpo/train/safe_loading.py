"""Checkpoints in pieces are read as data: nothing in their files can have anything called.

`torch.distributed.checkpoint` (FSDP2) reads its index with `pickle.load`, and DeepSpeed its files
with `torch.load(weights_only=False)`: both run whatever code a file names. What they have to read
is plain, so it is read by name of what it may hold.
"""

from __future__ import annotations

import enum
import pickle
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dist_cp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from orpo.errors import CheckpointError, OrpoError

_REFUSED = "which is never run"
_INDEX = "torch.distributed.checkpoint.metadata"
_OF_AN_INDEX = (
    *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
    *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
)
_ALLOWED = {
    *((_INDEX, name) for name in _OF_AN_INDEX),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib._local", "PosixPath"),  # where Python 3.13 keeps it
}
_OF_DEEPSPEED = (
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler"),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler"),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum"),
    ("deepspeed.utils.tensor_fragment", "fragment_address"),
)


_PARTS = {
    "_load_optimizer_and_scheduler": "optimizer or schedule",
    "_load_from_checkpoint": "weights",
    "_load_scaler": "gradient scaler",
    "_load_rng_state": "random state",
}
"""Functions of transformers that read a part of a checkpoint."""


class _IndexUnpickler(pickle.Unpickler):
    """Knows the classes of an index, and numbers' dtypes; nothing else has a name here."""

    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in _ALLOWED or dtype:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"its index names {module}.{name}, {_REFUSED}")


def _member(kind: Any, name: str) -> Any:
    """In the place of `getattr`, with which Python before 3.11.4 names members of enumerations."""
    if not isinstance(kind, enum.EnumType) or name not in kind.__members__:
        raise pickle.UnpicklingError(f"its index names builtins.getattr, {_REFUSED}")
    return kind[name]


class _Reader(FileSystemReader):
    """Reads the index of a checkpoint in pieces without running what it names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
            found = _IndexUnpickler(file).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError("its index is none")
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


@contextmanager
def as_data() -> Iterator[None]:
    """Within it, checkpoints of FSDP2 and DeepSpeed are read without running code."""
    load = torch.load
    setattr(dist_cp, "FileSystemReader", _Reader)  # noqa: B010 - a name that others look up
    setattr(torch, "load", lambda *a, **k: load(*a, **{**k, "weights_only": True}))  # noqa: B010
    # What DeepSpeed's checkpoints hold beside tensors, as far as it is imported already.
    found = [getattr(sys.modules.get(module), name, None) for module, name in _OF_DEEPSPEED]
    try:
        with torch.serialization.safe_globals([one for one in found if one is not None]):
            yield
    except CheckpointException as error:  # of all ranks, and no `Exception`
        reasons = dict.fromkeys(str(failure[0]) for failure in error.failures.values())
        if any(_REFUSED in reason for reason in reasons):
            raise pickle.UnpicklingError(" ".join(reasons)) from error
        raise CheckpointError(f"its pieces cannot be read ({' '.join(reasons)})") from error
    finally:
        setattr(dist_cp, "FileSystemReader", FileSystemReader)  # noqa: B010
        setattr(torch, "load", load)  # noqa: B010


@contextmanager
def usable(checkpoint: str | None) -> Iterator[None]:
    """What a library says of a checkpoint's file that it cannot use becomes one line.

    Where there are several ranks, one of them may have been lost, and the error stays what it is.
    """
    alone = not dist.is_available() or not dist.is_initialized()
    try:
        yield
    except pickle.UnpicklingError as error:  # raised before anything in it was run
        what = "a file of it holds code, which is never run"
        raise CheckpointError(what, where=str(checkpoint)) from error
    except (OrpoError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        read = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
        what = next((part for name, part in _PARTS.items() if name in read), "")
        if not what or (isinstance(error, RuntimeError) and not alone):
            raise
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"its {what} cannot be used ({reason})", where=str(checkpoint)
        ) from error
