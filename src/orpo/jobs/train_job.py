"""A training job: a model and preference data in, a run folder with the evidence out."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from orpo.audit.findings import Audit
from orpo.audit.run import headlines, quick_audit
from orpo.config import ORPOConfig
from orpo.data.types import Row
from orpo.errors import CheckpointError, ConfigError, DataError, RunStopped, SaveError
from orpo.evaluate import Sampling
from orpo.jobs.evidence import Evidence, Grader, Say
from orpo.report.write import write_report
from orpo.runs.checkpoints import checkpoint_name
from orpo.runs.claim import clear_run
from orpo.runs.commit import sweep
from orpo.runs.files import REPORT, read_recipe, read_run
from orpo.runs.lock import run_lock
from orpo.runs.manifest import read_manifest, verify
from orpo.train.card import write_model_card
from orpo.train.checkpoints import explain_write_error, read_state
from orpo.train.job import TrainJob, build_trainer, claim, resume_meant
from orpo.train.signals import StopOnSignal, StopRequested
from orpo.train.trainer import ORPOTrainer

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
    """

    output_dir: Path
    steps: int
    train_loss: float
    evaluation: dict[str, dict[str, Any]]
    samples: list[dict[str, Any]]
    data: dict[str, Any]
    report: Path

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "output_dir": str(self.output_dir),
            "steps": self.steps,
            "train_loss": self.train_loss,
            "evaluation": self.evaluation,
            "data": self.data,
            "report": str(self.report),
        }


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
            resume_from = claim(folder, job)
            rows, held_out = job.split(config)
            trainer = build_trainer(job, config, rows, held_out, [stop, *(callbacks or [])])
            trainer.say = say
            audit = _accept(trainer, rows, held_out, job)
            if first and job.overwrite and not resume_from:
                clear_run(folder)  # by now model, data and memory were accepted
            sampling = Sampling(max_new_tokens=job.sample_tokens, batch_size=32)
            evidence = Evidence(trainer, held_out or (), job.samples, sampling, grade)
            evidence.audit = audit.as_dict()
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


def _train(
    trainer: ORPOTrainer, evidence: Evidence, resume_from: str | bool, say: Say
) -> TrainResult:
    folder = Path(str(trainer.args.output_dir))
    if resume_from:
        checkpoint = trainer.check_resume(resume_from)  # before anything is written
        if _is_finished(trainer, checkpoint, evidence):
            return _finished(trainer, checkpoint, evidence, say)
        evidence.recall()
    try:
        evidence.collect("before", say)
        output = trainer.train(resume_from_checkpoint=resume_from)
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
    if trainer.is_world_process_zero():
        _write_pages(folder)
    return _result(trainer, trainer.state.global_step, output.training_loss, evidence)


def _write_pages(folder: Path) -> None:
    """The card and the report of a run whose model is saved by now.

    Raises:
        SaveError: One of them cannot be written; says that nothing else is lost.
    """
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
    answer = [trainer.is_world_process_zero() and _is_whole(trainer, checkpoint, evidence)]
    broadcast_object_list(answer)
    return bool(answer[0])


def _is_whole(trainer: ORPOTrainer, checkpoint: Path, evidence: Evidence) -> bool:
    folder, args = Path(str(trainer.args.output_dir)), trainer.args
    before, now = read_recipe(checkpoint), {**args.to_dict(), **trainer.run_facts}
    same = all(before.get(name) == now.get(name) for name in _DECIDE_THE_END)
    state = read_state(checkpoint)
    if args.resume_changed or not same or state.global_step < state.max_steps:
        return False
    wanted = read_manifest(checkpoint)
    try:
        model = read_manifest(folder)
        if (model.run, model.step, model.kind) != (wanted.run, wanted.step, "model"):
            return False
        verify(folder)
    except CheckpointError:
        return False
    return evidence.recorded()


def _finished(trainer: ORPOTrainer, checkpoint: Path, evidence: Evidence, say: Say) -> TrainResult:
    folder, steps = Path(str(trainer.args.output_dir)), read_manifest(checkpoint).step
    say(f"the run is finished: {steps} steps; nothing is left to do")
    if trainer.is_world_process_zero() and not (folder / REPORT).exists():
        write_report(folder)
    losses = [line["train_loss"] for line in read_run(folder).metrics if "train_loss" in line]
    return _result(trainer, steps, losses[-1] if losses else 0.0, evidence)


def _result(trainer: ORPOTrainer, steps: int, loss: float, evidence: Evidence) -> TrainResult:
    folder = Path(str(trainer.args.output_dir))
    data = {name: account.as_dict() for name, account in trainer.ledgers.items()}
    return TrainResult(
        folder, steps, loss, evidence.evaluation, evidence.samples, data, folder / REPORT
    )


def _stopped(job: TrainJob, stop: StopOnSignal, trainer: ORPOTrainer | None, folder: Path) -> str:
    """Where the run stands, and how it goes on."""
    step = None if trainer is None else trainer.committed_step
    head = f"stopped by {stop.received.name if stop.received else 'a signal'}"
    if step is not None:
        return (
            f"{head} at step {step}; the checkpoint is {folder / checkpoint_name(step)}. "
            "Go on with the same command and --resume."
        )
    taken = 0 if trainer is None else trainer.state.global_step
    when = f"after step {taken}, of which nothing was saved" if taken else "before training began"
    # Even now the folder may hold a recipe, which counts as a run.
    same = job.overwrite or job.resume
    return f"{head} {when}; the same command{'' if same else ' with --resume auto'} starts again."


def _with_resume(job: TrainJob, config: ORPOConfig) -> TrainJob:
    """`--resume_from_checkpoint`, as transformers calls it, is `--resume`."""
    asked = resume_meant(config.resume_from_checkpoint)
    if asked is None:
        return job
    if job.resume is not None:
        raise ConfigError(
            "cannot be combined with --resume",
            where="--resume_from_checkpoint",
            fix="Use one of them.",
        )
    config.resume_from_checkpoint = None  # or the recipe of the run would say it for ever
    return replace(job, resume=asked)


def _accept(
    trainer: ORPOTrainer, rows: Iterable[Row], held_out: Iterable[Row] | None, job: TrainJob
) -> Audit:
    """Say what was decided, and refuse what cannot go well; the audit's three worst findings."""
    for line in [*trainer.notes, *(a.summary() for a in trainer.ledgers.values())]:
        trainer.say(line)
    args, account = trainer.args, trainer.ledgers["train_dataset"]
    how = {"data_format": args.format_name, "pair_rule": args.pair_rule}
    audit = quick_audit("train_dataset", rows, held_out, account=account, **how)
    found = headlines(audit)
    for line in found if trainer.is_world_process_zero() else ():
        trainer.say(line)
    if job.strict and audit.verdict == "stop":
        raise DataError(
            f"the audit says {found[0].rstrip('.')}", where="--strict", fix="See `orpo data audit`."
        )
    trainer.check_memory()
    for line in trainer.check_saving():
        trainer.say(line)
    return audit
