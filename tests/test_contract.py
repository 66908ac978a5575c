"""The public contract, word for word: what a user may rely on, from the outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import orpo
from orpo import ConfigError, DataError, ModelError, ORPOConfig, ORPOTrainer, orpo_loss
from tests.train.one_step import any_trainer
from tests.train.small import MapStyle, Stream, byte_tokenizer, text_rows, tiny_llama

QUIET: dict[str, Any] = {"use_cpu": True, "report_to": "none", "disable_tqdm": True}


def dataset(count: int = 8) -> datasets.Dataset:
    return datasets.Dataset.from_list(text_rows(count))


def config(folder: Path, **kwargs: Any) -> ORPOConfig:
    short = {"output_dir": str(folder / "run"), "max_steps": 2, "save_strategy": "no", **QUIET}
    return ORPOConfig(**{**short, **kwargs})


def make(folder: Path, **kwargs: Any) -> ORPOTrainer:
    """A trainer of a tiny model; settings and arguments by their names."""
    return any_trainer(**{"output_dir": str(folder / "run"), "max_steps": 2, **kwargs})


def test_the_snippet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, tokenizer, dataset = tiny_llama(), byte_tokenizer(), text_rows(20)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    config = ORPOConfig(
        output_dir="out",
        learning_rate=1e-5,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        max_steps=3,  # 1000 in the document
        orpo_alpha=1.0,
        orpo_beta=0.1,
        use_cpu=True,
    )
    trainer = ORPOTrainer(model=model, args=config, train_dataset=dataset, tokenizer=tokenizer)
    trainer.train()

    assert issubclass(ORPOConfig, TrainingArguments)
    assert issubclass(ORPOTrainer, Trainer)
    assert trainer.state.global_step == 3
    assert any(not torch.equal(before[n], w) for n, w in model.state_dict().items())
    assert (tmp_path / "out" / "metrics.jsonl").is_file()


class TestModel:
    """`model` may be an object, a path or a Hub id."""

    @pytest.mark.parametrize("kind", [str, Path, lambda folder: folder.name])
    def test_a_path(
        self,
        tmp_path: Path,
        base: Path,
        kind: Callable[[Path], Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        given = {"args": config(tmp_path), "train_dataset": dataset()}
        trainer = ORPOTrainer(model=kind(base), **given)
        assert trainer.train().global_step == 2
        assert trainer.processing_class.vocab_size == byte_tokenizer().vocab_size

    def test_weights_are_float32_unless_asked(self, tmp_path: Path, base: Path) -> None:
        tiny_llama().to(torch.bfloat16).save_pretrained(base)
        for dtype, expected in ((None, torch.float32), ("auto", torch.bfloat16)):
            kwargs = {} if dtype is None else {"model_dtype": dtype}
            trainer = make(tmp_path, model=str(base), **kwargs)
            assert trainer.model.dtype == expected

    def test_model_init_kwargs_are_for_from_pretrained(self, tmp_path: Path, base: Path) -> None:
        eager = {"attn_implementation": "eager"}
        trainer = make(tmp_path, model=str(base), model_init_kwargs=json.dumps(eager))
        assert trainer.model.config._attn_implementation == "eager"
        with pytest.raises(ConfigError, match="model_init_kwargs"):
            make(tmp_path, model_init_kwargs=eager)

    @pytest.mark.parametrize("init", [None, tiny_llama])
    def test_neither_or_both_of_model_and_model_init(self, tmp_path: Path, init: Any) -> None:
        model = None if init is None else tiny_llama()
        with pytest.raises(ConfigError, match="exactly one of model and model_init"):
            ORPOTrainer(model=model, model_init=init, args=config(tmp_path))


class TestTokenizer:
    """`tokenizer=` and `processing_class=` are both accepted, and found by themselves."""

    @pytest.mark.parametrize("names", [["tokenizer"], ["processing_class"], []])
    def test_either_name_or_both_for_one_object(self, tmp_path: Path, names: list[str]) -> None:
        tokenizer = byte_tokenizer()
        given = dict.fromkeys(names or ["tokenizer", "processing_class"], tokenizer)
        trainer = ORPOTrainer(model=tiny_llama(), args=config(tmp_path), **given)
        assert trainer.processing_class is tokenizer
        with pytest.raises(ConfigError, match="two names of one argument"):
            make(tmp_path, tokenizer=tokenizer, processing_class=byte_tokenizer())

    def test_found_by_the_name_of_a_loaded_model(self, tmp_path: Path, base: Path) -> None:
        model = AutoModelForCausalLM.from_pretrained(base)
        trainer = make(tmp_path, model=model, train_dataset=dataset(), tokenizer=None)
        assert trainer.train().global_step == 2
        with pytest.raises(ModelError, match=r"no tokenizer was given.* Pass tokenizer="):
            make(tmp_path, tokenizer=None)


class TestArgs:
    def test_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        given = {"train_dataset": dataset(), "tokenizer": byte_tokenizer()}
        trainer = ORPOTrainer(model=tiny_llama(), **given)
        assert isinstance(trainer.args, ORPOConfig)
        assert trainer.args.orpo_alpha == 0.1

    def test_that_cannot_be_used(self, tmp_path: Path) -> None:
        args = TrainingArguments(output_dir=str(tmp_path), dataloader_pin_memory=False, **QUIET)
        with pytest.raises(ConfigError, match="args: expected an ORPOConfig"):
            make(tmp_path, args=args)
        with pytest.raises(ConfigError, match="preprocess_logits_for_metrics"):
            make(tmp_path, preprocess_logits_for_metrics=lambda logits, labels: logits)


def trained_losses(folder: Path, train_dataset: Any, **kwargs: Any) -> list[float]:
    """Losses of two steps over all eight rows in their order."""
    settings = {"per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
    rates = {"logging_steps": 1, "learning_rate": 1e-2, "warmup_steps": 0}
    trainer = make(folder, train_dataset=train_dataset, **settings, **rates, **kwargs)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def tokenised(*names: str) -> list[dict[str, list[int]]]:
    """The same rows as token ids under some column names."""
    trainer = make(Path("unused"), train_dataset=text_rows())
    ours = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [
        {name: list(row[our]) for name, our in zip(names or ours, ours, strict=True)}
        for row in trainer.train_dataset
    ]


OF_TRL = ("prompt_input_ids", "chosen_input_ids", "rejected_input_ids")
FORMS: dict[str, Callable[[], Any]] = {
    "list of dicts": text_rows,
    "torch map-style": lambda: MapStyle(text_rows()),
    "torch stream": lambda: Stream(text_rows()),
    "datasets stream": lambda: dataset().to_iterable_dataset(),
    "datasets stream in shards": lambda: dataset().to_iterable_dataset(num_shards=2),
    "token ids": tokenised,
    "token ids under TRL's names": lambda: tokenised(*OF_TRL),
    "stream of token ids": lambda: Stream(tokenised()),
}


class TestDataSets:
    """Map-style, streaming and already tokenised data sets all work, and mean the same."""

    @pytest.fixture(autouse=True)
    def _somewhere_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_every_form(self, tmp_path: Path) -> None:
        expected = trained_losses(tmp_path / "expected", dataset())
        for name, form in FORMS.items():
            assert trained_losses(tmp_path, form()) == expected, name
        assert trained_losses(tmp_path, dataset(), dataloader_num_workers=1) == expected

    def test_a_stream_is_passed_again_when_it_ends_and_needs_max_steps(
        self, tmp_path: Path
    ) -> None:
        assert len(trained_losses(tmp_path, Stream(text_rows()), max_steps=5)) == 5
        with pytest.raises(ConfigError, match=r"^max_steps: "):
            trained_losses(tmp_path, Stream(text_rows()), max_steps=-1)
        with pytest.raises(ConfigError, match="train_dataset: there is nothing to train on"):
            make(tmp_path).train()

    @pytest.mark.parametrize(
        ("form", "error", "message"),
        [
            ("rows.jsonl", ConfigError, "train_dataset: expected a data set object"),
            (7, DataError, "train_dataset: expected a map-style or streaming data set, got int"),
            (iter([]), DataError, "got list_iterator"),
            ([], DataError, "no pair is left"),
            ([1, 2], DataError, "train_dataset row 0: expected a dict of columns, found int"),
            (
                datasets.DatasetDict(train=dataset(), test=dataset()),
                ConfigError,
                "expected one data set, got several (train, test)",
            ),
        ],
    )
    def test_what_is_no_data_set(
        self, tmp_path: Path, form: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error) as caught:
            trained_losses(tmp_path, form)
        assert message in str(caught.value)


class TestEvaluation:
    """`eval_dataset` may be a Dataset, a dict of them, or absent."""

    def test_one_or_several(self, tmp_path: Path) -> None:
        metrics = make(tmp_path, eval_dataset=dataset()).evaluate()
        assert metrics["eval_loss"] > 0
        assert {"eval_nll_loss", "eval_rewards/margins", "eval_logps/chosen"} <= metrics.keys()
        both = {"short": dataset(3), "long": Stream(text_rows(8))}
        metrics = make(tmp_path, eval_dataset=both).evaluate()
        assert metrics["eval_long_loss"] == make(tmp_path).evaluate(dataset())["eval_loss"]
        assert metrics["eval_short_rewards/accuracies"] >= 0
        trainer = make(tmp_path, eval_dataset=datasets.DatasetDict(test=dataset()))
        assert "eval_test_loss" in trainer.evaluate()

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="eval_dataset: there is nothing to evaluate on"):
            make(tmp_path).evaluate()
        with pytest.raises(ConfigError, match="eval_strategy: is 'steps'"):
            make(tmp_path, train_dataset=dataset(), eval_strategy="steps", eval_steps=1)
        metrics = make(tmp_path).evaluate(text_rows(5), metric_key_prefix="later")
        assert metrics["later_loss"] > 0  # raw rows given later

    def test_the_best_model_is_kept(self, tmp_path: Path) -> None:
        every = {f"{what}_strategy": "steps" for what in ("eval", "save")}
        every |= {"eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
        best = {"metric_for_best_model": "eval_rewards/margins", "greater_is_better": False}
        trainer = make(
            tmp_path,
            **{"max_steps": 3, "learning_rate": 0.1, "warmup_steps": 0},
            **{**every, **best},  # the worst is the best, so that it is not the last
            train_dataset=dataset(),
            eval_dataset=dataset(),
        )
        trainer.train()
        history = trainer.state.log_history
        margins = [line["eval_rewards/margins"] for line in history if "eval_loss" in line]
        assert margins[-1] > margins[0] == trainer.state.best_metric
        assert trainer.evaluate()["eval_rewards/margins"] == pytest.approx(margins[0], rel=1e-6)

    @pytest.mark.parametrize("tokens", [None, 150])
    def test_predict_gives_pairs_in_the_order_of_their_rows(
        self, tmp_path: Path, tokens: int | None
    ) -> None:
        trainer = make(tmp_path, per_device_eval_batch_size=4)
        trainer.args.max_tokens_per_microbatch = tokens
        output = trainer.predict(dataset(7))
        chosen, rejected = output.predictions
        assert output.label_ids.tolist() == list(range(7))
        assert chosen.shape == rejected.shape == (7,)
        for i, row in enumerate(text_rows(7)):
            alone = trainer.predict([row])
            assert alone.predictions[0][0] == pytest.approx(chosen[i], rel=1e-5)
            assert alone.predictions[1][0] == pytest.approx(rejected[i], rel=1e-5)
        assert output.metrics["test_logps/chosen"] == pytest.approx(chosen.mean(), rel=1e-6)

    def test_compute_metrics_receives_log_probabilities_of_pairs(self, tmp_path: Path) -> None:
        seen: list[EvalPrediction] = []

        def wide_margins(prediction: EvalPrediction) -> dict[str, float]:
            seen.append(prediction)
            chosen, rejected = prediction.predictions
            return {"wide": float(np.mean(chosen - rejected > 0.1))}

        trainer = make(tmp_path, eval_dataset=dataset(6), compute_metrics=wide_margins)
        metrics = trainer.evaluate()
        chosen, rejected = seen[0].predictions
        assert chosen.shape == rejected.shape == (6,)
        assert seen[0].label_ids.tolist() == [0, 1, 2, 3, 4, 5]
        assert metrics["eval_logps/chosen"] == pytest.approx(chosen.mean())
        assert 0 <= metrics["eval_wide"] <= 1
        assert trainer.compute_metrics is wide_margins


def test_callbacks_a_collator_and_an_optimizer_of_ones_own(tmp_path: Path) -> None:
    steps: list[int] = []
    sizes: list[int] = []
    collate = orpo.data.PairCollator(0)

    class Count(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)

    def collator(features: list[Any]) -> dict[str, torch.Tensor]:
        sizes.append(len(features))
        return collate(features)

    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    given = {"callbacks": [Count()], "optimizers": (optimizer, None)}
    args = config(tmp_path, per_device_train_batch_size=3)
    ORPOTrainer(model, args, collator, dataset(), tokenizer=byte_tokenizer(), **given).train()
    assert steps == [1, 2]
    assert sizes[:2] == [3, 3]


def test_the_loss_alone() -> None:
    chosen, rejected = torch.tensor([-0.5, -1.0]), torch.tensor([-1.5, -0.7])
    result = orpo_loss(chosen, rejected, torch.tensor([1.0, 2.0]), alpha=0.5, beta=2.0)
    assert result.log_odds.shape == (2,)
    assert result.loss == result.nll_loss + 0.5 * result.odds_ratio_loss
    assert result.nll_loss == 1.5
