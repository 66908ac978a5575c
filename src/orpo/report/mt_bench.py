"""The page of MT-Bench: the score and how sure it is, by category and turn, and who judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.errors import DataError
from orpo.evaluate.intervals import Interval
from orpo.evaluate.results import MTBenchResult, Scores
from orpo.report.page import Figure, Headline, Page, Passage, Table, Words, ends_of, span
from orpo.report.style import COLOURS, SERIES, plain, rows
from orpo.report.values import as_count, entries, joined, minus, number, shortened, visible
from orpo.report.win_rate import suspicious_note
from orpo.runs import read_jsonl

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FROM_FIGURE = " (figure)"
"""Behind the names of models whose scores were read off a published figure."""

_FLAGGED, _OTHERS, _ROWS = 3, 3, 50
_OUTCOMES = ("lost", "tied", "rewarded", "unparsed")

Compared = Mapping[str, Mapping[str, float]]
"""Model -> category, and "overall" -> score; the model that the page is about first."""


def mt_bench_page(r: MTBenchResult, folder: Path) -> Page:
    """The page of an MT-Bench evaluation; judgments.jsonl in its folder gives the examples."""
    main = r.scores.get(r.model)
    table = _compared(r)
    passages, flagged = _passages(folder / "judgments.jsonl", r.categories)
    words = _words(r, main, table, flagged=flagged)
    return Page(
        kicker="MT-Bench",
        title=r.model,
        verdict=words["verdict"],
        remarks=words.all("remarks"),
        headlines=tuple(_headlines(r, main)) if main else (),
        facts=words.pairs("facts"),
        figures=tuple(_figures(main, table, words)) if main else (),
        tables=tuple(_tables(r, main, table, words)),
        passages=passages,
        passages_note=words["examples"] if passages else "",
        settings=tuple((name, str(value)) for name, value in r.settings.items()),
    )


def _words(r: MTBenchResult, main: Scores | None, table: Compared, *, flagged: bool) -> Words:
    judges = sorted(set(main.judges)) if main else []
    every = {judge for one in r.scores.values() for judge in one.judges}
    own = main.by_category if main else {}
    best, worst = (pick(own, key=lambda c: own[c], default="") for pick in (max, min))
    return Words(
        "mt_bench",
        r=r,
        main=main,
        judges=judges,
        other_judges=sorted(every - set(judges)),
        official=any(name.startswith("gpt-4") for name in judges),
        best=best,
        worst=worst,
        left=len(table) - len(SERIES),
        figure=any(name.endswith(FROM_FIGURE) for name in table),
        flagged=flagged,
        shown=_shown,
        sure=sure,
    )


def _shown(category: str) -> str:
    """A category's name as people write it."""
    return "STEM" if category == "stem" else category[:1].upper() + category[1:]


def _headlines(r: MTBenchResult, main: Scores) -> Iterator[Headline]:
    yield Headline("Score", _score(main.overall), sure(main.intervals.get("overall")))
    if main.flagged_answers:
        left = f"{as_count(main.flagged_answers, 'answer')} left out"
        yield Headline("Without suspicious answers", _score(main.without_flagged), left)
    for turn, value in main.by_turn.items():
        ends = sure(main.intervals.get(f"turn {turn}"))
        yield Headline(f"Turn {turn}", _score(value), ends)
    for other, one in list(r.differences.items())[:_OTHERS]:
        tone = "better" if one.low > 0 else "worse" if one.high < 0 else ""
        yield Headline(f"Against {other}", minus(f"{one.value:+.2f}"), sure(one), tone)


def sure(interval: Interval | None) -> str:
    """The interval in words, or why there is none."""
    if interval is None:
        return ""
    return span(interval, 2) or "too few questions for an interval"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


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


def _tables(
    r: MTBenchResult, main: Scores | None, table: Compared, words: Words
) -> Iterator[Table]:
    categories = dict.fromkeys(c for one in table.values() for c in one if c != "overall")
    lines = [
        (_shown(name), *(_score(one.get(name)) for one in table.values()))
        for name in ["overall", *categories]
    ]
    yield Table("Categories and models", ("category", *table), lines, words["models"])
    if r.differences:
        yield _against(r.differences)
    if main and main.by_category_and_turn:
        yield _by_turn(main)
    if r.judged and r.judged.trust.kinds:
        yield _canaries(r.judged.trust.kinds, r.judged.canary_scores)
    if main and main.flagged_rows:
        yield _suspicious(main)
    counts = [(name.replace("_", " "), f"{n:,}") for name, n in r.account.items()]
    note = "Judgments = scored + unparsed + out of range."
    yield Table("Nothing left out in silence", ("what", "count"), counts, note)


def _against(differences: Mapping[str, Interval]) -> Table:
    note = (
        "Mean difference on the answers that both were graded for by the same judge, question by "
        "question; positive where this model scores higher."
    )
    lines = [
        (other, minus(f"{one.value:+.2f}"), ends_of(one, 2) or sure(one))
        for other, one in differences.items()
    ]
    return Table("Against other models", ("model", "difference", "95 % interval"), lines, note)


def _by_turn(main: Scores) -> Table:
    lines = []
    for name, turns in main.by_category_and_turn.items():
        one = main.intervals.get(name)
        ends = (ends_of(one, 2) if one else "") or sure(one)
        means = (_score(main.by_category.get(name)), ends)
        lines.append((_shown(name), *means, *(_score(turns.get(turn)) for turn in (1, 2))))
    columns = ("category", "score", "95 % interval", "turn 1", "turn 2")
    note = "Intervals draw questions, not judgments: both turns of a question go together."
    return Table("By category and turn", columns, lines, note)


def _canaries(
    kinds: Mapping[str, Mapping[str, int]], scores: Mapping[str, Sequence[float | None]]
) -> Table:
    lines = [
        (
            kind,
            ", ".join(map(_score, scores.get(kind, ()))),
            *(f"{outcomes.get(name, 0)}" for name in _OUTCOMES),
        )
        for kind, outcomes in kinds.items()
    ]
    note = (
        "Answers that deserve nothing, put before the judge as they are, without the guards that "
        "a model's answers pass. Rewarded: 6 or more. They are in no score."
    )
    columns = ("answer", "scores", *_OUTCOMES)
    return Table("What the judge gives to worthless answers", columns, lines, note)


def _suspicious(main: Scores) -> Table:
    lines = [
        (
            f"{shortened(str(one.question_id), 40)}, turn {one.turn}",
            joined(one.flags),
            _score(one.score),
            visible(one.excerpt),
        )
        for one in main.flagged_rows[:_ROWS]
    ]
    columns = ("question", "why", "score", "what the judge read")
    note = suspicious_note(len(main.flagged_rows) - _ROWS)
    return Table("Suspicious answers", columns, lines, note)


def _passages(path: Path, categories: Mapping[str, str]) -> tuple[tuple[Passage, ...], bool]:
    """The first flagged answers and the worst of each category; whether there are flagged ones."""
    try:
        found = read_jsonl(path)
    except DataError:
        return (), False
    flagged = [row for row in found if entries(row.get("flags"))][:_FLAGGED]
    worst: dict[str, dict[str, Any]] = {}
    for row in sorted(found, key=lambda row: number(row.get("score")) or 0):
        if not entries(row.get("flags")):
            worst.setdefault(str(categories.get(str(row.get("question_id")))), row)
    shown = tuple(_passage(row, categories) for row in (*flagged, *worst.values()))
    return shown, bool(flagged)


def _passage(row: Mapping[str, Any], categories: Mapping[str, str]) -> Passage:
    score, question = number(row.get("score")), str(row.get("question_id"))
    given = "no score" if score is None or score < 0 else f"score {score:g}"
    category = f" ({_shown(categories[question])})" if question in categories else ""
    return Passage(
        f"Question {question}{category}, turn {row.get('turn')}: {given}",
        (
            ("What the judge read", str(row.get("user_prompt") or "")),
            ("The judge", str(row.get("judgment") or "")),
        ),
        tuple(f"flagged: {flag}" for flag in entries(row.get("flags"))),
    )


def _figures(main: Scores, table: Compared, words: Words) -> Iterator[Figure]:
    """The radar chart of all models, and this model's scores with their intervals."""
    names = list(main.by_category)
    if len(names) >= 3:
        size = (6.4, 5.6 + 0.25 * min(len(table), len(SERIES)))
        paint = partial(_paint_radar, names, table)
        yield Figure("radar", "Scores by category", words["radar"], size, paint)
    if names:
        size = (6.4, 1.2 + 0.5 * len(names))
        yield Figure(
            "turns", "How sure, and by turn", words["turns"], size, partial(_paint_turns, main)
        )


def _paint_radar(names: Sequence[str], table: Compared, canvas: Canvas) -> None:
    polar: Any = canvas.add_subplot(projection="polar")
    angles = [2 * math.pi * place / len(names) for place in range(len(names))]
    _dress_radar(polar, angles, [_shown(name) for name in names])
    for place, ((model, scores), style) in enumerate(zip(table.items(), SERIES, strict=False)):
        radii = [scores.get(name, math.nan) for name in names]
        polar.plot(
            [*angles, angles[0]],
            [*radii, radii[0]],
            color=style.colour,
            linestyle=style.dash,
            linewidth=1.7 if place else 2.4,
            marker=style.marker,
            markersize=5 if place else 6,
            label=plain(model, 44),
            zorder=4 - place / len(SERIES),
            clip_on=False,
        )
        if not place and not any(map(math.isnan, radii)):
            polar.fill(angles, radii, color=style.colour, alpha=0.1, linewidth=0)
    canvas.legend(loc="outside lower center", fontsize=11.5, handlelength=3.2)


def _dress_radar(polar: Any, angles: Sequence[float], names: Sequence[str]) -> None:
    """From 0 in the centre to 10, the first axis at the top, then clockwise."""
    polar.set_theta_zero_location("N")
    polar.set_theta_direction(-1)
    polar.set_ylim(0, 10)
    polar.set_rgrids([2, 4, 6, 8, 10], angle=180 / len(names), fontsize=10.5)
    polar.set_thetagrids([math.degrees(angle) for angle in angles], map(plain, names))
    polar.tick_params(axis="x", labelcolor=COLOURS["ink"], labelsize=13, pad=4)
    polar.grid(visible=True, axis="both")
    for label, angle in zip(polar.get_xticklabels(), angles, strict=True):
        side = math.sin(angle)
        near = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        label.set_horizontalalignment(near)


def _paint_turns(main: Scores, canvas: Canvas) -> None:
    axes = canvas.add_subplot()
    means = main.by_category
    rows(axes, [_shown(name) for name in means])
    for place, name in enumerate(means):
        one = main.intervals.get(name)
        if one and ends_of(one):
            axes.plot([one.low, one.high], [place] * 2, color=COLOURS["muted"], lw=1.6, zorder=2)
    colour = COLOURS["chosen"]
    axes.plot(list(means.values()), range(len(means)), "o", color=colour, ms=8, label="both turns")
    for turn, marker, shift in ((1, "$1$", -0.28), (2, "$2$", 0.3)):
        known = [
            (turns[turn], place + shift)
            for place, name in enumerate(means)
            if turn in (turns := main.by_category_and_turn.get(name, {}))
        ]
        if known:
            style = {"linestyle": "none", "marker": marker, "color": COLOURS["ink"]}
            axes.plot(*zip(*known, strict=True), markersize=6, label=f"turn {turn}", **style)
    axes.set_xlim(0, 10.3)
    axes.set_ylim(len(means) - 0.4, -0.7)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
