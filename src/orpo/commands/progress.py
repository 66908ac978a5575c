"""Training as it happens: a bar with the time left, a line for each evaluation, a live report."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from math import ceil
from pathlib import Path
from statistics import fmean, median
from typing import Any

from transformers import TrainerCallback

from orpo.commands.bars import BARS, Bar, drawn
from orpo.commands.console import open_page, say
from orpo.errors import OrpoError
from orpo.report.write import write_report
from orpo.runs.files import REPORT
from orpo.terminal import Say, silent

_BESIDE = {
    "loss": "loss {:.4g}",
    "rewards/accuracies": "acc {:.0%}",
    "log_odds_chosen": "log-odds {:.2f}",
    "tokens_per_second": "{:,.0f} tok/s",
}
"""Metric -> how it is shown beside a bar; in a line there is more room."""
_IN_A_LINE = {
    **_BESIDE,
    "rewards/accuracies": "accuracy {:.1%}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "answer_nll": "answer NLL {:.3g}",
}
_OF_HELD_OUT = ("loss", "rewards/accuracies", "logps/chosen")
_WINDOW = 100  # steps that tell how long one takes
_LINES, _SELDOM = 50, 10.0  # so many lines at once, then one in so many seconds
_SPARING = 20  # times as long as it took to draw the report it is left as it is


class _Steps(Bar):
    """Steps of a training, between which there are evaluations and saves."""

    def __init__(self, args: Any, state: Any, look: float | None) -> None:
        super().__init__("", state.max_steps, state.global_step)
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._look, self._first = look, True
        self._took: dict[str, dict[int, float]] = {"eval": {}, "save": {}}  # by step
        self._planned = {name: _moments(name, args, state) for name in self._took}

    def step(self) -> None:
        """One more is done."""
        before = self.at
        self.advance()
        if not self._first:  # it compiles and warms up
            self._seconds.append(self.at - before)
        self._first = False

    def paused(self, what: str, step: int) -> None:
        """An evaluation or a save has ended; several evaluation sets are one."""
        before, self.at = self.at, time.monotonic()
        self._took[what][step] = self._took[what].get(step, 0.0) + self.at - before

    @property
    def ahead(self) -> float | None:
        """Seconds from `at` on, with what comes between the steps."""
        if not self._seconds:
            return None
        usual = 4 * median(self._seconds)  # beyond that something was compiled, or waited for
        seconds = fmean(one for one in self._seconds if one <= usual)
        seconds *= (self.total or 0) - self.done
        for what, took in self._took.items():
            each = fmean(took.values()) if took else (self._look or 0.0) * (what == "eval")
            seconds += each * max(0, self._planned[what] - len(took))
        return seconds


def _moments(what: str, args: Any, state: Any) -> int:
    """How many evaluations or saves are still to come."""
    strategy = str(getattr(getattr(args, f"{what}_strategy"), "value", "no"))
    if strategy == "epoch":
        return int(ceil(state.num_train_epochs) - (state.epoch or 0))
    every = getattr(state, f"{what}_steps")
    if strategy != "steps" or not every:
        return 0
    at_start = what == "eval" and args.eval_on_start
    return int(state.max_steps // every - state.global_step // every + at_start)


class TrainingProgress(TrainerCallback):
    """A live bar in a terminal, a line now and then elsewhere; a line for each evaluation."""

    def __init__(self, *, told: bool = True) -> None:
        self._tell = told  # else there is a bar and no line
        self._bar: _Steps | None = None
        self._look: float | None = None  # seconds of an evaluation before training
        self._told = (0, 0.0)  # how many lines, and when the newest was

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar at the step that the run starts from."""
        if state.is_world_process_zero:
            self._bar = _Steps(args, state, self._look)
            BARS.add(self._bar)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.step()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What a save takes is no part of a step."""
        if self._bar is not None:
            self._bar.paused("save", state.global_step)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float], **_: Any
    ) -> None:
        """One line, and what it took."""
        name = next((key for key in metrics if key.endswith("_runtime")), "eval_runtime")
        prefix = name.removesuffix("runtime")
        if self._bar is not None:
            self._bar.paused("eval", state.global_step)
        else:
            self._look = metrics.get(name)
        ended = self._bar is None and state.global_step
        if ended or not self._tell or not state.is_world_process_zero:
            return
        of = f" ({prefix[5:-1]})" if len(prefix) > 5 else ""
        when = f"step {state.global_step}/{state.max_steps}" if self._bar else "before training"
        own = {name: metrics[prefix + name] for name in _OF_HELD_OUT if prefix + name in metrics}
        if "logps/chosen" in own:  # of the answer alone, whatever the loss counts
            own["answer_nll"] = -own["logps/chosen"]
        say(f"{when}, held out{of}: {' · '.join(_numbers(own, _IN_A_LINE))}")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Show the newest numbers."""
        bar, now = self._bar, time.monotonic()
        if not logs or "loss" not in logs or bar is None:
            return
        bar.numbers, numbers = _numbers(logs, _BESIDE), _numbers(logs, _IN_A_LINE)
        step, total, (lines, at) = state.global_step, state.max_steps, self._told
        due = not drawn() and (lines < _LINES or now - at >= _SELDOM)
        if self._tell and (due or step >= total):
            self._told = lines + 1, now
            left = bar.left if step < total else ""
            say(f"step {step}/{total}: {' · '.join(filter(None, [*numbers, left]))}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        if self._bar is not None:
            BARS.remove(self._bar)
            self._bar = None


def _numbers(logs: Mapping[str, float], forms: Mapping[str, str]) -> list[str]:
    shown = (form.format(logs[name]) for name, form in forms.items() if name in logs)
    return [one.replace("%", " %") for one in shown]


class LiveReport(TrainerCallback):
    """The report of a run that is going on: there from the first log on, drawn anew with the next.

    Seldom enough that drawing costs a twentieth of the time. It reads the run folder and nothing
    else; one that cannot be drawn is told of once, and the run goes on.
    """

    def __init__(self, folder: Path, say: Say, *, shown: bool = False) -> None:
        self._folder, self._say, self._shown = folder, say, shown
        self._next = 0.0
        self._drawn = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say where it will be."""
        self._say(f"report, from the first log on: {self._folder / REPORT}")

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw it, if it is time."""
        begun = state.is_world_process_zero and state.global_step
        if begun and time.monotonic() >= self._next:
            self.draw(state.max_steps)

    def draw(self, live: int = 0) -> None:
        """Draw it as it is, or as that of a run that is going on, of so many steps."""
        import_module("orpo.report.run")  # matplotlib loads once, whoever draws first
        begun = time.monotonic()
        try:
            page = write_report(self._folder, live=live)
            if self._shown and not self._drawn:
                open_page(page)
            self._drawn = True
        except Exception as error:  # of whatever kind: a run is worth more than its page
            why = str(error) if isinstance(error, OrpoError | OSError) else repr(error)
            self._say(f"the report cannot be drawn while the run goes on: {why}")
            self._say = silent
        now = time.monotonic()
        self._next = now + _SPARING * (now - begun)

    def end(self) -> None:
        """A run that ends early leaves a page that does not wait for more."""
        if self._drawn:
            self.draw()


@contextmanager
def watched(folder: Path, say: Say, *, shown: bool = False) -> Iterator[list[TrainerCallback]]:
    """What shows a training: on the terminal, and on the report while it grows."""
    progress, report = TrainingProgress(), LiveReport(folder, say, shown=shown)
    try:
        yield [progress, report]
    except BaseException:
        report.end()
        raise
    finally:
        progress.close()
