"""The short runs: one model and one tokenised data set in memory, a fresh copy for each run.

A run computes what `orpo train` computes with the same settings and as many steps: the same
trainer takes the same steps from the same weights. Its held-out evaluations draw no random number
that the training would have drawn.
"""

import copy
import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import EvalPrediction, TrainerCallback

from orpo.config import ORPOConfig
from orpo.errors import ConfigError, TrainingError
from orpo.evaluate import Sampling
from orpo.evaluate.preference.pairs import ScoredPairs, row_facts, token_counts
from orpo.evaluate.questions import Grader
from orpo.experiments.claims import FEWEST_SEEDS, pair_scores
from orpo.experiments.measuring import divided, measure_outcomes
from orpo.experiments.plans import TuneJob
from orpo.experiments.results import Outcome, Values
from orpo.runs.typed import plain
from orpo.train.job import build_trainer
from orpo.train.models import load_model
from orpo.train.same_run import data_fingerprint
from orpo.train.trainer import ORPOTrainer
from orpo.train.weights import weights_digest
from orpo.train.work import StepClock

TESTED = 2 * FEWEST_SEEDS  # runs of the test
_CHOOSING = 0.5
_MOST_CHOOSING = 256
_SPLIT = 240307691
"""Seed of the sides that held-out prompts fall on: the same whatever a study's seed is, and nobody
else's: the same draw that held a prompt out would put it on one and the same side again."""
_PROBE = 6
_HARMLESS = 1e-9
"""A learning rate at which nothing breaks, to see how long a step takes."""
_ANSWERED_AT_ONCE = 64
_QUIET: dict[str, Any] = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
    "push_to_hub": False,
    "hub_model_id": None,
    "report_to": "none",
    "disable_tqdm": True,
}

Report = Callable[[int, float], None]
"""Told the step and the score so far; raises what ends a run that is not worth its end."""


@dataclass(frozen=True)
class Speed:
    """What this machine takes, in seconds."""

    step: float  # one optimizer step
    around: float  # making a trainer, and scoring the pairs that trials are chosen by, once
    testing: float  # scoring the test pairs, and answering their prompts if answers are checked

    def run(self, steps: int) -> float:
        """A whole trial, with two looks on the way."""
        return steps * self.step + 3 * self.around

    def comparison(self, steps: int) -> float:
        """The runs of the test, each tested."""
        return TESTED * (self.run(steps) + self.testing)


class Runs:
    """Trains and measures; `grade` checks answers, `callbacks` makes callbacks for each run."""

    def __init__(
        self,
        job: TuneJob,
        *,
        grade: Grader | None = None,
        callbacks: Callable[[], list[TrainerCallback]] = list,
    ) -> None:
        self.job, self.config, self.grade = job.train, job.config, grade
        self._settings, self._callbacks = job.of_trials(), callbacks
        config = self.config
        rows, held = self.job.split(config)
        if held is None:
            raise ConfigError("held-out pairs are needed", where="--eval_dataset")
        held = list(held)
        test, choosing = divided(held, _CHOOSING, _MOST_CHOOSING, _SPLIT, config)
        self._test_rows = list(test)
        self._tokenizer: Any = None
        self.full_steps = max(config.max_steps, 1)  # of the recipe itself
        self._model = load_model(str(self.job.model), config)
        sides = {"choosing": choosing, "test": test}
        with self._trainer(job.start, 1, config.seed, rows, sides) as first:
            self._tokenizer = first.processing_class
            self._train = first.train_dataset
            self._choosing, self._test = (first.eval_dataset[name] for name in sides)
            first.check_memory()
            # What was decided on the user's behalf, and the account of the data's rows.
            self.notes = [*first.notes, *(a.summary() for a in first.ledgers.values())]
        self.untrained: Any = None  # the pairs that trials are chosen by, before any training
        self._facts = row_facts(choosing, config.format_name, config.pair_rule)
        self._lengths = token_counts(self._choosing)
        self.batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
        if config.max_steps <= 0:
            epochs = float(config.num_train_epochs)
            self.full_steps = math.ceil(epochs * len(self._train) / self.batch)
        data = {"train": self._train, "choosing": self._choosing, "test": self._test}
        self.sizes = {name: len(side) for name, side in data.items()}
        self.digests = {"weights": weights_digest(self._model)}
        self.digests |= {name: data_fingerprint(side) for name, side in data.items()}

    @property
    def prompts(self) -> list[str]:
        """The prompt of each pair that trials are chosen by, as their scores are ordered."""
        pairs = [row for row in sorted(self._lengths) if self._lengths[row][1] > 0]
        return [self._facts[row].prompt if row in self._facts else f"row {row}" for row in pairs]

    def run(
        self, values: Values, steps: int, seed: int, report: Report | None = None
    ) -> ScoredPairs:
        """Train with the whole schedule, look twice on the way if told, and score the pairs."""
        looks = _Looks(steps, report)
        with self._trainer(values, steps, seed, self._train, self._choosing, [looks]) as trainer:
            trainer.compute_metrics = lambda prediction: looks.see(self._scored(prediction))
            trainer.train()
            trainer.evaluate()
        assert looks.pairs is not None
        return looks.pairs

    def test(self, values: Values, steps: int, seed: int) -> list[Outcome]:
        """Train, and put the model to the test that no trial has seen."""
        with self._trainer(values, steps, seed, self._train, self._test) as trainer:
            trainer.train()
            outcomes = self._tested(trainer, self._asked)
        if not all(math.isfinite(o.chosen_logps + o.rejected_logps) for o in outcomes):
            raise TrainingError("held-out pairs have no finite log-probability")
        return outcomes

    def speed(self) -> Speed:
        """Take a few steps, score, answer some prompts, and measure what it takes."""
        clock, looks, config = StepClock(), _Looks(_PROBE, None), self.config
        gentle = Values(_HARMLESS, float(config.orpo_alpha or 0.0))
        few = min(self._asked, len(self._test), _ANSWERED_AT_ONCE)
        begun = time.perf_counter()
        sides = (self._train, self._choosing, [clock])
        with self._trainer(gentle, _PROBE, config.seed, *sides) as trainer:
            trainer.compute_metrics = lambda prediction: looks.see(self._scored(prediction))
            made = time.perf_counter() - begun
            trainer.train()
            begun = time.perf_counter()
            trainer.evaluate()
            scoring = time.perf_counter() - begun
            self.untrained = looks.pairs
            testing = scoring * len(self._test) / len(self._choosing)
            if few:
                trainer.eval_dataset = self._test
                begun = time.perf_counter()
                self._tested(trainer, few)
                answering = max(time.perf_counter() - begun - testing, 0.0)
                testing += answering * min(self._asked, len(self._test)) / few
        return Speed(clock.period(), max(scoring, made), testing)

    @property
    def _asked(self) -> int:
        return self.job.samples if self.grade else 0

    def _tested(self, trainer: ORPOTrainer, answers: int) -> list[Outcome]:
        tokens, seed = self.job.sample_tokens, self.config.seed
        sampling = Sampling(tokens, batch_size=_ANSWERED_AT_ONCE, seed=seed)
        how: dict[str, Any] = {"sampling": sampling, "grade": self.grade}
        return measure_outcomes(trainer, self._test_rows, answers=answers, **how)

    @contextmanager
    def _trainer(
        self,
        values: Values,
        steps: int,
        seed: int,
        rows: Any,
        held_out: Any,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> Iterator[ORPOTrainer]:
        """A trainer of a copy of the model; its memory is given back at the end of the block."""
        settings = {**self._settings, **_QUIET, **plain(values), "max_steps": steps, "seed": seed}
        settings |= {"logging_steps": max(1, steps // 3), "warmup_steps": self._warmup(steps)}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            config = ORPOConfig(**settings, output_dir=scratch)
            config.model_init_kwargs = {}  # they were heeded when the model was loaded
            trainer = build_trainer(
                *(self.job, config, rows, held_out, [*callbacks, *self._callbacks()]),
                model=copy.deepcopy(self._model),
                tokenizer=self._tokenizer,
            )
            # A guard's word on one of many runs: its score says it too.
            trainer.say = lambda _line: None
            try:
                yield trainer
            finally:  # before the next model is copied
                parts: Any = trainer
                parts.model = parts.model_wrapped = parts.optimizer = parts.lr_scheduler = None
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()

    def _warmup(self, steps: int) -> float:
        """Steps of warm-up, or their share: as large a part of a short run as of the recipe."""
        asked = float(self.config.warmup_steps)
        return asked if asked < 1 else round(asked * steps / self.full_steps)

    def _scored(self, prediction: EvalPrediction) -> ScoredPairs:
        answers = prediction.predictions
        found = ScoredPairs.of(prediction.label_ids, answers, self._facts, self._lengths)
        if found.not_finite:
            raise TrainingError(f"{found.not_finite} held-out pairs have no finite log-probability")
        if not len(found):
            raise ConfigError("no held-out pair has both answers", where="--eval_dataset")
        return found


class _Looks(TrainerCallback):
    """Scores at half and at three quarters of the steps, and at the end.

    Not earlier: a high learning rate looks worse than it will be until its schedule has come down.
    """

    def __init__(self, steps: int, report: Report | None) -> None:
        self._report = report
        self._at = {steps // 2, 3 * steps // 4} - {0} if report and steps >= 4 else set()
        self.pairs: ScoredPairs | None = None

    def see(self, pairs: ScoredPairs) -> dict[str, float]:
        """Keep what was scored; the score is one of the evaluation's metrics."""
        self.pairs = pairs
        return {"score": float(pair_scores(pairs.chosen, pairs.rejected).mean())}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a look."""
        control.should_evaluate = control.should_evaluate or state.global_step in self._at

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on, or not."""
        if state.global_step in self._at and self._report is not None:
            self._at.discard(state.global_step)
            self._report(state.global_step, float(kwargs["metrics"]["eval_score"]))
