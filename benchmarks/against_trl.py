"""ORPOTrainer beside TRL's, cell by cell over a grid of settings.

    python benchmarks/against_trl.py MODEL DATASET --out cells.jsonl [--grid quick|full]

MODEL is a model folder or Hub id; DATASET any data set that `orpo train` reads, such as HH-RLHF.
TRL comes with `pip install orpo[bench]`. Every cell is what `orpo bench` measures: both trainers
in processes of their own, one step each in turn, on the same rows. Each cell is one line of OUT
as soon as it is done; a Markdown table of all cells is printed at the end. On a machine with a GPU
that is where it runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orpo.errors import TrainingError
from orpo.experiments.bench import run_bench
from orpo.experiments.plans import PEERS, PRECISIONS, BenchJob

HEADER = (
    "rows",
    "batch",
    "weights",
    "ckpt",
    "side",
    "pairs/s",
    "of matmul",
    "peak GiB",
    "orpo is faster",
    "by round",
    "orpo's peak",
    "beyond idle",
)


def grid(given: argparse.Namespace) -> Iterator[BenchJob]:
    """The cells, the cheap ones first; steps of one pair, which vary most, four times as many."""
    quick, against = given.grid == "quick", tuple(given.against.split(","))
    theirs_on = "trl-default" if any(peer.startswith("trl") for peer in against) else "on"
    for lora in (False,) if quick else (False, True):
        for rows, batch_size in (
            *(("dataset", size) for size in ((4,) if quick else (1, 4, 8))),
            ("ultrafeedback-like", 4),
        ):
            for checkpointing in (theirs_on, "off"):
                yield BenchJob(
                    model=given.model,
                    dataset=given.dataset,
                    rows=rows,
                    batch_sizes=(batch_size,),
                    against=against,
                    gradient_checkpointing=checkpointing,
                    lora=lora,
                    precision=given.precision,
                    steps=given.steps * (4 if batch_size == 1 else 1),
                    warmup=given.warmup,
                )


def measured(job: BenchJob) -> dict[str, Any]:
    """One line of the result; a cell that breaks down says so and leaves the others alone."""
    try:
        result = run_bench(job, say=lambda line: print(line, file=sys.stderr))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return {**vars(job), "error": str(error)}
    (cell,) = result.pop("cells")
    return {**result, "cell": cell}


def table(lines: list[dict[str, Any]]) -> str:
    """All cells as Markdown, one row for each side."""
    rows = [HEADER, ("---",) * len(HEADER)]
    for line in lines:
        rows += _broken(line) if "error" in line else _sides(line)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _sides(line: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, side in line["cell"]["sides"].items():
        found = line["cell"]["against"].get(name)
        yield (
            *_setting(line),
            "on" if side["gradient_checkpointing"] else "off",
            name,
            f"{side['pairs_per_second']:.3g}",
            f"{100 * side['share_of_matmul_rate']:.1f} %",
            f"{side['peak_bytes'] / 2**30:.2f}",
            *(_ratios(found) if found else ("", "", "", "")),
        )


def _ratios(found: dict[str, Any]) -> tuple[str, ...]:
    speed, beyond = found["speed_ratio"], found["beyond_idle_memory_ratio"]
    return (
        f"{speed['median']:.2f}x",
        f"{speed['min']:.2f}-{speed['max']:.2f}",
        f"{found['peak_memory_ratio']:.2f}x",
        "" if beyond is None else f"{beyond:.2f}x",
    )


def _broken(line: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield (*_setting(line), line["gradient_checkpointing"], "broke down", *[""] * 7)


def _setting(line: dict[str, Any]) -> tuple[str, ...]:
    weights = "LoRA" if line["lora"] else "full"
    return line["rows"], str(line["batch_sizes"][0]), f"{weights}, {line['precision']}"


def main() -> None:
    """Run the grid and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--grid", choices=("quick", "full"), default="quick")
    parser.add_argument("--against", default="trl,trl-grouped,orpo-padded", help=", ".join(PEERS))
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    given = parser.parse_args()
    lines = []
    with given.out.open("w", encoding="utf-8") as out:
        for job in grid(given):
            lines.append(measured(job))
            out.write(json.dumps(lines[-1], ensure_ascii=False) + "\n")
            out.flush()
    print(table(lines))


if __name__ == "__main__":
    main()
