"""Pages and their figures become files: of runs, audits, evaluations, comparisons and tunings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.errors import ConfigError
from orpo.runs.files import EVALUATION, RECIPE, REPORT, read_run
from orpo.runs.reading import read_object
from orpo.runs.writing import explained, refuse_links, write_bytes, write_named, write_text

if TYPE_CHECKING:
    from orpo.audit.findings import Audit
    from orpo.report.page import Figure, Page

FIGURES = "figures"


def write_report(
    folder: str | Path, output: Path | None = None, figures: Path | None = None
) -> Path:
    """Write the report of a run: one HTML file that needs nothing beside itself.

    A run that is still going on has a report too: it says so. The same folder gives the same page,
    byte for byte. That of an evaluation or a comparison is drawn again from what stands in it.

    Args:
        folder: The `output_dir` of `orpo train`, `orpo evaluate`, `orpo compare` or `orpo tune`.
        output: The file to write; `report.html` in the folder if absent.
        figures: Where the figures go as NAME.svg and NAME.png; if absent, nowhere for a run, and
            `figures/` beside its page for an evaluation that is drawn again.

    Returns:
        The HTML file written.

    Raises:
        DataError: It is no such folder, or one of its files is broken.
        ConfigError: `output` is a folder, or `figures` is a file.
    """
    folder = Path(folder)
    if _is_evaluation(folder):
        from orpo.report.kinds import read_page  # noqa: PLC0415 - matplotlib loads in seconds

        return _write(read_page(folder), folder, output, figures)
    from orpo.report.run import run_page  # noqa: PLC0415

    run = read_run(folder)
    page = run_page(run)
    path = run.path / REPORT if output is None else Path(output)
    written = _write_html(path, page, named=output is not None)
    if figures is not None:
        _save(page.figures, figures)
    return written


def write_audit_page(audit: Audit, path: Path) -> Path:
    """Write the page of a data audit; what the audit does not know is left out."""
    from orpo.report.audit import audit_page  # noqa: PLC0415 - matplotlib loads in seconds

    return _write_html(Path(path), audit_page(audit), named=True)


def write_result_page(result: Any, folder: Path) -> Path:
    """Write the page of what an evaluation, a comparison or a tuning found, and its figures.

    The page is `report.html` in the folder; the figures are `figures/NAME.svg` and `NAME.png`.
    """
    from orpo.report.kinds import page_of  # noqa: PLC0415 - matplotlib loads in seconds

    return write_page(page_of(result, folder), folder)


def write_page(page: Page, folder: Path) -> Path:
    """Write a page and its figures into a folder, which is made if it is not there."""
    return _write(page, folder, None, None)


def _is_evaluation(folder: Path) -> bool:
    """Whether a folder is that of an evaluation, a comparison or a tuning, not of a run."""
    if not (folder / EVALUATION).is_file():
        return False
    # A tuning recommends a recipe; a run's own evaluation is of no kind.
    return not (folder / RECIPE).is_file() or "kind" in read_object(folder / EVALUATION)


def _write(page: Page, folder: Path, output: Path | None, figures: Path | None) -> Path:
    path = folder / REPORT if output is None else Path(output)
    written = _write_html(path, page, named=output is not None)
    if output is None and figures is None:
        refuse_links(folder, [FIGURES])
        _save(page.figures, folder / FIGURES)
    elif figures is not None:
        _save(page.figures, figures)
    return written


def _save(figures: Sequence[Figure], folder: Path) -> None:
    """Each figure as NAME.svg and NAME.png: light colours on white."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is a file, not a folder", where=str(folder), fix="Name a folder.")
    with explained(folder, "Name a folder that can be written to."):
        folder.mkdir(parents=True, exist_ok=True)
        for one in figures:
            write_text(folder / f"{one.name}.svg", one.svg)
            write_bytes(folder / f"{one.name}.png", one.png)


def _write_html(path: Path, page: Page, *, named: bool) -> Path:
    """Where the user has named the file, or into a folder that may be a stranger's."""
    from orpo.report.page import render  # noqa: PLC0415 - loads jinja

    text = render(page)
    with explained(path, "Give the name of an HTML file in a folder that can be written to."):
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_named if named else write_text)(path, text)
    return path
