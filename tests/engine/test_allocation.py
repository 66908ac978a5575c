"""Freed memory is kept for the next step, and given back after the last one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from orpo.engine.memory import keep_freed_memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")

# In a process of its own: how memory is taken depends on all that was taken before.
PROGRAM = """
import json, resource
import psutil, torch
from orpo.engine.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    before = faults()
    taken = [torch.ones(12 * 2**20) for _ in range(4)]  # 48 MiB each
    held = psutil.Process().memory_info().rss
    del taken
    return faults() - before, held - psutil.Process().memory_info().rss

found = {"before": [step() for _ in range(3)]}
give_back = keep_freed_memory("cuda")  # it has its own
found["cuda"] = [step() for _ in range(3)]
give_back()
give_back = keep_freed_memory("cpu")
found["kept"] = [step() for _ in range(9)]  # it takes some until every block has its place
give_back()
found["after"] = [step() for _ in range(3)]
print(json.dumps(found))
"""


def test_pages_are_taken_once_and_given_back_at_the_end() -> None:
    """On a processor; elsewhere there is nothing to gain, and nothing is done."""
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[list[int]]] = json.loads(run.stdout)
    for faults, freed in found["kept"][-3:]:
        assert faults < 100, found
        assert freed < 2**20, found
    for moment in ("before", "cuda", "after"):
        faults, freed = found[moment][-1]
        assert freed > 100 * 2**20, found
        assert faults > 70, found  # a page is 2 MiB at most


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_freed_memory("cpu")()
