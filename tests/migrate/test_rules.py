"""Nothing is silent: keys have one outcome, defaults are written down, blanks stay blank."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orpo.errors import ConfigError
from orpo.migrate.convert import Conversion, convert
from orpo.migrate.hints import suggestion
from orpo.migrate.ledger import FILL_IN, Key, Ledger
from orpo.migrate.reading import read_mapping
from orpo.migrate.rules import PEERS
from tests.migrate.conftest import PUBLISHED, resolved

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning")

Converted = Callable[..., Conversion]
LEAST: dict[str, dict[str, Any]] = {
    "trl": {"model_name_or_path": "m", "dataset_name": "d"},
    "llama-factory": {"model_name_or_path": "m", "stage": "dpo", "pref_loss": "orpo"},
    "axolotl": {"base_model": "m", "rl": "orpo", "learning_rate": 1e-5},
    "ms-swift": {"model": "m", "rlhf_type": "orpo", "dataset": "d"},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "trl": {
        "learning_rate": 1e-6,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 3,
        "max_length": 1024,
        "truncation": "truncate_answer",
        "nll_scope": "sequence",
        "bf16": True,
        "lora_r": None,
    },
    "llama-factory": {
        "learning_rate": 5e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 3,
        "max_length": 2048,
        "truncation": "keep_start",
        "nll_scope": "completion",
        "bf16": False,
        "lora_r": 8,
        "lora_alpha": 16,
    },
    "axolotl": {
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "max_length": 512,
        "truncation": "drop",
        "nll_scope": "sequence",
        "bf16": True,
        "model_dtype": "float32",
        "save_total_limit": 4,
        "lora_r": None,
    },
    "ms-swift": {
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 16,
        "num_train_epochs": 3,
        "max_length": None,
        "truncation": "drop",
        "nll_scope": "completion",
        "lora_r": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
    },
}


def dumped(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False)


@pytest.mark.parametrize("peer", PEERS)
def test_what_a_trainer_does_by_itself_is_what_the_recipe_says(
    peer: str, converted: Converted, tmp_path: Path
) -> None:
    job, config = resolved(converted("least.yaml", dumped(LEAST[peer]), peer), tmp_path)
    for name, value in DEFAULTS[peer].items():
        found = getattr(job, name) if hasattr(job, name) else getattr(config, name)
        assert getattr(found, "value", found) == value, name
    assert (config.orpo_alpha, config.orpo_beta) == (0.1, 1.0)


@pytest.mark.parametrize("peer", PEERS)
def test_the_trainer_of_the_least_file_is_recognised(peer: str, converted: Converted) -> None:
    assert converted("least.yaml", dumped(LEAST[peer])).peer == peer


@pytest.mark.parametrize(
    ("peer", "key", "settings"),
    [
        ("trl", {"beta": 0.3}, {"orpo_alpha": 0.3}),
        ("trl", {"max_length": None}, {"max_length": 512}),
        ("trl", {"max_prompt_length": 100}, {"max_prompt_length": 100, "truncation": "keep_end"}),
        ("trl", {"bf16": False}, {"bf16": False}),
        ("trl", {"use_peft": True}, {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05}),
        ("trl", {"warmup_ratio": 0.2}, {"warmup_steps": 0.2}),
        ("trl", {"warmup_ratio": 0.2, "warmup_steps": 7}, {"warmup_steps": 7}),
        ("trl", {"warmup_ratio": 0.2, "warmup_steps": 0}, {"warmup_steps": 0.2}),
        ("trl", {"evaluation_strategy": "epoch"}, {"eval_strategy": "epoch"}),
        ("trl", {"eval_strategy": "epoch"}, {"eval_dataset": "d:test"}),
        ("llama-factory", {"pref_beta": 0.3}, {"orpo_alpha": 0.3}),
        ("llama-factory", {"finetuning_type": "full"}, {"model_dtype": "float32"}),
        ("llama-factory", {"pure_bf16": True}, {"model_dtype": "bfloat16"}),
        (
            "llama-factory",
            {"pure_bf16": True, "finetuning_type": "full"},
            {"model_dtype": "float32", "bf16": True},  # or small updates would be rounded away
        ),
        (
            "llama-factory",
            {"lora_target": "q_proj, v_proj"},
            {"lora_target_modules": "q_proj,v_proj"},
        ),
        ("llama-factory", {"lora_rank": 4}, {"lora_r": 4, "lora_alpha": 8}),
        ("llama-factory", {"val_size": 0.1}, {"held_out": 0.1}),
        (
            "llama-factory",
            {"disable_gradient_checkpointing": True},
            {"gradient_checkpointing": False},
        ),
        ("axolotl", {"orpo_alpha": 0.3}, {"orpo_alpha": 0.3}),
        ("axolotl", {"orpo_alpha": 0.3, "rl_beta": 0.2}, {"orpo_alpha": 0.2}),
        ("axolotl", {"rl_beta": 0.2, "trl": {"beta": 0.1}}, {"orpo_alpha": 0.1}),
        ("axolotl", {"excess_length_strategy": "truncate"}, {"truncation": "truncate_answer"}),
        ("axolotl", {"batch_size": 32, "micro_batch_size": 4}, {"gradient_accumulation_steps": 8}),
        ("axolotl", {"bf16": False, "fp16": False}, {"model_dtype": "float32", "bf16": False}),
        ("axolotl", {"warmup_steps": 1}, {"warmup_steps": 2}),
        ("axolotl", {"use_wandb": True}, {"report_to": ["wandb"]}),
        ("ms-swift", {"beta": 0.3}, {"orpo_alpha": 0.3}),
        ("ms-swift", {"tuner_type": "full"}, {"learning_rate": 1e-5}),
        ("ms-swift", {"truncation_strategy": "right"}, {"truncation": "truncate_answer"}),
        ("ms-swift", {"torch_dtype": "float16"}, {"model_dtype": "float16", "fp16": True}),
        ("ms-swift", {"per_device_train_batch_size": 6}, {"gradient_accumulation_steps": 3}),
        ("ms-swift", {"dataset": "hf::a/b"}, {"dataset": "a/b"}),
    ],
)
def test_a_key_means_what_its_trainer_means_by_it(
    peer: str, key: dict[str, Any], settings: dict[str, Any], converted: Converted
) -> None:
    found = converted("one.yaml", dumped({**LEAST[peer], **key}), peer).values
    assert {name: found.get(name) for name in settings} == settings


@pytest.mark.parametrize(
    ("peer", "key"),
    [
        ("trl", {"load_in_4bit": True}),
        ("llama-factory", {"quantization_bit": 4}),
        ("axolotl", {"adapter": "qlora", "load_in_4bit": True, "lora_r": 8, "lora_alpha": 8}),
        ("ms-swift", {"quant_bits": 4, "quant_method": "bnb"}),
    ],
)
def test_four_bits_are_arguments_of_the_model(
    peer: str, key: dict[str, Any], converted: Converted
) -> None:
    found = converted("four.yaml", dumped({**LEAST[peer], **key}), peer).values
    quantised = found["model_init_kwargs"]["quantization_config"]
    assert quantised["quant_method"] == "bitsandbytes"
    assert quantised["load_in_4bit"] is True


def test_an_unknown_key_is_named_with_its_line(converted: Converted) -> None:
    text = dumped(LEAST["llama-factory"]) + "\nfrobnicate: 3\n"
    (unknown,) = converted("a.yaml", text).of_kind("not supported")
    assert (unknown.key.name, unknown.key.where) == ("frobnicate", "a.yaml:5")
    assert "LLaMA-Factory" in unknown.said


@pytest.mark.parametrize(
    "key",
    [
        {"optimizer": "muon"},
        {"deepspeed": "zero3.json"},
        {"hub_token": "hf_abcdefghijklmnopqrstuvwxyz"},
        {"lr_scheduler": "rex"},
        {"adapter": "llama-adapter"},
        {"sample_packing": True},
    ],
)
def test_what_is_not_supported_says_what_to_do_and_no_secret(
    key: dict[str, Any], converted: Converted
) -> None:
    conversion = converted("a.yaml", dumped({**LEAST["axolotl"], **key}))
    (lost,) = conversion.of_kind("not supported")
    assert lost.key.name == next(iter(key))
    assert len(lost.said) > 20
    assert "hf_abc" not in str(conversion.as_dict())


def test_a_data_set_by_name_is_found_where_the_registry_is_there(
    converted: Converted, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    registry = {
        "mine": {"file_name": "mine.jsonl", "ranking": True, "columns": {"prompt": "instruction"}},
        "hub": {"hf_hub_url": "a/b", "ranking": True},
        "odd": {"file_name": "odd.jsonl", "ranking": True, "columns": {"chosen": "best"}},
    }
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(registry))
    text = dumped({**LEAST["llama-factory"], "dataset": "mine, hub"})
    assert converted("a.yaml", text).values["dataset"] == ["data/mine.jsonl", "a/b"]
    odd = converted("a.yaml", dumped({**LEAST["llama-factory"], "dataset": "odd"}))
    assert odd.values["dataset"] == "odd"
    assert [o.key.name for o in odd.of_kind("not supported")] == ["dataset"]


@pytest.mark.parametrize("peer", PEERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_keys_are_converted_or_not_needed_or_not_supported(
    peer: str, tmp_path: Path, data: st.DataObject
) -> None:
    """Any keys, of whichever trainer, with odd values: none is lost, none counted twice."""
    names = st.sampled_from(ALL_KEYS) | st.text("abcdefghij_", min_size=1, max_size=12)
    values = st.none() | st.booleans() | st.integers(0, 64) | st.sampled_from(["auto", "x", 0.5])
    given_keys = data.draw(st.dictionaries(names, values, max_size=12))
    file = tmp_path / "any.yaml"
    file.write_text(dumped({**given_keys, **LEAST[peer]}), encoding="utf-8")
    expected = sorted((key.name, key.where) for key in read_mapping(file))
    conversion = convert([str(file)], peer)
    kinds = [conversion.of_kind(k) for k in ("converted", "not needed", "not supported")]
    assert sorted((o.key.name, o.key.where) for kind in kinds for o in kind) == expected


ALL_KEYS = sorted(
    {
        key.name
        for name in ("trl.yaml", "llama_factory.yaml", "axolotl.yaml")
        for key in read_mapping(PUBLISHED / name)
        if "[" not in key.name
    }
    | {"warmup_ratio", "fp16", "beta", "quantization_bit", "load_in_4bit", "val_size", "trl"}
)


def test_a_ledger_that_forgets_a_key_is_seen_by_that_test() -> None:
    """The planted bug: a rule that takes a key and says nothing."""

    class Forgetful(Ledger):
        def not_needed(self, name: str, why: str) -> None:
            self._open.pop(name)

    ledger = Forgetful("x", [Key("a", 1, "f:1"), Key("b", 2, "f:2")])
    ledger.not_needed("a", "why")
    ledger.close()
    assert len(ledger.outcomes) == 1


@pytest.mark.parametrize(
    ("peer", "change", "said"),
    [
        ("llama-factory", {"pref_loss": "sigmoid"}, "pref_loss: orpo"),
        ("llama-factory", {"stage": "sft"}, "stage: dpo"),
        ("axolotl", {"rl": "dpo"}, "rl: orpo"),
        ("ms-swift", {"rlhf_type": "kto"}, "rlhf_type: orpo"),
    ],
)
def test_another_method_is_refused_by_line(
    peer: str, change: dict[str, Any], said: str, converted: Converted
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        converted("a.yaml", dumped({**LEAST[peer], **change}), peer)
    assert refused.value.where.startswith("a.yaml:")


def test_a_blank_is_no_value_that_a_run_would_take(converted: Converted, tmp_path: Path) -> None:
    values = {name: value for name, value in LEAST["axolotl"].items() if name != "learning_rate"}
    conversion = converted("a.yaml", dumped(values))
    assert conversion.values["learning_rate"] == FILL_IN
    assert conversion.blanks == ["learning_rate"]
    with pytest.raises(ConfigError, match=r"learning_rate: must be a finite number"):
        resolved(conversion, tmp_path)


def test_the_configuration_of_accelerate_goes_with_it(converted: Converted, tmp_path: Path) -> None:
    (tmp_path / "accelerate.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: fp16\n"
        "num_processes: 8\n"
    )
    (tmp_path / "a.yaml").write_text(dumped(LEAST["trl"]))
    conversion = convert(["a.yaml", "accelerate.yaml"])
    assert conversion.values["fp16"] is True
    assert "bf16" not in conversion.values
    said = {o.key.name: o.said for o in conversion.outcomes}
    assert "accelerate launch" in said["accelerate.distributed_type"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "stage: [", "a.yaml:1: cannot be read"),
        ("a.yaml", "- a", "holds no settings"),
        ("a.yaml", "stage: &x [*x]", "cannot be read (grows without bound"),
        ("a.yaml", "a: " + "[" * 5000, "cannot be read"),
        ("a.yaml", "colour: red", "--from"),
        ("a.yaml", "stage: dpo\nbase_model: m\n", "could be of LLaMA-Factory or Axolotl"),
        ("a.yaml", "compute_environment: x\ndistributed_type: y\n", "accelerate alone"),
        ("a.toml", "a = 1", "unknown kind of file"),
        ("a.py", "import trl", "a.py: is a Python script"),
        ("a.sh", "swift rlhf", "Write the flags of its command into a YAML file"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    name: str, text: str, expected: str, converted: Converted
) -> None:
    with pytest.raises(ConfigError) as refused:
        converted(name, text)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lr", None, "Did you mean 'learning_rate'?"),
        ("beta", 0.1, "Did you mean 'orpo_alpha'?"),
        ("micro-batch-size", 4, "Did you mean 'per_device_train_batch_size'?"),
        ("learning_rat", None, "Did you mean 'learning_rate'?"),
        ("use_liger_kernel", True, "Leave it out: no logits are kept: the fused head"),
        ("xyz", None, ""),
    ],
)
def test_a_name_of_another_trainer_is_understood_in_messages(
    name: str, value: Any, said: str
) -> None:
    known = {"learning_rate", "orpo_alpha", "per_device_train_batch_size"}
    assert suggestion(name, known, value).startswith(said) or not said
    assert bool(suggestion(name, known, value)) == bool(said)
