"""Checkpoints in pieces: what they hold comes back, and nothing that they name is run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dist_cp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from orpo.errors import CheckpointError
from orpo.train.safe_loading import _IndexUnpickler, as_data


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def state() -> dict[str, Any]:
    return {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "groups": {"lr": 0.5, "n": [1]}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    with pytest.warns(UserWarning, match="single process"):
        dist_cp.save(state(), storage_writer=dist_cp.FileSystemWriter(tmp_path / "pieces"))
    return tmp_path / "pieces"


def load(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": {"weight": torch.zeros(2, 3)},
        "groups": {"lr": 0.0, "n": [0]},
    }
    with pytest.warns(UserWarning, match="single process"):
        dist_cp.load(
            found,
            storage_reader=dist_cp.FileSystemReader(folder),
            planner=DefaultLoadPlanner(),
        )
    return found


def test_what_was_saved_comes_back_without_pickle_load(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(pickle, "load", never)
    with as_data():
        found = load(saved)
    assert torch.equal(found["model"]["weight"], state()["model"]["weight"])
    assert found["groups"] == state()["groups"]
    with pytest.raises(dist_cp.CheckpointException, match="a pickle was loaded"):
        load(saved)  # as it is outside


def test_an_index_that_names_code_is_refused(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "went off"
    (saved / ".metadata").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(pickle.UnpicklingError, match="which is never run"), as_data():
        load(saved)
    assert not mark.exists()
    with pytest.raises(dist_cp.CheckpointException):  # an index it is not
        load(saved)
    assert mark.exists()  # outside, it goes off


def test_a_piece_that_is_missing_is_said(saved: Path) -> None:
    for piece in saved.glob("*.distcp"):
        piece.unlink()
    with pytest.raises(CheckpointError, match="its pieces cannot be read"), as_data():
        load(saved)


def test_a_piece_that_names_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "went off"
    file = tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"state": Bomb(mark)}, file)
    with as_data(), pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=False)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()


def test_names_are_as_before_afterwards() -> None:
    before = dist_cp.FileSystemReader, torch.load
    with pytest.raises(RuntimeError, match="broke"), as_data():
        raise RuntimeError("broke")
    assert (dist_cp.FileSystemReader, torch.load) == before


class Named:
    """Pickled as `getattr(owner, name)`."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> Any:
        return getattr, (self.owner, self.name)


def read(value: Any) -> Any:
    return _IndexUnpickler(io.BytesIO(pickle.dumps(value))).load()


def test_members_of_enumerations_are_read_as_every_python_writes_them() -> None:
    """Before 3.11.4 as `getattr(kind, name)`."""
    kind = _MEM_FORMAT_ENCODING
    member = kind.TORCH_CONTIGUOUS_FORMAT
    assert read(member) is member
    assert read(Named(kind, member.name)) is member


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Metadata, "__init__"), (Path, "touch"), (_MEM_FORMAT_ENCODING, "__class__")],
)
def test_nothing_else_is_got_by_name(owner: Any, name: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match="which is never run"):
        read(Named(owner, name))
