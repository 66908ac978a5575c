"""What is tuned, where it is looked for, and for how many steps: the plan of `orpo tune`."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from orpo.config import ORPOConfig
from orpo.errors import ConfigError
from orpo.experiments.study import Place
from orpo.experiments.trials import Speed
from orpo.experiments.tuning import Space, TunePlan, Values
from orpo.runs.typed import plain
from orpo.train.job import TrainJob

_RATES = {"full": (1e-6, 1e-4), "adapter": (1e-5, 1e-3)}
_AROUND = 10.0
_ALPHAS = (0.01, 2.0)
_OF_ONE_RUN = ("output_dir", "learning_rate", "orpo_alpha", "beta", "hub_token")
_OF_THE_MACHINE = (
    *("seed", "use_cpu", "dataloader_num_workers", "per_device_eval_batch_size", "data_cache"),
    *("max_tokens_per_microbatch", "engine"),
)
_TRIALS = 8
"""So many whole trials are to fit into the time, where the steps of a trial are not given."""
_FEWEST_STEPS = 20
_FEWEST_TRIALS = 2


@dataclass(frozen=True)
class TuneJob:
    """A tuning.

    Attributes:
        train: The model, the data, and how many held-out prompts are answered if there is a
            checker.
        settings: Fields of `ORPOConfig` as given; the learning rate and lambda are those that the
            search starts from.
        folder: The output folder.
        recipe: What the user gave, for the recipe that is recommended.
        command: How it was started, for the page.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    train: TrainJob
    settings: Mapping[str, Any]
    folder: Path
    plan: TunePlan = TunePlan()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    command: str = "orpo tune"

    def __post_init__(self) -> None:
        """Check every value before anything is loaded."""
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise ConfigError(
                "trials run in one process",
                where="orpo tune",
                fix="Let several processes or machines share a study: --storage.",
            )
        if self.train.resume:
            raise ConfigError("tuning goes on by itself", where="--resume", fix="Leave it out.")
        config = self.config
        if config.objective != "orpo":
            what = f"is {config.objective!r}, which has no lambda"
            raise ConfigError(what, where="objective", fix="Use orpo.")
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
    def place(self) -> Place:
        """Where its study is."""
        return Place(self.plan.storage, self.plan.study, self.folder)

    @property
    def start(self) -> Values:
        """The recipe's own values: the first trial."""
        return Values(float(self.config.learning_rate), float(self.config.orpo_alpha or 0.0))

    @property
    def space(self) -> Space:
        """What is searched: around a learning rate that was given, else what is usual."""
        around = _RATES["full" if self.train.lora_r is None else "adapter"]
        if "learning_rate" in self.settings:
            rate = self.start.learning_rate
            around = (float(f"{rate / _AROUND:.3g}"), float(f"{rate * _AROUND:.3g}"))
        return Space(list(self.plan.learning_rates or around), list(self.plan.alphas or _ALPHAS))

    def of_trials(self) -> dict[str, Any]:
        """The settings that all trials have in common, as given; no token among them."""
        return self._public(self.settings, "max_steps")

    def kept(self) -> dict[str, Any]:
        """What the user gave, without a token, the two settings and the folder."""
        given = {name: value for name, value in self.recipe.items() if value is not None}
        return self._public(given, "overwrite")

    def _public(self, settings: Mapping[str, Any], left_out: str) -> dict[str, Any]:
        kept = {k: v for k, v in settings.items() if k not in (*_OF_ONE_RUN, left_out)}
        if kept.get("model_init_kwargs"):
            kept["model_init_kwargs"] = self.config.without_secrets().model_init_kwargs
        return kept

    def identity(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What may not differ between the trials of a study: settings, weights and data.

        Args:
            facts: Digests of the latter two.
        """
        of_job = self.train.facts()
        names = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
        return {
            "start": plain(self.start),
            "space": plain(self.space),
            "seed": self.config.seed,
            "training": {k: v for k, v in self.of_trials().items() if k not in _OF_THE_MACHINE},
            **{name: of_job[name] for name in names},
            **facts,
            "asked_steps": self.plan.steps,
        }


@dataclass
class Budget:
    """The time of this call.

    Attributes:
        minutes: None for no limit.
        begun: When it began, on the clock of `time.monotonic`.
        whole: Seconds that whole trials took so far.
    """

    minutes: float | None
    begun: float = field(default_factory=time.monotonic)
    whole: list[float] = field(default_factory=list)

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        """Seconds."""
        return math.inf if self.minutes is None else 60 * self.minutes - self.used

    def allows(self, speed: Speed, steps: int) -> bool:
        """Whether one more trial and the test at the end are expected to fit."""
        foreseen = max([speed.run(steps), *self.whole[-3:]])
        return foreseen + 2 * (foreseen + speed.testing) <= self.left

    def plan_steps(self, plan: TunePlan, speed: Speed, full: int) -> int:
        """Optimizer steps of each trial; never more than the recipe itself, unless asked for.

        Raises:
            ConfigError: There is no time for two trials and the test; says what one takes.
        """
        shortest = min(_FEWEST_STEPS, full)
        steps = plan.steps
        if steps is None and self.minutes is None:
            steps = max(shortest, full // 4)
        elif steps is None:
            each = (self.left - 2 * speed.testing) / (_TRIALS + 2) - speed.run(0)
            steps = min(full, max(shortest, int(each / speed.step)))
        trials = min(_FEWEST_TRIALS, plan.trials or _FEWEST_TRIALS)
        needed = trials * speed.run(steps) + speed.comparison(steps)
        if needed > self.left:
            raise ConfigError(
                f"is too little: a trial of {steps} steps takes about {speed.run(steps):.0f} s "
                f"here, and {trials} of them with the comparison at the end {needed:.0f} s",
                where=f"--minutes {self.minutes:g}",
                fix=f"Give at least {(needed + self.used) / 60 * 1.1:.1f}"
                + (", or fewer --steps." if plan.steps is not None else "."),
            )
        return steps
