"""`orpo compare`."""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from rich.table import Table

from orpo.commands.console import console, figures_table, say
from orpo.commands.flags import ask
from orpo.commands.train import refuse_names
from orpo.demo import story
from orpo.errors import ConfigError
from orpo.evaluate.intervals import Interval
from orpo.evaluate.settings import JudgeSettings
from orpo.experiments.plans import CompareJob, ComparePlan, load_checker
from orpo.experiments.results import BUDGETS, ComparisonResult
from orpo.options import group, training_settings
from orpo.quantities import as_duration
from orpo.runs.typed import plain

EXAMPLES = """\
examples:
  orpo compare
  orpo compare --model ./model --dataset train.jsonl --eval_dataset test.jsonl \\
      --methods orpo,sft,sft+dpo --max_steps 500 --seeds 3 --output_dir comparison
  orpo compare --model ./model --dataset pairs.jsonl --held_out 0.1 --learning_rate 1e-5 \\
      --dpo_learning_rate 5e-7 --budget steps --no_sensitivity --lora_r 16
  orpo compare --model ./model --dataset pairs.jsonl --held_out 0.1 --checker my_checks:grade

With neither model nor data it runs on the embedded ones, in about ten minutes on two cores.
What is finished in --output_dir is not run again; --max_steps are those of ORPO's run."""

_DEMO = {**story.JOB, **story.TEST, **story.SETTINGS, "max_steps": 160}
_DEMO_RATE = 4e-5
"""DPO's."""
_DEFAULTS = {"output_dir": "orpo-compare", "samples": 200}
_MIB = 2**20
_NAMES = {"base": "base model", "orpo": "ORPO", "sft": "SFT", "sft+dpo": "SFT+DPO"}
_SHARES = {
    "preference_accuracy": "prefers chosen",
    "correct_answers": "answers right",
    "judged": "judge",
}


@dataclass(frozen=True)
class Options:
    """What is compared, and a flag for every setting of the training."""

    plan: ComparePlan = group(ComparePlan, "the comparison")
    judge: JudgeSettings | None = group(
        JudgeSettings,
        "the judge",
        "any OpenAI-compatible server; the key comes from an environment variable",
        unless="model",
    )
    settings: dict[str, Any] = training_settings(first=2)


def run(options: Options) -> dict[str, Any]:
    """Compare, and print the table and what became of the paper's claims."""
    given = options.settings
    for name, fix in (("objective", "Use --methods."), ("resume", "It goes on by itself.")):
        if name in given:
            raise ConfigError("is not for a comparison", where=f"--{name}", fix=fix)
    if options.plan.checker:
        load_checker(options.plan.checker)
    job = _job(options)
    from orpo.experiments.compare import run_compare  # noqa: PLC0415 - loads torch
    from orpo.report.write import write_result_page  # noqa: PLC0415 - loads matplotlib

    result = run_compare(job, say=say, overwrite=bool(given.get("overwrite", False)))
    page = write_result_page(result, job.folder)
    for budget in result.budgets:
        console.print(_outcomes(result, budget))
        console.print(_costs(result, budget))
    for line in _claims(result):
        say(line)
    say(f"page: {page}; it took {as_duration(result.seconds or 0.0)}")
    return {**plain(result), "report": str(page)}


def _job(options: Options) -> CompareJob:
    plan, given = options.plan, options.settings
    demo = not given.get("model") and not given.get("dataset")
    defaults = {**_DEFAULTS, **(_DEMO if demo else {})}
    if given.get("held_out"):
        defaults.pop("eval_dataset", None)
    asked = ask(None, given, defaults)
    if asked.job.eval_dataset or asked.job.held_out:  # without, more is wrong than a name
        refuse_names(asked)
    settings = asked.as_ours()
    if demo:
        import torch  # noqa: PLC0415

        from orpo.experiments.tasks import cores  # noqa: PLC0415 - loads torch

        # The model is so small that one run does not fill two cores.
        at_once = 2 if cores() > 1 and not torch.accelerator.is_available() else 1
        plan = replace(
            plan,
            dpo_learning_rate=plan.dpo_learning_rate or _DEMO_RATE,
            checker=plan.checker or story.CHECKER,
            at_once=plan.at_once or at_once,
        )
    folder = Path(str(settings["output_dir"]))
    judge = options.judge.kept_in(folder) if options.judge else None
    command = shlex.join(["orpo", "compare", *sys.argv[2:]])
    return CompareJob(asked.job, settings, folder, plan, judge, command)


def _outcomes(result: ComparisonResult, budget: str) -> Table:
    """What came of each method at a budget, the base model first."""
    rows = [row for row in result.table if row.budget in {"", budget}]
    shares = [name for name in _SHARES if any(getattr(row, name) for row in rows)]
    seeds = f"{len(result.seeds)} seed{'' if len(result.seeds) == 1 else 's'}"
    table = figures_table(
        f"{BUDGETS[budget]}, {seeds}; 95 % intervals, log-probabilities per token",
        *(_SHARES[name] for name in shares),
        *("chosen", "rejected"),
    )
    for row in rows:
        levels = (row.chosen_logps, row.rejected_logps)
        table.add_row(
            _NAMES[row.method],
            *(_share(getattr(row, name)) for name in shares),
            *("" if one is None else f"{one.value:.3f}" for one in levels),
        )
    return table


def _share(interval: Interval | None) -> str:
    if interval is None:
        return ""
    known = isfinite(interval.low) and isfinite(interval.high)
    ends = f" ({100 * interval.low:.1f} to {100 * interval.high:.1f})" if known else ""
    return f"{100 * interval.value:.1f} %{ends}"


def _costs(result: ComparisonResult, budget: str) -> Table:
    """What a run of each method cost at a budget."""
    heads = ("steps", "pairs", "forwards", "GFLOPs", "seconds", "peak MiB")
    table = figures_table("what a run cost", *heads)
    for row in result.table:
        if row.budget == budget and row.cost is not None:
            cost = row.cost
            table.add_row(
                _NAMES[row.method],
                "+".join(f"{stage.steps:.0f}" for stage in cost.stages),
                f"{cost.pairs:,.0f}",
                f"{cost.forwards:,.0f}",
                f"{cost.flops / 1e9:,.0f}",
                f"{cost.seconds:.1f}",
                f"{cost.peak_bytes / _MIB:,.0f}",
            )
    return table


def _claims(result: ComparisonResult) -> Iterator[str]:
    """What the paper claims, and what these runs say."""
    yield "the paper's claims, decided by these runs:"
    for claim in result.claims:
        at = f" [{BUDGETS[claim.budget]}]" if claim.budget else ""
        yield f"  {claim.verdict}: {claim.claim}{at}: {claim.evidence}"
