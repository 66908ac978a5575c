"""Before and after: held-out pairs scored and held-out prompts answered by both models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from orpo.data.types import Row
from orpo.evaluate import Grade, Sampling, generate_answers, grade_summary, preference_summary
from orpo.evaluate.preference.measures import compare, measure
from orpo.evaluate.preference.pairs import (
    ScoredPairs,
    recall_scores,
    row_facts,
    score_pairs,
    write_scores,
)
from orpo.runs.files import AUDIT, EVALUATION, RECIPE, SAMPLES, read_run, write_json, write_jsonl
from orpo.runs.typed import plain
from orpo.train.trainer import ORPOTrainer
from orpo.train.wrappers import scoring

__all__ = ["Evidence", "Grader", "Say"]

Say: TypeAlias = Callable[[str], None]
Grader: TypeAlias = Callable[[Row, str], Grade]
"""Checks an answer to the prompt of a held-out row."""


class Evidence:
    """Writes evaluation.json, scores.jsonl and samples.jsonl, before and after training."""

    def __init__(
        self,
        trainer: ORPOTrainer,
        held_out: Iterable[Row],
        count: int,
        sampling: Sampling,
        grade: Grader | None = None,
    ) -> None:
        self.trainer, self.sampling, self.grade = trainer, sampling, grade
        self.folder = Path(trainer.args.output_dir)
        self.held_out = trainer.eval_dataset is not None
        self.rows = {row.index: row for row in held_out} if grade else {}
        args = trainer.args
        self.facts = row_facts(self.rows.values() or held_out, args.format_name, args.pair_rule)
        source = trainer.eval_dataset if self.held_out else trainer.train_dataset
        self.pairs = source.select(range(min(count, len(source))))
        self.audit: dict[str, Any] = {}
        self.evaluation: dict[str, dict[str, Any]] = {}
        self.scores: dict[str, ScoredPairs] = {}
        self.samples: list[dict[str, Any]] = []

    def recall(self) -> None:
        """Take up what a resumed run found before training; what comes after is found anew."""
        if not (self.folder / RECIPE).is_file():
            return
        run = read_run(self.folder)
        self.evaluation = {m: found for m, found in run.evaluation.items() if m != "after"}
        self.samples = [
            {name: value for name, value in sample.items() if not name.endswith("after")}
            for sample in run.samples
        ]
        if self.held_out and "before" in self.evaluation:
            found = recall_scores(self.folder, "before", self.facts, self.trainer.eval_dataset)
            self.scores = {} if found is None else {"before": found}
        if len(self.samples) != len(self.pairs):  # another number was asked for
            self.samples = []

    def recorded(self) -> bool:
        """Whether the folder holds what comes before and after training; takes it up if so."""
        if not (self.folder / RECIPE).is_file():
            return False
        run = read_run(self.folder)
        scored = not self.held_out or {"before", "after"} <= run.evaluation.keys()
        answered = len(run.samples) == len(self.pairs) and all(
            {"before", "after"} <= sample.keys() for sample in run.samples
        )
        if scored and answered:
            self.evaluation, self.samples = run.evaluation, run.samples
        return scored and answered

    def collect(self, moment: str, say: Say) -> None:
        """Score and answer.

        Args:
            moment: "before" or "after"; a moment that is already on record is left as it is.
            say: Told what happens.
        """
        if not self.samples:
            self.samples = [self._prompt(pair) for pair in self.pairs]
        with scoring(self.trainer):
            found = self._look(moment, say)
        # What stands there is kept until there is better: the run may yet be refused.
        due = found or moment == "after" or not (self.folder / EVALUATION).exists()
        if due and self.trainer.is_world_process_zero():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / AUDIT, self.audit)
            write_json(self.folder / EVALUATION, self.evaluation)
            write_jsonl(self.folder / SAMPLES, self.samples)
            write_scores(self.folder, self.scores)

    def _look(self, moment: str, say: Say) -> bool:
        """Whether there was anything to find out."""
        found = False
        if self.held_out and moment not in self.evaluation:
            say(f"scoring {len(self.trainer.eval_dataset)} held-out pairs {moment} training")
            self._score(moment)
            found = True
        if self.samples and moment not in self.samples[0]:
            say(f"answering {len(self.samples)} prompts {moment} training")
            self._answer(moment)
            found = True
        return found

    def _score(self, moment: str) -> None:
        metrics, pairs = score_pairs(self.trainer, self.facts)
        summary = preference_summary(metrics, len(self.trainer.eval_dataset))
        found = measure(pairs)
        if moment == "after" and "before" in self.scores:
            found = compare(found, self.scores["before"], pairs)
        self.evaluation[moment] = {**summary, **plain(found)}
        self.scores[moment] = pairs

    def _prompt(self, pair: dict[str, Any]) -> dict[str, Any]:
        decode = self.trainer.processing_class.decode
        return {
            "prompt": decode(pair["prompt_ids"], skip_special_tokens=True).strip(),
            "chosen": decode(pair["chosen_ids"], skip_special_tokens=True).strip(),
            "held_out": self.held_out,
        }

    def _answer(self, moment: str) -> None:
        answers = generate_answers(
            self.trainer.model,
            self.trainer.processing_class,
            [pair["prompt_ids"] for pair in self.pairs],
            self.sampling,
        )
        for sample, answer in zip(self.samples, answers, strict=True):
            sample[moment] = answer
        if self.grade is None or not self.held_out:
            return
        grades = [
            self.grade(self.rows[pair["row"]], answer)
            for pair, answer in zip(self.pairs, answers, strict=True)
        ]
        for sample, grade in zip(self.samples, grades, strict=True):
            word = {f"correct_{moment}": grade.correct, f"reason_{moment}": grade.reason}
            sample.update({**word, **grade.groups})
        self.evaluation[moment] |= grade_summary(grades)
