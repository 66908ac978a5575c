"""The nouns of the data path: a row becomes a pair, a pair becomes token ids.

Row -> PreferencePair -> TokenizedPair, or Dropped with a reason; a Ledger counts both.
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
    """One record as it was read.

    Attributes:
        values: Column name -> value.
        where: File and line, or data set and row, for messages: "pairs.jsonl:7".
        index: Position in the data set, from 0.
        broken: Why the record could not be read (broken JSON, say); `values` is empty then.
        source: Number of the data set that it came from, where several are mixed.
        left_out: Why it is no part of the data, such as "not_in_mix"; empty if it is.
        known: What the row was turned into already, where it is read once and gone through often.
    """

    values: Mapping[str, Any]
    where: str
    index: int
    broken: DataError | None = None
    source: int = 0
    left_out: str = ""
    known: Converted | None = field(default=None, compare=False, repr=False)

    def fault(self, what: str, name: str, fix: str = "") -> DataError:
        """The complaint about a field of the row."""
        return DataError(what, where=f"{self.where}, field '{name}'", fix=fix)


@dataclass(frozen=True)
class TextPair:
    """A pair as plain text, to be tokenised verbatim: prompt + answer + end token.

    Example: TextPair("\\n\\nHuman: Hi\\n\\nAssistant:", " Hello!", " Go away.")

    Attributes:
        prompt: Everything before the answer.
        chosen: The preferred answer.
        rejected: The rejected answer, or None: the row is then learnt from by its NLL alone.
        guard: A character that splits special-token text which people typed and that is not part
            of the text itself; empty if there is none. See `orpo.data.template`.
        after: What prompt of a chat template this is: "answered", "opened" (with the variables
            that open it so, as JSON) or "shared"; empty if no template wrote it.
        lost: What the template left out of the answers, by the names in `altered.WORDS`.
    """

    prompt: str
    chosen: str
    rejected: str | None
    guard: str = ""
    after: str = field(default="", compare=False)
    lost: tuple[str, ...] = field(default=(), compare=False, kw_only=True)


@dataclass(frozen=True)
class PreferencePair:
    """A prompt with a preferred and a rejected answer.

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

    A transcript (HH-RLHF) or an Alpaca row has both forms: messages for a tokenizer with a chat
    template, text for one without.
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
        return self.rejected is not None or (
            self.text is not None and self.text.rejected is not None
        )


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
    """A row that is not trained on, and why.

    Attributes:
        reason: One of the names in `REASONS` of the module that dropped it, e.g. "empty_chosen".
        where: File and line, or data set and row.
        detail: What exactly was found, in words.
    """

    reason: str
    where: str
    detail: str = ""


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
        examples = {
            reason: [Dropped(reason, found["where"], found["detail"]) for found in rows]
            for reason, rows in plain["dropped_examples"].items()
        }
        values = {k: v for k, v in plain.items() if k != "dropped_examples"}
        counters = {k: Counter(plain[k]) for k in ("dropped", "cut", "after", "changed")}
        return cls(**{**values, **counters}, examples=examples)

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
            if outcome.after:
                self.after[outcome.after] += 1
            self.changed.update(outcome.lost)

    def summary(self) -> str:
        """One line: rows in, kept, dropped by reason (with a first place to look), cut."""
        how = ", ".join(part for part in (self.format, self.rendering) if part)
        head = f"{self.name}{f' ({how})' if how else ''}: "
        parts = [f"{self.rows_in} rows = {self.kept} kept + {self.dropped.total()} dropped"]
        if self.dropped:
            parts.append(
                "dropped: "
                + ", ".join(
                    f"{n} {reason} (first: {self.examples[reason][0].where})"
                    for reason, n in self.dropped.most_common()
                )
            )
        if self.nll_only:
            parts.append(f"{self.nll_only} without rejected answer, learnt from by their NLL alone")
        if self.cut:
            parts.append("cut: " + ", ".join(f"{n} {p}" for p, n in self.cut.most_common()))
        if self.changed:
            told = ", ".join(f"{n} {what}" for what, n in self.changed.most_common())
            parts.append(f"changed by the template: {told}")
        if self.recalled:
            parts.append("tokens from the cache")
        return head + "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The ledger for JSON."""
        plain = vars(self) | {
            "examples": {
                reason: [{"where": d.where, "detail": d.detail} for d in rows]
                for reason, rows in self.examples.items()
            }
        }
        return {
            "dropped_examples" if name == "examples" else name: (
                dict(value) if isinstance(value, Counter) else value
            )
            for name, value in plain.items()
            if name != "recalled"
        }
