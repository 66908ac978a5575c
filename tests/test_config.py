"""ORPOConfig: what its settings mean, and what it says about those that mean nothing."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers import HfArgumentParser, TrainingArguments

from orpo import ConfigError, ORPOConfig, UserError


def config(**kwargs: Any) -> ORPOConfig:
    return ORPOConfig(**{"output_dir": "unused", "use_cpu": True, **kwargs})


def settings_of(ours: ORPOConfig) -> dict[str, Any]:
    return {f.name: getattr(ours, f.name) for f in fields(ours) if f.init}


def test_is_a_training_arguments_with_documented_defaults() -> None:
    ours = ORPOConfig()  # no argument is needed
    assert isinstance(ours, TrainingArguments)
    assert (ours.orpo_alpha, ours.orpo_beta, ours.beta) == (0.1, 1.0, None)
    assert (ours.nll_scope, ours.engine, ours.truncation) == ("sequence", "auto", "truncate_answer")
    assert (ours.max_length, ours.max_prompt_length) == (1024, None)
    assert ours.max_tokens_per_microbatch is None
    assert ours.disable_dropout is True
    assert ours.learning_rate == 8e-6
    assert ours.trust_remote_code is False
    assert ours.logging_nan_inf_filter is False
    assert ours.accelerator_config.dispatch_batches is False


def test_beta_is_the_strength_as_in_trl() -> None:
    ours = config(beta=0.2)
    assert (ours.orpo_alpha, ours.orpo_beta) == (0.2, 1.0)
    assert ours == config(orpo_alpha=0.2, orpo_beta=1.0)
    assert config(orpo_alpha=0).orpo_alpha == config(beta=0).orpo_alpha == 0  # plain fine-tuning
    for other in ({"orpo_alpha": 0.2}, {"orpo_beta": 1.0}):
        with pytest.raises(ConfigError, match=r"^beta: .*orpo_alpha") as caught:
            config(beta=0.2, **other)
        assert caught.value.where == "beta"


INVALID: dict[str, tuple[Any, ...]] = {
    "orpo_alpha": (-0.1, float("inf"), "strong"),
    "beta": (float("nan"),),
    "orpo_beta": (0, float("nan")),
    "max_length": (0, 10.5),
    "max_prompt_length": (0, 1024),
    "chat_template_kwargs": ("{broken", "[1]"),
    "learning_rate": ("fast", -1e-5, True),
    **dict.fromkeys(("nll_scope", "truncation", "engine", "on_bad_row", "optim"), ("other",)),
    **dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), ("other",)),
    "model_dtype": ("int4",),
    "max_tokens_per_microbatch": (0,),
    "chat_template": ("/no/such/file.jinja",),
    "model_init_kwargs": ("1",),
    "disable_dropout": ("yes",),
    "trust_remote_code": ("no",),
    "per_device_train_batch_size": (0,),
    "gradient_accumulation_steps": (0,),
    "num_train_epochs": (-1,),
    "max_steps": ([3],),
    "warmup_steps": (-1,),
    "lr_scheduler_type": ("wavy",),
    "lr_scheduler_kwargs": ("{broken",),
    "accelerator_config": ("/no/such/file.json",),
    "label_smoothing_factor": (0.1,),
    "include_for_metrics": (["loss"],),
    "batch_eval_metrics": (True,),
    "train_sampling_strategy": ("group_by_length",),
}
COMPILED = {"torch_compile": True, "torch_compile_backend": "inductor"}
COMPILED |= {"torch_compile_mode": "reduce-overhead"}  # whole models are not compiled
OTHERS = [("orpo_alpha", {"beta": -1}), ("fp16 and bf16", {"fp16": True, "bf16": True})]
OTHERS += [(f"{name}: ", {name: value}) for name, value in COMPILED.items()]
CASES = [(name, {name: value}) for name, values in INVALID.items() for value in values]


@pytest.mark.parametrize(("field", "settings"), [*CASES, *OTHERS])
def test_a_value_that_cannot_be_meant_is_an_error_that_names_its_field(
    field: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**settings)
    message = str(caught.value)
    assert field in message
    assert "\n" not in message
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ValueError)


def test_a_launcher_that_asks_to_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    config()
    with pytest.raises(ConfigError, match="set compile_blocks instead"):
        config(torch_compile=True)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(ConfigError, match="dynamo_backend"):
        config()


@given(
    st.fixed_dictionaries(
        {
            "orpo_alpha": st.floats(0, 10),
            "orpo_beta": st.floats(0.01, 10),
            "learning_rate": st.floats(0, 1),
            "max_length": st.none() | st.integers(32, 4096),
            "max_prompt_length": st.none() | st.integers(1, 31),
            "nll_scope": st.sampled_from(["sequence", "completion"]),
            "truncation": st.sampled_from(["truncate_answer", "keep_end", "drop", "error"]),
            "max_tokens_per_microbatch": st.none() | st.integers(1, 10_000),
            "disable_dropout": st.booleans(),
            "chat_template_kwargs": st.just({}) | st.just({"enable_thinking": False}),
            "seed": st.integers(0, 2**31),
            "lr_scheduler_type": st.sampled_from(["cosine", "linear", "inverse_sqrt"]),
            "report_to": st.sampled_from(["none", ["none"]]),
        }
    )
)
def test_settings_survive_to_dict_and_yaml(settings: dict[str, Any]) -> None:
    ours = config(**settings)
    read = yaml.safe_load(yaml.safe_dump(ours.to_dict()))
    again = ORPOConfig(**read)
    assert again == ours
    assert settings_of(again) == settings_of(ours)


def test_secrets_stay_in_memory() -> None:
    ours = config(hub_token="hf_secret", model_init_kwargs={"token": "hf_secret", "revision": "a"})
    for shown in (ours.to_dict(), ours.to_sanitized_dict(), ours.to_json_string(), repr(ours)):
        assert "hf_secret" not in str(shown)
    assert ours.to_dict()["model_init_kwargs"] == {"revision": "a"}
    assert ours.hub_token == "hf_secret"
    assert ours.model_init_kwargs == {"token": "hf_secret", "revision": "a"}


def test_flags_are_the_names_of_the_fields(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    flags = (
        "--output_dir out --learning_rate 1e-5 --orpo_alpha 0.5 --orpo_beta 2 --max_length 256 "
        "--nll_scope completion --disable_dropout False --engine padded --use_cpu "
        '--chat_template_kwargs {"enable_thinking":false} --on_bad_row drop '
        f"--chat_template {template} --max_tokens_per_microbatch 4096"
    )
    (ours,) = HfArgumentParser(ORPOConfig).parse_args_into_dataclasses(flags.split())
    assert (ours.learning_rate, ours.orpo_alpha, ours.orpo_beta) == (1e-5, 0.5, 2.0)
    assert (ours.max_length, ours.nll_scope, ours.engine) == (256, "completion", "padded")
    assert ours.disable_dropout is False
    assert ours.chat_template_kwargs == {"enable_thinking": False}
    assert ours.max_tokens_per_microbatch == 4096


def test_every_field_of_ours_explains_itself() -> None:
    theirs = {f.name for f in fields(TrainingArguments)}
    own = [f for f in fields(ORPOConfig) if f.name not in theirs]
    assert len(own) >= 15
    for field in own:
        assert field.metadata.get("help"), field.name
        assert field.name in (ORPOConfig.__doc__ or ""), field.name


def test_bf16_needs_no_further_flag_on_a_machine_without_accelerator() -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    assert ORPOConfig(output_dir="unused", bf16=True).bf16
