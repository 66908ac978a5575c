"""What a setting of another trainer, or an older name of one, is called here.

The rules that convert whole files are asked for the one key, so that nothing is said twice.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeAlias

from orpo.errors import ConfigError, did_you_mean
from orpo.migrate.ledger import Key, Ledger
from orpo.migrate.peers import require_orpo, settle
from orpo.migrate.rules import PEERS, TABLES

_ASKED = ("trl", "llama-factory", "ms-swift", "axolotl")
"""Of two that know a word, the first is followed: Axolotl's `batch_size` is that of a step."""
_SAMPLES: tuple[Any, ...] = (0.5, True, "lora")
_NEEDLESS = "Leave it out"

Hint: TypeAlias = tuple[tuple[str, ...], str]
"""What a setting that orpo does not have is called here, or what to do instead."""


def suggestion(name: str, known: Collection[str], value: Any = None) -> str:
    """What to write in place of an unknown setting, out of what is known; or empty."""
    plain = name.lower().replace("-", "_")
    found = None if plain in known else _hint(plain, value)
    if found is not None and {*found[0]} <= {*known}:
        names, instead = found
        return f"Did you mean {' and '.join(map(repr, names))}?" if names else instead
    return did_you_mean(plain, known, shown="'{}'")


def _hint(name: str, value: Any) -> Hint | None:
    """What other trainers' rules make of a setting; None if none of them has it."""
    for setting, words in TABLES["words"].items():
        if name in words:
            return (setting,), ""
    for samples in ([] if value is None else [value]), _SAMPLES:
        answers = [a for peer in _ASKED for one in samples if (a := _asked(peer, name, one))]
        if answers:  # a name says most, that it can be left out least
            return min(answers, key=lambda answer: (not answer[0], answer[1].startswith(_NEEDLESS)))
    return None


def _asked(peer: str, name: str, value: Any) -> Hint | None:
    """What one trainer's rules say to a value of the setting."""
    key = Key(name, value, "")
    marks = PEERS[peer].get("required", {}).items()
    ledger = Ledger(PEERS[peer]["called"], [*(Key(k, v, "") for k, v in marks), key])
    try:
        require_orpo(ledger, peer)
        settle(ledger, peer, {})
    except ConfigError:  # such as a file that is not there
        return None
    if ledger.has(name):
        return None
    (outcome,) = [one for one in ledger.outcomes if one.key is key]
    made = [s.name for s in ledger.settings.values() if s.source.startswith(f"{name}, ")]
    if outcome.kind == "converted" and made:
        return tuple(made), ""
    said = outcome.said.rstrip(".")
    if outcome.kind == "not needed":
        return (), f"{_NEEDLESS}: {said}."
    return None if repr(value) in said else ((), f"{said[0].upper()}{said[1:]}.")
