"""Which engine is chosen, and what is said about it."""

from __future__ import annotations

import pytest
import transformers as hf

from orpo import ConfigError
from orpo.config import ENGINES, NLL_SCOPES
from orpo.engine import PaddedEngine, select_engine


@pytest.mark.parametrize(
    ("requested", "why"),
    [("auto", "works with every decoder-only model"), ("padded", "asked for")],
)
@pytest.mark.parametrize("nll_scope", NLL_SCOPES)
def test_the_padded_engine_says_why(requested: str, why: str, nll_scope: str) -> None:
    engine, note = select_engine(requested, hf.LlamaConfig(), nll_scope)
    assert engine == PaddedEngine(nll_scope=nll_scope)
    assert engine.name == "padded"
    assert engine.name in ENGINES
    assert note == f"padded engine ({why})"
    assert "\n" not in note


def test_an_engine_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        select_engine("shared", hf.LlamaConfig(), "sequence")
    assert caught.value.where == "engine"
    assert "Use engine='auto' or 'padded'." in str(caught.value)


@pytest.mark.parametrize("asked", [False, True])
def test_the_router_loss_is_for_configs_that_ask_for_it(asked: bool) -> None:
    config = hf.MixtralConfig(output_router_logits=asked)
    engine, _ = select_engine("auto", config, "sequence")
    assert engine == PaddedEngine(router_loss=asked)


def test_a_model_without_config_works() -> None:
    engine, _ = select_engine("auto", None, "sequence")
    assert engine == PaddedEngine()
