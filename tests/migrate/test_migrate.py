"""Settings of other trainers: nothing is silent, and what is carried over means what it meant.

`published/` holds the keys of TRL's examples/scripts/orpo.py and of YAML for it, of LLaMA-Factory's
examples/train_lora/qwen3_lora_dpo.yaml with pref_loss orpo, of Axolotl's docs/rlhf.qmd and of ms-
swift's examples/train/rlhf/orpo.sh; `expected.yaml` what they must come to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orpo.commands.flags import ask
from orpo.errors import ConfigError
from orpo.migrate.convert import Conversion, convert, read_mapping, recipe_text, suggestion
from orpo.migrate.ledger import FILL_IN, Key, Ledger
from orpo.migrate.rules import PEERS

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning")

PUBLISHED = Path(__file__).parent / "published"
EXPECTED = yaml.safe_load(Path(__file__).with_name("expected.yaml").read_text(encoding="utf-8"))
SAME = """
learning_rate lr_scheduler_type warmup_steps num_train_epochs max_steps per_device_train_batch_size
gradient_accumulation_steps weight_decay optim adam_beta1 adam_beta2 adam_epsilon max_grad_norm seed
bf16 fp16 gradient_checkpointing logging_steps max_length disable_dropout report_to
"""
Converted = Callable[..., Conversion]
LEAST: dict[str, dict[str, Any]] = {
    "trl": {"model_name_or_path": "m", "dataset_name": "d"},
    "llama-factory": {"model_name_or_path": "m", "stage": "dpo", "pref_loss": "orpo"},
    "axolotl": {"base_model": "m", "rl": "orpo", "learning_rate": 1e-5},
    "ms-swift": {"model": "m", "rlhf_type": "orpo", "dataset": "d"},
}


@pytest.fixture(autouse=True)
def every_logger_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpo.settings._TRACKERS", {})


def resolved(conversion: Conversion, folder: Path) -> Callable[[str], Any]:
    """The settings that `orpo train RECIPE --model M --dataset D` makes of it, by name."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe_text(conversion), encoding="utf-8")
    flags = {name: f"the {name}" for name in conversion.missing}
    asked = ask(str(recipe), flags)
    made = (asked.job, asked.config())
    return lambda name: plain(next(one for one in made if hasattr(one, name)), name)


def plain(settings: Any, name: str) -> Any:
    found = getattr(settings, name)
    return getattr(found, "value", found)


def dumped(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False)


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Conversion]:
    """`converted("name.yaml", text)`: the conversion of a file that is written for it."""
    monkeypatch.chdir(tmp_path)
    Path("registry").mkdir()
    Path("registry", "dataset_info.json").write_text(json.dumps(EXPECTED["registry"]))

    def run(name: str, text: str, asked: str | None = None) -> Conversion:
        Path(name).write_text(text, encoding="utf-8")
        return convert([name], asked)

    return run


@pytest.mark.parametrize("name", EXPECTED["examples"])
def test_a_published_example_resolves_to_the_same_hyper_parameters(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PUBLISHED)
    conversion = convert([name])
    found = resolved(conversion, tmp_path)
    expected = {**EXPECTED["examples"][name], "orpo_beta": 1.0, "disable_dropout": True}
    assert {setting: found(setting) for setting in expected} == expected
    # Every key has an outcome; they are counted in another way than the converter does.
    values = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    keys = [*(key for rows in values.pop("datasets", []) for key in rows), *values]
    outcomes = conversion.outcomes
    assert sorted(o.key.name.rpartition(".")[2] for o in outcomes) == sorted(keys)
    assert len({(o.key.name, o.key.where) for o in outcomes}) == len(outcomes)
    assert all(outcome.said for outcome in outcomes)
    lost = {"dataset", "template", "max_samples", "chat_template", "deepspeed"}
    assert {o.key.name for o in conversion.of_kind("not supported")} <= lost


@pytest.mark.parametrize(
    "given",
    [
        "trl_command.yaml",
        {},
        {"use_peft": True, "gradient_checkpointing": False, "beta": 0.3},
        {"max_length": 77, "disable_dropout": False},
    ],
)
def test_trl_itself_understands_the_same(
    given: str | dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from transformers import HfArgumentParser
    from trl.experimental.orpo import ORPOConfig

    keys = {"model_name_or_path": "m", "output_dir": "o"}
    keys |= yaml.safe_load((PUBLISHED / given).read_text()) if isinstance(given, str) else given
    command = tmp_path / "trl.yaml"
    command.write_text(dumped(keys), encoding="utf-8")
    words = {k: float(v) if k == "learning_rate" else v for k, v in keys.items()}
    words.pop("no_remove_unused_columns", None)
    theirs, model = HfArgumentParser((ORPOConfig, trl.ModelConfig)).parse_dict(
        {**words, "use_cpu": True}
    )
    ours = resolved(convert([str(command)], "trl"), tmp_path)
    for name in SAME.split():
        assert ours(name) == plain(theirs, name), name
    assert (ours("orpo_alpha"), ours("orpo_beta")) == (theirs.beta, 1.0)
    named = {n: n for n in ("lora_r", "lora_alpha", "lora_dropout")}
    named = {**named, "model": "model_name_or_path"} if model.use_peft else {}
    assert all(ours(own) == getattr(model, name) for own, name in named.items())
    assert model.use_peft or ours("lora_r") is None


@pytest.mark.parametrize("peer", PEERS)
def test_what_a_trainer_does_by_itself_is_what_the_recipe_says(
    peer: str, converted: Converted, tmp_path: Path
) -> None:
    conversion = converted("least.yaml", dumped(LEAST[peer]))
    assert conversion.peer == peer
    found, expected = resolved(conversion, tmp_path), EXPECTED["defaults"][peer]
    expected = {**expected, "orpo_alpha": 0.1, "orpo_beta": 1.0}
    assert {name: found(name) for name in expected} == expected


@pytest.mark.parametrize("peer", PEERS)
def test_a_key_means_what_its_trainer_means_by_it(peer: str, converted: Converted) -> None:
    for key, wanted in EXPECTED["keys"][peer]:
        found = converted("one.yaml", dumped({**LEAST[peer], **key}), peer).values
        assert {name: found.get(name) for name in wanted} == wanted, key


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
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    with pytest.raises(ConfigError, match=r":17, learning_rate: is still to be filled in"):
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
