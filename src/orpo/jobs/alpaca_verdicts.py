"""Verdicts of another tool as judged pairs, and whether they compare with published figures."""

from __future__ import annotations

from collections.abc import Iterator

from orpo.evaluate.alpaca import Annotations, Baseline
from orpo.evaluate.alpaca.annotations import INSTRUCTIONS, OFFICIAL_ANNOTATOR, OFFICIAL_BASELINE
from orpo.evaluate.judge.suspicious import suspicions
from orpo.evaluate.win_rates import JudgedPair

__all__ = ["annotated_pairs", "why_not_comparable"]

_LEFT_OUT = 4
"""Instructions without a verdict that a published result has at most."""


def annotated_pairs(given: Annotations, evaluation_set: Baseline | None) -> list[JudgedPair]:
    """Each annotation as a judged pair, with what is suspicious about both answers.

    Args:
        given: What the file holds; without the answers' texts nothing is suspicious.
        evaluation_set: Knows which data set an instruction comes from.
    """
    nothing = ("",) * len(given.index)
    first, second = given.outputs_1 or nothing, given.outputs_2 or nothing
    known = bool(given.outputs_2)
    against_first = _flags(first, given.instructions, known=known)
    against_second = _flags(second, given.instructions, known=known)
    datasets = evaluation_set.datasets if evaluation_set else ()
    pairs = []
    for place, index in enumerate(given.index):
        value = given.preference[place]
        pairs.append(
            JudgedPair(
                index=index,
                prompt=given.instructions[place],
                baseline=first[place],
                answer=second[place],
                lengths=(given.len_output_1[place], given.len_output_2[place]),
                preference=None if value is None else (0.5 if value == 0 else value - 1),
                flags=(against_first[place], against_second[place]),
                category=datasets[index] if given.placed and index < len(datasets) else "",
            )
        )
    return pairs


def _flags(
    answers: tuple[str, ...], prompts: tuple[str, ...], *, known: bool
) -> list[tuple[str, ...]]:
    return suspicions(answers, prompts) if known else [() for _ in answers]


def why_not_comparable(given: Annotations) -> str:
    """Why a win rate does not compare with the published leaderboard; nothing if it does."""
    return " ".join(_reasons(given))


def _reasons(given: Annotations) -> Iterator[str]:
    if given.annotator != OFFICIAL_ANNOTATOR:
        who = given.annotator or "a judge that the file does not name"
        yield f"The verdicts are by {who}; published figures are by {OFFICIAL_ANNOTATOR}."
    if given.baseline != OFFICIAL_BASELINE:
        yield f"The baseline is {given.baseline or 'not named'}, not {OFFICIAL_BASELINE}."
    missing = given.size - len(given.index)
    if given.size != INSTRUCTIONS:
        yield f"The evaluation set has {given.size} instructions, not {INSTRUCTIONS}."
    if missing:
        yield f"{missing} of {given.size} instructions have no row."
    if not given.placed:
        yield "Which instruction each row is of cannot be told, so there is no length control."
    without = sum(value is None for value in given.preference)
    if without > _LEFT_OUT:
        yield (f"{without} rows have no verdict; published results leave out {_LEFT_OUT} at most.")
