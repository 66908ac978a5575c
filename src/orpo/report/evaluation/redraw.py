"""A page drawn again from the folder of an evaluation or a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from orpo.errors import DataError
from orpo.report.evaluation.types import Page
from orpo.runs import EVALUATION, RECIPE, read_object

__all__ = ["BUILDERS", "Builder", "is_evaluation", "page_of", "read_evaluation"]

Builder: TypeAlias = Callable[[Mapping[str, Any], Path], Page]
"""Makes a page of what stands in evaluation.json; may read answers and judgments in the folder."""

BUILDERS = {
    "preference": "preference",
    "win-rate": "win_rate",
    "alpaca": "alpaca",
    "mt-bench": "mt_bench",
    "harness": "harness",
    "comparison": "comparison",
    "tuning": "tuning",
}
"""Kind -> the module of `orpo.report.evaluation` whose `build_page` makes its page."""


def is_evaluation(folder: Path) -> bool:
    """Whether a folder is that of an evaluation, a comparison or a tuning, not of a run."""
    if not (folder / EVALUATION).is_file():
        return False
    # A tuning recommends a recipe; a run's own evaluation is of no kind.
    return not (folder / RECIPE).is_file() or "kind" in read_evaluation(folder)


def page_of(folder: Path) -> Page:
    """The page that the folder's evaluation.json asks for.

    Raises:
        DataError: The file is broken, or of a kind that has no page.
    """
    evaluation = read_evaluation(folder)
    kind = evaluation.get("kind")
    module = BUILDERS.get(kind) if isinstance(kind, str) else None
    if module is None:
        raise DataError(
            f"is of kind {kind!r}, for which there is no page",
            where=str(folder / EVALUATION),
            fix=f"Kinds: {', '.join(BUILDERS)}.",
        )
    build: Builder = import_module(f"orpo.report.evaluation.{module}").build_page
    return build(evaluation, folder)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """What stands in the folder's evaluation.json.

    Raises:
        DataError: It is broken.
    """
    return read_object(folder / EVALUATION)
