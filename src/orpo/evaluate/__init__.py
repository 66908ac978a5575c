"""Evidence: answers, metrics and verdicts on held-out prompts."""

from orpo.evaluate.generation import (
    Sampling,
    encode_prompt,
    generate_answers,
    generation_config,
    stop_ids,
)
from orpo.evaluate.grading import Grade, grade_summary
from orpo.evaluate.loading import Answerer, is_adapter, load_answerer
from orpo.evaluate.preference import preference_summary

__all__ = [
    "Answerer",
    "Grade",
    "Sampling",
    "encode_prompt",
    "generate_answers",
    "generation_config",
    "grade_summary",
    "is_adapter",
    "load_answerer",
    "preference_summary",
    "stop_ids",
]
