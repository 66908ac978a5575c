"""Counting what a check finds, and grading it."""

from __future__ import annotations

from dataclasses import dataclass, field

from orpo.audit.types import Example
from orpo.audit.views import clip

__all__ = ["EXAMPLES", "Tally", "amount", "grade", "percent"]

EXAMPLES = 5
"""Rows of each finding that are shown."""


@dataclass
class Tally:
    """How many rows were found, and the first few of them."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, where: str, text: str, other: str = "") -> None:
        """Count a row; `text` is shown if it is one of the first."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(Example(where, clip(text), other))

    @property
    def shown(self) -> tuple[Example, ...]:
        """The examples, for a finding."""
        return tuple(self.examples)


def grade(share: float, look: float, stop: float) -> str:
    """The verdict on a share: "ok" below `look`, "stop" from `stop` on."""
    if share >= stop:
        return "stop"
    return "look" if share > 0 and share >= look else "ok"


def percent(share: float) -> str:
    """A share in words; what is not 0 does not look like 0."""
    return "under 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def amount(count: int, noun: str) -> str:
    """A number with its noun: "1 row", "1,200 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
