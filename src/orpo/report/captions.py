"""The figures: which curves they hold, how they are read, and what is seen in this run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orpo.report.curves import MARKERS, Legend, Plot, colour_of, draw, is_dashed
from orpo.report.diagnosis.shifts import FEWEST
from orpo.report.series import Curves, Series, Trend
from orpo.report.values import as_count, as_number, as_pair, as_percent, joined, lasting, sentence
from orpo.report.words import trend_told

__all__ = ["Caption", "Legend", "captions"]

_NAMES = {
    "loss": "loss",
    "nll_loss": "NLL (chosen answers)",
    "logps/chosen": "chosen",
    "logps/rejected": "rejected",
    "log_odds_chosen": "log odds ratio",
    "rewards/accuracies": "preference accuracy",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
}


@dataclass(frozen=True)
class Caption:
    """A figure and the words that go with it.

    Attributes:
        name: Short identifier.
        title: Heading.
        reading: How to read it, and when to worry.
        seen: What it shows in this run, computed.
        plot: The figure.
        svg: The figure, drawn.
        legend: Its curves.
        small: Of secondary interest.
    """

    name: str
    title: str
    reading: str
    seen: str
    plot: Plot
    svg: str
    legend: tuple[Legend, ...]
    small: bool


@dataclass(frozen=True)
class _Figure:
    name: str
    title: str
    metrics: tuple[str, ...]
    reading: str
    seen: Callable[[Curves], str]
    reference: float | None = None
    share: bool = False
    small: bool = False


def captions(curves: Curves) -> list[Caption]:
    """Every figure for which at least one point was logged."""
    return [
        _caption(figure, curves)
        for figure in _FIGURES
        if any(one.points for metric in figure.metrics for one in curves.all_of(metric))
    ]


def _caption(figure: _Figure, curves: Curves) -> Caption:
    series = [one for metric in figure.metrics for one in curves.all_of(metric) if one.points]
    sources = list(dict.fromkeys(one.source for one in series if one.source is not None))
    shown, left = sources[: len(MARKERS)], sources[len(MARKERS) :]
    drawn = tuple(one for one in series if one.source is None or one.source in shown)
    plot = Plot(
        figure.name, drawn, tuple(shown), figure.reference, share=figure.share, small=figure.small
    )
    seen = [figure.seen(curves), *_held_out_seen(figure, shown, curves)]
    if left:
        seen.append(f"{as_count(len(left), 'further evaluation set')} not drawn.")
    return Caption(
        figure.name,
        figure.title,
        figure.reading,
        " ".join(part for part in seen if part),
        plot,
        draw(plot),
        _legend(drawn, shown),
        figure.small,
    )


def _legend(drawn: tuple[Series, ...], sources: list[str]) -> tuple[Legend, ...]:
    """The metrics by colour and dash, then the evaluation sets by marker."""
    metrics = dict.fromkeys(one.metric for one in drawn)
    lines = [
        Legend(_NAMES[name], colour_of(name), "dashed" if is_dashed(name) else "solid")
        for name in metrics
    ]
    points = [
        Legend(f"held out: {lasting(source, 60)}" if source else "held out", "muted", sign)
        for source, (_, sign) in zip(sources, MARKERS, strict=False)
    ]
    return (*lines, *points)


def _shown(first: float, last: float, *, share: bool) -> tuple[str, str]:
    return (as_percent(first), as_percent(last)) if share else as_pair(first, last)


def _single(series: Series | None, name: str, shown: Callable[[float], str] = as_number) -> str:
    """For a curve without a trend."""
    if series is None or not series.points:
        return ""
    ((step, value),) = series.points.items()
    return f"Only step {step:,.0f} was logged, with a {name} of {shown(value)}: no trend to see."


def _loss_seen(curves: Curves) -> str:
    loss, nll = curves.training.get("loss"), curves.training.get("nll_loss")
    trend = loss.trend if loss else None
    if trend is None:
        return _single(loss, "loss")
    parts = [trend_told("the loss", trend)]
    if nll and nll.trend:
        parts.append(trend_told("its NLL part", nll.trend))
    text = sentence(joined(parts))
    if trend.direction == "rose":
        text += " A rising loss usually means that the learning rate is too high."
    return text


def _logps_seen(curves: Curves) -> str:
    chosen, rejected = curves.training.get("logps/chosen"), curves.training.get("logps/rejected")
    if chosen is None or rejected is None:
        return ""
    up, down = chosen.trend, rejected.trend
    distance = Series(
        "distance",
        None,
        {s: v - rejected.points[s] for s, v in chosen.points.items() if s in rejected.points},
    )
    gap = distance.trend
    if up is None or down is None or gap is None:
        return _single(distance, "distance")
    answers = f"{trend_told('the chosen answers', up)}, {trend_told('the rejected ones', down)}"
    text = f"{answers}; {trend_told('their distance', gap, grows=True)}"
    return f"{sentence(text)} {_logps_judged(up, down, gap, curves)}".strip()


def _logps_judged(chosen: Trend, rejected: Trend, gap: Trend, curves: Curves) -> str:
    nll = curves.training.get("nll_loss")
    nll_rose = bool(nll and nll.trend and nll.trend.direction == "rose")
    if gap.direction == "held" and len(curves.training["logps/chosen"].points) < FEWEST:
        return ""
    if gap.direction != "rose":
        return "The preference was not learned more strongly than at the start."
    if chosen.direction == "fell" and nll_rose:
        return (
            "The chosen answers became less probable and the NLL rose: a lower orpo_alpha or "
            "learning rate is worth a try."
        )
    if chosen.direction == rejected.direction == "fell":
        return "Both fell while their distance grew: this is normal."
    if chosen.direction == rejected.direction == "rose":
        return "Both rose while their distance grew: common when answers share much wording."
    return ""


def _odds_seen(curves: Curves) -> str:
    series = curves.training.get("log_odds_chosen")
    if series is None or series.trend is None:
        return _single(series, "log odds ratio")
    text = sentence(trend_told("the log odds ratio", series.trend))
    if not series.trend.clearly_above(0):
        text += " At the end it is not clearly above zero."
    return text


def _accuracy_seen(curves: Curves) -> str:
    series = curves.training.get("rewards/accuracies")
    if series is None or series.trend is None:
        return _single(series, "share", as_percent)
    text = sentence(trend_told("the accuracy", series.trend, share=True))
    if not series.trend.clearly_above(0.5):
        text += " At the end it is not clearly better than a coin toss."
    return text


def _rate_seen(curves: Curves) -> str:
    series = curves.training.get("learning_rate")
    if series is None or not series.points:
        return ""
    step, peak = max(series.points.items(), key=lambda point: point[1])
    return f"Highest at step {step:,.0f}: {as_number(peak)}."


def _norm_seen(curves: Curves) -> str:
    series = curves.training.get("grad_norm")
    if series is None or not series.points:
        return ""
    values = sorted(series.points.values())
    step, peak = max(series.points.items(), key=lambda point: point[1])
    middle = values[len(values) // 2]
    return f"Median {as_number(middle)}, highest {as_number(peak)} at step {step:,.0f}."


def _held_out_seen(figure: _Figure, sources: list[str], curves: Curves) -> list[str]:
    """First and last evaluation of the figure's metrics, a sentence for each evaluation set."""
    return [_evaluated(figure, source, curves) for source in sources]


def _evaluated(figure: _Figure, source: str, curves: Curves) -> str:
    parts, steps = [], set[float]()
    for metric in figure.metrics:
        points = next(
            (one.points for one in curves.held_out.get(metric, []) if one.source == source), {}
        )
        if not points:
            continue
        values, name = list(points.values()), f"{_NAMES[metric]} " * (len(figure.metrics) > 1)
        first, last = _shown(values[0], values[-1], share=figure.share)
        parts.append(f"{name}{first} → {last}" if len(values) > 1 else f"{name}{first}")
        steps |= points.keys()
    where = f"steps {min(steps):,.0f} to {max(steps):,.0f}"
    if len(steps) == 1:
        where = f"step {min(steps):,.0f}"
    which = f" {lasting(source, 60)}" if source else ""
    return f"Held out{which}, {where}: {', '.join(parts)}."


_FIGURES = (
    _Figure(
        "loss",
        "Loss",
        ("loss", "nll_loss"),
        "The loss is the NLL of the chosen answers plus orpo_alpha times the odds-ratio term: both "
        "fall fast, then flatten. Worry if they rise, or if held-out points turn upwards while "
        "training goes on falling: the run is too long.",
        _loss_seen,
    ),
    _Figure(
        "logps",
        "Log-probability per token",
        ("logps/chosen", "logps/rejected"),
        "What counts is the distance between the lines. Both may fall together while it grows: "
        "this is normal for ORPO. Worry if it stays closed, or if the chosen line falls while the "
        "NLL rises.",
        _logps_seen,
    ),
    _Figure(
        "odds",
        "Log odds ratio, chosen over rejected",
        ("log_odds_chosen",),
        "Above zero the chosen answer has the better odds. It should climb steadily. Worry if it "
        "stays at zero (orpo_alpha too low), or if it shoots up while answers get worse (too "
        "high).",
        _odds_seen,
        reference=0.0,
    ),
    _Figure(
        "accuracy",
        "Preference accuracy",
        ("rewards/accuracies",),
        "The share of pairs whose chosen answer is more probable per token; the dotted line is a "
        "coin toss. Worry if training pairs reach 100 % and held-out pairs stay behind: the pairs "
        "are being learned by heart.",
        _accuracy_seen,
        reference=0.5,
        share=True,
    ),
    _Figure(
        "rate",
        "Learning rate",
        ("learning_rate",),
        "Warm-up, then decay: the schedule as it was applied.",
        _rate_seen,
        small=True,
    ),
    _Figure(
        "norm",
        "Gradient norm",
        ("grad_norm",),
        "Before clipping. Single spikes are harmless; worry if it keeps growing.",
        _norm_seen,
        small=True,
    ),
)
