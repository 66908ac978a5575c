"""The page of `orpo tune`: what is recommended, how sure that is, and every trial."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

from orpo.errors import DataError
from orpo.experiments.results import STATES, Recommendation, TrialResult, TuningResult
from orpo.quantities import as_number
from orpo.report import style
from orpo.report.page import Figure, Page, Words, told
from orpo.report.style import COLOURS
from orpo.runs.files import short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_KNOBS = {"learning_rate": "learning rate", "orpo_alpha": "lambda"}
_MOST, _MARGIN = 14, 1.25


def tuning_page(r: TuningResult, folder: Path) -> Page:
    """The page of a tuning. An unfinished one is refused."""
    best = r.recommended
    if best is None:
        raise DataError(
            "the tuning is not finished: no trial has come to its end yet",
            where=str(folder),
            fix="Run the same command again.",
        )
    sides = {"choosing": "to choose by", "test": "for the test alone"}
    space = {name: getattr(r.space, name, ()) for name in _KNOBS}
    return told(
        "tuning",
        partial(_figures, r, best),
        {"command": r.command, **(r.settings.get("training") or {}), **r.versions},
        r=r,
        best=best,
        knobs=_KNOBS,
        measures=r.comparison.measures if r.comparison else {},
        seeds=len(r.comparison.seeds) or 1 if r.comparison else 0,
        trials=[(one, list(_marks(one, best))) for one in r.trials],
        edges=[edge for edge in best.edges if edge[0] in _KNOBS],
        model=short_name(r.model) or "–",
        data=short_name(r.dataset) or "–",
        states=[f"{n} {word}" for state, word in STATES.items() if (n := r.account.get(state))],
        held_out=[f"{n:,} {text}" for name, text in sides.items() if (n := r.held_out.get(name))],
        space={name: " to ".join(map(as_number, ends)) or "–" for name, ends in space.items()},
    )


def _marks(one: TrialResult, best: Recommendation) -> Iterator[str]:
    if one.number == best.trial:
        yield "best"
    if one.start:
        yield "start"
    if one.state == "pruned":
        yield f"given up at step {one.steps}"
    elif one.state != "complete":
        yield STATES.get(one.state, one.state) + (f": {one.reason}" if one.reason else "")
    elif one.near and one.number != best.trial:
        yield "not told apart"


def _figures(r: TuningResult, best: Recommendation, words: Words) -> tuple[Figure, ...]:
    trials = [one for one in r.trials if one.learning_rate > 0 and one.orpo_alpha > 0]
    if not trials:
        return ()
    whole = sum(one.state == "complete" for one in trials)
    size = (5.8, max(3.9, 0.26 * min(whole, _MOST) + 1.2))
    where, behind = partial(_paint, r, best, trials), partial(_paint_lines, best, trials)
    return (
        Figure("trials", "Where the trials lie", words["where"], size, where),
        Figure("behind", "How far each is behind the best", words["behind"], size, behind),
    )


def _paint(
    r: TuningResult, best: Recommendation, trials: Sequence[TrialResult], canvas: Canvas
) -> None:
    left = canvas.add_subplot()
    left.set(xscale="log", yscale="log")
    ends = [best.band.get(name, []) for name in _KNOBS]
    if all(len(pair) == 2 and min(pair) > 0 for pair in ends):
        # A box around the trials that cannot be told apart from the best.
        (first, last), (low, high) = ((pair[0] / _MARGIN, pair[1] * _MARGIN) for pair in ends)
        look = {"linestyle": (0, (4, 2)), "edgecolor": COLOURS["muted"], "linewidth": 1.1}
        left.add_patch(Rectangle((first, low), last - first, high - low, fill=False, **look))
    _paint_trials(left, best, trials)
    for name, limits in (("learning_rate", left.set_xlim), ("orpo_alpha", left.set_ylim)):
        seen = [getattr(one, name) for one in trials]
        seen += [end for end in getattr(r.space, name, ()) if end > 0]
        limits(min(seen) / _MARGIN, max(seen) * _MARGIN)
    style.legend(canvas, left.get_legend_handles_labels()[0])


def _paint_trials(axes: Axes, best: Recommendation, trials: Sequence[TrialResult]) -> None:
    """How dark a trial is goes by rank, since the poorest are out of all proportion."""
    whole = [one for one in trials if one.state == "complete"]
    order = sorted(whole, key=lambda one: -math.inf if one.score is None else one.score)
    depth = {one.number: 0.08 + 0.72 * i / max(len(order) - 1, 1) for i, one in enumerate(order)}
    good, ink = COLOURS["chosen"], COLOURS["ink"]
    for one in trials:
        x, y = one.learning_rate, one.orpo_alpha
        if one.state == "complete":
            axes.plot(x, y, "o", color=good, alpha=depth[one.number], markersize=9)
            axes.plot(x, y, "o", color=good, fillstyle="none", markersize=9)
        elif one.state == "pruned":
            axes.plot(x, y, "x", color=COLOURS["muted"], markersize=6)
        elif one.state == "failed":
            axes.plot(x, y, "^", color=COLOURS["rejected"], markersize=6)
        if one.start:
            ring = {"color": ink, "fillstyle": "none", "markeredgewidth": 1.4, "linestyle": "none"}
            axes.plot(x, y, "D", markersize=14, label="start", **ring)
        if one.number == best.trial:
            star = {"color": COLOURS["gold"], "markeredgecolor": ink, "markeredgewidth": 0.8}
            axes.plot(x, y, "*", markersize=17, label="best", linestyle="none", zorder=4, **star)
    axes.grid(visible=True, axis="both")
    for axis, label in ((axes.xaxis, "learning rate"), (axes.yaxis, "λ")):
        axis.set_minor_formatter(NullFormatter())
        style.dress(axis, label, None, lambda value, _: as_number(value))


def _paint_lines(best: Recommendation, trials: Sequence[TrialResult], canvas: Canvas) -> None:
    axes = canvas.add_subplot()
    whole = [one for one in trials if one.state == "complete"]
    shown = whole[:_MOST] + [one for one in whole[_MOST:] if one.start]
    labels = [f"{as_number(one.learning_rate)}, λ {as_number(one.orpo_alpha)}" for one in shown]
    style.rows(axes, labels)
    axes.tick_params(axis="y", labelsize=9.5)
    for y, one in enumerate(shown):
        behind, colour = one.behind_the_best, COLOURS["chosen" if one.near else "muted"]
        if behind and math.isfinite(behind.low) and math.isfinite(behind.high):
            axes.plot([behind.low, behind.high], [y, y], color=colour, linewidth=2.0)
        marker = "*" if one.number == best.trial else "D" if one.start else "o"
        size = 12 if marker == "*" else 7
        axes.plot([behind.value if behind else 0.0], [y], marker, color=colour, markersize=size)
    axes.axvline(0.0, color=COLOURS["rule"], linewidth=1.2, zorder=0.5)
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    style.dress(axes.xaxis, "score less the best trial's", MaxNLocator(4))
