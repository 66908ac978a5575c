"""Commands of commands: `orpo data audit`, `orpo evaluate alpaca`; imported when one is chosen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from orpo.commands.main import Parser, configure, execute

__all__ = ["add_actions", "run_action"]


class _LazyParser(Parser):
    """A parser that asks the action's module for its arguments once it is needed."""

    def __init__(self, *, module: str, **settings: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings
        )
        self.module = module

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Configure, parse, and refuse what is left."""
        module: Any = import_module(self.module)
        self.epilog = module.EXAMPLES
        self.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print one JSON object on stdout",
        )
        configure(module, self)
        given, unknown = super().parse_known_args(args, namespace)
        self.refuse(unknown)
        given.module = self.module
        return given, unknown


def add_actions(parser: argparse.ArgumentParser, command: str, actions: Mapping[str, str]) -> None:
    """One sub-command for each action.

    Args:
        parser: Of the command.
        command: Its name; the action `a-b` of the command `c` lives in `orpo.commands.c_a_b`.
        actions: Name -> what it does, in a few words.
    """
    parser.set_defaults(help=parser.format_help)
    group = parser.add_subparsers(
        dest="action", metavar="ACTION", title="actions", parser_class=_LazyParser
    )
    for name, text in actions.items():
        module = f"orpo.commands.{command}_{name.replace('-', '_')}"
        sentence = f"{text[0].upper()}{text[1:]}."
        group.add_parser(name, help=text, description=sentence, module=module)


def run_action(given: argparse.Namespace) -> Mapping[str, Any] | int | None:
    """Run the action; without one, show what there is."""
    if given.action is None:
        print(given.help())
        return None
    module: Any = import_module(given.module)
    return execute(module, given)
