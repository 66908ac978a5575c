"""`orpo train --dry_run`: everything that a run does before its first step, and what it would take.

Settings are resolved, the data read and looked at, a sample tokenised, the model built without its
weights, and memory, steps, operations, time and cost worked out. Nothing is written anywhere.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from orpo.audit.findings import Audit
from orpo.audit.run import headlines
from orpo.config import ORPOConfig
from orpo.data.types import Row
from orpo.errors import ConfigError, DataError
from orpo.jobs.dry_run.assumptions import Assumptions, Fleet
from orpo.jobs.dry_run.memory import MemoryNeed, need_of, setup_of
from orpo.jobs.dry_run.reading import Seen, audit_of, look
from orpo.jobs.dry_run.work import PairSize, Plan, never_reached, plan_of
from orpo.jobs.train_job import TrainJob, adapter_of, claim, tokenizer_of
from orpo.runs import lock_holder
from orpo.train.before.memory import count_bytes, load_outline, shape_of
from orpo.train.before.saving import try_saving
from orpo.train.before.settings import foresee, foresee_data
from orpo.train.datasets import DatasetReader, check_objective
from orpo.train.models import fit_positions, vocabulary_size
from orpo.train.tokenizer import load_tokenizer, prepare_tokenizer
from orpo.train.weights import rounding_notes
from orpo.train.work import ModelCost

__all__ = ["DryRun", "run_dry_run"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class DryRun:
    """What a run would be.

    Attributes:
        settings: Every setting, resolved.
        changed: Those that are not the defaults.
        data: Data set -> what was seen of it.
        audit: The findings of the quick audit.
        notes: What was decided on the user's behalf.
        model: Kind of the model, its weights and those that are trained.
        pair: Mean and longest pair that was reckoned with.
        fleet: The devices.
        memory: What each of them holds.
        plan: Steps, operations, time and cost.
        assumptions: What the numbers rest on, one line each.
    """

    settings: dict[str, Any]
    changed: dict[str, Any]
    data: dict[str, Seen]
    audit: Audit
    notes: list[str]
    model: dict[str, Any]
    pair: PairSize
    fleet: Fleet
    memory: MemoryNeed
    plan: Plan
    assumptions: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fleet = self.fleet
        return {
            "dry_run": True,
            "fits": self.memory.fits,
            "verdict": self.memory.verdict,
            "memory": self.memory.as_dict(),
            "plan": self.plan.as_dict(),
            "model": self.model,
            "pair": vars(self.pair),
            "device": {
                **vars(fleet.device),
                "ranks": fleet.ranks,
                "wrapper": fleet.wrapper,
                "utilisation": fleet.utilisation,
                "price_per_hour": fleet.price,
            },
            "assumptions": self.assumptions,
            "notes": self.notes,
            "data": {name: seen.as_dict() for name, seen in self.data.items()},
            "audit": {"verdict": self.audit.verdict, "headlines": headlines(self.audit)},
            "settings": self.settings,
        }


def run_dry_run(
    job: TrainJob, config: ORPOConfig, *, say: Say, assumed: Assumptions | None = None
) -> DryRun:
    """Do all of a run but the run.

    Args:
        job: Model and data.
        config: The settings.
        say: Told, line by line, what is found.
        assumed: What the estimate is for; None for this machine.

    Raises:
        UserError: What would stop the run before its first step.
    """
    assumed = assumed or Assumptions()
    _refuse(job, config)
    folder = Path(config.output_dir or "orpo-run")
    claim(folder, job)
    holder = lock_holder(folder)
    if holder:
        raise ConfigError(
            f"another run is writing here ({holder})",
            where=str(folder),
            fix="Wait for it, stop it, or give another --output_dir.",
        )
    foresee(config)
    fleet = Fleet.of(assumed, config)
    assert job.model is not None
    model = load_outline(job.model, config, adapter_of(job))
    reader, notes = _reader(job, config, model)
    config = copy.copy(config)
    config.max_length = reader.preparation.tokenize.lengths.max_length
    rows, held_out = job.split(config)
    data = _look(rows, held_out, reader, config)
    notes += reader.settle_template()
    notes += rounding_notes(model, config.learning_rate)
    trusted = config.trust_remote_code
    notes += try_saving(model, reader.preparation.tokenize.tokenizer, trusted=trusted)
    pairs = {name: range(count) for name, count in _counts(job, assumed, data).items()}
    foresee_data(config, pairs["train_dataset"], pairs.get("eval_dataset"), fleet.ranks)
    notes += check_objective(config, None, None)
    for line in [*notes, *(seen.summary() for seen in data.values())]:
        say(line)
    audit = audit_of(data["train_dataset"], rows, held_out, config)
    found = headlines(audit)
    for line in found:
        say(line)
    dry = _estimate(job, config, assumed, model, fleet, data, audit, notes)
    beyond = never_reached(config, dry.plan.steps)
    dry.notes.extend(beyond)
    for line in beyond:
        say(line)
    _judge(dry, job, found)
    return dry


def _refuse(job: TrainJob, config: ORPOConfig) -> None:
    if job.resume or config.resume_from_checkpoint:
        raise ConfigError(
            "a dry run begins nothing, so there is nothing to go on with",
            where="--resume",
            fix="Leave it out, or leave --dry_run out.",
        )
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ConfigError(
            "a dry run is one process, and a launcher has started several",
            where="--dry_run",
            fix="Run `orpo train` itself, with --accelerate_config FILE or --ranks N.",
        )


def _reader(job: TrainJob, config: ORPOConfig, model: nn.Module) -> tuple[DatasetReader, list[str]]:
    """What prepares the data, without a cache, and what was decided for it."""
    assert job.model is not None
    tokenizer: PreTrainedTokenizerBase = tokenizer_of(job, config) or load_tokenizer(
        job.model, config
    )
    notes = prepare_tokenizer(tokenizer, config)
    max_length, note = fit_positions(model, config)
    uncached = copy.copy(config)
    uncached.data_cache = "off"
    reader = DatasetReader.with_tokenizer(tokenizer, uncached, max_length, vocabulary_size(model))
    return reader, notes + ([note] if note else [])


def _look(
    rows: Iterable[Row],
    held_out: Iterable[Row] | None,
    reader: DatasetReader,
    config: ORPOConfig,
) -> dict[str, Seen]:
    data = {"train_dataset": look("train_dataset", rows, reader, config)}
    if held_out is not None:
        data["eval_dataset"] = look("eval_dataset", held_out, reader, config)
    return data


def _estimate(
    job: TrainJob,
    config: ORPOConfig,
    assumed: Assumptions,
    model: nn.Module,
    fleet: Fleet,
    data: dict[str, Seen],
    audit: Audit,
    notes: list[str],
) -> DryRun:
    size = _size(data["train_dataset"], assumed, config)
    counts = _counts(job, assumed, data)
    shape, counted = shape_of(model), count_bytes(model, config)
    pair = (size.longest, size.positions(config))
    held = data.get("eval_dataset")
    plan = plan_of(
        config,
        fleet,
        ModelCost.of(model),
        (counts["train_dataset"], size),
        None if held is None else (counts["eval_dataset"], _size(held, assumed, config)),
    )
    settings = {**job.facts(), **config.to_dict()}
    defaults = {**vars(TrainJob(model="x", dataset=["x"])), **ORPOConfig().to_dict()}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    facts = {
        "kind": str(getattr(getattr(model, "config", None), "model_type", "")),
        "weights": shape.total,
        "trained": trained,
    }
    return DryRun(
        settings=settings,
        changed={k: v for k, v in settings.items() if v != defaults.get(k)},
        data=data,
        audit=audit,
        notes=notes,
        model=facts,
        pair=size,
        fleet=fleet,
        memory=need_of(setup_of(shape, counted, config, fleet, pair)),
        plan=plan,
        assumptions=_say_assumptions(assumed, fleet, data["train_dataset"], size),
    )


def _counts(job: TrainJob, assumed: Assumptions, data: dict[str, Seen]) -> dict[str, int]:
    """Pairs of each data set: as given, or else as seen."""
    found = {name: seen.pairs for name, seen in data.items()}
    if assumed.pairs is not None:
        held = round(assumed.pairs * job.held_out)
        found["train_dataset"] = assumed.pairs - held
        found |= {"eval_dataset": held} if held else {}
    if assumed.eval_pairs is not None and "eval_dataset" in found:
        found["eval_dataset"] = assumed.eval_pairs
    return found


def _size(seen: Seen, assumed: Assumptions, config: ORPOConfig) -> PairSize:
    prompt, chosen, rejected = assumed.pair_tokens or (seen.prompt, seen.chosen, seen.rejected)
    guessed = assumed.pairs is not None or assumed.pair_tokens is not None or not seen.whole
    longest = seen.longest
    if guessed and config.max_length is not None:
        longest = 2 * config.max_length  # two answers behind a prompt of no length
    common = 0.0 if assumed.pair_tokens else seen.common
    if config.objective == "sft":
        rejected, common, longest = 0.0, 0.0, config.max_length or longest
    return PairSize(prompt, chosen, rejected, longest, common)


def _say_assumptions(assumed: Assumptions, fleet: Fleet, seen: Seen, size: PairSize) -> list[str]:
    device = fleet.device
    lines = []
    if device.tflops is None:
        lines.append(f"the rate of {device.name} is not known: give --device_tflops")
    else:
        lines.append(
            f"{device.name}: {device.tflops:,.4g} TFLOP/s ({device.source}), of which "
            f"{fleet.utilisation:.0%} are reached ({fleet.why})"
        )
    if assumed.pairs or assumed.pair_tokens:
        lines.append(
            f"{assumed.pairs or seen.pairs:,} pairs of {size.prompt:.0f} + {size.chosen:.0f} + "
            f"{size.rejected:.0f} tokens as given, not as in the data that are here "
            f"({seen.pairs:,} of {seen.prompt:.0f} + {seen.chosen:.0f} + {seen.rejected:.0f})"
        )
    elif not seen.whole:
        lines.append(f"lengths and losses of rows are those of {seen.sampled:,} drawn rows")
    if size.longest != seen.longest:
        lines.append(f"the longest pair may have {size.longest:,} positions, as max_length allows")
    lines.append(
        "operations are those of matrix products with weights; attention, what checkpointing "
        "computes twice, loading, saving and sample answers are not counted"
    )
    return lines


def _judge(dry: DryRun, job: TrainJob, found: list[str]) -> None:
    """With --strict, what would stop the run stops the dry run."""
    if not job.strict:
        return
    if dry.audit.verdict == "stop":
        raise DataError(
            f"the audit says {found[0].rstrip('.')}", where="--strict", fix="See `orpo data audit`."
        )
    if not dry.memory.fits:
        raise ConfigError(dry.memory.verdict, where="--strict")
