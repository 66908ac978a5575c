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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

from orpo.errors import ConfigError, TrainingError, require_package
from orpo.experiments.results import Space, TrialResult, Values
from orpo.runs.typed import plain, typed

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
_DETAILS = "orpo"
_STARTUP = 5
"""Trials that are drawn before the sampler relies on what it has seen."""
_BEFORE_PRUNING = 3
_TRIES, _PAUSE = 4, 0.2
_PATIENCE = 60.0
"""Seconds that a process waits for the one that has just begun the study to describe it."""
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
_BATCH = " The batch is in"  # of a folder that is gone with its run


def require_optuna() -> Any:
    """Optuna, quiet."""
    require_package("optuna", where="orpo tune")
    import optuna  # noqa: PLC0415 - an extra

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna


@dataclass(frozen=True)
class Place:
    """Where a study is: a URL or a file that several machines share, or a folder's own journal."""

    storage: str
    study: str
    folder: Path

    @property
    def public(self) -> str:
        """The storage as it may be shown: without a password."""
        parts = urlsplit(self.storage)
        if "://" not in self.storage or "@" not in parts.netloc:
            return self.storage
        return parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}").geturl()

    def open(self) -> optuna.storages.BaseStorage:
        """Optuna's storage."""
        from optuna import storages  # noqa: PLC0415 - an extra
        from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415

        if "://" not in self.storage:
            path = Path(self.storage) if self.storage else self.folder / JOURNAL
            return storages.JournalStorage(JournalFileBackend(str(path)))
        for _ in range(_TRIES - 1):  # two that make its tables at once get in each other's way
            with contextlib.suppress(Exception):
                return storages.RDBStorage(self.storage)
            time.sleep(_PAUSE)
        return storages.RDBStorage(self.storage)

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """A storage that cannot be used is the user's to mend."""
        try:
            yield
        except ConfigError:
            raise
        except Exception as error:  # Optuna, SQLAlchemy and its drivers raise what they like
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise ConfigError(
                f"cannot be used ({first})",
                where=f"--storage {self.public or self.folder / JOURNAL}",
                fix="Give a file, or a URL such as sqlite:///study.db or postgresql://host/db.",
            ) from error


class Study:
    """Optuna's study of this tuning; `details` are what the process that began it wrote down."""

    def __init__(
        self, study: optuna.Study, place: Place, details: Mapping[str, Any], *, ours: bool
    ) -> None:
        self._study, self.place, self.details = study, place, details
        self.settings, self.steps = details["settings"], int(details["steps"])
        self.space = typed(Space, self.settings["space"], where="the study")
        self.start = typed(Values, self.settings["start"], where="the study")
        # Processes that join draw otherwise than the one that began it.
        seed = int(self.settings["seed"]) if ours else SystemRandom().getrandbits(32)
        library = require_optuna()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", library.exceptions.ExperimentalWarning)
            self._study.sampler = library.samplers.TPESampler(
                seed=seed, n_startup_trials=_STARTUP, multivariate=True, constant_liar=True
            )
        self._study.pruner = library.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING)

    @classmethod
    def find(cls, place: Place) -> Study | None:
        """The study, if somebody has begun it, and says what it is of: it may be about to."""
        library = require_optuna()
        with place.reached():
            try:
                study = library.load_study(study_name=place.study, storage=place.open())
            except KeyError:
                return None
            deadline = time.monotonic() + _PATIENCE
            while _DETAILS not in study.user_attrs:
                if time.monotonic() > deadline:
                    what = f"holds a study {place.study!r} that is not of orpo tune"
                    where, fix = f"--storage {place.public}", "Give another --study."
                    raise ConfigError(what, where=where, fix=fix)
                time.sleep(_PAUSE)
            return cls(study, place, study.user_attrs[_DETAILS], ours=False)

    @classmethod
    def begin(cls, place: Place, settings: Mapping[str, Any], steps: int) -> Study:
        """Begin it, or join who was faster; the recipe's own values are its first trial."""
        library, named = require_optuna(), {"study_name": place.study}
        with place.reached():
            try:
                study = library.create_study(**named, storage=place.open(), direction="maximize")
            except library.exceptions.DuplicatedStudyError:
                found = cls.find(place)
                assert found is not None
                return found
            details = {"settings": dict(settings), "steps": steps}
            study.enqueue_trial(settings["start"], user_attrs={"start": True})
            study.set_user_attr(_DETAILS, details)
            return cls(study, place, details, ours=True)

    def run(self, train: Callable[[optuna.Trial, Values], float]) -> TrialResult:
        """One trial; what breaks or is pruned counts, what a signal cuts off is to be run again."""
        library = require_optuna()
        numbers: list[int] = []

        def objective(trial: optuna.Trial) -> float:
            numbers.append(trial.number)
            trial.set_user_attr("worker", f"{socket.gethostname()} {os.getpid()}")
            with warnings.catch_warnings():  # the start may lie outside of the ranges
                warnings.simplefilter("ignore", UserWarning)
                for name, ends in vars(self.space).items():
                    trial.suggest_float(name, *ends, log=True)
            values = self._values(trial)
            try:
                return train(trial, values)
            except library.TrialPruned:
                raise
            except Exception as error:
                told = isinstance(error, TrainingError)
                reason = str(error) if told else f"{type(error).__name__}: {error}"
                trial.set_user_attr("reason", reason.partition(_BATCH)[0])
                raise
            except BaseException:
                self._again(trial, values, "stopped")
                raise

        self._study.optimize(objective, n_trials=1, catch=(TrainingError,))
        return next(one for one in self.tried() if one.number == numbers[0])

    def _values(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> Values:
        """What was drawn, to three figures; of the first trial what the user had, as it was."""
        if trial.user_attrs.get("start"):
            return self.start
        return Values(**{name: float(f"{trial.params[name]:.3g}") for name in vars(self.space)})

    def _again(self, trial: optuna.Trial, values: Values | None, reason: str) -> None:
        """It was cut off, and is to be run again if its values are known."""
        trial.set_user_attr("reason", reason)
        if values is not None:
            marks = {"start": True} if trial.user_attrs.get("start") else None
            trial.set_user_attr("cut_off", True)
            self._study.enqueue_trial(plain(values), user_attrs=marks)
        self._study.tell(trial, state=require_optuna().trial.TrialState.FAIL)

    def sweep(self) -> int:
        """Trials of processes of this machine that are gone are to be run again; how many."""
        gone = [one for one in self._trials() if one.state.name == "RUNNING" and _is_gone(one)]
        for one in gone:
            known = one.user_attrs.get("start") or self._is_drawn(one)
            trial = require_optuna().Trial(self._study, one._trial_id)
            self._again(trial, self._values(one) if known else None, "its process ended")
        return len(gone)

    def tried(self) -> list[TrialResult]:
        """Every trial that was begun, in order."""
        begun = [one for one in self._trials() if one.state.name != "WAITING"]
        return [self._tried(one) for one in begun if self._is_drawn(one)]

    def _is_drawn(self, trial: optuna.trial.FrozenTrial) -> bool:
        return len(trial.params) == len(vars(self.space))

    def _tried(self, trial: optuna.trial.FrozenTrial) -> TrialResult:
        marks = trial.user_attrs
        return TrialResult(
            number=trial.number,
            **vars(self._values(trial)),
            state="cut off" if marks.get("cut_off") else _STATES[trial.state.name],
            start=bool(marks.get("start")),
            score=trial.value,
            steps=int(marks.get("steps", max(trial.intermediate_values, default=0))),
            seconds=marks.get("seconds"),
            reason=str(marks.get("reason", "")),
            chosen=marks.get("chosen", ()),
            rejected=marks.get("rejected", ()),
        )

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        trials: list[optuna.trial.FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials


def _is_gone(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether it ran on this machine, in a process that is no more."""
    host, _, number = str(trial.user_attrs.get("worker", "")).rpartition(" ")
    if not number:  # cut off in its first moment, or in it now
        begun = trial.datetime_start
        return begun is not None and (datetime.now() - begun).total_seconds() > _PATIENCE
    here = host == socket.gethostname() and int(number) != os.getpid()
    return here and not psutil.pid_exists(int(number))
