"""What a command can be asked for: the fields of a dataclass, each described where it is declared.

    @dataclass(frozen=True)
    class Options:
        model: str = argument("MODEL", help="model folder, adapter folder or Hub id")
        limit: int | None = option(None, metavar="N", help="only N prompts")

`orpo.commands.flags` makes the flags and their help of it. Nothing is imported here, so that a room
can describe its own settings once, for the command line and for whoever builds them in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, field
from typing import Any


def option(
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002 - argparse's own name
    flag: str = "",
    metavar: str = "",
    choices: Sequence[str] = (),
    parse: Callable[[str], Any] | None = None,
    bare: Any = None,
    repeat: bool = False,
) -> Any:
    """A field that is a flag, spelled with `_` or `-`; required if it has no default.

    What is read follows from the field's type: `bool` is a switch, `tuple[str, ...]` a list by
    commas, `list[str]` several words, a tuple of a length so many, `Literal` a choice, `dict` JSON;
    `X | None` reads X.

    Args:
        default: Of the field.
        help: For a person; a default worth knowing stands in it.
        flag: Its name, if not the field's; one letter has one dash.
        metavar: What stands for the value in the help.
        choices: The values that there are.
        parse: Makes the value of the text, in place of the type; a ValueError refuses it.
        bare: The value of the flag without one, where it may stand alone.
        repeat: Whether it may be given again; the field is a tuple of all values.
    """
    given = {"flag": flag, "metavar": metavar, "choices": choices, "parse": parse}
    about = {name: value for name, value in {**given, "repeat": repeat}.items() if value}
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
    return field(
        default=default,
        metadata={"help": help, "metavar": metavar, "positional": True, "parse": parse},
    )


def group(
    kind: type,
    title: str,
    text: str = "",
    *,
    without: Sequence[str] = (),
    unless: str = "",
    **other: Any,
) -> Any:
    """A field that is a dataclass with options of its own, shown under a title.

    Args:
        kind: The dataclass; only its fields made by `option` are flags.
        title: Of the group in the help.
        text: What is said of it there.
        without: Fields that are no flags here.
        unless: A required field of it; where its flag is not given, the field here is None.
        **other: Defaults that differ from the dataclass's own here.
    """
    about = {"title": title, "text": text, "without": without, "unless": unless, "other": other}
    return field(
        default_factory=lambda: None if unless else kind(**other),
        metadata={"group": kind, **about},
    )


def training_settings(*names: str, **other: Any) -> Any:
    """A field of type `dict` that holds those of `ORPOConfig`'s settings that were given.

    Args:
        *names: Of the settings that are flags; those of the job and of the training all together
            where none is named.
        **other: Settings that hold where no flag says otherwise.
    """
    return field(default_factory=lambda: dict(other), metadata={"settings": names, "other": other})


def asked(name: str) -> Any:
    """A field that is filled in by the command line itself.

    Args:
        name: "json", whether the result is printed as JSON; or "passed_on", the words after `--`,
            which the command hands to the program that it starts.
    """
    return field(default=() if name == "passed_on" else False, metadata={"asked": name})
