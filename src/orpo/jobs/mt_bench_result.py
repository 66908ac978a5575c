"""What an MT-Bench evaluation comes to: its own scores, those of other models, the account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate.mt_bench import (
    Benchmark,
    Judgment,
    category_of,
    mt_bench_scores,
    paired_difference,
    read_judgments,
)

__all__ = ["Graded", "evaluation", "read_also"]


@dataclass(frozen=True)
class Graded:
    """Judgments of a model, and what is known about how they came about.

    Attributes:
        judgments: One for each turn of each answer.
        others: Of other models in the same file.
        benchmark: What was asked, if it is known.
        facts: Goes into evaluation.json: who judged, what canaries got, what it cost.
        account: What became of how many.
    """

    judgments: list[Judgment]
    others: list[Judgment]
    benchmark: Benchmark | None
    facts: dict[str, Any]
    account: dict[str, int]


def evaluation(
    model: str, graded: Graded, also: Sequence[tuple[str, list[Judgment]]]
) -> dict[str, Any]:
    """What stands in evaluation.json, less settings and versions.

    Args:
        model: What the model is called.
        graded: Its judgments.
        also: (file, judgments of other models).
    """
    models = {model: graded.judgments}
    for file, judgments in [("", graded.others), *also]:
        for name in dict.fromkeys(one.model for one in judgments):
            rows = [one for one in judgments if one.model == name]
            _put(models, name, Path(file.partition("=")[0]).stem, rows)
    categories = graded.benchmark.categories if graded.benchmark else None
    scores = {
        label: mt_bench_scores([replace(one, model=label) for one in rows], categories)[label]
        for label, rows in models.items()
    }
    main = scores[model]
    differences = {  # scores by different judges are on different scales
        label: found.as_dict()
        for label, rows in models.items()
        if label != model
        and scores[label].judges == main.judges
        and (found := paired_difference(graded.judgments, rows))
    }
    return {
        "kind": "mt-bench",
        "model": model,
        "scores": {label: one.as_dict() for label, one in scores.items()},
        "differences": differences,
        "paper": dict(graded.benchmark.paper) if graded.benchmark else {},
        "account": {
            **graded.account,
            "judgments": main.rows,
            "scored": main.n,
            "unparsed": main.unparsed,
            "out_of_range": main.out_of_range,
            "judged_again": main.judged_again,
            "flagged_answers": main.flagged_answers,
        },
        "categories": {
            str(one.question_id): category_of(one.question_id, categories)
            for one in graded.judgments
        },
        **graded.facts,
        "data": dict(graded.benchmark.sources) if graded.benchmark else {},
    }


def _put(models: dict[str, list[Judgment]], model: str, file: str, rows: list[Judgment]) -> None:
    """Under its own name; where that is taken, by other judgments, with the file's behind it."""
    if rows in models.values():
        return
    label, number = model, 1
    while label in models:
        label = f"{model} ({file})" if number == 1 else f"{model} ({file}, {number})"
        number += 1
    models[label] = rows


def read_also(given: str) -> list[Judgment]:
    """Judgments of other models.

    Args:
        given: FILE, or FILE=NAME,NAME for some of its models.

    Raises:
        DataError: The file is none of judgments, or has none of a model.
    """
    path, _, names = given.partition("=") if not Path(given).exists() else (given, "", "")
    found = read_judgments(path)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if all(one.model != name for one in found):
            known = ", ".join(dict.fromkeys(one.model for one in found))
            raise DataError(f"no judgment of a model {name!r}", where=path, fix=f"It has: {known}.")
    return [one for one in found if not wanted or one.model in wanted]
