"""Pictures and pages, read from run folders."""

from __future__ import annotations

from pathlib import Path

from orpo.errors import ConfigError
from orpo.run_folder import REPORT, read_run

__all__ = ["write_report"]


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
    if path.is_dir():
        raise ConfigError(
            "is a folder, not a file", where=str(path), fix="Give the name of an HTML file."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_page(run), encoding="utf-8", newline="\n")
    return path
