"""What a folder of weights holds: whether it was committed, is finite, and can be loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from orpo.config import ORPOConfig
from orpo.errors import CheckpointError, ModelError
from orpo.evaluate import is_adapter
from orpo.runs import MANIFEST, read_manifest, read_object, typed, unfinished, verify
from orpo.train.adapters import base_of_adapter
from orpo.train.models import UNREADABLE
from orpo.train.tokenizer import load_tokenizer

__all__ = ["Saved", "examine_saved", "holds_weights", "look_into"]


@dataclass
class Saved:
    """A checkpoint or a model, as it is found on the disk.

    Attributes:
        path: Its folder.
        kind: "checkpoint" or "model".
        holds: "model", "adapter", or "" where the weights are in neither form.
        run: Which run wrote it.
        step: Optimizer steps taken.
        size: Bytes of its files.
        written: When, in UTC.
        committed: Whether it has a manifest.
        resumable: Whether a run can go on from it, if it is sound.
        damage: What makes it unusable; None if nothing does.
        tensors: Weights that were looked into; None if they were not.
        not_finite: Weight -> {"nan": count, "inf": count, "of": values}, where there are any.
        base: The model that an adapter belongs to.
        loads: Why it cannot be loaded though it is sound; None if it can, or was not looked into.
    """

    path: str
    kind: str
    holds: str
    run: str | None = None
    step: int | None = None
    size: int = 0
    written: str | None = None
    committed: bool = False
    resumable: bool = False
    damage: str | None = None
    tensors: int | None = None
    not_finite: dict[str, dict[str, int]] = field(default_factory=dict)
    base: str | None = None
    loads: str | None = None

    @property
    def usable(self) -> bool:
        """Whether it is what was written, and every weight that was looked into is a number."""
        return self.damage is None and not self.not_finite


@dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]


def holds_weights(folder: Path) -> bool:
    """Whether a folder looks like that of a model or an adapter."""
    return (
        (folder / "config.json").is_file()
        or is_adapter(folder)
        or any(folder.glob("*.safetensors"))
    )


def examine_saved(folder: Path, kind: str) -> Saved:
    """Compare a folder with its manifest, if it has one."""
    found = Saved(str(folder), kind, _form(folder), committed=(folder / MANIFEST).is_file())
    if not found.committed:
        files = [path for path in folder.glob("*") if path.is_file()]
        found.size = sum(path.stat().st_size for path in files)
        if kind == "checkpoint":
            found.damage = f"has no {MANIFEST}: it was never committed"
        elif "model" in unfinished(folder):
            found.damage = "its save was cut off"
        return found
    written = (folder / MANIFEST).stat().st_mtime
    found.written = datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")
    try:
        manifest = read_manifest(folder)
        found.run, found.step, found.size = manifest.run, manifest.step, manifest.size
        found.resumable = manifest.resumable
        verify(folder)
    except CheckpointError as error:
        found.damage = error.what
    return found


def look_into(found: Saved) -> None:
    """Read the weights one by one, the configuration and the tokenizer; fills in what is found."""
    folder = Path(found.path)
    if found.damage is not None or found.tensors is not None:
        return
    if found.kind == "model" and not found.holds:
        found.damage = "holds no *.safetensors"
        return
    try:
        found.tensors, found.not_finite = _count(folder)
    except CheckpointError as error:
        found.damage = error.what
        return
    found.base, found.loads = _would_load(folder)


def _form(folder: Path) -> str:
    if is_adapter(folder):
        return "adapter"
    return "model" if any(folder.glob("*.safetensors")) else ""


def _count(folder: Path) -> tuple[int, dict[str, dict[str, int]]]:
    """Tensors, and those with values that are no numbers; holds one tensor at a time."""
    seen: dict[str, set[str]] = {}
    not_finite = {}
    for path in sorted(folder.glob("*.safetensors")):
        if not path.is_file():
            raise CheckpointError(f"{path.name} is no file")
        try:
            with safe_open(path, framework="pt") as file:
                seen[path.name] = set(file.keys())
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    counts = _of_tensor(file.get_tensor(name))
                    if counts:
                        not_finite[name] = counts
        except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(f"{path.name} cannot be read ({error})") from error
    _require_shards(folder, seen)
    return sum(map(len, seen.values())), not_finite


def _of_tensor(values: torch.Tensor) -> dict[str, int]:
    if not values.is_floating_point():
        return {}
    if values.element_size() == 1:  # torch does not ask eight bits whether they are finite
        values = values.float()
    if bool(values.isfinite().all()):
        return {}
    nan = int(values.isnan().sum())
    return {"nan": nan, "inf": int((~values.isfinite()).sum()) - nan, "of": values.numel()}


def _require_shards(folder: Path, seen: dict[str, set[str]]) -> None:
    """What an index promises is in the files that it names."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            named: dict[str, str] = typed(_Index, read_object(index), where=index.name).weight_map
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{index.name} cannot be read ({error})") from error
        for weight, shard in named.items():
            if shard not in seen:
                raise CheckpointError(f"{shard} is missing")
            if weight not in seen[shard]:
                raise CheckpointError(f"{shard} lacks {weight}")


def _would_load(folder: Path) -> tuple[str | None, str | None]:
    """The base model, if there is one, and the first obstacle to loading, if any is seen."""
    base: str | None = None
    try:
        if is_adapter(folder):
            base = _base_of(folder)
        else:
            AutoConfig.from_pretrained(str(folder))
        load_tokenizer(str(folder), ORPOConfig(output_dir="unused"))
    except ModelError as error:
        return base, error.what
    except UNREADABLE as error:
        first = next(iter(str(error).splitlines()), repr(error))
        return base, f"config.json cannot be used ({first})"
    return base, None


def _base_of(folder: Path) -> str:
    base = base_of_adapter(folder)
    if base.startswith(("/", ".", "~")) and not Path(base).expanduser().is_dir():
        raise ModelError(f"its base model {base} is not there")
    return base
