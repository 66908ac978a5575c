"""`orpo train --dry_run`: everything that a run does before its first step, and what it would take.

Settings are resolved, the data read and looked at, a sample tokenised, the model built without its
weights, and memory, steps, operations, time and cost worked out. Nothing is written anywhere.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from torch import nn

from orpo.audit.findings import Audit
from orpo.audit.lengths import truncation_of
from orpo.audit.run import headlines, quick_audit
from orpo.config import ORPOConfig
from orpo.data.split import Sample
from orpo.data.types import Ledger, Row
from orpo.errors import ConfigError, DataError
from orpo.runs.lock import lock_holder
from orpo.train.before import estimate
from orpo.train.before.fleet import Assumptions, Fleet
from orpo.train.before.memory import count_bytes, load_outline, pair_lengths, shape_of
from orpo.train.before.saving import try_saving
from orpo.train.before.settings import foresee, foresee_data
from orpo.train.datasets import DatasetReader, check_objective, reader_for
from orpo.train.job import TrainJob, adapter_of, claim, tokenizer_of
from orpo.train.tokenizer import load_tokenizer
from orpo.train.work import ModelCost

Say = Callable[[str], None]


@dataclass(frozen=True)
class DryRun:
    """What a run would be."""

    settings: dict[str, Any]
    changed: dict[str, Any]
    data: dict[str, Seen]
    audit: Audit
    notes: list[str]
    model: dict[str, Any]
    pair: estimate.PairSize
    fleet: Fleet
    memory: estimate.MemoryNeed
    plan: estimate.Plan
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
    job: TrainJob,
    config: ORPOConfig,
    *,
    say: Say,
    assumed: Assumptions | None = None,
) -> DryRun:
    """Do all of a run but the run."""
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
    config = copy.copy(config)
    config.data_cache, cached = "off", config.data_cache
    tokenizer = tokenizer_of(job, config) or load_tokenizer(job.model, config)
    reader, notes = reader_for(model, tokenizer, config)
    config.data_cache = cached
    config.max_length = reader.preparation.tokenize.lengths.max_length
    rows, held_out = job.split(config)
    data = _look(rows, held_out, reader, config)
    notes += reader.settle_template()
    notes += try_saving(model, tokenizer, trusted=config.trust_remote_code)
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
    beyond = estimate.never_reached(config, dry.plan.steps)
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
    plan = estimate.plan_of(
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
        memory=estimate.need_of(estimate.setup_of(shape, counted, config, fleet, pair)),
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


def _size(seen: Seen, assumed: Assumptions, config: ORPOConfig) -> estimate.PairSize:
    prompt, chosen, rejected = assumed.pair_tokens or (seen.prompt, seen.chosen, seen.rejected)
    guessed = assumed.pairs is not None or assumed.pair_tokens is not None or not seen.whole
    longest = seen.longest
    if guessed and config.max_length is not None:
        longest = 2 * config.max_length  # two answers behind a prompt of no length
    common = 0.0 if assumed.pair_tokens else seen.common
    if config.objective == "sft":
        rejected, common, longest = 0.0, 0.0, config.max_length or longest
    return estimate.PairSize(prompt, chosen, rejected, longest, common)


def _say_assumptions(
    assumed: Assumptions, fleet: Fleet, seen: Seen, size: estimate.PairSize
) -> list[str]:
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


SAMPLED = 2000
"""Rows that are tokenised; of more, so many are drawn."""


@dataclass(frozen=True)
class Seen:
    """A data set that was looked at.

    Attributes:
        name: What messages call it.
        rows: Rows read.
        sampled: Those of them that were tokenised.
        pairs: Pairs that will be trained on: counted if all rows were tokenised, else estimated.
        prompt: Mean tokens of the prompts.
        chosen: Mean tokens of the preferred answers.
        rejected: Mean tokens of the rejected answers; 0 for a row without.
        common: Mean number of tokens that both answers begin with.
        longest: Most tokens of a prompt and both its answers.
        account: What became of the rows that were tokenised, `Ledger.as_dict()`.
    """

    name: str
    rows: int
    sampled: int
    pairs: int
    prompt: float
    chosen: float
    rejected: float
    common: float
    longest: int
    account: dict[str, Any]

    @property
    def whole(self) -> bool:
        """Whether all rows were tokenised."""
        return self.sampled == self.rows

    def summary(self) -> str:
        """One line, as a training says it, or of the sample."""
        line = Ledger.from_dict(self.account).summary()
        if self.whole:
            return line
        return f"{line} (of {self.rows:,} rows {self.sampled:,} were drawn and tokenised)"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "whole": self.whole}


def look(name: str, rows: Iterable[Row], reader: DatasetReader, config: ORPOConfig) -> Seen:
    """Go through the rows, and prepare some of them as a trainer would."""
    sample = Sample(SAMPLED, config.seed)
    deque(sample.passing(rows), maxlen=0)
    if not sample.rows:
        raise DataError("the data set is empty", where=name, fix="Give at least one row.")
    drawn = sorted(sample.rows, key=lambda row: row.index)
    prepared = reader.one(drawn, name)
    lengths = pair_lengths(prepared)[:, :3]
    kept = len(lengths)
    means = lengths.mean(0)
    return Seen(
        name=name,
        rows=sample.passed,
        sampled=len(drawn),
        pairs=kept if len(drawn) == sample.passed else round(kept / len(drawn) * sample.passed),
        prompt=float(means[0]),
        chosen=float(means[1]),
        rejected=float(means[2]),
        common=sum(map(_common, prepared)) / kept,
        longest=int(lengths.sum(1).max()),
        account=reader.ledgers[name].as_dict(),
    )


def _common(pair: Mapping[str, Any]) -> int:
    both = zip(pair["chosen_ids"], pair["rejected_ids"], strict=False)
    return sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], both))


def audit_of(
    seen: Seen, rows: Iterable[Row], held_out: Iterable[Row] | None, config: ORPOConfig
) -> Audit:
    """The quick audit that a training begins with."""
    how = {"data_format": config.format_name, "pair_rule": config.pair_rule}
    counted = Ledger.from_dict(seen.account)
    audit = quick_audit(seen.name, rows, held_out, account=counted if seen.whole else None, **how)
    if audit.findings and not seen.whole:  # what max_length does, the sample says
        audit = replace(audit, findings=(*audit.findings, truncation_of(counted)))
    if config.on_bad_row == "error":
        for reason in ("unreadable", "malformed"):
            for row in audit.rows.examples.get(reason, [])[:1]:
                raise DataError(
                    row.detail,
                    where=row.where,
                    fix="Correct it, or leave such rows out with --on_bad_row drop.",
                )
    return audit
