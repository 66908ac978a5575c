"""The columns that every format may have: `system`, `tools`, `weight` and the answers' scores."""

from __future__ import annotations

from dataclasses import replace

from orpo.data.columns import SCORES
from orpo.data.fields import assistant, has_value, number, text, tools_of, weight_of
from orpo.data.types import PreferencePair, Row
from orpo.errors import DataError

__all__ = ["with_extras"]


def with_extras(pair: PreferencePair) -> PreferencePair:
    """The pair with what the columns `system`, `tools`, `weight` and of scores add to it.

    Raises:
        DataError: One of them cannot be meant; names file, line and field.
    """
    row = pair.row
    scores = pair.scores or _scores(row)
    pair = replace(pair, tools=tools_of(row), weight=weight_of(row), scores=scores)
    system = text(row, "system").strip() if has_value(row, "system") else ""
    if system:
        return _with_system(pair, system)
    # Only a chat template shows tools, and it shows them with messages.
    return _spoken(pair) if pair.tools else pair


def _scores(row: Row) -> tuple[float, float] | None:
    for names in SCORES:
        if all(has_value(row, name) for name in names):
            chosen, rejected = (number(row, name) for name in names)
            return None if chosen is None or rejected is None else (chosen, rejected)
    return None


def _spoken(pair: PreferencePair) -> PreferencePair:
    """The pair with messages beside its text, if it had none."""
    plain = pair.text
    if pair.prompt is not None or plain is None:
        return pair
    return replace(
        pair,
        prompt=[{"role": "user", "content": plain.prompt}],
        chosen=assistant(plain.chosen),
        rejected=None if plain.rejected is None else assistant(plain.rejected),
    )


def _with_system(pair: PreferencePair, system: str) -> PreferencePair:
    """The pair with a system message in front of its prompt."""
    pair = _spoken(pair)
    said, plain = pair.prompt or [], pair.text
    first = said[0] if said else {}
    if first.get("role") == "system":
        if str(first.get("content") or "").strip() == system:
            return pair
        raise DataError(
            "the conversation has another system message already",
            where=f"{pair.row.where}, field 'system'",
            fix="Keep one of them.",
        )
    if plain is not None:
        plain = replace(plain, prompt=f"{system}\n\n{plain.prompt.lstrip()}")
    return replace(pair, prompt=[{"role": "system", "content": system}, *said], text=plain)
