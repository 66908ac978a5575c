"""FSDP2 with two real processes: weights in pieces, the gradients of the whole."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import forked


@pytest.mark.slow
def test_weights_in_pieces_have_the_gradients_of_the_whole(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = forked.two_ranks("tests.engine.fsdp_worker", out)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    run = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    print(found)
    assert len(found) == 4
    assert max(found.values()) < 1e-5, found
