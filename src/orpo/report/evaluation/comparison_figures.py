"""The figures of a comparison: curves, outcomes with intervals, costs, sensitivity."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from orpo.report.evaluation.comparison_words import BUDGETS, told_as
from orpo.report.evaluation.types import Figure
from orpo.report.svg import COLOURS, SERIES, dress, legend, plain
from orpo.report.values import as_number, mapping, number, records, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["comparison_figures"]

_ANSWERS = {"chosen": SERIES[0], "rejected": SERIES[1]}
_ORDER = ("base", "orpo", "sft", "sft+dpo")
_STYLES = {"base": SERIES[5], "orpo": SERIES[0], "sft": SERIES[1], "sft+dpo": SERIES[2]}
_MIB = 2**20

Points = list[tuple[float, float]]


def comparison_figures(found: dict[str, Any]) -> tuple[Figure, ...]:
    """Those that there are numbers for."""
    return tuple(_figures(found))


def _figures(found: dict[str, Any]) -> Iterator[Figure]:
    budgets = [name for name in BUDGETS if name in rows(found.get("budgets"))]
    for budget in budgets:
        curves = _curves(found, budget)
        if curves:
            yield Figure(
                f"curves-{budget}",
                f"Held-out answers during training, at {BUDGETS[budget]}",
                "Log-probability per token of the chosen (solid) and the rejected answers "
                "(dashed), thin for each seed and thick for their mean. Where both lines climb, "
                "both answers become more likely; where they part, a preference is learned. The "
                "dotted vertical line is where DPO begins.",
                (3.1 * len(curves) + 0.6, 3.5),
                partial(_paint_curves, curves),
            )
    table = records(found.get("table"))
    shares = [n for n in ("preference_accuracy", "correct_answers", "judged") if _has(table, n)]
    if shares:
        yield Figure(
            "outcomes",
            "What the models prefer and answer",
            "Means over seeds and held-out pairs, with 95 % intervals over both; further right is "
            "better.",
            (3.4 * len(shares) + 1.4, 0.42 * len(_lines(table)) + 1.3),
            partial(_paint_outcomes, table, shares),
        )
    for budget in budgets:
        of = [row for row in table if row.get("budget") == budget and mapping(row.get("cost"))]
        if of:
            yield Figure(
                f"costs-{budget}",
                f"What a run cost, at {BUDGETS[budget]}",
                "Forward passes (an answer with its prompt each), floating-point operations, time "
                "and peak memory of the largest stage; shorter is cheaper.",
                (9.2, 0.42 * len(of) + 1.1),
                partial(_paint_costs, of),
            )
    cells = records(found.get("sensitivity"))
    if len(cells) > 1:
        yield Figure(
            "sensitivity",
            "Sensitivity to learning rate and lambda",
            "Preference accuracy after short runs on held-out pairs that the tables do not use: "
            "left ORPO's by learning rate and lambda, right each objective's by learning rate. "
            "Rings mark the settings of the comparison's own runs.",
            (8.6, 3.5),
            partial(_paint_sensitivity, found, cells),
        )


def _has(table: list[dict[str, Any]], name: str) -> bool:
    return any(number(mapping(row.get(name)).get("value")) is not None for row in table)


def _curves(found: dict[str, Any], budget: str) -> dict[str, list[dict[str, Any]]]:
    """Method -> its curves; ORPO's runs belong to every budget."""
    kept: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for curve in records(found.get("curves")):
        method = str(curve.get("method"))
        if curve.get("budget") == budget or method == "orpo":
            kept[method].append(curve)
    if set(kept) <= {"orpo"} and budget != next(iter(rows(found.get("budgets"))), budget):
        return {}
    return {method: kept[method] for method in _ORDER if method in kept}


def _paint_curves(curves: dict[str, list[dict[str, Any]]], canvas: Canvas) -> None:
    first: Axes | None = None
    for place, (method, own) in enumerate(curves.items(), start=1):
        axes = canvas.add_subplot(1, len(curves), place, sharey=first)
        first = first or axes
        dress(axes)
        axes.set_title(told_as(method), color=COLOURS["ink"], fontsize=11)
        for answer, style in _ANSWERS.items():
            _paint_answer(axes, own, answer, style)
        border = [_points(c, "chosen")[-1][0] for c in own if c.get("objective") == "sft"]
        if method == "sft+dpo" and border:
            axes.axvline(border[0], color=COLOURS["muted"], linewidth=0.9, linestyle=(0, (2, 2)))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("optimizer step", color=COLOURS["muted"])
        if place > 1:
            axes.tick_params(labelleft=False)
    if first is not None:
        first.set_ylabel("log-probability per token", color=COLOURS["muted"])
        legend(first)


def _paint_answer(axes: Axes, curves: list[dict[str, Any]], answer: str, style: Any) -> None:
    """A thin line for each seed, a thick one for their mean."""
    values: dict[float, list[float]] = defaultdict(list)
    seeds: dict[Any, Points] = defaultdict(list)
    for curve in curves:
        seeds[str(curve.get("seed"))] += _points(curve, answer)
    for points in seeds.values():
        points.sort()
        axes.plot(*zip(*points, strict=True), color=style.colour, linewidth=0.7, alpha=0.35)
        for step, value in dict(points).items():
            values[step].append(value)
    mean = sorted((step, statistics.fmean(v)) for step, v in values.items() if v)
    axes.plot(
        *zip(*mean, strict=True),
        color=style.colour,
        linewidth=2,
        linestyle=style.dash,
        label=answer,
    )


def _points(curve: dict[str, Any], answer: str) -> Points:
    found = [(number(p.get("step")), number(p.get(answer))) for p in records(curve.get("points"))]
    return [(step, value) for step, value in found if step is not None and value is not None]


def _lines(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The base model, and each method at each budget; ORPO's runs once."""
    kept: list[dict[str, Any]] = []
    for row in table:
        twice = row.get("method") == "orpo" and any(k.get("method") == "orpo" for k in kept)
        kept += [] if twice else [row]
    return kept


def _paint_outcomes(table: list[dict[str, Any]], shares: Sequence[str], canvas: Canvas) -> None:
    titles = {
        "preference_accuracy": "prefers the chosen answer",
        "correct_answers": "answers correctly",
        "judged": "preferred by the judge",
    }
    lines = _lines(table)
    budgets = {str(row.get("budget")) for row in lines} - {""}
    for place, name in enumerate(shares, start=1):
        axes = canvas.add_subplot(1, len(shares), place)
        _dress_rows(axes, [_label(row, budgets) for row in lines], labelled=place == 1)
        axes.set_title(titles[name], color=COLOURS["ink"], fontsize=11)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        for y, row in enumerate(lines):
            interval = mapping(row.get(name))
            middle, low, high = (number(interval.get(k)) for k in ("value", "low", "high"))
            if middle is None:
                continue
            style = _STYLES.get(str(row.get("method")), SERIES[5])
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=style.colour, linewidth=2.2)
            axes.plot([middle], [y], color=style.colour, marker=style.marker, markersize=7)


def _label(row: dict[str, Any], budgets: set[str]) -> str:
    method, budget = str(row.get("method")), str(row.get("budget"))
    if method in {"base", "orpo"} or len(budgets) < 2:
        return told_as(method)
    return f"{told_as(method)}, equal {'steps' if budget == 'steps' else 'FLOPs'}"


def _dress_rows(axes: Axes, labels: Sequence[str], *, labelled: bool) -> None:
    dress(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"], labelleft=labelled)


def _paint_costs(of: list[dict[str, Any]], canvas: Canvas) -> None:
    scales = {
        "forwards": ("forward passes", 1.0),
        "flops": ("GFLOPs", 1e9),
        "seconds": ("seconds", 1.0),
        "peak_bytes": ("peak MiB", float(_MIB)),
    }
    for place, (name, (title, scale)) in enumerate(scales.items(), start=1):
        axes = canvas.add_subplot(1, len(scales), place)
        _dress_rows(axes, [told_as(row.get("method")) for row in of], labelled=place == 1)
        axes.grid(visible=False, axis="x")
        axes.set_title(title, color=COLOURS["ink"], fontsize=11)
        axes.set_xticks([])
        values = [(number(mapping(row.get("cost")).get(name)) or 0.0) / scale for row in of]
        axes.set_xlim(0, 1.6 * max([*values, 1e-9]))
        for y, (row, value) in enumerate(zip(of, values, strict=True)):
            colour = _STYLES.get(str(row.get("method")), SERIES[5]).colour
            axes.barh(y, value, height=0.55, color=colour, alpha=0.75)
            text = f"{value:.1f}" if value < 100 else f"{value:,.0f}"
            axes.annotate(f" {text}", (value, y), va="center", color=COLOURS["ink"], fontsize=9.5)


def _paint_sensitivity(found: dict[str, Any], cells: list[dict[str, Any]], canvas: Canvas) -> None:
    ours = [cell for cell in cells if cell.get("objective") == "orpo"]
    panels = 2 if ours else 1
    alpha, rates = number(found.get("orpo_alpha")), mapping(found.get("learning_rates"))
    if ours:
        axes = canvas.add_subplot(1, panels, 1)
        _paint_grid(axes, ours, (number(rates.get("orpo")), alpha))
    _paint_rates(canvas.add_subplot(1, panels, panels), cells, alpha, rates)


def _paint_grid(axes: Axes, cells: list[dict[str, Any]], used: tuple[Any, Any]) -> None:
    """A square for each setting, darker where the accuracy is higher."""
    values = {
        (number(c.get("learning_rate")), number(c.get("orpo_alpha"))): number(
            c.get("preference_accuracy")
        )
        or 0.0
        for c in cells
    }
    columns, lines = (sorted({key[i] or 0.0 for key in values}) for i in (0, 1))
    low, high = min(values.values()), max(values.values())
    for (rate, strength), value in values.items():
        x, y = columns.index(rate or 0.0), lines.index(strength or 0.0)
        shade = 0.12 + 0.5 * (value - low) / ((high - low) or 1.0)
        axes.bar(x, 0.92, width=0.92, bottom=y - 0.46, color=COLOURS["chosen"], alpha=shade)
        text = f"{100 * value:.0f} %"
        axes.annotate(text, (x, y), ha="center", va="center", color=COLOURS["ink"])
        if (rate, strength) == used:
            ring = {"fill": False, "edgecolor": COLOURS["ink"], "linewidth": 1.6}
            axes.bar(x, 0.92, width=0.92, bottom=y - 0.46, **ring)
    axes.set_xticks(range(len(columns)), [as_number(value) for value in columns])
    axes.set_yticks(range(len(lines)), [as_number(value) for value in lines])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=COLOURS["muted"])
    axes.set_xlabel("learning rate", color=COLOURS["muted"])
    axes.set_ylabel("λ", color=COLOURS["muted"])
    axes.set_title("ORPO", color=COLOURS["ink"], fontsize=11)


def _paint_rates(
    axes: Axes, cells: list[dict[str, Any]], alpha: float | None, rates: dict[str, Any]
) -> None:
    dress(axes)
    axes.set_xscale("log")
    for place, objective in enumerate(("orpo", "sft", "dpo")):
        own = sorted(
            (
                number(cell.get("learning_rate")) or 0.0,
                number(cell.get("preference_accuracy")) or 0.0,
            )
            for cell in cells
            if cell.get("objective") == objective and cell.get("orpo_alpha") in {None, alpha}
        )
        if not own:
            continue
        style = SERIES[place]
        axes.plot(
            *zip(*own, strict=True),
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            label=told_as(objective),
        )
        used = [point for point in own if point[0] == number(rates.get(objective))]
        for x, y in used:
            axes.plot([x], [y], marker="o", markersize=13, fillstyle="none", color=COLOURS["ink"])
    axes.xaxis.set_minor_locator(NullLocator())
    ticks = _apart(sorted({number(cell.get("learning_rate")) or 0.0 for cell in cells}))
    axes.set_xticks(ticks, [as_number(tick) for tick in ticks], rotation=45)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_xlabel("learning rate", color=COLOURS["muted"])
    axes.set_title("by objective", color=COLOURS["ink"], fontsize=11)
    legend(axes)


def _apart(rates: list[float]) -> list[float]:
    """Those whose labels do not lie upon the one before, on a logarithmic axis."""
    kept: list[float] = []
    for rate in rates:
        if not kept or rate > 1.5 * kept[-1]:
            kept.append(rate)
    return kept
