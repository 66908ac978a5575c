"""What a manifest promises, and who holds a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from orpo.runs.commit import commit_files, stage
from orpo.runs.lock import lock_holder, run_lock
from orpo.runs.manifest import verify

_TRIES = (
    "import pathlib, sys; from orpo.runs.lock import run_lock\n"
    "with run_lock(pathlib.Path(sys.argv[1])): print('taken')"
)


def another_takes(folder: Path) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", _TRIES, str(folder)], capture_output=True, text=True, check=False
    )
    return done.stdout == "taken\n"


def test_asking_for_the_holder_lets_go_of_nothing(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    with run_lock(tmp_path):
        assert f"process {os.getpid()} " in str(lock_holder(tmp_path))
        assert not another_takes(tmp_path)
    assert lock_holder(tmp_path) is None
    assert another_takes(tmp_path)
    (tmp_path / ".lock").write_text('{"pid": 1, "host": "h"}', encoding="utf-8")  # of a killed one
    assert lock_holder(tmp_path) is None


def test_the_model_card_may_be_written_anew(tmp_path: Path) -> None:
    staged = stage(tmp_path, "model")
    (staged / "README.md").write_text("of the library", encoding="utf-8")
    (staged / "model.safetensors").write_bytes(b"weights")
    manifest = commit_files(staged, tmp_path, run="r", step=1)
    assert set(manifest.files) == {"model.safetensors"}
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "of the library"
    (tmp_path / "README.md").write_text("ours", encoding="utf-8")
    verify(tmp_path)
