"""A folder that a stranger has prepared: what is written, moved and deleted stays inside it."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orpo.errors import CheckpointError, ConfigError
from orpo.runs.checkpoints import rotate
from orpo.runs.commit import commit, commit_files, stage, staging, sweep
from orpo.runs.lock import lock_holder, run_lock
from orpo.runs.manifest import MANIFEST, read_manifest
from orpo.runs.writing import refuse_links, write_text

SECRET = b"precious"
OUTSIDE = [
    *("../victim", "../../victim", "sub/../../victim", "./../victim", "/victim", "..\\victim"),
    *("C:victim", "", ".", "sub//victim", "sub/./victim", "victim\x00"),
    *("manifest.json", "Manifest.json", ".lock"),
]
PUT: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda path, target: path.symlink_to(target),
    "broken link": lambda path, _: path.symlink_to(path.parent / "nowhere"),
    "loop": lambda path, _: path.symlink_to(path),
    "pipe": lambda path, _: os.mkfifo(path),
    "hard link": lambda path, target: path.hardlink_to(target),
    "file": lambda path, _: path.write_bytes(b"a file"),
}
"""What is no file of ours under the name of one."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder; `outside` with a file and a folder lies beside it."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "victim").write_bytes(SECRET)
    (outside / "folder" / "inner").write_bytes(SECRET)
    (tmp_path / "victim").write_bytes(SECRET)
    run = tmp_path / "run"
    run.mkdir()
    return run


def is_untouched(folder: Path) -> bool:
    """Whether all that lies beside the folder is as it was."""
    outside = folder.parent / "outside"
    there = sorted(path.relative_to(outside).as_posix() for path in outside.rglob("*"))
    files = (folder.parent / "victim", outside / "victim", outside / "folder/inner")
    return there == ["folder", "folder/inner", "victim"] and all(
        file.read_bytes() == SECRET and not file.is_symlink() for file in files
    )


def facts(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_manifest(folder: Path, files: dict[str, Any], **others: Any) -> None:
    """A manifest that agrees with itself, as anyone can write it."""
    body = {"kind": "model", "run": "r", "step": 1, "resumable": False, "files": files, **others}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps({**body, "sha256": digest}, indent=1) + "\n")


class TestManifests:
    @pytest.mark.parametrize("name", OUTSIDE)
    def test_name_files_below_their_folder_or_nothing(self, folder: Path, name: str) -> None:
        write_manifest(folder, {name: facts(SECRET)})
        with pytest.raises(CheckpointError, match="no file of its"):
            read_manifest(folder)
        staged = stage(folder, "model")
        (staged / "sub").mkdir()
        (folder / MANIFEST).rename(staged / MANIFEST)
        sweep(folder)  # moves nothing that lies elsewhere
        assert is_untouched(folder)
        assert list(folder.iterdir()) == []

    def test_name_what_lies_below(self, folder: Path) -> None:
        for name in ("model.safetensors", "parts/a-b.distcp", "a..b", "..a"):
            write_manifest(folder, {name: facts(SECRET)})
            assert list(read_manifest(folder).files) == [name]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("kind", 5), ("run", None), ("resumable", 1)),
            *(("step", value) for value in ("1", 1.5, True, 10**30)),
            *(("files", value) for value in ([], {"a": 5}, {"a": {"size": 1}})),
            ("files", {"a": {"size": "1", "sha256": ""}}),
        ],
    )
    def test_of_wrong_types_name_the_field(self, folder: Path, field: str, value: Any) -> None:
        write_manifest(folder, **{"files": {}, field: value})
        with pytest.raises(CheckpointError, match=rf"manifest\.json: .*'{field}"):
            read_manifest(folder)


class TestSweeping:
    def test_does_not_write_through_a_folder_that_is_a_link(self, folder: Path) -> None:
        staged = stage(folder, "model")
        (staged / "sub").mkdir()
        (staged / "sub/victim").write_bytes(b"new")
        write_manifest(staged, {"sub/victim": facts(b"new")})
        (folder / "sub").symlink_to(folder.parent / "outside")
        sweep(folder)
        assert is_untouched(folder)
        assert (folder / "sub/victim").read_bytes() == b"new"

    @pytest.mark.parametrize("through", ["folder", "file", "staging"])
    def test_takes_nothing_in_through_a_link(self, folder: Path, through: str) -> None:
        outside = folder.parent / "outside"
        if through == "staging":
            write_manifest(outside, {"victim": facts(SECRET)})
            staging(folder, "model").symlink_to(outside)
            sweep(folder)
            (outside / MANIFEST).unlink()
        else:
            staged = stage(folder, "model")
            link = staged / ("sub" if through == "folder" else "victim")
            link.symlink_to(outside if through == "folder" else outside / "victim")
            name = "sub/victim" if through == "folder" else "victim"
            write_manifest(staged, {name: facts(SECRET)})
            sweep(folder)
        assert is_untouched(folder)
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize(("b", "moved"), [(b"changed", b"old"), (b"new", b"new")])
    def test_moves_nothing_before_every_byte_was_compared(
        self, folder: Path, b: bytes, moved: bytes
    ) -> None:
        (folder / "a").write_bytes(b"old")
        staged = stage(folder, "model")
        (staged / "a").write_bytes(b"new")
        (staged / "b").write_bytes(b)
        write_manifest(staged, {"a": facts(b"new"), "b": facts(b"new")})
        assert sweep(folder) == ["model"]
        assert (folder / "a").read_bytes() == moved

    @pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "checkpoint-2/a", ".hidden"])
    def test_takes_no_part_of_a_run_for_one_of_a_model(self, folder: Path, name: str) -> None:
        (folder / "checkpoint-2").mkdir()
        staged = stage(folder, "model")
        (staged / name).parent.mkdir(exist_ok=True)
        (staged / name).write_bytes(b"new")
        write_manifest(staged, {name: facts(b"new")})
        sweep(folder)
        assert not (folder / name).exists()

    @pytest.mark.parametrize("name", [".deleting-x", ".replaced-checkpoint-2", ".staging-model"])
    def test_deletes_links_and_files_not_what_they_point_to(self, folder: Path, name: str) -> None:
        (folder / "checkpoint-2").mkdir()
        (folder / name).symlink_to(folder.parent / "outside")
        (folder / f"{name}-file").write_bytes(b"")
        (folder / f"{name}-broken").symlink_to(folder / "nowhere")
        sweep(folder)
        assert is_untouched(folder)
        assert not any(path.name == name for path in folder.iterdir())


class TestCommitting:
    @pytest.mark.parametrize("stood", ["link", "broken link", "file", "loop", "pipe"])
    def test_a_checkpoint_replaces_whatever_had_its_name(self, folder: Path, stood: str) -> None:
        final, outside = folder / "checkpoint-2", folder.parent / "outside"
        PUT[stood](final, outside)
        PUT[stood](folder / ".replaced-checkpoint-2", outside)
        (stage(folder, "checkpoint-2") / "a").write_bytes(b"new")
        commit(staging(folder, "checkpoint-2"), final, run="r", step=2, resumable=True)
        assert is_untouched(folder)
        assert (final / "a").read_bytes() == b"new"
        assert not final.is_symlink()
        assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]

    @pytest.mark.parametrize("stood", ["link", "broken link", "file", "loop", "pipe"])
    def test_a_model_replaces_links_of_its_names(self, folder: Path, stood: str) -> None:
        outside = folder.parent / "outside"
        PUT[stood](folder / ".staging-model", outside)
        staged = stage(folder, "model")
        (staged / "sub").mkdir()
        (staged / "sub/victim").write_bytes(b"new")
        (staged / "config.json").write_bytes(b"new")
        PUT[stood](folder / "config.json", outside / "victim")
        PUT[stood](folder / MANIFEST, outside / "victim")
        (folder / "sub").symlink_to(outside)
        commit_files(staged, folder, run="r", step=1)
        assert is_untouched(folder)
        assert read_manifest(folder).files.keys() == {"config.json", "sub/victim"}
        assert not (folder / "config.json").is_symlink()

    def test_rotation_deletes_a_link_and_not_the_checkpoint_behind_it(self, folder: Path) -> None:
        elsewhere = folder.parent / "outside" / "folder"
        write_manifest(elsewhere, {"inner": facts(SECRET)}, kind="checkpoint", resumable=True)
        (folder / "checkpoint-1").symlink_to(elsewhere)
        (folder / "checkpoint-2").write_bytes(b"a file")
        (folder / "checkpoint-3").symlink_to(folder / "nowhere")
        (folder / ".deleting-checkpoint-1").symlink_to(folder.parent / "outside")
        staged = stage(folder, "checkpoint-4")
        (staged / "a").write_bytes(b"new")
        commit(staged, folder / "checkpoint-4", run="r", step=4, resumable=True)
        assert rotate(folder, 1, run="r") == [folder / "checkpoint-1"]
        assert not (folder / "checkpoint-1").is_symlink()
        (elsewhere / MANIFEST).unlink()  # it was there until now
        assert is_untouched(folder)


class TestLocks:
    @pytest.mark.parametrize("stood", ["link", "broken link", "loop", "pipe", "hard link"])
    def test_follow_nothing(self, folder: Path, stood: str) -> None:
        PUT[stood](folder / ".lock", folder.parent / "outside" / "victim")
        assert lock_holder(folder) is None
        with run_lock(folder) as note:
            assert note is None
            assert str(os.getpid()) in (folder / ".lock").read_text()
        assert is_untouched(folder)
        assert list(folder.iterdir()) == []

    def test_are_refused_where_a_folder_has_their_name(self, folder: Path) -> None:
        for said in (b"[" * 1000, b'{"pid": ', b"null", b"\xff"):  # nobody known holds them
            (folder / ".lock").write_bytes(said)
            assert lock_holder(folder) is None
        (folder / ".lock").unlink()
        (folder / ".lock").mkdir()
        with pytest.raises(ConfigError, match="cannot be written to"), run_lock(folder):
            pass


class TestWriting:
    @pytest.mark.parametrize("stood", ["link", "broken link", "loop", "pipe", "hard link"])
    @pytest.mark.parametrize("name", ["report.html", ".report.html.new"])
    def test_replaces_and_never_follows(self, folder: Path, name: str, stood: str) -> None:
        PUT[stood](folder / name, folder.parent / "outside" / "victim")
        write_text(folder / "report.html", "new")
        assert is_untouched(folder)
        assert (folder / "report.html").read_text() == "new"
        assert [path.name for path in folder.iterdir()] == ["report.html"]

    def test_that_fails_names_the_file_and_leaves_nothing(self, folder: Path) -> None:
        (folder / "report.html").mkdir()
        with pytest.raises(IsADirectoryError) as caught:
            write_text(folder / "report.html", "new")
        assert caught.value.filename == str(folder / "report.html")
        assert [path.name for path in folder.iterdir()] == ["report.html"]

    @pytest.mark.parametrize("stood", ["link", "broken link", "loop", "pipe"])
    def test_links_are_refused_by_name_where_others_write(self, folder: Path, stood: str) -> None:
        PUT[stood](folder / "figures", folder.parent / "outside")
        refuse_links(folder, ("data", "figs*"))
        with pytest.raises(ConfigError, match="figures"):
            refuse_links(folder, ("data", "fig*"))
