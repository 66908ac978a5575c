"""Which changes of a recipe make another run, and what is said about them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import yaml
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import TrainerCallback

from orpo import ConfigError, ORPOConfig, ORPOTrainer
from orpo.jobs import TrainJob
from orpo.train import same_run as kinds
from orpo.train.identity import data_fingerprint, identity
from orpo.train.same_run import check_same_run, recipe_changes
from tests.train.small import Stream, text_rows, tiny_llama

Make = Callable[..., ORPOTrainer]
GROUPS = {
    name: getattr(kinds, name)
    for name in (
        *("WRITTEN", "EVALUATION", "SAVING", "ROUNDING", "LENGTH"),
        *("SPLIT", "WORKERS", "DATA", "OTHER"),
    )
}


def recipe(*, run: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """A recipe as it is read back from recipe.yaml."""
    job = {"model": "m", "dataset": "pairs.jsonl", "mix": None, "held_out": 0.0, "lora_r": None}
    job |= {name: settings.pop(name) for name in list(settings) if name in job}
    plain = {"output_dir": "out", "use_cpu": True, "report_to": "none"}
    config = ORPOConfig(**{**plain, **settings}).to_dict()
    found = {
        "data_fingerprint": "abc",
        "world_size": 1,
        "data": {"train_dataset": {"kept": 64}},
        "engine": "shared",
        "versions": {"torch": "2.13", "orpo": "0.5"},
        **(run or {}),
    }
    text = yaml.safe_dump({**job, **config, "_run": found})
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def names(before: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Names of harmless and of breaking changes."""
    changes = recipe_changes(before, now)
    return [c.name for c in changes.harmless], [c.name for c in changes.breaking]


class TestEverySetting:
    def test_is_classified_once(self) -> None:
        for one, other in itertools.combinations(GROUPS, 2):
            assert not GROUPS[one] & GROUPS[other], (one, other)
        known = {f.name for f in fields(ORPOConfig) if f.init} | {f.name for f in fields(TrainJob)}
        assert known - kinds.KNOWN == set(), "say in setting_kinds what these change"

    def test_nothing_changed(self) -> None:
        assert names(recipe(), recipe()) == ([], [])
        assert check_same_run(recipe(), recipe(), allow=False) == []

    def test_a_setting_that_nobody_knows_makes_another_run(self) -> None:
        now = {**recipe(), "new_trick": "on"}
        assert names(recipe(), now) == ([], ["new_trick"])
        assert names(now, recipe()) == ([], ["new_trick"])
        assert names({**now, "new_trick": "off"}, now) == ([], ["new_trick"])

    def test_a_setting_that_only_one_version_knows_is_at_its_default(self) -> None:
        now = {**recipe(), "new_trick": False}
        older = {key: value for key, value in recipe().items() if key != "truncation"}
        assert names(older, now) == ([], [])
        assert names(older, recipe(truncation="drop", run={"data_fingerprint": None})) == (
            [],
            ["truncation"],
        )


OTHER_RUN = [
    {"learning_rate": 1e-4},
    {"lr_scheduler_type": "linear"},
    {"warmup_steps": 10},
    {"per_device_train_batch_size": 4},
    {"gradient_accumulation_steps": 2},
    {"seed": 1},
    {"data_seed": 1},
    {"orpo_alpha": 0.2},
    {"orpo_beta": 0.5},
    {"nll_scope": "completion"},
    {"model": "other"},
    {"lora_r": 8},
    {"bf16": True},
    {"model_dtype": "bfloat16"},
    {"model_revision": "v2"},
    {"optim": "adamw_torch"},
    {"disable_dropout": False},
    {"dataloader_drop_last": True},
    {"ignore_data_skip": True},
    {"accelerator_config": {"split_batches": True}},
]
SAME_RUN = [
    {"output_dir": "elsewhere"},
    {"logging_steps": 3},
    {"report_to": "tensorboard"},
    {"eval_strategy": "steps", "eval_steps": 5},
    {"save_steps": 7},
    {"save_total_limit": 2},
    {"push_to_hub": True},
    {"max_tokens_per_microbatch": 64},
    {"engine": "padded"},
    {"compile_blocks": True},
    {"activation_checkpointing": True},
    {"dataloader_num_workers": 2},
    {"run_name": "second"},
    {"stall_timeout": 5.0},
    {"resume_changed": True},
]
OF_THE_DATA = [
    {"dataset": "more.jsonl"},
    {"mix": [3, 1]},
    {"held_out": 0.1},
    {"max_length": 512},
    {"max_prompt_length": 64},
    {"truncation": "drop"},
    {"on_bad_row": "drop"},
]


class TestJudging:
    @pytest.mark.parametrize("changed", OTHER_RUN, ids=str)
    def test_another_run(self, changed: dict[str, Any]) -> None:
        harmless, breaking = names(recipe(), recipe(**changed))
        assert {*breaking} == {*changed}, harmless
        with pytest.raises(ConfigError, match=next(iter(changed))) as caught:
            check_same_run(recipe(), recipe(**changed), allow=False)
        assert "\n" not in str(caught.value)
        assert "--resume_changed true" in str(caught.value)
        [line] = check_same_run(recipe(), recipe(**changed), allow=True)
        assert line.startswith("another run from here on")

    @pytest.mark.parametrize("changed", SAME_RUN, ids=str)
    def test_the_same_run(self, changed: dict[str, Any]) -> None:
        harmless, breaking = names(recipe(), recipe(**changed))
        assert breaking == []
        assert {*changed} - {"resume_changed"} <= {*harmless}

    @pytest.mark.parametrize("changed", OF_THE_DATA, ids=str)
    def test_data_are_told_by_their_content(self, changed: dict[str, Any]) -> None:
        assert names(recipe(), recipe(**changed)) == ([*changed], [])
        others = recipe(**changed, run={"data_fingerprint": "xyz"})
        assert {*names(recipe(), others)[1]} == {*changed, "data_fingerprint"}
        unknown = {"data_fingerprint": None}  # a stream
        assert names(recipe(run=unknown), recipe(**changed, run=unknown)) == ([], [*changed])

    def test_the_same_name_with_other_content(self) -> None:
        changes = recipe_changes(recipe(), recipe(run={"data_fingerprint": "xyz"}))
        assert [str(change) for change in changes.breaking] == ["the prepared pairs are other ones"]

    def test_facts(self) -> None:
        settings = {"default": {"r": 8, "lora_alpha": 16}}
        other = {"default": {"r": 8, "lora_alpha": 32}}
        before = recipe(run={"adapter_settings": settings})
        now = recipe(run={"adapter_settings": other, "world_size": 2})
        harmless, breaking = names(before, now)
        assert breaking == ["world_size", "adapter_settings.default.lora_alpha"]
        assert harmless == []

    def test_versions_and_what_the_machine_chose_are_only_said(self) -> None:
        run = {"versions": {"torch": "2.14", "orpo": "0.5"}, "engine": "padded"}
        [line] = check_same_run(recipe(), recipe(run=run), allow=False)
        assert "versions.torch 2.13 -> 2.14 (numbers may differ by rounding)" in line
        assert "engine shared -> padded" in line


class TestWhereItDepends:
    @pytest.mark.parametrize(
        "changed",
        [{"engine": "padded"}, {"max_tokens_per_microbatch": 64}],
        ids=str,
    )
    @pytest.mark.parametrize(
        "random",
        [
            {"disable_dropout": False},
            {"accelerator_config": {"use_seedable_sampler": False}},
        ],
        ids=str,
    )
    def test_on_random_numbers(self, changed: dict[str, Any], random: dict[str, Any]) -> None:
        assert names(recipe(**random), recipe(**random, **changed)) == ([], [*changed])
        for name in ("save_steps", "eval_steps"):  # an evaluation gives back what it draws
            assert names(recipe(**random), recipe(**random, **{name: 3})) == ([name], [])

    @pytest.mark.parametrize(
        "changed", [{"engine": "padded"}, {"max_tokens_per_microbatch": 64}], ids=str
    )
    def test_noise_on_embeddings_is_of_the_pair_and_no_other(self, changed: dict[str, Any]) -> None:
        noise = {"neftune_noise_alpha": 5.0}
        assert names(recipe(**noise), recipe(**noise, **changed)) == ([*changed], [])

    @pytest.mark.parametrize("name", ["eval_steps", "save_steps"])
    @pytest.mark.parametrize(
        "watching", [{"load_best_model_at_end": True}, {"lr_scheduler_type": "greedy"}], ids=str
    )
    def test_on_who_watches_the_evaluations(self, name: str, watching: dict[str, Any]) -> None:
        plan = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1}
        plan |= {"save_steps": 2, **watching}
        before = recipe(**plan)
        assert names(before, {**before, name: 4}) == ([], [name])

    @pytest.mark.parametrize(
        ("schedule", "endless"),
        [
            ({"lr_scheduler_type": "constant"}, True),
            ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}, True),
            ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.1}, False),
            ({"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 5}, True),
            ({"lr_scheduler_type": "cosine"}, False),
            ({"lr_scheduler_type": "linear", "warmup_steps": 5}, False),
        ],
    )
    @pytest.mark.parametrize("longer", [{"max_steps": 50}, {"num_train_epochs": 9}], ids=str)
    def test_a_longer_run_on_its_schedule(
        self, schedule: dict[str, Any], endless: bool, longer: dict[str, Any]
    ) -> None:
        before, now = recipe(**schedule), recipe(**schedule, **longer)
        assert names(before, now) == ([*longer], [])
        [line] = check_same_run(before, now, allow=False)
        assert ("the schedule is that of the new length" in line) != endless

    @pytest.mark.parametrize(
        ("run", "same"),
        [
            ({}, True),
            ({"data": {"train_dataset": {"kept": 63}}}, False),  # an epoch's end is a part
            ({"data_fingerprint": None}, False),
            ({"world_size": 3}, False),
        ],
    )
    def test_the_same_pairs_in_other_parts(self, run: dict[str, Any], same: bool) -> None:
        before = recipe(run=run, per_device_train_batch_size=8, gradient_accumulation_steps=1)
        now = recipe(run=run, per_device_train_batch_size=4, gradient_accumulation_steps=2)
        parts = ["gradient_accumulation_steps", "per_device_train_batch_size"]
        assert names(before, now) == ((parts, []) if same else ([], parts))

    def test_workers_deal_out_the_rows_of_a_stream(self) -> None:
        run = {"data_fingerprint": None}
        now = recipe(run=run, dataloader_num_workers=2)
        assert names(recipe(run=run), now) == ([], ["dataloader_num_workers"])


class TestFingerprint:
    def test_is_that_of_the_content(self, make_trainer: Make) -> None:
        pairs = make_trainer(train_dataset=text_rows()).train_dataset
        other = make_trainer(train_dataset=text_rows(), data_cache="off").train_dataset
        known = data_fingerprint(pairs)
        assert known == data_fingerprint(other)
        cut = datasets.concatenate_datasets([pairs.select(range(3)), pairs.select(range(3, 8))])
        assert known == data_fingerprint(cut)
        assert known == data_fingerprint(pairs.select([*range(8)]))

    @pytest.mark.parametrize("column", ["prompt_ids", "chosen_ids", "rejected_ids", "weight"])
    def test_notices_every_value(self, make_trainer: Make, column: str) -> None:
        pairs = make_trainer(train_dataset=text_rows()).train_dataset
        values = pairs.to_dict()
        values[column][5] = 2.0 if column == "weight" else [*values[column][5][:-1], 7]
        changed = datasets.Dataset.from_dict(values, features=pairs.features)
        assert data_fingerprint(changed) != data_fingerprint(pairs)

    def test_notices_order_and_borders(self, make_trainer: Make) -> None:
        pairs = make_trainer(train_dataset=text_rows()).train_dataset
        known = data_fingerprint(pairs)
        assert known != data_fingerprint(pairs.select([1, 0, *range(2, 8)]))
        assert known != data_fingerprint(pairs.select(range(7)))
        values = pairs.to_dict()
        first, second = values["chosen_ids"][:2]
        values["chosen_ids"][:2] = [[*first, second[0]], second[1:]]
        moved = datasets.Dataset.from_dict(values, features=pairs.features)
        assert known != data_fingerprint(moved)

    def test_a_stream_has_none(self, make_trainer: Make) -> None:
        trainer = make_trainer(train_dataset=Stream(text_rows()))
        assert identity(trainer.model, trainer.train_dataset)["data_fingerprint"] is None

    def test_adapter_settings(self, make_trainer: Make) -> None:
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = make_trainer(train_dataset=text_rows(), peft_config=lora)
        settings = identity(trainer.model, None)["adapter_settings"]["default"]
        assert (settings["r"], settings["lora_alpha"]) == (4, 8)
        assert "model.layers.*.mlp.up_proj" in settings["target_modules"]
        assert yaml.safe_load(yaml.safe_dump(settings)) == settings


class StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


STEPS: dict[str, Any] = {
    "max_steps": 4,
    "lr_scheduler_type": "constant",
    "save_strategy": "steps",
    "save_steps": 2,
    "num_train_epochs": 9,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
}


class TestGoingOn:
    """The trainer itself, with what is said to be the same run."""

    def weights(self, trainer: ORPOTrainer) -> dict[str, torch.Tensor]:
        folder = Path(str(trainer.args.output_dir))
        return load_file(folder / f"checkpoint-{trainer.state.max_steps}" / "model.safetensors")

    @pytest.mark.parametrize(
        "changed",
        [
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
            {"engine": "padded", "max_tokens_per_microbatch": 128},
            {"eval_strategy": "steps", "eval_steps": 1, "dataloader_num_workers": 0},
            {"max_steps": 6},
        ],
        ids=str,
    )
    def test_the_same_weights_come_out(
        self, make_trainer: Make, tmp_path: Path, changed: dict[str, Any]
    ) -> None:
        data = {"train_dataset": text_rows(8), "eval_dataset": text_rows(3)}
        end = {"max_steps": changed.get("max_steps", 4)}
        whole = {**STEPS, **end, "output_dir": str(tmp_path / "whole"), **data}
        straight = make_trainer(model=tiny_llama(), **whole)
        straight.train()
        first = make_trainer(callbacks=[StopAfter(2)], **STEPS, **data)
        first.train()
        second = make_trainer(**{**STEPS, **changed}, **data)
        second.train(resume_from_checkpoint=True)
        ours, theirs = self.weights(second), self.weights(straight)
        for name, weight in theirs.items():
            torch.testing.assert_close(ours[name], weight, atol=2e-5, rtol=1e-4)

    def test_another_run_is_refused_unless_told(self, make_trainer: Make) -> None:
        settings = {**STEPS, "train_dataset": text_rows(8)}
        make_trainer(callbacks=[StopAfter(2)], **settings).train()
        with pytest.raises(ConfigError, match=r"learning_rate: this is not the run .*0\.01 -> "):
            make_trainer(**settings | {"learning_rate": 1e-3}).train(resume_from_checkpoint=True)
        with pytest.raises(ConfigError, match="the prepared pairs are other ones"):
            make_trainer(**settings | {"train_dataset": text_rows(9)}).train(
                resume_from_checkpoint=True
            )
        told = make_trainer(**settings | {"learning_rate": 1e-3}, resume_changed=True)
        told.train(resume_from_checkpoint=True)
        assert told.state.global_step == 4
