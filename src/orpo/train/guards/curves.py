"""To whom a guard speaks."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from transformers import TrainerCallback

Tell = Callable[[str, str], None]
"""Is told what kind of thing happened, and a line about it."""


def log_warning(kind: str, message: str) -> None:  # noqa: ARG001 - a `Tell`
    """Say a line through the log."""
    logging.getLogger("orpo.train").warning(message)


HISTORY = 20
_FEWEST = 5  # earlier losses without which there is no verdict
_WINDOW = 5  # logs over which a margin is smoothed


@dataclass(frozen=True)
class Spike:
    """A loss far above those before it."""

    before: float
    now: float


@dataclass(frozen=True)
class MarginCollapse:
    """A preference that was there and is gone."""

    name: str
    before: float
    now: float


def loss_spike(losses: Sequence[float]) -> Spike | None:
    """Whether the last of some losses stands out above those before it.

    It must lie above their median by many times their spread (the median absolute deviation, which
    one earlier spike does not widen; the fewer values, the less it is trusted), by 30 % and by 0.1.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not losses or not math.isfinite(losses[-1]) or len(finite) <= _FEWEST:
        return None
    earlier, now = finite[:-1], finite[-1]
    middle = median(earlier)
    spread = 1.4826 * median(abs(loss - middle) for loss in earlier)
    rise = max(7 * (1 + 5 / len(earlier)) * spread, 0.3 * abs(middle), 0.1)
    return Spike(middle, now) if now - middle > rise else None


def margin_collapse(margins: Sequence[float], accuracies: Sequence[float]) -> MarginCollapse | None:
    """Whether the preference for the chosen answers was clear and is gone.

    Compares the mean of the last five values with the mean of those before: a margin that was
    positive beyond doubt and is at most a tenth of that, or an accuracy of 0.6 or more that is
    below 0.5; either by more than noise explains.
    """
    for name, values in (("rewards/margins", margins), ("rewards/accuracies", accuracies)):
        earlier, recent = values[:-_WINDOW], values[-_WINDOW:]
        if len(earlier) < 2 * _WINDOW or not all(map(math.isfinite, values)):
            continue
        before, now = sum(earlier) / len(earlier), sum(recent) / _WINDOW
        # From neighbours' differences: a slow fall is not taken for noise.
        jumps = [(b - a) ** 2 for a, b in pairwise(earlier)]
        noise = math.sqrt(sum(jumps) / len(jumps) / 2)
        if name == "rewards/margins":
            gone = before > 4 * noise / math.sqrt(len(earlier)) and now <= 0.1 * before
        else:
            gone = before >= 0.6 and now < 0.5
        if gone and before - now > 6 * noise / math.sqrt(_WINDOW):
            return MarginCollapse(name, before, now)
    return None


class CurveGuard(TrainerCallback):
    """Warns of a loss spike and of a margin collapse, each at most once in twenty logs."""

    def __init__(self, tell: Tell = log_warning) -> None:
        self._tell = tell
        self._start()

    def _start(self) -> None:
        self._losses: deque[float] = deque(maxlen=HISTORY + 1)
        self._margins: deque[float] = deque(maxlen=2 * HISTORY)
        self._accuracies: deque[float] = deque(maxlen=2 * HISTORY)
        self._logs = 0
        self._said: dict[str, int] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start afresh, or with what a resumed run has logged, of which all was said."""
        self._start()
        for logs in state.log_history:
            self._verdicts(int(logs.get("step", 0)), logs)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        """Look at the curves with the newest values."""
        verdicts = self._verdicts(state.global_step, logs or {})
        if state.is_world_process_zero:
            for kind, message in verdicts:
                self._tell(kind, message)

    def _verdicts(self, step: int, logs: Mapping[str, float]) -> list[tuple[str, str]]:
        if "loss" not in logs:
            return []
        self._logs += 1
        self._losses.append(float(logs["loss"]))
        margin, accuracy = logs.get("rewards/margins"), logs.get("rewards/accuracies")
        # Both are exactly zero where no pair with two answers was seen.
        if margin is not None and accuracy is not None and (margin or accuracy):
            self._margins.append(float(margin))
            self._accuracies.append(float(accuracy))
        found = []
        spike = loss_spike(list(self._losses))
        if spike is not None and self._may_say("loss_spike"):
            rate = logs.get("learning_rate")
            there = "" if rate is None else f"; the learning rate there is {rate:.2g}"
            words = (
                f"the loss rose from about {spike.before:.3g} to {spike.now:.3g} at step {step}"
                f"{there}. If it does not come down again, go back to an earlier checkpoint with a "
                "lower learning_rate or max_grad_norm."
            )
            found.append(("loss_spike", words))
        fall = margin_collapse(list(self._margins), list(self._accuracies))
        if fall is not None and self._may_say("margin_collapse"):
            words = (
                f"{fall.name} fell from about {fall.before:.2g} to {fall.now:.2g} by step {step}: "
                "the model no longer prefers the chosen answers. Lower learning_rate, and look at "
                "the data with `orpo data audit`; an earlier checkpoint may be the better model."
            )
            found.append(("margin_collapse", words))
        return found

    def _may_say(self, kind: str) -> bool:
        last = self._said.get(kind)
        if last is not None and self._logs - last < HISTORY:
            return False
        self._said[kind] = self._logs
        return True
