"""What the model will see of a row: its tokens, what each is for, and where the row was cut.

The texts of the tokens of a sequence join to what the model reads. A character whose bytes lie in
several tokens (Chinese, emoji) belongs to the one it starts in.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from orpo.config import ORPOConfig
from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader, is_tokenised
from orpo.data.sources import open_source
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Row, TokenizedPair
from orpo.errors import DataError

TERMS = ("nll", "odds_chosen", "odds_rejected")
"""Where a token may count: the NLL, and either answer's mean log-probability in the odds ratio."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"  # how SentencePiece writes a space
_ALPHABET = {character: byte for byte, character in bytes_to_unicode().items()}


@dataclass(frozen=True)
class TokenPiece:
    """One token as text."""

    id: int
    text: str
    """The characters that start in it; a byte that belongs to no character is a lone surrogate
    U+DC80 to U+DCFF, as Python's "surrogateescape" has it."""
    special: bool = False  # a special token rather than text, whatever it looks like
    continues: bool = False  # begins with the rest of a character that an earlier token started

    @property
    def readable(self) -> str:
        """The text with U+FFFD for bytes that belong to no character."""
        return self.text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@dataclass(frozen=True)
class ShownPart:
    """The prompt or an answer."""

    name: str
    pieces: tuple[TokenPiece, ...]  # its tokens, after any cut
    shared: int  # how many of them, from the first on, both sequences have: computed once
    terms: tuple[str, ...]  # that its tokens count in, out of `TERMS`
    unpredicted: int = 0  # how many, from the first on, count in no NLL: nothing predicts them
    lost: int = 0  # how many tokens were cut away, before the remaining one `lost_at`
    lost_at: int = 0

    def counted(self, index: int) -> tuple[str, ...]:
        """The terms that one token counts in."""
        return () if index < self.unpredicted else self.terms

    @property
    def counts(self) -> int:
        """How many tokens count."""
        return len(self.pieces) - self.unpredicted if self.terms else 0

    def as_dict(self) -> dict[str, Any]:
        """The part for JSON, token by token."""
        return {
            "tokens": len(self.pieces),
            "lost": self.lost,
            "lost_at": self.lost_at if self.lost else None,
            "sequence": [
                {
                    "id": piece.id,
                    "text": piece.readable,
                    "role": self.name,
                    "special": piece.special,
                    "shared": index < self.shared,
                    "terms": list(self.counted(index)),
                }
                for index, piece in enumerate(self.pieces)
            ],
        }


@dataclass(frozen=True)
class ShownRow:
    """One row as the model will see it, or why it is dropped and has no parts."""

    number: int
    where: str
    format: str = ""
    rendering: str = ""
    parts: tuple[ShownPart, ...] = ()
    weight: float = 1.0
    dropped: Dropped | None = None

    @property
    def denominators(self) -> dict[str, int]:
        """Term -> number of tokens that count in it."""
        return {
            term: sum(part.counts for part in self.parts if term in part.terms) for term in TERMS
        }

    @property
    def shared(self) -> int:
        """Tokens that both sequences begin with: they go through the model once."""
        return sum(part.shared for part in self.parts if part.name != "rejected")

    @property
    def positions(self) -> int:
        """Tokens that go through the model for this pair."""
        twice = sum(part.shared for part in self.parts if part.name == "rejected")
        return sum(len(part.pieces) for part in self.parts) - twice

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        plain: dict[str, Any] = {"row": self.number, "where": self.where, "format": self.format}
        if self.dropped is not None:
            reason = {"reason": self.dropped.reason, "detail": self.dropped.detail}
            return {**plain, "dropped": reason}
        return {
            **plain,
            "rendering": self.rendering,
            "dropped": None,
            "weight": self.weight,
            "shared": self.shared,
            "positions": self.positions,
            "denominators": self.denominators,
            **{part.name: part.as_dict() for part in self.parts},
        }


def show_rows(
    dataset: str,
    tokenizer: PreTrainedTokenizerBase,
    config: ORPOConfig,
    *,
    count: int = 3,
    rows: tuple[str, ...] = (),
) -> list[ShownRow]:
    """The first `count` rows of a data set with their tokens, or those that `rows` names.

    Names are numbers from 1, or places as messages name them ("pairs.jsonl:7"). Rows stand in
    their order in the data set; reading stops after the last of them.
    """
    show, found, last = _Shower(tokenizer, config), list[ShownRow](), 0
    wanted = set(rows) or {str(number) for number in range(1, count + 1)}
    source = open_source(dataset, config.column_names)
    for row in source:
        last = row.index + 1
        names = {n for n in wanted if n in (str(last), row.where) or row.where.endswith(f"/{n}")}
        if names:
            found.append(show(row))
        elif not show.reader.format:
            show.read(row)  # lets a row that is not shown decide the format, as in training
        wanted -= names
        if not wanted:
            break
    if not rows and show.reader.mostly_unreadable:  # read on, to know that these are pairs at all
        for row in source:
            show.read(row)
        show.reader.require_readable()
    elif rows and wanted:
        raise DataError(
            f"there is no row {', '.join(sorted(wanted))}; {last} rows were read",
            where=dataset,
            fix="Rows are counted from 1; a place such as pairs.jsonl:7 will do, too.",
        )
    return found


class _Shower:
    """Shows rows of one data set with one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: ORPOConfig) -> None:
        variables = config.chat_template_kwargs
        assert isinstance(variables, dict)
        self._whole = PairTokenizer(tokenizer, LengthPolicy(None), variables)
        self._lengths = LengthPolicy(config.max_length, config.max_prompt_length, config.truncation)
        self._nll_scope, self._texts = config.nll_scope, TokenTexts(tokenizer)
        self.reader = PairReader(config.format_name, "drop", config.pair_rule)

    def read(self, row: Row) -> None:
        """Read a row that is not shown."""
        if not is_tokenised(row.values):
            self.reader(row)

    def __call__(self, row: Row) -> ShownRow:
        """The tokens of a row within the length policy, beside those that were cut away."""
        rendering, whole = self._tokens(row)
        kept = whole
        if not isinstance(whole, Dropped):
            try:
                kept = self._lengths.fit(whole, row.where, self._prefix(whole))
            except DataError as error:  # truncation="error": shown rather than raised
                kept = Dropped("too_long", row.where, error.what)
        shown = ShownRow(row.index + 1, row.where, self.reader.format, rendering)
        if isinstance(whole, Dropped) or isinstance(kept, Dropped):
            return replace(shown, dropped=kept if isinstance(kept, Dropped) else None)
        return replace(shown, parts=tuple(self._parts(whole, kept)), weight=kept.weight)

    def _tokens(self, row: Row) -> tuple[str, TokenizedPair | Dropped]:
        """How the row is rendered, and all of its tokens."""
        if is_tokenised(row.values):
            return "already tokenised", self.reader.tokens(row, self._whole.from_tokens)
        pair = self.reader(row)
        if isinstance(pair, Dropped):
            return "", pair
        messages = self._whole.template.renders_messages(pair)
        return "chat template" if messages else "plain text", self._whole(pair)

    def _prefix(self, pair: TokenizedPair) -> int:
        start = self._whole.prefix
        return len(start) if pair.prompt_ids[: len(start)] == start else 0

    def _parts(self, whole: TokenizedPair, kept: TokenizedPair) -> Iterator[ShownPart]:
        all_prompt, paired = self._nll_scope == "sequence", bool(kept.rejected_ids)
        shared = {"prompt": len(kept.prompt_ids) if paired else 0}
        terms = {
            "prompt": ("nll",) if all_prompt else (),
            "chosen": ("nll", "odds_chosen") if paired else ("nll",),
            "rejected": ("odds_rejected",),
        }
        for name, counted in terms.items():
            ids, before = getattr(kept, f"{name}_ids"), getattr(whole, f"{name}_ids")
            if ids:  # what `keep_end` takes away stood after what every text starts with
                keeps_end = name == "prompt" and self._lengths.truncation == "keep_end"
                yield ShownPart(
                    name,
                    tuple(self._texts(ids)),
                    shared.get(name, kept.common),
                    counted,
                    unpredicted=int(name == "prompt" and all_prompt),
                    lost=len(before) - len(ids),
                    lost_at=self._prefix(whole) if keeps_end else len(ids),
                )


@dataclass(frozen=True)
class TokenTexts:
    """Turns token ids into pieces of text with one tokenizer."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, ids: Sequence[int]) -> list[TokenPiece]:
        """One piece for each token; the texts join to the text of the sequence."""
        pieces: list[TokenPiece] = []
        run: list[int] = []
        for token in ids:
            if token in self._added:
                pieces += self._spelled(run)
                run = []
                pieces.append(TokenPiece(token, self._added[token], token in self._special))
            else:
                run.append(token)
        return pieces + self._spelled(run)

    def _spelled(self, ids: list[int]) -> list[TokenPiece]:
        """Pieces of ordinary tokens, whose bytes may make up characters together."""
        spelled = [self._bytes_of(token) for token in ids]
        starts = [number for number, part in enumerate(spelled) for _ in part]  # byte -> token
        texts, continues = [""] * len(ids), [False] * len(ids)
        at = 0
        for character in b"".join(spelled).decode("utf-8", "surrogateescape"):
            width = len(character.encode("utf-8", "surrogateescape"))
            texts[starts[at]] += character
            for byte in range(at + 1, at + width):
                continues[starts[byte]] |= starts[byte] != starts[byte - 1]
            at += width
        return [
            TokenPiece(token, text, continues=broken)
            for token, text, broken in zip(ids, texts, continues, strict=True)
        ]

    def _bytes_of(self, token: int) -> bytes:
        name = str(self.tokenizer.convert_ids_to_tokens(token))
        if self._decoder == "bytes" and all(c in _ALPHABET for c in name):
            return bytes(_ALPHABET[c] for c in name)
        if self._decoder == "pieces":
            if byte := _BYTE_TOKEN.fullmatch(name):
                return bytes.fromhex(byte[1])
            text = name.replace(_SPACE, " ")
        else:
            text = str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return text.encode("utf-8", "surrogatepass")

    @cached_property
    def _decoder(self) -> str:
        """How the vocabulary spells bytes: "bytes" (GPT-2), "pieces" (SentencePiece) or ""."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return ""
        described = json.dumps(json.loads(backend.to_str()).get("decoder"), ensure_ascii=False)
        if '"ByteLevel"' in described:
            return "bytes"
        return "pieces" if '"ByteFallback"' in described or _SPACE in described else ""

    @cached_property
    def _added(self) -> dict[int, str]:
        added = self.tokenizer.added_tokens_decoder.items()
        return {token_id: str(token.content) for token_id, token in added}

    @cached_property
    def _special(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return {i for i, token in added if token.special} | set(self.tokenizer.all_special_ids)
