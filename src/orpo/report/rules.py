"""The seven rules of the diagnosis, and the thresholds that they keep.

Each looks for one disease and says "look" where it applies, "ok" where it does not, "unknown" where
the run logged too little; always with the numbers that say so. What to try stands in
templates/diagnosis.txt.jinja.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median, stdev
from typing import Any

from orpo.report.series import Curves, Series
from orpo.report.shifts import (
    FEWEST,
    Observed,
    Shift,
    ended_lower,
    held_out,
    loss_spikes,
    shift,
    told,
)
from orpo.report.values import (
    as_count,
    as_number,
    as_pair,
    as_percent,
    joined,
    sentence,
    shortened,
)

_STILL_LOSS, _STILL_LOSS_HELD_OUT = 0.05, 0.01  # of its size
_STILL_ODDS, _STILL_ODDS_HELD_OUT = 0.3, 0.05
_LEARNED_ALREADY = 0.95  # a preference that is there cannot be learned again
_FALL = 0.05  # nats per token
_NLL = 0.02  # of its size
_SHARE = 0.1  # a term that is less of the loss does not dominate it
_LEARNED = 0.9
_RISEN = 0.1
_NOTHING = 0.003  # of the loss: a term as small steers nothing
_TURN = 0.02  # of the lowest held-out loss
_NOISE = 5.0
_NEVER_BETTER = 0.1  # above where it began
_FEWEST_ANSWERS = 20
_GROWTH, _SURE = 1.3, 4.0
_FEW = f"Fewer than {FEWEST} steps logged a loss, and no held-out pairs were scored twice."
_MISSING = (
    f"Fewer than {FEWEST} steps were logged with two answers, and no held-out pairs were scored "
    "twice."
)

Judged = tuple[str, str] | tuple[str, str, dict[str, Any]]
"""A verdict, its evidence, and what its advice depends on."""


# The learning rate: too low to learn anything, or too high to keep it


def learning_rate_too_low(seen: Observed) -> Judged:
    """The loss and the log odds ratio hardly move, surely and not for want of points."""
    loss, odds = seen.training("loss"), seen.training("log_odds_chosen")
    tested, apart = held_out(seen.curves, "loss"), held_out(seen.curves, "log_odds_chosen")
    if not seen.halfway:
        return "unknown", "Less than half of the planned steps are done."
    if loss is None and tested is None:
        return "unknown", _FEW
    shown = {
        "the loss": loss,
        "the log odds ratio": odds,
        "the held-out loss": tested,
        "the held-out log odds ratio": apart,
    }
    evidence = sentence(joined(told(label, one) for label, one in shown.items() if one))
    if tested is not None:
        still = _still(tested, _STILL_LOSS_HELD_OUT * tested.first, loss)
    else:
        still = _still(loss, _STILL_LOSS * loss.first if loss else 0.0)
    if apart is not None:
        still = still and _still(apart, _STILL_ODDS_HELD_OUT, odds)
    else:
        still = still and (odds is None or _still(odds, _STILL_ODDS))
    accuracy = seen.training("rewards/accuracies")
    learned = accuracy is not None and accuracy.first >= _LEARNED_ALREADY
    return ("ok", evidence) if not still or learned else ("look", f"Nothing moved. {evidence}")


def learning_rate_too_high(seen: Observed) -> Judged:
    """The loss rises, jumps, or breaks; the gradient grows while nothing is learned."""
    series = seen.curves.training.get("loss")
    few = series is None or len(series.points) + len(series.broken) < FEWEST
    if few and held_out(seen.curves, "loss") is None:
        return "unknown", _FEW
    signs = (_broken, _risen, _spiked, _grown, _collapsed)
    found = [one for sign in signs for one in sign(seen)]
    return ("look", sentence("; ".join(found))) if found else ("ok", _calm(seen))


def _still(found: Shift | None, bound: float, other: Shift | None = None) -> bool:
    """Whether a curve surely stays within a bound, and the same on other pairs moves neither."""
    moved = other is not None and (other.rose or other.fell)
    return found is not None and found.within(abs(bound)) and not moved


def _broken(seen: Observed) -> list[str]:
    series = seen.curves.training.get("loss")
    if series is None or not series.broken:
        return []
    steps = as_count(len(series.broken), "logged step")
    return [f"the loss was NaN or infinite at {steps}, first at step {series.broken[0]:,.0f}"]


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
    found = shift(Series(series.metric, None, dict(points[lowest:])))
    if found is None or found.change < 1.5 * found.threshold or found.relative < 0.15:
        return None
    return found


def _spiked(seen: Observed) -> list[str]:
    spikes = loss_spikes(seen.curves.training.get("loss"))
    if len(spikes) < 2:
        return []
    where = joined(f"{step:,.0f}" for step in spikes[:4])
    more = " and later" if len(spikes) > 4 else ""
    return [f"{as_count(len(spikes), 'loss spike')}, at steps {where}{more}"]


def _grown(seen: Observed) -> list[str]:
    """A gradient that grows fivefold while the loss does not fall."""
    norm, loss = seen.curves.training.get("grad_norm"), seen.training("loss")
    if norm is None or loss is None or loss.fell or len(norm.points) < FEWEST:
        return []
    values = list(norm.points.values())
    quarter = len(values) // 4
    first, last = median(values[:quarter]), median(values[-quarter:])
    if last < 5 * first or min(values[-quarter:]) < max(values[:quarter]):
        return []
    ends = f"from {as_number(first)} to {as_number(last)}"
    return [f"the gradient norm grew {ends} while the loss did not fall"]


def _collapsed(seen: Observed) -> list[str]:
    steps = [step for step, kind in seen.events if kind == "margin_collapse"]
    return [f"margin collapse, told at step {steps[0]:,.0f}"] if steps else []


def _calm(seen: Observed) -> str:
    """What was looked at and found in order."""
    loss = seen.training("loss") or held_out(seen.curves, "loss")
    spikes = loss_spikes(seen.curves.training.get("loss"))
    jumps = f"one loss spike, at step {spikes[0]:,.0f}" if spikes else "no loss spike"
    return sentence(f"{told('the loss', loss) if loss else 'the loss did not rise'}; {jumps}")


# The preference term: too strong, too weak, or won at the price of the chosen answers


def chosen_falls(seen: Observed) -> Judged:
    """The margin grows while the chosen answers themselves become less probable."""
    odds, chosen = seen.pair("log_odds_chosen", "logps/chosen")
    if odds is None or chosen is None:
        return "unknown", _MISSING
    rejected = seen.same("logps/rejected", chosen)
    shown = [
        told("the log odds ratio", odds),
        told("log-probability per token of the chosen answers", chosen),
        *([told("of the rejected ones", rejected)] if rejected else []),
    ]
    evidence = sentence(joined(shown)) + _where(odds)
    if not (odds.rose and chosen.fell and chosen.change < -_FALL):
        return "ok", evidence
    own = seen.training("logps/chosen")
    if own is not None and own.rose:
        return "ok", f"{evidence} On training pairs they rose: {told('theirs', own)}."
    return "look", f"The margin grew while the chosen answers became less probable. {evidence}"


def orpo_alpha_too_high(seen: Observed) -> Judged:
    """The odds-ratio term rules: it improves while the NLL of the chosen answers rises."""
    if seen.objective != "orpo":
        return "unknown", f"The objective is {seen.objective}: it has no such term."
    odds, nll = seen.pair("log_odds_chosen", "nll_loss")
    if odds is None or nll is None:
        return "unknown", _MISSING
    share = _odds_share(seen)
    ruling = f"; the odds-ratio term was {as_percent(share)} of the loss at the start"
    part = "" if share is None else ruling
    evidence = sentence(f"{told('NLL', nll)}, {told('log odds ratio', odds)}{part}") + _where(odds)
    ruled = share is None or share >= _SHARE
    if not (nll.rose and nll.relative > _NLL and odds.rose and ruled):
        return "ok", evidence
    own = seen.training("nll_loss")
    if own is not None and own.fell:
        return "ok", f"{evidence} On training pairs it fell: {told('NLL', own)}."
    whole, _ = seen.pair("loss", "loss")
    if whole is not None and whole.rose and whole.relative > _RISEN:
        return "ok", f"The whole loss rose: that is the learning rate's doing. {evidence}"
    return "look", f"The odds improved at the price of the NLL. {evidence}"


def orpo_alpha_too_low(seen: Observed) -> Judged:
    """The NLL falls, and the odds stay where they are: plain fine-tuning."""
    if seen.objective != "orpo":
        return "unknown", f"The objective is {seen.objective}: it has no such term."
    odds, nll = seen.pair("log_odds_chosen", "nll_loss")
    if odds is None or nll is None:
        return "unknown", _MISSING
    accuracy = seen.same("rewards/accuracies", odds)
    shown = [told("NLL", nll), told("log odds ratio", odds)]
    shown += [told("preference accuracy", accuracy, share=True)] if accuracy else []
    evidence = sentence(joined(shown)) + _where(odds)
    still = odds.at_most(_STILL_ODDS if odds.error else _STILL_ODDS_HELD_OUT)
    learned = accuracy is not None and accuracy.first >= _LEARNED
    share = _odds_share(seen)
    if share is not None and share < _NOTHING and not learned:
        was = f"The odds-ratio term was {as_percent(share)} of the loss at the start"
        return "look", f"{was}: this is plain fine-tuning. {evidence}", {"nothing": True}
    if not (nll.fell and nll.relative < -_NLL and still) or learned:
        return "ok", evidence
    return "look", f"The NLL fell and the preference did not follow. {evidence}", {"nothing": False}


def _odds_share(seen: Observed) -> float | None:
    """The part of the loss that is the odds-ratio term, over the first quarter."""
    loss, nll = seen.pair("loss", "nll_loss")
    if loss is None or nll is None or loss.first <= 0 or loss.points != nll.points:
        return None
    return min(1.0, max(0.0, 1 - nll.first / loss.first))


def _where(found: Shift) -> str:
    return " On training pairs." if found.error else " On held-out pairs."


# What the training pairs do not show: held-out pairs that turn, and answers that grow


def overfitting(seen: Observed) -> Judged:
    """Training goes on improving while held-out pairs get worse."""
    held = seen.curves.held_out
    curves = [one for metric in ("loss", "nll_loss") for one in held.get(metric, []) if one.points]
    if not any(len(one.points) > 1 for one in curves):
        return (
            "unknown",
            "No held-out pairs were scored while training (eval_dataset and eval_steps).",
        )
    for series in curves:
        lowest = _lowest(series)
        after = _training_since(seen.curves, series.metric, lowest)
        learned = after is not None and after.fell and ended_lower(seen.curves, series.metric)
        if after is not None and learned and _worse(series):
            shown = f"{_turn_told(series, lowest)}; {told(f'the training {_said(series)}', after)}"
            at_once = lowest == next(iter(series.points))
            more = {"lowest": None if at_once else lowest}
            return "look", sentence(shown) + _gap(seen.curves, series), more
    shown = _turn_told(curves[0], _lowest(curves[0]))
    if any(map(_worse, curves)):
        shown += "; the training loss did not end lower than it began either, or hardly"
    return "ok", sentence(shown)


def _worse(series: Series) -> bool:
    """It turned upwards, or ended well above where it began."""
    values = list(series.points.values())
    never_better = values[-1] - values[0] > _NEVER_BETTER * abs(values[0])
    return never_better or _turned(series, _lowest(series))


def _turned(series: Series, lowest: float) -> bool:
    """Whether the last evaluations stand clearly above the lowest one."""
    steps, values = list(series.points), list(series.points.values())
    position = steps.index(lowest)
    if position in (0, len(steps) - 1):
        return False  # never better than at the start is another disease
    rise = values[-1] - values[position]
    if rise < _TURN * abs(values[position]):
        return False
    growing = all(later > values[position] for later in values[position + 1 :])
    bends = [values[i - 1] - 2 * values[i] + values[i + 1] for i in range(1, len(values) - 1)]
    falling = bends[position:] if len(bends) - position >= 3 else []
    noise = math.sqrt(fmean(bend**2 for bend in falling) / 6) if falling else 0.0
    return growing and rise > _NOISE * noise


def _said(series: Series) -> str:
    return "NLL" if series.metric == "nll_loss" else "loss"


def _lowest(series: Series) -> float:
    return min(series.points, key=lambda step: series.points[step])


def _training_since(curves: Curves, metric: str, step: float) -> Shift | None:
    """The same metric on training pairs, from where the held-out one was lowest."""
    own = curves.training.get(metric)
    if own is None:
        return None
    since = shift(Series(metric, None, {s: v for s, v in own.points.items() if s >= step}))
    return since if since is not None and since.fell else shift(own)


def _turn_told(series: Series, lowest: float) -> str:
    last = list(series.points)[-1]
    low, end = as_pair(series.points[lowest], series.points[last])
    which = f" on {shortened(series.source, 60)}" if series.source else ""
    what = f"the held-out {_said(series)}{which} was lowest at"
    if last == lowest:
        return f"{what} the last evaluation, {low} at step {last:,.0f}"
    return f"{what} step {lowest:,.0f} ({low}) and {end} at step {last:,.0f}"


def _gap(curves: Curves, series: Series) -> str:
    """How much better the training pairs are told apart than held-out ones."""
    own = shift(curves.training.get("rewards/accuracies"))
    others = curves.held_out.get("rewards/accuracies", [])
    other = next((one for one in others if one.source == series.source and one.points), None)
    if own is None or other is None:
        return ""
    last = as_percent(list(other.points.values())[-1])
    trained = f"{as_percent(own.last)} on training pairs"
    return f" Preference accuracy at the end: {trained}, {last} on held-out ones."


def length_creep(seen: Observed) -> Judged:
    """The same prompts are answered at greater length than before."""
    answered = [one for one in seen.lengths if one[0] > 0 and one[1] > 0]
    if len(answered) < _FEWEST_ANSWERS:
        said = f"Fewer than {_FEWEST_ANSWERS} prompts were answered both before and after training."
        return "unknown", said
    ratios = [math.log(after / before) for before, after, _ in answered]
    error = stdev(ratios) / math.sqrt(len(ratios))
    growth = math.exp(fmean(ratios))
    first, last = as_pair(fmean(one[0] for one in answered), fmean(one[1] for one in answered))
    evidence = (
        f"Over {as_count(len(answered), 'prompt')}, answers are {as_number(round(growth, 2))} "
        f"times as long as before (mean {first} → {last} characters){_wanted(answered)}."
    )
    grown = growth >= _GROWTH and fmean(ratios) >= _SURE * error
    return "look" if grown else "ok", evidence


def _wanted(answered: Sequence[tuple[int, int, int]]) -> str:
    preferred = [(before, c) for before, _, c in answered if c > 0]
    if len(preferred) < len(answered) / 2:
        return ""
    ratio = math.exp(fmean(math.log(c / before) for before, c in preferred))
    return f"; the preferred answers in the data are {as_number(round(ratio, 2))} times as long"


RULES: dict[str, tuple[str, Callable[[Observed], Judged]]] = {
    "learning_rate_too_low": ("Learning rate too low", learning_rate_too_low),
    "learning_rate_too_high": ("Learning rate too high", learning_rate_too_high),
    "chosen_falls": ("Margin grows while the chosen answers fall", chosen_falls),
    "orpo_alpha_too_high": ("Preference term (λ, orpo_alpha) too strong", orpo_alpha_too_high),
    "orpo_alpha_too_low": ("Preference term (λ, orpo_alpha) too weak", orpo_alpha_too_low),
    "overfitting": ("Overfitting", overfitting),
    "length_creep": ("Length creep", length_creep),
}
"""Rule -> its title, and what it says."""
