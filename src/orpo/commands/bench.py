"""`orpo bench`."""

from __future__ import annotations

import argparse
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from orpo.commands.console import console, say
from orpo.commands.main import print_json
from orpo.demo.story import ASSETS
from orpo.errors import ConfigError
from orpo.jobs.bench import CHECKPOINTING, PRECISIONS, BenchJob, run_bench

EXAMPLES = """\
examples:
  orpo bench
  orpo bench --model ./model --dataset pairs.jsonl --batch_size 1,4,8 \\
      --against trl,trl-grouped,orpo-padded
  orpo bench --model Qwen/Qwen2.5-0.5B --rows ultrafeedback-like --batch_size 2
  orpo bench --model ./model --dataset pairs.jsonl --lora --precision bf16-pure --json"""

_MIB = 2**20
_COLUMNS = ("ckpt", "pairs/s", "tokens/s", "GFLOP/s", "matmul", "peak MiB", "less idle")


def configure(parser: argparse.ArgumentParser) -> None:
    """Everything has a default: the embedded model and its pairs against TRL."""
    add = parser.add_argument
    add("--model", help="folder or Hub id; default the demo's base model")
    add("--dataset", help="preference data; default, with no model given, the demo's pairs")
    add("--rows", help="dataset, hh-like or ultrafeedback-like (synthetic rows of such lengths)")
    add("--batch_size", "--batch-size", help="pairs in a step, by comma; default 4, demo 16")
    add("--against", default="trl", help="trl, trl-grouped, orpo-padded, by comma; default trl")
    add(
        "--gradient_checkpointing",
        "--gradient-checkpointing",
        default="off",
        choices=CHECKPOINTING,
        help="trl-default: ours off, TRL's on; default off",
    )
    add("--lora", action="store_true", help="an adapter of rank 16 instead of the whole model")
    add(
        "--precision",
        default="bf16",
        choices=PRECISIONS,
        help="bf16: fp32 weights under autocast; bf16-pure: bf16 weights; default bf16",
    )
    add("--max_length", "--max-length", type=int, help="default 1024; ultrafeedback-like 2048")
    add("--steps", type=int, default=5, help="steps that count; default 5")
    add("--warmup", type=int, default=1, help="steps before them; default 1")


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print a table and one line of JSON."""
    result = run_bench(_job(given), say=say)
    for cell in result["cells"]:
        console.print(_table(cell))
        for line in _comparison(cell):
            say(line)
    if not given.json:  # with it, the same line is printed by the caller
        print_json(result)
    return result


def _job(given: argparse.Namespace) -> BenchJob:
    dataset, sizes = given.dataset, given.batch_size or "4"
    if given.model is None and dataset is None and given.rows in (None, "dataset"):
        dataset, sizes = str(ASSETS / "pairs" / "train.jsonl.gz"), given.batch_size or "16"
    return BenchJob(
        model=given.model or str(ASSETS / "base"),
        dataset=dataset,
        rows=given.rows or ("dataset" if dataset else "hh-like"),
        batch_sizes=tuple(_number(part) for part in _parts(sizes)),
        against=tuple(_parts(given.against)),
        gradient_checkpointing=given.gradient_checkpointing,
        lora=given.lora,
        precision=given.precision,
        max_length=given.max_length,
        steps=given.steps,
        warmup=given.warmup,
    )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(
            f"expected whole numbers, found {text!r}", where="--batch_size"
        ) from error


def _table(cell: dict[str, Any]) -> Table:
    lengths = " / ".join(f"{value:.0f}" for value in cell["tokens_per_pair"].values())
    title = f"batch {cell['batch_size']}: {cell['pairs']} pairs of {lengths} tokens"
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, side in cell["sides"].items():
        table.add_row(
            name,
            "on" if side["gradient_checkpointing"] else "off",
            f"{side['pairs_per_second']:.3g}",
            f"{side['tokens_per_second']:,.0f}",
            f"{side['useful_flops_per_second'] / 1e9:,.1f}",
            f"{100 * side['share_of_matmul_rate']:.1f} %",
            f"{side['peak_bytes'] / _MIB:,.0f}",
            f"{side['beyond_idle_bytes'] / _MIB:,.0f}",
        )
    return table


def _comparison(cell: dict[str, Any]) -> list[str]:
    lines = []
    for name, found in cell["against"].items():
        speed, beyond = found["speed_ratio"], found["beyond_idle_memory_ratio"]
        parts = [
            f"{speed['median']:.2f} times the speed ({speed['min']:.2f} to {speed['max']:.2f} "
            f"by round, {speed['overall']:.2f} overall)",
            f"{found['peak_memory_ratio']:.2f} of the peak memory"
            + ("" if beyond is None else f", {beyond:.2f} of that beyond idle"),
        ]
        difference = found["first_loss_relative_difference"]
        if difference is not None:
            parts.append(f"first losses differ by {difference:.1e}")
        other = found["rows_with_other_tokens"]
        parts.append("same tokens" if not other else f"{other} rows with other tokens")
        lines.append(f"orpo against {name}: " + "; ".join(parts))
    return lines
