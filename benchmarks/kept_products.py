"""What keeping fewer products compiled by shape saves: memory, and whether it costs time.

    python benchmarks/kept_products.py MODEL DATASET [--batch_sizes 1 8] [--steps 60 12]

DATASET is a file of preference pairs in JSON lines. Trains the first steps of it, in a process of
its own for each of oneDNN's and torch's own capacity of 1,024 products and orpo's 128, twice in
turn. Prints one JSON line for each process: peak resident memory beyond the loaded model, and
seconds of the second half of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

CAPACITIES = (1024, 128, 128, 1024)


def main() -> None:
    """Every capacity in a process of its own, as both libraries ask once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 12])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.model, given.dataset, given.batch_sizes[0], given.steps[0])
        return
    for pairs, steps in zip(given.batch_sizes, given.steps, strict=True):
        for capacity in CAPACITIES:
            names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
            size = ["--batch_sizes", str(pairs), "--steps", str(steps)]
            run = subprocess.run(
                [sys.executable, __file__, given.model, given.dataset, *size, "--one"],
                env={**os.environ, **dict.fromkeys(names, str(capacity))},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found = json.loads(run.stdout.splitlines()[-1])
            kept = {"pairs": pairs, "steps": steps, "capacity": capacity}
            print(json.dumps({**kept, **found}), flush=True)


def one(model: str, dataset: str, pairs: int, steps: int) -> None:
    """Train, and print what it took."""
    import datasets
    from transformers import TrainerCallback

    from orpo import ORPOConfig, ORPOTrainer

    class Clock(TrainerCallback):
        """Seconds of every step."""

        def __init__(self) -> None:
            self.start = 0.0
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    with tempfile.TemporaryDirectory() as folder:
        trainer = ORPOTrainer(
            model=model,
            args=ORPOConfig(
                output_dir=folder,
                per_device_train_batch_size=pairs,
                max_steps=steps,
                max_length=1024,
                bf16=True,
                compile_blocks=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=datasets.load_dataset("json", data_files=dataset, split="train"),
            callbacks=[clock := Clock()],
        )
        idle = _peak()
        trainer.train()
    late = clock.seconds[steps // 2 :]
    print(json.dumps({"beyond_idle_gib": round(_peak() - idle, 2), "seconds": round(sum(late), 1)}))


def _peak() -> float:
    """GiB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
