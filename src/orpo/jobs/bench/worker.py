"""`python -m orpo.jobs.bench.worker SPEC`: trains one side, one step whenever it is told "go".

It speaks JSON, one object with one key per line: `ready` before the first step, `step` after each,
`done` at the end, or `refused` with a message if the input was wrong. It speaks only when it is at
rest, the next batch loaded or all of them trained on, so that nothing of it runs while another side
is measured: for its end it waits to be told as well. It ends when nobody listens any more.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import IO, Any

from transformers import TrainerCallback

from orpo.errors import UserError
from orpo.jobs.bench.memory import MemoryMeter
from orpo.jobs.bench.spec import SideSpec
from orpo.jobs.bench.trainers import build_trainer, describe
from orpo.train.clock import now

__all__ = ["main"]


class Channel:
    """The two pipes to the parent; whatever else is printed goes to stderr."""

    def __init__(self) -> None:
        self._out: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def send(self, kind: str, content: Any) -> None:
        """One line."""
        self._out.write(json.dumps({kind: content}) + "\n")
        self._out.flush()

    def wait(self) -> None:
        """Until the next "go"; the process ends if none will come."""
        if not sys.stdin.readline():
            raise SystemExit("nobody is measuring any more")


class Pacemaker(TrainerCallback):
    """Stops the trainer before each step and times what it does between two stops.

    Args:
        channel: To the parent.
        meter: Started at the first stop, when everything is loaded.
    """

    def __init__(self, channel: Channel, meter: MemoryMeter) -> None:
        self._channel, self._meter = channel, meter
        self.facts: dict[str, Any] = {}
        self._steps = 0
        self._begin = self._end = 0.0
        self._loss: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Rest until told to go on."""
        if self._steps:
            self._report()
        else:
            self._meter.start(kwargs["model"])
            self._channel.send("ready", self.facts)
        self._steps += 1
        self._channel.wait()
        self._begin = now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self._end = now()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Keep the step's loss, if it is a number: JSON knows no other."""
        if logs and "loss" in logs:
            loss = float(logs["loss"])
            self._loss = loss if math.isfinite(loss) else None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The last step's figures and, when every side has taken its last, the memory of all."""
        if self._steps:
            self._report()
            self._channel.wait()
        memory = {"idle": self._meter.idle, "peak": self._meter.peak(), "exact": self._meter.exact}
        self._channel.send("done", memory)

    def _report(self) -> None:
        between = now() - self._end
        step = {"seconds": self._end - self._begin, "between": between, "loss": self._loss}
        self._channel.send("step", step)


def main() -> None:
    """Train as the spec says."""
    channel = Channel()
    spec = SideSpec.read(Path(sys.argv[1]))
    pacemaker = Pacemaker(channel, MemoryMeter())
    try:
        trainer = build_trainer(spec, pacemaker)
        pacemaker.facts = describe(trainer)
        trainer.train()
    except UserError as error:
        channel.send("refused", str(error))


if __name__ == "__main__":
    main()
