"""AlpacaEval 2: the official files, answers in the official format, verdicts, the leaderboard."""

from orpo.evaluate.alpaca.annotations import Annotations, read_annotations
from orpo.evaluate.alpaca.data import Baseline, Benchmark, read_benchmark
from orpo.evaluate.alpaca.leaderboard import Entry, neighbours
from orpo.evaluate.alpaca.outputs import OUTPUTS, questions_of, read_outputs, write_outputs

__all__ = [
    "OUTPUTS",
    "Annotations",
    "Baseline",
    "Benchmark",
    "Entry",
    "neighbours",
    "questions_of",
    "read_annotations",
    "read_benchmark",
    "read_outputs",
    "write_outputs",
]
