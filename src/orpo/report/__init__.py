"""Pictures and pages, read from run folders and from the JSON of audits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.run_folder import REPORT, read_run

__all__ = ["write_audit_page", "write_report"]


def write_report(folder: str | Path, output: Path | None = None) -> Path:
    """Write the report of a run: one HTML file that needs nothing beside itself.

    A run that is still going on, or that logged nothing yet, has a report too: it says so. The
    same run folder gives the same page, byte for byte.

    Args:
        folder: A run folder, the `output_dir` of `orpo train`.
        output: The file to write; `report.html` in the run folder if absent.

    Returns:
        The file written.

    Raises:
        DataError: It is no run folder, or one of its files is broken.
        ConfigError: `output` is a folder.
    """
    from orpo.report.page import render_page  # noqa: PLC0415 - matplotlib loads in seconds

    run = read_run(folder)
    path = run.path / REPORT if output is None else Path(output)
    return _written(path, render_page(run))


def write_audit_page(audit: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a data audit: one HTML file that needs nothing beside itself.

    What the audit does not know (tokens where no model was named, leakage where there was no
    evaluation data) is left out. The same audit gives the same page, byte for byte.

    Args:
        audit: What `orpo.data.audit.Audit.as_dict` gives, or what was read from its JSON.
        path: The file to write.

    Returns:
        The file written.

    Raises:
        ConfigError: `path` is a folder.
    """
    from orpo.report.audit.page import render_audit  # noqa: PLC0415 - matplotlib loads in seconds

    return _written(Path(path), render_audit(audit))


def _written(path: Path, page: str) -> Path:
    if path.is_dir():
        raise ConfigError(
            "is a folder, not a file", where=str(path), fix="Give the name of an HTML file."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", newline="\n")
    return path
