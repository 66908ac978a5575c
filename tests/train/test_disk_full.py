"""A disk that is full or cannot be written to: it is said, and the checkpoint before is intact.

The disks are real ones, of memory and of a few megabytes; where none can be mounted, tests skip.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orpo.commands.main import main
from orpo.errors import SaveError
from orpo.runs.checkpoints import checkpoints, newest_checkpoint
from orpo.runs.manifest import read_manifest, verify
from tests.train.small import text_rows, write_rows
from tests.train.test_resume import At
from tests.train.whole_runs import differences, finished

SETTINGS: dict[str, Any] = {"max_steps": 6, "save_steps": 2, "logging_steps": 1}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
        if mounted.returncode == 0:
            try:
                yield folder
            finally:
                subprocess.run(["umount", "--lazy", str(folder)], check=True)
            return
    pytest.skip("no disk can be mounted here: that takes the rights of root")


def fill(disk: Path, *, leave: int) -> None:
    """Somebody else's file takes all of a disk but so many bytes."""
    with (disk / "filler").open("wb") as file:
        file.truncate(0)
        left = shutil.disk_usage(disk).free - leave
        file.write(b"\0" * left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    finished(folder, **SETTINGS)
    return folder


def goes_on(run: Path, whole: Path, newest: str, *, resume: bool = True, **plan: Any) -> None:
    """The newest checkpoint is as it was; once there is room, the run ends as it would have."""
    found = newest_checkpoint(run)
    assert found.path == (run / newest if newest else None)
    assert not found.skipped
    assert not [path.name for path in run.iterdir() if path.name.startswith((".staging", ".rep"))]
    (run.parent / "filler").unlink(missing_ok=True)
    finished(run, resume=resume, **(plan or SETTINGS))
    assert not differences(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.6, 1.0])
def test_full_in_the_middle_of_a_checkpoint(disk: Path, whole: Path, share: float) -> None:
    """However much of it was written: config, weights, optimizer, or all but the manifest."""
    room = int(share * read_manifest(whole / "checkpoint-2").size)
    with pytest.raises(SaveError) as caught:
        finished(disk / "run", callbacks=[At(4, lambda: fill(disk, leave=room))], **SETTINGS)
    said = str(caught.value)
    assert "checkpoint-4 could not be written: the disk is full (" in said
    assert "MB of 17 MB are free" in said
    assert "checkpoint-2 is intact: see to the disk and go on with --resume." in said
    assert "\n" not in said
    goes_on(disk / "run", whole, "checkpoint-2")


def test_full_at_the_first_checkpoint(disk: Path, whole: Path) -> None:
    fill(disk, leave=200_000)
    with pytest.raises(SaveError, match=r"There is no earlier checkpoint: see to the disk"):
        finished(disk / "run", **SETTINGS)
    goes_on(disk / "run", whole, "", resume=False)


def test_full_while_the_model_is_saved(disk: Path, whole: Path) -> None:
    run = disk / "run"
    trainer = finished(run, **SETTINGS)
    for path in (run / "manifest.json", run / "model.safetensors"):
        path.unlink()
    fill(disk, leave=50_000)
    with pytest.raises(SaveError, match="the disk is full"):
        trainer.save_model()
    goes_on(run, whole, "checkpoint-6")


def test_full_while_metrics_are_written(disk: Path, tmp_path: Path) -> None:
    plan = {**SETTINGS, "max_steps": 40, "save_steps": 20, "gradient_accumulation_steps": 1}
    plan["per_device_train_batch_size"] = 1
    finished(tmp_path / "whole", **plan)
    with pytest.raises(SaveError, match=r"metrics\.jsonl could not be written: the disk is full"):
        finished(disk / "run", callbacks=[At(21, lambda: fill(disk, leave=0))], **plan)
    goes_on(disk / "run", tmp_path / "whole", "checkpoint-20", **plan)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Callable[[], object]]:
    """Takes from everybody, root too, the right to make or rename anything in a folder."""

    def change(how: str, *, check: bool = True) -> int:
        command = ["chattr", how, str(folder)]
        return subprocess.run(command, check=check, capture_output=True).returncode

    folder.mkdir(exist_ok=True)
    try:
        if change("+i", check=False) or change("-i", check=False):
            pytest.skip("no folder can be made immutable here: that takes the rights of root")
        yield lambda: change("+i")
    except FileNotFoundError:
        pytest.skip("there is no chattr here")
    finally:
        change("-i", check=False)


def test_a_permission_that_is_lost(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    with locked(run) as lock, pytest.raises(SaveError) as caught:
        finished(run, callbacks=[At(3, lock)], **SETTINGS)
    assert "checkpoint-4 could not be written: there is no permission to write" in str(caught.value)
    goes_on(run, whole, "checkpoint-2")


def test_orpo_train_on_a_disk_that_is_full_or_read_only(
    base: Path, tmp_path: Path, disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pairs = write_rows(tmp_path / "pairs.jsonl", text_rows(9))
    given = ["--model", str(base), "--dataset", str(pairs)]
    given += ["--use_cpu", "true", "--report_to", "none", "--samples", "0", "--data_cache", "off"]
    given += ["--max_steps", "4", "--save_steps", "2", "--output_dir", str(disk / "run")]

    def train(*flags: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(["train", *given, *flags])
        said = capfd.readouterr().err
        assert "Traceback" not in said
        return code, said.splitlines()[-1]

    fill(disk, leave=1_000_000)
    code, last = train()
    assert code == 1
    assert last.startswith("error: ")
    assert "the disk is full" in last
    assert [path.name for path in checkpoints(disk / "run")] in ([], ["checkpoint-2"])
    (disk / "filler").unlink()
    assert train("--resume", "auto")[0] == 0
    verify(disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, last = train("--overwrite")
    assert code == 2
    assert last.startswith(f"error: {disk / 'run'}: cannot be written to (")
    assert "--output_dir" in last
