"""`orpo report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.commands.console import open_page, say
from orpo.options import argument, option
from orpo.runs.files import require_folder

EXAMPLES = """\
examples:
  orpo report run
  orpo report run --output page.html
  orpo report run --figures pictures
  orpo report orpo-eval-mt-bench"""


@dataclass(frozen=True)
class Options:
    """A folder, and where the page and its pictures go."""

    run: str = argument(
        "RUN", help="the output_dir of `orpo train`, `orpo evaluate` or `orpo compare`"
    )
    output: Path | None = option(None, help="HTML file; default RUN/report.html")
    open: bool = option(False, help="open it in the browser")
    figures: Path | None = option(
        None,
        metavar="DIR",
        help="write the pictures there as SVG and PNG; default none for a run, RUN/figures for an "
        "evaluation or a comparison",
    )


def run(options: Options) -> dict[str, Any]:
    """Draw the page."""
    require_folder(options.run)
    from orpo.report.write import write_report  # noqa: PLC0415 - matplotlib loads in seconds

    page = write_report(options.run, options.output, options.figures)
    say(f"report: {page}")
    if options.open:
        open_page(page)
    if options.figures is None:
        return {"report": str(page)}
    say(f"figures: {options.figures}")
    return {"report": str(page), "figures": str(options.figures)}
