"""The page of benchmarks through lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path

from orpo.errors import DataError
from orpo.evaluate.results import HarnessChange, HarnessResult, HarnessScore
from orpo.report.page import Headline, Page, Table, Words
from orpo.report.values import as_number

_MOST = 8
_VERDICTS = ("better", "worse", "no difference seen", "undecided")


def harness_page(r: HarnessResult, folder: Path) -> Page:
    """The page of what `orpo evaluate harness` found.

    Raises:
        DataError: The evaluation is not finished; names the folder.
    """
    scores, changes = r.results.after, r.results.changes
    if not scores:
        raise DataError(
            "the evaluation is not finished", where=str(folder), fix="Run the same command again."
        )
    words = Words(
        "harness",
        r=r,
        scores=scores,
        changes=changes,
        tasks=len({one.task for one in scores}),
        told=[
            f"{n} {word}" for word in _VERDICTS if (n := sum(c.verdict == word for c in changes))
        ],
        cut=[name for name, one in r.account.items() if one.get("asked") != one.get("questions")],
    )
    columns, lines = columns_and_rows(r)
    return Page(
        kicker="Benchmarks",
        title=str(r.settings.get("model", "a model")).rstrip("/").rsplit("/", 1)[-1],
        verdict=words["verdict"],
        remarks=words.all("remarks")[:_MOST],
        headlines=_headlines(r),
        facts=words.pairs("facts"),
        tables=(Table("By task", columns, lines, words["note"]),),
        settings=tuple((name, str(value)) for name, value in r.settings.items()),
    )


def columns_and_rows(r: HarnessResult) -> tuple[list[str], list[list[str]]]:
    """The table of all scores, as shown: before, after and the change if there is a baseline."""
    compared = {_name(one): one for one in r.results.changes}
    befores = {_name(one): one for one in r.results.before or ()}
    columns = ["value", "95 % interval"]
    if compared:
        columns = ["before", "after", "change", "95 % interval"]
    lines = []
    for one in r.results.after:
        shown = [f"{one.task}: {_metric(one)}", f"{one.n:,}"]
        change = compared.get(_name(one))
        if compared:
            shown += [_score(befores.get(_name(one))), _score(one), _signed(change), _range(change)]
        else:
            shown += [_score(one), _range(one)]
        lines.append(shown)
    return ["task and metric", "questions", *columns], lines


def _headlines(r: HarnessResult) -> list[Headline]:
    tones = {_name(one): one.verdict for one in r.results.changes}
    asked = [one for one in r.results.after if one.task in (r.settings.get("tasks") or ())]
    return [
        Headline(
            f"{one.task}: {_metric(one)}",
            as_number(one.value),
            f"95 % interval {_range(one)}" if one.low is not None else "",
            tones.get(_name(one), ""),
        )
        for one in asked[:_MOST]
    ]


def _name(one: HarnessScore | HarnessChange) -> tuple[str, str, str]:
    return one.task, one.metric, one.filter


def _metric(one: HarnessScore) -> str:
    return one.metric + ("" if one.filter == "none" else f" ({one.filter})")


def _score(one: HarnessScore | None) -> str:
    if one is None:
        return "–"
    error = "" if one.stderr is None else f" ± {as_number(one.stderr)}"
    return f"{as_number(one.value)}{error}"


def _range(one: HarnessScore | HarnessChange | None) -> str:
    if one is None or one.low is None or one.high is None:
        return "–"
    return f"{as_number(one.low)} to {as_number(one.high)}"


def _signed(one: HarnessChange | None) -> str:
    return "–" if one is None else f"{'+' if one.value > 0 else ''}{as_number(one.value)}"
