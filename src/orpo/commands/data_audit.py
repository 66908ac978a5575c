"""`orpo data audit`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from orpo.audit.findings import Audit, Finding
from orpo.commands.console import console, say
from orpo.commands.main import print_json
from orpo.data.sources import open_source
from orpo.errors import ConfigError, DataError
from orpo.options import argument, asked, option, training_settings
from orpo.quantities import as_bytes, as_count, as_duration, as_share
from orpo.runs.writing import ensure_writable
from orpo.setting_types import as_columns

if TYPE_CHECKING:
    from orpo.data.types import Row
    from orpo.train.trainer import ORPOTrainer

EXAMPLES = """\
examples:
  orpo data audit pairs.jsonl
  orpo data audit pairs.jsonl --model ./model --max_length 1024 --html audit.html
  orpo data audit train.jsonl.gz --eval_dataset test.jsonl.gz --strict
  orpo data audit pairs.parquet --model ./model --measure --json > audit.json

Verdicts: ok, nothing to do; look, worth a look; stop, do not train on this yet.
With --strict a "stop" makes the exit code 2."""

_COLOURS = {"ok": "green", "look": "yellow", "stop": "bold red"}
_SAMPLED = 24  # pairs that --measure trains on
_BATCH, _WARMUP = 4, 1
_STEPS: dict[str, Any] = {
    **{"per_device_train_batch_size": _BATCH, "gradient_accumulation_steps": 1},
    **{"train_sampling_strategy": "sequential", "save_strategy": "no", "eval_strategy": "no"},
    **{"report_to": [], "disable_tqdm": True, "on_bad_row": "drop", "data_cache": "off"},
}


@dataclass(frozen=True)
class Options:
    """The data set, the model, and where the results go."""

    dataset: str = argument("DATASET", help="a file, a folder or a Hub id")
    eval_dataset: str | None = option(None, help="evaluation data, to look for leaked prompts")
    model: str | None = option(None, help="its tokenizer counts tokens and its template is tried")
    tokenizer: str | None = option(None, help="the tokenizer, if not the model's")
    measure: bool = option(False, help="take a few training steps: time and memory")
    no_near: bool = option(False, help="leave out near duplicates")
    seed: int = option(42, help="of the pairs that --measure draws; default 42")
    html: Path | None = option(None, metavar="FILE", help="write a page with pictures")
    strict: bool = option(False, help='exit with 2 if the verdict is "stop"')
    settings: dict[str, Any] = training_settings(
        *("columns", "data_format", "pair_rule", "max_length", "max_prompt_length", "truncation"),
        *("chat_template", "chat_template_kwargs", "trust_remote_code"),
    )
    json: bool = asked("json")

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if not self.dataset:
            raise ConfigError("is needed", where="DATASET", fix="Name a file, folder or Hub id.")
        if self.measure and not self.model:
            raise ConfigError("needs a model to measure", where="--measure", fix="Add --model.")


def run(options: Options) -> dict[str, Any]:
    """Audit, print a table, and write what was asked for."""
    if options.html:
        ensure_writable(options.html, fix="Give the name of an HTML file elsewhere.")
    audit = audit_dataset(options)
    _show(audit)
    if options.html:
        from orpo.report.write import write_audit_page  # noqa: PLC0415 - pictures take seconds to load

        say(f"page: {write_audit_page(audit, options.html)}")
    stops = [f for f in audit.findings if f.verdict == "stop"]
    if options.strict and stops:
        if options.json:  # whoever reads it wants to know why
            print_json(audit.as_dict())
        names = ", ".join(f.title for f in stops)
        raise DataError(
            f"the verdict is stop ({names}): {stops[0].says.rstrip('.')}",
            where=audit.dataset,
            fix=stops[0].do or "See the table.",
        )
    return audit.as_dict()


def audit_dataset(options: Options) -> Audit:
    """The audit of a data set, with what a model says about its lengths and costs."""
    columns = as_columns(options.settings.get("columns"))
    rows = open_source(options.dataset, columns)
    held = open_source(options.eval_dataset, columns) if options.eval_dataset else None
    from orpo.audit.run import AuditPlan, audit_rows  # noqa: PLC0415 - loads numpy
    from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch
    from orpo.data.lengths import LengthPolicy  # noqa: PLC0415
    from orpo.data.split import Sample  # noqa: PLC0415
    from orpo.train.models import pair_tokenizer  # noqa: PLC0415 - loads transformers

    config = ORPOConfig(output_dir="unused", seed=options.seed, **options.settings)
    name = options.tokenizer or options.model or ""
    tokenize = pair_tokenizer(name, config) if name else None
    plan = AuditPlan(
        name=options.dataset,
        lengths=LengthPolicy(config.max_length, config.max_prompt_length, config.truncation),
        tokenize=tokenize,
        model=options.model or name,
        eval_name=options.eval_dataset or "",
        near=not options.no_near,
        data_format=config.format_name,
        pair_rule=config.pair_rule,
    )
    sample = Sample(_SAMPLED, config.seed)
    audit = audit_rows(plan, sample.passing(rows), held)
    if not options.measure or not audit.budget.get("pairs"):
        return audit
    measured, note = _measured(options, sample.rows, audit.budget)
    return replace(audit, budget={**audit.budget, **measured}, notes=(*audit.notes, note))


def _measured(
    options: Options, rows: Sequence[Row], budget: Mapping[str, float]
) -> tuple[dict[str, float], str]:
    """A few training steps: how long an epoch takes, how much memory, and how that is known."""
    from orpo.train.memory import measure_memory  # noqa: PLC0415 - loads torch
    from orpo.train.work import StepClock  # noqa: PLC0415

    clock, longest = StepClock(), int(budget["longest_positions"])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trainer = _trainer(options, rows, folder)
        trainer.add_callback(clock)
        # The model, and what a step on the largest micro-batch needs beyond it.
        estimate = measure_memory(
            trainer.model, trainer.engine, trainer.args, trainer.accelerator.autocast
        )
        weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
        peak = weights + estimate.needed(max(longest, min(estimate.max_tokens, _BATCH * longest)))
        lengths = [_tokens(pair) for pair in trainer.train_dataset]
        trainer.train()
    steps, seconds = len(clock.seconds), sum(clock.seconds[_WARMUP:])
    speed = sum(lengths[_BATCH * _WARMUP : _BATCH * steps]) / seconds
    measured = {
        "tokens_per_second": speed,
        "seconds_per_epoch": budget["tokens_per_epoch"] / speed,
        "peak_bytes": float(peak),
    }
    return measured, (
        f"time: {steps - _WARMUP} training steps of {_BATCH} pairs of these data took "
        f"{seconds:.2f} s on this machine ({trainer.engine.name} engine, device "
        f"{trainer.args.device}); memory: estimated for micro-batches as they would be cut"
    )


def _trainer(options: Options, rows: Sequence[Row], folder: str) -> ORPOTrainer:
    """The trainer that `orpo train` would use, on whole steps of the rows."""
    from transformers import PrinterCallback  # noqa: PLC0415 - loads torch

    from orpo.config import ORPOConfig  # noqa: PLC0415
    from orpo.train.models import named_tokenizer  # noqa: PLC0415
    from orpo.train.trainer import ORPOTrainer  # noqa: PLC0415

    config = ORPOConfig(output_dir=folder, seed=options.seed, **_STEPS, **options.settings)
    named = named_tokenizer(options.tokenizer, config) if options.tokenizer else None
    trainer = ORPOTrainer(
        model=options.model, args=config, train_dataset=list(rows), tokenizer=named
    )
    trainer.remove_callback(PrinterCallback)
    pairs = len(trainer.train_dataset)
    if pairs < _BATCH * (_WARMUP + 1):
        what = f"{pairs} of {len(rows)} sampled rows can be trained on, too few to measure with"
        raise DataError(what, where="--measure")
    trainer.args.max_steps = pairs // _BATCH
    return trainer


def _tokens(pair: Mapping[str, Any]) -> int:
    """Tokens of both sequences, each with its prompt."""
    parts = ("prompt", "chosen", "rejected")
    prompt, chosen, rejected = (len(pair[f"{name}_ids"]) for name in parts)
    return (2 if rejected else 1) * prompt + chosen + rejected


def _show(audit: Audit) -> None:
    rows, table = audit.rows, Table(box=SIMPLE, padding=(0, 1, 0, 0))
    format_name = rows.format or "no format"
    read = as_count(rows.rows_in, "row")
    say(f"{audit.dataset} ({format_name}): {read}, {rows.kept:,} kept")
    for name in ("", "check", "found", "of", "share"):
        right = name in ("found", "of", "share")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for f in audit.findings:
        verdict, share = Text(f.verdict, _COLOURS[f.verdict]), as_share(f.share)
        table.add_row(verdict, Text(f.title), f"{f.count:,}", f"{f.of:,}", share)
    console.print(table)
    for finding in audit.findings:
        if finding.verdict != "ok":
            _explain(finding)
    for line in (*_costs(audit.budget), *audit.notes):
        say(line)
    console.print(Text.assemble("verdict: ", (audit.verdict, _COLOURS[audit.verdict])))


def _explain(finding: Finding) -> None:
    mark = Text(f"{finding.verdict}: ", _COLOURS[finding.verdict])
    console.print(mark + Text(f"{finding.title}. {finding.says} {finding.do}".strip()))
    for example in finding.examples[:2]:
        # Without the folders; which they are, the first line says.
        where, other = (place.rsplit("/", 1)[-1] for place in (example.where, example.other))
        both = f"{where} and {other}" if other else where
        seen = Text(f"  {both}: {example.text}", "dim")
        console.print(seen, no_wrap=True, overflow="ellipsis", crop=True)


def _costs(budget: Mapping[str, float]) -> Iterator[str]:
    if budget:
        yield (
            f"an epoch: {budget['pairs']:,.0f} rows, {budget['tokens_per_epoch']:,.0f} tokens; the "
            f"shared engine computes {budget['positions_per_epoch']:,.0f} positions, padded "
            f"batches of four {budget['padded_positions_per_epoch']:,.0f}"
        )
    if "seconds_per_epoch" in budget:
        yield (
            f"measured: {budget['tokens_per_second']:,.0f} tokens/s, so an epoch takes about "
            f"{as_duration(budget['seconds_per_epoch'])}; peak memory about "
            f"{as_bytes(budget['peak_bytes'])}"
        )
