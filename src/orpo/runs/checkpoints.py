"""The checkpoints of a run folder: which there are, which can be trusted, which may go.

What is about to be loaded is what was committed, or it is refused.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from orpo.errors import CheckpointError
from orpo.runs.commit import delete, unfinished
from orpo.runs.manifest import MANIFEST, Manifest, read_manifest, verify

_NAME = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that verifies, and what was passed over for it."""

    path: Path | None = None  # its folder; None if there is none
    manifest: Manifest | None = None  # what it holds
    # newer ones, each with the reason why it cannot be used
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def checkpoint_name(step: int) -> str:
    """What the checkpoint after so many steps is called."""
    return f"checkpoint-{step}"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, whatever state they are in."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=_step_of)


def newest_checkpoint(folder: Path, run: str | None = None) -> Found:
    """The newest checkpoint that a run can go on from."""
    skipped: list[tuple[Path, str]] = []
    for path in reversed(checkpoints(folder)):
        try:
            return Found(path, verify_resumable(path, run), skipped)
        except CheckpointError as error:
            skipped.append((path, error.what))
    return Found(skipped=skipped)


def verify_resumable(path: Path, run: str | None = None) -> Manifest:
    """Make sure that a run can go on from a checkpoint; the cheap questions come first."""
    found = read_manifest(path)
    if run is not None and found.run != run:
        raise CheckpointError("belongs to another run", where=str(path))
    if not found.resumable:
        raise CheckpointError("holds no optimizer (save_only_model)", where=str(path))
    return verify(path)


def rotate(folder: Path, keep: int, *, run: str, best: str | None = None) -> list[Path]:
    """Delete the oldest checkpoints of a run, if the newest one verifies."""
    found = [path for path in checkpoints(folder) if _run_of(path) == run]
    for path in found[-1:]:
        verify(path)
    protected = set(found[-1:])
    protected |= {path for path in found if best is not None and path == Path(best)}
    surplus = len(found) - max(keep, len(protected))
    gone = [path for path in found if path not in protected][: max(surplus, 0)]
    for path in gone:
        delete(path)
    return gone


def set_aside(folder: Path, *, after: int = 0, run: str | None = None) -> dict[Path, Path]:
    """Rename the checkpoints that come after the one that a run goes on from, or all of them.

    To what the run is about to do they are no continuation: left in place, they would be taken for
    its newest. Nothing of them is lost.
    """
    moved = {}
    for path in checkpoints(folder):
        if _step_of(path) > after and (run is None or _run_of(path) in {run, None}):
            name, count = f"abandoned-{path.name}", 1
            while os.path.lexists(folder / name):
                count += 1
                name = f"abandoned-{path.name}-{count}"
            moved[path] = path.rename(folder / name)
    return moved


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _run_of(path: Path) -> str | None:
    try:
        return read_manifest(path).run
    except CheckpointError:
        return None


def ensure_as_committed(folder: Path) -> Manifest | None:
    """Compare a model's files with its manifest; one that has none is not ours to judge.

    The optimizer of a checkpoint is not read: a model is loaded without it.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.exists() and not path.is_file() and not path.is_dir():  # who opens a pipe waits
            raise CheckpointError("is no file", where=str(path), fix="Delete it.")
    if (folder / MANIFEST).is_file():
        try:
            return verify(folder, training_state=False)
        except CheckpointError as error:
            raise CheckpointError(
                error.what,
                where=error.where,
                fix=f"`orpo doctor {folder}` says what is sound; delete {MANIFEST} if the change "
                "was meant.",
            ) from error
    if "model" in unfinished(folder):
        raise CheckpointError(
            "the save of this model was cut off",
            where=str(folder),
            fix=f"`orpo doctor {folder}` says what is sound.",
        )
    return None
