"""How sure a number is: confidence intervals over prompts, which are what was sampled.

Two methods, because no single one covers everywhere:

* A mean of unbounded values (log odds, scores): the bootstrap-t over prompts (Efron and
  Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 12.5). The percentile bootstrap is
  too narrow for few prompts (Hesterberg, "What Teachers Should Know about the Bootstrap", 2015:
  by a factor of sqrt((n-1)/n), and blind to skewness); studentizing mends both.
* A share (0, 1/2 for a tie, 1) or a difference of two shares on the same pairs: no bootstrap
  sees the failures that did not happen to be drawn, so 30 of 30 would be "100 to 100". Here
  stands the score interval for a difference of paired proportions (Tango, Statistics in Medicine
  17, 1998), with the number of pairs divided by the design effect of the prompts, which is the
  bootstrap's variance over prompts in closed form (Kish 1965; Korn and Graubard, Survey
  Methodology 24, 1998, also for Student's quantile in place of the normal one). Without ties and
  with one pair a prompt it is Wilson's interval (1927).
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

_FEW = 16
"""With fewer prompts than this a bootstrap has too few samples to draw; Student's t stands."""
_CELLS = 4_000_000
"""Most cells of the table (draws x prompts) that are held at once."""


@dataclass(frozen=True)
class Interval:
    """A mean and how sure it is.

    Attributes:
        value: The mean.
        low: Lower end; minus infinity where one prompt is all there is.
        high: Upper end; infinity where one prompt is all there is.
        level: How often such intervals contain the truth.
        n: Observations.
        clusters: Prompts that they belong to.
    """

    value: float
    low: float = field(metadata={"null": -math.inf})
    high: float = field(metadata={"null": math.inf})
    n: int
    clusters: int
    level: float = 0.95

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinity: an end that is not known is None."""
        known = vars(self).items()
        return {name: value if math.isfinite(value) else None for name, value in known}

    def told(self, more: str, less: str, untold: str, least: float = 0.0) -> str:
        """`more` or `less` where 0 lies outside of it, and the mean is no smaller than `least`."""
        if self.low > 0 and self.value >= least:
            return more
        return less if self.high < 0 and self.value <= -least else untold

    def ends(self, scale: float = 1.0, decimals: int = 1) -> str:
        """+1.2 to +3.4; ? for an end that is not known."""
        known = (scale * end for end in (self.low, self.high))
        shown = (f"{end:+.{decimals}f}" if math.isfinite(end) else "?" for end in known)
        return " to ".join(shown).replace("-", "−")

    def signed(self, scale: float = 1.0, decimals: int = 1, unit: str = "") -> str:
        """+2.3 points (95 % interval +1.2 to +3.4)."""
        mean = f"{scale * self.value:+.{decimals}f}".replace("-", "−")
        return f"{mean}{unit} ({100 * self.level:.0f} % interval {self.ends(scale, decimals)})"


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    share: bool | None = None,
) -> Interval:
    """The mean of some observations, with its interval.

    Args:
        values: One finite number for each observation; 0 and 1 for a share.
        clusters: The prompt of each observation: prompts are drawn, not observations; each
            observation its own if absent.
        level: How often such intervals shall contain the truth.
        draws: Bootstrap samples.
        seed: Makes them repeatable.
        share: The values are between 0 and 1 by their nature, so the interval is too. If absent,
            they are where each of them is 0, 1/2 (a tie) or 1.

    Raises:
        ValueError: There is no value, one is not finite, the lengths differ, or a share is
            outside of 0 to 1.
    """
    found = _checked(values, level)
    groups = _groups(clusters, len(found))
    if share if share is not None else is_share(found):
        if found.min() < 0 or found.max() > 1:
            raise ValueError("a share is between 0 and 1")
        low, high = _score_ends(2 * found - 1, groups, level)
        ends = ((1 + low) / 2, (1 + high) / 2)
    else:
        ends = _mean_ends(found, groups, level, draws, seed)
    return _interval(found, groups, ends, level)


def paired_interval(
    before: Sequence[float],
    after: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    share: bool | None = None,
) -> Interval:
    """The mean of `after - before` on the same observations, with its interval.

    Args:
        before: One finite number for each observation.
        after: As many, in the same order.
        clusters: As in `mean_interval`.
        level: As in `mean_interval`.
        draws: As in `mean_interval`.
        seed: As in `mean_interval`.
        share: As in `mean_interval`, of both; the difference is then between -1 and 1.

    Raises:
        ValueError: As `mean_interval`.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} values before and {len(after)} after")
    first, second = _checked(before, level), _checked(after, level)
    groups = _groups(clusters, len(first))
    change = second - first
    if share if share is not None else is_share(first) and is_share(second):
        if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) > 1:
            raise ValueError("a share is between 0 and 1")
        ends = _score_ends(change, groups, level)
    else:
        ends = _mean_ends(change, groups, level, draws, seed)
    return _interval(change, groups, ends, level)


def auc_interval(
    positives: Sequence[float], negatives: Sequence[float], *, level: float = 0.95
) -> Interval | None:
    """How often a positive is above a negative, a tie counting half; None if either is missing.

    The area under the curve with Newcombe's score-like interval on Hanley and McNeil's variance
    (Statistics in Medicine 25, 2006, method 5), which holds near 0 and 1 too.
    """
    wins, losses = len(positives), len(negatives)
    if not wins or not losses:
        return None
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives) + np.searchsorted(ordered, positives, "right")
    value = float(below.sum() / (2 * wins * losses))
    z = NormalDist().inv_cdf(0.5 + level / 2)

    def outside(theta: float) -> bool:
        half = (wins + losses) / 2 - 1
        spread = theta * (1 - theta) / (wins * losses)
        spread *= 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(value - theta) > z * math.sqrt(spread)

    def border(far: float) -> float:
        """Where being outside begins between a point that may be and one that is not."""
        near = value
        if not outside(far):
            return far
        for _ in range(60):
            middle = (far + near) / 2
            far, near = (middle, near) if outside(middle) else (far, middle)
        return near

    ends = (border(0.0), border(1.0))
    return Interval(value, *ends, n=wins + losses, clusters=wins + losses, level=level)


def _interval(
    values: Floats, groups: NDArray[np.int64], ends: tuple[float, float], level: float
) -> Interval:
    value = float(values.mean())
    low, high = ends
    return Interval(
        value, min(low, value), max(high, value), len(values), int(groups.max()) + 1, level
    )


def _checked(values: Sequence[float], level: float) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError("an interval needs at least one value")
    if not np.isfinite(found).all():
        raise ValueError("an interval needs finite values")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, not between 0 and 1")
    return found


def _groups(clusters: Sequence[Hashable] | None, count: int) -> NDArray[np.int64]:
    """The number of each observation's prompt, (n,)."""
    if clusters is None:
        return np.arange(count)
    if len(clusters) != count:
        raise ValueError(f"{count} values and {len(clusters)} clusters")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])


def is_share(values: Sequence[float] | Floats) -> bool:
    """Whether the values are those of a share: lost, drawn, won."""
    return bool(np.isin(values, (0.0, 0.5, 1.0)).all())


def _mean_ends(
    values: Floats, groups: NDArray[np.int64], level: float, draws: int, seed: int
) -> tuple[float, float]:
    """Ends of the bootstrap-t interval over prompts.

    The mean over observations is a ratio of two sums over prompts, so that its standard error is
    that of the residuals e_c = sum_c - mean * size_c (Cochran, "Sampling Techniques", 1977,
    ch. 6).
    """
    sizes = np.bincount(groups).astype(np.float64)
    mean, count = float(values.mean()), len(sizes)
    if count == 1:
        return -math.inf, math.inf
    residuals = np.bincount(groups, values - mean).astype(np.float64)
    scale = math.sqrt(count / (count - 1)) / len(values)
    error = scale * math.sqrt(float(residuals @ residuals))
    # Rounding of equal values is not spread.
    if error <= 1e-12 * float(np.abs(values).max()):
        return mean, mean
    if count < _FEW:
        reach = error * student_quantile(level, count - 1)
        return mean - reach, mean + reach
    studentized = _studentized(residuals, sizes, draws, seed)
    low, high = np.quantile(studentized, ((1 - level) / 2, (1 + level) / 2))
    return mean - error * float(high), mean - error * float(low)


def _studentized(residuals: Floats, sizes: Floats, draws: int, seed: int) -> Floats:
    """(drawn mean - mean) / (the draw's own standard error), (draws,)."""
    count = len(sizes)
    random = np.random.default_rng(seed)
    moments = np.stack(
        (residuals, sizes, residuals**2, residuals * sizes, sizes**2), axis=1
    )  # (prompts, 5)
    sums = np.empty((draws, moments.shape[1]))
    step = max(1, _CELLS // count)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        drawn = random.integers(0, count, size=(rows, count))
        drawn += count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        sums[start : start + rows] = times.astype(np.float64) @ moments
    total, size, squares, cross, size_squares = sums.T
    shift = total / size
    spread = squares - 2 * shift * cross + shift**2 * size_squares
    error = np.sqrt(np.maximum(spread, 0) * count / (count - 1)) / size
    # A draw of one prompt many times has no spread: as far out as can be, on its side.
    tiny = 1e-9 * math.sqrt(float(residuals @ residuals)) / float(sizes.sum())
    studentized: Floats = shift / np.maximum(error, tiny)
    return studentized


def _score_ends(
    differences: Floats, groups: NDArray[np.int64], level: float
) -> tuple[float, float]:
    """Ends of Tango's score interval for the mean of values between -1 and 1."""
    sizes = np.bincount(groups)
    up, down = float(np.maximum(differences, 0).mean()), float(-np.minimum(differences, 0).mean())
    pairs = _independent_pairs(differences, groups, up, down)
    quantile = NormalDist().inv_cdf((1 + level) / 2)
    if 1 < len(sizes) < len(differences):
        residuals = np.bincount(groups, differences - differences.mean()).astype(np.float64)
        quantile = student_quantile(level, _freedom(residuals))

    def beyond(delta: float) -> bool:
        """Whether a true difference of `delta` does not go with what was seen."""
        return abs(up - down - delta) > quantile * _score_error(up, down, pairs, delta)

    return _border(beyond, up - down, -1.0), _border(beyond, up - down, 1.0)


def _independent_pairs(
    differences: Floats, groups: NDArray[np.int64], up: float, down: float
) -> float:
    """As many independent pairs, each -1, 0 or 1, as would say as much as those that there are.

    Positive correlation inside a prompt makes it less; partial values (ties) make it more.
    """
    count, prompts = len(differences), int(groups.max()) + 1
    centred = differences - differences.mean()
    plain = float(centred @ centred) / count
    if plain <= 1e-12 or prompts == 1:  # nothing tells how alike the pairs of a prompt are
        return float(prompts)
    by_prompt = np.bincount(groups, centred)
    inflation = prompts / (prompts - 1) if prompts < count else 1.0
    effect = max(1.0, inflation * float(by_prompt @ by_prompt) / (count * plain))
    return count * (up + down - (up - down) ** 2) / plain / effect


def _freedom(residuals: Floats) -> int:
    """Degrees of freedom of the variance over prompts: fewer where a few prompts make it up.

    Satterthwaite (Biometrics Bulletin 2, 1946) has 2 in place of the 10. Near 0 and 1 the score
    interval allows for most of the skewness by itself, so that 2 covers 98 % there, and no
    correction 92 %; see benchmarks/interval_coverage.py.
    """
    prompts, squares = len(residuals), residuals**2
    spread = float(((squares - squares.mean()) ** 2).mean())
    if spread <= 0:
        return prompts - 1
    return min(prompts - 1, max(2, int(10 * prompts * float(squares.mean()) ** 2 / spread)))


def _score_error(up: float, down: float, pairs: float, delta: float) -> float:
    """Standard error of `up - down` if `delta` were true (Tango 1998, eq. 5 and 6)."""
    b = -up - down + (2 - up + down) * delta
    c = -down * delta * (1 - delta)
    losing = (math.sqrt(max(b * b - 8 * c, 0.0)) - b) / 4
    return math.sqrt(max(2 * losing + delta * (1 - delta), 0.0) / pairs)


def _border(beyond: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `beyond` begins between a point inside and the end of the scale, by bisection."""
    if not beyond(outside):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
    return (inside + outside) / 2


@cache
def student_quantile(level: float, freedom: int) -> float:
    """Student's quantile: |t| stays below it with probability `level`.

    The distribution in closed form for whole degrees of freedom: Abramowitz and Stegun, 26.7.3
    and 26.7.4.
    """
    low, high = 0.0, 1.0
    while _student_within(high, freedom) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def _student_within(t: float, freedom: int) -> float:
    """Probability of |T| <= t."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else (cosine if odd else 1.0)
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
