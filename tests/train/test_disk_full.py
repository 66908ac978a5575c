"""A disk that is full or cannot be written to: it is said, and the checkpoint before is intact.

The disks are real ones, of memory and of a few megabytes; where none can be mounted, tests skip.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from orpo.commands.main import main
from orpo.errors import SaveError
from orpo.runs.checkpoints import checkpoints, newest_checkpoint
from orpo.runs.manifest import read_manifest, verify
from tests.train.small import byte_tokenizer, tiny_llama
from tests.train.whole_runs import differences, trainer_for

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


class AtStep(TrainerCallback):
    """Does something as a step begins."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.action()


def fill(disk: Path, *, leave: int) -> None:
    """Somebody else's file takes all of a disk but so many bytes."""
    with (disk / "filler").open("wb") as file:
        file.truncate(0)
        left = shutil.disk_usage(disk).free - leave
        file.write(b"\0" * left)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finished(folder)
    return folder


def finished(folder: Path, **kwargs: Any) -> None:
    trainer = trainer_for(folder, **SETTINGS)
    trainer.train(**kwargs)
    trainer.save_model()


def is_as_it_was(run: Path, name: str) -> None:
    found = newest_checkpoint(run)
    assert found.path == run / name
    assert not found.skipped
    assert not [path.name for path in run.iterdir() if path.name.startswith((".staging", ".rep"))]


class TestFull:
    @pytest.mark.slow
    @pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 1.0])
    def test_in_the_middle_of_a_checkpoint(self, disk: Path, whole: Path, share: float) -> None:
        """However much of it was written: config, weights, optimizer, or all but the manifest."""
        run = disk / "run"
        room = int(share * read_manifest(whole / "checkpoint-2").size)
        trainer = trainer_for(
            run, callbacks=[AtStep(4, lambda: fill(disk, leave=room))], **SETTINGS
        )
        with pytest.raises(SaveError) as caught:
            trainer.train()
        said = str(caught.value)
        assert "checkpoint-4 could not be written: the disk is full (" in said
        assert "MB of 17 MB are free" in said
        assert "checkpoint-2 is intact: see to the disk and go on with --resume." in said
        assert "\n" not in said
        is_as_it_was(run, "checkpoint-2")
        (disk / "filler").unlink()
        finished(run, resume_from_checkpoint=True)
        assert not differences(run, whole)

    def test_at_the_first_checkpoint(self, disk: Path, whole: Path) -> None:
        run = disk / "run"
        fill(disk, leave=200_000)
        with pytest.raises(SaveError, match=r"There is no earlier checkpoint: see to the disk"):
            trainer_for(run, **SETTINGS).train()
        assert not checkpoints(run)
        (disk / "filler").unlink()
        finished(run)
        assert not differences(run, whole)

    def test_while_the_model_is_saved(self, disk: Path, whole: Path) -> None:
        run = disk / "run"
        trainer = trainer_for(run, **SETTINGS)
        trainer.train()
        fill(disk, leave=50_000)
        with pytest.raises(SaveError, match="the disk is full"):
            trainer.save_model()
        is_as_it_was(run, "checkpoint-6")
        (disk / "filler").unlink()
        trainer.save_model()
        assert not differences(run, whole)

    def test_while_metrics_are_written(self, disk: Path, tmp_path: Path) -> None:
        settings = {**SETTINGS, "max_steps": 40, "save_steps": 20}
        whole = trainer_for(tmp_path / "whole", **settings)
        whole.train()
        whole.save_model()
        run = disk / "run"
        full = AtStep(21, lambda: fill(disk, leave=0))
        with pytest.raises(SaveError) as caught:
            trainer_for(run, callbacks=[full], **settings).train()
        assert "metrics.jsonl could not be written: the disk is full" in str(caught.value)
        is_as_it_was(run, "checkpoint-20")
        (disk / "filler").unlink()
        resumed = trainer_for(run, **settings)
        resumed.train(resume_from_checkpoint=True)
        resumed.save_model()
        assert not differences(run, tmp_path / "whole")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Takes from everybody, root too, the right to make or rename anything in a folder."""

    def change(how: str) -> int:
        command = ["chattr", how, str(folder)]
        return subprocess.run(command, check=False, capture_output=True).returncode

    folder.mkdir(exist_ok=True)
    try:
        if change("+i") or change("-i"):
            pytest.skip("no folder can be made immutable here: that takes the rights of root")
        yield lambda: assert_done(change("+i"))
    except FileNotFoundError:
        pytest.skip("there is no chattr here")
    finally:
        change("-i")


def assert_done(code: int) -> None:
    assert code == 0


def test_a_permission_that_is_lost(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    with locked(run) as lock:
        trainer = trainer_for(run, callbacks=[AtStep(3, lock)], **SETTINGS)
        with pytest.raises(SaveError) as caught:
            trainer.train()
    assert "checkpoint-4 could not be written: there is no permission to write" in str(caught.value)
    is_as_it_was(run, "checkpoint-2")
    finished(run, resume_from_checkpoint=True)
    assert not differences(run, whole)


class TestCommand:
    @pytest.fixture
    def train(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
        """`orpo train` with some flags: its exit code and stderr."""
        tiny_llama().save_pretrained(tmp_path / "model")
        byte_tokenizer().save_pretrained(tmp_path / "model")
        rows = [f'{{"prompt": "Q{i}", "chosen": "yes {i}", "rejected": "no"}}\n' for i in range(9)]
        (tmp_path / "pairs.jsonl").write_text("".join(rows))
        given = ["--model", str(tmp_path / "model"), "--dataset", str(tmp_path / "pairs.jsonl")]
        given += ["--use_cpu", "true", "--report_to", "none", "--samples", "0"]
        given += ["--max_steps", "4", "--save_steps", "2", "--data_cache", "off"]

        def run(*flags: object) -> tuple[int, str]:
            capfd.readouterr()
            code = main(["train", *given, *map(str, flags)])
            return code, capfd.readouterr().err

        return run

    def test_full(self, train: Callable[..., Any], disk: Path) -> None:
        fill(disk, leave=1_000_000)
        code, err = train("--output_dir", disk / "run")
        assert code == 1
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("error: ")
        assert "the disk is full" in err.splitlines()[-1]
        assert [path.name for path in checkpoints(disk / "run")] in ([], ["checkpoint-2"])
        (disk / "filler").unlink()
        code, err = train("--output_dir", disk / "run", "--resume", "auto")
        assert code == 0, err
        verify(disk / "run")

    def test_read_only(self, train: Callable[..., Any], disk: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code, err = train("--output_dir", disk / "run")
        assert code == 2
        assert err.splitlines()[-1].startswith(f"error: {disk / 'run'}: cannot be written to (")
        assert "Traceback" not in err
        assert "--output_dir" in err
