"""The pages of win rates: two models on prompts of one's own, and AlpacaEval 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from orpo.evaluate import results
from orpo.evaluate.intervals import Interval
from orpo.report import style
from orpo.report.page import Figure, Page, Passage, Words, ends_of, told
from orpo.report.style import COLOURS
from orpo.report.values import as_count, minus, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_NAMED = 8
Published = tuple[str, float, float, float]
"""A model's name, length-controlled win rate, win rate and mean length."""


def win_rate_page(r: results.WinRateResult) -> Page:
    """The page of `orpo evaluate win-rate`."""
    return told(
        "win_rate",
        partial(_by_length, r.rates),
        {**r.settings, **r.versions},
        _passages(r.rates, (r.baseline, r.model)),
        r=r,
        suspicious=_named(r.rates.suspicious),
    )


def alpaca_page(r: results.AlpacaResult) -> Page:
    """The page of `orpo evaluate alpaca`."""
    rate, board = (r.rates.win_rate, r.rates.leaderboard) if r.rates else (None, None)
    length = r.rates.mean_length.get("model", 0.0) if r.rates else 0.0
    near: list[Published] = []  # the published neighbours, best first, with this model in its place
    if board and board.neighbours and rate and rate.lc_win_rate is not None:
        published = board.neighbours
        near += [(one.name, one.lc_win_rate, one.win_rate, one.avg_length) for one in published]
        place = sum(one[1] > rate.lc_win_rate for one in near)
        near.insert(place, (f"{r.model} (here)", rate.lc_win_rate, rate.win_rate, length))

    def figures(words: Words) -> Iterator[Figure]:
        if near and rate:
            bars = [(name, lc) for name, lc, *_ in near]
            title, size = "Among its neighbours on the leaderboard", (7.2, 1.2 + 0.36 * len(bars))
            paint = partial(_paint_bars, bars, place, rate.lc_interval)
            yield Figure("leaderboard", title, words["leaderboard"], size, paint)
        yield from _by_length(r.rates, words)

    gone: dict[str, Any] = {  # where rows and instructions without a verdict have gone
        "instructions without a row": r.account.get("without_a_row"),
        "rows without a verdict": r.account.get("without_a_verdict"),
        "rows whose index is another instruction's (their text counts)": r.contradicting,
        **(r.account.get("left_out") or {}),
    }
    return told(
        "alpaca",
        figures,
        {**r.settings, **r.versions},
        _passages(r.rates, (r.baseline or "the baseline", r.model)),
        r=r,
        rate=rate,
        near=near,
        board=board,
        suspicious=_named(r.rates.suspicious if r.rates else None),
        gone=[f"{n:,} {why}" for why, n in gone.items() if n],
    )


def _named(found: results.Suspicious | None) -> str:
    """The first of the suspicious rows: "rows 3, 7 and 12 more"."""
    rows = found.rows if found else ()
    names = list(dict.fromkeys(shortened(str(one.index), 40) for one in rows))
    more = f" and {len(names) - _NAMED} more" if names[_NAMED:] else ""
    return f"{'rows' if names[1:] else 'row'} {', '.join(names[:_NAMED])}{more}"


def _passages(rates: results.JudgedRates | None, names: tuple[str, str]) -> Iterator[Passage]:
    """The examples, with both answers and what the judge said."""
    kinds = {"win": "Win", "loss": "Loss", "flagged": "Flagged"}
    for place, one in enumerate(rates.examples if rates else (), 1):
        shown = "" if one.preference is None else f", preference {one.preference:.2f}"
        sizes = [as_count(length, "character") for length in one.lengths]
        reasons = enumerate((text for text in one.reasons if text), 1)
        parts = (
            ("Prompt", one.prompt),
            (f"{names[0]}, {sizes[0]}", one.baseline),
            (f"{names[1]}, {sizes[1]}", one.model),
            *((f"The judge, order {n}", text) for n, text in reasons),
        )
        tags = [f"baseline: {flag}" for flag in one.flags_baseline]
        tags += [f"model: {flag}" for flag in one.flags_model]
        yield Passage(f"{place}. {kinds.get(one.kind, 'Pair')}{shown}", parts, tags)


def _by_length(rates: results.JudgedRates | None, words: Words) -> Iterator[Figure]:
    """The win rate by how much longer the model's answer is; nothing for few prompts."""
    if rates is not None and len(rates.by_length) >= 3:
        title, paint = "Win rate by difference in length", partial(_paint_lengths, rates.by_length)
        yield Figure("by-length", title, words["by_length"], (7.2, 3.6), paint)


def _paint_lengths(groups: Sequence[results.LengthRate], canvas: Canvas) -> None:
    axes, colour = canvas.add_subplot(), COLOURS["chosen"]
    x, rate = [group.mean for group in groups], [group.win_rate for group in groups]
    axes.axhline(50, color=COLOURS["muted"], linewidth=0.9)
    axes.axvline(0, color=COLOURS["rule"], linewidth=0.9)
    axes.vlines(x, [one.low for one in rate], [one.high for one in rate], color=colour, lw=1.6)
    look = {"linewidth": 2, "marker": "o", "markersize": 6, "clip_on": False}
    axes.plot(x, [one.value for one in rate], color=colour, **look)
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_formatter("{x:.0f} %")
    more = "characters more than the baseline's answer"
    style.dress(axes.xaxis, more, None, lambda value, _: minus(f"{value:+,.0f}"))


def _paint_bars(
    bars: list[tuple[str, float]], own: int, sure: Interval | None, canvas: Canvas
) -> None:
    axes = canvas.add_subplot()
    style.rows(axes, [name for name, _ in bars])
    published = [(y, value) for y, (_, value) in enumerate(bars) if y != own]
    grey = {"color": COLOURS["muted"], "alpha": 0.35, "label": "published"}
    axes.barh(*zip(*published, strict=True), height=0.62, **grey)
    axes.barh([own], [bars[own][1]], height=0.62, color=COLOURS["chosen"], label="here")
    ends = [value for _, value in bars]
    if sure is not None and ends_of(sure):
        axes.hlines([own], sure.low, sure.high, color=COLOURS["ink"], linewidth=1.6)
        ends[own] = max(ends[own], sure.high)
    place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 10}
    for y, ((_, value), end) in enumerate(zip(bars, ends, strict=True)):
        axes.annotate(f"{value:.1f}", (end, y), **place)
    axes.set_xlim(0, 1.12 * max(*ends, 1.0))
    axes.xaxis.set_major_formatter("{x:.0f} %")
    canvas.legend(loc="outside lower center", ncols=2)
