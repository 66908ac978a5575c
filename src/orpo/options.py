"""What a command can be asked for: the fields of a dataclass, each described where it is declared.

    @dataclass(frozen=True)
    class Options:
        model: str = argument("MODEL", help="model folder, adapter folder or Hub id")
        limit: int | None = option(None, metavar="N", help="only N prompts")

`orpo.commands.flags` makes the flags and their help of it. Nothing is imported here, so that a room
can describe its own settings once, for the command line and for whoever builds them in Python.
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, field
from typing import Any


def option(  # noqa: PLR0913 - as many as argparse has
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002 - argparse's own name
    flag: str = "",  # its name, if not the field's; one letter has one dash
    metavar: str = "",
    choices: Sequence[str] = (),
    parse: Callable[[str], Any] | None = None,  # in place of the type; a ValueError refuses
    bare: Any = None,  # the value of the flag without one, where it may stand alone
    repeat: bool = False,  # it may be given again; the field is a tuple of all values
    rare: bool = False,  # `--help all` shows it, `--help` does not
) -> Any:
    """A field that is a flag, spelled with `_` or `-`; required if it has no default.

    What is read follows from the field's type: `bool` is a switch, `tuple[str, ...]` a list by
    commas, `list[str]` several words, a tuple of a length so many, `dict` JSON; `X | None`
    reads X.
    """
    given: dict[str, Any] = {"flag": flag, "metavar": metavar, "choices": choices, "parse": parse}
    given |= {"repeat": repeat, "rare": rare}
    about = {name: value for name, value in given.items() if value}
    if bare is not None:
        about["bare"] = bare
    return field(default=default, metadata={"help": help, **about})


def argument(
    metavar: str,
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002 - argparse's own name
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """A field that is a word without a flag, or several if it is a tuple; see `option`."""
    about = {"help": help, "metavar": metavar, "positional": True, "parse": parse}
    return field(default=default, metadata=about)


def group(
    kind: type,
    title: str,
    text: str = "",
    *,
    without: Sequence[str] = (),  # fields that are no flags here
    unless: str = "",  # a required field of it: without its flag, the field here is None
    rare: bool = False,  # as of an option, for all of them
    **other: Any,
) -> Any:
    """A field that is a dataclass with options of its own, shown under a title.

    Only its fields made by `option` are flags; `other` are defaults that differ from its own here.
    """
    about: dict[str, Any] = {
        "title": title,
        "text": text,
        "without": without,
        "unless": unless,
        "other": other,
    }
    about["rare"] = rare
    return field(
        default_factory=lambda: None if unless else kind(**other), metadata={"group": kind, **about}
    )


def training_settings(*names: str, first: int = 4) -> Any:
    """A field of type `dict` that holds those of `ORPOConfig`'s settings that were given.

    The named ones are flags, or all of the job and of the training where none is named; then
    `--help` shows so many groups of `orpo.settings.FIRST`.
    """
    return field(default_factory=dict, metadata={"settings": names, "first": first})


def asked(name: str) -> Any:
    """A field that the command line itself fills in: whether "json" is printed, or "passed_on".

    The latter are the words after `--`, which the command hands to the program that it starts.
    """
    return field(default=() if name == "passed_on" else False, metadata={"asked": name})
