"""What the pages of win rates have in common: numbers, pictures, examples, the judge's habits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from orpo.report.evaluation.types import Figure, Headline, Passage, Table
from orpo.report.svg import COLOURS, dress
from orpo.report.values import (
    as_count,
    joined,
    lasting,
    mapping,
    number,
    records,
    rows,
    visible,
    whole,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "EXAMPLES_NOTE",
    "by_length",
    "category_table",
    "distrust",
    "headlines",
    "judge_facts",
    "judge_table",
    "length_remark",
    "passages",
    "percent",
    "settings",
    "span",
    "suspicious_remark",
    "suspicious_table",
]

EXAMPLES_NOTE = (
    "Nobody picked these: the three clearest wins and the three clearest losses, of equally clear "
    "ones the first in the order of the prompts, and the first three pairs with a flag."
)
_SIDES = ("baseline", "model")
_NAMED, _ROWS = 8, 50
_KINDS = {"win": "Win", "loss": "Loss", "flagged": "Flagged"}


def percent(value: object) -> str:
    """14.7 %, or a dash."""
    found = number(value)
    return "–" if found is None else f"{found:.1f}\u00a0%"


def span(value: object) -> str:
    """The interval in words, or nothing."""
    one = mapping(value)
    low, high = number(one.get("low")), number(one.get("high"))
    if low is None or high is None:
        return ""
    level = number(one.get("level")) or 0.95
    return f"{100 * level:.0f} % interval {low:.1f} to {high:.1f}"


def headlines(evaluation: Mapping[str, Any], *, tone: bool) -> tuple[Headline, ...]:
    """Win rate and length-controlled win rate as judged; both without suspicious rows, if any.

    Args:
        evaluation: What stands in evaluation.json.
        tone: Above 50 % is better and below is worse, where the interval says so.
    """
    found = []
    rate = mapping(evaluation.get("win_rate"))
    found_out = mapping(evaluation.get("suspicious"))
    rest, flagged = mapping(found_out.get("without")), whole(found_out.get("pairs")) or 0
    for label, name, sure in (
        ("Length-controlled win rate", "lc_win_rate", "lc_interval"),
        ("Win rate", "win_rate", "interval"),
    ):
        if number(rate.get(name)) is not None:
            colour = _tone(mapping(rate.get(sure))) if tone else ""
            found.append(Headline(label, percent(rate.get(name)), span(rate.get(sure)), colour))
        if number(rest.get(name)) is not None:
            left = f"{as_count(flagged, 'row')} left out"
            found.append(
                Headline(f"{label} without suspicious rows", percent(rest.get(name)), left)
            )
    return tuple(found)


def suspicious_remark(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """How many rows are suspicious on which side, and what the figure would be without them."""
    found = mapping(evaluation.get("suspicious"))
    pairs = whole(found.get("pairs")) or 0
    if not pairs:
        return ()
    sides = [f"{whole(found.get(side)) or 0:,} of the {side}'s" for side in _SIDES]
    rest = mapping(found.get("without"))
    figures = [
        f"{label} {percent(rest.get(name))}"
        for label, name in (("win rate", "win_rate"), ("length-controlled", "lc_win_rate"))
        if number(rest.get(name)) is not None
    ]
    without = f"; without them: {joined(figures)}" if figures else "; without them nothing is left"
    return (
        f"{as_count(pairs, 'row')} with a suspicious answer ({joined(sides)}), which is empty, "
        f"constant, or made for the judge: {_named(found)}. They count as judged{without}.",
    )


def _named(found: Mapping[str, Any]) -> str:
    names = [str(one.get("index")) for one in records(found.get("rows"))]
    names = [lasting(name, 40) for name in dict.fromkeys(names)]
    more = f" and {len(names) - _NAMED} more" if names[_NAMED:] else ""
    return f"{'rows' if names[1:] else 'row'} {', '.join(names[:_NAMED])}{more}"


def suspicious_table(evaluation: Mapping[str, Any]) -> tuple[Table, ...]:
    """The suspicious rows, to be looked at; nothing if there is none."""
    every = records(mapping(evaluation.get("suspicious")).get("rows"))
    lines = [
        (
            lasting(str(one.get("index")), 80),
            str(one.get("side")),
            joined(map(_text, rows(one.get("flags")))),
            "–" if (value := number(one.get("preference"))) is None else f"{value:.2f}",
            visible(_text(one.get("excerpt"))),
        )
        for one in every[:_ROWS]
    ]
    if not lines:
        return ()
    note = "A rule found these; whether it is right, only reading tells. They count as judged."
    if every[_ROWS:]:
        note += f" {len(every) - _ROWS:,} more are in evaluation.json."
    heads = ("row", "whose", "why", "preference", "the answer")
    return (Table("Suspicious rows", heads, tuple(lines), note),)


def _tone(interval: Mapping[str, Any]) -> str:
    low, high = number(interval.get("low")), number(interval.get("high"))
    if low is None or high is None:
        return ""
    return "better" if low > 50 else "worse" if high < 50 else ""


def length_remark(evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """What length has done, or why it was not taken out."""
    rate, lengths = mapping(evaluation.get("win_rate")), mapping(evaluation.get("mean_length"))
    found = []
    note = rate.get("note")
    if isinstance(note, str) and note:
        found.append(f"There is no length-controlled win rate: {note.removeprefix('no ')}.")
    raw, controlled = number(rate.get("win_rate")), number(rate.get("lc_win_rate"))
    first, second = number(lengths.get("baseline")), number(lengths.get("model"))
    if first and second is not None:
        longer = f"{second:,.0f} characters on average, the baseline's {first:,.0f}"
        change = "" if raw is None or controlled is None else (
            f"; with equal lengths the win rate would be {controlled:.1f} % instead of {raw:.1f} %"
        )  # fmt: skip
        found.append(f"The model's answers have {longer}{change}.")
    return tuple(found)


def distrust(evaluation: Mapping[str, Any]) -> str:
    """A sentence if the judge did not pass its test."""
    failed = mapping(evaluation.get("trust")).get("trusted") is False
    return " The judge did not pass its test, so this is no evidence." if failed else ""


def by_length(evaluation: Mapping[str, Any], rate_name: str = "Win rate") -> tuple[Figure, ...]:
    """The win rate by how much longer the model's answer is; nothing for few prompts."""
    groups = [one for one in records(evaluation.get("by_length")) if _usable(one)]
    if len(groups) < 3:
        return ()
    caption = (
        f"{rate_name} in {len(groups)} equally large groups of prompts, by how many characters the "
        "model's answer is longer than the baseline's, with 95 % intervals. A line that rises says "
        "that length and verdict go together; why, it does not say."
    )
    return (
        Figure("by-length", "Win rate by difference in length", caption, (7.2, 3.6),
               partial(_paint_lengths, groups)),
    )  # fmt: skip


def _usable(group: Mapping[str, Any]) -> bool:
    rate = mapping(group.get("win_rate"))
    values = (group.get("mean"), *(rate.get(name) for name in ("value", "low", "high")))
    return all(number(value) is not None for value in values)


def _paint_lengths(groups: list[dict[str, Any]], canvas: Canvas) -> None:
    axes = canvas.add_subplot()
    dress(axes)
    x = [float(group["mean"]) for group in groups]
    y, low, high = (
        [float(group["win_rate"][name]) for group in groups] for name in ("value", "low", "high")
    )
    axes.axhline(50, color=COLOURS["muted"], linewidth=0.9)
    axes.axvline(0, color=COLOURS["rule"], linewidth=0.9)
    axes.vlines(x, low, high, color=COLOURS["chosen"], linewidth=1.6)
    axes.plot(x, y, color=COLOURS["chosen"], linewidth=2, marker="o", markersize=6, clip_on=False)
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+,.0f}".replace("-", "−"))
    axes.set_xlabel("characters more than the baseline's answer")


def category_table(evaluation: Mapping[str, Any]) -> tuple[Table, ...]:
    """Win rates by category, if there are several."""
    groups = mapping(evaluation.get("by_category"))
    if len(groups) < 2:
        return ()
    lines = []
    for name, given in groups.items():
        one = mapping(given)
        rate = mapping(one.get("win_rate"))
        lines.append(
            (name, f"{whole(one.get('n')) or 0:,}", percent(rate.get("value")),
             span(rate).replace("95 % interval ", ""))
        )  # fmt: skip
    heads = ("where the prompts come from", "prompts", "win rate", "95 % interval")
    return (Table("By source of the prompts", heads, tuple(lines)),)


def judge_table(evaluation: Mapping[str, Any]) -> tuple[Table, ...]:
    """What the judge goes by, in numbers."""
    bias = mapping(evaluation.get("bias"))
    labels = {
        "consistency": "says the same in both orders",
        "first_position_wins": "prefers what is shown first (50 % is fair)",
        "longer_wins": "prefers the longer answer",
        "length_auc": "length alone tells wins from losses (50 %: not at all)",
    }
    lines = []
    for name, label in labels.items():
        one = mapping(bias.get(name))
        values = [number(one.get(part)) for part in ("value", "low", "high")]
        if values[0] is None:
            continue
        shown = [percent(None if value is None else 100 * value) for value in values]
        lines.append(
            (label, shown[0], f"{shown[1]} to {shown[2]}", f"{whole(one.get('n')) or 0:,}")
        )
    kinds = mapping(mapping(evaluation.get("trust")).get("kinds"))
    for kind, given in kinds.items():
        one = mapping(given)
        tried = sum(whole(one.get(n)) or 0 for n in ("lost", "tied", "rewarded", "unparsed"))
        rewarded = whole(one.get("rewarded")) or 0
        lines.append(
            (f"rewards a planted answer: {kind}", f"{rewarded} of {tried}", "–", f"{tried}")
        )
    note = _verdicts(mapping(evaluation.get("verdicts")))
    if not lines:
        return ()
    return (
        Table("What the judge goes by", ("", "found", "95 % interval", "n"), tuple(lines), note),
    )


def _verdicts(counts: Mapping[str, Any]) -> str:
    if not counts:
        return ""
    names = ("verdicts", "pairs", "unparsed_verdicts", "orders_differ")
    verdicts, pairs, unparsed, differ = (whole(counts.get(name)) or 0 for name in names)
    return (
        f"{verdicts:,} verdicts on {as_count(pairs, 'pair')}, {unparsed:,} of them unreadable; "
        f"{as_count(differ, 'pair')} with different verdicts in the two orders."
    )


def judge_facts(evaluation: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Who judged, and what it cost."""
    judge, cost = mapping(evaluation.get("judge")), mapping(evaluation.get("cost"))
    price = number(cost.get("cost"))
    tokens = (
        f"{whole(cost.get('prompt_tokens')) or 0:,} + {whole(cost.get('completion_tokens')) or 0:,}"
    )
    entries = (
        ("Judge", _text(judge.get("model"))),
        ("Judge, as reported", joined(map(str, rows(judge.get("reported"))))),
        ("Judge's server", _text(judge.get("base_url"))),
        ("Requests", f"{whole(cost.get('requests')) or 0:,}, {tokens} tokens" if cost else ""),
        ("Cost", "" if price is None else f"{price:,.2f}"),
    )
    return tuple((label, value) for label, value in entries if value)


def passages(evaluation: Mapping[str, Any], names: tuple[str, str]) -> tuple[Passage, ...]:
    """The examples, with both answers and what the judge said.

    Args:
        evaluation: What stands in evaluation.json.
        names: What the baseline and the model are called.
    """
    found = []
    for place, one in enumerate(records(evaluation.get("examples")), 1):
        value = number(one.get("preference"))
        shown = "" if value is None else f", preference {value:.2f}"
        lengths = [whole(n) or 0 for n in rows(one.get("lengths"))] or [0, 0]
        reasons = [text for text in map(_text, rows(one.get("reasons"))) if text]
        flags = [
            f"{side}: {flag}"
            for side in _SIDES
            for flag in map(_text, rows(one.get(f"flags_{side}")))
        ]
        found.append(
            Passage(
                f"{place}. {_KINDS.get(_text(one.get('kind')), 'Pair')}{shown}",
                (
                    ("Prompt", _text(one.get("prompt"))),
                    (
                        f"{names[0]}, {as_count(lengths[0], 'character')}",
                        _text(one.get("baseline")),
                    ),
                    (f"{names[1]}, {as_count(lengths[-1], 'character')}", _text(one.get("model"))),
                    *((f"The judge, order {n}", text) for n, text in enumerate(reasons, 1)),
                ),
                tuple(flags),
            )
        )
    return tuple(found)


def settings(evaluation: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What the result depends on."""
    given = {**mapping(evaluation.get("settings")), **mapping(evaluation.get("versions"))}
    return tuple((name, str(value)) for name, value in given.items())


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
