"""What can go wrong, as one small tree.

Every message says what happened, where (file, line, field), and what to do about it.

    OrpoError
    ├── UserError           the input was wrong; the command line exits with 2
    │   ├── ConfigError     a setting or a recipe
    │   ├── DataError       a data set, a file of rows, a row
    │   ├── ModelError      a model or a tokenizer
    │   └── CheckpointError a checkpoint or a saved model that is not what was committed
    ├── TrainingError       a run that broke; names the step and the rows
    │   ├── NonFiniteError  a loss or a gradient that is not a number
    │   └── SaveError       a checkpoint that could not be written; the one before is intact
    ├── EvaluationError     an evaluation that broke; what is done is kept, and it can go on
    └── RunStopped          a signal stopped the run after a checkpoint
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

from orpo.terminal import spelled_out

# A password in an address, a Hub token, a token in a query.
_SECRET = re.compile(r"(?<=://)[^/\s@]+(?=@)|\bhf_[A-Za-z0-9]{20,}|(?<=[?&]token=)[^&\s]+")


class OrpoError(Exception):
    """Anything that orpo itself raises; its words steer no terminal, whoever shows them."""

    def __str__(self) -> str:
        """The message, with control characters of data, files and servers spelled out."""
        return spelled_out(super().__str__())


class UserError(OrpoError):
    """The input was wrong; the message fits on one line and needs no traceback.

    What looks like a secret, such as a token in an address, is left out of the message.

    Args:
        what: What is wrong.
        where: The file, line, field or flag that it is about.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        what, where, fix = (_SECRET.sub("***", str(text)) for text in (what, where, fix))
        self.what, self.where, self.fix = what, where, fix
        head = f"{where}: {what}" if where else what
        super().__init__(" ".join((f"{head}. {fix}" if fix else head).split()))


class ConfigError(UserError, ValueError):
    """A setting or a recipe that cannot be meant."""


class DataError(UserError, ValueError):
    """Preference data that cannot be read or used."""


class ModelError(UserError, ValueError):
    """A model or tokenizer that cannot be loaded or cannot be trained with this method."""


class CheckpointError(UserError, ValueError):
    """A checkpoint or a saved model that is missing, incomplete or not what was committed."""


class TrainingError(OrpoError, RuntimeError):
    """A run that broke; the message names the optimizer step and the rows."""


class NonFiniteError(TrainingError):
    """The loss or a gradient is NaN or infinite; raised before the optimizer step is taken."""


class SaveError(TrainingError):
    """A checkpoint could not be written; the last committed one is as it was."""


class EvaluationError(OrpoError, RuntimeError):
    """An evaluation that broke, such as by a server that is gone; what is done is kept."""


class RunStopped(OrpoError):  # noqa: N818 - nothing went wrong
    """A signal stopped the run; a checkpoint was saved first.

    Args:
        message: Where the run stopped and how it goes on.
        signal_number: The signal; the command line exits with 128 + this number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(message)


def refuse_first(*wrong: tuple[object, str, str] | tuple[object, str, str, str]) -> None:
    """Raise a `ConfigError` of the first (whether it is so, where, what, and a fix) that is so."""
    for is_so, where, what, *fix in wrong:
        if is_so:
            raise ConfigError(what, where=where, fix="".join(fix))


EXTRAS = {
    **{"bitsandbytes": "qlora", "optuna": "tune", "openai": "evaluate", "sklearn": "evaluate"},
    **{"lm_eval": "harness", "datasketch": "data"},
}
"""Package -> the extra of orpo that brings it."""


def require_package(*names: str, where: str, fix: str = "") -> None:
    """Refuse what needs a package, or one of several, before any work; nothing is imported."""
    if not any(find_spec(name) for name in names):
        first = names[0]
        install = f"'orpo[{EXTRAS[first]}]'" if first in EXTRAS else first.replace("_", "-")
        what = f"needs the package {first}, which is not installed"
        raise ConfigError(what, where=where, fix=f"pip install {install}{fix}")


def did_you_mean(name: str, known: Iterable[str], *, shown: str = "{}", most: int = 1) -> str:
    """A hint at what is spelled nearly like a name; empty if nothing is.

    Args:
        name: As it was given.
        known: The names that there are.
        shown: How a name stands in the hint.
        most: How many are named.
    """
    plain = {one.lower(): one for one in known}
    near = get_close_matches(name.strip().lower(), plain, n=most)
    return f"Did you mean {' or '.join(shown.format(plain[one]) for one in near)}?" if near else ""
