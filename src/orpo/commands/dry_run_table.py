"""The flags of `orpo train --dry_run`, and what it found, as tables."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from typing import Any

from rich.table import Table
from rich.text import Text

from orpo.commands.console import console, say
from orpo.errors import ConfigError
from orpo.jobs.dry_run.assumptions import Assumptions
from orpo.jobs.dry_run.work import Plan
from orpo.jobs.dry_run_job import DryRun

__all__ = ["add_dry_run", "assumptions", "show_dry_run"]

_TYPES = {
    **dict.fromkeys(("ranks", "pairs", "eval_pairs"), int),
    **dict.fromkeys(("gpu", "wrapper", "accelerate_config"), str),
}
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "states": "optimizer states",
    "copies": "copies and gathered layers",
    "head": "logits and the output layer's gradient",
    "activations": "kept for the backward pass",
}


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """A flag for the dry run, and one for each thing that it may assume."""
    group = parser.add_argument_group("a dry run: all of it but the training")
    group.add_argument(
        "--dry_run",
        "--dry-run",
        action="store_true",
        help="resolve the settings, look at the data, build the model without weights, "
        "estimate memory, time and cost; nothing is written",
    )
    for one in fields(Assumptions):
        names = dict.fromkeys((f"--{one.name}", f"--{one.name.replace('_', '-')}"))
        several: dict[str, Any] = (
            {"nargs": 3, "metavar": ("P", "C", "R")} if one.name == "pair_tokens" else {}
        )
        group.add_argument(
            *names,
            dest=f"assumed_{one.name}",
            type=_TYPES.get(one.name, float),
            help=one.metadata["help"],
            **several,
        )


def assumptions(given: argparse.Namespace) -> Assumptions | None:
    """What the dry run assumes; None if none is asked for.

    Raises:
        ConfigError: Something that only a dry run would use was given without it.
    """
    found = {f.name: getattr(given, f"assumed_{f.name}") for f in fields(Assumptions)}
    if given.dry_run and given.nproc and not found["ranks"]:
        found["ranks"] = given.nproc
    if found["pair_tokens"] is not None:
        found["pair_tokens"] = tuple(found["pair_tokens"])
    assumed = Assumptions(**found)
    if given.dry_run:
        return assumed
    if assumed.given():
        raise ConfigError(
            "is only used by a dry run", where=assumed.given()[0], fix="Add --dry_run."
        )
    return None


def show_dry_run(dry: DryRun) -> None:
    """Settings, memory, time and cost."""
    console.print(_table("settings that are not the defaults", _settings(dry.changed)))
    console.print(_table("memory of each device, at the peak of a step", _memory(dry)))
    console.print(_table("the run", _plan(dry)))
    for line in dry.assumptions:
        say(f"assumed: {line}")
    say(dry.memory.verdict)
    say("a dry run: nothing was trained, and nothing was written")


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(overflow="fold", justify="left")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _settings(changed: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in sorted(changed.items())]


def _memory(dry: DryRun) -> list[tuple[str, str]]:
    parts = asdict(dry.memory.parts)
    rows = [(words, _gib(parts[name])) for name, words in _PARTS.items()]
    tokens = f"{dry.memory.tokens:,} positions at a time"
    return [*rows, ("together", _gib(dry.memory.parts.total)), ("micro-batches", tokens)]


def _plan(dry: DryRun) -> list[tuple[str, str]]:
    plan, pair, model = dry.plan, dry.pair, dry.model
    devices = f"{dry.fleet.ranks} x {dry.fleet.device.name}"
    shared = "" if dry.fleet.wrapper == "one" else f", {dry.fleet.wrapper}"
    rows = [
        ("model", f"{model['weights']:,} weights, {model['trained']:,} trained"),
        ("devices", f"{devices}{shared}"),
        ("tokens of a pair", f"{pair.prompt:.0f} + {pair.chosen:.0f} + {pair.rejected:.0f}"),
        ("pairs of a step", f"{plan.pairs_per_step:,}"),
        ("steps", f"{plan.steps:,} ({plan.epochs:.2f} epochs, {plan.pairs:,} pairs)"),
        ("positions", f"{plan.positions:,.0f}"),
        ("operations", f"{_flops(plan.flops)}{_looks(plan)}"),
    ]
    return [*rows, ("time", _time(plan)), ("cost", _cost(plan))]


def _looks(plan: Plan) -> str:
    scored = plan.evaluation_flops
    return f" and {_flops(scored)} for the held-out pairs" if scored else ""


def _flops(count: float) -> str:
    unit, name = (1e15, "PFLOP") if count >= 1e15 else (1e12, "TFLOP")
    return f"{count / unit:,.3g} {name}"


def _time(plan: Plan) -> str:
    if plan.hours is None or plan.device_hours is None:
        return "not known: give --device_tflops"
    if plan.hours < 1:
        return f"{60 * plan.hours:.1f} minutes"
    return f"{plan.hours:,.1f} hours ({plan.device_hours:,.1f} device hours)"


def _cost(plan: Plan) -> str:
    return "give --price_per_hour" if plan.cost is None else f"{plan.cost:,.2f}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
