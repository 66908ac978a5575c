"""What the curves, the answers and the settings of a run say together, by the eight rules.

Each rule looks for one disease and says "look" where it applies, "ok" where it does not, "unknown"
where the run logged too little; always with the numbers that say so. What to try stands in
templates/diagnosis.txt.jinja.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from orpo.evaluate.verdict import NO_SENSE
from orpo.quantities import (
    as_count,
    as_number,
    as_pair,
    as_percent,
    joined,
    lowered,
    perplexity,
    sentence,
)
from orpo.report.page import Words
from orpo.report.series import (
    Curves,
    Observed,
    curves_of,
    ended_lower,
    held_out,
    observed,
    told,
)
from orpo.report.values import shortened
from orpo.runs.curves import FEWEST, Series, Shift, chosen_fell, loss_spikes, loss_tripled, shift
from orpo.runs.files import Run

_STILL_LOSS, _STILL_LOSS_HELD_OUT = 0.05, 0.01  # of its size
_STILL_ODDS, _STILL_ODDS_HELD_OUT = 0.3, 0.05
_LEARNED_ALREADY = 0.95  # a preference that is there cannot be learned again
_NLL = 0.02  # of its size
_SHARE = 0.1  # a term that is less of the loss does not dominate it
_LEARNED = 0.9
_RISEN, _DOUBLED = 0.1, 1.0
_NOTHING, _ALL = 0.003, 0.95  # of the loss: a term as small steers nothing, one as large all
_TURN = 0.02  # of the lowest held-out loss
_NOISE = 5.0
_FEWEST_ANSWERS = 20
_GROWTH, _SURE = 1.3, 4.0
_FEW = f"Fewer than {FEWEST} steps logged a loss, and no held-out pairs were scored twice."
_MISSING = (
    f"Fewer than {FEWEST} steps were logged with two answers, and no held-out pairs were scored "
    "twice."
)
_LIVE = {
    "loss_tripled": "the loss at three times its start",
    "margin_collapse": "margin collapse",
    "nonfinite_streak": "steps in a row that were not finite",
    "nonfinite": "the run ended at a loss or gradient that was not finite",
}
_FEWEST_PAIRS = 50
_ITS_DOING = "The whole loss rose: that is the learning rate's doing."
_UNSEEN = "No held-out pairs were scored while training (eval_dataset and eval_steps)."

Judged = tuple[str, str] | tuple[str, str, dict[str, Any]]
"""A verdict, its evidence, and what its advice depends on."""


# The learning rate: too low to learn anything, or too high to keep it


def learning_rate_too_low(seen: Observed) -> Judged:
    """The loss and the log odds ratio hardly move, surely and not for want of points."""
    loss, odds = seen.training("loss"), seen.training("log_odds_chosen")
    tested, apart = (held_out(seen.curves, one) for one in ("loss", "log_odds_chosen"))
    if not seen.halfway:
        return "unknown", "Less than half of the planned steps are done."
    if seen.steps is not None and seen.steps < FEWEST:
        taken = as_count(seen.steps, "step")
        return "unknown", f"After {taken} the learning rate is not to blame for what did not move."
    if loss is None and tested is None:
        return "unknown", _FEW
    shown = {
        "the loss": loss,
        "the log odds ratio": odds,
        "the held-out loss": tested,
        "the held-out log odds ratio": apart,
    }
    evidence = sentence(joined(told(one, label) for label, one in shown.items() if one))
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


def _still(found: Shift | None, bound: float, other: Shift | None = None) -> bool:
    """Whether a curve surely stays within a bound, and the same on other pairs moves neither."""
    moved = other is not None and (other.rose or other.fell)
    return found is not None and found.at_most(abs(bound), whatever_sign=True) and not moved


def learning_rate_too_high(seen: Observed) -> Judged:
    """The loss rises, jumps, or breaks; the gradient grows while nothing is learned."""
    series, tested = seen.curves.training.get("loss"), held_out(seen.curves, "loss")
    first, loss = {kind: step for step, kind in reversed(seen.events)}, seen.training("loss")
    found = [f"{said}, told at step {first[k]:,.0f}" for k, said in _LIVE.items() if k in first]
    known = "loss_tripled" in first or (loss is not None and loss.rose)
    if (tripled := loss_tripled(series)) is not None and not known:
        start, end = as_pair(tripled.before, tripled.now)
        found.append(f"the loss ended at three times its start or more ({start} → {end})")
    few = series is None or len(series.points) + len(series.broken) < FEWEST
    if few and tested is None and not found:
        return "unknown", _FEW
    if series is not None and series.broken:
        steps = as_count(len(series.broken), "logged step")
        found.append(
            f"the loss was NaN or infinite at {steps}, first at step {series.broken[0]:,.0f}"
        )
    found += _risen(seen, series, tested)
    spikes = loss_spikes(series)
    if len(spikes) > 1:
        where = [f"{step:,.0f}" for step in spikes[:4]] + ["later"] * (len(spikes) > 4)
        found.append(f"{as_count(len(spikes), 'loss spike')}, at steps {joined(where)}")
    if loss is not None and not loss.fell:
        found += _grown(seen.curves.training.get("grad_norm"))
    if found:
        return "look", sentence("; ".join(found))
    calm = loss or tested
    jumps = f"one loss spike, at step {spikes[0]:,.0f}" if spikes else "no loss spike"
    return "ok", sentence(f"{told(calm, 'the loss') if calm else 'the loss did not rise'}; {jumps}")


def _risen(seen: Observed, series: Series | None, tested: Shift | None) -> list[str]:
    """The loss at the end is above the start, or above its own lowest stretch, or jumped there."""
    found, whole = [], shift(series)
    if whole is not None and whole.rose and whole.relative > 0.05:
        found.append(f"the loss rose: {told(whole, 'the loss')}")
    elif series is not None and (turned := _since_lowest(series)) is not None:
        found.append(f"the loss fell, then rose: {told(turned, 'from its lowest stretch')}")
    lower = ended_lower(seen.curves, "loss")  # then held-out pairs are of another kind
    if tested is not None and tested.relative > 0.1 and not lower:
        found.append(f"the held-out loss rose: {told(tested, 'the held-out loss')}")
    if series is not None and whole is not None and not whole.rose:
        (step, first), *_ = points = list(series.points.items())
        late = shift(series.part(points[len(points) // 2 :]))
        if late is not None and whole.last - first >= max(2 * late.threshold, 0.15 * abs(first)):
            start, end = as_pair(first, whole.last)
            found.append(f"the loss jumped from {start} at step {step:,.0f} and ended at {end}")
    return found


def _since_lowest(series: Series) -> Shift | None:
    """From the lowest quarter of the curve to its end, where that is a clear rise of 15 %."""
    points = list(series.points.items())
    quarter = len(points) // 4
    if len(points) < 2 * FEWEST:
        return None
    starts = range(0, len(points) - 2 * quarter + 1)
    lowest = min(starts, key=lambda i: sum(value for _, value in points[i : i + quarter]))
    found = shift(series.part(points[lowest:]))
    if found is None or found.change < 1.5 * found.threshold or found.relative < 0.15:
        return None
    return found


def _grown(norm: Series | None) -> list[str]:
    """A gradient that grows fivefold while the loss does not fall."""
    values = norm.values if norm else []
    if len(values) < FEWEST:
        return []
    first, last = values[: len(values) // 4], values[-(len(values) // 4) :]
    if median(last) < 5 * median(first) or min(last) < max(first):
        return []
    ends = f"from {as_number(median(first))} to {as_number(median(last))}"
    return [f"the gradient norm grew {ends} while the loss did not fall"]


def _loss_rose(seen: Observed, by: float = _DOUBLED) -> bool:
    """Whether the whole loss rose: then it is the learning rate that ruins what else is seen."""
    whole, _ = seen.pair("loss", "loss")
    return whole is not None and whole.rose and whole.relative > by


# The preference term: too strong, too weak, or won at the price of the chosen answers


def chosen_falls(seen: Observed) -> Judged:
    """The margin grows while the chosen answers themselves become less probable."""
    odds, chosen = seen.pair("log_odds_chosen", "logps/chosen")
    if odds is None or chosen is None:
        return "unknown", _MISSING
    rejected = seen.same("logps/rejected", chosen)
    shown = [
        told(odds, "the log odds ratio"),
        told(chosen, "log-probability per token of the chosen answers"),
        *([told(rejected, "of the rejected ones")] if rejected else []),
    ]
    evidence = sentence(joined(shown)) + _where(odds)
    if not chosen_fell(odds, chosen):
        return "ok", evidence
    own = seen.training("logps/chosen")
    if own is not None and own.rose:
        return "ok", f"{evidence} On training pairs they rose: {told(own, 'theirs')}."
    if _loss_rose(seen):
        return "ok", f"{_ITS_DOING} {evidence}"
    return "look", f"The margin grew while the chosen answers became less probable. {evidence}"


def orpo_alpha_too_high(seen: Observed) -> Judged:
    """The odds-ratio term rules: it improves while the NLL of the chosen answers rises."""
    odds, nll = seen.pair("log_odds_chosen", "nll_loss")
    if seen.objective != "orpo" or odds is None or nll is None:
        return "unknown", _no_term(seen)
    share = _odds_share(seen)
    ruling = f"; the odds-ratio term was {as_percent(share)} of the loss at the start"
    part = "" if share is None else ruling
    evidence = sentence(f"{told(nll, 'NLL')}, {told(odds, 'log odds ratio')}{part}") + _where(odds)
    if share is not None and share >= _ALL:
        return "look", f"Next to the odds-ratio term the NLL hardly counts. {evidence}"
    ruled = share is None or share >= _SHARE
    if not (nll.rose and nll.relative > _NLL and odds.rose and ruled):
        return "ok", evidence
    own = seen.training("nll_loss")
    if own is not None and own.fell:
        return "ok", f"{evidence} On training pairs it fell: {told(own, 'NLL')}."
    if _loss_rose(seen, _RISEN):
        return "ok", f"{_ITS_DOING} {evidence}"
    return "look", f"The odds improved at the price of the NLL. {evidence}"


def orpo_alpha_too_low(seen: Observed) -> Judged:
    """The NLL falls, and the odds stay where they are: plain fine-tuning."""
    odds, nll = seen.pair("log_odds_chosen", "nll_loss")
    if seen.objective != "orpo" or odds is None or nll is None:
        return "unknown", _no_term(seen)
    accuracy = seen.same("rewards/accuracies", odds)
    shown = [told(nll, "NLL"), told(odds, "log odds ratio")]
    shown += [told(accuracy, "preference accuracy", share=True)] if accuracy else []
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


def _no_term(seen: Observed) -> str:
    """Why the preference term cannot be judged."""
    if seen.objective != "orpo":
        return f"The objective is {seen.objective}: it has no such term."
    return _MISSING


def _odds_share(seen: Observed) -> float | None:
    """The part of the loss that is the odds-ratio term, over the first quarter."""
    loss, nll = seen.pair("loss", "nll_loss")
    if loss is None or nll is None or loss.first <= 0 or loss.points != nll.points:
        return None
    return min(1.0, max(0.0, 1 - nll.first / loss.first))


def _where(found: Shift) -> str:
    return " On training pairs." if found.error else " On held-out pairs."


def model_cannot_write(seen: Observed) -> Judged:
    """The chosen answers end as improbable as they are to a model that has not learned to write."""
    tested, own = held_out(seen.curves, "logps/chosen"), seen.curves.training.get("logps/chosen")
    found = tested or (own.trend if own is not None else None)
    if found is None:
        return "unknown", _MISSING
    last, where = found.last, "training" if tested is None else "held-out"
    evidence = (
        f"At the end the chosen answers of {where} pairs have a log-probability of "
        f"{as_pair(last, last)[0]} per token, a perplexity of "
        f"{as_number(perplexity(-last))}."
    )
    if -last > NO_SENSE and _loss_rose(seen):
        return "ok", f"{_ITS_DOING} {evidence}"
    return "look" if -last > NO_SENSE else "ok", evidence


# What the training pairs do not show: held-out pairs that turn, and answers that grow


def overfitting(seen: Observed) -> Judged:
    """Training goes on improving while held-out pairs get worse."""
    held = seen.curves.held_out
    curves = [one for metric in ("loss", "nll_loss") for one in held.get(metric, []) if one.points]
    if not any(len(one.points) > 1 for one in curves):
        return "unknown", _UNSEEN
    for series in curves:
        lowest = _lowest(series)
        own = seen.curves.training.get(series.metric)
        since = shift(own and own.part((s, v) for s, v in own.points.items() if s >= lowest))
        after = since if since is not None and since.fell else shift(own)
        lower = ended_lower(seen.curves, series.metric)
        if after is not None and not after.rose and lower and _worse(series):
            shown = f"{_turn_told(series)}; {told(after, f'the training {_said(series)}')}"
            at_once = lowest == next(iter(series.points))
            more = {"lowest": None if at_once else lowest}
            return "look", sentence(shown) + _gap(seen.curves, series), more
    shown = _turn_told(curves[0])
    if any(map(_worse, curves)):
        shown += "; the training loss did not end lower than it began either, or hardly"
    return "ok", sentence(shown)


def _worse(series: Series) -> bool:
    """Its last evaluations stand clearly above the lowest one, or above where it began."""
    values, position = series.values, list(series.points).index(_lowest(series))
    if values[-1] - values[0] > _TURN * abs(values[0]):
        return True
    if position in (0, len(values) - 1):
        return False  # never better than at the start is another disease
    rise = values[-1] - values[position]
    if rise < _TURN * abs(values[position]):
        return False
    growing = all(later > values[position] for later in values[position + 1 :])
    bends = [a - 2 * b + c for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    falling = bends[position:] if len(bends) - position >= 3 else []
    noise = math.sqrt(fmean(bend**2 for bend in falling) / 6) if falling else 0.0
    return growing and rise > _NOISE * noise


def _said(series: Series) -> str:
    return "NLL" if series.metric == "nll_loss" else "loss"


def _lowest(series: Series) -> float:
    return min(series.points, key=lambda step: series.points[step])


def _turn_told(series: Series) -> str:
    lowest, last = _lowest(series), list(series.points)[-1]
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
    last = [one.last for one in others if one.source == series.source and one.points]
    if own is None or not last:
        return ""
    trained = f"{as_percent(own.last)} on training pairs"
    return f" Preference accuracy at the end: {trained}, {as_percent(last[0])} on held-out ones."


def length_creep(seen: Observed) -> Judged:
    """The same prompts are answered at greater length than before."""
    answered = [one for one in seen.lengths if one[0] > 0 and one[1] > 0]
    if len(answered) < _FEWEST_ANSWERS:
        said = f"Fewer than {_FEWEST_ANSWERS} prompts were answered both before and after training."
        return "unknown", said
    ratios = [math.log(after / before) for before, after, _ in answered]
    error, growth = stdev(ratios) / math.sqrt(len(ratios)), math.exp(fmean(ratios))
    first, last = as_pair(*(fmean(one[i] for one in answered) for i in (0, 1)))
    wanted = [math.log(c / before) for before, _, c in answered if c > 0]
    told = ""
    if len(wanted) >= len(answered) / 2:
        times = as_number(round(math.exp(fmean(wanted)), 2))
        told = f"; the preferred answers in the data are {times} times as long"
    evidence = (
        f"Over {as_count(len(answered), 'prompt')}, answers are {as_number(round(growth, 2))} "
        f"times as long as before (mean {first} → {last} characters){told}."
    )
    grown = growth >= _GROWTH and fmean(ratios) >= _SURE * error
    return "look" if grown else "ok", evidence


RULES: dict[str, tuple[str, Callable[[Observed], Judged]]] = {
    "learning_rate_too_low": ("Learning rate too low", learning_rate_too_low),
    "learning_rate_too_high": ("Learning rate too high", learning_rate_too_high),
    "chosen_falls": ("Margin grows while the chosen answers fall", chosen_falls),
    "orpo_alpha_too_high": ("Preference term (λ, orpo_alpha) too strong", orpo_alpha_too_high),
    "orpo_alpha_too_low": ("Preference term (λ, orpo_alpha) too weak", orpo_alpha_too_low),
    "model_cannot_write": ("Chosen answers improbable to the model", model_cannot_write),
    "overfitting": ("Overfitting, or what is learned does not carry over", overfitting),
    "length_creep": ("Length creep", length_creep),
}
"""Rule -> its title, and what it says."""


@dataclass(frozen=True)
class Finding:
    """What a rule found: its verdict, the numbers that say so, and, on "look", what to try."""

    name: str
    verdict: str
    evidence: str
    advice: str = ""

    @property
    def title(self) -> str:
        """For readers."""
        return RULES[self.name][0]


def diagnose(seen: Observed) -> list[Finding]:
    """What every rule says, those that apply first."""
    found = []
    for name, (_, rule) in RULES.items():
        verdict, evidence, *more = rule(seen)
        advice = Words("diagnosis", seen=seen, **(more[0] if more else {}))
        found.append(Finding(name, verdict, evidence, advice[name] if verdict == "look" else ""))
    return sorted(found, key=lambda one: {"look": 0, "unknown": 2}.get(one.verdict, 1))


def summary(seen: Observed, found: Sequence[Finding], verdict: str = "") -> str:
    """What the rules say together, in a sentence; none calls healthy what the verdict does not."""
    by = {v: [one for one in found if one.verdict == v] for v in ("look", "ok", "unknown")}
    loss = seen.curves.training.get("loss")
    return Words(
        "diagnosis",
        seen=seen,
        points=joined(lowered(one.title) for one in by["look"]),
        clear=len(by["ok"]),
        unknown=len(by["unknown"]),
        steps=len(loss.points) if loss else 0,
        fewest=FEWEST,
        few_pairs=seen.pairs is not None and seen.pairs < _FEWEST_PAIRS,
        verdict=verdict,
    )["summary"]


@dataclass(frozen=True)
class Diagnosed:
    """What all rules say of a run."""

    summary: str
    look: list[Finding]
    rest: list[Finding]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the summary, and what applies."""
        return {"summary": self.summary, "look": [vars(one) for one in self.look]}


def diagnosis_of(run: Run, verdict: str, curves: Curves | None = None) -> Diagnosed:
    """The diagnosis of a run folder, on whose model there is a verdict."""
    seen = observed(run, curves_of(run) if curves is None else curves)
    found = diagnose(seen)
    look = [one for one in found if one.verdict == "look"]
    return Diagnosed(summary(seen, found, verdict), look, [one for one in found if one not in look])
