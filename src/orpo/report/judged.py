"""The pages of what judges said: win rates (one's own prompts, AlpacaEval 2), and MT-Bench."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.ticker import FixedLocator

from orpo.errors import DataError
from orpo.evaluate import results
from orpo.evaluate.intervals import Interval
from orpo.evaluate.results import MTBenchResult, Scores
from orpo.quantities import as_count, minus, number
from orpo.report import style
from orpo.report.page import Figure, Page, Passage, Words, ends_of, span, told
from orpo.report.style import COLOURS, SERIES
from orpo.report.values import entries, shortened
from orpo.runs.files import read_jsonl

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FROM_FIGURE = " (figure)"
"""Behind the names of models whose scores were read off a published figure."""
_FLAGGED = 3
_NAMED = 8

Compared = Mapping[str, Mapping[str, float]]
"""Model -> category, and "overall" -> score; the model that the page is about first."""


Published = tuple[str, float, float, float]
"""A model's name, length-controlled win rate, win rate and mean length."""


def mt_bench_page(r: MTBenchResult, folder: Path) -> Page:
    """The page of an MT-Bench evaluation; judgments.jsonl in its folder gives the examples."""
    main, table = r.scores.get(r.model), _compared(r)
    judges = sorted(set(main.judges)) if main else []
    every = {judge for one in r.scores.values() for judge in one.judges}
    own = main.by_category if main else {}
    best, worst = (pick(own, key=lambda c: own[c], default="") for pick in (max, min))
    flagged, others = _examples(folder / "judgments.jsonl", r.categories)
    return told(
        "mt_bench",
        partial(_figures, main, table),
        r.settings,
        [_passage(row, r.categories) for row in (*flagged, *others)],
        r=r,
        main=main,
        table=table,
        categories=list(dict.fromkeys(c for one in table.values() for c in one if c != "overall")),
        judges=judges,
        other_judges=sorted(every - set(judges)),
        official=any(name.startswith("gpt-4") for name in judges),
        best=best,
        worst=worst,
        left=len(table) - len(SERIES),
        figure=any(name.endswith(FROM_FIGURE) for name in table),
        flagged=bool(flagged),
        shown=_shown,
        sure=_sure,
    )


def _shown(category: str) -> str:
    """A category's name as people write it."""
    return "STEM" if category == "stem" else category[:1].upper() + category[1:]


def _sure(interval: Interval | None) -> str:
    """The interval in words, or why there is none."""
    if interval is None:
        return ""
    return span(interval, 2) or "too few questions for an interval"


def _compared(r: MTBenchResult) -> Compared:
    """Figures read off a picture come last."""
    table: dict[str, Mapping[str, float | None]] = {
        name: {"overall": one.overall, **one.by_category} for name, one in r.scores.items()
    }
    table |= {name + FROM_FIGURE: one for name, one in r.paper.items()}
    return {
        name: {category: value for category, value in one.items() if value is not None}
        for name, one in table.items()
    }


def _examples(path: Path, categories: Mapping[str, str]) -> tuple[list[Any], list[Any]]:
    """The first flagged judgments, and the worst of each category."""
    try:
        found = read_jsonl(path)
    except DataError:
        return [], []
    worst: dict[str, dict[str, Any]] = {}
    for row in sorted(found, key=lambda row: number(row.get("score")) or 0):
        if not entries(row.get("flags")):
            worst.setdefault(str(categories.get(str(row.get("question_id")))), row)
    flagged = [row for row in found if entries(row.get("flags"))]
    return flagged[:_FLAGGED], list(worst.values())


def _passage(row: Mapping[str, Any], categories: Mapping[str, str]) -> Passage:
    score, question = number(row.get("score")), str(row.get("question_id"))
    given = "no score" if score is None or score < 0 else f"score {score:g}"
    category = f" ({_shown(categories[question])})" if question in categories else ""
    texts = {"What the judge read": "user_prompt", "The judge": "judgment"}
    return Passage(
        f"Question {question}{category}, turn {row.get('turn')}: {given}",
        [(label, str(row.get(name) or "")) for label, name in texts.items()],
        [f"flagged: {flag}" for flag in entries(row.get("flags"))],
    )


def _figures(main: Scores | None, table: Compared, words: Words) -> Iterator[Figure]:
    """The radar chart of all models, and this model's scores with their intervals."""
    names = list(main.by_category) if main else []
    if len(names) >= 3:
        size = (6.4, 5.6 + 0.25 * min(len(table), len(SERIES)))
        paint = partial(_paint_radar, names, table)
        yield Figure("radar", "Scores by category", words["radar"], size, paint)
    if main and names:
        size, paint = (6.4, 1.2 + 0.5 * len(names)), partial(_paint_turns, main)
        yield Figure("turns", "How sure, and by turn", words["turns"], size, paint)


def _paint_radar(names: Sequence[str], table: Compared, canvas: Canvas) -> None:
    """From 0 in the centre to 10, the first axis at the top, then clockwise."""
    polar: Any = canvas.add_subplot(projection="polar")
    angles = [2 * math.pi * place / len(names) for place in range(len(names))]
    polar.set_theta_zero_location("N")
    polar.set_theta_direction(-1)
    polar.set_ylim(0, 10)
    polar.set_rgrids([2, 4, 6, 8, 10], angle=180 / len(names), fontsize=10.5)
    shown = [style.plain(_shown(name)) for name in names]
    polar.set_thetagrids([math.degrees(angle) for angle in angles], shown)
    polar.tick_params(axis="x", labelcolor=COLOURS["ink"], labelsize=13, pad=4)
    polar.grid(visible=True, axis="both")
    for label, angle in zip(polar.get_xticklabels(), angles, strict=True):
        side = math.sin(angle)
        near = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        label.set_horizontalalignment(near)
    for place, ((model, scores), look) in enumerate(zip(table.items(), SERIES, strict=False)):
        radii = [scores.get(name, math.nan) for name in names]
        line: dict[str, Any] = {"color": look.colour, "linestyle": look.dash, "marker": look.marker}
        line |= {"linewidth": 1.7, "markersize": 5} if place else {"linewidth": 2.4}
        line |= {"zorder": 4 - place / len(SERIES), "clip_on": False}
        line |= {"label": style.plain(model, 44)}
        polar.plot([*angles, angles[0]], [*radii, radii[0]], **line)
        if not place and not any(map(math.isnan, radii)):
            polar.fill(angles, radii, color=look.colour, alpha=0.1, linewidth=0)
    canvas.legend(loc="outside lower center", fontsize=11.5, handlelength=3.2)


def _paint_turns(main: Scores, canvas: Canvas) -> None:
    axes, means, colour = canvas.add_subplot(), main.by_category, COLOURS["chosen"]
    style.rows(axes, [_shown(name) for name in means])
    for place, name in enumerate(means):
        one = main.intervals.get(name)
        if one and ends_of(one):
            axes.plot([one.low, one.high], [place] * 2, color=COLOURS["muted"], lw=1.6, zorder=2)
    axes.plot(list(means.values()), range(len(means)), "o", color=colour, ms=8, label="both turns")
    for turn, marker, shift in ((1, "$1$", -0.28), (2, "$2$", 0.3)):
        known = [
            (turns[turn], place + shift)
            for place, name in enumerate(means)
            if turn in (turns := main.by_category_and_turn.get(name, {}))
        ]
        if known:
            look = {"linestyle": "none", "marker": marker, "color": COLOURS["ink"]}
            with mpl.rc_context({"text.parse_math": True}):  # the marker is a number
                axes.plot(*zip(*known, strict=True), markersize=6, label=f"turn {turn}", **look)
    axes.set_xlim(-0.2, 10.3)
    axes.set_ylim(len(means) - 0.4, -0.7)
    style.legend(canvas, axes.get_legend_handles_labels()[0])


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
            title, size = "Among its neighbours on the leaderboard", (5.8, 1.2 + 0.34 * len(bars))
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
        yield Figure("by-length", title, words["by_length"], (5.8, 3.5), paint)


def _paint_lengths(groups: Sequence[results.LengthRate], canvas: Canvas) -> None:
    axes, colour = canvas.add_subplot(), COLOURS["chosen"]
    x, rate = [group.mean for group in groups], [group.win_rate for group in groups]
    axes.axhline(50, color=COLOURS["muted"], linewidth=0.9)
    axes.axvline(0, color=COLOURS["rule"], linewidth=0.9)
    axes.vlines(x, [one.low for one in rate], [one.high for one in rate], color=colour, lw=1.6)
    look = {"linewidth": 2, "marker": "o", "markersize": 6, "clip_on": False}
    axes.plot(x, [one.value for one in rate], color=colour, **look)
    axes.set_ylim(-3, 103)
    style.dress(axes.yaxis, "", FixedLocator([0, 25, 50, 75, 100]), "{x:.0f} %")
    more = "characters more than the baseline's answer"
    style.dress(axes.xaxis, more, None, lambda value, _: minus(f"{value:+,.0f}"))


def _paint_bars(
    bars: list[tuple[str, float]], own: int, sure: Interval | None, canvas: Canvas
) -> None:
    axes = canvas.add_subplot()
    style.rows(axes, [name for name, _ in bars])
    published = [(y, value) for y, (_, value) in enumerate(bars) if y != own]
    grey = {"color": COLOURS["muted"], "alpha": 0.6, "label": "published"}
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
    style.legend(canvas, axes.get_legend_handles_labels()[0])
