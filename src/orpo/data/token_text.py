"""The text of single tokens, such that the texts of a sequence join to what the model reads.

A character whose bytes lie in several tokens (Chinese, emoji) belongs to the one it starts in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

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
