"""Weights that a run could not be saved with are named before its first step."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from orpo import ModelError, ORPOConfig, ORPOTrainer
from orpo.errors import CheckpointError, NonFiniteError, UserError
from orpo.evaluate import load_answerer
from tests.train.small import byte_tokenizer, text_rows, tiny_llama


def spoil(path: Path, name: str, value: float, at: int = 5) -> None:
    weights = load_file(path)
    weights[name].view(-1)[at] = value
    save_file(weights, path, metadata={"format": "pt"})


def trainer(folder: Path, model: Any, **settings: Any) -> ORPOTrainer:
    given = {"max_steps": 2, "max_length": 64, "save_steps": 1, **settings}
    args = ORPOConfig(str(folder), use_cpu=True, report_to="none", **given)
    return ORPOTrainer(
        model=model, args=args, train_dataset=text_rows(), tokenizer=byte_tokenizer()
    )


NAMES = ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"]
"""The embedding's first row is met by no row of the data."""


@pytest.mark.parametrize(("name", "value"), [*zip(NAMES, (math.nan, -math.inf), strict=True)])
def test_what_is_not_finite_is_named(base: Path, name: str, value: float) -> None:
    spoil(base / "model.safetensors", name, value)
    for load in (lambda: trainer(base.parent / "run", str(base)), lambda: load_answerer(str(base))):
        with pytest.raises(ModelError, match=f"1 of its weights are not finite: {name}"):
            load()
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_llama().to(dtype)
        model.get_parameter(name).data.view(-1)[5] = value
        with pytest.raises(ModelError, match=f"not finite: {name}"):
            trainer(base.parent / "run", model)


def test_all_are_counted_and_some_named(tmp_path: Path) -> None:
    model = tiny_llama()
    model.model.embed_tokens.weight.data[0] = 3e38
    trainer(tmp_path, model)  # finite, though their norm is not
    for parameter in model.parameters():
        parameter.data[0] = math.nan
    with pytest.raises(ModelError, match=r"21 of its weights are not finite: .* and 16 more"):
        trainer(tmp_path, model)
    model = tiny_llama()
    model.model.embed_tokens.weight.data.zero_()
    with pytest.raises(ModelError, match="all zero"):
        trainer(tmp_path, model)


def test_an_adapter(base: Path) -> None:
    folder = base.parent / "run"
    args = ORPOConfig(str(folder), use_cpu=True, report_to="none", max_steps=1, max_length=64)
    adapter = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"])
    rows = text_rows()
    run = ORPOTrainer(model=str(base), args=args, train_dataset=rows, peft_config=adapter)
    run.train()
    run.save_model()
    (folder / "manifest.json").unlink()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    spoil(folder / "adapter_model.safetensors", name, math.nan)
    with pytest.raises(ModelError, match=r"not finite: .*q_proj.lora_A"):
        load_answerer(str(folder))


class TestSaving:
    def test_of_the_model_at_the_end_is_refused(self, tmp_path: Path) -> None:
        one = trainer(tmp_path, tiny_llama(), save_strategy="no")
        one.train()
        one.model.lm_head.weight.data[0] = math.nan
        with pytest.raises(NonFiniteError, match=r"lm_head.weight"):
            one.save_model()
        assert not (tmp_path / "model.safetensors").exists()

    def test_and_skipping_agree(self, tmp_path: Path) -> None:
        """Steps are not skipped one by one where the weights themselves are spoilt."""
        model = tiny_llama()
        one = trainer(tmp_path, model, on_nonfinite="skip", max_nonfinite_steps=5)
        model.lm_head.weight.data[0] = math.nan
        with pytest.raises(NonFiniteError, match=r"not finite themselves \(lm_head.weight\)"):
            one.train()
        assert one.state.global_step == 0

    def test_a_checkpoint_of_another_is_looked_at(self, tmp_path: Path) -> None:
        trainer(tmp_path, tiny_llama()).train()
        folder = tmp_path / "checkpoint-1"
        spoil(folder / "model.safetensors", "lm_head.weight", math.nan)
        from orpo.runs.commit import _describe_all
        from orpo.runs.manifest import read_manifest

        told = read_manifest(folder)
        (folder / "manifest.json").unlink()
        _describe_all(folder, told.kind, told.run, told.step, resumable=True)
        with pytest.raises(CheckpointError, match=r"not finite: lm_head.weight"):
            trainer(tmp_path, tiny_llama()).train(resume_from_checkpoint=str(folder))


class TestFilesOfWeights:
    """Safetensors of the folder itself, whatever an index or a link says."""

    def shard(self, base: Path, name: str, *, write: bool = True) -> None:
        weights = load_file(base / "model.safetensors")
        (base / "model.safetensors").rename(base / "real.safetensors")
        if write:
            path = base / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((base / "real.safetensors").read_bytes())
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
        (base / "model.safetensors.index.json").write_text(json.dumps(index))

    @pytest.mark.parametrize(
        ("name", "write", "said"),
        [
            *((name, True, f"names {name}") for name in ("x.bin", "../x.safetensors")),
            *((name, True, f"names {name}") for name in ("a/x.safetensors", "./x.safetensors")),
            ("x.safetensors.pt", True, "names x.safetensors.pt"),
            ("/tmp/x.safetensors", False, "lies elsewhere"),
            ("x.safetensors", False, "names x.safetensors, which is not there"),
        ],
    )
    def test_shards_by_name(self, base: Path, name: str, write: bool, said: str) -> None:
        self.shard(base, name, write=write)
        self.refused(base, said)

    @pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
    def test_an_index_that_is_none(self, base: Path, text: str) -> None:
        (base / "model.safetensors.index.json").write_text(text)
        self.refused(base, "model.safetensors.index.json")

    def test_a_link_out_of_the_folder_or_a_name_in_the_configuration(
        self, base: Path, tmp_path: Path
    ) -> None:
        (base / "model.safetensors").rename(tmp_path / "other.safetensors")
        (base / "model.safetensors").symlink_to(tmp_path / "other.safetensors")
        self.refused(base, "is a link to")
        (tmp_path / "other.safetensors").replace(base / "model.safetensors")
        config = json.loads((base / "config.json").read_text())
        text = json.dumps({**config, "transformers_weights": "../x.safetensors"})
        (base / "config.json").write_text(text)
        self.refused(base, "transformers_weights names ../x.safetensors")

    def test_links_of_the_hubs_cache_are_taken(self, base: Path, tmp_path: Path) -> None:
        blobs = tmp_path / "models--a--b" / "blobs"
        blobs.mkdir(parents=True)
        (base / "model.safetensors").rename(blobs / "0123")
        (base / "model.safetensors").symlink_to(os.path.relpath(blobs / "0123", base))
        assert load_answerer(str(base))

    def test_a_folder_that_is_a_link_is_taken(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(base)
        assert load_answerer(str(tmp_path / "link"))

    def test_a_checkpoint_to_go_on_from(self, tmp_path: Path) -> None:
        trainer(tmp_path, tiny_llama()).train()
        folder = tmp_path / "checkpoint-1"
        index = {"metadata": {}, "weight_map": {"lm_head.weight": "../../x.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match=r"x.bin"):
            trainer(tmp_path, tiny_llama()).train(resume_from_checkpoint=str(folder))

    def refused(self, base: Path, words: str) -> None:
        for load in (
            lambda: trainer(base.parent / "run", str(base)),
            lambda: load_answerer(str(base)),
        ):
            with pytest.raises(ModelError) as caught:
                load()
            assert words in str(caught.value)
