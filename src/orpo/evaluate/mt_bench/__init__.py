"""MT-Bench: 80 two-turn questions, graded 1 to 10, scored by turn and category.

data ─ questions, reference answers and judge prompts, from a folder or fetched
answers ─ at the protocol's temperatures, in FastChat's format
prompts, harmless, grading ─ what the judge reads, and what it says
verdicts ─ the score in a judgment; FastChat's file of judgments
scores ─ by turn, by category, with intervals
"""

from orpo.evaluate.mt_bench.answers import answer_benchmark, read_answers, write_answers
from orpo.evaluate.mt_bench.data import Benchmark, fetch_benchmark, read_benchmark
from orpo.evaluate.mt_bench.grading import Grading, grade_benchmark
from orpo.evaluate.mt_bench.protocol import CATEGORIES, MAX_NEW_TOKENS, category_of
from orpo.evaluate.mt_bench.scores import Scores, mt_bench_scores, paired_difference
from orpo.evaluate.mt_bench.verdicts import (
    Judgment,
    parse_rating,
    read_judgments,
    write_judgments,
)

__all__ = [
    "CATEGORIES",
    "MAX_NEW_TOKENS",
    "Benchmark",
    "Grading",
    "Judgment",
    "Scores",
    "answer_benchmark",
    "category_of",
    "fetch_benchmark",
    "grade_benchmark",
    "mt_bench_scores",
    "paired_difference",
    "parse_rating",
    "read_answers",
    "read_benchmark",
    "read_judgments",
    "write_answers",
    "write_judgments",
]
