"""Flags of `orpo data` that are settings of the training, by the same names."""

from __future__ import annotations

import argparse
from typing import Any

from orpo.commands.flags import SETTINGS
from orpo.config import ORPOConfig


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
