"""Pictures and pages, read from run folders and from the JSON of audits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.errors import ConfigError
from orpo.runs import REPORT, explained, read_run, refuse_links, write_named, write_text

if TYPE_CHECKING:
    from orpo.report.evaluation import Page
    from orpo.report.evaluation.page import Drawing

__all__ = ["write_audit_page", "write_evaluation_page", "write_report"]


def write_report(
    folder: str | Path, output: Path | None = None, figures: Path | None = None
) -> Path:
    """Write the report of a run: one HTML file that needs nothing beside itself.

    A run that is still going on, or that logged nothing yet, has a report too: it says so. The
    same run folder gives the same page, byte for byte. The folder of an evaluation or a comparison
    has its page drawn again from what stands in it.

    Args:
        folder: A run folder, the `output_dir` of `orpo train`; or that of `orpo evaluate` or
            `orpo compare`.
        output: The file to write; `report.html` in the folder if absent.
        figures: Where the figures go as NAME.svg and NAME.png; if absent, nowhere for a run, and
            `figures/` beside its page for an evaluation that is drawn again.

    Returns:
        The HTML file written.

    Raises:
        DataError: It is no such folder, or one of its files is broken.
        ConfigError: `output` is a folder, or `figures` is a file.
    """
    from orpo.report.evaluation.redraw import is_evaluation, page_of  # noqa: PLC0415

    if is_evaluation(Path(folder)):
        return _write_page(page_of(Path(folder)), Path(folder), output, figures)
    from orpo.report.page import render_page  # noqa: PLC0415 - matplotlib loads in seconds
    from orpo.report.run_figures import run_figures  # noqa: PLC0415

    run = read_run(folder)
    path = run.path / REPORT if output is None else Path(output)
    written = _written(path, render_page(run), named=output is not None)
    if figures is not None:
        _save(run_figures(run), figures)
    return written


def write_audit_page(audit: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a data audit: one HTML file that needs nothing beside itself.

    What the audit does not know (tokens where no model was named, leakage where there was no
    evaluation data) is left out. The same audit gives the same page, byte for byte.

    Args:
        audit: What `orpo.audit.Audit.as_dict` gives, or what was read from its JSON.
        path: The file to write.

    Returns:
        The file written.

    Raises:
        ConfigError: `path` is a folder.
    """
    from orpo.report.audit.page import render_audit  # noqa: PLC0415 - matplotlib loads in seconds

    return _written(Path(path), render_audit(audit), named=True)


def write_evaluation_page(page: Page, folder: Path) -> Path:
    """Write the page of an evaluation or a comparison, and its figures as files.

    The page is one HTML file that needs nothing beside itself; each of its figures also stands in
    `figures/` as NAME.svg and NAME.png. The same page gives the same HTML and SVG, byte for byte.

    Args:
        page: What it shows.
        folder: Where `report.html` and `figures/` go; made if it is not there.

    Returns:
        The HTML file.

    Raises:
        ConfigError: `report.html` is a folder there.
    """
    return _write_page(page, Path(folder), None, None)


def _write_page(page: Page, folder: Path, output: Path | None, figures: Path | None) -> Path:
    from orpo.report.evaluation.page import (  # noqa: PLC0415 - matplotlib loads in seconds
        FIGURES,
        draw_figures,
        render_evaluation,
    )

    drawings = draw_figures(page.figures)
    path = folder / REPORT if output is None else Path(output)
    written = _written(path, render_evaluation(page, drawings), named=output is not None)
    if output is None and figures is None:
        refuse_links(folder, [FIGURES])
        _save(drawings, folder / FIGURES)
    elif figures is not None:
        _save(drawings, figures)
    return written


def _save(drawings: list[Drawing], folder: Path) -> None:
    from orpo.report.evaluation.page import save_figures  # noqa: PLC0415

    if folder.exists() and not folder.is_dir():
        raise ConfigError("is a file, not a folder", where=str(folder), fix="Name a folder.")
    with explained(folder, "Name a folder that can be written to."):
        save_figures(drawings, folder)


def _written(path: Path, page: str, *, named: bool) -> Path:
    """Write the page: where the user has named it, or into a folder that may be a stranger's."""
    with explained(path, "Give the name of an HTML file in a folder that can be written to."):
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_named if named else write_text)(path, page)
    return path
