"""Evidence: answers, metrics and verdicts on held-out prompts.

The public names are loaded when they are first used: a setting is read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orpo.lazy import loader

if TYPE_CHECKING:
    from orpo.evaluate.generation import (
        encode_prompt,
        generate_answers,
        generation_config,
        stop_ids,
    )
    from orpo.evaluate.grading import Grade, grade_summary
    from orpo.evaluate.judge.pairwise import Comparison, compare_pairs
    from orpo.evaluate.loading import Answerer, is_adapter, load_answerer
    from orpo.evaluate.mt_bench.fastchat import parse_rating, read_judgments
    from orpo.evaluate.mt_bench.scores import mt_bench_scores
    from orpo.evaluate.preference.measures import preference_summary
    from orpo.evaluate.results import Scores, WinRate
    from orpo.evaluate.settings import JudgeSettings, Sampling
    from orpo.evaluate.win_rates.rates import length_controlled_win_rate, win_rate

_NAMES = {
    "generation": ("encode_prompt", "generate_answers", "generation_config", "stop_ids"),
    "grading": ("Grade", "grade_summary"),
    "judge": ("Comparison", "compare_pairs"),
    "loading": ("Answerer", "is_adapter", "load_answerer"),
    "mt_bench.fastchat": ("parse_rating", "read_judgments"),
    "mt_bench.scores": ("mt_bench_scores",),
    "preference.measures": ("preference_summary",),
    "settings": ("JudgeSettings", "Sampling"),
    "results": ("Scores", "WinRate"),
    "win_rates.rates": ("length_controlled_win_rate", "win_rate"),
}
_HOMES = {name: f"orpo.evaluate.{home}" for home, names in _NAMES.items() for name in names}


__all__ = [
    "Answerer",
    "Comparison",
    "Grade",
    "JudgeSettings",
    "Sampling",
    "Scores",
    "WinRate",
    "compare_pairs",
    "encode_prompt",
    "generate_answers",
    "generation_config",
    "grade_summary",
    "is_adapter",
    "length_controlled_win_rate",
    "load_answerer",
    "mt_bench_scores",
    "parse_rating",
    "preference_summary",
    "read_judgments",
    "stop_ids",
    "win_rate",
]

__getattr__ = loader(__name__, _HOMES)
