"""`orpo data audit`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from orpo.audit import Audit, Finding
from orpo.audit.findings import amount
from orpo.commands.console import console, say
from orpo.commands.data_options import add_training_settings, training_settings
from orpo.commands.main import print_json
from orpo.errors import DataError
from orpo.jobs.audit_job import AuditJob, run_audit
from orpo.runs import ensure_writable

EXAMPLES = """\
examples:
  orpo data audit pairs.jsonl
  orpo data audit pairs.jsonl --model ./model --max_length 1024 --html audit.html
  orpo data audit train.jsonl.gz --eval_dataset test.jsonl.gz --strict
  orpo data audit pairs.parquet --model ./model --measure --json > audit.json

Verdicts: ok, nothing to do; look, worth a look; stop, do not train on this yet.
With --strict a "stop" makes the exit code 2."""

_COLOURS = {"ok": "green", "look": "yellow", "stop": "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    """The data set, the model, and where the results go."""
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="a file, a folder or a Hub id")
    add("--eval_dataset", "--eval-dataset", help="evaluation data, to look for leaked prompts")
    add("--model", help="its tokenizer counts tokens and its template is tried")
    add("--tokenizer", help="the tokenizer, if not the model's")
    add("--measure", action="store_true", help="take a few training steps: time and memory")
    add("--no_near", "--no-near", action="store_true", help="leave out near duplicates")
    add("--seed", type=int, default=42, help="of the pairs that --measure draws; default 42")
    add("--html", type=Path, metavar="FILE", help="write a page with pictures")
    add("--strict", action="store_true", help='exit with 2 if the verdict is "stop"')
    add_training_settings(
        parser,
        "data_format",
        "pair_rule",
        "max_length",
        "max_prompt_length",
        "truncation",
        "chat_template",
        "chat_template_kwargs",
        "trust_remote_code",
    )


def execute(given: argparse.Namespace) -> dict[str, Any] | None:
    """Audit, print a table, and write what was asked for."""
    if given.html:
        ensure_writable(given.html, fix="Give the name of an HTML file.")
    job = AuditJob(
        dataset=given.dataset,
        eval_dataset=given.eval_dataset,
        model=given.model,
        tokenizer=given.tokenizer,
        config=training_settings(given, seed=given.seed, output_dir="unused"),
        near=not given.no_near,
        measure=given.measure,
    )
    audit = run_audit(job, say=say)
    _show(audit)
    result = audit.as_dict()
    if given.html:
        from orpo.report import write_audit_page  # noqa: PLC0415 - pictures take seconds to load

        say(f"page: {write_audit_page(result, given.html)}")
    if given.strict and audit.verdict == "stop":
        if getattr(given, "json", False):  # whoever reads it wants to know why
            print_json(result)
        raise _stopped(audit)
    return result


def _show(audit: Audit) -> None:
    rows = audit.rows
    say(
        f"{audit.dataset} ({rows.format or 'no format'}): {amount(rows.rows_in, 'row')}, "
        f"{rows.kept:,} kept"
    )
    console.print(_table(audit))
    for finding in audit.findings:
        if finding.verdict != "ok":
            _explain(finding)
    for line in (*_costs(audit), *audit.notes):
        say(line)
    console.print(Text.assemble("verdict: ", (audit.verdict, _COLOURS[audit.verdict])))


def _table(audit: Audit) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    for name in ("found", "of", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for finding in audit.findings:
        table.add_row(
            Text(finding.verdict, _COLOURS[finding.verdict]),
            Text(finding.title),
            f"{finding.count:,}",
            f"{finding.of:,}",
            f"{100 * finding.share:.1f} %",
        )
    return table


def _explain(finding: Finding) -> None:
    mark = Text(f"{finding.verdict}: ", _COLOURS[finding.verdict])
    console.print(mark + Text(f"{finding.title}. {finding.says} {finding.do}".strip()))
    for example in finding.examples[:2]:
        other = f" and {_name(example.other)}" if example.other else ""
        seen = Text(f"  {_name(example.where)}{other}: {example.text}", "dim")
        console.print(seen, no_wrap=True, overflow="ellipsis", crop=True)


def _name(where: str) -> str:
    """A place without the folders; which they are, the first line says."""
    return where.rsplit("/", 1)[-1]


def _costs(audit: Audit) -> list[str]:
    budget = audit.budget
    if not budget:
        return []
    lines = [
        f"an epoch: {budget['pairs']:,.0f} rows, {budget['tokens_per_epoch']:,.0f} tokens; the "
        f"shared engine computes {budget['positions_per_epoch']:,.0f} positions, padded batches "
        f"of four {budget['padded_positions_per_epoch']:,.0f}"
    ]
    if "seconds_per_epoch" in budget:
        lines.append(
            f"measured: {budget['tokens_per_second']:,.0f} tokens/s, so an epoch takes about "
            f"{_duration(budget['seconds_per_epoch'])}; peak memory about "
            f"{budget['peak_bytes'] / 2**30:.2f} GiB"
        )
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _stopped(audit: Audit) -> DataError:
    stops = [f for f in audit.findings if f.verdict == "stop"]
    names = ", ".join(f.title for f in stops)
    return DataError(
        f"the verdict is stop ({names}): {stops[0].says.rstrip('.')}",
        where=audit.dataset,
        fix=stops[0].do or "See the table.",
    )
