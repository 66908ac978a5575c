"""`orpo train --dry_run`: everything that a run does before its first step, and what it would take.

Settings are resolved, the data read and looked at, a sample tokenised, the model built without its
weights, and memory, steps, operations, time and cost worked out. Nothing is written anywhere.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from orpo.audit.findings import Audit
from orpo.audit.lengths import truncation_of
from orpo.audit.run import headlines
from orpo.config import ORPOConfig
from orpo.data.split import Sample
from orpo.data.types import Ledger, Row
from orpo.errors import ConfigError, DataError, refuse_first
from orpo.runs.lock import lock_holder
from orpo.terminal import Say
from orpo.train import estimate, memory
from orpo.train import job as jobs
from orpo.train.datasets import DatasetReader, check_objective, reader_for
from orpo.train.fleet import Assumptions, Fleet
from orpo.train.foreseen import foresee, foresee_data
from orpo.train.job import TrainJob
from orpo.train.models import load_tokenizer
from orpo.train.saving import try_saving
from orpo.train.work import ModelCost

SAMPLED = 2000
"""Rows that are tokenised; of more, so many are drawn."""


@dataclass(frozen=True)
class DryRun:
    """What a run would be."""

    settings: dict[str, Any]
    data: dict[str, Seen]
    audit: Audit
    notes: list[str]
    model: dict[str, Any]
    pair: estimate.PairSize
    fleet: Fleet
    memory: estimate.MemoryNeed
    plan: estimate.Plan
    assumptions: list[str]

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that are not the defaults."""
        defaults = {**vars(TrainJob(model="x", dataset=["x"])), **ORPOConfig().to_dict()}
        defaults["use_cpu"] = self.settings["use_cpu"]  # this machine's, not the plan's
        return {name: v for name, v in self.settings.items() if v != defaults.get(name)}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fleet = self.fleet
        return {
            "dry_run": True,
            "fits": self.memory.fits,
            "verdict": self.memory.verdict,
            "memory": self.memory.as_dict(),
            "plan": asdict(self.plan),
            "model": self.model,
            "pair": vars(self.pair),
            "device": {
                **vars(fleet.device),
                **{name: getattr(fleet, name) for name in ("ranks", "wrapper", "utilisation")},
                "price_per_hour": fleet.price,
            },
            "assumptions": self.assumptions,
            "notes": self.notes,
            "data": {name: seen.as_dict() for name, seen in self.data.items()},
            "audit": {"verdict": self.audit.verdict, "headlines": headlines(self.audit)},
            "settings": self.settings,
        }


@dataclass(frozen=True)
class Seen:
    """A data set that was looked at."""

    name: str
    rows: int
    sampled: int  # rows that were tokenised
    pairs: int  # that will be trained on: counted if all rows were tokenised, else estimated
    size: estimate.PairSize
    account: Ledger  # of the rows that were tokenised

    @property
    def whole(self) -> bool:
        """Whether all rows were tokenised."""
        return self.sampled == self.rows

    def summary(self) -> str:
        """One line, as a training says it, or of the sample."""
        drawn = f" (of {self.rows:,} rows {self.sampled:,} were drawn and tokenised)"
        return self.account.summary() + ("" if self.whole else drawn)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counted = {name: getattr(self, name) for name in ("name", "rows", "sampled", "pairs")}
        account = {"account": self.account.as_dict(), "whole": self.whole}
        return {**counted, **asdict(self.size), **account}

    def size_of(self, assumed: Assumptions, config: ORPOConfig) -> estimate.PairSize:
        """What a run is estimated with: as given, or else as seen."""
        given = assumed.pair_tokens or (self.size.prompt, self.size.chosen, self.size.rejected)
        prompt, chosen, rejected = given
        guessed = assumed.pairs is not None or assumed.pair_tokens is not None or not self.whole
        longest = self.size.longest
        if guessed and config.max_length is not None:
            longest = 2 * config.max_length  # two answers behind a prompt of no length
        common = 0.0 if assumed.pair_tokens else self.size.common
        if config.objective == "sft":
            rejected, common, longest = 0.0, 0.0, config.max_length or longest
        return estimate.PairSize(prompt, chosen, rejected, longest, common)


def run_dry_run(
    job: TrainJob,
    config: ORPOConfig,
    *,
    say: Say,
    assumed: Assumptions | None = None,
) -> DryRun:
    """Do all of a run but the run."""
    assumed, config = assumed or Assumptions(), copy.copy(config)
    _refuse(job, config)
    fleet = Fleet.of(assumed, config)
    assert job.model is not None
    model = memory.load_outline(job.model, config, jobs.adapter_of(job))
    tokenizer = jobs.tokenizer_of(job, config) or load_tokenizer(job.model, config)
    reader, notes = reader_for(model, tokenizer, config)
    reader.preparation = replace(reader.preparation, cache=None)
    config.max_length = reader.preparation.tokenize.lengths.max_length
    rows, held_out = job.split(config)
    given = {"train_dataset": rows, **({} if held_out is None else {"eval_dataset": held_out})}
    data = {name: look(name, each, reader, config) for name, each in given.items()}
    notes += reader.settle_template()
    notes += try_saving(model, tokenizer, trusted=config.trust_remote_code)
    counts = _counts(job, assumed, data)
    pairs = {name: range(count) for name, count in counts.items()}
    foresee_data(config, pairs["train_dataset"], pairs.get("eval_dataset"), fleet.ranks)
    notes += check_objective(config, None, None)
    for line in [*notes, *(seen.summary() for seen in data.values())]:
        say(line)
    seen = data["train_dataset"]
    audit = audit_of(seen, rows, held_out, config)
    size, shape = seen.size_of(assumed, config), memory.shape_of(model)
    known = [(counts[name], each.size_of(assumed, config)) for name, each in data.items()]
    plan = estimate.plan_of(config, fleet, ModelCost.of(model), *known)  # training comes first
    beyond = estimate.never_reached(config, plan.steps)
    for line in [*headlines(audit), *beyond]:
        say(line)
    counted = memory.count_bytes(model, config)
    need = estimate.MemoryNeed.of(shape, counted, config, fleet, size)
    jobs.refuse_if_strict(job, audit)
    if job.strict and not need.fits:
        raise ConfigError(need.verdict, where="--strict")
    kind = str(getattr(getattr(model, "config", None), "model_type", ""))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    told = {"kind": kind, "weights": shape.total, "trained": trained}
    settings = {**job.facts(), **config.to_dict()}
    assumptions = _say_assumptions(assumed, fleet, seen, size)
    notes += beyond
    return DryRun(settings, data, audit, notes, told, size, fleet, need, plan, assumptions)


def _refuse(job: TrainJob, config: ORPOConfig) -> None:
    folder = Path(config.output_dir or "orpo-run")
    going_on = "a dry run begins nothing, so there is nothing to go on with"
    several = "a dry run is one process, and a launcher has started several"
    ranked = "Run `orpo train` itself, with --accelerate_config FILE or --ranks N."
    resumed = job.resume or config.resume_from_checkpoint
    refuse_first(
        (resumed, "--resume", going_on, "Leave it out, or leave --dry_run out."),
        (int(os.environ.get("WORLD_SIZE") or 1) > 1, "--dry_run", several, ranked),
    )
    jobs.claim(folder, job)
    holder = lock_holder(folder)
    writing, other = f"another run is writing here ({holder})", "or give another --output_dir."
    refuse_first((holder, str(folder), writing, f"Wait for it, stop it, {other}"))
    foresee(config)


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


def _say_assumptions(
    assumed: Assumptions, fleet: Fleet, seen: Seen, size: estimate.PairSize
) -> list[str]:
    device, here = fleet.device, seen.size
    lines = [f"the rate of {device.name} is not known: give --device_tflops"]
    if device.tflops is not None:
        lines = [
            f"{device.name}: {device.tflops:,.4g} TFLOP/s ({device.source}), of which "
            f"{fleet.utilisation:.0%} are reached ({fleet.why})"
        ]
    if assumed.pairs or assumed.pair_tokens:
        lines.append(
            f"{assumed.pairs or seen.pairs:,} pairs of {size.prompt:.0f} + {size.chosen:.0f} + "
            f"{size.rejected:.0f} tokens as given, not as in the data that are here "
            f"({seen.pairs:,} of {here.prompt:.0f} + {here.chosen:.0f} + {here.rejected:.0f})"
        )
    elif not seen.whole:
        lines.append(f"lengths and losses of rows are those of {seen.sampled:,} drawn rows")
    if size.longest != here.longest:
        lines.append(f"the longest pair may have {size.longest:,} positions, as max_length allows")
    lines.append(
        "operations are those of matrix products with weights; attention, what checkpointing "
        "computes twice, loading, saving and sample answers are not counted"
    )
    return lines


def look(name: str, rows: Iterable[Row], reader: DatasetReader, config: ORPOConfig) -> Seen:
    """Go through the rows, and prepare some of them as a trainer would."""
    sample = Sample(SAMPLED, config.seed)
    deque(sample.passing(rows), maxlen=0)
    if not sample.rows:
        raise DataError("the data set is empty", where=name, fix="Give at least one row.")
    drawn = sorted(sample.rows, key=lambda row: row.index)
    prepared = reader.one(drawn, name)
    lengths = memory.pair_lengths(prepared)[:, :3]
    kept, (prompt, chosen, rejected) = len(lengths), map(float, lengths.mean(0))
    longest, common = int(lengths.sum(1).max()), sum(map(_common, prepared)) / kept
    return Seen(
        name=name,
        rows=sample.passed,
        sampled=len(drawn),
        pairs=kept if len(drawn) == sample.passed else round(kept / len(drawn) * sample.passed),
        size=estimate.PairSize(prompt, chosen, rejected, longest, common),
        account=reader.ledgers[name],
    )


def _common(pair: Mapping[str, Any]) -> int:
    both = zip(pair["chosen_ids"], pair["rejected_ids"], strict=False)
    return sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], both))


def audit_of(
    seen: Seen, rows: Iterable[Row], held_out: Iterable[Row] | None, config: ORPOConfig
) -> Audit:
    """The quick audit that a training begins with; what is malformed stops here, too."""
    audit = jobs.audited(config, rows, held_out, seen.account if seen.whole else None)
    if audit.findings and not seen.whole:  # what max_length does, the sample says
        audit = replace(audit, findings=(*audit.findings, truncation_of(seen.account)))
    if config.on_bad_row == "error":
        for reason in ("unreadable", "malformed"):
            for row in audit.rows.examples.get(reason, [])[:1]:
                what = row.detail
                fix = "Correct it, or leave such rows out with --on_bad_row drop."
                raise DataError(what, where=row.where, fix=fix)
    return audit
