"""The learning rate: too low to learn anything, or too high to keep it."""

from __future__ import annotations

from statistics import median

from orpo.report.diagnosis.shifts import FEWEST, Shift, ended_lower, held_out, shift, told
from orpo.report.diagnosis.types import Finding, Observed, clear, look, unknown
from orpo.report.series import Series
from orpo.report.values import as_count, as_number, as_pair, joined, sentence

__all__ = ["learning_rate_too_high", "learning_rate_too_low", "loss_spikes"]

_STILL_LOSS = 0.05  # of its size
_STILL_LOSS_HELD_OUT = 0.01
_STILL_ODDS = 0.3
_STILL_ODDS_HELD_OUT = 0.05
_LEARNED = 0.95  # a preference that is there cannot be learned again
_HISTORY = 20


def learning_rate_too_low(seen: Observed) -> Finding:
    """The loss and the log odds ratio hardly move, surely and not for want of points."""
    name = "learning_rate_too_low"
    loss, odds = shift(seen.curves.training.get("loss")), _odds(seen)
    tested, apart = held_out(seen.curves, "loss"), held_out(seen.curves, "log_odds_chosen")
    if not seen.halfway:
        return unknown(name, "Less than half of the planned steps are done.")
    if loss is None and tested is None:
        return unknown(name, _few("loss"))
    shown = [
        told(label, one)
        for label, one in (
            ("the loss", loss),
            ("the log odds ratio", odds),
            ("the held-out loss", tested),
            ("the held-out log odds ratio", apart),
        )
        if one is not None
    ]
    evidence = sentence(joined(shown))
    still = (
        _still(tested, _STILL_LOSS_HELD_OUT * tested.first, (loss,))
        if tested is not None
        else _still(loss, _STILL_LOSS * loss.first if loss else 0.0)
    )
    still = still and (
        _still(apart, _STILL_ODDS_HELD_OUT, (odds,))
        if apart is not None
        else odds is None or _still(odds, _STILL_ODDS)
    )
    accuracy = shift(seen.curves.training.get("rewards/accuracies"))
    learned = accuracy is not None and accuracy.first >= _LEARNED
    if not still or learned:
        return clear(name, evidence)
    rate = f" of {as_number(seen.learning_rate)}" if seen.learning_rate else ""
    return look(
        name,
        f"Nothing moved. {evidence}",
        f"Try a learning_rate 10 times that{rate}, or train for longer. If that changes nothing, "
        "look at the pairs with `orpo data audit`: labels that contradict each other teach "
        "nothing.",
    )


def learning_rate_too_high(seen: Observed) -> Finding:
    """The loss rises, jumps, or breaks; the gradient grows while nothing is learned."""
    name = "learning_rate_too_high"
    series = seen.curves.training.get("loss")
    if series is None or len(series.points) + len(series.broken) < FEWEST:
        tested = held_out(seen.curves, "loss")
        if tested is None:
            return unknown(name, _few("loss"))
    found = [
        *_broken(series),
        *_risen(seen),
        *_spiked(series),
        *_grown(seen),
        *_collapsed(seen),
    ]
    if not found:
        return clear(name, _calm(seen))
    rate = f" (it was {as_number(seen.learning_rate)})" if seen.learning_rate else ""
    return look(
        name,
        sentence("; ".join(found)),
        f"Try a learning_rate of a third to a tenth{rate}, a longer warm-up (warmup_steps), or a "
        "lower max_grad_norm; an earlier checkpoint may be the better model.",
    )


def loss_spikes(series: Series) -> list[float]:
    """The steps at which the loss stands far above those before it.

    As the guard does while training: above the median of the twenty before it by many times their
    spread (the median absolute deviation), by 30 % and by 0.1.
    """
    steps, values = list(series.points), list(series.points.values())
    found = []
    for i in range(5, len(values)):
        earlier = values[max(0, i - _HISTORY) : i]
        middle = median(earlier)
        spread = 1.4826 * median(abs(value - middle) for value in earlier)
        rise = max(7 * (1 + 5 / len(earlier)) * spread, 0.3 * abs(middle), 0.1)
        if values[i] - middle > rise:
            found.append(steps[i])
    return found


def _odds(seen: Observed) -> Shift | None:
    return shift(seen.curves.training.get("log_odds_chosen"))


def _few(metric: str) -> str:
    return f"Fewer than {FEWEST} steps logged a {metric}, and no held-out pairs were scored twice."


def _still(found: Shift | None, bound: float, others: tuple[Shift | None, ...] = ()) -> bool:
    """Whether a curve surely stays within a bound, and the same on other pairs moves neither."""
    moved = any(one is not None and (one.rose or one.fell) for one in others)
    return found is not None and found.within(abs(bound)) and not moved


def _broken(series: Series | None) -> list[str]:
    if series is None or not series.broken:
        return []
    return [
        f"the loss was NaN or infinite at {as_count(len(series.broken), 'logged step')}, first at "
        f"step {series.broken[0]:,.0f}"
    ]


def _risen(seen: Observed) -> list[str]:
    """The loss at the end is above the start, or above its own lowest stretch."""
    found = []
    series, tested = seen.curves.training.get("loss"), held_out(seen.curves, "loss")
    whole = shift(series)
    if whole is not None and whole.rose and whole.relative > 0.05:
        found.append(f"the loss rose: {told('the loss', whole)}")
    elif series is not None and (turned := _since_lowest(series)) is not None:
        found.append(f"the loss fell, then rose: {told('from its lowest stretch', turned)}")
    lower = ended_lower(seen.curves, "loss")  # then held-out pairs are of another kind
    if tested is not None and tested.relative > 0.1 and not lower:
        found.append(f"the held-out loss rose: {told('the held-out loss', tested)}")
    return found if whole is not None and whole.rose else [*found, *_jumped(series)]


def _jumped(series: Series | None) -> list[str]:
    """The loss left its first value at once, and ends above it."""
    whole = shift(series)
    if series is None or whole is None:
        return []
    (step, first), *_ = series.points.items()
    half = Series(series.metric, None, dict(list(series.points.items())[len(series.points) // 2 :]))
    late = shift(half)
    if late is None or whole.last - first < max(2 * late.threshold, 0.15 * abs(first)):
        return []
    start, end = as_pair(first, whole.last)
    return [f"the loss jumped from {start} at step {step:,.0f} and ended at {end}"]


def _since_lowest(series: Series) -> Shift | None:
    """From the lowest quarter of the curve to its end, where that is a clear rise of 15 %."""
    points = list(series.points.items())
    quarter = len(points) // 4
    if len(points) < 2 * FEWEST:
        return None
    starts = range(0, len(points) - 2 * quarter + 1)
    lowest = min(starts, key=lambda i: sum(value for _, value in points[i : i + quarter]))
    part = Series(series.metric, None, dict(points[lowest:]))
    found = shift(part)
    if found is None or found.change < 1.5 * found.threshold or found.relative < 0.15:
        return None
    return found


def _spiked(series: Series | None) -> list[str]:
    spikes = loss_spikes(series) if series is not None else []
    if len(spikes) < 2:
        return []
    where = joined(f"{step:,.0f}" for step in spikes[:4])
    more = " and later" if len(spikes) > 4 else ""
    return [f"{as_count(len(spikes), 'loss spike')}, at steps {where}{more}"]


def _grown(seen: Observed) -> list[str]:
    """A gradient that grows fivefold while the loss does not fall."""
    norm, loss = seen.curves.training.get("grad_norm"), shift(seen.curves.training.get("loss"))
    if norm is None or loss is None or loss.fell or len(norm.points) < FEWEST:
        return []
    values = list(norm.points.values())
    quarter = len(values) // 4
    first, last = median(values[:quarter]), median(values[-quarter:])
    if last < 5 * first or min(values[-quarter:]) < max(values[:quarter]):
        return []
    return [
        f"the gradient norm grew from {as_number(first)} to {as_number(last)} while the loss did "
        "not fall"
    ]


def _collapsed(seen: Observed) -> list[str]:
    steps = [step for step, kind in seen.events if kind == "margin_collapse"]
    return [f"margin collapse, told at step {steps[0]:,.0f}"] if steps else []


def _calm(seen: Observed) -> str:
    """What was looked at and found in order."""
    loss = shift(seen.curves.training.get("loss")) or held_out(seen.curves, "loss")
    series = seen.curves.training.get("loss")
    spikes = loss_spikes(series) if series is not None else []
    told_loss = told("the loss", loss) if loss else "the loss did not rise"
    jumps = f"one loss spike, at step {spikes[0]:,.0f}" if spikes else "no loss spike"
    return sentence(f"{told_loss}; {jumps}")
