"""Flags of `orpo data` that are settings of the training, by the same names."""

from __future__ import annotations

import argparse
from typing import Any

from orpo.config import NLL_SCOPES, ORPOConfig
from orpo.data import TRUNCATIONS

__all__ = ["SETTINGS", "add_training_settings", "training_settings"]

SETTINGS: dict[str, dict[str, Any]] = {
    "data_format": {"metavar": "FORMAT", "help": "what the columns mean, if they leave it open"},
    "pair_rule": {
        "metavar": "RULE",
        "help": "the pair out of scored answers: best_worst, best_second or best_random",
    },
    "max_length": {"type": int, "metavar": "N", "help": "tokens of prompt and answer together"},
    "max_prompt_length": {"type": int, "metavar": "N", "help": "tokens of the prompt"},
    "truncation": {
        "choices": TRUNCATIONS,
        "metavar": "HOW",
        "help": f"how over-long pairs are treated: {', '.join(TRUNCATIONS)}",
    },
    "nll_scope": {
        "choices": NLL_SCOPES,
        "metavar": "SCOPE",
        "help": f"tokens that the NLL counts: {', '.join(NLL_SCOPES)}",
    },
    "chat_template": {
        "metavar": "FILE",
        "help": "Jinja file that replaces the tokenizer's chat template",
    },
    "chat_template_kwargs": {
        "metavar": "JSON",
        "help": "extra variables for the chat template",
    },
    "trust_remote_code": {"action": "store_true", "help": "allow a model's own code to run"},
}


def add_training_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    """A flag for each setting, absent from the result unless given; dashes are accepted."""
    group = parser.add_argument_group("settings of the training")
    for name in names:
        flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        group.add_argument(*flags, dest=name, default=argparse.SUPPRESS, **SETTINGS[name])


def training_settings(given: argparse.Namespace, **defaults: Any) -> ORPOConfig:
    """What was given, with the training's own defaults and checks.

    Raises:
        ConfigError: A value that cannot be meant.
    """
    chosen = {name: value for name, value in vars(given).items() if name in SETTINGS}
    return ORPOConfig(**{**defaults, **chosen})
