"""Evidence: answers, metrics and verdicts on held-out prompts."""

from orpo.evaluate.generation import (
    Sampling,
    encode_prompt,
    generate_answers,
    generation_config,
    stop_ids,
)
from orpo.evaluate.grading import Grade, grade_summary
from orpo.evaluate.judge import (
    Comparison,
    JudgeSettings,
    Single,
    compare_pairs,
    grade_answers,
)
from orpo.evaluate.loading import Answerer, is_adapter, load_answerer
from orpo.evaluate.mt_bench import (
    Scores,
    mt_bench_scores,
    parse_rating,
    read_judgments,
)
from orpo.evaluate.preference import preference_summary
from orpo.evaluate.win_rates import (
    WinRate,
    length_controlled_win_rate,
    win_rate,
    win_rate_from_coefficients,
)

__all__ = [
    "Answerer",
    "Comparison",
    "Grade",
    "JudgeSettings",
    "Sampling",
    "Scores",
    "Single",
    "WinRate",
    "compare_pairs",
    "encode_prompt",
    "generate_answers",
    "generation_config",
    "grade_answers",
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
    "win_rate_from_coefficients",
]
