"""Models are loaded as they were committed, or not at all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from orpo import ORPOConfig
from orpo.errors import CheckpointError
from orpo.evaluate import load_answerer
from orpo.jobs import merge_adapter
from orpo.runs.commit import commit_files, stage
from orpo.runs.manifest import MANIFEST, read_manifest, verify
from orpo.train.adapters import add_adapter
from orpo.train.models import load_model
from tests.jobs.small_run import flip
from tests.train.small import byte_tokenizer, tiny_llama


def committed(folder: Path, model: torch.nn.Module) -> Path:
    """A model as a trainer commits it."""
    staged = stage(folder, "model")
    model.save_pretrained(staged)
    byte_tokenizer().save_pretrained(staged)
    commit_files(staged, folder, run="r", step=7)
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return committed(tmp_path / "whole", tiny_llama())


@pytest.fixture
def adapter(tmp_path: Path, whole: Path) -> Path:
    settings = ORPOConfig(output_dir="unused", use_cpu=True)
    base, lora = load_model(str(whole), settings), LoraConfig(r=2, target_modules=["q_proj"])
    return committed(tmp_path / "adapter", add_adapter(base, lora, settings))


@pytest.mark.parametrize("how", ["to train", "to answer"])
def test_a_changed_model_is_refused(whole: Path, adapter: Path, how: str) -> None:
    def load(folder: Path) -> object:
        if how == "to answer":
            return load_answerer(str(folder))
        return load_model(str(folder), ORPOConfig(output_dir="unused", use_cpu=True))

    load(whole)
    load(adapter)
    for name in ["model.safetensors", "config.json", "tokenizer.json"]:
        flip(whole / name)
        with pytest.raises(CheckpointError, match=f"{name} is not what was committed.*orpo doctor"):
            load(whole)
        with pytest.raises(CheckpointError, match=str(whole)):
            load(adapter)
        flip(whole / name)
    flip(adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is not"):
        load(adapter)
    (whole / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load(whole)


def test_a_change_that_was_meant_is_one_file_away(whole: Path) -> None:
    path = whole / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "rms_norm_eps": 1e-5}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"delete {MANIFEST}"):
        load_answerer(str(whole))
    staged = stage(whole, "model")
    (whole / MANIFEST).rename(staged / MANIFEST)
    with pytest.raises(CheckpointError, match="cut off"):  # as a save that was
        load_answerer(str(whole))
    shutil.rmtree(staged)
    load_answerer(str(whole))


def test_the_optimizer_of_a_checkpoint_is_not_read_for_its_weights(whole: Path) -> None:
    staged = stage(whole, "model")
    for name in [*read_manifest(whole).files]:
        shutil.copy(whole / name, staged)
    (staged / "optimizer.pt").write_bytes(b"states")
    commit_files(staged, whole, run="r", step=7)
    flip(whole / "optimizer.pt")
    load_answerer(str(whole))
    with pytest.raises(CheckpointError, match=r"optimizer\.pt"):
        verify(whole)


def test_a_merged_model_is_committed(adapter: Path, tmp_path: Path) -> None:
    merged = merge_adapter(str(adapter), str(tmp_path / "merged"))
    manifest = verify(merged)
    assert (manifest.kind, manifest.run, manifest.step) == ("model", "r", 7)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(manifest.files)
    assert {path.name for path in merged.iterdir()} == {*manifest.files, MANIFEST}
    load_answerer(str(merged))
    flip(adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        merge_adapter(str(adapter), str(tmp_path / "again"))
    assert not (tmp_path / "again").exists()
