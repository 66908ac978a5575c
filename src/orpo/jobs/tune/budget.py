"""How long a trial may be, and whether there is time for one more."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from orpo.errors import ConfigError
from orpo.jobs.tune.runs import Speed
from orpo.jobs.tune.spec import TuneJob

__all__ = ["Budget", "plan_steps"]

_TRIALS = 8
"""So many whole trials are to fit into the time, where the steps of a trial are not given."""
_FEWEST_STEPS = 20
_FEWEST_TRIALS = 2


@dataclass
class Budget:
    """The time of this call.

    Attributes:
        minutes: As given; None for no limit.
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
        return float("inf") if self.minutes is None else 60 * self.minutes - self.used

    def allows(self, speed: Speed, steps: int) -> bool:
        """Whether one more trial and the comparison at the end are expected to fit."""
        foreseen = max([speed.run(steps), *self.whole[-3:]])
        comparison = 2 * (foreseen + speed.testing)
        return foreseen + comparison <= self.left


def plan_steps(job: TuneJob, speed: Speed, full: int, budget: Budget) -> int:
    """Optimizer steps of each trial.

    Args:
        job: What is tuned.
        speed: What this machine takes.
        full: Steps of the recipe itself: trials are never longer, unless it is asked for.
        budget: The time.

    Raises:
        ConfigError: There is no time for two trials and the comparison; says what one takes.
    """
    shortest = min(_FEWEST_STEPS, full)
    steps = job.steps
    if steps is None and job.minutes is None:
        steps = max(shortest, full // 4)
    elif steps is None:
        each = (budget.left - 2 * speed.testing) / (_TRIALS + 2) - speed.run(0)
        steps = min(full, max(shortest, int(each / speed.step)))
    trials = min(_FEWEST_TRIALS, job.trials or _FEWEST_TRIALS)
    needed = trials * speed.run(steps) + speed.comparison(steps)
    if needed > budget.left:
        raise ConfigError(
            f"is too little: a trial of {steps} steps takes about {speed.run(steps):.0f} s here, "
            f"and {trials} of them with the comparison at the end {needed:.0f} s",
            where=f"--minutes {job.minutes:g}",
            fix=f"Give at least {(needed + budget.used) / 60 * 1.1:.1f}"
            + (", or fewer --steps." if job.steps is not None else "."),
        )
    return steps
