"""The page of MT-Bench: the score and how sure it is, by category and turn, and who judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.report.evaluation.mt_bench_figures import FIGURE, figures, shown
from orpo.report.evaluation.mt_bench_words import remarks
from orpo.report.evaluation.types import Headline, Page, Passage, Table
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
from orpo.runs import read_jsonl

__all__ = ["build_page"]

_TURNS = ("1", "2")
_FLAGGED = 3
_OTHERS = 3
_ROWS = 50


def build_page(evaluation: Mapping[str, Any], folder: Path) -> Page:
    """The page of an MT-Bench evaluation.

    Args:
        evaluation: What stands in evaluation.json.
        folder: Where it stands; judgments.jsonl beside it gives the examples.
    """
    model = str(evaluation.get("model") or "model")
    models = {name: mapping(one) for name, one in mapping(evaluation.get("scores")).items()}
    main = models.get(model, {})
    table = _compared(evaluation, models)
    passages, note = _passages(folder / "judgments.jsonl", mapping(evaluation.get("categories")))
    return Page(
        kicker="MT-Bench",
        title=model,
        verdict=_verdict(model, main) + _distrust(evaluation),
        remarks=remarks(evaluation),
        headlines=_headlines(evaluation, main),
        facts=_facts(evaluation),
        figures=figures(model, main, table),
        tables=(
            _by_category(table),
            *_against(evaluation),
            *_by_turn(main),
            *_canaries(evaluation),
            *_suspicious(main),
            _account(evaluation),
        ),
        passages=passages,
        passages_note=note,
        settings=tuple(
            (name, _plain(v)) for name, v in mapping(evaluation.get("settings")).items()
        ),
    )


def _verdict(model: str, main: Mapping[str, Any]) -> str:
    overall = number(main.get("overall"))
    if overall is None:
        return f"No judgment of {model} names a score."
    judges = joined(map(str, rows(main.get("judges")))) or "an unnamed judge"
    sure = _span(mapping(main.get("intervals")).get("overall"))
    return (
        f"{model} scores {overall:.2f} of 10 ({sure}; "
        f"{as_count(whole(main.get('n')) or 0, 'answer')} judged by {judges})."
    )


def _distrust(evaluation: Mapping[str, Any]) -> str:
    trust = mapping(evaluation.get("trust"))
    return " The judge is not to be trusted." if trust and not trust.get("trusted") else ""


def _headlines(evaluation: Mapping[str, Any], main: Mapping[str, Any]) -> tuple[Headline, ...]:
    spans, turns = mapping(main.get("intervals")), mapping(main.get("by_turn"))
    found = [Headline("Score", _score(main.get("overall")), _span(spans.get("overall")))]
    flagged = whole(main.get("flagged_answers")) or 0
    if flagged:
        left = f"{as_count(flagged, 'answer')} left out"
        without = _score(main.get("without_flagged"))
        found.append(Headline("Without suspicious answers", without, left))
    found += [
        Headline(f"Turn {turn}", _score(turns[turn]), _span(spans.get(f"turn {turn}")))
        for turn in _TURNS
        if turn in turns
    ]
    for other, given in list(mapping(evaluation.get("differences")).items())[:_OTHERS]:
        value, sure = _difference(given)
        found.append(Headline(f"Against {other}", value, _span(given), sure))
    return tuple(found)


def _difference(given: object) -> tuple[str, str]:
    """As shown, and whether it is "better" or "worse" beyond chance."""
    one = mapping(given)
    low, high, value = (number(one.get(name)) for name in ("low", "high", "value"))
    if value is None:
        return "–", ""
    sure = low is not None and high is not None and (low > 0 or high < 0)
    tone = ("better" if value > 0 else "worse") if sure else ""
    return f"{value:+.2f}".replace("-", "−"), tone


def _facts(evaluation: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    judge, cost = mapping(evaluation.get("judge")), mapping(evaluation.get("cost"))
    data, trust = mapping(evaluation.get("data")), mapping(evaluation.get("trust"))
    account = mapping(evaluation.get("account"))
    price = number(cost.get("cost"))
    tokens = (
        f"{whole(cost.get('prompt_tokens')) or 0:,} + {whole(cost.get('completion_tokens')) or 0:,}"
    )
    entries = [
        ("Questions", f"{whole(account.get('questions')) or 0:,}"),
        ("Answers", _plain(evaluation.get("answers_from"))),
        ("Judge", _plain(judge.get("model"))),
        ("Judge, as reported", joined(map(str, rows(judge.get("reported"))))),
        ("Canaries", _plain(trust.get("sentence")) if trust.get("trusted") else ""),
        ("Judge's server", _plain(judge.get("base_url"))),
        ("Requests", f"{whole(cost.get('requests')) or 0:,}, {tokens} tokens" if cost else ""),
        ("Cost", "" if price is None else f"{price:,.2f}"),
        *((f"Data: {name}", _source(mapping(one))) for name, one in data.items()),
    ]
    return tuple((label, value) for label, value in entries if value)


def _source(one: Mapping[str, Any]) -> str:
    return f"{_plain(one.get('from'))}, sha256 {_plain(one.get('sha256'))[:12]}…"


def _compared(
    evaluation: Mapping[str, Any], models: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Model -> category (and "overall") -> score; figures read off a picture last."""
    table = {
        name: {"overall": one.get("overall"), **mapping(one.get("by_category"))}
        for name, one in models.items()
    }
    for name, one in mapping(evaluation.get("paper")).items():
        table[name + FIGURE] = mapping(one)
    return {
        name: {k: float(v) for k, v in one.items() if number(v) is not None}
        for name, one in table.items()
    }


def _categories(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(c for one in table.values() for c in one if c != "overall"))


def _by_category(table: Mapping[str, Mapping[str, float]]) -> Table:
    models = list(table)
    cells = [
        (shown(name), *(_score(table[model].get(name)) for model in models))
        for name in ["overall", *_categories(table)]
    ]
    note = "Means over both turns, from 1 to 10."
    if any(name.endswith(FIGURE) for name in models):
        note += (
            " Scores read off the method's published figure are ±0.05; overall is printed there."
        )
    return Table("Categories and models", ("category", *models), tuple(cells), note)


def _against(evaluation: Mapping[str, Any]) -> tuple[Table, ...]:
    cells = tuple(
        (other, _difference(given)[0], _span(given).removeprefix("95 % interval "))
        for other, given in mapping(evaluation.get("differences")).items()
    )
    if not cells:
        return ()
    note = (
        "Mean difference on the answers that both were graded for by the same judge, question by "
        "question; positive where this model scores higher."
    )
    return (Table("Against other models", ("model", "difference", "95 % interval"), cells, note),)


def _by_turn(main: Mapping[str, Any]) -> tuple[Table, ...]:
    groups, spans = mapping(main.get("by_category_and_turn")), mapping(main.get("intervals"))
    means = mapping(main.get("by_category"))
    cells = [
        (
            shown(name),
            _score(means.get(name)),
            _span(spans.get(name)).removeprefix("95 % interval "),
            *(_score(mapping(turns).get(turn)) for turn in _TURNS),
        )
        for name, turns in groups.items()
    ]
    if not cells:
        return ()
    columns = ("category", "score", "95 % interval", "turn 1", "turn 2")
    note = "Intervals draw questions, not judgments: both turns of a question go together."
    return (Table("By category and turn", columns, tuple(cells), note),)


def _canaries(evaluation: Mapping[str, Any]) -> tuple[Table, ...]:
    kinds = mapping(mapping(evaluation.get("trust")).get("kinds"))
    scores = mapping(evaluation.get("canary_scores"))
    outcomes = ("lost", "tied", "rewarded", "unparsed")
    cells = [
        (
            kind,
            ", ".join(_score(one) for one in rows(scores.get(kind))),
            *(f"{whole(mapping(counts).get(name)) or 0}" for name in outcomes),
        )
        for kind, counts in kinds.items()
    ]
    if not cells:
        return ()
    note = (
        "Answers that deserve nothing, put before the judge as they are, without the guards that "
        "a model's answers pass. Rewarded: 6 or more. They are in no score."
    )
    columns = ("answer", "scores", *outcomes)
    return (Table("What the judge gives to worthless answers", columns, tuple(cells), note),)


def _suspicious(main: Mapping[str, Any]) -> tuple[Table, ...]:
    every = records(main.get("flagged_rows"))
    cells = [
        (
            f"{lasting(_plain(one.get('question_id')), 40)}, turn {whole(one.get('turn')) or 0}",
            joined(map(str, rows(one.get("flags")))),
            _score(one.get("score")),
            visible(_plain(one.get("excerpt"))),
        )
        for one in every[:_ROWS]
    ]
    if not cells:
        return ()
    note = "A rule found these; whether it is right, only reading tells. They count as judged."
    if every[_ROWS:]:
        note += f" {len(every) - _ROWS:,} more are in evaluation.json."
    columns = ("question", "why", "score", "what the judge read")
    return (Table("Suspicious answers", columns, tuple(cells), note),)


def _account(evaluation: Mapping[str, Any]) -> Table:
    account = mapping(evaluation.get("account"))
    cells = tuple((name.replace("_", " "), f"{whole(n) or 0:,}") for name, n in account.items())
    note = "Judgments = scored + unparsed + out of range."
    return Table("Nothing left out in silence", ("what", "count"), cells, note)


def _passages(path: Path, categories: Mapping[str, Any]) -> tuple[tuple[Passage, ...], str]:
    try:
        found = read_jsonl(path)
    except DataError:
        return (), ""
    flagged = [row for row in found if rows(row.get("flags"))][:_FLAGGED]
    worst: dict[str, dict[str, Any]] = {}
    for row in sorted(found, key=lambda row: number(row.get("score")) or 0):
        if not rows(row.get("flags")):
            worst.setdefault(str(categories.get(str(row.get("question_id")))), row)
    note = (
        "The answer with the lowest score in each category, judgments without a score before all "
        f"others{f', after the first {_FLAGGED} flagged answers' if flagged else ''}."
    )
    return tuple(_passage(row, categories) for row in (*flagged, *worst.values())), note


def _passage(row: Mapping[str, Any], categories: Mapping[str, Any]) -> Passage:
    score = number(row.get("score"))
    given = "no score" if score is None or score < 0 else f"score {score:g}"
    question = str(row.get("question_id"))
    category = f" ({shown(str(categories[question]))})" if question in categories else ""
    return Passage(
        title=f"Question {question}{category}, turn {row.get('turn')}: {given}",
        parts=(
            ("What the judge read", _plain(row.get("user_prompt"))),
            ("The judge", _plain(row.get("judgment"))),
        ),
        tags=tuple(f"flagged: {flag}" for flag in rows(row.get("flags"))),
    )


def _score(value: object) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.2f}"


def _span(value: object) -> str:
    one = mapping(value)
    low, high = number(one.get("low")), number(one.get("high"))
    if low is None or high is None:
        return "too few questions for an interval" if one else ""
    return f"95 % interval {low:.2f} to {high:.2f}".replace("-", "−")


def _plain(value: object) -> str:
    return "" if value is None else str(value)
