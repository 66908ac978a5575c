"""To whom a guard speaks."""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["Tell", "log_warning"]

Tell = Callable[[str, str], None]
"""Is told what kind of thing happened, and a line about it."""


def log_warning(kind: str, message: str) -> None:  # noqa: ARG001 - a `Tell`
    """Say a line through the log."""
    logging.getLogger("orpo.train").warning(message)
