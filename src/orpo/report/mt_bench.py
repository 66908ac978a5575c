"""The page of MT-Bench: the score and how sure it is, by category and turn, and who judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from orpo.errors import DataError
from orpo.evaluate.intervals import Interval
from orpo.evaluate.results import MTBenchResult, Scores
from orpo.report import style
from orpo.report.page import Figure, Page, Passage, Words, ends_of, span, told
from orpo.report.style import COLOURS, SERIES
from orpo.report.values import entries, number
from orpo.runs.files import read_jsonl

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FROM_FIGURE = " (figure)"
"""Behind the names of models whose scores were read off a published figure."""
_FLAGGED = 3

Compared = Mapping[str, Mapping[str, float]]
"""Model -> category, and "overall" -> score; the model that the page is about first."""


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
    axes.set_xlim(0, 10.3)
    axes.set_ylim(len(means) - 0.4, -0.7)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
