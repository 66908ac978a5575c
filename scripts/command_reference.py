"""The page of all commands, made from the options that `orpo` itself reads."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from orpo.commands import main
from orpo.commands.flags import add_options
from orpo.settings import settings_of, training_settings
from orpo.train.job import TrainJob

EVERY_SETTING = {**settings_of(TrainJob), **training_settings()}
_WORDS: dict[Any, str] = {int: "N", float: "X", Path: "PATH"}
"""What stands for a value of a type, where the option names none."""


def commands() -> Iterator[tuple[str, str, Any]]:
    """The words of each command, what it does, and its module."""
    for name, what in main.COMMANDS.items():
        module = import_module(f"orpo.commands.{name.replace('-', '_')}")
        for action, told in getattr(module, "ACTIONS", {"": what}).items():
            words = f"{name} {action}".strip()
            yield words, told, import_module(f"orpo.commands.{re.sub('[ -]', '_', words)}")


def markdown() -> str:
    """All commands, one after another."""
    return "\n".join(line for command in commands() for line in _section(*command))


def _section(words: str, what: str, module: Any) -> Iterator[str]:
    parser = main._parser(f"orpo {words}", what, module.EXAMPLES)
    add_options(parser, module.Options)
    all_settings = words != "train" and _takes_every_setting(module.Options)
    yield f"\n## orpo {words}\n\n{parser.description}\n"
    yield f"```text\n{module.EXAMPLES.removeprefix('examples:').strip()}\n```\n".replace(
        "\n  ", "\n"
    )
    if all_settings:
        yield "Every setting of [orpo train](#orpo-train) is a flag here, too.\n"
    defaults = dict(_defaults(module.Options))
    for group in parser._action_groups:
        shown = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
        shown = [a for a in shown if a.dest not in {"json", "help"}]
        if all_settings:
            shown = [a for a in shown if a.dest not in EVERY_SETTING]
        if shown:
            title = group.title if group.title not in {"options", "positional arguments"} else ""
            yield f"**{title[0].upper()}{title[1:]}**\n" if title else ""
            yield f"<dl>{''.join(_entry(action, defaults) for action in shown)}</dl>\n"


def _takes_every_setting(kind: type) -> bool:
    return any(one.metadata.get("settings") == () for one in fields(kind))


def _defaults(kind: type) -> Iterator[tuple[str, Any]]:
    """What holds where a flag is not given; settings say theirs in their help."""
    for one in fields(kind):
        about = one.metadata
        if "group" in about and not about["unless"]:
            yield from _defaults(about["group"])
            yield from about["other"].items()
        elif "help" in about and one.default is not MISSING:
            yield about.get("flag") or one.name, one.default


def _entry(action: argparse.Action, defaults: dict[str, Any]) -> str:
    default, text = defaults.get(action.dest), (action.help or "").replace("%%", "%")
    told = default is None or isinstance(default, bool) or default in ((), "", 0, -1)
    if not told and "default" not in text.lower():
        value = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{text.rstrip('.')}. Default {value}."
    said = re.sub(
        r"`([^`]+)`", r"<code>\1</code>", escape(text[:1].upper() + text[1:], quote=False)
    )
    name = " ".join(part for part in (*action.option_strings[:1], _value(action)) if part)
    return f"<dt><code>{escape(name)}</code></dt><dd>{said}</dd>"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    kind = action.type
    switch = getattr(kind, "__name__", "") == "_switch"
    named = "|".join(map(str, action.choices)) if action.choices else action.metavar
    word = named or ("true|false" if switch else _WORDS.get(kind, "TEXT"))
    return {"?": f"[{word}]", "+": f"{word} ...", "*": f"[{word} ...]"}.get(str(action.nargs), word)
