"""Training as it happens: loss, margin, accuracy, tokens per second and the time left."""

from typing import Any

from rich import progress as bars
from transformers import TrainerCallback

from orpo.commands.console import console, say

_WORDS = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "tokens_per_second": "tokens/s",
    "log_odds_chosen": "log-odds",
}
_BAR = 10
_BESIDE = _BAR + 27
"""Columns that the step counter, the bar and the time left take at most."""


class TrainingProgress(TrainerCallback):
    """A live bar in a terminal, one line per log elsewhere."""

    def __init__(self) -> None:
        self._progress: bars.Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar at the step that the run starts from."""
        if not (state.is_world_process_zero and console.is_terminal):
            return
        self._progress = bars.Progress(
            bars.MofNCompleteColumn(),
            bars.BarColumn(bar_width=_BAR),
            bars.TextColumn("{task.fields[numbers]}"),
            bars.TimeRemainingColumn(elapsed_when_finished=True),
            bars.TextColumn("left"),
            console=console,
            redirect_stdout=False,  # rich would take escapes in it for colours
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(
            "training", total=state.max_steps, completed=state.global_step, numbers=""
        )
        self._progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Show the newest numbers."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        numbers = [f"{word} {_short(logs[name])}" for name, word in _WORDS.items() if name in logs]
        if self._progress is not None:
            while len(" · ".join(numbers)) > max(console.width - _BESIDE, 0):
                numbers.pop()
            self._progress.update(self._task, numbers=" · ".join(numbers))
        else:
            say(f"step {state.global_step}/{state.max_steps}: {' · '.join(numbers)}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
