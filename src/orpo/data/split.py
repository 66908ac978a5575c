"""Parts of a data set; a share of the rows is held out by one rule, no prompt on both sides.

The side of a prompt depends on its words and the seed alone: it stays when rows are added, left
out, reordered or written in another format, and `data fix` agrees with `train` about it.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from orpo.data.reading import PairReaders, is_tokenised
from orpo.data.sources import fingerprint_of
from orpo.data.types import Dropped, Message, PreferencePair, Row
from orpo.errors import ConfigError


@dataclass(frozen=True)
class Selection:
    """Some rows of a data set that is iterable more than once."""

    rows: Iterable[Row]
    indices: frozenset[int]  # `Row.index`
    kept: bool = True  # whether the selection is these rows, or all others

    def __iter__(self) -> Iterator[Row]:
        return (row for row in self.rows if (row.index in self.indices) == self.kept)

    def fingerprint(self) -> list[Any] | None:
        """What the rows depend on; None if that is not known."""
        whole = fingerprint_of(self.rows)
        return None if whole is None else [*whole, self.kept, *sorted(self.indices)]


class Sample:
    """A few rows drawn from a stream while it passes, each with the same chance."""

    def __init__(self, count: int, seed: int) -> None:
        self.rows: list[Row] = []  # drawn so far, in no order
        self.passed = 0
        self._count, self._random = count, Random(seed)  # noqa: S311 - nothing secret is drawn

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows."""
        for row in rows:
            number = self.passed
            place = number if number < self._count else self._random.randint(0, number)
            if number < self._count:
                self.rows.append(row)
            elif place < self._count:
                self.rows[place] = row
            self.passed += 1
            yield row


def hold_out(
    rows: Iterable[Row],
    share: float,
    seed: int,
    where: str,
    *,
    data_format: str = "",
    pair_rule: str = "best_worst",
) -> tuple[Selection, Selection]:
    """Split rows into (training, held-out), all rows of one prompt on the same side.

    They are read here and again on each side; those that cannot be read stay with the training.
    """
    read = PairReaders(data_format, "drop", pair_rule)
    held, count = set(), 0
    for row in rows:
        key = _key_of_row(row, read)
        if key is not None and is_held_out(key, share, seed):
            held.add(row.index)
        count += 1
    if not held or len(held) == count:
        read.require_readable()  # rows in which no prompt is found are not too few
        what = f"a share of {share} of {count} rows leaves one side empty"
        fix = f"Give a larger data set than {where}, another share, or an eval_dataset."
        raise ConfigError(what, where="held_out", fix=fix)
    indices = frozenset(held)
    return Selection(rows, indices, kept=False), Selection(rows, indices)


def is_held_out(key: int | str, share: float, seed: int) -> bool:
    """Whether the prompt of this key (`prompt_key`) is among the share that is held out."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64 < share


def prompt_key(prompt: str) -> int:
    """Stands for a prompt but for case, white space and Unicode forms, which tell none apart."""
    return key_of(normalised(prompt))


def prompt_text(pair: PreferencePair) -> str:
    """What was said before the answer, without system messages and roles."""
    if pair.prompt is None:
        assert pair.text is not None
        return pair.text.prompt
    return "\n\n".join(said(m) for m in pair.prompt if m.get("role") != "system")


def as_given(pair: PreferencePair) -> dict[str, Any]:
    """A pair as the data give it: its prompt as turns, {role, content}, or as one text."""
    if pair.prompt is None:
        assert pair.text is not None
        return {name: getattr(pair.text, name) for name in ("prompt", "chosen", "rejected")}
    turns = [{"role": str(one.get("role")), "content": said(one)} for one in pair.prompt]
    answers = {"chosen": pair.chosen, "rejected": pair.rejected}
    found = {name: None if one is None else said(one) for name, one in answers.items()}
    return {"prompt": turns, **found, **({"tools": list(pair.tools)} if pair.tools else {})}


def pairs_of(
    rows: Iterable[Row], wanted: Iterable[int], data_format: str, pair_rule: str
) -> dict[int, PreferencePair]:
    """The pairs of some rows, by index; none of those that hold token ids already."""
    read, left, found = PairReaders(data_format, "drop", pair_rule), set(wanted), {}
    for row in rows if left else ():
        if row.index in left and not is_tokenised(row.values):
            pair = read(row)
            if isinstance(pair, PreferencePair):
                found[row.index] = pair
        left.discard(row.index)
        if not left:
            break
    return found


def said(message: Message) -> str:
    """The text of a message, and the tools that it calls."""
    content = message.get("content")
    text = content if isinstance(content, str) else "" if content is None else str(content)
    calls = message.get("tool_calls")
    if not calls:
        return text
    return f"{text}\n{json.dumps(calls, ensure_ascii=False, default=str)}".strip()


def key_of(text: str) -> int:
    """63 bits that stand for a text: among a million texts, two share them once in 10^7 sets."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def normalised(text: str) -> str:
    """A text without differences of case, of white space and of Unicode forms."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split()).casefold()


def _key_of_row(row: Row, read: PairReaders) -> int | str | None:
    if is_tokenised(row.values):
        ids = row.values.get("prompt_ids", row.values.get("prompt_input_ids"))
        return json.dumps(list(ids or []), default=str)
    pair = read(row)
    return None if isinstance(pair, Dropped) else prompt_key(prompt_text(pair))
