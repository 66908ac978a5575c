"""The run folder: recipe, metrics, weights, model card, and going on after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from orpo import ConfigError, ORPOConfig, ORPOTrainer
from orpo.runs.files import read_run
from orpo.train.recorder import versions
from tests.train.small import Stream, text_rows, tiny_llama

Make = Callable[..., ORPOTrainer]
SECRET = "hf_thisIsASecretThatNobodyMaySee"


class StopAfter(TrainerCallback):
    """Ends the run as a user does who presses a key: at once, after this step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def folder_of(trainer: ORPOTrainer) -> Path:
    return Path(trainer.args.output_dir)


def lines_of(trainer: ORPOTrainer) -> list[dict[str, Any]]:
    text = (folder_of(trainer) / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


class TestRecipe:
    def test_says_everything_and_gives_the_same_settings_again(self, make_trainer: Make) -> None:
        trainer = make_trainer(
            train_dataset=text_rows(),
            eval_dataset=text_rows(3),
            beta=0.25,
            max_length=64,
            chat_template_kwargs={"enable_thinking": False},
        )
        trainer.run_facts = {"dataset": "pairs.jsonl"}
        trainer.train()
        recipe = yaml.safe_load((folder_of(trainer) / "recipe.yaml").read_text())
        names = {f.name for f in fields(ORPOConfig)}
        again = ORPOConfig(**{key: value for key, value in recipe.items() if key in names})
        assert again == trainer.args
        assert recipe["dataset"] == "pairs.jsonl"
        run = recipe["_run"]
        assert run["versions"] == versions()
        assert run["versions"].keys() >= {"python", "torch", "transformers", "orpo"}
        assert run["engine"] == "shared"
        assert run["parameters"] == run["trainable_parameters"] == tiny_llama().num_parameters()
        assert run["data"]["train_dataset"]["rows_in"] == 8
        assert run["data"]["eval_dataset"]["kept"] == 3
        assert any("shared engine" in note for note in run["notes"])

    def test_counts_the_rows_of_a_stream_when_they_have_passed(self, make_trainer: Make) -> None:
        rows = [*text_rows(), {"prompt": "Q:", "chosen": " a", "rejected": " a"}]
        trainer = make_trainer(
            train_dataset=Stream(rows), max_steps=2, per_device_train_batch_size=8
        )
        trainer.train()
        account = read_run(folder_of(trainer)).facts["data"]["train_dataset"]
        assert account["rows_in"] >= 8
        assert account["rows_in"] == account["kept"] + sum(account["dropped"].values())

    def test_no_file_of_the_run_holds_a_secret(self, make_trainer: Make) -> None:
        trainer = make_trainer(
            train_dataset=text_rows(), hub_token=SECRET, save_strategy="steps", save_steps=1
        )
        trainer.args.model_init_kwargs = {"token": SECRET, "revision": "main"}
        trainer.train()
        trainer.save_model()
        trainer.save_state()
        trainer.create_model_card()
        files = [path for path in folder_of(trainer).rglob("*") if path.is_file()]
        names = {path.name for path in files}
        assert {"recipe.yaml", "README.md", "model.safetensors", "trainer_state.json"} <= names
        for path in files:
            assert SECRET.encode() not in path.read_bytes(), path
        recipe = yaml.safe_load((folder_of(trainer) / "recipe.yaml").read_text())
        assert recipe["model_init_kwargs"] == {"revision": "main"}
        assert trainer.args.hub_token == SECRET  # still there for whoever pushes


class TestMetricsFile:
    def test_one_line_for_each_log(self, make_trainer: Make) -> None:
        trainer = make_trainer(
            train_dataset=text_rows(),
            eval_dataset=text_rows(3),
            max_steps=3,
            eval_strategy="steps",
            eval_steps=2,
        )
        trainer.train()
        lines = lines_of(trainer)
        assert lines == [{"step": line["step"], **line} for line in trainer.state.log_history]
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
        assert [line["step"] for line in lines if "eval_loss" in line] == [2, 3]
        assert "train_runtime" in lines[-1]

    def test_an_evaluation_before_training_stays(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=text_rows(), eval_dataset=text_rows())
        before = trainer.evaluate()
        trainer.train()
        after = trainer.evaluate()
        evaluations = [line for line in lines_of(trainer) if "eval_loss" in line]
        assert [line["step"] for line in evaluations] == [0, 1]
        losses = [line["eval_loss"] for line in evaluations]
        assert losses == [before["eval_loss"], after["eval_loss"]]
        assert losses[1] < losses[0]

    def test_a_fresh_run_starts_a_fresh_file(self, make_trainer: Make) -> None:
        for steps in (3, 2):
            trainer = make_trainer(train_dataset=text_rows(), max_steps=steps)
            trainer.train()
        assert [line["step"] for line in lines_of(trainer) if "loss" in line] == [1, 2]


TIMING = ("runtime", "per_second", "preparation_time")


def without_timing(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if not any(part in name for part in TIMING)}
        for line in lines
        if "loss" in line or "eval_loss" in line
    ]


SETTINGS: dict[str, Any] = {
    "max_steps": 7,
    "logging_steps": 3,
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
}


class TestResume:
    """A stopped run that goes on is the run that was never stopped."""

    @pytest.mark.parametrize("stop", [4, 5], ids=["at a checkpoint", "after one"])
    @pytest.mark.parametrize("stream", [False, True], ids=["map-style", "stream"])
    def test_same_weights_and_no_line_missing_or_twice(
        self, make_trainer: Make, tmp_path: Path, stop: int, stream: bool
    ) -> None:
        def make(name: str, **kwargs: Any) -> ORPOTrainer:
            rows = text_rows(11)
            return make_trainer(
                output_dir=str(tmp_path / name),
                train_dataset=Stream(rows) if stream else rows,
                eval_dataset=text_rows(3),
                **kwargs,
                **SETTINGS,
            )

        whole = make("whole")
        whole.train()
        make("stopped", callbacks=[StopAfter(stop)]).train()
        resumed = make("stopped")
        resumed.train(resume_from_checkpoint=True)

        assert resumed.state.global_step == 7
        for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        lines = without_timing(lines_of(resumed))
        assert lines == without_timing(lines_of(whole))
        assert [line["step"] for line in lines if "loss" in line] == [3, 6, 7]

    def test_a_line_that_was_cut_off_by_a_kill_is_dropped(
        self, make_trainer: Make, tmp_path: Path
    ) -> None:
        settings = {**SETTINGS, "train_dataset": text_rows(), "eval_dataset": text_rows(2)}
        first = make_trainer(callbacks=[StopAfter(4)], **settings)
        first.train()
        with (folder_of(first) / "metrics.jsonl").open("a") as file:
            file.write('{"step": 5, "lo')
        make_trainer(**settings).train(resume_from_checkpoint=True)
        steps = [line["step"] for line in lines_of(first) if "loss" in line]
        assert steps == [3, 6, 7]

    def test_from_a_named_checkpoint(self, make_trainer: Make) -> None:
        settings = {**SETTINGS, "train_dataset": text_rows(), "eval_dataset": text_rows(2)}
        first = make_trainer(**settings)
        first.train()
        second = make_trainer(**settings)
        second.train(resume_from_checkpoint=str(folder_of(first) / "checkpoint-2"))
        assert second.state.global_step == 7

    @pytest.mark.parametrize("asked", [True, "nowhere"])
    def test_with_no_checkpoint(self, make_trainer: Make, asked: bool | str) -> None:
        trainer = make_trainer(train_dataset=text_rows())
        with pytest.raises(ConfigError, match="there is no checkpoint to go on from"):
            trainer.train(resume_from_checkpoint=asked)


class TestSaving:
    def test_reloading_gives_identical_logits(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=text_rows(), max_steps=3)
        trainer.train()
        trainer.save_model()
        folder = folder_of(trainer)
        assert (folder / "model.safetensors").is_file()
        assert not list(folder.glob("*.bin"))
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        text = "Q3: why? because 3"
        assert tokenizer(text)["input_ids"] == trainer.processing_class(text)["input_ids"]
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            ours = trainer.model.eval()(input_ids=ids).logits
            assert torch.equal(model(input_ids=ids).logits, ours)
        assert not torch.equal(tiny_llama().lm_head.weight, model.lm_head.weight)

    def test_a_checkpoint_is_a_model_folder(self, make_trainer: Make) -> None:
        trainer = make_trainer(
            train_dataset=text_rows(), max_steps=2, save_strategy="steps", save_steps=2
        )
        trainer.train()
        weights = load_file(folder_of(trainer) / "checkpoint-2" / "model.safetensors")
        assert torch.equal(weights["lm_head.weight"], trainer.model.lm_head.weight)
        again = make_trainer(
            model=str(folder_of(trainer) / "checkpoint-2"),
            tokenizer=None,
            train_dataset=text_rows(),
        )
        again.train()

    def test_servers_learn_where_an_answer_ends(
        self, make_trainer: Make, small_tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """A base model knows EOS; its new chat template ends a turn with another token."""
        model = tiny_llama(vocab_size=len(small_tokenizer))
        trainer = make_trainer(model=model, train_dataset=text_rows(), tokenizer=small_tokenizer)
        for _ in range(2):
            trainer.save_model()
            written = (folder_of(trainer) / "generation_config.json").read_text()
            end_of_turn = small_tokenizer.convert_tokens_to_ids("<|im_end|>")
            assert json.loads(written)["eos_token_id"] == [2, end_of_turn]

    def test_the_same_seed_gives_the_same_run(self, make_trainer: Make) -> None:
        runs = []
        for seed in (5, 5, 6):
            trainer = make_trainer(
                train_dataset=text_rows(11),
                max_steps=4,
                per_device_train_batch_size=2,
                seed=seed,
            )
            trainer.train()
            runs.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]


class TestModelCard:
    def card(self, trainer: ORPOTrainer) -> tuple[dict[str, Any], str]:
        text = (folder_of(trainer) / "README.md").read_text()
        _, header, body = text.split("---\n", 2)
        return yaml.safe_load(header), body

    def test_holds_the_numbers_of_the_run(self, make_trainer: Make) -> None:
        trainer = make_trainer(
            train_dataset=[*text_rows(), {"prompt": "Q:", "chosen": " a", "rejected": " a"}],
            eval_dataset=text_rows(3),
            orpo_alpha=0.35,
            max_steps=3,
        )
        trainer.train()
        evaluation = trainer.evaluate()
        trainer.create_model_card()
        header, body = self.card(trainer)
        assert header["library_name"] == "transformers"
        assert "orpo" in header["tags"]
        last = trainer.state.log_history[2]
        assert "## Training metrics at step 3" in body
        assert f"| loss | {last['loss']:.4g} |" in body
        assert f"| rewards/margins | {last['rewards/margins']:.4g} |" in body
        assert "## Evaluation metrics at step 3" in body
        assert f"| eval_loss | {evaluation['eval_loss']:.4g} |" in body
        assert "| orpo_alpha | 0.35 |" in body
        assert "train_dataset: 9 rows, 8 kept, dropped: 1 identical_answers" in body
        assert f"torch {torch.__version__}" in body

    def test_takes_what_transformers_passes(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=text_rows())
        trainer.train()
        trainer.create_model_card(
            model_name="mine", tags="test", license="mit", language="en", finetuned_from="org/base"
        )
        header, body = self.card(trainer)
        assert header["license"] == "mit"
        assert header["language"] == "en"
        assert header["base_model"] == "org/base"
        assert header["tags"] == ["orpo", "preference-optimization", "test"]
        assert "# mine" in body

    def test_before_training_there_are_no_numbers(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=text_rows())
        trainer.create_model_card()
        assert "## Training metrics" not in self.card(trainer)[1]

    def test_of_held_out_pairs_before_and_after(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=text_rows())
        trainer.train()
        evidence = {"before": {"accuracy": 0.5}, "after": {"accuracy": 0.75, "note": "text"}}
        (folder_of(trainer) / "evaluation.json").write_text(json.dumps(evidence))
        trainer.create_model_card()
        body = self.card(trainer)[1]
        assert "| accuracy | 0.5 | 0.75 |" in body
        assert "## Training metrics" not in body

    def test_of_an_adapter(self, make_trainer: Make) -> None:
        from peft import LoraConfig

        trainer = make_trainer(train_dataset=text_rows(), peft_config=LoraConfig(r=2))
        trainer.train()
        trainer.save_model()
        trainer.create_model_card()
        assert self.card(trainer)[0]["library_name"] == "peft"
        assert read_run(folder_of(trainer)).facts["adapter"] == "lora"
