"""A trained adapter is found from anywhere, and merged it is the model that was trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from orpo import ConfigError, ModelError, ORPOTrainer
from orpo.evaluate import load_answerer, loading
from tests.cli.conftest import QUIET, Orpo
from tests.train.one_step import any_trainer
from tests.train.small import saved_llama, text_rows, tiny_llama, write_rows

pytestmark = pytest.mark.filterwarnings(  # the tests call peft as well
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
ONE_STEP = ("--max_steps", 1, "--samples", 0, "--max_length", 64, *QUIET)
IDS = torch.tensor([[5, 6, 7, 8, 9, 100, 258, 259]])


def logits(model: Any, ids: Tensor = IDS) -> Tensor:
    model.eval()
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found


def lora(*targets: str, **more: Any) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=[*targets], **more)


def trainer_of(folder: Path, model: Any, adapter: Any = None, **more: Any) -> ORPOTrainer:
    given = {"train_dataset": text_rows(), "model": model, "peft_config": adapter, **more}
    how = {"save_strategy": "steps", "max_steps": 3, "max_length": 128, "save_steps": 2}
    return any_trainer(output_dir=str(folder), learning_rate=0.03, **how, **given)


def train(folder: Path, adapter: Any, *, added: int = 0, name: str = "default") -> Tensor:
    """A run in `folder`/run on the model in `folder`/base; the trained model's logits."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    tokenizer, rows = AutoTokenizer.from_pretrained(folder / "base"), text_rows()
    if added:
        tokenizer.add_tokens([f"<tool{n}>" for n in range(added)])
        rows = [{**row, "chosen": row["chosen"] + "<tool0>"} for row in rows]
    if added != 0:
        model.resize_token_embeddings(260 + added)
    if name != "default":
        model, adapter = get_peft_model(model, adapter, adapter_name=name), None
    trainer = trainer_of(folder / "run", model, adapter, train_dataset=rows, tokenizer=tokenizer)
    trainer.train()
    trainer.save_model()
    return logits(trainer.model, IDS[:, : 8 if added >= 0 else 7])


TIED = {"tie_word_embeddings": True}
CASES: dict[str, tuple[dict[str, Any], LoraConfig, dict[str, Any]]] = {
    "the layers": ({}, lora("q_proj", "down_proj"), {}),
    "dora": ({}, lora("q_proj", "v_proj", use_dora=True), {}),
    "tied, the output layer": (TIED, lora("lm_head", "q_proj"), {}),
    "tied, the embedding": (TIED, lora("embed_tokens", "q_proj"), {}),
    "tied, both": (TIED, lora("embed_tokens", "lm_head"), {}),
    "tied, dora": (TIED, lora("embed_tokens", use_dora=True), {}),
    "tied, modules to save": (TIED, lora("q_proj", modules_to_save=["embed_tokens"]), {}),
    "a name of its own": ({}, lora("q_proj"), {"name": "mine"}),
    "added": ({}, lora("q_proj"), {"added": 5}),
    "added, tied": (TIED, lora("q_proj"), {"added": 5}),
    "added, modules to save": (
        {},
        lora("q_proj", modules_to_save=["embed_tokens", "lm_head"]),
        {"added": 5},
    ),
    "added, adapted": ({}, lora("embed_tokens", "lm_head"), {"added": 5}),
    "added, trained alone": (
        {},
        lora("q_proj", trainable_token_indices={"embed_tokens": [260, 261]}),
        {"added": 5},
    ),
    "fewer rows": ({}, lora("q_proj"), {"added": -1}),
}


TRAINED_ON = {"dora", "tied, both", "a name of its own", "added, modules to save", "fewer rows"}


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_is_loaded_merged_and_trained_on(
    orpo: Orpo, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, adapter, how = CASES[case]
    saved_llama(tmp_path / "base", **sizes)
    trained = train(tmp_path, adapter, **how)
    ids = IDS[:, : trained.shape[1]]
    run, merged = tmp_path / "run", tmp_path / "merged"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert torch.equal(logits(load_answerer(str(run)).model, ids), trained)
    orpo.does("merge", run, merged)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(merged), ids), trained)
    assert len(AutoTokenizer.from_pretrained(merged)) == 259 + max(0, how.get("added", 0))
    rows = write_rows(tmp_path / "rows.jsonl", text_rows())
    given = ("--model", run, "--dataset", rows, "--output_dir", tmp_path / "more", *ONE_STEP)
    orpo.does("train", *given, *(() if case in TRAINED_ON else ("--dry_run",)))


def test_a_run_goes_on_with_an_adapter_of_its_own_name(tmp_path: Path) -> None:
    """What is resumed ends where the run does that was never stopped."""
    saved_llama(tmp_path / "base")
    whole = train(tmp_path, lora("q_proj"), name="mine")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    torch.manual_seed(1)  # other weights, which are to be replaced
    model = get_peft_model(base, lora("q_proj"), adapter_name="mine")
    trainer = trainer_of(tmp_path / "run", model)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert torch.equal(logits(trainer.model), whole)


def test_a_relative_model_is_found_from_elsewhere(
    orpo: Orpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved_llama(tmp_path / "m")
    write_rows(Path("rows.jsonl"), text_rows())
    Path("prompts.jsonl").write_text('{"prompt": "Q1: why?"}\n', encoding="utf-8")
    where = ("--model", "./m", "--dataset", "rows.jsonl", "--output_dir", "run", "--lora_r", 2)
    orpo.does("train", *where, *ONE_STEP)
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    orpo.does("generate", run, tmp_path / "prompts.jsonl", "--max_new_tokens", 2)
    orpo.does("evaluate", "preference", run, "--dataset", tmp_path / "rows.jsonl")
    # As runs of before left it: relative to where they were started.
    settings = json.loads((run / "adapter_config.json").read_text())
    for folder in (run, run / "checkpoint-1"):
        (folder / "manifest.json").unlink()
        text = json.dumps({**settings, "base_model_name_or_path": "m"})
        (folder / "adapter_config.json").write_text(text)
    orpo.does("merge", run / "checkpoint-1", "merged")


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's own, of what is planted here
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_merge_that_would_be_another_model_is_refused(
    orpo: Orpo, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was: a change of one of two tied matrices became one of both."""
    saved_llama(tmp_path / "base", tie_word_embeddings=True)
    train(tmp_path, lora(target))
    monkeypatch.setattr(loading, "untie", lambda model: None)
    merged = tmp_path / "merged"
    said = orpo.refuses("merge", tmp_path / "run", merged)
    assert "merged, the model would be another one (its logits differ by" in said
    assert not merged.exists()


def test_rounding_is_no_other_model(orpo: Orpo, tmp_path: Path) -> None:
    saved_llama(tmp_path / "base", tie_word_embeddings=True)
    train(tmp_path, lora("lm_head", "q_proj", "down_proj"))
    for dtype in ("float32", "bfloat16", "float16"):
        orpo.does("merge", tmp_path / "run", tmp_path / dtype, "--dtype", dtype)
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / dtype)
        assert merged.dtype == getattr(torch, dtype)
        assert not merged.config.tie_word_embeddings


@pytest.mark.parametrize(
    ("given", "word", "near"),
    [
        ({"target_modules": ["q_prj", "v_proj"]}, "'q_prj'", "q_proj"),
        ({"target_modules": ["V_proj", "q_proj"]}, "'V_proj'", "v_proj"),
        ({"target_modules": ["V_proj", "v_proj", "q_prj"]}, "'V_proj', 'q_prj' match", ""),
        ({"target_modules": r".*\.q_prj"}, "q_prj", ""),
        ({"target_modules": ["xxxx"]}, "There are act_fn, down_proj, embed_tokens", ""),
        ({"target_modules": ["all-linear", "q_proj"]}, "'all-linear'", ""),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_heat"]}, "lm_heat", "lm_head"),
        ({"target_modules": "all-linear", "exclude_modules": ["lm_hed"]}, "lm_hed", "lm_head"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 7]}, "layer 7", ""),
        ({"target_modules": ["q_proj"], "rank_pattern": {"k_prj": 8}}, "k_prj", "k_proj"),
        ({"target_modules": [], "target_parameters": ["q_prj.weight"]}, "q_prj.weight", ""),
    ],
)
def test_names_that_match_nothing_are_refused(
    tmp_path: Path, given: dict[str, Any], word: str, near: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer_of(tmp_path, tiny_llama(), LoraConfig(r=2, task_type="CAUSAL_LM", **given))
    assert word in str(caught.value)
    assert f"Did you mean {near}" in str(caught.value) if near else True


def test_names_that_match_are_taken(tmp_path: Path) -> None:
    adapter = lora("q_proj", "model.layers.1.mlp.up_proj", layers_to_transform=[1])
    trainer = trainer_of(tmp_path, tiny_llama(), adapter)
    trained = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert all(".layers.1." in name for name in trained)


def test_adapters_that_are_active_together_are_refused(tmp_path: Path) -> None:
    """One would be saved, and the model that was trained is both."""
    saved_llama(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model: PeftModel = get_peft_model(base, lora("q_proj"), adapter_name="first")
    model.add_adapter("second", lora("v_proj"))
    model.base_model.set_adapter(["first", "second"])
    trainer = trainer_of(tmp_path / "run", model)
    with pytest.raises(ModelError, match=r"2 adapters are active \(first, second\)"):
        trainer.train()
