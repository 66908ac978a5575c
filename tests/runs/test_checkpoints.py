"""Which checkpoint can be trusted: damage of every kind is named, and the one before is taken."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from orpo.errors import CheckpointError
from orpo.runs.checkpoints import checkpoint_name, checkpoints, newest_checkpoint, rotate, set_aside
from orpo.runs.commit import commit, stage, sweep
from orpo.runs.manifest import verify

SIZES = {
    "model.safetensors": 5000,
    "optimizer.pt": 3000,
    "rng_state.pth": 700,
    "progress.json": 1,
    "trainer_state.json": 400,
}


def make(folder: Path, step: int, run: str = "a", *, resumable: bool = True) -> Path:
    draw, name = random.Random(step), checkpoint_name(step)
    staged = stage(folder, name)
    for file, size in SIZES.items():
        (staged / file).write_bytes(draw.randbytes(size))
    commit(staged, folder / name, run=run, step=step, resumable=resumable)
    return folder / name


def named(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def refusal(folder: Path) -> str:
    """Why it cannot be used; empty if it can."""
    try:
        verify(folder)
    except CheckpointError as error:
        return str(error)
    return ""


class TestDamage:
    def test_two_hundred_cuts_and_flipped_bits_are_all_refused(self, tmp_path: Path) -> None:
        before, newest = make(tmp_path, 3), make(tmp_path, 6)
        files = sorted(newest.iterdir())
        assert len(files) == len(SIZES) + 1
        draw, wrong = random.Random(5), []
        for number in range(200):
            path = files[number % len(files)]
            content = path.read_bytes()
            at, bit = draw.randrange(len(content)), draw.randrange(8)
            flipped = bytes([content[at] ^ 1 << bit])
            cut = draw.random() < 0.5
            damaged = content[:at] if cut else content[:at] + flipped + content[at + 1 :]
            assert damaged != content
            path.write_bytes(damaged)
            what = f"{path.name} {'cut at' if cut else f'bit {bit} of'} {at}"
            said = refusal(newest)
            if path.name not in said or str(newest) not in said:
                wrong.append((what, said))
            found = newest_checkpoint(tmp_path)
            assert found.path == before, what
            assert named([path for path, _ in found.skipped]) == ["checkpoint-6"]
            assert path.name in found.skipped[0][1]
            path.write_bytes(content)
        assert not wrong
        assert newest_checkpoint(tmp_path).path == newest

    @pytest.mark.parametrize("name", SIZES)
    def test_a_missing_file_is_named(self, tmp_path: Path, name: str) -> None:
        folder = make(tmp_path, 3)
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            verify(folder)

    def test_a_folder_in_place_of_a_file(self, tmp_path: Path) -> None:
        folder = make(tmp_path, 3)
        (folder / "optimizer.pt").unlink()
        (folder / "optimizer.pt").mkdir()
        with pytest.raises(CheckpointError, match=r"optimizer\.pt is missing"):
            verify(folder)

    def test_files_that_nobody_promised_do_no_harm(self, tmp_path: Path) -> None:
        folder = make(tmp_path, 3)
        (folder / "notes.txt").write_text("mine")
        verify(folder)


class TestNewest:
    def test_the_largest_step_not_the_last_name(self, tmp_path: Path) -> None:
        for step in (100, 9, 20):
            make(tmp_path, step)
        (tmp_path / "checkpoint-x").mkdir()
        (tmp_path / "checkpoint-7").write_text("a file")
        assert named(checkpoints(tmp_path)) == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
        assert newest_checkpoint(tmp_path).path == tmp_path / "checkpoint-100"

    def test_says_why_each_one_was_passed_over(self, tmp_path: Path) -> None:
        make(tmp_path, 2)
        make(tmp_path, 4, resumable=False)
        make(tmp_path, 6, run="b")
        (tmp_path / "checkpoint-8").mkdir()
        found = newest_checkpoint(tmp_path, run="a")
        assert found.path == tmp_path / "checkpoint-2"
        assert found.manifest is not None
        assert found.manifest.step == 2
        reasons = {path.name: reason for path, reason in found.skipped}
        assert list(reasons) == ["checkpoint-8", "checkpoint-6", "checkpoint-4"]
        assert "never committed" in reasons["checkpoint-8"]
        assert "another run" in reasons["checkpoint-6"]
        assert "no optimizer" in reasons["checkpoint-4"]

    def test_none(self, tmp_path: Path) -> None:
        assert newest_checkpoint(tmp_path / "nowhere").path is None
        make(tmp_path, 2)
        found = newest_checkpoint(tmp_path, run="b")
        assert found.path is None
        assert len(found.skipped) == 1


class TestRotate:
    def test_the_oldest_go(self, tmp_path: Path) -> None:
        for step in (2, 4, 6, 8):
            make(tmp_path, step)
        assert named(rotate(tmp_path, 2, run="a")) == ["checkpoint-2", "checkpoint-4"]
        assert named(checkpoints(tmp_path)) == ["checkpoint-6", "checkpoint-8"]
        assert sweep(tmp_path) == []

    def test_the_best_and_the_newest_stay(self, tmp_path: Path) -> None:
        for step in (2, 4, 6, 8):
            make(tmp_path, step)
        rotate(tmp_path, 1, run="a", best=str(tmp_path / "checkpoint-2"))
        assert named(checkpoints(tmp_path)) == ["checkpoint-2", "checkpoint-8"]

    def test_nothing_goes_while_the_newest_is_not_whole(self, tmp_path: Path) -> None:
        for step in (2, 4, 6):
            make(tmp_path, step)
        (tmp_path / "checkpoint-6" / "model.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"model\.safetensors has 0 bytes"):
            rotate(tmp_path, 1, run="a")
        assert len(checkpoints(tmp_path)) == 3

    def test_checkpoints_of_another_run_are_not_its_business(self, tmp_path: Path) -> None:
        make(tmp_path, 2, run="b")
        (tmp_path / "checkpoint-3").mkdir()
        for step in (4, 6):
            make(tmp_path, step)
        rotate(tmp_path, 1, run="a")
        assert named(checkpoints(tmp_path)) == ["checkpoint-2", "checkpoint-3", "checkpoint-6"]

    def test_fewer_than_may_stay(self, tmp_path: Path) -> None:
        make(tmp_path, 2)
        assert rotate(tmp_path, 2, run="a") == []
        assert rotate(tmp_path / "nowhere", 2, run="a") == []

    def test_one_that_is_half_deleted_does_not_keep_its_name(self, tmp_path: Path) -> None:
        """What a kill left of an earlier deletion is in the way of none."""
        for step in (2, 4):
            make(tmp_path, step)
        shutil.copytree(tmp_path / "checkpoint-2", tmp_path / ".deleting-checkpoint-2")
        rotate(tmp_path, 1, run="a")
        assert named(checkpoints(tmp_path)) == ["checkpoint-4"]
        assert not list(tmp_path.glob(".*"))

    def test_one_that_was_being_deleted_is_deleted_to_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is whole and has a manifest: its files are no model of the run folder."""
        for step in (2, 4):
            make(tmp_path, step)

        def killed(path: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            rmtree = shutil.rmtree
            patch.setattr(
                shutil, "rmtree", lambda path, **how: rmtree(path, **how) if how else killed(path)
            )
            with pytest.raises(KeyboardInterrupt):
                rotate(tmp_path, 1, run="a")
        assert named(checkpoints(tmp_path)) == ["checkpoint-4"]
        assert len(list(tmp_path.iterdir())) == 2
        sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


class TestSetAside:
    def test_later_ones_of_the_run_and_those_that_do_not_say(self, tmp_path: Path) -> None:
        for step in (2, 4, 6, 10):
            make(tmp_path, step)
        make(tmp_path, 8, run="b")
        (tmp_path / "checkpoint-6" / "manifest.json").unlink()
        (tmp_path / "checkpoint-3").mkdir()
        set_aside(tmp_path, after=4, run="a")
        there = ["checkpoint-2", "checkpoint-3", "checkpoint-4", "checkpoint-8"]
        assert named(checkpoints(tmp_path)) == there
        assert newest_checkpoint(tmp_path, run="a").path == tmp_path / "checkpoint-4"
        verify(tmp_path / "abandoned-checkpoint-10")
        assert (tmp_path / "abandoned-checkpoint-6" / "model.safetensors").is_file()

    def test_all_of_them(self, tmp_path: Path) -> None:
        make(tmp_path, 2)
        make(tmp_path, 4, run="b")
        assert len(set_aside(tmp_path)) == 2
        assert not checkpoints(tmp_path)

    def test_twice(self, tmp_path: Path) -> None:
        for _ in range(3):
            for step in (2, 4):
                make(tmp_path, step)
            (moved,) = set_aside(tmp_path, after=2, run="a").values()
            assert verify(moved).step == 4
        aside = sorted(path.name for path in tmp_path.glob("abandoned-*"))
        assert aside == [f"abandoned-checkpoint-4{end}" for end in ("", "-2", "-3")]
