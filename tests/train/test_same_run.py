"""Which changes of a recipe make another run, and what is said about them."""

import itertools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import datasets
import pytest
import yaml
from peft import LoraConfig

from orpo import ConfigError, ORPOConfig, ORPOTrainer
from orpo.jobs import TrainJob
from orpo.train import same_run
from orpo.train.same_run import check_same_run, data_fingerprint, identity, recipe_changes
from tests.train.small import Stream, text_rows

Make = Callable[..., ORPOTrainer]
Changes = dict[str, Any]


def recipe(*, run: Changes | None = None, **settings: Any) -> Changes:
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
    read: Changes = yaml.safe_load(yaml.safe_dump({**job, **config, "_run": found}))
    return read


def names(before: Changes, now: Changes) -> tuple[list[str], list[str]]:
    """Names of harmless and of breaking changes."""
    changes = recipe_changes(before, now)
    return [c.name for c in changes.harmless], [c.name for c in changes.breaking]


def test_every_setting_is_classified_once() -> None:
    kinds = ("WRITTEN", "EVALUATION", "SAVING", "ROUNDING", "LENGTH")
    groups = {
        name: getattr(same_run, name) for name in (*kinds, "SPLIT", "WORKERS", "DATA", "OTHER")
    }
    for one, other in itertools.combinations(groups, 2):
        assert not groups[one] & groups[other], (one, other)
    known = {f.name for f in fields(ORPOConfig) if f.init} | {f.name for f in fields(TrainJob)}
    assert known - same_run.KNOWN == set(), "say in same_run what these change"


def test_a_setting_that_nobody_knows_makes_another_run() -> None:
    now = {**recipe(), "new_trick": "on"}
    for before, after in ((recipe(), now), (now, recipe()), ({**now, "new_trick": "off"}, now)):
        assert names(before, after) == ([], ["new_trick"])
    # One that only one version knows is at its default.
    assert names(
        {k: v for k, v in recipe().items() if k != "truncation"}, {**now, "new_trick": 0}
    ) == ([], [])


NO_DATA = {"data_fingerprint": None}  # a stream
OTHER_DATA = {"data_fingerprint": "xyz"}
SHUFFLED = {"accelerator_config": {"use_seedable_sampler": False}}
PLANNED = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 2}
BEST = {**PLANNED, "load_best_model_at_end": True}
ENGINES: list[Changes] = [{"engine": "padded"}, {"max_tokens_per_microbatch": 64}]
SPLIT = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}

OTHER_RUN: list[tuple[Changes, Changes]] = [
    *(
        ({}, dict([changed]))
        for changed in (
            *(("learning_rate", 1e-4), ("lr_scheduler_type", "linear"), ("warmup_steps", 10)),
            *(("per_device_train_batch_size", 4), ("gradient_accumulation_steps", 2)),
            *(("seed", 1), ("data_seed", 1), ("orpo_alpha", 0.2), ("orpo_beta", 0.5)),
            *(("nll_scope", "completion"), ("model", "other"), ("lora_r", 8), ("bf16", True)),
            *(("model_dtype", "bfloat16"), ("model_revision", "v2"), ("optim", "adamw_torch")),
            *(("disable_dropout", False), ("dataloader_drop_last", True)),
            *(("ignore_data_skip", True), ("accelerator_config", {"split_batches": True})),
        )
    ),
    # Another engine, or other micro-batches, draw random numbers in another order.
    *((given, how) for given in ({"disable_dropout": False}, SHUFFLED) for how in ENGINES),
    # Somebody watches the evaluations.
    (BEST, {"eval_steps": 2}),
    (BEST, {"save_steps": 4}),
    *(({**PLANNED, "lr_scheduler_type": "greedy"}, {n: 4}) for n in ("eval_steps", "save_steps")),
    # Rows of a stream are known by nothing but what they are made from, and are dealt out anew.
    *(({"run": NO_DATA}, {name: value}) for name, value in (("dataset", "b"), ("max_length", 512))),
    ({"run": NO_DATA}, {"dataloader_num_workers": 2}),
    # An epoch's end is a part of a step, or the pairs of a step are not known.
    ({"run": {"data": {"train_dataset": {"kept": 63}}}}, SPLIT),
    ({"run": NO_DATA}, SPLIT),
    ({"run": {"world_size": 3}}, SPLIT),
]
SAME_RUN: list[tuple[Changes, Changes]] = [
    *(
        ({}, dict([changed]))
        for changed in (
            *(("output_dir", "elsewhere"), ("logging_steps", 3), ("report_to", "tensorboard")),
            *(("save_steps", 7), ("save_total_limit", 2), ("push_to_hub", True)),
            *(("max_tokens_per_microbatch", 64), ("engine", "padded"), ("compile_blocks", True)),
            *(("activation_checkpointing", True), ("dataloader_num_workers", 2)),
            *(("run_name", "second"), ("stall_timeout", 5.0), ("dataset", "more.jsonl")),
            *(("mix", [3, 1]), ("held_out", 0.1), ("max_length", 512), ("max_prompt_length", 64)),
            *(("truncation", "drop"), ("on_bad_row", "drop")),
        )
    ),
    ({}, {"eval_strategy": "steps", "eval_steps": 5}),
    ({}, SPLIT),
    # Noise on embeddings is of the pair and of nothing else; an evaluation gives back its own.
    *(({"neftune_noise_alpha": 5.0}, how) for how in ENGINES),
    *(({"disable_dropout": False}, {name: 3}) for name in ("save_steps", "eval_steps")),
]


def both(before: Changes, changed: Changes) -> tuple[Changes, Changes]:
    if {*SPLIT} & {*changed} == {*SPLIT}:
        before = {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 8, **before}
    return recipe(**before), recipe(**{**before, **changed})


@pytest.mark.parametrize(("before", "changed"), OTHER_RUN, ids=str)
def test_another_run(before: Changes, changed: Changes) -> None:
    old, now = both(before, changed)
    harmless, breaking = names(old, now)
    assert {*breaking} == {*changed}, harmless
    with pytest.raises(ConfigError, match=min(changed)) as caught:
        check_same_run(old, now, allow=False)
    assert "\n" not in str(caught.value)
    assert "--resume_changed true" in str(caught.value)
    [line] = check_same_run(old, now, allow=True)
    assert line.startswith("another run from here on")


@pytest.mark.parametrize(("before", "changed"), SAME_RUN, ids=str)
def test_the_same_run(before: Changes, changed: Changes) -> None:
    old, now = both(before, changed)
    harmless, breaking = names(old, now)
    assert breaking == []
    assert {*changed} <= {*harmless}
    assert len(check_same_run(old, now, allow=False)) == 1


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {}, ()),
        ({}, {"resume_changed": True}, ()),
        ({}, {"run": OTHER_DATA}, ("another", "the prepared pairs are other ones")),
        (
            {"run": {"adapter_settings": {"default": {"r": 8, "lora_alpha": 16}}}},
            {"run": {"adapter_settings": {"default": {"r": 8, "lora_alpha": 32}}, "world_size": 2}},
            ("another", "world_size 1 -> 2", "adapter_settings.default.lora_alpha 16 -> 32"),
        ),
        (
            {},
            {"run": {"versions": {"torch": "2.14", "orpo": "0.5"}, "engine": "padded"}},
            (
                "changed",
                "versions.torch 2.13 -> 2.14 (numbers may differ by rounding)",
                "engine shared -> padded",
            ),
        ),
    ],
)
def test_what_is_said(before: Changes, now: Changes, said: tuple[str, ...]) -> None:
    lines = check_same_run(recipe(**before), recipe(**now), allow=True)
    assert len(lines) == bool(said)
    assert all(words in lines[0] for words in said)


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
def test_a_longer_run_on_its_schedule(schedule: Changes, endless: bool) -> None:
    for longer in ({"max_steps": 50}, {"num_train_epochs": 9}):
        before, now = recipe(**schedule), recipe(**schedule, **longer)
        assert names(before, now) == ([*longer], [])
        [line] = check_same_run(before, now, allow=False)
        assert ("the schedule is that of the new length" in line) != endless


# Identity


def test_a_fingerprint_is_that_of_the_content(make_trainer: Make) -> None:
    pairs = make_trainer(train_dataset=text_rows()).train_dataset
    known, values = data_fingerprint(pairs), pairs.to_dict()
    cut = datasets.concatenate_datasets([pairs.select(range(3)), pairs.select(range(3, 8))])
    uncached = make_trainer(train_dataset=text_rows(), data_cache="off").train_dataset
    for same in (uncached, cut, pairs.select([*range(8)])):
        assert data_fingerprint(same) == known
    others = [pairs.select([1, 0, *range(2, 8)]), pairs.select(range(7))]  # order and number
    for column in ("prompt_ids", "chosen_ids", "rejected_ids", "weight"):
        changed = [*values[column]]
        changed[5] = 2.0 if column == "weight" else [*changed[5][:-1], 7]
        others.append(datasets.Dataset.from_dict({**values, column: changed}, pairs.features))
    first, second, *rest = values["chosen_ids"]  # a border between answers
    moved = {**values, "chosen_ids": [[*first, second[0]], second[1:], *rest]}
    others.append(datasets.Dataset.from_dict(moved, pairs.features))
    assert known not in map(data_fingerprint, others)


def test_what_a_stream_and_an_adapter_are_known_by(make_trainer: Make) -> None:
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make_trainer(train_dataset=Stream(text_rows()), peft_config=lora)
    found = identity(trainer.model, trainer.train_dataset)
    assert found["data_fingerprint"] is None
    settings = found["adapter_settings"]["default"]
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert "model.layers.*.mlp.up_proj" in settings["target_modules"]
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
