"""Whose a run folder is: what a run may go on from, what it must not touch, what it replaces."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from orpo.errors import CheckpointError, ConfigError, ModelError
from orpo.runs import (
    AUDIT,
    EVALUATION,
    EVENTS,
    MANIFEST,
    METRICS,
    RECIPE,
    REPORT,
    SAMPLES,
    SCORES,
    checkpoints,
    read_manifest,
    read_recipe,
    remove,
    staging,
    unfinished,
)
from orpo.train.adapters import ADAPTER_FILE, base_of_adapter

if TYPE_CHECKING:
    from orpo.jobs.train_job import TrainJob

__all__ = ["claim", "clear", "is_replaced"]

_MODEL = ("config.json", ADAPTER_FILE, "model*.safetensors", "adapter_model*.safetensors")
_OF_THE_RUN = (REPORT, METRICS, EVENTS, AUDIT, EVALUATION, SAMPLES, SCORES)
_OF_A_RUN = (
    *_MODEL,
    "*.safetensors.index.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "trainer_state.json",
    "nonfinite-step-*.json",
    "stall-*.txt",
    "README.md",
    *_OF_THE_RUN,
)


def claim(folder: Path, job: TrainJob) -> str | bool:
    """What to go on from, looking only at names: a checkpoint's path, True for the newest, False.

    Args:
        folder: The run folder that is asked for.
        job: Says whether to go on or to replace, and what is read.

    Raises:
        ConfigError: The folder holds what must not be lost, or there is nothing to go on from.
    """
    _keep_apart(folder, job)
    _keep_room(folder)
    if job.resume not in {None, "newest", "auto"}:
        return _named(folder, Path(str(job.resume)))
    if checkpoints(folder) and job.resume:
        return True
    if job.resume == "newest":
        raise _nothing_there(folder)
    held = _held(folder)
    if held is None or job.overwrite or (job.resume == "auto" and _only_begun(folder)):
        return False
    way = "--resume to go on, --overwrite to replace it" if held == "a run" else "--overwrite"
    raise ConfigError(
        f"the folder already holds {held}",
        where=str(folder),
        fix=f"Use {way}, or another --output_dir.",
    )


def is_replaced(job: TrainJob, resume_from: str | bool) -> bool:
    """Whether what the folder holds makes room for a fresh run."""
    return job.overwrite and not resume_from


def clear(folder: Path) -> None:
    """Delete whatever a run leaves behind and could be taken for a part of the next one."""
    gone = (".replaced-*", ".deleting-*", "abandoned-checkpoint-*")
    for path in [*checkpoints(folder), *(path for name in gone for path in folder.glob(name))]:
        remove(path)
    for name in unfinished(folder):
        remove(staging(folder, name))
    try:
        written = [folder / name for name in read_manifest(folder).files]
    except CheckpointError:
        written = []
    own = [path for path in written if _real(path).is_relative_to(_real(folder))]
    # The recipe goes last: what is only half deleted is still known to be a run.
    names = (MANIFEST, *_OF_A_RUN, RECIPE)
    for path in [*own, *(path for name in names for path in folder.glob(name))]:
        if not path.is_dir() or path.is_symlink():
            remove(path)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _keep_apart(folder: Path, job: TrainJob) -> None:
    """What is read is never written over, asked or not."""
    place = _real(folder)
    for flag, path in _sources(job):
        if path == place:
            raise ConfigError(
                f"is the folder of {flag}, which would be lost",
                where=f"--output_dir {folder}",
                fix="Give another --output_dir.",
            )
        doomed = [_real(one) for one in checkpoints(folder)] if job.overwrite else []
        if any(path.is_relative_to(one) for one in doomed):
            raise ConfigError(
                f"would delete the folder of {flag}, {path.relative_to(place)}",
                where="--overwrite",
                fix="Give another --output_dir.",
            )


def _keep_room(folder: Path) -> None:
    """A folder in the place of a file is known now, not when the file is to be written."""
    for name in (RECIPE, "README.md", "trainer_state.json", MANIFEST, *_OF_THE_RUN):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            raise ConfigError(
                "is a folder, where a run writes a file",
                where=str(path),
                fix="Move it away, or give another --output_dir.",
            )


def _sources(job: TrainJob) -> list[tuple[str, Path]]:
    """The folders that the model comes from; a Hub id is as good as a path that is not there."""
    named = [("--model", job.model), ("--tokenizer", job.tokenizer)]
    if (Path(str(job.model)) / ADAPTER_FILE).is_file():
        with contextlib.suppress(ModelError):  # the loader has more to say about it
            named.append(("the adapter's base model", base_of_adapter(str(job.model))))
    return [(flag, _real(Path(str(name)))) for flag, name in named if name]


def _named(folder: Path, path: Path) -> str:
    if not path.is_dir():
        raise _nothing_there(path)
    inside = _real(path).parent == _real(folder)
    held = _held(folder)
    if inside or held is None or _begun_from(folder, path):
        return str(path)
    raise ConfigError(
        f"the folder already holds {held}, and {path} lies elsewhere",
        where=str(folder),
        fix="Give another --output_dir to go on in.",
    )


def _begun_from(folder: Path, path: Path) -> bool:
    """Whether the folder's run went on from there, and has not yet come to a checkpoint."""
    if not _only_begun(folder) or checkpoints(folder) or not (folder / RECIPE).is_file():
        return False
    facts = read_recipe(folder).get("_run")
    run = facts.get("id") if isinstance(facts, dict) else None
    try:
        return run is not None and run == read_manifest(path).run
    except CheckpointError:
        return False


def _only_begun(folder: Path) -> bool:
    """Whether a run was stopped ahead of its first checkpoint: there is no model yet."""
    return (folder / RECIPE).is_file() and not _holds_model(folder)


def _holds_model(folder: Path) -> bool:
    return any(path for name in (MANIFEST, *_MODEL) for path in folder.glob(name))


def _held(folder: Path) -> str | None:
    """What the folder holds that would be lost, in words."""
    if (folder / RECIPE).exists():
        return "a run"
    if checkpoints(folder):
        return f"checkpoints ({checkpoints(folder)[-1].name})"
    return "a model" if _holds_model(folder) else None


def _nothing_there(where: Path) -> ConfigError:
    return ConfigError(
        "there is no checkpoint to go on from",
        where=str(where),
        fix="Leave --resume out to start afresh.",
    )
