"""The folder of an evaluation in which two models' answers are judged against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.evaluate.judge.pair_result import PairwiseResult
from orpo.evaluate.win_rates import JudgedPair
from orpo.jobs.evaluation_folder import JUDGMENTS
from orpo.runs import EVALUATION, write_json, write_jsonl
from orpo.train.recorder import versions

__all__ = [
    "Answering",
    "about_the_judge",
    "finish",
    "named",
]


@dataclass(frozen=True)
class Answering:
    """Where a model answers.

    Attributes:
        server: Address of an OpenAI-compatible server; transformers on this machine if absent.
        key_env: Environment variable with that server's key.
        dtype: Of the weights.
        trust_remote_code: Allow the model's own code to run.
    """

    server: str | None = None
    key_env: str = "OPENAI_API_KEY"
    dtype: str = "auto"
    trust_remote_code: bool = False


def named(model: str) -> str:
    """What a model is called: the end of its folder, or its id."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def about_the_judge(result: PairwiseResult) -> dict[str, Any]:
    """Who judged, what the judge goes by, what it cost."""
    found = result.as_dict()
    bias = ("consistency", "first_position_wins", "longer_wins", "length_auc")
    return {
        "judge": found["judge"],
        "trust": found["trust"],
        "bias": {name: found[name] for name in bias},
        "verdicts": found["counts"],
        "bounds": found["win_rate_bounds"],
        "cost": found["cost"],
        "remarks": [line for line in found["remarks"] if line != result.suspicion],
    }


def finish(
    folder: Path, evaluation: dict[str, Any], pairs: Sequence[JudgedPair] = ()
) -> dict[str, Any]:
    """Write evaluation.json, the verdicts, the page and its figures.

    Args:
        folder: The evaluation's.
        evaluation: What was found; its `kind` says which page is made of it.
        pairs: One line of `judgments.jsonl` for each.

    Returns:
        What stands in evaluation.json.
    """
    evaluation = {**evaluation, "versions": versions("openai", "scikit-learn")}
    if pairs:
        write_jsonl(folder / JUDGMENTS, [_line(pair) for pair in pairs])
    write_json(folder / EVALUATION, evaluation)
    from orpo.report.write import write_report  # noqa: PLC0415 - pictures take seconds to load

    write_report(folder)
    return evaluation


def _line(pair: JudgedPair) -> dict[str, Any]:
    return {
        "index": pair.index,
        "preference": pair.preference,
        "lengths": list(pair.lengths),
        "flags_baseline": list(pair.flags[0]),
        "flags_model": list(pair.flags[1]),
        "reasons": list(pair.reasons),
    }
