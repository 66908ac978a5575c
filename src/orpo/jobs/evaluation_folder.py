"""The folder of an evaluation: whose it is, and what an earlier one left in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from orpo.runs import claim
from orpo.runs.files import EVALUATION, REPORT
from orpo.runs.writing import refuse_links

ANSWERS, JUDGMENTS = "answers.jsonl", "judgments.jsonl"


def claim_folder(
    folder: Path,
    settings: Mapping[str, Any],
    answers: Sequence[str],
    *,
    overwrite: bool,
    among: Collection[str] | None = None,
) -> None:
    """As `orpo.runs.claim.claim_folder`; answers stay if only the judge is another one."""
    refuse_links(folder, ("judge-cache.jsonl",))  # what judges said stays, whatever is replaced
    claim.claim_folder(
        folder,
        "evaluation",
        (*answers, JUDGMENTS, EVALUATION, REPORT, "figures"),
        settings=settings,
        overwrite=overwrite,
        costly=answers,
        among=among,
    )
