"""What is about to be loaded is what was committed, or it is refused."""

from __future__ import annotations

from pathlib import Path

from orpo.errors import CheckpointError
from orpo.runs.commit import unfinished
from orpo.runs.manifest import MANIFEST, Manifest, verify

__all__ = ["ensure_as_committed"]


def ensure_as_committed(folder: Path) -> Manifest | None:
    """Compare a model's files with its manifest; one that has none is not ours to judge.

    The optimizer of a checkpoint is not read: a model is loaded without it.

    Raises:
        CheckpointError: A file is missing or was changed; or a save of the model was cut off.
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
