"""`--nproc N` of `orpo train`: the same command as N ranks on this machine.

Nothing heavy is imported here: this process only watches over the ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from orpo.errors import ConfigError
from orpo.runs.processes import launch, launched, program

__all__ = ["launch_ranks", "ranks_asked_for"]

_FLAG = "--nproc"
_ONE = {"-h", "--help", "--dry_run", "--dry-run"}


def ranks_asked_for(arguments: Sequence[str]) -> int | None:
    """The number after `--nproc` in a command line of `orpo train`.

    None in a rank itself, and for a dry run, which is one process.

    Raises:
        ConfigError: It is no number.
    """
    if launched() or not arguments or arguments[0] != "train" or _ONE & {*arguments}:
        return None
    given = None
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == _FLAG:
            given = following
        elif word.startswith(f"{_FLAG}="):
            given = word.partition("=")[2]
    if given is None:
        return None
    if not (given.isascii() and given.isdigit()):
        raise ConfigError(f"expected a number of ranks, found {given!r}", where=_FLAG)
    return int(given)


def launch_ranks(arguments: Sequence[str], count: int) -> int:
    """Run `orpo` with these arguments as ranks, say which one failed, and give the exit code."""
    outcome = launch(program(arguments), count)
    for line in outcome.said:
        print(line, file=sys.stderr)
    if outcome.message:
        print(f"error: {outcome.message}", file=sys.stderr)
    return outcome.code
