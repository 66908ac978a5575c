"""Checkpoints in pieces: what they hold comes back, and nothing that they name is run."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dist_cp
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from orpo.errors import CheckpointError
from orpo.train.weights import as_data, usable


class Reduced:
    """Pickled as a call of a function; a file is made when a bomb is unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def state() -> dict[str, Any]:
    return {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "groups": {"lr": 0.5, "n": [1]}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    with pytest.warns(UserWarning, match="single process"):
        dist_cp.save(state(), storage_writer=dist_cp.FileSystemWriter(tmp_path / "pieces"))
    return tmp_path / "pieces"


def load(folder: Path) -> dict[str, Any]:
    found = {"model": {"weight": torch.zeros(2, 3)}, "groups": {"lr": 0.0, "n": [0]}}
    how = {"storage_reader": dist_cp.FileSystemReader(folder), "planner": DefaultLoadPlanner()}
    with pytest.warns(UserWarning, match="single process"):
        dist_cp.load(found, **how)
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
    (saved / ".metadata").write_bytes(pickle.dumps(Reduced(Path.touch, mark)))
    with pytest.raises(CheckpointError, match="holds code"), usable("c"), as_data():
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
    torch.save({"state": Reduced(Path.touch, mark)}, file)
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


KIND = _MEM_FORMAT_ENCODING


@pytest.mark.parametrize(
    ("owner", "name", "said"),
    [
        (KIND, "TORCH_CONTIGUOUS_FORMAT", "its index is none"),  # read as what it is
        (Metadata, "__init__", "never run"),
        (Path, "touch", "never run"),
        (KIND, "__class__", "never run"),
    ],
)
def test_of_names_only_members_of_enumerations_are_got(
    saved: Path, owner: Any, name: str, said: str
) -> None:
    """As Python before 3.11.4 writes them: `getattr(kind, name)`."""
    (saved / ".metadata").write_bytes(pickle.dumps(Reduced(getattr, owner, name)))
    with pytest.raises((CheckpointError, pickle.UnpicklingError), match=said), as_data():
        load(saved)
