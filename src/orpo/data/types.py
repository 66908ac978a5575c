"""The nouns of the data path: Row -> PreferencePair -> TokenizedPair, or Dropped with a reason.

A Ledger counts what became of every row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from orpo.errors import DataError

Message: TypeAlias = Mapping[str, Any]
"""One turn of a conversation: {"role": "user", "content": "..."}."""

Messages: TypeAlias = Sequence[Message]


@dataclass(frozen=True)
class Row:
    """One record as it was read."""

    values: Mapping[str, Any]  # by column
    where: str  # file and line, or data set and row, for messages: "pairs.jsonl:7"
    index: int  # in the data set, from 0
    broken: DataError | None = None  # why the record could not be read; `values` is empty then
    source: int = 0  # number of the data set that it came from, where several are mixed
    left_out: str = ""  # why it is no part of the data, such as "not_in_mix"; empty if it is
    known: Converted | None = field(default=None, compare=False, repr=False)
    """What it was turned into already, where it is read once and gone through often."""

    def fault(self, what: str, name: str = "", fix: str = "") -> DataError:
        """The complaint about the row, or a field of it."""
        where = f"{self.where}, field '{name}'" if name else self.where
        return DataError(what, where=where, fix=fix)


@dataclass(frozen=True)
class TextPair:
    """A pair as plain text, to be tokenised verbatim: prompt + answer + end token.

    Example: TextPair("\\n\\nHuman: Hi\\n\\nAssistant:", " Hello!", " Go away.")
    """

    prompt: str
    chosen: str
    rejected: str | None  # None: the row is learnt from by its NLL alone
    guard: str = ""
    """Splits special-token text that people typed and is not part of the text itself; empty if
    there is none. See `orpo.data.template`."""
    after: str = field(default="", compare=False)
    """What prompt of a chat template this is: "answered", "opened" (with the variables that open it
    so, as JSON) or "shared"; empty if no template wrote it."""
    lost: tuple[str, ...] = field(default=(), compare=False, kw_only=True)
    """What the template left out of the answers, by the names in `asked.CHANGES`."""


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with a preferred and a rejected answer.

    A transcript (HH-RLHF) or an Alpaca row has two forms: messages for a tokenizer with a chat
    template, text for one without.

    Attributes:
        row: Where the pair came from.
        text: The pair as plain text, or None when the data are messages only.
        prompt: The conversation so far, or None when the data are plain text only.
        chosen: The preferred assistant message, with `prompt`.
        rejected: The rejected assistant message, with `prompt`; None if there is no rejected answer
            (then `text.rejected` is None too): the row is learnt from by its NLL alone.
        tools: Descriptions of the tools that the chat template shows the model, or None.
        weight: Factor of the pair's part of the loss; 1 unless the data say otherwise.
        scores: What somebody gave the chosen and the rejected answer, higher is better; None if
            the data do not say.
    """

    row: Row
    text: TextPair | None = None
    prompt: Messages | None = None
    chosen: Message | None = None
    rejected: Message | None = None
    tools: Sequence[Any] | None = None
    weight: float = 1.0
    scores: tuple[float, float] | None = None

    @property
    def has_rejected(self) -> bool:
        """Whether there is an answer to prefer the chosen one to."""
        return (self.rejected or (self.text and self.text.rejected)) is not None


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of one pair; both sequences share `prompt_ids`.

    Attributes:
        prompt_ids: Tokens of the rendered prompt, BOS included where the tokenizer has one.
        chosen_ids: Tokens of the preferred answer and its end-of-turn token; all supervised.
        rejected_ids: The same for the rejected answer; empty if there is none.
        row: Index of the row in the data set, for messages about this pair.
        weight: Factor of the pair's part of the loss.
        cut: Which parts were shortened, out of "prompt", "chosen", "rejected".
        after: What prompt of a chat template it has, see `TextPair`.
        lost: What the template left out of its answers, likewise.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    row: int
    weight: float = 1.0
    cut: tuple[str, ...] = ()
    after: str = ""
    lost: tuple[str, ...] = ()

    @property
    def common(self) -> int:
        """Number of tokens that both answers begin with."""
        both = zip(self.chosen_ids, self.rejected_ids, strict=False)
        shorter = min(len(self.chosen_ids), len(self.rejected_ids))
        return next((i for i, (a, b) in enumerate(both) if a != b), shorter)


COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "row", "weight")
"""Columns of a prepared data set, as `TokenizedPair` describes them."""


@dataclass(frozen=True)
class Dropped:
    """A row that is not trained on, and why."""

    reason: str  # by name: "empty_chosen"
    where: str  # file and line, or data set and row
    detail: str = ""  # what exactly was found, in words


@dataclass(frozen=True)
class Refused:
    """A row that cannot be read; `fatal` where it shows that no row can be."""

    error: DataError
    fatal: bool = False


@dataclass(frozen=True)
class Converted:
    """What a row was turned into, under which format (empty: none was known yet) and pair rule."""

    found: PreferencePair | Dropped | Refused
    format: str
    pair_rule: str


@dataclass
class Ledger:
    """What became of every row: rows_in == kept + sum(dropped.values()), always.

    Attributes:
        name: What the rows were read for: "train_dataset", a file name.
        format: The recognised format, e.g. "hh" or "prompt".
        rendering: How the rows were rendered: "chat template" or "plain text".
        rows_in: Rows read.
        kept: Pairs that are trained on.
        nll_only: How many of those have no rejected answer.
        dropped: Reason -> number of rows.
        examples: Reason -> the first few dropped rows.
        cut: Part ("prompt", "chosen", "rejected") -> number of kept pairs in which it was cut.
        after: Prompt of the chat template, see `TextPair` -> number of kept pairs that have it.
        changed: What the template changed in answers, see `TextPair` -> number of kept pairs.
        recalled: Whether the tokens were found in the cache.
    """

    name: str = "dataset"
    format: str = ""
    rendering: str = ""
    rows_in: int = 0
    kept: int = 0
    nll_only: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Dropped]] = field(default_factory=dict)
    cut: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    recalled: bool = field(default=False, compare=False)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Ledger:
        """The ledger that `as_dict` gave."""
        counters = {k: Counter(plain[k]) for k in ("dropped", "cut", "after", "changed")}
        values = {**plain, **counters}
        examples = {
            reason: [Dropped(reason, found["where"], found["detail"]) for found in rows]
            for reason, rows in values.pop("dropped_examples").items()
        }
        return cls(**values, examples=examples)

    def count(self, outcome: TokenizedPair | Dropped) -> None:
        """Enter the outcome of one row."""
        self.rows_in += 1
        if isinstance(outcome, Dropped):
            self.dropped[outcome.reason] += 1
            examples = self.examples.setdefault(outcome.reason, [])
            if len(examples) < 3:
                examples.append(outcome)
        else:
            self.kept += 1
            self.nll_only += not outcome.rejected_ids
            self.cut.update(outcome.cut)
            self.after.update([outcome.after] if outcome.after else [])
            self.changed.update(outcome.lost)

    def summary(self) -> str:
        """One line: rows in, kept, dropped by reason (with a first place to look), cut."""
        how = ", ".join(part for part in (self.format, self.rendering) if part)
        parts = [f"{self.rows_in} rows = {self.kept} kept + {self.dropped.total()} dropped"]
        first = {reason: rows[0].where for reason, rows in self.examples.items()}
        for said, counted in (
            ("dropped", {f"{why} (first: {first.get(why)})": n for why, n in self.dropped.items()}),
            ("", {"without rejected answer, learnt from by their NLL alone": self.nll_only}),
            ("cut", self.cut),
            ("changed by the template", self.changed),
        ):
            listed = ", ".join(f"{n} {what}" for what, n in Counter(counted).most_common() if n)
            if listed:
                parts.append(f"{said}: {listed}" if said else listed)
        if self.recalled:
            parts.append("tokens from the cache")
        return f"{self.name}{f' ({how})' if how else ''}: {'; '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """The ledger for JSON."""
        plain: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name == "examples":
                plain["dropped_examples"] = {
                    reason: [{"where": d.where, "detail": d.detail} for d in rows]
                    for reason, rows in value.items()
                }
            elif name != "recalled":
                plain[name] = dict(value) if isinstance(value, Counter) else value
        return plain
