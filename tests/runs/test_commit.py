"""All of a folder or nothing: what stands under the final name, and what is cleared away."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from orpo.errors import CheckpointError
from orpo.runs.commit import commit, commit_files, stage, sweep, unfinished
from orpo.runs.manifest import MANIFEST, read_manifest, verify

CONTENT = {"model.safetensors": b"\x00weights" * 40, "parts/optimizer.pt": b"moments", "empty": b""}


MODEL = ("README.md", "config.json", "model.safetensors")


def staged(folder: Path, name: str = "checkpoint-3", content: dict[str, bytes] = CONTENT) -> Path:
    found = stage(folder, name)
    for path, data in content.items():
        (found / path).parent.mkdir(parents=True, exist_ok=True)
        (found / path).write_bytes(data)
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestCommit:
    def test_names_every_file_with_its_size_and_hash(self, tmp_path: Path) -> None:
        final = tmp_path / "checkpoint-3"
        committed = commit(staged(tmp_path), final, run="a", step=3, resumable=True)
        assert names(tmp_path) == ["checkpoint-3"]
        assert verify(final) == read_manifest(final) == committed
        assert (committed.kind, committed.run, committed.step) == ("checkpoint", "a", 3)
        assert committed.resumable
        assert committed.files.keys() == CONTENT.keys()
        for name, data in CONTENT.items():
            facts = committed.files[name]
            assert facts.size == len(data)
            assert facts.sha256 == hashlib.sha256(data).hexdigest()
        assert committed.size == sum(map(len, CONTENT.values()))

    def test_replaces_what_stood_there(self, tmp_path: Path) -> None:
        final = tmp_path / "checkpoint-3"
        commit(staged(tmp_path, content={"old": b"1"}), final, run="a", step=3, resumable=True)
        commit(staged(tmp_path, content={"new": b"2"}), final, run="b", step=3, resumable=True)
        assert names(tmp_path) == ["checkpoint-3"]
        assert names(final) == [MANIFEST, "new"]
        assert verify(final).run == "b"

    def test_an_unfinished_save_is_no_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"never committed"):
            verify(staged(tmp_path))

    def test_staging_begins_empty(self, tmp_path: Path) -> None:
        (staged(tmp_path) / "left").write_bytes(b"of a killed process")
        assert names(stage(tmp_path, "checkpoint-3")) == []


class TestCommitFiles:
    """A model lies in a folder beside other files, which stay."""

    def test_only_its_own_files_are_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text("{}\n")
        for run in ("a", "b"):
            made = staged(tmp_path, "model", {"model.safetensors": run.encode()})
            commit_files(made, tmp_path, run=run, step=9)
            assert names(tmp_path) == [MANIFEST, "metrics.jsonl", "model.safetensors"]
            found = verify(tmp_path)
            assert (found.kind, found.run, found.resumable) == ("model", run, False)
            assert found.files.keys() == {"model.safetensors"}
            assert (tmp_path / "model.safetensors").read_bytes() == run.encode()

    def test_two_models_are_never_mixed_under_one_manifest(self, tmp_path: Path) -> None:
        """What is there while the second is moved in does not verify."""
        commit_files(staged(tmp_path, "model"), tmp_path, run="a", step=3)
        (tmp_path / "model.safetensors").write_bytes(b"of the second")
        with pytest.raises(CheckpointError, match=r"model\.safetensors has 13 bytes where 320"):
            verify(tmp_path)


class TestSweep:
    def test_unfinished_saves_go(self, tmp_path: Path) -> None:
        final = tmp_path / "checkpoint-3"
        commit(staged(tmp_path), final, run="a", step=3, resumable=True)
        staged(tmp_path, "checkpoint-6")
        staged(tmp_path, "model")
        assert sweep(tmp_path) == ["checkpoint-6", "model"]
        assert names(tmp_path) == ["checkpoint-3"]
        verify(final)

    @pytest.mark.parametrize("moved", range(4))
    def test_a_model_that_was_being_moved_is_moved_to_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
    ) -> None:
        """Whichever of its files had reached their places when the process was killed."""
        old, new = ({n: word + n.encode() for n in MODEL} for word in (b"old ", b"new "))
        commit_files(staged(tmp_path, "model", old), tmp_path, run="a", step=1)
        replace, left = Path.replace, iter(range(moved))

        def killed(path: Path, target: Path) -> Path:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return replace(path, target)

        made = staged(tmp_path, "model", new)
        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            commit_files(made, tmp_path, run="a", step=2)
        monkeypatch.undo()
        with pytest.raises(CheckpointError):
            verify(tmp_path)
        assert sweep(tmp_path) == ["model"]
        assert verify(tmp_path).step == 2
        assert {name: (tmp_path / name).read_bytes() for name in MODEL} == new
        assert unfinished(tmp_path) == []

    def test_what_was_about_to_be_replaced_comes_back(self, tmp_path: Path) -> None:
        """The process was killed between the two renames."""
        final = tmp_path / "checkpoint-3"
        commit(staged(tmp_path), final, run="a", step=3, resumable=True)
        final.rename(tmp_path / ".replaced-checkpoint-3")
        staged(tmp_path)
        sweep(tmp_path)
        assert names(tmp_path) == ["checkpoint-3"]
        assert verify(final).run == "a"

    def test_what_was_replaced_goes(self, tmp_path: Path) -> None:
        """The process was killed after the second rename."""
        final = tmp_path / "checkpoint-3"
        commit(staged(tmp_path), final, run="a", step=3, resumable=True)
        final.rename(tmp_path / ".replaced-checkpoint-3")
        commit(staged(tmp_path), final, run="b", step=3, resumable=True)
        sweep(tmp_path)
        assert names(tmp_path) == ["checkpoint-3"]
        assert verify(final).run == "b"

    def test_a_staged_checkpoint_is_no_model(self, tmp_path: Path) -> None:
        """Though it is described to the end: it goes, and nothing of the run folder is touched."""
        commit_files(staged(tmp_path, "model"), tmp_path, run="a", step=2)
        commit(staged(tmp_path), tmp_path / "checkpoint-3", run="a", step=3, resumable=True)
        (tmp_path / "checkpoint-3").rename(tmp_path / ".staging-checkpoint-3")
        assert sweep(tmp_path) == ["checkpoint-3"]
        assert verify(tmp_path).step == 2
        assert not list(tmp_path.glob(".*"))

    def test_nothing_to_do(self, tmp_path: Path) -> None:
        assert sweep(tmp_path) == []
        assert sweep(tmp_path / "nowhere") == []


class TestManifest:
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
    def test_that_is_not_what_was_written(self, tmp_path: Path, change: object, said: str) -> None:
        final = tmp_path / "checkpoint-3"
        commit(staged(tmp_path), final, run="a", step=3, resumable=True)
        assert callable(change)
        change(final / MANIFEST)
        with pytest.raises(CheckpointError, match=said) as caught:
            read_manifest(final)
        assert caught.value.where == str(final)

    @pytest.mark.parametrize("name", ["step", "run", "resumable", "kind"])
    def test_its_own_words_are_protected_too(self, tmp_path: Path, name: str) -> None:
        final = tmp_path / "checkpoint-3"
        commit(staged(tmp_path), final, run="a", step=3, resumable=True)
        body = json.loads((final / MANIFEST).read_text())
        body[name] = not body[name] if name == "resumable" else body[name] * 2
        (final / MANIFEST).write_text(json.dumps(body, indent=1) + "\n")
        with pytest.raises(CheckpointError, match=r"manifest\.json was changed"):
            read_manifest(final)
