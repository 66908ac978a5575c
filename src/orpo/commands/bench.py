"""`orpo bench`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from orpo.commands.console import say
from orpo.commands.evaluate import show
from orpo.demo.story import JOB
from orpo.experiments.plans import BenchJob
from orpo.options import asked, group
from orpo.runs.files import ensure_reachable
from orpo.terminal import json_line

EXAMPLES = """\
examples:
  orpo bench
  orpo bench --model ./model --dataset pairs.jsonl --batch_size 1,4,8 \\
      --against trl,trl-grouped,orpo-padded
  orpo bench --model Qwen/Qwen2.5-0.5B --rows ultrafeedback-like --batch_size 2
  orpo bench --model ./model --dataset pairs.jsonl --lora --precision bf16-pure --json

It needs 3 steps, one before them, and a machine that does nothing else: else it is no result."""

_MIB = 2**20
_COLUMNS = ("", "ckpt", "pairs/s", "tokens/s", "GFLOP/s", "matmul", "peak MiB", "less idle")


@dataclass(frozen=True)
class Options:
    """Everything has a default: the embedded model and its pairs against TRL."""

    bench: BenchJob = group(BenchJob, "the bench")
    json: bool = asked("json")


def run(options: Options) -> dict[str, Any]:
    """Measure, and print a table and one line of JSON."""
    job, sizes = options.bench, (4,)
    if not job.model and job.dataset is None and job.rows in {"", "dataset"}:
        job, sizes = replace(job, dataset=JOB["dataset"][0]), (16,)
    job = replace(
        job,
        model=job.model or JOB["model"],
        rows=job.rows or ("dataset" if job.dataset else "hh-like"),
        batch_sizes=job.batch_sizes or sizes,
    )
    ensure_reachable(job.model)
    from orpo.experiments.bench import run_bench  # noqa: PLC0415 - loads torch

    result = run_bench(job, say=say)
    if result["lacking"]:
        say(f"No result: {'; '.join(result['lacking'])}.")
    for cell in result["cells"]:
        _show(cell)
        for line in _comparison(cell):
            say(line)
    if not options.json:  # with it, the same line is printed by the caller
        print(json_line(result))
    return result


def _show(cell: dict[str, Any]) -> None:
    lengths = " / ".join(f"{value:.0f}" for value in cell["tokens_per_pair"].values())
    title = f"batch {cell['batch_size']}: {cell['pairs']} pairs of {lengths} tokens"
    rows = [
        (
            name,
            "on" if side["gradient_checkpointing"] else "off",
            f"{side['pairs_per_second']:.3g}",
            f"{side['tokens_per_second']:,.0f}",
            f"{side['useful_flops_per_second'] / 1e9:,.1f}",
            f"{100 * side['share_of_matmul_rate']:.1f} %",
            f"{side['peak_bytes'] / _MIB:,.0f}",
            f"{side['beyond_idle_bytes'] / _MIB:,.0f}",
        )
        for name, side in cell["sides"].items()
    ]
    show(_COLUMNS, rows, title)


def _comparison(cell: dict[str, Any]) -> Iterator[str]:
    for name, found in cell["against"].items():
        speed, beyond = found["speed_ratio"], found["beyond_idle_memory_ratio"]
        parts = [
            f"{speed['median']:.2f} times the speed ({speed['min']:.2f} to {speed['max']:.2f} "
            f"by round, {speed['overall']:.2f} overall)",
            f"{found['peak_memory_ratio']:.2f} of the peak memory"
            + ("" if beyond is None else f", {beyond:.2f} of that beyond idle"),
        ]
        difference, other = found["first_loss_relative_difference"], found["rows_with_other_tokens"]
        if difference is not None:
            parts.append(f"first losses differ by {difference:.1e}")
        parts.append("same tokens" if not other else f"{other} rows with other tokens")
        if speed["min"] <= 1 <= speed["max"]:
            parts.append("the rounds disagree which is faster")
        yield f"orpo against {name}: " + "; ".join(parts)
