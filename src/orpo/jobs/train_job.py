"""A training job: a model and preference data in, a run folder with the evidence out."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from orpo.audit.findings import Audit
from orpo.audit.run import headlines, quick_audit
from orpo.config import ORPOConfig
from orpo.data.reading import ReadOnce
from orpo.data.sources import Mixture, Source
from orpo.data.split import hold_out
from orpo.data.types import Row
from orpo.errors import CheckpointError, ConfigError, DataError, ModelError, RunStopped, SaveError
from orpo.evaluate import Sampling
from orpo.jobs.evidence import Evidence, Grader, Say
from orpo.report.write import write_report
from orpo.runs import (
    REPORT,
    checkpoint_name,
    read_manifest,
    read_recipe,
    read_run,
    run_lock,
    sweep,
    verify,
)
from orpo.runs.claim import claim_run, clear_run
from orpo.setting_types import as_declared
from orpo.train.adapters import ADAPTER_FILE, base_of_adapter
from orpo.train.card import write_model_card
from orpo.train.checkpoints import explain_write_error, read_state
from orpo.train.signals import StopOnSignal, StopRequested
from orpo.train.tokenizer import load_tokenizer
from orpo.train.trainer import ORPOTrainer

__all__ = ["TrainJob", "TrainResult", "adapter_of", "run_training", "tokenizer_of"]

_DECIDE_THE_END = ("max_steps", "num_train_epochs", "eval_dataset", "samples", "sample_tokens")


def _help(text: str, default: Any = None) -> Any:  # a dataclass field
    return field(default=default, metadata={"help": text})


@dataclass
class TrainJob:
    """What `orpo train` needs beside an `ORPOConfig`: names of model and data, and the evidence.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    model: str | None = _help("Folder of the model to start from, or its Hub id.")
    dataset: list[str] | None = _help("Preference data: files, folders or Hub ids.")
    mix: list[float] | None = _help("Shares of several data sets, e.g. 3 1; all rows if not given.")
    eval_dataset: str | None = _help("Held-out preference data for before and after.")
    held_out: float = _help("Share of `dataset`, by prompt, to hold out as eval_dataset.", 0.0)
    tokenizer: str | None = _help("Folder or Hub id of the tokenizer, if not the model's.")
    lora_r: int | None = _help("Train a LoRA adapter of this rank instead of the whole model.")
    lora_alpha: int | None = _help("LoRA's scale; twice the rank if not given.")
    lora_dropout: float = _help("Dropout of the adapter's input.", 0.0)
    lora_target_modules: str = _help(
        "Modules to adapt: all-linear, or names by comma.", "all-linear"
    )
    strict: bool = _help("Refuse to train where the audit of the data says stop.", False)
    samples: int = _help("Held-out prompts to answer before and after, for the report.", 5)
    sample_tokens: int = _help("Longest sample answer in tokens.", 128)
    resume: str | None = _help(
        "Go on from the newest checkpoint of output_dir that verifies; auto: if there is one; "
        "or a checkpoint's path."
    )
    overwrite: bool = _help("Replace a run that output_dir already holds.", False)

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        for name, hint in get_type_hints(type(self)).items():
            declared = hint | bool if name == "resume" else hint
            setattr(self, name, as_declared(getattr(self, name), declared, name))
        self.resume = _meant(self.resume)
        if self.overwrite and self.resume not in {None, "auto"}:
            raise ConfigError(
                "cannot be combined with --resume", where="--overwrite", fix="Use one of them."
            )
        for name in ("model", "dataset"):
            if not getattr(self, name):
                raise ConfigError("is needed", where=f"--{name}", fix=f"Add --{name} NAME.")
        if not 0 <= self.held_out < 1:
            raise ConfigError(
                f"must be at least 0 and below 1, is {self.held_out}", where="held_out"
            )
        if self.held_out and self.eval_dataset:
            raise ConfigError(
                "cannot be combined with eval_dataset", where="held_out", fix="Use one of them."
            )
        self._check_mix()
        if self.lora_r is not None and self.lora_r < 1:
            raise ConfigError(f"must be at least 1, is {self.lora_r}", where="lora_r")
        if self.samples < 0:
            raise ConfigError(f"must be 0 or more, is {self.samples}", where="samples")

    def _check_mix(self) -> None:
        if self.mix is None:
            return
        count = len(self.dataset or [])
        if len(self.mix) != count or count < 2:
            raise ConfigError(
                f"{len(self.mix)} shares for {count} data sets",
                where="mix",
                fix="Give two or more data sets and one share for each.",
            )
        if not all(share > 0 and math.isfinite(share) for share in self.mix):
            raise ConfigError(f"shares must be positive, are {self.mix}", where="mix")

    @property
    def name(self) -> str:
        """What the training data are called in messages."""
        return " + ".join(self.dataset or [])

    def split(self, config: ORPOConfig) -> tuple[Iterable[Row], Iterable[Row] | None]:
        """The training data and what is held out, if anything; each row is read once."""
        sources = [Source(spec) for spec in self.dataset or []]
        mixed = Mixture(sources, self.mix) if len(sources) > 1 else sources[0]
        how = config.format_name, config.pair_rule
        rows = ReadOnce(mixed, *how)
        if self.held_out:
            return hold_out(
                rows,
                self.held_out,
                config.seed,
                self.name,
                data_format=config.format_name,
                pair_rule=config.pair_rule,
            )
        return rows, ReadOnce(Source(self.eval_dataset), *how) if self.eval_dataset else None

    def facts(self) -> dict[str, Any]:
        """The settings, for recipe.yaml."""
        once = {"resume", "overwrite", "strict"}
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in once}
        alone = len(self.dataset or []) == 1
        return {**found, "dataset": self.dataset[0] if alone and self.dataset else self.dataset}


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


def claim(folder: Path, job: TrainJob) -> str | bool:
    """What to go on from; what is read must not lie in the folder that is written."""
    named = [("--model", job.model), ("--tokenizer", job.tokenizer)]
    if (Path(str(job.model)) / ADAPTER_FILE).is_file():
        with contextlib.suppress(ModelError):  # the loader has more to say about it
            named.append(("the adapter's base model", base_of_adapter(str(job.model))))
    sources = [(flag, name) for flag, name in named if name]
    return claim_run(folder, resume=job.resume, overwrite=job.overwrite, sources=sources)


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
            for line in [*trainer.notes, *(a.summary() for a in trainer.ledgers.values())]:
                say(line)
            audit = _look_at(rows, held_out, trainer, say, strict=job.strict)
            trainer.check_memory()
            for line in trainer.check_saving():
                say(line)
            if first and job.overwrite and not resume_from:
                clear_run(folder)  # by now model, data and memory were accepted
            sampling = Sampling(max_new_tokens=job.sample_tokens, batch_size=32)
            evidence = Evidence(trainer, held_out or (), job.samples, sampling, grade)
            evidence.audit = audit.as_dict()
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


def build_trainer(
    job: TrainJob,
    config: ORPOConfig,
    rows: Iterable[Row],
    held_out: Iterable[Row] | None,
    callbacks: list[TrainerCallback] | None = None,
    *,
    model: PreTrainedModel | None = None,
    tokenizer: Any = None,
) -> ORPOTrainer:
    """The trainer of a job with its data read.

    Args:
        job: Names of model and data.
        config: Every setting of the training.
        rows: What it trains on.
        held_out: What it evaluates, if anything.
        callbacks: Further ones.
        model: The job's model, where it is loaded already; it is trained in place.
        tokenizer: Its tokenizer, likewise.
    """
    assert job.model is not None
    trainer = ORPOTrainer(
        model=job.model if model is None else model,
        args=config,
        train_dataset=rows,
        eval_dataset=held_out,
        tokenizer=tokenizer_of(job, config) if tokenizer is None else tokenizer,
        peft_config=adapter_of(job),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # stdout belongs to --json
    trainer.run_facts = job.facts()
    return trainer


def _look_at(
    rows: Iterable[Row],
    held_out: Iterable[Row] | None,
    trainer: ORPOTrainer,
    say: Say,
    *,
    strict: bool,
) -> Audit:
    """The quick part of the audit, and its three most important findings."""
    account = trainer.ledgers["train_dataset"]
    args = trainer.args
    audit = quick_audit(
        "train_dataset",
        rows,
        held_out,
        account=account,
        data_format=args.format_name,
        pair_rule=args.pair_rule,
    )
    found = headlines(audit)
    if trainer.is_world_process_zero():
        for line in found:
            say(line)
    if strict and audit.verdict == "stop":
        raise DataError(
            f"the audit says {found[0].rstrip('.')}", where="--strict", fix="See `orpo data audit`."
        )
    return audit


def tokenizer_of(job: TrainJob, config: ORPOConfig) -> Any:
    """The tokenizer that a job names, or None: then it is the model's."""
    if not job.tokenizer:
        return None
    return load_tokenizer(job.tokenizer, config, of_model=job.tokenizer == job.model)


def adapter_of(job: TrainJob) -> Any:
    """The peft config of the adapter that a job trains, or None."""
    if job.lora_r is None:
        return None
    from peft import LoraConfig  # noqa: PLC0415

    names = [name.strip() for name in job.lora_target_modules.split(",") if name.strip()]
    return LoraConfig(
        r=job.lora_r,
        lora_alpha=job.lora_alpha or 2 * job.lora_r,
        lora_dropout=job.lora_dropout,
        target_modules=names[0] if names == ["all-linear"] else names,
        task_type="CAUSAL_LM",
    )


def _meant(resume: str | bool | None) -> str | None:
    """A recipe may say `resume: true`; flags are text."""
    word = str(resume or "").lower()
    return None if word in {"", "false"} else "newest" if word == "true" else str(resume)


def _with_resume(job: TrainJob, config: ORPOConfig) -> TrainJob:
    """`--resume_from_checkpoint`, as transformers calls it, is `--resume`."""
    asked = _meant(config.resume_from_checkpoint)
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
