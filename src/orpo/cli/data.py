"""`orpo data audit|show|fix`: each imports what it needs when it is chosen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from orpo.cli.main import Parser

ACTIONS = {
    "audit": "what is wrong with a data set, with a verdict for each check",
    "show": "what the model will see, token by token, and what counts in the loss",
    "fix": "write a cleaned copy, with a ledger of every change",
}

EXAMPLES = """\
examples:
  orpo data audit pairs.jsonl --model ./model --html audit.html
  orpo data show pairs.jsonl --model ./model -n 3
  orpo data fix pairs.jsonl clean.jsonl --held_out 0.05 --held_out_output test.jsonl

`orpo data ACTION --help` shows its options and examples; --json works with each of them."""


class _LazyParser(Parser):
    """A parser that asks the action's module for its arguments once it is needed."""

    def __init__(self, *, action: str, **settings: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings
        )
        self.action = action

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Configure, parse, and refuse what is left."""
        module: Any = import_module(f"orpo.cli.data_{self.action}")
        self.epilog = module.EXAMPLES
        self.add_argument(
            "--json",
            action="store_true",
            default=argparse.SUPPRESS,
            help="print one JSON object on stdout",
        )
        module.configure(self)
        given, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return given, unknown


def configure(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each action."""
    parser.set_defaults(help=parser.format_help)
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", title="actions", parser_class=_LazyParser
    )
    for name, text in ACTIONS.items():
        actions.add_parser(name, help=text, description=f"{text.capitalize()}.", action=name)


def execute(given: argparse.Namespace) -> dict[str, Any] | None:
    """Run the action; without one, show what there is."""
    if given.action is None:
        print(given.help())
        return None
    module: Any = import_module(f"orpo.cli.data_{given.action}")
    result: dict[str, Any] | None = module.execute(given)
    return result
