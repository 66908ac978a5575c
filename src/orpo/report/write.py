"""Pages and their figures become files: of runs, audits, evaluations, comparisons and tunings.

What draws loads matplotlib, which takes seconds, and is imported where a page is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.errors import ConfigError, DataError
from orpo.evaluate.results import KINDS as EVALUATIONS
from orpo.evaluate.results import HarnessChange, HarnessResult, HarnessScore
from orpo.experiments.results import ComparisonResult, TuningResult
from orpo.runs import writing
from orpo.runs.files import EVALUATION, RECIPE, REPORT, read_run
from orpo.runs.reading import read_object
from orpo.runs.typed import typed

if TYPE_CHECKING:
    from orpo.audit.findings import Audit
    from orpo.report.page import Figure, Page

FIGURES = "figures"
_MOST = 8
_VERDICTS = ("better", "worse", "no difference seen", "undecided")

RESULTS: dict[str, type[Any]] = {
    **EVALUATIONS,
    "comparison": ComparisonResult,
    "tuning": TuningResult,
}
"""What stands as `kind` in evaluation.json -> what the file holds."""


def write_report(
    folder: str | Path,
    output: Path | None = None,
    figures: Path | None = None,
    *,
    live: int = 0,
) -> Path:
    """Write the report of a run: one HTML file that needs nothing beside itself.

    A run that is still going on has a report too: it says so. The same folder gives the same page,
    byte for byte. That of an evaluation or a comparison is drawn again from what stands in it.

    Args:
        folder: The `output_dir` of `orpo train`, `orpo evaluate`, `orpo compare` or `orpo tune`.
        output: The file to write; `report.html` in the folder if absent.
        figures: Where the figures go as NAME.svg and NAME.png; if absent, nowhere for a run, and
            `figures/` beside its page for an evaluation that is drawn again.
        live: The steps that a run is to take which is going on: the page says so, with the time,
            and loads itself anew.

    Returns:
        The HTML file written.

    Raises:
        DataError: It is no such folder, or one of its files is broken.
        ConfigError: `output` is a folder, or `figures` is a file.
    """
    folder = Path(folder)
    # A tuning recommends a recipe; a run's own evaluation is of no kind.
    if (folder / EVALUATION).is_file() and (
        not (folder / RECIPE).is_file() or "kind" in read_object(folder / EVALUATION)
    ):
        return write_page(read_page(folder), folder, output, figures)
    run = read_run(folder)
    from orpo.report.run import run_page  # noqa: PLC0415

    page = run_page(run, live)
    written = _write_html(output, run.path, page)
    if figures is not None:
        _save(page.figures, figures)
    return written


def write_audit_page(audit: Audit, path: Path) -> Path:
    """Write the page of a data audit; what the audit does not know is left out."""
    from orpo.report.audit import audit_page  # noqa: PLC0415

    return _write_html(path, Path(), audit_page(audit))


def write_result_page(result: Any, folder: Path) -> Path:
    """Write the page of what an evaluation, a comparison or a tuning found, and its figures."""
    return write_page(page_of(result, folder), folder)


def write_page(
    page: Page, folder: Path, output: Path | None = None, figures: Path | None = None
) -> Path:
    """Write a page and its figures into a folder, or elsewhere."""
    written = _write_html(output, folder, page)
    if output is None and figures is None:
        writing.refuse_links(folder, [FIGURES])
        _save(page.figures, folder / FIGURES)
    elif figures is not None:
        _save(page.figures, figures)
    return written


def _save(figures: Sequence[Figure], folder: Path) -> None:
    """Each figure as NAME.svg and NAME.png: light colours on white."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is a file, not a folder", where=str(folder), fix="Name a folder.")
    with writing.explained(folder, "Name a folder that can be written to."):
        folder.mkdir(parents=True, exist_ok=True)
        for one in figures:
            writing.write_text(folder / f"{one.name}.svg", one.svg)
            writing.write_bytes(folder / f"{one.name}.png", one.png)


def _write_html(output: Path | None, folder: Path, page: Page) -> Path:
    """Where the user has named the file, or into a folder that may be a stranger's."""
    from orpo.report.page import render  # noqa: PLC0415 - loads jinja

    path, write = folder / REPORT, writing.write_text
    if output is not None:
        path, write = Path(output), writing.write_named
    text = render(page)
    with writing.explained(
        path, "Give the name of an HTML file in a folder that can be written to."
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text)
    return path


def page_of(result: Any, folder: Path) -> Page:
    """The page of one of `RESULTS`: its verdict, remarks and headlines are a terminal's, too.

    Judgments may stand beside it in the folder, which is named where it is not finished: a
    DataError.
    """
    from orpo.report import comparison, judged, preference, tuning  # noqa: PLC0415

    pages: dict[str, Callable[[Any], Page]] = {
        "preference": lambda r: preference.preference_page(r, folder),
        "win-rate": judged.win_rate_page,
        "alpaca": judged.alpaca_page,
        "mt-bench": lambda r: judged.mt_bench_page(r, folder),
        "harness": lambda r: harness_page(r, folder),
        "comparison": comparison.comparison_page,
        "tuning": lambda r: tuning.tuning_page(r, folder),
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

    from orpo.report.page import told  # noqa: PLC0415

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
