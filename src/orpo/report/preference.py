"""The page of an evaluation on held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FixedLocator

from orpo.errors import DataError
from orpo.evaluate import results
from orpo.evaluate.intervals import Interval
from orpo.quantities import MEASURES, as_count, minus, perplexity
from orpo.report import style
from orpo.report.page import Figure, Page, Passage, Words, told
from orpo.report.style import COLOURS, DOTTED, SERIES, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_ACCURACY = "preference_accuracy"
_STYLES = {"after": SERIES[0], "before": SERIES[1]}
_MOST = 40


def preference_page(r: results.PreferenceResult, folder: Path) -> Page:
    """The page of what `orpo evaluate preference` found. An unfinished one is refused."""
    after, before = r.results.get("after"), r.results.get("before")
    if after is None or not after.intervals:
        raise DataError(
            "the evaluation is not finished", where=str(folder), fix="Run the same command again."
        )
    after = replace(after, intervals=_as_nll(after.intervals), changes=_as_nll(after.changes))
    before = before and replace(before, intervals=_as_nll(before.intervals))
    return told(
        "preference",
        partial(_figures, before, after, r.distribution),
        r.settings,
        map(_passage, r.worst),
        r=r,
        after=after,
        before=before,
        account=list(_account(r.account)),
        measures=MEASURES,
    )


def _as_nll(found: Mapping[str, Any]) -> dict[str, Any]:
    """The answers' log-probabilities as their NLL, and as the perplexity of the chosen ones."""
    shown = dict(found)
    for side in ("chosen", "rejected"):
        one = shown.pop(f"logps/{side}", None)
        if one is None:
            continue
        words, ends = {"higher": "lower", "lower": "higher"}, (-one.value, -one.high, -one.low)
        said = {"verdict": words.get(one.verdict, one.verdict)} if hasattr(one, "verdict") else {}
        value, low, high = ends
        shown[f"nll/{side}"] = replace(one, value=value, low=low, high=high, **said)
        if side == "chosen" and not said:
            value, low, high = map(perplexity, ends)
            shown["perplexity/chosen"] = replace(one, value=value, low=low, high=high)
    return shown


def _account(account: Mapping[str, Any]) -> Iterator[str]:
    rows_in, pairs = account.get("rows_in") or 0, account.get("pairs") or 0
    yield f"{as_count(rows_in, 'row')}: {as_count(pairs, 'pair')} scored"
    reasons = {**(account.get("dropped") or {})}
    reasons |= {name: account.get(name) for name in ("without_rejected", "not_finite")}
    yield from (f"{n:,} {name.replace('_', ' ')}" for name, n in reasons.items() if n)
    yield from (f"{part} cut in {n:,}" for part, n in (account.get("cut") or {}).items() if n)


def _passage(one: results.WorstPair) -> Passage:
    def shown(value: float) -> str:
        return minus(f"{value:.3f}") if math.isfinite(value) else "not known"

    title = f"{one.where or f'row {one.row}'}: log odds ratio {shown(one.log_odds)}"
    if one.log_odds_before is not None:
        title += f", before {shown(one.log_odds_before)}"
    texts = {"Prompt": one.prompt, "Chosen": one.chosen, "Rejected, and preferred": one.rejected}
    parts = [(label, text) for label, text in texts.items() if text]
    return Passage(title, parts, [str(name) for name in one.groups.values()])


def _figures(
    before: results.Preferences | None,
    after: results.Preferences,
    spread: results.Distribution | None,
    words: Words,
) -> Iterator[Figure]:
    lines = [("all pairs", _both(before.intervals if before else {}, after.intervals))]
    for kind, groups in after.groups.items():
        olds = before.groups.get(kind, {}) if before else {}
        lines += [
            (f"{kind}: {group}", _both(olds[group].metrics if group in olds else {}, found.metrics))
            for group, found in groups.items()
        ]
    if "after" in lines[0][1]:
        size, paint = (5.8, 1.1 + 0.34 * len(lines[:_MOST])), partial(_accuracies, lines[:_MOST])
        yield Figure("accuracy", "Prefers the chosen answer", words["accuracy"], size, paint)
    sides = {"before": before.calibration if before else None, "after": after.calibration}
    known = {moment: one for moment, one in sides.items() if one and one.bins}
    if "after" in known:
        paint = partial(_reliability, known)
        yield Figure("reliability", "Sure, and right", words["reliability"], (5.8, 4.2), paint)
    if spread is not None:
        title, paint = "Log odds ratios of the pairs", partial(_odds, spread)
        yield Figure("log-odds", title, words["log_odds"], (5.8, 4.2), paint)


def _both(before: Mapping[str, Interval], after: Mapping[str, Interval]) -> dict[str, Interval]:
    sides = {"before": before.get(_ACCURACY), "after": after.get(_ACCURACY)}
    return {moment: one for moment, one in sides.items() if one is not None and _known(one)}


def _known(one: Interval) -> bool:
    return math.isfinite(one.low) and math.isfinite(one.high)


def _accuracies(lines: Sequence[tuple[str, Mapping[str, Interval]]], canvas: Canvas) -> None:
    axes = canvas.add_subplot()
    style.rows(axes, [name for name, _ in lines])
    for moment, shift in (("before", -0.16), ("after", 0.16)):
        found = [(y + shift, one[moment]) for y, (_, one) in enumerate(lines) if moment in one]
        _whiskers(axes, moment, found, flat=True)
    axes.axvline(0.5, color=COLOURS["muted"], linewidth=1, linestyle=DOTTED)
    axes.set_xlim(-0.02, 1.02)
    style.dress(axes.xaxis, "", FixedLocator([0, 0.5, 1]), percent)
    _legend(canvas, axes)


def _reliability(sides: Mapping[str, results.Calibration], canvas: Canvas) -> None:
    axes = canvas.add_subplot()
    axes.plot([0.5, 1], [0.5, 1], color=COLOURS["muted"], linewidth=1, linestyle=DOTTED)
    for moment, one in sides.items():
        found = [(each.confidence, each.right) for each in one.bins if _known(each.right)]
        _whiskers(axes, moment, found, flat=False)
    axes.set(xlim=(0.49, 1.01))
    style.shares(axes)
    style.dress(axes.xaxis, "how sure the model is of its preference", None, percent)
    axes.set_ylabel("how often it is right")
    _legend(canvas, axes)


def _odds(spread: results.Distribution, canvas: Canvas) -> None:
    axes = canvas.add_subplot()
    for moment, counts in (("before", spread.before), ("after", spread.after)):
        if counts:
            look = _STYLES[moment]
            axes.stairs(counts, spread.edges, fill=True, color=look.colour, alpha=0.16)
            line = {"color": look.colour, "linestyle": look.dash, "linewidth": 1.8}
            axes.stairs(counts, spread.edges, label=moment, **line)
    axes.axvline(0, color=COLOURS["muted"], linewidth=1, linestyle=DOTTED)
    axes.set(xlabel="log odds ratio", ylabel="pairs")
    _legend(canvas, axes)


def _legend(canvas: Canvas, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if "before" in labels:
        style.legend(canvas, handles)


def _whiskers(
    axes: Axes, moment: str, found: Sequence[tuple[float, Interval]], *, flat: bool
) -> None:
    """Points with their intervals, drawn over or along their places."""
    if not found:
        return
    places, points = [place for place, _ in found], [one.value for _, one in found]
    ends = [(max(0.0, one.value - one.low), max(0.0, one.high - one.value)) for _, one in found]
    reach = list(zip(*ends, strict=True))
    where = {"x": points, "y": places, "xerr": reach}
    if not flat:
        where = {"x": places, "y": points, "yerr": reach}
    colour, _, marker, _ = _STYLES[moment]
    look = {"color": colour, "markersize": 5, "elinewidth": 1.6, "capsize": 2.5}
    axes.errorbar(**where, fmt=marker, label=moment, **look)
