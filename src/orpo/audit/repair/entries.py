"""What is kept in mind of each row, and why a row is dropped.

Keys stand for texts, so that memory does not grow with them. Texts are compared as the audit
compares them, so that what it finds word for word is what is dropped here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from orpo.audit.views import PairView, view
from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader, is_tokenised
from orpo.data.split import prompt_key
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, PreferencePair, Row
from orpo.errors import DataError

__all__ = [
    "CHECKS",
    "Entry",
    "Inspector",
    "drop_repeated",
    "drop_reversed",
    "text_key",
]

CHECKS = (
    "malformed",
    "empty",
    "identical_answers",
    "contradictions",
    "low_margin",
    "template_error",
    "too_long",
)
"""Checks that drop rows, by the names that `--drop` takes."""


@dataclass(slots=True)
class Entry:
    """One row.

    Attributes:
        index: Its position in the data set, from 0.
        where: Its place, for messages.
        reason: Why it is dropped; empty while it is kept.
        detail: The same in words.
        held: Whether it is held out.
        prompt: Key of its prompt, of who said what in it, of system messages and tools; the three
            keys are empty where the row holds no pair.
        chosen: Key of the chosen answer.
        rejected: Key of the rejected answer; empty if there is none.
        group: Key of its prompt without differences of case and white space, for the split.
        weight: Factor of its part of the loss.
        longer: 1 if the chosen answer is the longer one, -1 if the rejected is, else 0.
        category: Value of the column to balance by.
    """

    index: int
    where: str
    reason: str = ""
    detail: str = ""
    held: bool = False
    prompt: bytes = b""
    chosen: bytes = b""
    rejected: bytes = b""
    group: int = -1
    weight: float = 1.0
    longer: int = 0
    category: str = ""

    @property
    def kept(self) -> bool:
        """Whether the row is in one of the copies."""
        return not self.reason

    @property
    def is_pair(self) -> bool:
        """Whether a pair could be read from the row; others may be kept, but not compared."""
        return bool(self.prompt)

    @property
    def key(self) -> bytes:
        """Stands for prompt and answers."""
        return self.prompt + self.chosen + self.rejected

    def drop(self, reason: str, detail: str) -> None:
        """Leave the row out."""
        self.reason, self.detail = reason, detail


@dataclass
class Inspector:
    """Looks at single rows.

    Attributes:
        checks: Those of `CHECKS` that drop a row.
        tokenize: Turns pairs into tokens; None counts lengths in characters.
        lengths: The longest pair, in tokens.
        min_margin: Least difference between the scores of both answers, or None.
        category: Column to balance by, or empty.
        reader: Turns rows into pairs.
    """

    checks: frozenset[str] = frozenset(CHECKS)
    tokenize: PairTokenizer | None = None
    lengths: LengthPolicy = field(default_factory=lambda: LengthPolicy(None))
    min_margin: float | None = None
    category: str = ""
    reader: PairReader = field(default_factory=lambda: PairReader(on_bad_row="drop"))

    def __call__(self, row: Row) -> Entry:
        """What is kept in mind of a row.

        Raises:
            DataError: The rows hold token ids rather than texts.
        """
        if is_tokenised(row.values):
            raise DataError(
                "the rows hold token ids, and only texts can be mended",
                where=row.where,
                fix="Give the data set as it was before it was tokenised.",
            )
        entry = Entry(row.index, row.where, category=_category(row, self.category))
        pair = self.reader(row)
        if isinstance(pair, Dropped):
            if pair.reason != "malformed" or "malformed" in self.checks:
                entry.where = pair.where  # names the field, too
                entry.drop(pair.reason, pair.detail)
            return entry
        self._look(entry, pair, view(pair))
        return entry

    def _look(self, entry: Entry, pair: PreferencePair, seen: PairView) -> None:
        entry.prompt, entry.chosen = _bytes(seen.prompt_key), _bytes(seen.chosen_key)
        entry.group, entry.weight = prompt_key(seen.prompt), seen.weight
        if seen.rejected is not None:
            entry.rejected = _bytes(seen.rejected_key)
            entry.longer = _sign(len(seen.chosen) - len(seen.rejected))
        for reason, detail in self._faults(pair, seen):
            if _check_of(reason) in self.checks:
                entry.drop(reason, detail)
                return
        if self.tokenize is not None:
            self._measure(entry, pair)

    def _faults(self, pair: PreferencePair, seen: PairView) -> Iterable[tuple[str, str]]:
        texts = {"prompt": seen.prompt, "chosen": seen.chosen, "rejected": seen.rejected}
        for name, text in texts.items():
            if text is not None and not text.strip():
                yield f"empty_{name}", f"the {name} holds no text"
        if seen.rejected is not None and seen.chosen.split() == seen.rejected.split():
            yield "identical_answers", "both answers are the same, but for white space at most"
        if self.min_margin is not None and pair.scores is not None:
            chosen, rejected = pair.scores
            if not chosen - rejected >= self.min_margin:
                yield "low_margin", f"scores {chosen:g} and {rejected:g}"

    def _measure(self, entry: Entry, pair: PreferencePair) -> None:
        """Compare lengths in tokens, and drop what a training would drop."""
        assert self.tokenize is not None
        tokens = self.tokenize(pair)
        if not isinstance(tokens, Dropped):
            if tokens.rejected_ids:
                entry.longer = _sign(len(tokens.chosen_ids) - len(tokens.rejected_ids))
            tokens_or_reason = self.lengths.fit(tokens, entry.where)
        else:
            tokens_or_reason = tokens
        if isinstance(tokens_or_reason, Dropped):
            reason = tokens_or_reason.reason
            if _check_of(reason) in self.checks:
                entry.drop(reason, tokens_or_reason.detail)


def text_key(text: str) -> bytes:
    """Eight bytes that stand for a text."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _bytes(key: int) -> bytes:
    return key.to_bytes(8)


def drop_reversed(entries: Iterable[Entry]) -> None:
    """Drop rows that prefer the opposite of each other; all, as nobody knows which is right."""
    pairs = [entry for entry in entries if entry.kept and entry.rejected]
    first: dict[bytes, Entry] = {}
    for entry in pairs:
        first.setdefault(entry.key, entry)
    for entry in pairs:
        opposite = first.get(entry.prompt + entry.rejected + entry.chosen)
        if opposite is not None and entry.chosen != entry.rejected:
            entry.drop("contradiction", f"prefers the opposite of {opposite.where}")


def drop_repeated(entries: Iterable[Entry]) -> None:
    """Drop rows whose prompt and answers are, word for word, those of an earlier row.

    A row that differs in its weight alone is a copy, too: the first says how much the pair counts.
    """
    first: dict[bytes, Entry] = {}
    for entry in entries:
        if entry.kept and entry.is_pair:
            earlier = first.setdefault(entry.key, entry)
            if earlier is not entry:
                other = f"; same pair, other weight ({entry.weight:g}, there {earlier.weight:g})"
                same = entry.weight == earlier.weight
                entry.drop("exact_duplicate", f"repeats {earlier.where}{'' if same else other}")


def _check_of(reason: str) -> str:
    """The check that a reason belongs to."""
    if reason.endswith("_after_template"):
        return "template_error"
    if reason.startswith("empty_"):
        return "empty"
    return "too_long" if reason.endswith("too_long") else reason


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _category(row: Row, column: str) -> str:
    """A category as text; a missing one is "null", as in JSON."""
    value = row.values.get(column) if column else None
    return value if isinstance(value, str) else json.dumps(value, default=str)
