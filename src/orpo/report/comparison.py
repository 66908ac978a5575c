"""The page of `orpo compare`: what the runs decide, in words first, and what they cost."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator, NullLocator

from orpo.evaluate.verdict import FEWEST_PAIRS
from orpo.experiments.claims import FEWEST_SEEDS, FEWEST_STEPS, HOLDS, OPEN, REFUTED, fault, judged
from orpo.experiments.results import BUDGETS, Cell, ComparisonResult, Curve, MethodResult
from orpo.quantities import as_number, as_percent
from orpo.report import style
from orpo.report.page import Figure, Page, Passage, Words, told
from orpo.report.style import COLOURS, SERIES, percent
from orpo.runs.files import short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_NAMES = {
    **{"base": "the base model", "orpo": "ORPO", "sft": "SFT"},
    **{"sft+dpo": "SFT+DPO", "dpo": "DPO"},
}
_ANSWERS = {"chosen": SERIES[0], "rejected": SERIES[1]}
_STYLES = {"base": SERIES[5], "orpo": SERIES[0], "sft": SERIES[1], "sft+dpo": SERIES[2]}
_SHARES = {
    "preference_accuracy": "prefers the chosen answer",
    "correct_answers": "answers correctly",
    "judged": "preferred by the judge",
}
_OUTCOMES = (HOLDS, REFUTED, OPEN)


def comparison_page(r: ComparisonResult) -> Page:
    """The page of a comparison; one that is not finished says so."""
    r = judged(r) if r.evidence is None else r
    budgets = [name for name in BUDGETS if name in r.budgets]
    budget = budgets[0] if budgets else ""
    claims = [one for one in r.claims if one.budget in {"", budget}]
    counts = {word: sum(one.verdict == word for one in claims) for word in _OUTCOMES}
    dropped = (r.held_out.get("dropped") or {}).items()
    only = r.held_out.get("nll_only")
    return told(
        "comparison",
        partial(_figures, r, budgets),
        dict(_settings(r)),
        _passages(r),
        r=r,
        at=BUDGETS,
        told_as=_named,
        budgets=budgets,
        budget=budget,
        shares=_shares([row for row in r.table if row.budget in {"", budget}]),
        against=[
            ("in correct answers " if "answers" in one.name else "") + one.evidence
            for one in claims
            if one.name in ("orpo_accuracy_over_sft", "orpo_answers_over_sft")
        ],
        total=sum(counts.values()),
        counted=[f"{n} {'is' if n == 1 else 'are'} {word}" for word, n in counts.items() if n],
        first={one.name: one for one in reversed(r.claims)},
        faults=list(dict.fromkeys(one for row in r.table[1:] if (one := fault(row)))),
        needed=f"{FEWEST_SEEDS} seeds, {FEWEST_STEPS} steps and {FEWEST_PAIRS} held-out prompts",
        rates=list(_rates(r)),
        model=short_name(r.model) or "–",
        data=short_name(r.dataset) or "–",
        scored=r.table[0].pairs if r.table else None,
        left_out=[f"{reason}: {n}" for reason, n in dropped]
        + ([f"no rejected answer: {only:.0f}"] if only else []),
    )


def _named(method: str) -> str:
    """A method's or objective's name for readers."""
    return _NAMES.get(method, method)


def _shares(table: Sequence[MethodResult]) -> list[str]:
    """ORPO on 93.1 % of the held-out pairs, then the other methods, the base model last."""
    of = " of the held-out pairs"
    return [
        f"{_named(row.method)} on {as_percent(row.preference_accuracy.value)}{of * (i == 0)}"
        for i, row in enumerate([*table[1:], table[0]] if len(table) > 1 else [])
        if row.preference_accuracy
    ]


def _tried(r: ComparisonResult, objective: str) -> list[Cell]:
    """An objective's short runs by learning rate, at the strength that was used."""
    strengths = {None, r.orpo_alpha}
    return [c for c in r.sensitivity if c.objective == objective and c.orpo_alpha in strengths]


def _rates(r: ComparisonResult) -> Iterator[str]:
    """Learning rates of the grid that did better than the one used; the intervals are apart."""
    for objective, rate in r.learning_rates.items():
        own = {c.learning_rate: c.preference_accuracy_interval for c in _tried(r, objective)}
        known = {rate: one for rate, one in own.items() if one}
        best = max(known, key=lambda one: known[one].value, default=rate)
        if rate in known and known[best].low > known[rate].high:
            reached = [as_percent(known[one].value) for one in (rate, best)]
            used = f"{_named(objective)}'s {as_number(rate)} reached {reached[0]}"
            yield f"{used}, {as_number(best)} reached {reached[1]}"


def _passages(r: ComparisonResult) -> Iterator[Passage]:
    for example in r.examples.examples:
        parts = [("Prompt", example.prompt)]
        for one in example.answers:
            reason = f" ({one.reason})" if one.reason else ""
            mark = {None: "", True: " ✓", False: f" ✗{reason}"}[one.correct]
            parts.append((f"{_named(one.name)}{mark}", one.answer or ""))
        yield Passage(example.prompt.split("\n", 1)[0], parts)


def _settings(r: ComparisonResult) -> Iterator[tuple[str, str]]:
    yield "command", r.command
    for name, rate in r.learning_rates.items():
        yield f"learning rate of {_named(name)}", as_number(rate)
    yield "orpo_alpha", as_number(r.orpo_alpha)
    yield "dpo_beta", as_number(r.dpo_beta)
    for run in r.runs:
        yield run.name, "\n".join(run.commands)
    yield from r.versions.items()


def _figures(r: ComparisonResult, budgets: Sequence[str], words: Words) -> Iterator[Figure]:
    """Those that there are numbers for."""
    for budget in budgets:
        curves = _curves(r, budget)
        if curves:
            title = f"Held-out answers during training, at {BUDGETS[budget]}"
            size, paint = (5.8, 1.7 * len(curves) + 0.9), partial(_paint_curves, curves)
            yield Figure(f"curves-{budget}", title, words["curves_figure"], size, paint)
    # The base model, and each method at each budget; ORPO's runs once.
    orpo = next((row for row in r.table if row.method == "orpo"), None)
    lines = [row for row in r.table if row.method != "orpo" or row is orpo]
    shares = [name for name in _SHARES if any(getattr(row, name) for row in lines)]
    if shares:
        size = (5.8, (0.34 * len(lines) + 0.9) * len(shares))
        title, paint = "What the models prefer and answer", partial(_paint_outcomes, lines, shares)
        yield Figure("outcomes", title, words["outcomes_figure"], size, paint)
    if len(r.sensitivity) > 1:
        title, paint = "Sensitivity to the learning rate", partial(_paint_rates, r)
        yield Figure("sensitivity", title, words["rates_figure"], (5.8, 3.5), paint)


def _curves(r: ComparisonResult, budget: str) -> dict[str, list[Curve]]:
    """Method -> its curves; ORPO's runs belong to every budget, but are shown once if alone."""
    kept: dict[str, list[Curve]] = defaultdict(list)
    for curve in r.curves:
        if curve.points and (curve.budget == budget or curve.method == "orpo"):
            kept[curve.method].append(curve)
    if set(kept) <= {"orpo"} and r.budgets and budget != r.budgets[0]:
        return {}
    return {method: kept[method] for method in _STYLES if method in kept}


def _paint_curves(curves: Mapping[str, Sequence[Curve]], canvas: Canvas) -> None:
    """Of each answer a thin line for each seed, a thick one for their mean."""
    grid = canvas.subplots(len(curves), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (method, own) in zip(grid, curves.items(), strict=True):
        axes.set_title(_named(method))
        for answer, look in _ANSWERS.items():
            values: dict[float, list[float]] = defaultdict(list)
            seeds: dict[int, list[tuple[float, float]]] = defaultdict(list)
            for curve in own:
                points = [(point.step, getattr(point, answer)) for point in curve.points]
                seeds[curve.seed] += points
            for of_seed in map(sorted, seeds.values()):
                axes.plot(*zip(*of_seed, strict=True), color=look.colour, linewidth=0.7, alpha=0.35)
                for step, value in dict(of_seed).items():
                    values[step].append(value)
            mean = sorted((step, statistics.fmean(each)) for step, each in values.items())
            line = {"color": look.colour, "linewidth": 2, "linestyle": look.dash}
            axes.plot(*zip(*mean, strict=True), label=answer, **line)
        border = [curve.points[-1].step for curve in own if curve.objective == "sft"]
        if method == "sft+dpo" and border:
            dotted = {"linewidth": 0.9, "linestyle": style.DOTTED}
            axes.axvline(border[0], color=COLOURS["muted"], **dotted)
    style.dress(grid[-1].xaxis, "optimizer step", MaxNLocator(4, integer=True))
    canvas.supylabel("log-probability per token", color=COLOURS["muted"], fontsize=11)
    style.legend(canvas, grid[0].get_legend_handles_labels()[0])


def _paint_outcomes(lines: Sequence[MethodResult], shares: Sequence[str], canvas: Canvas) -> None:
    several = len({row.budget for row in lines} - {""}) > 1
    labels = [
        _named(row.method)
        if row.method in {"base", "orpo"} or not several
        else f"{_named(row.method)}, equal {'steps' if row.budget == 'steps' else 'FLOPs'}"
        for row in lines
    ]
    grid = canvas.subplots(len(shares), 1, squeeze=False)[:, 0]
    for axes, name in zip(grid, shares, strict=True):
        style.rows(axes, labels)
        axes.set_title(_SHARES[name])
        style.dress(axes.xaxis, "", MaxNLocator(4), percent)
        for y, row in enumerate(lines):
            one, look = getattr(row, name), _STYLES.get(row.method, SERIES[5])
            if one is None:
                continue
            if math.isfinite(one.low) and math.isfinite(one.high):
                axes.plot([one.low, one.high], [y, y], color=look.colour, linewidth=2.2)
            axes.plot([one.value], [y], color=look.colour, marker=look.marker, markersize=7)


def _paint_rates(r: ComparisonResult, canvas: Canvas) -> None:
    axes = canvas.add_subplot(xscale="log")
    for objective, look in zip(("orpo", "sft", "dpo"), SERIES, strict=False):
        own = sorted((c.learning_rate, c.preference_accuracy or 0.0) for c in _tried(r, objective))
        if not own:
            continue
        line = {"color": look.colour, "linestyle": look.dash, "marker": look.marker}
        axes.plot(*zip(*own, strict=True), label=_named(objective), **line)
        ring = {"markersize": 13, "fillstyle": "none", "color": COLOURS["ink"]}
        for x, y in own:
            if x == r.learning_rates.get(objective):
                axes.plot([x], [y], marker="o", **ring)
    axes.xaxis.set_minor_locator(NullLocator())
    ticks: list[float] = []
    for rate in sorted({cell.learning_rate for cell in r.sensitivity}):
        if not ticks or rate > 1.5 * ticks[-1]:  # labels do not lie upon each other
            ticks.append(rate)
    axes.set_xticks(ticks, [as_number(tick) for tick in ticks], rotation=45)
    axes.yaxis.set_major_formatter(percent)
    axes.set_xlabel("learning rate")
    style.legend(canvas, axes.get_legend_handles_labels()[0])
