"""What a training stage costs while it runs: seconds, memory, and the work that was counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from orpo.experiments.compare import Cost
from orpo.jobs.bench.memory import MemoryMeter
from orpo.runs import read_object
from orpo.train.clock import now
from orpo.train.work import WORK

__all__ = ["StageClock", "counted"]


class StageClock(TrainerCallback):
    """Times the training between its evaluations, and meters its memory from its first moment."""

    def __init__(self) -> None:
        self.meter = MemoryMeter()
        self.seconds = 0.0
        self.peak = 0
        self._rest = 0.0  # when what came before the training had ended
        self._training = False

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model is loaded: what comes on top of it is what counts."""
        self.meter.start(kwargs["model"])
        self._rest = now()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count what the training itself had to prepare, such as a reference."""
        self.seconds, self._training = -self._rest, True

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Evaluations during the training are not part of it."""
        if self._training:
            self.seconds -= float((metrics or {}).get("eval_runtime", 0.0))
        else:
            self._rest = now()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock, and take the most memory that was held."""
        self.seconds += now()
        self._training = False
        self.peak = self.meter.peak()


def counted(objective: str, folder: Path, clock: StageClock) -> Cost:
    """The cost of a finished stage, from what its trainer left in a folder and what was timed."""
    work = read_object(folder / WORK)
    return Cost(
        objective=objective,
        steps=int(work["steps"]),
        pairs=int(work["pairs"]),
        forwards_trained=int(work["sequences_trained"]),
        forwards_scored=int(work["sequences_scored"]),
        flops=float(work["flops"]),
        seconds=clock.seconds,
        idle_bytes=clock.meter.idle,
        peak_bytes=clock.peak,
    )
