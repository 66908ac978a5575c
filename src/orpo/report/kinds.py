"""The pages of what evaluations, comparisons and tunings found, by kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate.results import KINDS as EVALUATIONS
from orpo.evaluate.results import HarnessChange, HarnessResult, HarnessScore
from orpo.experiments.results import ComparisonResult, TuningResult
from orpo.report.comparison import comparison_page
from orpo.report.mt_bench import mt_bench_page
from orpo.report.page import Page, told
from orpo.report.preference import preference_page
from orpo.report.tuning import tuning_page
from orpo.report.win_rate import alpaca_page, win_rate_page
from orpo.runs.files import EVALUATION
from orpo.runs.reading import read_object
from orpo.runs.typed import typed

_MOST = 8
_VERDICTS = ("better", "worse", "no difference seen", "undecided")

RESULTS: dict[str, type[Any]] = {
    **EVALUATIONS,
    "comparison": ComparisonResult,
    "tuning": TuningResult,
}
"""What stands as `kind` in evaluation.json -> what the file holds."""


def page_of(result: Any, folder: Path) -> Page:
    """The page of one of `RESULTS`: its verdict, remarks and headlines are a terminal's, too.

    Judgments may stand beside it in the folder, which is named where it is not finished: a
    DataError.
    """
    pages: dict[str, Callable[[Any], Page]] = {
        "preference": lambda r: preference_page(r, folder),
        "win-rate": win_rate_page,
        "alpaca": alpaca_page,
        "mt-bench": lambda r: mt_bench_page(r, folder),
        "harness": lambda r: harness_page(r, folder),
        "comparison": comparison_page,
        "tuning": lambda r: tuning_page(r, folder),
    }
    return pages[result.kind](result)


def read_page(folder: Path) -> Page:
    """The page of what a folder's evaluation.json holds, as any version wrote it.

    A file that is broken, of a kind that has no page, or not finished is a DataError.
    """
    path = folder / EVALUATION
    found = read_object(path)
    kind = found.get("kind")
    if not isinstance(kind, str) or kind not in RESULTS:
        raise DataError(
            f"is of kind {kind!r}, for which there is no page",
            where=str(path),
            fix=f"Kinds: {', '.join(RESULTS)}.",
        )
    return page_of(typed(RESULTS[kind], found, where=str(path)), folder)


def harness_page(r: HarnessResult, folder: Path) -> Page:
    """The page of what `orpo evaluate harness` found. An unfinished one is refused."""
    scores, verdicts = r.results.after, [one.verdict for one in r.results.changes]
    if not scores:
        raise DataError(
            "the evaluation is not finished", where=str(folder), fix="Run the same command again."
        )

    def name(one: HarnessScore | HarnessChange) -> tuple[str, str, str]:
        return one.task, one.metric, one.filter

    page = told(
        "harness",
        lambda _: (),
        r.settings,
        r=r,
        scores=scores,
        changes=verdicts,
        headlines=[one for one in scores if one.task in (r.settings.get("tasks") or ())][:_MOST],
        compared={name(one): one for one in r.results.changes},
        befores={name(one): one for one in r.results.before or ()},
        name=name,
        tasks=len({one.task for one in scores}),
        told=[f"{n} {word}" for word in _VERDICTS if (n := verdicts.count(word))],
        cut=[name for name, one in r.account.items() if one.get("asked") != one.get("questions")],
    )
    return replace(page, remarks=page.remarks[:_MOST])
