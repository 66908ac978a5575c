"""How far a curve of a run went beside its own noise, and the signs of trouble in it.

The guard looks for these signs while a run trains, the report's diagnosis when it reads one. A
point is worth as many pairs as its logged line covers: the last line of a run may be of few steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median, median_high

FEWEST = 8
"""Logged steps without which a training curve says nothing."""
HISTORY = 20
"""Logged steps that are remembered as what is usual."""
_FEWEST_LOSSES = 5  # earlier losses without which there is no verdict
_WINDOW = 5  # logs over which a margin is smoothed
_FEWEST_PAIRS = 4  # whose loss is where a run starts
_FALL = 0.05  # nats per token
_SHARES = "accuracies"


@dataclass(frozen=True)
class Series:
    """One metric on an evaluation set ("" where there is one only), or on training pairs (None)."""

    metric: str
    source: str | None
    points: dict[float, float] = field(default_factory=dict)
    broken: tuple[float, ...] = ()  # steps at which it was NaN, infinite or absurdly large
    pairs: dict[float, float] = field(default_factory=dict)  # that a point covers; 1 if not known

    @property
    def values(self) -> list[float]:
        """Of all points."""
        return list(self.points.values())

    @property
    def weights(self) -> list[float]:
        """The pairs that each point covers."""
        return [self.pairs.get(step, 1.0) for step in self.points]

    @property
    def last(self) -> float | None:
        """The last value."""
        return self.values[-1] if self.points else None

    @property
    def trend(self) -> Shift | None:
        """From its first tenth to its last; None with fewer than two points."""
        return _shift(self, max(1, len(self.points) // 10))

    def part(self, points: Iterable[tuple[float, float]]) -> Series:
        """The same curve with some of its points, or others in their place."""
        return Series(self.metric, self.source, dict(points), pairs=self.pairs)


@dataclass(frozen=True)
class Shift:
    """From the start of a curve to its end: means over stretches of it, weighted by pairs.

    `error` is the standard error of their difference, from the curvature of neighbouring points,
    which a slow trend does not widen; a share's is at least that of drawing its pairs. It is 0 for
    held-out curves, where the same pairs are scored each time, and infinite if it is not known.
    """

    first: float
    last: float
    error: float
    points: int
    steps: tuple[float, float]
    noise: float = 0.0  # standard error of `last` alone
    pairs: float = 0.0  # of which `last` is the mean

    @property
    def change(self) -> float:
        """`last - first`."""
        return self.last - self.first

    @property
    def relative(self) -> float:
        """The change as a share of the start's size."""
        return self.change / max(abs(self.first), 1e-12)

    @property
    def threshold(self) -> float:
        """A change beyond it is none of chance: wider where few points tell the noise."""
        return 4 * (1 + 5 / self.points) * self.error

    @property
    def rose(self) -> bool:
        """Clearly."""
        return self.change > self.threshold

    @property
    def fell(self) -> bool:
        """Clearly."""
        return -self.change > self.threshold

    @property
    def known(self) -> bool:
        """Whether enough was logged to tell the change from noise."""
        return math.isfinite(self.error)

    @property
    def direction(self) -> str:
        """How it looks: "rose", "fell", or "held" where the change is within twice the noise."""
        size = max(abs(self.first), abs(self.last))
        if abs(self.change) <= max(self.threshold / 2, 1e-3 * size):
            return "held"
        return "rose" if self.change > 0 else "fell"

    def against(self, level: float) -> str:
        """Where the end is beside a level: "above", "below", or "" where noise could explain it."""
        if abs(self.last - level) <= 2 * self.noise:
            return ""
        return "above" if self.last > level else "below"

    def at_most(self, bound: float, *, whatever_sign: bool = False) -> bool:
        """Whether any rise, or any change, is surely smaller than a bound."""
        change = abs(self.change) if whatever_sign else self.change
        return change + self.threshold / 2 < bound


def shift(series: Series | None) -> Shift | None:
    """From the first to the last quarter of a training curve; None below `FEWEST` points."""
    if series is None or len(series.points) < FEWEST:
        return None
    return _shift(series, len(series.points) // 4)


def _shift(series: Series, window: int) -> Shift | None:
    values, weights, steps = series.values, series.weights, list(series.points)
    if len(values) < 2:
        return None
    first, start, used = _stretch(values, weights, window)
    last, end, more = _stretch(values[::-1], weights[::-1], window)
    spread = _spread(values, weights) if used + more <= len(values) else math.inf
    noise = [spread / math.sqrt(pairs) for pairs in (start, end)]
    if series.metric.endswith(_SHARES) and series.source is None:
        drawn = [_of_a_share(share, pairs) for share, pairs in ((first, start), (last, end))]
        known = math.isfinite(spread)
        noise = [max(one, other) if known else one for one, other in zip(drawn, noise, strict=True)]
    return Shift(first, last, math.hypot(*noise), len(values), (steps[0], steps[-1]), noise[1], end)


def _stretch(
    values: Sequence[float], weights: Sequence[float], window: int, enough: float = 0.0
) -> tuple[float, float, int]:
    """The mean of the first points, their pairs, how many: until as much is seen as usual."""
    enough, used, pairs = enough or 0.999 * window * median_high(weights), 0, 0.0
    while used < len(values) and (used < window or pairs < enough):
        pairs += weights[used]
        used += 1
    return fmean(values[:used], weights[:used]), pairs, used


def _spread(values: Sequence[float], weights: Sequence[float]) -> float:
    """The standard deviation of a point that covers one pair; infinite if nothing tells it."""
    bends = [
        (values[i - 1] - 2 * values[i] + values[i + 1]) ** 2
        / (1 / weights[i - 1] + 4 / weights[i] + 1 / weights[i + 1])
        for i in range(1, len(values) - 1)
    ]
    return math.sqrt(fmean(bends)) if len(bends) > 1 else math.inf


def _of_a_share(share: float, pairs: float) -> float:
    """Half of how far a share of some pairs is from the end of its interval (Agresti and Coull)."""
    middle = (min(max(share, 0.0), 1.0) * pairs + 2) / (pairs + 4)
    return abs(share - middle) / 2 + math.sqrt(middle * (1 - middle) / (pairs + 4))


# Signs of trouble


@dataclass(frozen=True)
class Turn:
    """A figure that is far from what it was before."""

    name: str
    before: float
    now: float


def loss_spike(losses: Sequence[float], whole: float = 1.0) -> Turn | None:
    """Whether the last of some losses stands out above those before it.

    It must lie above their median by many times their spread (the median absolute deviation, which
    one earlier spike does not widen; the fewer values, the less it is trusted), by 30 % and by 0.1.
    `whole` is the part of a usual line that the last one covers.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not losses or not math.isfinite(losses[-1]) or len(finite) <= _FEWEST_LOSSES:
        return None
    earlier, now = finite[:-1], finite[-1]
    middle = median(earlier)
    spread = 1.4826 * median(abs(loss - middle) for loss in earlier) / math.sqrt(whole)
    rise = max(7 * (1 + 5 / len(earlier)) * spread, 0.3 * abs(middle), 0.1)
    return Turn("loss", middle, now) if now - middle > rise else None


def loss_spikes(series: Series | None) -> list[float]:
    """The steps at which the loss stands far above the twenty before it."""
    if series is None:
        return []
    values, weights, found = series.values, series.weights, []
    for i, step in enumerate(series.points):
        usual = slice(max(0, i - HISTORY), i + 1)
        whole = min(1.0, weights[i] / median_high(weights[usual]))
        if loss_spike(values[usual], whole) is not None:
            found.append(step)
    return found


def loss_tripled(series: Series | None) -> Turn | None:
    """Whether the last three losses are all at three times where the run started, or above."""
    points = list(series.points.items()) if series else []
    if series is None or len(points) < 4:
        return None
    start = series.part(points[:_FEWEST_PAIRS])
    first, _, used = _stretch(start.values, start.weights, 1, _FEWEST_PAIRS)
    now = min(value for _, value in points[-3:])
    if len(points) < used + 3 or now < 3 * first or now - first < 0.1:
        return None
    return Turn("loss", first, points[-1][1])


def chosen_fell(odds: Shift | None, chosen: Shift | None) -> bool:
    """Whether the margin grew while the chosen answers became less probable, both clearly."""
    if odds is None or chosen is None:
        return False
    return odds.rose and chosen.fell and chosen.change < -_FALL


def margin_collapse(margins: Sequence[float], accuracies: Sequence[float]) -> Turn | None:
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
            return Turn(name, before, now)
    return None
