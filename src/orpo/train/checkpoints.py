"""Checkpoints of a run: written aside and committed by all ranks, found again, gone on from."""

import contextlib
import errno
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from huggingface_hub import HfApi
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from orpo.errors import CheckpointError, ConfigError, DataError, OrpoError, SaveError
from orpo.runs.checkpoints import (
    checkpoint_name,
    checkpoints,
    newest_checkpoint,
    verify_resumable,
)
from orpo.runs.commit import commit, commit_files, stage, staging
from orpo.runs.files import RECIPE, read_recipe
from orpo.runs.manifest import read_manifest
from orpo.runs.reading import read_object
from orpo.runs.typed import typed
from orpo.runs.writing import remove

T = TypeVar("T")

PROGRESS = "progress.json"
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_WRITE_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "there is no permission to write",
    errno.EPERM: "there is no permission to write",
    errno.EIO: "the disk reports an error",
    errno.EISDIR: "a folder stands in its place",
    errno.ENOTDIR: "a file stands in the place of a folder",
    errno.ELOOP: "a link there leads nowhere",
    errno.ENAMETOOLONG: "the name is too long",
}
_NONE = "there is no checkpoint to go on from"
_AFRESH = "Leave --resume (resume_from_checkpoint) out to start afresh."
_LITTLE = 2**20  # bytes that are left on a disk that is full


def committing(
    folder: Path, step: int, run: str, args: TrainingArguments
) -> AbstractContextManager[Path]:
    """A folder for `checkpoint-<step>`, which all ranks commit together when the block ends."""
    name, resumable = checkpoint_name(step), not args.save_only_model

    def finish(aside: Path) -> None:
        commit(aside / name, folder / name, run=run, step=step, resumable=resumable)
        aside.rmdir()

    return _aside(folder, name, args, finish)


def committing_model(
    folder: Path, step: int, run: str, args: TrainingArguments
) -> AbstractContextManager[Path]:
    """The same for the files of a model that is to lie in the folder itself."""
    finish = functools.partial(commit_files, folder=folder, run=run, step=step)
    return _aside(folder, "model", args, finish)


@contextlib.contextmanager
def _aside(
    folder: Path, name: str, args: TrainingArguments, finish: Callable[[Path], object]
) -> Iterator[Path]:
    everyone, aside = PartialState(), staging(folder, name)
    try:
        if args.should_save:
            stage(folder, name)
        everyone.wait_for_everyone()
        yield aside
        everyone.wait_for_everyone()
        if args.should_save:
            finish(aside)
        everyone.wait_for_everyone()
    except OrpoError:
        raise
    except Exception as error:
        reason = explain_write_error(error, folder)
        if reason is None:
            raise
        if args.should_save:
            with contextlib.suppress(OSError):
                remove(aside)
        newest = newest_checkpoint(folder).path
        left = "There is no earlier checkpoint: see to the disk and start again."
        if newest is not None:
            left = f"{newest.name} is intact: see to the disk and go on with --resume."
        raise SaveError(f"{folder / name} could not be written: {reason}. {left}") from error


def explain_write_error(error: BaseException, folder: Path) -> str | None:
    """Why a file could not be written, in words; None for an error of another kind.

    torch and safetensors report a full disk as errors of their own, so the disk is asked as well.
    """
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        told = [words for code, words in _WRITE_ERRORS.items() if f"os error {code})" in str(seen)]
        if number in _WRITE_ERRORS:
            told.append(_WRITE_ERRORS[number])
        if told:
            full = told[0] in {_WRITE_ERRORS[errno.ENOSPC], _WRITE_ERRORS[errno.EDQUOT]}
            return f"{told[0]}{_room(folder) if full else ''}"
        seen = seen.__cause__ or seen.__context__
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < _LITTLE:
            return f"the disk is full{_room(folder)}"
    return None


def _room(folder: Path) -> str:
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(folder)
        return f" ({usage.free / 1e6:,.1f} MB of {usage.total / 1e6:,.0f} MB are free)"
    return ""


def find_checkpoint(asked: str | Path | bool, folder: Path) -> tuple[Path, str, list[str]]:
    """The checkpoint to go on from, the same on all ranks."""
    return told_by_the_first_rank(
        lambda: _named(Path(str(asked))) if asked is not True else _newest(folder)
    )


def told_by_the_first_rank(find: Callable[[], T]) -> T:
    """What the first rank finds, on all ranks; what it refuses, all refuse."""
    answer: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            answer = [find()]
        except OrpoError as error:
            answer = [error]
    broadcast_object_list(answer)
    if isinstance(answer[0], OrpoError):
        raise answer[0]
    found: T = answer[0]
    return found


def _named(path: Path) -> tuple[Path, str, list[str]]:
    if not path.is_dir():
        raise ConfigError(_NONE, where=str(path), fix=_AFRESH)
    if checkpoints(path):  # it is a run folder
        return _newest(path)
    return path, verify_resumable(path).run, []


def _newest(folder: Path) -> tuple[Path, str, list[str]]:
    found = newest_checkpoint(folder, _run_id(folder))
    lines = [f"{path.name} is passed over: {reason}" for path, reason in found.skipped]
    if found.path is not None and found.manifest is not None:
        return found.path, found.manifest.run, lines
    if not lines:
        raise ConfigError(_NONE, where=str(folder), fix=_AFRESH)
    raise CheckpointError(
        f"none of its checkpoints can be used ({'; '.join(lines)})",
        where=str(folder),
        fix="Start afresh in another --output_dir, or with --overwrite.",
    )


def _run_id(folder: Path) -> str | None:
    """Which run the folder holds, as its recipe says; None if it does not say."""
    if not (folder / RECIPE).is_file():
        return None
    try:
        facts = read_recipe(folder).get("_run")
    except (DataError, OSError):  # the checkpoints have recipes of their own
        return None
    return facts.get("id") if isinstance(facts, dict) else None


@dataclass
class Progress:
    """What a run knows between two logs, so that a resumed one logs the same numbers."""

    loss_sums: list[float] = field(default_factory=list)  # each rank's loss since the last log
    # each rank's `MetricSums`; None where nothing was summed
    metric_sums: list[list[float] | None] = field(default_factory=list)
    metric_dtype: str = "float32"  # of these sums; another would round differently
    # the loss of all steps up to the last log; None in files of earlier versions
    total_loss: float | None = None
    uncounted: int = 0  # steps whose loss is in no mean
    last_logged: int = 0  # the step of the last log
    metric_lines: int = 0  # lines of metrics.jsonl that belong to the steps taken
    evaluate: bool = False  # whether an evaluation was due and was cut off by a signal
    # whether the log and the evaluation that come at an epoch's end are still due
    epoch_end: bool = False
    grad_norm: float | None = None  # for that log; None where none was measured
    learning_rate: float | None = None  # the same
    max_tokens: int | None = None  # positions of a micro-batch, as planned at the run's start
    compile_blocks: bool | None = None  # whether blocks were compiled
    # each rank's `Work`, as plain values
    work: list[dict[str, float]] = field(default_factory=list)


def write_progress(folder: Path, progress: Progress, args: TrainingArguments) -> None:
    """Write progress.json; called by all ranks, each with its own sums in lists of one."""
    progress.loss_sums = gather_object(progress.loss_sums)
    progress.metric_sums = gather_object(progress.metric_sums)
    progress.work = gather_object(progress.work)
    if args.should_save:
        text = json.dumps(asdict(progress))
        (folder / PROGRESS).write_text(text, encoding="utf-8")


def read_progress(folder: Path) -> Progress:
    """The progress of a checkpoint; what another version wrote beside it is left out."""
    found = _read(Progress, folder / PROGRESS)
    sums = [len(one) for one in found.metric_sums if one is not None]
    counts = (found.metric_lines, found.last_logged, found.max_tokens or 0)
    if len(set(sums)) > 1 or min(counts) < 0:
        raise CheckpointError(f"{PROGRESS} contradicts itself", where=str(folder))
    if found.metric_dtype not in _DTYPES:
        raise CheckpointError(f"{PROGRESS}: 'metric_dtype' is no dtype", where=str(folder))
    return found


@dataclass
class State:
    """What trainer_state.json holds, as far as a run that goes on takes it up."""

    global_step: int
    max_steps: int
    epoch: float | None = None
    logging_steps: float | None = None
    eval_steps: float | None = None
    save_steps: float | None = None
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)


def read_state(folder: Path) -> State:
    """The trainer's state in a checkpoint, made sure of before transformers believes it."""
    found = _read(State, folder / TRAINER_STATE_NAME)
    unknown = read_object(folder / TRAINER_STATE_NAME).keys() - _KNOWN_OF_STATE
    if unknown:
        what = f"{TRAINER_STATE_NAME} holds {min(unknown)!r}, which transformers does not know"
        raise CheckpointError(what, where=str(folder))
    if found.global_step != read_manifest(folder).step:
        what = f"{TRAINER_STATE_NAME} is of step {found.global_step}, the checkpoint is not"
        raise CheckpointError(what, where=str(folder))
    return found


_KNOWN_OF_STATE = {f.name for f in fields(TrainerState)}


def _read(kind: type[T], path: Path) -> T:
    if not path.is_file():
        raise CheckpointError(f"has no {path.name}", where=str(path.parent))
    try:
        return typed(kind, read_object(path), where=path.name)
    except DataError as error:
        what = f"{path.name} cannot be read ({error.what})"
        raise CheckpointError(what, where=str(path.parent)) from error


_FOR_RESUMING = [
    *("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*", "trainer_state.json"),
    *("progress.json", "manifest.json", "metrics.jsonl", "reference.safetensors"),
]


def push_checkpoint(trainer: Trainer, folder: Path) -> None:
    """Upload a committed checkpoint in the background, as `hub_strategy` asks for.

    The model of the checkpoint becomes that of the repository. Nothing is written for it:
    transformers would pickle its arguments, the Hub token among them, into the repository.
    """
    args: Any = trainer.args
    going_on: PushInProgress | None = trainer.push_in_progress
    busy = going_on is not None and not going_on.is_done()
    if not trainer.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
        return
    if busy and not args.hub_always_push:
        return
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    how = {
        "repo_id": trainer.hub_model_id,
        "folder_path": folder,
        "token": args.hub_token,
        "revision": args.hub_revision,
        "commit_message": f"Step {trainer.state.global_step}",
        "run_as_future": True,
    }
    api = HfApi()
    jobs: list[Any] = [api.upload_folder(**how, ignore_patterns=_FOR_RESUMING)]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        last = args.hub_strategy == HubStrategy.CHECKPOINT
        name = "last-checkpoint" if last else folder.name
        jobs.append(api.upload_folder(**how, path_in_repo=name))
    if busy and going_on is not None:
        going_on.jobs.extend(jobs)
    else:
        trainer.push_in_progress = PushInProgress(jobs)
