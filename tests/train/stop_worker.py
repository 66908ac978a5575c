"""Forks processes that run `orpo train`, and send themselves a signal at a chosen moment.

python -m tests.train.stop_worker

One line of JSON on stdin for each process: {"argv": [...], "moment": NAME or null, "signals": [N]},
with its output in the files "stdout" and "stderr" name; the answer is a line with its exit status.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import orpo.commands.progress
import orpo.train.trainer
from orpo.commands.main import main as orpo_main
from orpo.commands.progress import TrainingProgress
from orpo.data.pack import PairCollator
from tests.train.crash_worker import in_a_process, warm_up


class Moments:
    """Sends the signals the first time that a moment comes; all of it happens in the process."""

    def __init__(self, wanted: str | None, signals: list[int]) -> None:
        self.wanted, self.signals, self.step = wanted, signals, 0

    def now(self, moment: str) -> None:
        if moment == self.wanted:
            self.wanted = None
            for number in self.signals:
                os.kill(os.getpid(), number)

    def listen(self) -> None:
        """Take part in what happens: files, batches, and what a trainer tells its callbacks."""
        moments = self

        class Collator(PairCollator):
            def __call__(self, features: list[Any]) -> Any:
                moments.now(f"loading after step {moments.step}")
                return super().__call__(features)

        class Progress(TrainingProgress):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                super().on_step_begin(args, state, control, **kwargs)
                moments.now(f"step {state.global_step + 1}")

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                super().on_step_end(args, state, control, **kwargs)
                moments.step = state.global_step

            def on_prediction_step(
                self, args: Any, state: Any, control: Any, **kwargs: Any
            ) -> None:
                super().on_prediction_step(args, state, control, **kwargs)
                moments.now(f"evaluation at step {state.global_step}")

        def heard(event: str, args: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(args[0], str | Path):
                path = Path(args[0])
                moments.now(f"{path.parent.name}/{path.name}")

        orpo.train.trainer.PairCollator = Collator  # type: ignore[misc, attr-defined]
        orpo.commands.progress.TrainingProgress = Progress  # type: ignore[misc, attr-defined]
        sys.addaudithook(heard)


def run(job: dict[str, Any]) -> None:
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    Moments(job["moment"], job["signals"]).listen()
    code = orpo_main(job["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def main() -> None:
    warm_up()
    for line in sys.stdin:
        job = json.loads(line)
        status = in_a_process(lambda: run(job))  # noqa: B023
        print(json.dumps({"status": status}), flush=True)


if __name__ == "__main__":
    main()
