"""Evidence: answers, metrics and verdicts on held-out prompts.

The public names are loaded when they are first used: a setting is read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orpo.lazy import loader

if TYPE_CHECKING:
    from orpo.evaluate.generation import encode_prompt as encode_prompt
    from orpo.evaluate.generation import generate_answers as generate_answers
    from orpo.evaluate.generation import generation_config as generation_config
    from orpo.evaluate.generation import stop_ids as stop_ids
    from orpo.evaluate.judge.pairwise import Comparison as Comparison
    from orpo.evaluate.judge.pairwise import compare_pairs as compare_pairs
    from orpo.evaluate.loading import Answerer as Answerer
    from orpo.evaluate.loading import is_adapter as is_adapter
    from orpo.evaluate.loading import load_answerer as load_answerer
    from orpo.evaluate.mt_bench import parse_rating as parse_rating
    from orpo.evaluate.mt_bench import read_judgments as read_judgments
    from orpo.evaluate.mt_bench_grading import mt_bench_scores as mt_bench_scores
    from orpo.evaluate.preference.measures import preference_summary as preference_summary
    from orpo.evaluate.questions import Grade as Grade
    from orpo.evaluate.questions import grade_summary as grade_summary
    from orpo.evaluate.results import Scores as Scores
    from orpo.evaluate.results import WinRate as WinRate
    from orpo.evaluate.settings import JudgeSettings as JudgeSettings
    from orpo.evaluate.settings import Sampling as Sampling
    from orpo.evaluate.win_rates import (
        length_controlled_win_rate as length_controlled_win_rate,
    )
    from orpo.evaluate.win_rates import win_rate as win_rate

_HOMES = {
    "generation": ("encode_prompt", "generate_answers", "generation_config", "stop_ids"),
    "questions": ("Grade", "grade_summary"),
    "judge.pairwise": ("Comparison", "compare_pairs"),
    "loading": ("Answerer", "is_adapter", "load_answerer"),
    "mt_bench": ("parse_rating", "read_judgments"),
    "mt_bench_grading": ("mt_bench_scores",),
    "preference.measures": ("preference_summary",),
    "results": ("Scores", "WinRate"),
    "settings": ("JudgeSettings", "Sampling"),
    "win_rates": ("length_controlled_win_rate", "win_rate"),
}
_EACH = {name: f"orpo.evaluate.{home}" for home, names in _HOMES.items() for name in names}
__all__ = list(_EACH)
__getattr__ = loader(__name__, _EACH)
