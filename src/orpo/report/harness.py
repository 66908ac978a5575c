"""The page of benchmarks through lm-evaluation-harness."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orpo.errors import DataError
from orpo.evaluate.results import HarnessChange, HarnessResult, HarnessScore
from orpo.report.page import Page, told

_MOST = 8
_VERDICTS = ("better", "worse", "no difference seen", "undecided")


def harness_page(r: HarnessResult, folder: Path) -> Page:
    """The page of what `orpo evaluate harness` found.

    Raises:
        DataError: The evaluation is not finished; names the folder.
    """
    scores, verdicts = r.results.after, [one.verdict for one in r.results.changes]
    if not scores:
        raise DataError(
            "the evaluation is not finished", where=str(folder), fix="Run the same command again."
        )
    page = told(
        "harness",
        lambda _: (),
        r.settings,
        r=r,
        scores=scores,
        changes=verdicts,
        headlines=[one for one in scores if one.task in (r.settings.get("tasks") or ())][:_MOST],
        compared={_name(one): one for one in r.results.changes},
        befores={_name(one): one for one in r.results.before or ()},
        name=_name,
        tasks=len({one.task for one in scores}),
        told=[f"{n} {word}" for word in _VERDICTS if (n := verdicts.count(word))],
        cut=[name for name, one in r.account.items() if one.get("asked") != one.get("questions")],
    )
    return replace(page, remarks=page.remarks[:_MOST])


def _name(one: HarnessScore | HarnessChange) -> tuple[str, str, str]:
    return one.task, one.metric, one.filter
