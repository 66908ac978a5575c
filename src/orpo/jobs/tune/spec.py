"""What `orpo tune` is asked for, and where it looks."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from orpo.config import ORPOConfig
from orpo.errors import ConfigError
from orpo.jobs.train_job import TrainJob

__all__ = ["Space", "TuneJob", "Values"]

_RATES = {"full": (1e-6, 1e-4), "adapter": (1e-5, 1e-3)}
_AROUND = 10.0
_ALPHAS = (0.01, 2.0)
_OF_ONE_RUN = ("output_dir", "learning_rate", "orpo_alpha", "beta", "hub_token")


@dataclass(frozen=True)
class Values:
    """The two knobs.

    Attributes:
        learning_rate: The maximum of the schedule.
        orpo_alpha: Lambda, the strength of the preference term.
    """

    learning_rate: float
    orpo_alpha: float

    def as_dict(self) -> dict[str, float]:
        """As settings of a run."""
        return asdict(self)

    def __str__(self) -> str:
        return f"learning rate {self.learning_rate:.3g}, lambda {self.orpo_alpha:.3g}"


@dataclass(frozen=True)
class Space:
    """The ranges that are searched, both on a logarithmic scale.

    Attributes:
        learning_rate: Lowest and highest.
        orpo_alpha: Lowest and highest.
    """

    learning_rate: tuple[float, float]
    orpo_alpha: tuple[float, float]

    def as_dict(self) -> dict[str, list[float]]:
        """For JSON."""
        return {name: list(ends) for name, ends in asdict(self).items()}


@dataclass(frozen=True)
class TuneJob:
    """What is tuned, and within which budget.

    Attributes:
        train: The model, the data, and how many held-out prompts are answered if there is a
            checker.
        settings: Fields of `ORPOConfig` as given; the learning rate and lambda are those that the
            search starts from.
        folder: The output folder.
        recipe: What the user gave, for the recipe that is recommended.
        minutes: Time for everything; None for no limit.
        trials: Trials of the whole study; None for as many as there is time for.
        steps: Optimizer steps of a trial; None for what the time allows.
        learning_rates: Range, if not the default one.
        alphas: Range of lambda, if not the default one.
        storage: A URL or a file that several machines share; the output folder if empty.
        study: Name of the study in the storage.
        checker: `module:function` that checks answers in the final comparison; empty for none.
        command: How it was started, for the page.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    train: TrainJob
    settings: Mapping[str, Any]
    folder: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)
    minutes: float | None = 10.0
    trials: int | None = None
    steps: int | None = None
    learning_rates: tuple[float, float] | None = None
    alphas: tuple[float, float] | None = None
    storage: str = ""
    study: str = "orpo"
    checker: str = ""
    command: str = "orpo tune"

    def __post_init__(self) -> None:
        """Check every value before anything is loaded."""
        if self.minutes is None and self.trials is None:
            raise ConfigError("one of --minutes and --trials is needed", where="--minutes")
        if self.minutes is not None and not (self.minutes > 0 and math.isfinite(self.minutes)):
            raise ConfigError(f"must be positive, is {self.minutes}", where="--minutes")
        for flag, count in (("--trials", self.trials), ("--steps", self.steps)):
            if count is not None and count < 1:
                raise ConfigError(f"must be at least 1, is {count}", where=flag)
        for flag, ends in (("--learning_rates", self.learning_rates), ("--alphas", self.alphas)):
            if ends is not None:
                _require_range(flag, ends)
        if not self.study:
            raise ConfigError("needs a name", where="--study")
        self._require_one_process()
        self._require_orpo()

    def _require_one_process(self) -> None:
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise ConfigError(
                "trials run in one process",
                where="orpo tune",
                fix="Let several processes or machines share a study: --storage.",
            )
        if self.train.resume:
            raise ConfigError("tuning goes on by itself", where="--resume", fix="Leave it out.")

    def _require_orpo(self) -> None:
        config = self.config
        if config.objective != "orpo":
            raise ConfigError(
                f"is {config.objective!r}, which has no lambda", where="objective", fix="Use orpo."
            )
        if not config.learning_rate > 0 or not (config.orpo_alpha or 0.0) > 0:
            raise ConfigError(
                f"is {self.start}: the search starts from it, on a logarithmic scale",
                where="learning_rate and orpo_alpha",
                fix="Both must be positive.",
            )

    @cached_property
    def config(self) -> ORPOConfig:
        """The settings of the recipe that the search starts from, checked.

        Made once: to make another one is to reset accelerate's state under a running trainer.
        """
        return ORPOConfig(**{**self.settings, "output_dir": str(self.folder)})

    @property
    def start(self) -> Values:
        """The recipe's own values: the first trial."""
        config = self.config
        return Values(float(config.learning_rate), float(config.orpo_alpha or 0.0))

    @property
    def space(self) -> Space:
        """What is searched: around a learning rate that was given, else what is usual."""
        kind = "full" if self.train.lora_r is None else "adapter"
        around = _RATES[kind]
        if "learning_rate" in self.settings:
            rate = self.start.learning_rate
            around = (_rounded(rate / _AROUND), _rounded(rate * _AROUND))
        return Space(self.learning_rates or around, self.alphas or _ALPHAS)

    def of_trials(self) -> dict[str, Any]:
        """The settings that all trials have in common, as given; no token among them."""
        left_out = (*_OF_ONE_RUN, "max_steps")
        return self._public({k: v for k, v in self.settings.items() if k not in left_out})

    def kept(self) -> dict[str, Any]:
        """What the user gave, without a token, the two knobs and the folder."""
        left_out = (*_OF_ONE_RUN, "overwrite")
        given = {k: v for k, v in self.recipe.items() if k not in left_out and v is not None}
        return self._public(given)

    def _public(self, settings: dict[str, Any]) -> dict[str, Any]:
        if settings.get("model_init_kwargs"):
            settings["model_init_kwargs"] = self.config.without_secrets().model_init_kwargs
        return settings


def _require_range(flag: str, ends: tuple[float, float]) -> None:
    low, high = ends
    if not (0 < low < high and math.isfinite(high)):
        raise ConfigError(
            f"{low:g} {high:g} is no range",
            where=flag,
            fix="Give a lower and a higher end, both positive.",
        )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
