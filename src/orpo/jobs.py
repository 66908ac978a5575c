"""A training job: a model and preference data in, a run folder with the evidence out."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from orpo.audit.run import headlines
from orpo.config import ORPOConfig
from orpo.data.split import as_given, pairs_of
from orpo.data.types import Row
from orpo.errors import CheckpointError, ConfigError, RunStopped, SaveError
from orpo.lazy import loader
from orpo.runs import files, manifest
from orpo.runs.checkpoints import checkpoint_name
from orpo.runs.claim import clear_run
from orpo.runs.commit import sweep
from orpo.runs.lock import run_lock
from orpo.runs.typed import plain
from orpo.terminal import Say, under_way
from orpo.train import job as jobs
from orpo.train.checkpoints import explain_write_error, read_state, told_by_the_first_rank
from orpo.train.continuity import StopOnSignal, StopRequested
from orpo.train.job import TrainJob
from orpo.train.parallel import scoring

if TYPE_CHECKING:
    from orpo.evaluate.loading import merge_adapter
    from orpo.evaluate.preference.pairs import ScoredPairs
    from orpo.evaluate.questions import Grader
    from orpo.evaluate.verdict import Verdict
    from orpo.train.trainer import ORPOTrainer

__all__ = ["TrainJob", "TrainResult", "merge_adapter", "run_training"]

__getattr__ = loader(__name__, {"merge_adapter": "orpo.evaluate.loading"})

_DECIDE_THE_END = ("max_steps", "num_train_epochs", "eval_dataset", "samples", "sample_tokens")


@dataclass(frozen=True)
class TrainResult:
    """What a finished job leaves behind.

    Attributes:
        output_dir: The run folder.
        steps: Optimizer steps taken in total.
        train_loss: Mean loss over the steps of the run.
        evaluation: {"before": ..., "after": ...} on held-out pairs; empty without them.
        samples: Prompts with the answers before and after.
        data: Data set -> its account of rows.
        report: The page.
        verdict: What the training made of the model, by all that was measured.
        was_finished: Whether nothing was left to do.
    """

    output_dir: Path
    steps: int
    train_loss: float
    evaluation: dict[str, dict[str, Any]]
    samples: list[dict[str, Any]]
    data: dict[str, Any]
    report: Path
    verdict: Verdict
    was_finished: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        told = {n: str(v) if isinstance(v, Path) else v for n, v in vars(self).items()}
        told["verdict"] = plain(self.verdict)
        return {name: value for name, value in told.items() if name != "samples"}


def run_training(
    job: TrainJob,
    config: ORPOConfig,
    *,
    say: Say,
    callbacks: list[TrainerCallback] | None = None,
    grade: Grader | None = None,
) -> TrainResult:
    """Train, and show what it changed.

    Args:
        job: Model, data and evidence.
        config: Every setting of the training itself.
        say: Told, line by line, what happens.
        callbacks: Such as a progress display.
        grade: Checks the answers to held-out prompts, if they can be checked.

    Raises:
        UserError: Wrong input.
        RunStopped: SIGTERM or SIGINT arrived; a checkpoint was saved.
    """
    folder = Path(config.output_dir or "orpo-run")
    config.disable_tqdm = True
    job = _with_resume(job, config)
    first = config.process_index == 0
    stop = StopOnSignal()
    trainer: ORPOTrainer | None = None
    try:
        with stop, run_lock(folder) if first else nullcontext():
            if first and job.resume:
                sweep(folder)  # it may bring back what a killed process was replacing
            resume_from = jobs.claim(folder, job)
            rows, held_out = job.split(config)
            trainer = jobs.build_trainer(job, config, rows, held_out, [stop, *(callbacks or [])])
            trainer.say = say
            evidence = _accept(trainer, rows, held_out, job, grade)
            if first and job.overwrite and not resume_from:
                clear_run(folder)  # by now model, data and memory were accepted
            del rows, held_out  # what was kept of them is needed no more
            return _train(trainer, evidence, resume_from, say)
    except StopRequested:
        number = stop.number or int(signal.SIGTERM)  # it may have reached another rank only
        raise RunStopped(_stopped(job, stop, trainer, folder), number) from None
    except OSError as error:
        reason = explain_write_error(error, folder)
        if reason is None:
            raise
        raise SaveError(f"{error.filename or folder} could not be written: {reason}") from error


def _with_resume(job: TrainJob, config: ORPOConfig) -> TrainJob:
    """`--resume_from_checkpoint`, as transformers calls it, is `--resume`."""
    asked = jobs.resume_meant(config.resume_from_checkpoint)
    if asked is None:
        return job
    if job.resume is not None:
        what, where = "cannot be combined with --resume", "--resume_from_checkpoint"
        raise ConfigError(what, where=where, fix="Use one of them.")
    config.resume_from_checkpoint = None  # or the recipe of the run would say it for ever
    return replace(job, resume=asked)


def _accept(
    trainer: ORPOTrainer,
    rows: Iterable[Row],
    held_out: Iterable[Row] | None,
    job: TrainJob,
    grade: Grader | None,
) -> Evidence:
    """Say what was decided, and refuse what cannot go well; the audit's three worst findings."""
    for line in [*trainer.notes, *(a.summary() for a in trainer.ledgers.values())]:
        trainer.say(line)
    found = jobs.audited(trainer.args, rows, held_out, trainer.ledgers["train_dataset"])
    for line in headlines(found) if trainer.is_world_process_zero() else ():
        trainer.say(line)
    jobs.refuse_if_strict(job, found)
    trainer.check_memory()
    for line in trainer.check_saving():
        trainer.say(line)
    return Evidence(trainer, rows, held_out or (), job, found.as_dict(), grade)


def _train(
    trainer: ORPOTrainer, evidence: Evidence, resume_from: str | bool, say: Say
) -> TrainResult:
    folder, first = evidence.folder, trainer.is_world_process_zero()
    checkpoint = trainer.check_resume(resume_from) if resume_from else None
    finished = checkpoint is not None and _is_finished(trainer, checkpoint, evidence)
    if checkpoint is not None and finished:
        steps = manifest.read_manifest(checkpoint).step
        say(f"the run is finished: {steps} steps; nothing is left to do")
        loss, verdict = _finished(folder, first), told_by_the_first_rank(evidence.verdict)
    else:
        if checkpoint is not None:
            evidence.recall()
        try:
            evidence.collect("before", say)
            loss = trainer.train(resume_from_checkpoint=resume_from).training_loss
            if trainer.stopped:
                raise StopRequested
            evidence.collect("after", say)
            trainer.save_model()
            trainer.save_state()
        except StopRequested:
            # Ranks are cut off at different places, and could not write one checkpoint together.
            if trainer.state.global_step and trainer.args.world_size == 1:
                trainer.commit_here()
            raise
        steps = trainer.state.global_step
        verdict = told_by_the_first_rank(evidence.conclude)
        if first:
            _write_pages(folder)
    data = {name: account.as_dict() for name, account in trainer.ledgers.items()}
    found = evidence.evaluation, evidence.samples
    return TrainResult(folder, steps, loss, *found, data, folder / files.REPORT, verdict, finished)


def _write_pages(folder: Path) -> None:
    """The card and the report of a run whose model is saved by now: so much is not lost."""
    from orpo.report.write import write_report  # noqa: PLC0415 - when all is done
    from orpo.train.card import write_model_card  # noqa: PLC0415

    try:
        write_model_card(folder)
        write_report(folder)
    except (ConfigError, OSError) as error:
        what = str(error) if isinstance(error, ConfigError) else f"{error.filename}: {error}"
        raise SaveError(
            f"the run is finished and its model is saved, but a page is not: {what} "
            f"`orpo report {folder} --output FILE` draws the report elsewhere."
        ) from error


def _is_finished(trainer: ORPOTrainer, checkpoint: Path, evidence: Evidence) -> bool:
    """Whether nothing is left to do, and all of it is there and sound; the first rank looks."""
    return told_by_the_first_rank(lambda: _is_whole(trainer, checkpoint, evidence))


def _is_whole(trainer: ORPOTrainer, checkpoint: Path, evidence: Evidence) -> bool:
    now = {**trainer.args.to_dict(), **trainer.run_facts}
    before = files.spelled_as(now, files.read_recipe(checkpoint), checkpoint)
    same = all(before.get(name) == now.get(name) for name in _DECIDE_THE_END)
    state = read_state(checkpoint)
    if trainer.args.resume_changed or not same or state.global_step < state.max_steps:
        return False
    wanted = manifest.read_manifest(checkpoint)
    try:
        model = manifest.read_manifest(evidence.folder)
        if (model.run, model.step, model.kind) != (wanted.run, wanted.step, "model"):
            return False
        manifest.verify(evidence.folder)
    except CheckpointError:
        return False
    return evidence.recorded()


def _finished(folder: Path, first: bool) -> float:
    """The loss of a run that was finished; its pages are written if a kill left them undone."""
    report, model = folder / files.REPORT, folder / manifest.MANIFEST
    if first and (not report.exists() or report.stat().st_mtime < model.stat().st_mtime):
        _write_pages(folder)  # the page on its way there was of an unfinished run
    metrics = files.read_run(folder).metrics
    return next((line["train_loss"] for line in metrics[::-1] if "train_loss" in line), 0.0)


def _stopped(job: TrainJob, stop: StopOnSignal, trainer: ORPOTrainer | None, folder: Path) -> str:
    """Where the run stands, and how it goes on."""
    step = None if trainer is None else trainer.committed_step
    head = f"stopped by {stop.received.name if stop.received else 'a signal'}"
    if step is not None:
        return (
            f"{head} at step {step}; the checkpoint is {folder / checkpoint_name(step)}. "
            f"Go on with the same command{'' if job.resume == 'auto' else ' and --resume'}."
        )
    taken = 0 if trainer is None else trainer.state.global_step
    when = f"after step {taken}, of which nothing was saved" if taken else "before training began"
    # Even now the folder may hold a recipe, which counts as a run.
    same = job.overwrite or job.resume
    return f"{head} {when}; the same command{'' if same else ' with --resume auto'} starts again."


class Evidence:
    """Held-out pairs scored and held-out prompts answered by the model before and after training.

    Writes audit.json, evaluation.json, scores.jsonl and samples.jsonl.
    """

    def __init__(
        self,
        trainer: ORPOTrainer,
        rows: Iterable[Row],
        held_out: Iterable[Row],
        job: TrainJob,
        audit: dict[str, Any],
        grade: Grader | None = None,
    ) -> None:
        from orpo.evaluate import Sampling  # noqa: PLC0415 - after the first words
        from orpo.evaluate.preference.pairs import row_facts  # noqa: PLC0415

        self.trainer, self.audit, self.grade = trainer, audit, grade
        self.sampling = Sampling(max_new_tokens=job.sample_tokens, batch_size=32)
        self.folder = Path(str(trainer.args.output_dir))
        self.held_out = trainer.eval_dataset is not None
        self.rows = {row.index: row for row in held_out} if grade else {}
        args = trainer.args
        self.facts = row_facts(self.rows.values() or held_out, args.format_name, args.pair_rule)
        source = trainer.eval_dataset if self.held_out else trainer.train_dataset
        self.pairs = source.select(range(min(job.samples, len(source))))
        asked = (self.rows.values() or held_out) if self.held_out else rows
        self.given = pairs_of(asked, self.pairs["row"], args.format_name, args.pair_rule)
        self.evaluation: dict[str, dict[str, Any]] = {}
        self.scores: dict[str, ScoredPairs] = {}
        self.samples: list[dict[str, Any]] = []

    def recall(self) -> None:
        """Take up what a resumed run found before training; what comes after is found anew."""
        from orpo.evaluate.preference.pairs import recall_scores  # noqa: PLC0415

        if not (self.folder / files.RECIPE).is_file():
            return
        run = files.read_run(self.folder)
        self.evaluation = {m: found for m, found in run.evaluation.items() if m == "before"}
        if len(run.samples) == len(self.pairs):  # else another number was asked for
            self.samples = [
                {name: value for name, value in sample.items() if not name.endswith("after")}
                for sample in run.samples
            ]
        if self.held_out and "before" in self.evaluation:
            found = recall_scores(self.folder, "before", self.facts, self.trainer.eval_dataset)
            self.scores = {} if found is None else {"before": found}

    def recorded(self) -> bool:
        """Whether the folder holds what comes before and after training; takes it up if so."""
        if not (self.folder / files.RECIPE).is_file():
            return False
        run, both = files.read_run(self.folder), {"before", "after"}
        scored = not self.held_out or both <= run.evaluation.keys()
        answered = len(run.samples) == len(self.pairs) and all(
            both <= sample.keys() for sample in run.samples
        )
        if scored and answered:
            self.evaluation = {m: run.evaluation[m] for m in both if m in run.evaluation}
            self.samples = run.samples
        return scored and answered

    def verdict(self) -> Verdict:
        """What the training made of the model, from what the folder holds by now."""
        from orpo.evaluate import verdict as verdicts  # noqa: PLC0415

        return verdicts.verdict(files.read_run(self.folder))

    def conclude(self) -> Verdict:
        """The verdict, kept beside the numbers."""
        found = self.verdict()
        told = {**self.evaluation, "verdict": plain(found)}
        files.write_json(self.folder / files.EVALUATION, told)
        return found

    def collect(self, moment: str, say: Say) -> None:
        """Score and answer "before" or "after"; what is on record is left as it is."""
        from orpo.evaluate.preference.pairs import write_scores  # noqa: PLC0415

        if not self.samples:
            self.samples = [self._prompt(pair) for pair in self.pairs]
        due = moment == "after" or not (self.folder / files.EVALUATION).exists()
        with scoring(self.trainer):
            if self.held_out and moment not in self.evaluation:
                say(f"scoring {len(self.trainer.eval_dataset)} held-out pairs {moment} training")
                self._score(moment)
                due = True
            if self.samples and moment not in self.samples[0]:
                say(f"answering {len(self.samples)} prompts {moment} training")
                self._answer(moment)
                due = True
        # What stands there is kept until there is better: the run may yet be refused.
        if due and self.trainer.is_world_process_zero():
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_json(self.folder / files.AUDIT, self.audit)
            files.write_json(self.folder / files.EVALUATION, self.evaluation)
            files.write_jsonl(self.folder / files.SAMPLES, self.samples)
            write_scores(self.folder, self.scores)

    def _score(self, moment: str) -> None:
        from orpo.evaluate.preference import measures, pairs  # noqa: PLC0415

        metrics, scored = pairs.score_pairs(self.trainer, self.facts)
        found = measures.measure(scored)
        if moment == "after" and "before" in self.scores:
            found = measures.compare(found, self.scores["before"], scored)
        summary = measures.preference_summary(metrics, len(self.trainer.eval_dataset))
        self.evaluation[moment] = {**summary, **plain(found)}
        self.scores[moment] = scored

    def _prompt(self, pair: dict[str, Any]) -> dict[str, Any]:
        """What was asked, as the data say it; of token ids alone with the template's marks."""
        given = self.given.get(pair["row"])
        if given is not None:
            said = {name: value for name, value in as_given(given).items() if name != "rejected"}
            return {**said, "held_out": self.held_out}
        decode = self.trainer.processing_class.decode
        chosen = decode(pair["chosen_ids"], skip_special_tokens=True).strip()
        prompt = decode(pair["prompt_ids"], skip_special_tokens=False)
        return {"prompt": prompt, "chosen": chosen, "held_out": self.held_out}

    def _answer(self, moment: str) -> None:
        from orpo.evaluate import grade_summary  # noqa: PLC0415
        from orpo.evaluate.generation import complete_prompts  # noqa: PLC0415

        model, tokenizer = self.trainer.model, self.trainer.processing_class
        prompts = [pair["prompt_ids"] for pair in self.pairs]
        with under_way("answering", len(prompts)) as advance:
            answers = complete_prompts(model, tokenizer, prompts, self.sampling, advance=advance)
        grades = []
        for sample, pair, answer in zip(self.samples, self.pairs, answers, strict=True):
            sample |= {moment: answer.text, f"cut_{moment}": answer.truncated}
            if self.grade is not None and self.held_out:
                grades.append(grade := self.grade(self.rows[pair["row"]], answer.text))
                word = {f"correct_{moment}": grade.correct, f"reason_{moment}": grade.reason}
                sample.update({**word, **grade.groups})
        if grades:
            self.evaluation[moment] |= grade_summary(grades)
