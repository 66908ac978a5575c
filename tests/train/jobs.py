"""Jobs in processes of their own, which are forked from one that has imported everything.

    [first, second] = on_two_ranks(gradients_of_a_step, tmp_path)

A job is a function that stands beside its test; it may give back tensors and plain values by name.
Two ranks talk over gloo.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests import forked


def started(
    job: Callable[..., Any], out: Path, *words: object, ranks: int = 1, **environment: str
) -> subprocess.CompletedProcess[str]:
    """The job's process, ended."""
    command = [__name__, job.__module__, job.__name__, *map(str, (out, *words))]
    return subprocess.run(
        [forked.python(), "-m", *command] if ranks == 1 else forked.two_ranks(*command),
        cwd=forked.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def on_two_ranks(
    job: Callable[..., dict[str, Any]], out: Path, *words: object, **environment: str
) -> list[dict[str, Any]]:
    """What a job found on each rank."""
    done = started(job, out, *words, ranks=2, **environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(out / f"found-{rank}.pt", weights_only=True) for rank in (0, 1)]


def main(module: str, job: str, out: Path, *words: str) -> None:
    found = getattr(importlib.import_module(module), job)(out, *words)
    if dist.is_initialized():
        torch.save(found, out / f"found-{dist.get_rank()}.pt")
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:3], Path(sys.argv[3]), *sys.argv[4:])
