"""How long `orpo` takes to answer: help, refusals of wrong input, and the first line of real work.

    python benchmarks/startup.py [--tries 3] [--json FILE]

The limits are one second for help, one for a refusal that needs no model, and three for the first
line that real work prints. Each call is a process of its own; what counts is the fastest of some
tries, because others use the machine too. Exit code 1 if a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orpo.commands.main import COMMANDS

ROOT = Path(__file__).parents[1]
BASE = ROOT / "src" / "orpo" / "demo" / "assets" / "base"
PAIRS = ROOT / "src" / "orpo" / "demo" / "assets" / "pairs" / "train.jsonl.gz"
INNER = {
    "data": ("audit", "show", "fix"),
    "evaluate": ("preference", "win-rate", "alpaca", "mt-bench", "harness"),
}
REFUSALS = (
    "frobnicate",
    "train --lerning_rate 1",
    "train --model none --dataset none.jsonl",
    "train recipe-that-is-not-there.yaml",
    "chat none",
    "generate none prompts.jsonl",
    "convert-config train.py",
    "doctor none",
    "report none",
    "merge none out",
    "push none a/b",
    "export none out.gguf",
    "data audit none.jsonl",
    "data show none.jsonl --model none",
    "data fix none.jsonl out.jsonl",
    "evaluate preference none --dataset none.jsonl",
    "tune --model none --dataset none.jsonl",
    "compare --model none --dataset none.jsonl",
)
WORK = (
    f"data audit {PAIRS}",
    f"doctor {BASE}",
    f"train --model {BASE} --dataset {PAIRS} --output_dir run --max_steps 1",
    f"generate {BASE} hello --max_new_tokens 1",
)


def main() -> int:
    """Measure, print a table, and say whether every limit holds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    given = parser.parse_args()
    helps = [name for name in COMMANDS if name not in INNER]
    helps += [f"{name} {one}" for name, ones in INNER.items() for one in ones]
    kinds = {
        "help": (1.0, [f"{name} --help" for name in helps]),
        "refusal": (1.0, list(REFUSALS)),
        "first line": (3.0, list(WORK)),
    }
    found = {}
    for kind, (limit, calls) in kinds.items():
        for call in calls:
            seconds = min(measure(call) for _ in range(given.tries))
            found[call] = {"kind": kind, "limit": limit, "seconds": round(seconds, 3)}
            print(f"{'OVER' if seconds > limit else '':<5}{kind:<11}{seconds:6.2f} s  orpo {call}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(any(one["seconds"] > one["limit"] for one in found.values()))


def measure(call: str) -> float:
    """Seconds until the first line is printed, whether to stdout or stderr."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "orpo", *call.split()],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - started
            process.kill()
        if not line:
            raise RuntimeError(f"orpo {call} says nothing")
        return seconds


if __name__ == "__main__":
    sys.exit(main())
