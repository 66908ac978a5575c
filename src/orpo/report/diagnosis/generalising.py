"""What the training pairs do not show: held-out pairs that turn, and answers that grow."""

from __future__ import annotations

import math
from statistics import fmean, stdev

from orpo.report.diagnosis.shifts import Shift, ended_lower, shift, told
from orpo.report.diagnosis.types import Finding, Observed, clear, look, unknown
from orpo.report.series import Curves, Series
from orpo.report.values import as_count, as_number, as_pair, as_percent, lasting, sentence

__all__ = ["length_creep", "overfitting"]

_TURN = 0.02  # of the lowest held-out loss
_NOISE = 5.0
_NEVER_BETTER = 0.1  # above where it began
_LOSSES = ("loss", "nll_loss")
_FEWEST_ANSWERS = 20
_GROWTH = 1.3
_SURE = 4.0


def overfitting(seen: Observed) -> Finding:
    """Training goes on improving while held-out pairs get worse."""
    name = "overfitting"
    curves = [
        one for metric in _LOSSES for one in seen.curves.held_out.get(metric, []) if one.points
    ]
    if not any(len(one.points) > 1 for one in curves):
        return unknown(
            name, "No held-out pairs were scored while training (eval_dataset and eval_steps)."
        )
    for series in curves:
        lowest = _lowest(series)
        after = _training_since(seen.curves, series.metric, lowest)
        learned = after is not None and after.fell and ended_lower(seen.curves, series.metric)
        if after is not None and learned and _worse(series):
            shown = f"{_turn_told(series, lowest)}; {told(f'the training {_said(series)}', after)}"
            return look(name, sentence(shown) + _gap(seen.curves, series), _advice(series, lowest))
    shown = _turn_told(curves[0], _lowest(curves[0]))
    if any(map(_worse, curves)):
        shown += "; the training loss did not end lower than it began either, or hardly"
    return clear(name, sentence(shown))


def _worse(series: Series) -> bool:
    """It turned upwards, or ended well above where it began."""
    values = list(series.points.values())
    never_better = values[-1] - values[0] > _NEVER_BETTER * abs(values[0])
    return never_better or _turned(series, _lowest(series))


def _advice(series: Series, lowest: float) -> str:
    if lowest == next(iter(series.points)):
        return (
            "What is learned does not carry over: see whether the held-out pairs are of the same "
            "kind, train for fewer epochs (num_train_epochs), or add pairs."
        )
    return (
        f"Stop at about step {lowest:,.0f} (num_train_epochs or max_steps), keep the best "
        "checkpoint (load_best_model_at_end with eval_steps), or add pairs."
    )


def _said(series: Series) -> str:
    return "NLL" if series.metric == "nll_loss" else "loss"


def length_creep(seen: Observed) -> Finding:
    """The same prompts are answered at greater length than before."""
    name = "length_creep"
    answered = [(a, b, c) for a, b, c in seen.lengths if a > 0 and b > 0]
    if len(answered) < _FEWEST_ANSWERS:
        return unknown(
            name,
            f"Fewer than {_FEWEST_ANSWERS} prompts were answered both before and after training.",
        )
    ratios = [math.log(after / before) for before, after, _ in answered]
    error = stdev(ratios) / math.sqrt(len(ratios))
    growth = math.exp(fmean(ratios))
    first, last = as_pair(
        fmean(before for before, _, _ in answered), fmean(after for _, after, _ in answered)
    )
    evidence = (
        f"Over {as_count(len(answered), 'prompt')}, answers are {as_number(round(growth, 2))} "
        f"times as long as before (mean {first} → {last} characters){_wanted(answered)}."
    )
    if growth < _GROWTH or fmean(ratios) < _SURE * error:
        return clear(name, evidence)
    return look(
        name,
        evidence,
        "Look at the length bias of the pairs with `orpo data audit`; `orpo data fix --balance "
        "length` makes a copy without it. A lower orpo_alpha learns less of it.",
    )


def _turned(series: Series, lowest: float) -> bool:
    """Whether the last evaluations stand clearly above the lowest one."""
    steps, values = list(series.points), list(series.points.values())
    position = steps.index(lowest)
    if position in (0, len(steps) - 1):
        return False  # never better than at the start is another disease
    rise = values[-1] - values[position]
    if rise < _TURN * abs(values[position]):
        return False
    later = values[position + 1 :]
    growing = all(b > values[position] for b in later)
    bends = [values[i - 1] - 2 * values[i] + values[i + 1] for i in range(1, len(values) - 1)]
    falling = bends[position:] if len(bends) - position >= 3 else []
    noise = math.sqrt(fmean(bend**2 for bend in falling) / 6) if falling else 0.0
    return growing and rise > _NOISE * noise


def _lowest(series: Series) -> float:
    return min(series.points, key=lambda step: series.points[step])


def _training_since(curves: Curves, metric: str, step: float) -> Shift | None:
    """The same metric on training pairs, from where the held-out one was lowest."""
    own = curves.training.get(metric)
    if own is None:
        return None
    later = Series(metric, None, {s: v for s, v in own.points.items() if s >= step})
    since = shift(later)
    return since if since is not None and since.fell else shift(own)


def _turn_told(series: Series, lowest: float) -> str:
    last = list(series.points)[-1]
    low, end = as_pair(series.points[lowest], series.points[last])
    which = f" on {lasting(series.source, 60)}" if series.source else ""
    what = f"the held-out {_said(series)}{which} was lowest at"
    if last == lowest:
        return f"{what} the last evaluation, {low} at step {last:,.0f}"
    return f"{what} step {lowest:,.0f} ({low}) and {end} at step {last:,.0f}"


def _gap(curves: Curves, series: Series) -> str:
    """How much better the training pairs are told apart than held-out ones, if by much."""
    own = shift(curves.training.get("rewards/accuracies"))
    other = next(
        (s for s in curves.held_out.get("rewards/accuracies", []) if s.source == series.source),
        None,
    )
    if own is None or other is None or not other.points:
        return ""
    last = list(other.points.values())[-1]
    return f" Preference accuracy at the end: {as_percent(own.last)} on training pairs, " + (
        f"{as_percent(last)} on held-out ones."
    )


def _wanted(answered: list[tuple[int, int, int]]) -> str:
    preferred = [(before, c) for before, _, c in answered if c > 0]
    if len(preferred) < len(answered) / 2:
        return ""
    ratio = math.exp(fmean(math.log(c / before) for before, c in preferred))
    return f"; the preferred answers in the data are {as_number(round(ratio, 2))} times as long"
