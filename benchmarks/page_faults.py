"""What it costs to take memory anew in every step, and what keeping it saves.

    python benchmarks/page_faults.py MODEL

Prints one JSON object: medians of seconds and of page faults for making a fresh fp32 copy of every
weight in bf16, as a backward pass makes gradients, with freed memory handed back to the system and
kept in the process, in turn, with and without large pages.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time

ROUNDS = 9


def main(model: str) -> None:
    """Measure each way in a process of its own, as torch asks once how to take memory."""
    found = {}
    for pages in ("0", "1"):
        for kept in ("", "kept"):
            command = [sys.executable, __file__, model, "--one", kept]
            environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": pages}
            run = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
            name = f"{'large' if pages == '1' else 'small'} pages, {kept or 'handed back'}"
            found[name] = json.loads(run.stdout.splitlines()[-1])
    print(json.dumps(found, indent=2))


def one(model: str, kept: str) -> None:
    """Seconds and page faults of a round, medians without the first two."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from orpo.engine.memory import keep_freed_memory

    weights = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).parameters()
    gradients = [weight.detach().bfloat16() for weight in weights]
    if kept:
        keep_freed_memory("cpu")
    rounds = []
    for _ in range(ROUNDS):
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        copies = [gradient.to(torch.float32) for gradient in gradients]
        seconds = time.perf_counter() - start
        rounds.append((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
        del copies
    seconds, faults = zip(*rounds[2:], strict=True)
    print(json.dumps({"seconds": statistics.median(seconds), "faults": statistics.median(faults)}))


if __name__ == "__main__":
    if sys.argv[2:3] == ["--one"]:
        one(sys.argv[1], sys.argv[3])
    else:
        main(sys.argv[1])
