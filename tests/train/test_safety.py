"""No pickle is ever loaded, weights are safetensors, and a pinned revision is what is loaded."""

from __future__ import annotations

import _pickle
import io
import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import dill
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from orpo import ModelError, ORPOConfig, ORPOTrainer
from orpo.commands.main import main
from orpo.errors import CheckpointError
from orpo.evaluate import load_answerer
from orpo.runs.commit import commit
from orpo.runs.files import read_recipe
from orpo.runs.manifest import read_manifest
from orpo.train.models import load_model, load_tokenizer
from tests.train.small import byte_tokenizer, saved_llama, text_rows, write_rows

Make = Callable[..., ORPOTrainer]


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a pickle was loaded")


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to load a pickle raises; `torch.load` must ask for weights only."""
    torch_load, numpy_load = torch.load, np.load

    def weights_only(*args: Any, **kwargs: Any) -> Any:
        assert kwargs.get("weights_only") is True, args
        assert kwargs.get("pickle_module") is None, args
        return torch_load(*args, **kwargs)

    def arrays_only(*args: Any, **kwargs: Any) -> Any:
        assert not kwargs.get("allow_pickle"), args
        return numpy_load(*args, **kwargs)

    for module in (pickle, _pickle, dill):
        for name in ("load", "loads", "Unpickler"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", weights_only)
    monkeypatch.setattr(np, "load", arrays_only)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "pairs.jsonl", text_rows(24))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


def pickles_in(folder: Path) -> set[str]:
    """Names of files that hold a pickle, by what is in them."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            start = path.read_bytes()[:2]
            if start == b"PK" or (start[:1] == b"\x80" and start[1:] <= b"\x05"):
                found.add(path.name)
    return found


@pytest.mark.usefixtures("no_pickle")
class TestNothingIsUnpickled:
    def test_the_guard_itself(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="a pickle was loaded"):
            pickle.loads(pickle.dumps(1))
        torch.save({"a": 1}, tmp_path / "a.pt")
        with pytest.raises(AssertionError):
            torch.load(tmp_path / "a.pt")

    def test_in_the_life_of_a_run(
        self,
        base: Path,
        pairs: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        run, merged = tmp_path / "run", tmp_path / "merged"

        def orpo(*arguments: object) -> None:
            code = main([str(a) for a in arguments])
            assert code == 0, capfd.readouterr().err

        settings = ("--model", base, "--dataset", pairs, "--held_out", 0.2, "--max_steps", 4)
        settings += ("--save_steps", 2, "--samples", 1, "--sample_tokens", 4)
        settings += ("--eval_strategy", "steps", "--eval_steps", 2, "--use_cpu", "true")
        settings += ("--output_dir", run, "--lora_r", 2)
        orpo("train", *settings)
        shutil.rmtree(run / "checkpoint-4")
        orpo("train", *settings, "--resume")
        assert (run / "checkpoint-4").is_dir()
        assert pickles_in(run) <= {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
        orpo("generate", run, "Q1: why?", "--max_new_tokens", 4)
        monkeypatch.setattr("sys.stdin", io.StringIO("Q1: why?\n"))
        orpo("chat", run, "--max_new_tokens", 4)
        orpo("report", run)
        orpo("merge", run, merged)
        assert pickles_in(merged) == set()
        orpo("generate", merged, "Q1: why?", "--max_new_tokens", 4)


def test_a_checkpoint_that_runs_code_is_refused(make_trainer: Make, tmp_path: Path) -> None:
    mark, run = tmp_path / "went_off", tmp_path / "run"
    plan = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(train_dataset=text_rows(), **plan).train()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        folder = shutil.copytree(run / "checkpoint-1", tmp_path / name / "checkpoint-1")
        torch.save({"state": Bomb(mark)}, folder / name)
        again = make_trainer(train_dataset=text_rows(), **plan)
        with pytest.raises(CheckpointError, match=name):  # not what was committed
            again.train(resume_from_checkpoint=str(folder))
        # Whoever can write the file can write the manifest as well.
        facts = read_manifest(folder)
        (folder / "manifest.json").unlink()
        staged = folder.rename(folder.with_name("staged"))
        commit(staged, folder, run=facts.run, step=facts.step, resumable=True)
        with pytest.raises(CheckpointError, match="code") as caught:
            again.train(resume_from_checkpoint=str(folder))
        assert "\n" not in str(caught.value)
        assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # by peft
class TestOnlySafetensors:
    def test_a_pickled_model_is_refused_even_if_it_is_asked_for(self, base: Path) -> None:
        torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
        (base / "model.safetensors").unlink()
        asked = ORPOConfig(model_init_kwargs={"use_safetensors": False})
        for load in (
            lambda: load_model(str(base), ORPOConfig()),
            lambda: load_model(str(base), asked),
            lambda: load_answerer(str(base)),
        ):
            with pytest.raises(ModelError, match="safetensors") as caught:
                load()
            assert "\n" not in str(caught.value)

    def test_an_adapter_without_a_base_or_with_pickled_weights_is_refused(
        self, base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        folder = save_adapter(base, tmp_path / "adapter")
        settings = (folder / "adapter_config.json").read_text()
        without = {**json.loads(settings), "base_model_name_or_path": None}
        (folder / "adapter_config.json").write_text(json.dumps(without))
        with pytest.raises(ModelError, match="does not name its base model"):
            load_answerer(str(folder))
        (folder / "adapter_config.json").write_text(settings)
        weights = load_file(folder / "adapter_model.safetensors")
        (folder / "adapter_model.safetensors").unlink()
        torch.save(weights, folder / "adapter_model.bin")
        for load in (
            lambda: load_model(str(folder), ORPOConfig()),
            lambda: load_answerer(str(folder)),
        ):
            with pytest.raises(ModelError, match="has no adapter_model"):
                load()
        for command in (("chat",), ("generate", "Q:"), ("merge", str(tmp_path / "out"))):
            name, *rest = command
            assert main([name, str(folder), *rest]) == 2
            said = capfd.readouterr().err.splitlines()
            assert [line for line in said if line.startswith("error: ")], said

    def test_code_of_a_model_is_not_run_unless_asked(self, base: Path) -> None:
        config = json.loads((base / "config.json").read_text())
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
        (base / "config.json").write_text(json.dumps(config))
        (base / "own.py").write_text("raise SystemError('the code of the model was run')")
        with pytest.raises(ModelError, match="--trust_remote_code true"):
            load_model(str(base), ORPOConfig())
        with pytest.raises(SystemError, match="was run"):
            load_model(str(base), ORPOConfig(trust_remote_code=True))


def save_adapter(base: Path, folder: Path) -> Path:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, settings).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model as the Hub's cache has it, with two commits of different weights and tokenizers."""
    home = tmp_path / "hub"
    repository = home / "models--org--name"
    for of, std in ((OLD, 0.05), (NEW, 0.02)):
        folder = saved_llama(repository / "snapshots" / of, initializer_range=std)
        byte_tokenizer(pad_token="</s>" if of == OLD else "<unk>").save_pretrained(folder)
    (repository / "refs").mkdir()
    for name, of in (("main", NEW), ("v1", OLD)):
        (repository / "refs" / name).write_text(of)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    return str(repository / "snapshots")


class TestRevision:
    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            ({}, NEW),
            ({"model_revision": "v1"}, OLD),
            ({"model_revision": OLD}, OLD),
            ({"model_revision": "main"}, NEW),
            ({"model_init_kwargs": {"revision": "v1"}}, OLD),
        ],
        ids=str,
    )
    def test_is_what_is_loaded(self, hub: str, asked: dict[str, Any], found: str) -> None:
        settings = ORPOConfig(**asked)
        model = load_model("org/name", settings)
        weights = load_file(f"{hub}/{found}/model.safetensors")
        assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])
        assert model.loaded_commit == found
        tokenizer = load_tokenizer("org/name", settings)
        assert tokenizer.pad_token == ("</s>" if found == OLD else "<unk>")

    def test_is_not_that_of_another_tokenizer_and_must_be_there(self, hub: str) -> None:
        own = load_tokenizer("org/name", ORPOConfig(model_revision="v1"), of_model=False)
        assert own.pad_token == "<unk>"  # main's
        with pytest.raises(ModelError, match="org/name"):
            load_model("org/name", ORPOConfig(model_revision="v2"))

    @pytest.mark.filterwarnings("ignore:Could not find a config file")  # peft asks the Hub
    def test_of_a_run_is_in_its_recipe_and_its_adapter(
        self, hub: str, make_config: Callable[..., ORPOConfig]
    ) -> None:
        trainer = ORPOTrainer(
            model="org/name",
            args=make_config(model_revision="v1"),
            train_dataset=text_rows(),
            peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        trainer.train()
        trainer.save_model()
        folder = Path(str(trainer.args.output_dir))
        recipe = read_recipe(folder)
        assert recipe["model_revision"] == "v1"
        assert recipe["_run"]["model_commit"] == OLD
        shutil.rmtree(f"{hub}/{NEW}")  # the adapter asks for the commit that it was trained on
        base: Any = load_answerer(str(folder)).model
        weights = load_file(f"{hub}/{OLD}/model.safetensors")
        assert torch.equal(base.get_base_model().model.norm.weight, weights["model.norm.weight"])


class TestTheHub:
    @pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
    def test_gets_no_pickled_settings(
        self, make_trainer: Make, monkeypatch: pytest.MonkeyPatch, strategy: str
    ) -> None:
        token = "hf_" + "canary" * 6
        sent: list[tuple[str, set[str], list[str]]] = []

        class Repository:
            repo_id = "org/name"

        def upload(self: Any, **about: Any) -> Future[None]:
            folder = Path(about["folder_path"])
            assert token.encode() not in b"".join(p.read_bytes() for p in files_of(folder))
            assert about["token"] == token
            names = {path.name for path in files_of(folder)}
            sent.append((about.get("path_in_repo", ""), names, about.get("ignore_patterns") or []))
            done: Future[None] = Future()
            done.set_result(None)
            return done

        monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda *a, **k: {"name": "org"})
        monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *a, **k: Repository())
        monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
        settings = {"push_to_hub": True, "hub_token": token, "hub_strategy": strategy}
        make_trainer(
            train_dataset=text_rows(), save_strategy="steps", save_steps=1, **settings
        ).train()
        places = {"every_save": [""], "checkpoint": ["", "last-checkpoint"]}
        assert [place for place, _, _ in sent] == places.get(strategy, ["", "checkpoint-1"])
        for _, names, _ in sent:
            assert "model.safetensors" in names
            assert "training_args.bin" not in names
        assert "optimizer*" in sent[0][2]


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
