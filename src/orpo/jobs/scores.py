"""The log-probabilities of held-out pairs on disk, one line for each pair.

{"row": 3, "prompt": "...", "before": {"chosen": -1.31, "rejected": -1.52}, "after": {...}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orpo.errors import DataError
from orpo.evaluate.preference import RowFacts, ScoredPairs, token_counts
from orpo.runs import SCORES, read_jsonl, write_jsonl

__all__ = ["recall_scores", "write_scores"]


def write_scores(folder: Path, scores: Mapping[str, ScoredPairs]) -> None:
    """Write scores.jsonl; nothing where nothing was scored.

    Args:
        folder: The folder of the run or the evaluation.
        scores: "before" and "after", or one of them.
    """
    lines: dict[int, dict[str, Any]] = {}
    for moment, pairs in scores.items():
        each = zip(pairs.rows.tolist(), pairs.prompts, pairs.chosen, pairs.rejected, strict=True)
        for row, prompt, chosen, rejected in each:
            line = lines.setdefault(row, {"row": row, "prompt": prompt})
            line[moment] = {"chosen": float(chosen), "rejected": float(rejected)}
    if lines:
        write_jsonl(folder / SCORES, [lines[row] for row in sorted(lines)])


def recall_scores(
    folder: Path, moment: str, facts: Mapping[int, RowFacts], dataset: Any
) -> ScoredPairs | None:
    """The scores of a moment; None if there are none, or not of just these pairs.

    Args:
        folder: The folder of the run or the evaluation.
        moment: "before" or "after".
        facts: Row index -> what is known of it.
        dataset: The prepared pairs that were scored.
    """
    lengths = token_counts(dataset)
    try:
        lines = [line for line in read_jsonl(folder / SCORES) if moment in line]
        found = {int(line["row"]): line[moment] for line in lines}
        values = [(float(one["chosen"]), float(one["rejected"])) for one in found.values()]
    except (DataError, KeyError, TypeError, ValueError, OverflowError):
        return None  # damaged: what it would tell is left out
    if not found or not found.keys() <= lengths.keys():
        return None
    rows = list(lengths)
    known = dict(zip(found, values, strict=True))
    nothing = (math.nan, math.nan)
    answers = np.array([known.get(row, nothing) for row in rows], dtype=np.float64)
    return ScoredPairs.of(np.array(rows), (answers[:, 0], answers[:, 1]), facts, lengths)
