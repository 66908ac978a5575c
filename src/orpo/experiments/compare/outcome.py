"""What a model does on held-out pairs: one definition for every method, and for the base model.

The trained model is loaded again and scored by one and the same engine whatever it was trained
with: l(y), the length-averaged log-probability of each answer (eq. 3 of the ORPO paper).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orpo.data import Row
from orpo.evaluate import Grade, Sampling, generate_answers
from orpo.train.trainer import ORPOTrainer

__all__ = ["Grader", "Outcome", "measure_outcomes", "outcome_from"]

Grader = Callable[[Row, str], Grade]
"""Checks an answer to the prompt of a held-out row."""


@dataclass(frozen=True)
class Outcome:
    """A held-out pair, and what a model made of it.

    Attributes:
        row: Index of the pair's row in the held-out data.
        prompt: The prompt as the model saw it, in words.
        chosen_logps: l(chosen answer), per token.
        rejected_logps: l(rejected answer), per token.
        answer: The model's own answer; None if it was not asked.
        correct: The checker's word on it; None without a checker.
        reason: The checker's reason; empty without one.
    """

    row: int
    prompt: str
    chosen_logps: float
    rejected_logps: float
    answer: str | None = None
    correct: bool | None = None
    reason: str = ""

    @property
    def prefers_chosen(self) -> float:
        """1 where the chosen answer is more probable per token, 1/2 for a tie, 0 otherwise."""
        if self.chosen_logps == self.rejected_logps:
            return 0.5
        return float(self.chosen_logps > self.rejected_logps)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def outcome_from(values: Mapping[str, Any]) -> Outcome:
    """Read what `as_dict` gave."""
    return Outcome(**values)


def measure_outcomes(
    trainer: ORPOTrainer,
    held_out: Sequence[Row],
    *,
    answers: int = 0,
    sampling: Sampling | None = None,
    grade: Grader | None = None,
) -> list[Outcome]:
    """Score held-out pairs, and answer some of their prompts.

    Args:
        trainer: Holds the model; its evaluation data are `held_out`, its objective is "orpo".
        held_out: The rows behind them, for the checker.
        answers: How many prompts to answer, from the first one on.
        sampling: How they are answered.
        grade: Checks answers, if they can be checked.

    Returns:
        One for each pair with both answers, in the order of the data.
    """
    pairs = trainer.eval_dataset
    scores = trainer.predict(pairs)
    columns = (scores.label_ids, *scores.predictions)
    found = {int(row): (float(c), float(r)) for row, c, r in zip(*columns, strict=True)}
    kept = [pair for pair in pairs if pair["rejected_ids"]]
    texts = _answers(trainer, kept[:answers], sampling or Sampling())
    rows = {row.index: row for row in held_out}
    outcomes = []
    for number, pair in enumerate(kept):
        answer = texts[number] if number < len(texts) else None
        word = grade(rows[pair["row"]], answer) if grade and answer is not None else None
        outcomes.append(
            Outcome(
                int(pair["row"]),
                trainer.processing_class.decode(
                    pair["prompt_ids"], skip_special_tokens=True
                ).strip(),
                *found[pair["row"]],
                answer,
                word.correct if word else None,
                word.reason if word else "",
            )
        )
    return outcomes


def _answers(
    trainer: ORPOTrainer, pairs: Sequence[Mapping[str, Any]], sampling: Sampling
) -> list[str]:
    if not pairs:
        return []
    prompts = [pair["prompt_ids"] for pair in pairs]
    return generate_answers(trainer.model, trainer.processing_class, prompts, sampling)
