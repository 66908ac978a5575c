"""The run folder: recipe, metrics, weights and model card."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from orpo import ORPOConfig, ORPOTrainer
from orpo.quantities import as_number
from orpo.runs.files import read_run
from orpo.train.recorder import versions
from tests.train.small import Stream, text_rows, tiny_llama
from tests.train.whole_runs import losses_of

Make = Callable[..., ORPOTrainer]
SECRET = "hf_thisIsASecretThatNobodyMaySee"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def lines_of(run: Path) -> list[dict[str, Any]]:
    text = (run / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


class TestRecipe:
    def test_says_everything_and_gives_the_same_settings_again(
        self, make_trainer: Make, run: Path
    ) -> None:
        trainer = make_trainer(
            train_dataset=text_rows(),
            eval_dataset=text_rows(3),
            beta=0.25,
            max_length=64,
            chat_template_kwargs={"enable_thinking": False},
        )
        trainer.run_facts = {"dataset": "pairs.jsonl"}
        trainer.train()
        recipe = yaml.safe_load((run / "recipe.yaml").read_text())
        names = {f.name for f in fields(ORPOConfig)}
        again = ORPOConfig(**{key: value for key, value in recipe.items() if key in names})
        assert again == trainer.args
        assert recipe["dataset"] == "pairs.jsonl"
        facts = recipe["_run"]
        assert facts["versions"] == versions()
        assert facts["versions"].keys() >= {"python", "torch", "transformers", "orpo"}
        assert facts["engine"] == "shared"
        assert facts["parameters"] == facts["trainable_parameters"] == tiny_llama().num_parameters()
        assert facts["data"]["train_dataset"]["rows_in"] == 8
        assert facts["data"]["eval_dataset"]["kept"] == 3
        assert any("shared engine" in note for note in facts["notes"])

    def test_counts_the_rows_of_a_stream_when_they_have_passed(
        self, make_trainer: Make, run: Path
    ) -> None:
        rows = [*text_rows(), {"prompt": "Q:", "chosen": " a", "rejected": " a"}]
        plan = {"max_steps": 2, "per_device_train_batch_size": 8}
        make_trainer(train_dataset=Stream(rows), **plan).train()
        account = read_run(run).facts["data"]["train_dataset"]
        assert account["rows_in"] >= 8
        assert account["rows_in"] == account["kept"] + sum(account["dropped"].values())

    def test_no_file_of_the_run_holds_a_secret(self, make_trainer: Make, run: Path) -> None:
        plan = {"hub_token": SECRET, "save_strategy": "steps", "save_steps": 1}
        trainer = make_trainer(train_dataset=text_rows(), **plan)
        trainer.args.model_init_kwargs = {"token": SECRET, "revision": "main"}
        trainer.train()
        trainer.save_model()
        trainer.save_state()
        trainer.create_model_card()
        files = [path for path in run.rglob("*") if path.is_file()]
        names = {path.name for path in files}
        assert {"recipe.yaml", "README.md", "model.safetensors", "trainer_state.json"} <= names
        for path in files:
            assert SECRET.encode() not in path.read_bytes(), path
        assert read_run(run).recipe["model_init_kwargs"] == {"revision": "main"}
        assert trainer.args.hub_token == SECRET  # still there for whoever pushes


class TestMetricsFile:
    def test_one_line_for_each_log_of_this_run(self, make_trainer: Make, run: Path) -> None:
        data = {"train_dataset": text_rows(), "eval_dataset": text_rows(3)}
        for steps in (4, 3):  # a fresh run starts a fresh file
            plan = {"max_steps": steps, "eval_strategy": "steps", "eval_steps": 2}
            trainer = make_trainer(**data, **plan)
            trainer.train()
        lines = lines_of(run)
        assert lines == [{"step": line["step"], **line} for line in trainer.state.log_history]
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
        assert [line["step"] for line in lines if "eval_loss" in line] == [2, 3]
        assert "train_runtime" in lines[-1]

    def test_an_evaluation_before_training_stays(self, make_trainer: Make, run: Path) -> None:
        trainer = make_trainer(train_dataset=text_rows(), eval_dataset=text_rows())
        before = trainer.evaluate()
        trainer.train()
        after = trainer.evaluate()
        evaluations = [line for line in lines_of(run) if "eval_loss" in line]
        assert [line["step"] for line in evaluations] == [0, 1]
        losses = [line["eval_loss"] for line in evaluations]
        assert losses == [before["eval_loss"], after["eval_loss"]]
        assert losses[1] < losses[0]


class TestSaving:
    def test_the_model_and_its_checkpoints_are_what_was_trained(
        self, make_trainer: Make, run: Path
    ) -> None:
        plan = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
        trainer = make_trainer(train_dataset=text_rows(), **plan)
        trainer.train()
        trainer.save_model()
        assert not list(run.glob("*.bin"))
        text = "Q3: why? because 3"
        ids = trainer.processing_class(text)["input_ids"]
        for folder in (run, run / "checkpoint-2"):
            assert (folder / "model.safetensors").is_file()
            assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ids
            model = AutoModelForCausalLM.from_pretrained(folder)
            with torch.no_grad():
                both = (m.eval()(input_ids=torch.tensor([ids])) for m in (model, trainer.model))
                assert torch.equal(*(output.logits for output in both))
        assert not torch.equal(tiny_llama().lm_head.weight, model.lm_head.weight)
        make_trainer(model=str(folder), tokenizer=None, train_dataset=text_rows()).train()

    def test_servers_learn_where_an_answer_ends(
        self, make_trainer: Make, run: Path, small_tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """A base model knows EOS; its new chat template ends a turn with another token."""
        model = tiny_llama(vocab_size=len(small_tokenizer))
        trainer = make_trainer(model=model, train_dataset=text_rows(), tokenizer=small_tokenizer)
        for _ in range(2):
            trainer.save_model()
            written = json.loads((run / "generation_config.json").read_text())
            end_of_turn = small_tokenizer.convert_tokens_to_ids("<|im_end|>")
            assert written["eos_token_id"] == [2, end_of_turn]


class TestModelCard:
    def card(self, run: Path) -> tuple[dict[str, Any], str]:
        _, header, body = (run / "README.md").read_text().split("---\n", 2)
        return yaml.safe_load(header), body

    def test_holds_the_numbers_of_the_run(self, make_trainer: Make, run: Path) -> None:
        trainer = make_trainer(
            train_dataset=[*text_rows(), {"prompt": "Q:", "chosen": " a", "rejected": " a"}],
            eval_dataset=text_rows(3),
            orpo_alpha=0.35,
            max_steps=3,
        )
        trainer.create_model_card()
        assert "## Training metrics" not in self.card(run)[1]  # there are no numbers yet
        trainer.train()
        evaluation = trainer.evaluate()
        trainer.create_model_card()
        header, body = self.card(run)
        assert header["library_name"] == "transformers"
        assert "orpo" in header["tags"]
        last = losses_of(trainer)[2]
        for said in (
            "## Training metrics at step 3",
            f"| Loss | {as_number(last['loss'])} |",
            f"| Reward margin, mean | {as_number(last['rewards/margins'])} |",
            f"| NLL of the chosen answers, per token | {as_number(-last['logps/chosen'])} |",
            "## Evaluation metrics at step 3",
            f"| Loss | {as_number(evaluation['eval_loss'])} |",
            "| orpo_alpha | 0.35 |",
            "train_dataset: 9 rows, 8 kept, dropped: 1 identical_answers",
            f"torch {torch.__version__}",
        ):
            assert said in body
        evidence = {"before": {"accuracy": 0.5}, "after": {"accuracy": 0.75, "note": "text"}}
        (run / "evaluation.json").write_text(json.dumps(evidence))
        given = {"tags": "test", "license": "mit", "language": "en", "finetuned_from": "org/base"}
        trainer.create_model_card(model_name="mine", **given)
        header, body = self.card(run)
        assert (header["license"], header["language"]) == ("mit", "en")
        assert header["base_model"] == "org/base"
        assert header["tags"] == ["orpo", "preference-optimization", "test"]
        assert "# mine" in body
        assert "| accuracy | 0.500 | 0.750 |" in body
        assert "## Training metrics" not in body

    def test_of_an_adapter(self, make_trainer: Make, run: Path) -> None:
        from peft import LoraConfig

        trainer = make_trainer(train_dataset=text_rows(), peft_config=LoraConfig(r=2))
        trainer.train()
        trainer.save_model()
        trainer.create_model_card()
        assert self.card(run)[0]["library_name"] == "peft"
        assert read_run(run).facts["adapter"] == "lora"
