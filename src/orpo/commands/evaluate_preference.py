"""`orpo evaluate preference`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from orpo.audit.findings import amount
from orpo.commands.console import console, say
from orpo.commands.data_options import add_training_settings
from orpo.commands.flags import SETTINGS
from orpo.jobs.preference_job import PreferenceJob, run_preference
from orpo.runs import REPORT

EXAMPLES = """\
examples:
  orpo evaluate preference run
  orpo evaluate preference run --dataset heldout.jsonl --baseline base-model
  orpo evaluate preference model --dataset heldout.jsonl --no_baseline --json > result.json

A run folder needs nothing else: its recipe names the held-out pairs and the model that it
started from. Intervals are of 95 %, over prompts."""

_DEFAULT = Path("orpo-eval-preference")
_LABELS = {
    "preference_accuracy": "prefers the chosen answer",
    "logps/margin": "log-probability per token, chosen less rejected",
    "log_odds_chosen": "log odds ratio, mean",
    "logps/chosen": "log-probability per token, chosen",
    "logps/rejected": "log-probability per token, rejected",
}
_SHARES = {"preference_accuracy"}


def configure(parser: argparse.ArgumentParser) -> None:
    """The model, the pairs, and what to compare with."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="run folder, model folder, adapter folder or Hub id")
    add("--dataset", help="held-out pairs: a file, a folder or a Hub id; default the run's own")
    add("--baseline", metavar="MODEL", help="compare with this; default what the run started from")
    add("--no_baseline", "--no-baseline", action="store_true", help="compare with nothing")
    add("--output_dir", "--output-dir", type=Path, default=_DEFAULT, help=f"default {_DEFAULT}")
    add("--overwrite", action="store_true", help="replace another evaluation in output_dir")
    add("--batch_size", "--batch-size", type=int, default=16, help="pairs of a batch; default 16")
    add("--dtype", help="dtype of the weights; default as in the run, or as they are saved")
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


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Score, and show a table."""
    job = PreferenceJob(
        model=given.model,
        dataset=given.dataset,
        baseline=given.baseline,
        no_baseline=given.no_baseline,
        output_dir=given.output_dir,
        overwrite=given.overwrite,
        batch_size=given.batch_size,
        dtype=given.dtype,
        settings={name: value for name, value in vars(given).items() if name in SETTINGS},
    )
    found = run_preference(job, say=say)
    results = found["results"]
    console.print(_table(results))
    if results["after"]["groups"]:
        console.print(_groups(results["after"]))
    say(results["after"]["calibration"]["words"])
    say(results["after"]["verdict"])
    say(f"page: {job.output_dir / REPORT}")
    return found


def _table(results: Mapping[str, Any]) -> Table:
    before, after = results.get("before"), results["after"]
    account = after["account"]
    title = f"{amount(account['pairs'], 'held-out pair')}, {amount(account['prompts'], 'prompt')}"
    table = _empty(title, "", *(("before",) if before else ()), "after", *_changed(bool(before)))
    for name, label in _LABELS.items():
        cells = [_shown(name, before["intervals"][name])] if before else []
        cells.append(_shown(name, after["intervals"][name]))
        cells += _change_cells(name, after.get("changes", {}).get(name)) if before else []
        table.add_row(label, *cells)
    return table


def _groups(after: Mapping[str, Any]) -> Table:
    """Shares by group, all kinds one below the other."""
    name, compared = "preference_accuracy", after.get("changes_by")
    title = "prefers the chosen answer, by group"
    table = _empty(title, "", "pairs", "after" if compared else "", *_changed(bool(compared)))
    for kind, groups in after["groups"].items():
        table.add_section()
        table.add_row(Text(kind, "bold"))
        for group, found in groups.items():
            cells = [f"{found['n']:,}", _shown(name, found[name])]
            if compared:
                cells += _change_cells(name, compared.get(kind, {}).get(group, {}).get(name))
            table.add_row(Text(f"  {group}"), *cells)
    return table


def _empty(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i and name else "left")
    return table


def _changed(compared: bool) -> tuple[str, ...]:
    return ("change", "verdict") if compared else ()


def _shown(name: str, interval: Mapping[str, Any]) -> str:
    value, low, high = (_number(name, interval[end]) for end in ("value", "low", "high"))
    return f"{value}{' %' if name in _SHARES else ''} ({low} to {high})"


def _change_cells(name: str, change: Mapping[str, Any] | None) -> list[str]:
    if change is None:
        return ["–", "–"]
    value, low, high = (_number(name, change[end], sign="+") for end in ("value", "low", "high"))
    return [f"{value} ({low} to {high})", change["verdict"]]


def _number(name: str, value: float | None, sign: str = "") -> str:
    if value is None:
        return "?"
    share = name in _SHARES
    text = f"{100 * value if share else value:{sign}.{1 if share else 3}f}"
    return text.replace("-", "−")
