"""Verdicts of another tool as judged pairs, and whether they compare with published figures."""

from __future__ import annotations

from orpo.evaluate.alpaca import Annotations, Baseline
from orpo.evaluate.alpaca.annotations import OFFICIAL_ANNOTATOR, OFFICIAL_BASELINE
from orpo.evaluate.judge import suspicions
from orpo.evaluate.win_rates import JudgedPair, counted

__all__ = ["annotated_pairs", "why_not_comparable"]

_INSTRUCTIONS = 805


def annotated_pairs(given: Annotations, evaluation_set: Baseline | None) -> list[JudgedPair]:
    """Each annotation as a judged pair; an answer with a flag is not rewarded.

    Args:
        given: What the file holds; without the answers' texts nothing is flagged.
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
        judged = None if value is None else (0.5 if value == 0 else value - 1)
        flags = (against_first[place], against_second[place])
        pairs.append(
            JudgedPair(
                index=index,
                prompt=given.instructions[place],
                baseline=first[place],
                answer=second[place],
                lengths=(given.len_output_1[place], given.len_output_2[place]),
                preference=counted(judged, *flags),
                as_judged=judged,
                flags=flags,
                category=datasets[index] if 0 <= index < len(datasets) else "",
            )
        )
    return pairs


def _flags(
    answers: tuple[str, ...], prompts: tuple[str, ...], *, known: bool
) -> list[tuple[str, ...]]:
    return suspicions(answers, prompts) if known else [() for _ in answers]


def why_not_comparable(given: Annotations) -> str:
    """Why a win rate does not compare with the published leaderboard; nothing if it does."""
    if given.annotator != OFFICIAL_ANNOTATOR:
        who = given.annotator or "a judge that the file does not name"
        return f"The verdicts are by {who}; published figures are by {OFFICIAL_ANNOTATOR}."
    if given.baseline != OFFICIAL_BASELINE:
        return f"The baseline is {given.baseline or 'not named'}, not {OFFICIAL_BASELINE}."
    if len(given.index) != _INSTRUCTIONS:
        return f"There are {len(given.index)} verdicts, not {_INSTRUCTIONS}."
    return ""
