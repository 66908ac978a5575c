"""`orpo demo`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.commands.console import before_after_table, console, rows_table, say, say_diagnosis
from orpo.options import option
from orpo.quantities import as_count, as_duration

EXAMPLES = """\
examples:
  orpo demo
  orpo demo --output_dir my-demo --json

A demo that was stopped goes on with the same command."""

_SHOWN = 5


@dataclass(frozen=True)
class Options:
    """Nothing is needed; a folder may be named."""

    output_dir: str = option("orpo-demo", help="default orpo-demo")
    max_steps: int = option(-1, help="stop earlier")
    seed: int = option(42, help="default 42")
    open: bool = option(False, help="open the report in the browser, from the first log on")
    overwrite: bool = option(False, help="start anew where a demo is finished or was stopped")


def run(options: Options) -> dict[str, Any]:
    """Tell the whole story."""
    from orpo.commands.progress import watched  # noqa: PLC0415 - loads torch
    from orpo.demo.story import run_demo  # noqa: PLC0415 - loads torch

    started = time.perf_counter()
    with watched(Path(options.output_dir), say, shown=options.open) as callbacks:
        result = run_demo(
            options.output_dir,
            say=say,
            callbacks=callbacks,
            max_steps=options.max_steps,
            seed=options.seed,
            overwrite=options.overwrite,
        )
    pairs = as_count(result.evaluation["after"]["pairs"], "held-out prompt")
    title = f"{pairs}, none of them seen in training"
    console.print(before_after_table(result.evaluation, title))
    better, worse = _turned(result.samples, "after"), _turned(result.samples, "before")
    say(
        f"{len(better)} answers turned from wrong to right, {len(worse)} from right to wrong; "
        "some of them, evenly spaced:"
    )
    console.print(rows_table(["prompt", "before", "after"], _side_by_side(result.samples)))
    say(result.verdict.says)
    diagnosis = say_diagnosis(result)
    seconds = time.perf_counter() - started
    took = f"the whole demo took {as_duration(seconds)}"
    if result.was_finished:
        took = "this demo was finished before: add --overwrite to see it done"
    say(f"{result.steps} steps of ORPO; {took}")
    say(f"aligned model and report: {result.output_dir}, {result.report}")
    say("type next:")
    say(f"  orpo chat {result.output_dir}")
    say("  orpo train --model MODEL --dataset YOUR_PAIRS.jsonl --held_out 0.05")
    return {**result.as_dict(), "diagnosis": diagnosis, "seconds": seconds}


def _turned(samples: list[dict[str, Any]], right: str) -> list[dict[str, Any]]:
    """Samples that were answered rightly at that moment and wrongly at the other."""
    wrong = "before" if right == "after" else "after"
    return [s for s in samples if s[f"correct_{right}"] and not s[f"correct_{wrong}"]]


def _side_by_side(samples: list[dict[str, Any]]) -> list[list[str]]:
    """Evenly spaced samples whose verdict changed, for better or worse."""
    changed = [s for s in samples if s["correct_before"] != s["correct_after"]] or samples
    spaced = changed[:: max(1, len(changed) // _SHOWN)][:_SHOWN]
    from orpo.evaluate.judge.fences import conversation  # noqa: PLC0415 - of the judge's room

    return [
        [conversation(one["prompt"]), _marked(one, "before"), _marked(one, "after")]
        for one in spaced
    ]


def _marked(sample: dict[str, Any], moment: str) -> str:
    mark = "✓" if sample[f"correct_{moment}"] else f"✗ ({sample[f'reason_{moment}']})"
    return f"{sample[moment]}\n{mark}"
