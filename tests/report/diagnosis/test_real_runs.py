"""Runs of the embedded model, spoiled on purpose by `benchmarks/diagnosis.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "diagnosis.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_runs_are_diagnosed_rightly(tmp_path: Path) -> None:
    cases = ["rate_too_high"]
    done = subprocess.run(
        [sys.executable, SCRIPT, "--steps", "30", "--folder", tmp_path, "--only", *cases],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": right, ") == len(cases)
