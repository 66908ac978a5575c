"""Help that fits on a page: what people change first; `--help all` and `--help WORD` for the rest.

Every flag stands once, with dashes and underscores alike, a short name for its value, and its
default. A setting that is in none of the groups of `orpo.settings.FIRST`, and an option declared
with `rare`, is left out unless it is asked for.
"""

import argparse
import re
from typing import Any

from orpo.errors import ConfigError

_WIDTH, _COLUMN, _NAME, _LINES = 80, 34, 22, 60


class Help(argparse.Action):
    """`--help`, alone or with "all" or a word that is looked for."""

    def __call__(self, parser: Any, _given: Any, values: Any, _flag: str | None = None) -> None:
        """Print it, and end."""
        print(parser.format_help(str(values or "").strip().lower()))
        parser.exit()


class Formatter(argparse.RawDescriptionHelpFormatter):
    """One spelling of a flag, and a value's name that is no longer than it needs to be."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_COLUMN, width=_WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        flags = action.option_strings if action.dest == "help" else action.option_strings[:1]
        alone = action.nargs == 0 or (action.nargs == "?" and action.const is True)
        value = "" if alone else self._format_args(action, "VALUE")
        return " ".join(filter(None, (", ".join(flags), value)))

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Any:
        kinds: dict[Any, str] = {int: "N", float: "X"}
        kind = kinds.get(action.type, default_metavar)
        listed = "|".join(map(str, action.choices or ()))
        name = action.metavar or (listed if 0 < len(listed) <= _NAME else kind)
        return lambda count: name if isinstance(name, tuple) else (name,) * count


def shown(parser: argparse.ArgumentParser, word: str) -> str:
    """The help of a parser: of all options, of those that a word is in, or of the usual ones."""
    titles = {id(a): str(g.title) for g in parser._action_groups for a in g._group_actions}
    rest = 0
    for action in parser._actions:
        told = f"{titles[id(action)]} {' '.join(action.option_strings)} {action.help}".lower()
        usual = not getattr(action, "rare", False)
        if word != "all" and not (word in told if word else usual):
            rest += action.nargs != 0 or not action.dest.startswith("no_")
            action.help = argparse.SUPPRESS
        elif not word:
            action.help = getattr(action, "brief", "") or action.help
    parser.usage, examples = _usage(parser), str(parser.epilog or "")
    more = f"{rest} more options: `{parser.prog} --help all`, or `--help WORD`."
    parser.epilog = more if rest and not word else ""
    if word and all(action.help is argparse.SUPPRESS for action in parser._actions):
        fix = f"`{parser.prog} --help all` shows every option."
        raise ConfigError(f"no option has the word {word!r}", where="--help", fix=fix)
    text = argparse.ArgumentParser.format_help(parser).rstrip()
    text = re.sub(r"\n\n\S.*:\n(?=\n|$)", "\n", text)  # a title under which nothing is left
    room = _LINES - text.count("\n") - 2
    return text if word and word != "all" else f"{text}\n\n{_within(examples, room, word)}".rstrip()


def _within(examples: str, room: int, word: str) -> str:
    """Examples without the last ones, where they are more than there is room for."""
    parts = re.split(r"\n(?=  \S)", examples)
    last, *prose = parts.pop().split("\n\n", 1)
    parts, end = [*parts, last], "\n\n".join(["", *prose])
    while not word and len(parts) > 2 and "\n".join([*parts, end]).count("\n") + 1 > room:
        parts.pop()
    return "\n".join(parts) + end


def _usage(parser: argparse.ArgumentParser) -> str:
    words = [parser.prog]
    for action in parser._actions:
        name = action.metavar if isinstance(action.metavar, str) else "VALUE"
        if not action.option_strings:
            words.append(f"[{name}]" if action.nargs in {"?", "*"} else name)
        elif action.required:
            words.append(f"{action.option_strings[0]} {name}")
    return " ".join([*words, "[options]"])
