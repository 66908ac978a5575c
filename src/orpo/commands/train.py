"""`orpo train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from orpo.commands.console import before_after_table, console, say, say_diagnosis
from orpo.commands.flags import Asked, ask
from orpo.errors import ConfigError
from orpo.options import argument, group, option, training_settings
from orpo.quantities import as_amount, as_bytes, as_count, as_duration, as_flops, as_number
from orpo.runs import processes
from orpo.runs.files import ensure_reachable, located, read_recipe, run_of_recipe
from orpo.runs.manifest import MANIFEST
from orpo.terminal import silent
from orpo.train.fleet import Assumptions

if TYPE_CHECKING:
    from orpo.train.dry_run import DryRun
    from orpo.train.estimate import Plan

EXAMPLES = """\
examples:
  orpo train --model Qwen/Qwen2.5-0.5B --dataset pairs.jsonl --held_out 0.05
  orpo train --model ./model --dataset train.jsonl.gz --eval_dataset test.jsonl.gz \\
      --learning-rate 1e-5 --orpo_alpha 0.2 --num_train_epochs 3 --output_dir run
  orpo train --model ./model --dataset pairs.parquet --lora_r 16 --learning_rate 1e-4
  orpo train recipe.yaml --max_steps 100
  orpo train recipe.yaml --resume
  orpo train recipe.yaml --nproc 4
  orpo train recipe.yaml --dry_run --gpu a100-80 --price_per_hour 2
  accelerate launch --config_file recipes/accelerate/fsdp2.yaml -m orpo train recipe.yaml"""

_DEFAULTS = {"output_dir": "orpo-run"}
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "states": "optimizer states",
    "copies": "copies and gathered layers",
    "head": "logits and the output layer's gradient",
    "activations": "kept for the backward pass",
}


@dataclass(frozen=True)
class Options:
    """A recipe and a flag for every setting."""

    recipe: str | None = argument("RECIPE.yaml", None, help="settings; flags win")
    nproc: str | None = option(
        None, metavar="N", help="ranks to start on this machine, one per GPU"
    )
    settings: dict[str, Any] = training_settings()
    open: bool = option(False, help="open the report in the browser, from the first log on")
    dry_run: bool = option(
        False,
        help="estimate memory, time and cost; nothing is written; see `--help dry run`",
    )
    assumed: Assumptions = group(Assumptions, "a dry run", rare=True)


def run(options: Options) -> dict[str, Any] | int | None:
    """Train and say what came of it; of several ranks the first one speaks."""
    ranks, dry = _ranks(options.nproc), options.dry_run
    if not dry and options.assumed.given():
        where = options.assumed.given()[0]
        raise ConfigError("is only used by a dry run", where=where, fix="Add --dry_run.")
    begins = ranks is not None and not dry and not processes.launched()
    if ranks is not None and begins:
        processes.ensure_launchable(ranks)
    recipe, given = options.recipe, options.settings
    resume = str(given.get("resume"))
    if not dry and recipe is None and resume.endswith((".yaml", ".yml")):
        recipe, given = resume, {**given, "resume": "newest"}  # `orpo train --resume RECIPE.yaml`
    place = None if dry or recipe is None or processes.launched() else _place(recipe, given)
    if place is not None:
        given = {**given, "output_dir": place}
    asked = ask(recipe, given, _DEFAULTS)
    if not processes.launched():  # who launched the ranks has looked already
        refuse_names(asked)
    if dry:
        return _dry_run(asked, options.assumed, ranks)
    if ranks is not None and begins:
        return _launch(ranks, [] if place is None else ["--output_dir", place])
    return _train(asked, ranks or 1, shown=options.open)


def _place(recipe: str, given: Mapping[str, Any]) -> str | None:
    """The output_dir of the recipe of a run, where no flag says it: that run is never written over.

    What goes on, or replaces, does so where the recipe lies; what is trained again, beside it.
    """
    run = run_of_recipe(recipe)
    if run is None or "output_dir" in given:
        return None
    if given.get("resume") or given.get("resume_from_checkpoint") or given.get("overwrite"):
        return str(run)
    if not (run / MANIFEST).is_file():
        what, fix = "the run of this recipe is not finished", "Add --resume to go on, --overwrite"
        raise ConfigError(what, where=str(run), fix=f"{fix} to begin anew, or an --output_dir.")
    named = str(read_recipe(run).get("output_dir") or _DEFAULTS["output_dir"])
    named = str(run) if Path(named).resolve() == run.resolve() else named
    names = chain([named], (f"{named}-{number}" for number in count(2)))
    free = next(name for name in names if not Path(name).exists())
    say(f"{run} holds the finished run of this recipe; it is trained again, in {free}")
    return free


def _ranks(given: str | None) -> int | None:
    if given is not None and not (given.isascii() and given.isdigit()):
        raise ConfigError(f"expected a number of ranks, found {given!r}", where="--nproc")
    return None if given is None else int(given)


def refuse_names(asked: Asked) -> None:
    """A name under which nothing lies, before what loads it is loaded."""
    job, settings = asked.job, asked.settings
    located(str(job.model))
    for spec in filter(None, [*(job.dataset or []), job.eval_dataset]):
        if not Path(spec).exists():
            from orpo.data.sources import check_source  # noqa: PLC0415 - loads torch

            check_source(spec)
    if not settings.get("model_revision") and not settings.get("model_init_kwargs"):
        ensure_reachable(str(job.model))  # else only loading it knows where it may be
        if job.tokenizer:
            ensure_reachable(job.tokenizer, "tokenizer_config.json", kind="tokenizer")


def _launch(ranks: int, more: list[str]) -> int:
    """Run this very command as ranks, say which one failed, and give the exit code."""
    outcome = processes.launch(processes.program([*sys.argv[1:], *more]), ranks)
    for line in [*outcome.said, *([f"error: {outcome.message}"] if outcome.message else [])]:
        say(line)
    return outcome.code


def _train(asked: Asked, ranks: int, *, shown: bool) -> dict[str, Any] | None:
    launched, first = processes.launched(), processes.rank() == 0
    if launched:
        processes.follow_launcher()
    import torch  # noqa: PLC0415 - slow

    from orpo.commands.progress import watched  # noqa: PLC0415 - loads torch
    from orpo.jobs import run_training  # noqa: PLC0415

    gpus = torch.cuda.device_count() if launched else 0
    if gpus and ranks > gpus and not asked.settings.get("use_cpu", False):
        raise ConfigError(f"{ranks} ranks for {gpus} GPUs", where="--nproc")
    config, tell = asked.config(), say if first else silent
    with watched(Path(str(config.output_dir)), tell, shown=shown) as callbacks:
        result = run_training(asked.job, config, say=tell, callbacks=callbacks)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not first:
        return None
    evaluation = result.evaluation
    if evaluation:
        title = as_count(evaluation["after"]["pairs"], "held-out pair")
        console.print(before_after_table(evaluation, title, asked.settings))
    say(result.verdict.says)
    diagnosis = say_diagnosis(result)
    say(f"{result.steps} steps, mean loss {as_number(result.train_loss)}")
    say(f"model and run folder: {result.output_dir}")
    say(f"report: {result.report}")
    if result.verdict.word != "worse":
        say(f"next: orpo chat {result.output_dir}")
    return {**result.as_dict(), "diagnosis": diagnosis}


# A dry run


def _dry_run(asked: Asked, assumed: Assumptions, ranks: int | None) -> dict[str, Any]:
    from orpo.train.dry_run import run_dry_run  # noqa: PLC0415 - loads torch

    if ranks and not assumed.ranks:
        assumed = replace(assumed, ranks=ranks)
    dry = run_dry_run(asked.job, asked.config(), say=say, assumed=assumed)
    settings = [(name, _setting(value)) for name, value in sorted(dry.changed.items())]
    console.print(_table("settings that are not the defaults", settings))
    console.print(_table("memory of each device, at the peak of a step", _memory(dry)))
    console.print(_table("the run", _plan(dry)))
    for line in dry.assumptions:
        say(f"assumed: {line}")
    say(dry.memory.verdict)
    say("a dry run: nothing was trained, and nothing was written")
    return dry.as_dict()


def _table(title: str, rows: list[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(overflow="fold", justify="left")
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table


def _memory(dry: DryRun) -> list[tuple[str, str]]:
    parts, tokens = dry.memory.parts, f"{dry.memory.tokens:,} positions at a time"
    rows = [(words, as_bytes(getattr(parts, name))) for name, words in _PARTS.items()]
    return [*rows, ("together", as_bytes(parts.total)), ("micro-batches", tokens)]


def _plan(dry: DryRun) -> list[tuple[str, str]]:
    plan, pair, model = dry.plan, dry.pair, dry.model
    shared = "" if dry.fleet.wrapper == "one" else f", {dry.fleet.wrapper}"
    scored = plan.evaluation_flops
    looks = f" and {as_flops(scored)} for the held-out pairs" if scored else ""
    return [
        ("model", f"{as_amount(model['weights'])} weights, {as_amount(model['trained'])} trained"),
        ("devices", f"{dry.fleet.ranks} x {dry.fleet.device.name}{shared}"),
        ("tokens of a pair", f"{pair.prompt:.0f} + {pair.chosen:.0f} + {pair.rejected:.0f}"),
        ("pairs of a step", f"{plan.pairs_per_step:,}"),
        ("steps", f"{plan.steps:,} ({as_number(plan.epochs)} epochs, {plan.pairs:,} pairs)"),
        ("positions", as_number(plan.positions)),
        ("operations", f"{as_flops(plan.flops)}{looks}"),
        ("time", _time(plan)),
        ("cost", "give --price_per_hour" if plan.cost is None else f"{plan.cost:,.2f}"),
    ]


def _setting(value: Any) -> str:
    """As a recipe says it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _time(plan: Plan) -> str:
    if plan.hours is None or plan.device_hours is None:
        return "not known: give --device_tflops"
    hours = f" ({plan.device_hours:,.0f} device hours)" if plan.device_hours >= 10 else ""
    return f"{as_duration(3600 * plan.hours)}{hours}"
