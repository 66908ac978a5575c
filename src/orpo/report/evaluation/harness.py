"""The page of benchmarks through lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.report.evaluation.types import Headline, Page, Table
from orpo.report.values import as_number, mapping, number, records, sentence, whole

__all__ = ["build_page", "columns_and_rows"]

_MOST = 8


def build_page(evaluation: Mapping[str, Any], folder: Path) -> Page:
    """The page of what `orpo evaluate harness` found.

    Args:
        evaluation: What stands in evaluation.json.
        folder: Where that is; named in messages.

    Raises:
        DataError: The evaluation is not finished.
    """
    scores = records(mapping(evaluation.get("results")).get("after"))
    if not scores:
        raise DataError(
            "the evaluation is not finished", where=str(folder), fix="Run the same command again."
        )
    settings = mapping(evaluation.get("settings"))
    columns, rows = columns_and_rows(evaluation)
    note = "± is the harness's standard error; intervals are of 95 %."
    if settings.get("baseline"):
        note += (
            " Changes are taken question by question; where a metric is no mean over questions, "
            "there is no interval and nothing is decided."
        )
    return Page(
        kicker="Benchmarks",
        title=str(settings.get("model", "a model")).rstrip("/").rsplit("/", 1)[-1],
        verdict=_verdict(evaluation),
        remarks=tuple(_remarks(evaluation)),
        headlines=tuple(_headlines(evaluation)),
        facts=tuple(_facts(evaluation)),
        tables=(Table("By task", tuple(columns), tuple(tuple(row) for row in rows), note),),
        settings=tuple((name, str(value)) for name, value in settings.items()),
    )


def columns_and_rows(evaluation: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of all scores, as shown: before, after and the change if there is a baseline.

    Args:
        evaluation: What stands in evaluation.json.
    """
    results = mapping(evaluation.get("results"))
    compared = {_name(row): row for row in records(results.get("changes"))}
    columns = ["task and metric", "questions"]
    columns += (
        ["before", "after", "change", "95 % interval"] if compared else ["value", "95 % interval"]
    )
    befores = {_name(row): row for row in records(results.get("before"))}
    rows = []
    for row in records(results.get("after")):
        change = compared.get(_name(row))
        shown = [f"{row.get('task')}: {_metric(row)}", f"{whole(row.get('n')) or 0:,}"]
        if compared:
            shown += [_score(befores.get(_name(row))), _score(row)]
            shown += [_signed(mapping(change).get("value")), _range(mapping(change))]
        else:
            shown += [_score(row), _range(row)]
        rows.append(shown)
    return columns, rows


def _verdict(evaluation: Mapping[str, Any]) -> str:
    """One sentence: how many metrics changed beyond what chance explains."""
    changed = records(mapping(evaluation.get("results")).get("changes"))
    scores = records(mapping(evaluation.get("results")).get("after"))
    if not changed:
        tasks = len({row.get("task") for row in scores})
        return f"{_many(len(scores), 'score')} on {_many(tasks, 'task')}; nothing to compare with."
    words = ("better", "worse", "no difference seen", "undecided")
    counts = {word: sum(row.get("verdict") == word for row in changed) for word in words}
    told = [f"{count} {word}" for word, count in counts.items() if count]
    return sentence(f"Of {_many(len(changed), 'score')}, against the baseline: {', '.join(told)}")


def _remarks(evaluation: Mapping[str, Any]) -> list[str]:
    notes = evaluation.get("notes")
    said = [sentence(f"The harness says: {note}") for note in notes or [] if isinstance(note, str)]
    account = mapping(evaluation.get("account"))
    cut = [
        name
        for name, one in account.items()
        if mapping(one).get("asked") != mapping(one).get("questions")
    ]
    if cut:
        said.insert(0, f"Not all questions were asked of: {', '.join(map(str, cut))}.")
    return said[:_MOST]


def _headlines(evaluation: Mapping[str, Any]) -> list[Headline]:
    results = mapping(evaluation.get("results"))
    asked = mapping(evaluation.get("settings")).get("tasks")
    tasks = set(asked) if isinstance(asked, list) else set()
    compared = {_name(row): row for row in records(results.get("changes"))}
    rows = [row for row in records(results.get("after")) if row.get("task") in tasks]
    return [
        Headline(
            f"{row.get('task')}: {_metric(row)}",
            as_number(number(row.get("value"))),
            f"95 % interval {_range(row)}" if number(row.get("low")) is not None else "",
            _tone(mapping(compared.get(_name(row))).get("verdict")),
        )
        for row in rows[:_MOST]
    ]


def _facts(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings = mapping(evaluation.get("settings"))
    account = mapping(evaluation.get("account"))
    facts = [
        ("Model", str(settings.get("model", ""))),
        ("Compared with", str(settings.get("baseline") or "–")),
    ]
    for name, one in account.items():
        asked, there = (whole(mapping(one).get(key)) or 0 for key in ("asked", "questions"))
        facts.append((f"Questions of {name}", f"{asked:,} asked of {there:,}"))
    found = mapping(evaluation.get("versions"))
    facts.append(("Versions", ", ".join(f"{name} {value}" for name, value in found.items())))
    return facts


def _name(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row.get("task")), str(row.get("metric")), str(row.get("filter"))


def _metric(row: Mapping[str, Any]) -> str:
    filtered = str(row.get("filter", "none"))
    return str(row.get("metric", "")) + ("" if filtered == "none" else f" ({filtered})")


def _score(row: Mapping[str, Any] | None) -> str:
    found = mapping(row)
    error = number(found.get("stderr"))
    value = as_number(number(found.get("value")))
    return value if error is None else f"{value} ± {as_number(error)}"


def _range(row: Mapping[str, Any]) -> str:
    low, high = number(row.get("low")), number(row.get("high"))
    return "–" if low is None or high is None else f"{as_number(low)} to {as_number(high)}"


def _signed(value: object) -> str:
    found = number(value)
    return "–" if found is None else f"{'+' if found > 0 else ''}{as_number(found)}"


def _tone(verdict: object) -> str:
    return str(verdict) if verdict in {"better", "worse"} else ""


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
