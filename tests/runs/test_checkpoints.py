"""Which checkpoint can be trusted, and that a folder is all there under its name or not at all.

Damage of every kind is named, and the checkpoint before is taken.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orpo.errors import CheckpointError
from orpo.runs.checkpoints import checkpoint_name, checkpoints, newest_checkpoint, rotate, set_aside
from orpo.runs.commit import commit, commit_files, stage, sweep, unfinished
from orpo.runs.manifest import MANIFEST, Manifest, read_manifest, verify

SIZES = {
    "model.safetensors": 5000,
    "parts/optimizer.pt": 3000,
    "rng_state.pth": 700,
    "progress.json": 1,
    "empty": 0,
}
MODEL = ("README.md", "config.json", "model.safetensors")


def staged(folder: Path, name: str, content: dict[str, bytes]) -> Path:
    found = stage(folder, name)
    for path, data in content.items():
        (found / path).parent.mkdir(parents=True, exist_ok=True)
        (found / path).write_bytes(data)
    return found


def content_of(step: int) -> dict[str, bytes]:
    draw = random.Random(step)
    return {name: draw.randbytes(size) for name, size in SIZES.items()}


def make(folder: Path, *steps: int, run: str = "a", resumable: bool = True) -> Path:
    for step in steps:
        name = checkpoint_name(step)
        made = staged(folder, name, content_of(step))
        commit(made, folder / name, run=run, step=step, resumable=resumable)
    return folder / name


def save_model(folder: Path, run: str = "a", step: int = 9, text: bytes = b"weights") -> Manifest:
    made = staged(folder, "model", {name: text + name.encode() for name in MODEL})
    return commit_files(made, folder, run=run, step=step)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def there(folder: Path) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in checkpoints(folder)]


class TestCommit:
    def test_names_every_file_with_its_size_and_hash(self, tmp_path: Path) -> None:
        final = make(tmp_path, 3)
        assert names(tmp_path) == ["checkpoint-3"]
        committed = verify(final)
        assert (committed.kind, committed.run, committed.step) == ("checkpoint", "a", 3)
        assert committed.resumable
        found = {name: (facts.size, facts.sha256) for name, facts in committed.files.items()}
        content = content_of(3)
        assert found == {n: (len(d), hashlib.sha256(d).hexdigest()) for n, d in content.items()}
        assert committed.size == sum(SIZES.values())
        (final / "notes.txt").write_text("mine")  # which nobody promised
        verify(final)
        made = staged(tmp_path, "checkpoint-3", {"new": b"2"})
        with pytest.raises(CheckpointError, match="never committed"):
            verify(made)
        commit(made, final, run="b", step=3, resumable=True)  # replaces what stood there
        assert names(tmp_path) == ["checkpoint-3"]
        assert (names(final), verify(final).run) == ([MANIFEST, "new"], "b")
        (stage(tmp_path, "checkpoint-3") / "left").write_bytes(b"of a killed process")
        assert names(stage(tmp_path, "checkpoint-3")) == []

    def test_of_a_model_leaves_the_files_beside_it(self, tmp_path: Path) -> None:
        """The model card is not promised: it may be written anew."""
        (tmp_path / "metrics.jsonl").write_text("{}\n")
        for run in ("a", "b"):
            found = save_model(tmp_path, run, text=run.encode())
            assert names(tmp_path) == sorted([MANIFEST, "metrics.jsonl", *MODEL])
            assert (found.kind, found.run, found.resumable) == ("model", run, False)
            assert found.files.keys() == {"config.json", "model.safetensors"}
            (tmp_path / "README.md").write_text("ours")
            assert verify(tmp_path) == found
        (tmp_path / "model.safetensors").write_bytes(b"of another")  # never under one manifest
        with pytest.raises(CheckpointError, match=r"model\.safetensors has 10 bytes where 18"):
            verify(tmp_path)

    @pytest.mark.parametrize("moved", range(4))
    def test_of_a_model_that_was_killed_is_made_to_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
    ) -> None:
        """Whichever of its files had reached their places."""
        save_model(tmp_path, step=1, text=b"old ")
        replace, left = Path.replace, iter(range(moved))

        def killed(path: Path, target: Path) -> Path:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                save_model(tmp_path, step=2, text=b"new ")
        with pytest.raises(CheckpointError):
            verify(tmp_path)
        assert sweep(tmp_path) == ["model"]
        assert verify(tmp_path).step == 2
        assert all((tmp_path / n).read_bytes() == b"new " + n.encode() for n in MODEL)
        assert unfinished(tmp_path) == sweep(tmp_path) == []


class TestSweep:
    def test_unfinished_saves_go(self, tmp_path: Path) -> None:
        """Also a staged checkpoint that is described to the end: it is no model."""
        save_model(tmp_path)
        make(tmp_path, 3, 6)
        (tmp_path / "checkpoint-6").rename(tmp_path / ".staging-checkpoint-6")
        stage(tmp_path, "model")
        assert sweep(tmp_path) == ["checkpoint-6", "model"]
        assert names(tmp_path) == sorted([MANIFEST, "checkpoint-3", *MODEL])
        verify(tmp_path / "checkpoint-3")
        assert verify(tmp_path).kind == "model"
        assert sweep(tmp_path / "nowhere") == []

    @pytest.mark.parametrize("replaced", [True, False])
    def test_between_two_renames(self, tmp_path: Path, replaced: bool) -> None:
        """What was about to be replaced comes back, what was replaced goes."""
        final = make(tmp_path, 3)
        old = final.rename(tmp_path / ".replaced-checkpoint-3")
        if replaced:
            make(tmp_path, 3, run="b")
            shutil.copytree(final, old, dirs_exist_ok=True)
        sweep(tmp_path)
        assert names(tmp_path) == ["checkpoint-3"]
        assert verify(final).run == ("b" if replaced else "a")


class TestDamage:
    def test_cuts_and_flipped_bits_are_all_refused(self, tmp_path: Path) -> None:
        before, newest = make(tmp_path, 3), make(tmp_path, 6)
        files = [
            path for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size
        ]
        draw = random.Random(5)
        for number in range(120):
            path = files[number % len(files)]
            content = path.read_bytes()
            at, bit = draw.randrange(len(content)), draw.randrange(8)
            flipped = bytes([content[at] ^ 1 << bit])
            cut = draw.random() < 0.5
            path.write_bytes(content[:at] if cut else content[:at] + flipped + content[at + 1 :])
            what = f"{path.name} {'cut at' if cut else f'bit {bit} of'} {at}"
            with pytest.raises(CheckpointError) as caught:
                verify(newest)
            assert path.name in str(caught.value), what
            assert str(newest) in str(caught.value), what
            found = newest_checkpoint(tmp_path)
            assert found.path == before, what
            ((skipped, reason),) = found.skipped
            assert (skipped, path.name in reason) == (newest, True), what
            path.write_bytes(content)
        assert newest_checkpoint(tmp_path).path == newest

    @pytest.mark.parametrize("name", SIZES)
    def test_a_missing_file_is_named(self, tmp_path: Path, name: str) -> None:
        folder = make(tmp_path, 3)
        (folder / name).unlink()
        if name == "empty":
            (folder / name).mkdir()  # a folder in the place of a file
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            verify(folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda path: path.unlink(), "has no manifest.json: it was never committed"),
            (lambda path: path.write_text("[]\n"), "manifest.json was changed or cut off"),
            (lambda path: path.write_text("{}\n"), "manifest.json was changed or cut off"),
            (lambda path: path.write_bytes(b"\xff\xfe"), "manifest.json was changed or cut off"),
            (lambda path: path.write_text(path.read_text()[:-1]), "changed or cut off"),
        ],
        ids=["none", "a list", "empty", "not text", "its last byte"],
    )
    def test_of_the_manifest(
        self, tmp_path: Path, change: Callable[[Path], object], said: str
    ) -> None:
        final = make(tmp_path, 3)
        change(final / MANIFEST)
        with pytest.raises(CheckpointError, match=said) as caught:
            read_manifest(final)
        assert caught.value.where == str(final)

    def test_of_the_manifests_own_words(self, tmp_path: Path) -> None:
        path = make(tmp_path, 3) / MANIFEST
        text = path.read_text()
        for name, value in {"step": 4, "run": "b", "resumable": False, "kind": "model"}.items():
            path.write_text(json.dumps({**json.loads(text), name: value}, indent=1) + "\n")
            with pytest.raises(CheckpointError, match=r"manifest\.json was changed"):
                read_manifest(path.parent)


class TestNewest:
    def test_is_that_of_the_largest_step_and_says_why_others_were_passed_over(
        self, tmp_path: Path
    ) -> None:
        assert newest_checkpoint(tmp_path / "nowhere").path is None
        make(tmp_path, 9, 20)
        (tmp_path / "checkpoint-x").mkdir()
        (tmp_path / "checkpoint-7").write_text("a file")
        assert newest_checkpoint(tmp_path).path == tmp_path / "checkpoint-20"
        make(tmp_path, 100, resumable=False)
        make(tmp_path, 101, run="b")
        (tmp_path / "checkpoint-102").mkdir()
        assert there(tmp_path) == [9, 20, 100, 101, 102]
        found = newest_checkpoint(tmp_path, run="a")
        assert found.path == tmp_path / "checkpoint-20"
        assert found.manifest is not None
        assert found.manifest.step == 20
        reasons = [(path.name, reason) for path, reason in found.skipped]
        said = ("never committed", "another run", "no optimizer")
        for (name, reason), step, words in zip(reasons, (102, 101, 100), said, strict=True):
            assert name == f"checkpoint-{step}"
            assert words in reason
        none = newest_checkpoint(tmp_path, run="c")
        assert (none.path, len(none.skipped)) == (None, 5)


class TestRotate:
    @pytest.mark.parametrize(
        ("keep", "best", "left"),
        [(2, None, [6, 8]), (1, "checkpoint-2", [2, 8]), (9, None, [2, 4, 6, 8])],
    )
    def test_the_oldest_go_but_for_the_best(
        self, tmp_path: Path, keep: int, best: str | None, left: list[int]
    ) -> None:
        """What a kill left of an earlier deletion is in the way of none."""
        make(tmp_path, 2, 4, 6, 8)
        shutil.copytree(tmp_path / "checkpoint-4", tmp_path / ".deleting-checkpoint-4")
        gone = rotate(tmp_path, keep, run="a", best=best and str(tmp_path / best))
        assert there(tmp_path) == left
        assert [path.name for path in gone] == [
            f"checkpoint-{n}" for n in (2, 4, 6) if n not in left
        ]
        assert rotate(tmp_path / "nowhere", 2, run="a") == []

    def test_nothing_goes_while_the_newest_is_not_whole(self, tmp_path: Path) -> None:
        make(tmp_path, 2, 4, 6)
        (tmp_path / "checkpoint-6" / "model.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"model\.safetensors has 0 bytes"):
            rotate(tmp_path, 1, run="a")
        assert there(tmp_path) == [2, 4, 6]

    def test_checkpoints_of_another_run_are_not_its_business(self, tmp_path: Path) -> None:
        make(tmp_path, 2, run="b")
        (tmp_path / "checkpoint-3").mkdir()
        make(tmp_path, 4, 6)
        rotate(tmp_path, 1, run="a")
        assert there(tmp_path) == [2, 3, 6]

    def test_one_that_was_being_deleted_is_deleted_to_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is whole and has a manifest: its files are no model of the run folder."""
        make(tmp_path, 2, 4)
        rmtree = shutil.rmtree

        def killed(path: Path, **how: object) -> None:
            if not how:
                raise KeyboardInterrupt
            rmtree(path, **how)

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                rotate(tmp_path, 1, run="a")
        assert there(tmp_path) == [4]
        assert len(names(tmp_path)) == 2
        sweep(tmp_path)
        assert names(tmp_path) == ["checkpoint-4"]


class TestSetAside:
    def test_later_ones_of_the_run_and_those_that_do_not_say(self, tmp_path: Path) -> None:
        make(tmp_path, 2, 4, 6, 10)
        make(tmp_path, 8, run="b")
        (tmp_path / "checkpoint-6" / MANIFEST).unlink()
        (tmp_path / "checkpoint-3").mkdir()
        set_aside(tmp_path, after=4, run="a")
        assert there(tmp_path) == [2, 3, 4, 8]
        assert newest_checkpoint(tmp_path, run="a").path == tmp_path / "checkpoint-4"
        verify(tmp_path / "abandoned-checkpoint-10")
        assert (tmp_path / "abandoned-checkpoint-6" / "model.safetensors").is_file()
        assert len(set_aside(tmp_path)) == 4
        assert there(tmp_path) == []

    def test_twice(self, tmp_path: Path) -> None:
        for _ in range(3):
            make(tmp_path, 2, 4)
            (moved,) = set_aside(tmp_path, after=2, run="a").values()
            assert verify(moved).step == 4
        aside = [f"abandoned-checkpoint-4{end}" for end in ("", "-2", "-3")]
        assert names(tmp_path) == [*aside, "checkpoint-2"]
