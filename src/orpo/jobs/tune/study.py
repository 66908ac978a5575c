"""The study: Optuna's sampler, pruner and storage, and what is kept of each trial in it.

Everything that a choice needs stands in the storage, so that machines that share it choose alike,
and a process that is killed loses the trial that it was at and no other.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from orpo.errors import ConfigError
from orpo.jobs.tune.spec import Space, TuneJob, Values

if TYPE_CHECKING:
    import optuna

__all__ = ["JOURNAL", "Study", "Tried", "public_storage", "require_optuna"]

JOURNAL = "study.journal"
_DETAILS = "orpo"
_STARTUP = 5
"""Trials that are drawn before the sampler relies on what it has seen."""
_BEFORE_PRUNING = 3
_TRIES, _PAUSE = 4, 0.2
_PATIENCE = 60.0
"""Seconds that a process waits for the one that has just begun the study to describe it."""


@dataclass(frozen=True)
class Tried:
    """A trial.

    Attributes:
        number: In the study, from 0 on.
        values: The two knobs.
        state: "complete", "pruned", "failed", "cut off" or "running".
        start: Whether these are the values that the search started from.
        score: Mean score; where it was pruned, at the step that it reached.
        reached: Optimizer steps.
        chosen: Log-probabilities of the chosen answers, per held-out pair; empty unless complete.
        rejected: Those of the rejected answers.
        seconds: What it took.
        reason: Why it failed or was cut off.
        worker: Host and process that ran it.
    """

    number: int
    values: Values
    state: str
    start: bool = False
    score: float | None = None
    reached: int = 0
    chosen: Sequence[float] = field(default_factory=tuple)
    rejected: Sequence[float] = field(default_factory=tuple)
    seconds: float | None = None
    reason: str = ""
    worker: str = ""


class Study:
    """Optuna's study of this tuning, which other processes may share.

    Args:
        study: Optuna's.
        details: What its first process wrote down: "settings" and "steps" among them.
        ours: Whether this process began it.
    """

    def __init__(self, study: optuna.Study, details: Mapping[str, Any], *, ours: bool) -> None:
        self._study, self.details = study, details
        self.steps = int(details["steps"])
        space = details["settings"]["space"]
        self.space = Space(*(tuple(space[name]) for name in ("learning_rate", "orpo_alpha")))
        start = details["settings"]["start"]
        self.start = Values(float(start["learning_rate"]), float(start["orpo_alpha"]))
        seed = int(details["settings"]["seed"])
        self._study.sampler = _sampler(seed, ours=ours)

    @classmethod
    def find(cls, job: TuneJob) -> Study | None:
        """The study, if somebody has begun it.

        Raises:
            ConfigError: The storage cannot be used.
        """
        library = require_optuna()
        with _reaching(job):
            try:
                study = library.load_study(
                    study_name=job.study, storage=_storage(job), pruner=_pruner()
                )
            except KeyError:
                return None
            return cls(study, _details(study, job), ours=False)

    @classmethod
    def begin(cls, job: TuneJob, settings: Mapping[str, Any], steps: int) -> Study:
        """Begin it, or join who was faster; the recipe's own values are its first trial.

        Raises:
            ConfigError: The storage cannot be used.
        """
        library = require_optuna()
        with _reaching(job):
            try:
                study = library.create_study(
                    study_name=job.study,
                    storage=_storage(job),
                    pruner=_pruner(),
                    direction="maximize",
                )
            except library.exceptions.DuplicatedStudyError:
                found = cls.find(job)
                assert found is not None
                return found
            details = {"settings": dict(settings), "steps": steps}
            study.enqueue_trial(job.start.as_dict(), user_attrs={"start": True})
            study.set_user_attr(_DETAILS, details)
            return cls(study, details, ours=True)

    def ask(self) -> tuple[optuna.Trial, Values]:
        """The next trial, marked as this process's."""
        with warnings.catch_warnings():  # the start may lie outside of the ranges
            warnings.simplefilter("ignore", UserWarning)
            trial = self._study.ask()
            trial.set_user_attr("worker", _me())
            drawn = {
                name: trial.suggest_float(name, *ends, log=True)
                for name, ends in vars(self.space).items()
            }
        if trial.user_attrs.get("start"):
            return trial, self.start
        return trial, Values(**{name: float(f"{value:.3g}") for name, value in drawn.items()})

    def keep(self, trial: optuna.Trial, **found: Any) -> None:
        """Put facts of a trial into the storage."""
        for name, value in found.items():
            trial.set_user_attr(name, value)

    def complete(self, trial: optuna.Trial, score: float) -> None:
        """It came to its end."""
        self._study.tell(trial, score)

    def prune(self, trial: optuna.Trial) -> None:
        """It was given up."""
        self._study.tell(trial, state=require_optuna().trial.TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, reason: str, *, again: Values | None = None) -> None:
        """It broke; or it was cut off, and is to be run again with the same values."""
        trial.set_user_attr("reason", reason)
        if again is not None:
            marks = {"start": True} if trial.user_attrs.get("start") else None
            trial.set_user_attr("cut_off", True)
            self._study.enqueue_trial(again.as_dict(), user_attrs=marks)
        self._study.tell(trial, state=require_optuna().trial.TrialState.FAIL)

    def sweep(self) -> int:
        """Trials of processes of this machine that are gone are to be run again; how many."""
        gone = [one for one in self._trials() if one.state.name == "RUNNING" and _is_gone(one)]
        for one in gone:
            start = one.user_attrs.get("start")
            known = len(one.params) == len(vars(self.space))
            again = self.start if start else _tried(one, self.start).values if known else None
            trial = require_optuna().Trial(self._study, one._trial_id)
            self.fail(trial, "its process ended", again=again)
        return len(gone)

    def tried(self) -> list[Tried]:
        """Every trial that was begun, in order."""
        return [
            _tried(trial, self.start)
            for trial in self._trials()
            if trial.state.name != "WAITING" and len(trial.params) == 2
        ]

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        trials: list[optuna.trial.FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials


def require_optuna() -> Any:
    """Optuna, quiet.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import optuna  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "needs Optuna", where="orpo tune", fix="Install it: pip install 'orpo[tune]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def public_storage(job: TuneJob) -> str:
    """The storage as it may be shown: without a password."""
    if "://" not in job.storage:
        return job.storage
    parts = urlsplit(job.storage)
    if "@" not in parts.netloc:
        return job.storage
    return parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}").geturl()


def _storage(job: TuneJob) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage  # noqa: PLC0415
    from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415

    if "://" in job.storage:
        return _database(job.storage)
    path = Path(job.storage) if job.storage else job.folder / JOURNAL
    return JournalStorage(JournalFileBackend(str(path)))


def _database(url: str) -> optuna.storages.BaseStorage:
    """Two processes that make its tables at the same time get into each other's way once."""
    from optuna.storages import RDBStorage  # noqa: PLC0415

    for _ in range(_TRIES - 1):
        with contextlib.suppress(Exception):
            return RDBStorage(url)
        time.sleep(_PAUSE)
    return RDBStorage(url)


@contextlib.contextmanager
def _reaching(job: TuneJob) -> Iterator[None]:
    """A storage that cannot be used is the user's to mend."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # Optuna, SQLAlchemy and its drivers raise what they like
        name = public_storage(job) or str(job.folder / JOURNAL)
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"cannot be used ({first})",
            where=f"--storage {name}",
            fix="Give a file, or a URL such as sqlite:///study.db or postgresql://host/db.",
        ) from error


def _details(study: optuna.Study, job: TuneJob) -> dict[str, Any]:
    """What its first process wrote down, which it may be about to do."""
    deadline = time.monotonic() + _PATIENCE
    while _DETAILS not in study.user_attrs:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"holds a study {job.study!r} that is not of orpo tune",
                where=f"--storage {public_storage(job)}",
                fix="Give another --study.",
            )
        time.sleep(_PAUSE)
    found: dict[str, Any] = study.user_attrs[_DETAILS]
    return found


def _sampler(seed: int, *, ours: bool) -> optuna.samplers.BaseSampler:
    """Draws by what was seen; processes that join draw otherwise than the first one."""
    library = require_optuna()
    mixed = seed if ours else SystemRandom().getrandbits(32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", library.exceptions.ExperimentalWarning)
        sampler: optuna.samplers.BaseSampler = library.samplers.TPESampler(
            seed=mixed, n_startup_trials=_STARTUP, multivariate=True, constant_liar=True
        )
    return sampler


def _pruner() -> optuna.pruners.BasePruner:
    pruner: optuna.pruners.BasePruner = require_optuna().pruners.MedianPruner(
        n_startup_trials=_BEFORE_PRUNING
    )
    return pruner


def _me() -> str:
    return f"{socket.gethostname()} {os.getpid()}"


def _is_gone(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether it ran on this machine, in a process that is no more."""
    host, _, number = str(trial.user_attrs.get("worker", "")).rpartition(" ")
    if not number:  # cut off in its first moment, or in it now
        begun = trial.datetime_start
        return begun is not None and (datetime.now() - begun).total_seconds() > _PATIENCE
    if host != socket.gethostname() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


def _tried(trial: optuna.trial.FrozenTrial, start: Values) -> Tried:
    marks = trial.user_attrs
    first = bool(marks.get("start"))
    values = Values(**{name: float(f"{value:.3g}") for name, value in trial.params.items()})
    state = "cut off" if marks.get("cut_off") else _STATES[trial.state.name]
    reached = max(trial.intermediate_values, default=0)
    return Tried(
        number=trial.number,
        values=start if first else values,
        state=state,
        start=first,
        score=trial.value,
        reached=int(marks.get("steps", reached)),
        chosen=tuple(marks.get("chosen", ())),
        rejected=tuple(marks.get("rejected", ())),
        seconds=marks.get("seconds"),
        reason=str(marks.get("reason", "")),
        worker=str(marks.get("worker", "")),
    )
