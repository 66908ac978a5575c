"""Weights: the files they may be read from, whether they are finite, their digest, what moves.

`torch.distributed.checkpoint` (FSDP2) reads its index with `pickle.load`, and DeepSpeed its files
with `torch.load(weights_only=False)`: both run whatever code a file names. What they have to read
is plain, so within `as_data` it is read by name of what it may hold.
"""

import contextlib
import enum
import hashlib
import pickle
import sys
import traceback
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dist_cp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.tensor import DTensor
from transformers.utils import cached_file

from orpo.errors import CheckpointError, DataError, ModelError, OrpoError
from orpo.runs.reading import read_object

_INDEX = "model.safetensors.index.json"
_KINDS = ("*.safetensors", "*.safetensors.index.json")
_FIX = "Weights are read from *.safetensors in the model's own folder only."


def check_weight_files(name: str, where: dict[str, Any] | None = None) -> None:
    """Refuse weights that lie elsewhere or are pickles, before any of them is read.

    An index of shards can name any file, and a link can lead to any.
    """
    where = where or {}
    folder = Path(name, where.get("subfolder", ""))
    if Path(name).is_dir():
        for path in sorted(path for kind in _KINDS for path in folder.glob(kind)):
            _check_link(path)
            if path.suffix == ".json":
                _check_index(path)
        return
    with contextlib.suppress(OSError):  # it has none, as most
        index = cached_file(name, _INDEX, **where)
        if index:  # its shards are not there yet
            _check_index(Path(index), there=False)


def _check_index(path: Path, *, there: bool = True) -> None:
    try:
        names = sorted(set(read_object(path)["weight_map"].values()))
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"is no index of shards ({error!r})", where=str(path), fix=_FIX) from error
    for name in map(str, names):
        wrong = {
            "lies elsewhere": "/" in name or "\\" in name or name in {"", ".", ".."},
            "is not safetensors": not name.endswith(".safetensors"),
            "is not there": there and not (path.parent / name).is_file(),
        }
        for what in (what for what, is_so in wrong.items() if is_so):
            raise ModelError(f"names {name}, which {what}", where=str(path), fix=_FIX)


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


_CHECKED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_NAMED = 5


def spoilt_weights(model: nn.Module) -> list[str]:
    """Names of the trained weights that are not finite, of those that lie on this rank."""
    return _not_finite((n, p.detach()) for n, p in model.named_parameters() if p.requires_grad)


def ensure_sound(model: nn.Module, where: str) -> None:
    """Refuse a model with weights that are not finite, trained or not, whether a row meets them."""
    stored = {name: weight.detach() for name, weight in model.named_parameters()}
    kept = model.state_dict(keep_vars=True)
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
    names = _not_finite(stored.items())
    names += [name for name, buffer in buffers if _checked(buffer) and bool(buffer.isnan().any())]
    if names:
        what = f"{len(names)} of its weights are not finite: {name_some(names)}"
        fix = "The files are damaged, or the training that wrote them had gone wrong."
        raise ModelError(what, where=where, fix=fix)
    get = getattr(cast(Any, model), "get_input_embeddings", None)
    table = getattr(get() if get else None, "weight", None)
    if isinstance(table, Tensor) and _checked(table) and not bool(table.detach().any()):
        raise ModelError("its embedding is all zero", where=where, fix="The files are damaged.")


def name_some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    pieces = [(name, w.to_local() if isinstance(w, DTensor) else w) for name, w in named]
    local = [(name, weight) for name, weight in pieces if _checked(weight)]
    if not local:
        return []
    norms: list[Tensor] = list(torch._foreach_norm([weight for _, weight in local], 2))
    # A norm may overflow where no entry does, so that suspects are looked at one by one.
    suspects = [one for one, norm in zip(local, norms, strict=True) if not bool(norm.isfinite())]
    return [name for name, weight in suspects if not bool(weight.isfinite().all())]


def _checked(weight: Tensor) -> bool:
    return weight.dtype in _CHECKED and not weight.is_meta and weight.numel() > 0


_DIGESTED = 256  # samples of each weight
_frozen: weakref.WeakKeyDictionary[nn.Module, str | None] = weakref.WeakKeyDictionary()


def frozen_weights(model: nn.Module) -> str | None:
    """A digest of samples of the weights that are not trained; None if all are, or lie in pieces.

    A checkpoint of an adapter does not hold them, and a local folder may have got others.
    """
    if model not in _frozen:
        _frozen[model] = _sampled([p for p in model.named_parameters() if not p[1].requires_grad])
    return _frozen[model]


def weights_digest(model: nn.Module) -> str | None:
    """A digest of samples of all weights as they are; None if they lie in pieces."""
    return _sampled([*model.named_parameters()])


def _sampled(weights: list[tuple[str, nn.Parameter]]) -> str | None:
    if not weights or any(type(p.data) is not torch.Tensor or p.is_meta for _, p in weights):
        return None
    digest = hashlib.sha256()
    for name, parameter in weights:
        flat = parameter.detach().reshape(-1)
        samples = flat[:: max(1, flat.numel() // _DIGESTED)].float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(samples.numpy().tobytes())
    return digest.hexdigest()[:32]


_HALVES = (torch.bfloat16, torch.float16)
_SAMPLES = 4096  # of each weight


def rounding_notes(model: nn.Module, learning_rate: float) -> list[str]:
    """A line on trained weights in 16 bits that a step cannot move; none where they have 32.

    An update of Adam is about as large as the learning rate. Where that is less than half the
    distance to the type's next number, the weight stays what it was, step after step.
    """
    halves = [
        parameter.detach()
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.dtype in _HALVES and parameter.dim() > 1
    ]
    if not halves:
        return []
    there = [weight for weight in halves if not weight.is_meta and weight.numel()]
    share = f"about {movable_share(there, learning_rate):.1%}" if there else "a part"
    name = str(halves[0].dtype).removeprefix("torch.")
    return [
        f"the weights that are trained are {name}: at a learning rate of {learning_rate:g} {share} "
        "of them can be moved by a step, the updates of the others are rounded away; "
        "--model_dtype float32, with --bf16 true, keeps them"
    ]


def movable_share(weights: list[Tensor], update: float) -> float:
    """The share of entries that change when an update of this size is added or taken away."""
    moved = total = 0.0
    for weight in weights:
        flat = weight.reshape(-1)
        drawn = flat[:: max(1, flat.numel() // _SAMPLES)]
        changed = (drawn.float() + update).to(weight.dtype) != drawn
        changed |= (drawn.float() - update).to(weight.dtype) != drawn
        moved += float(changed.float().mean()) * weight.numel()
        total += weight.numel()
    return moved / total


_REFUSED = "which is never run"
_METADATA = "torch.distributed.checkpoint.metadata"
_OF_AN_INDEX = (
    *("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
    *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
)
_ALLOWED = {
    *((_METADATA, name) for name in _OF_AN_INDEX),
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
