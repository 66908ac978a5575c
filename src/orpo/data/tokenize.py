"""From a pair to token ids, or to the reason why it was dropped.

The prompt is tokenised on its own, exactly as it will be at generation, and the answer is what
follows it in the tokens of the whole text. Where a token would merge across the border, the
answer is tokenised separately, so that the supervised tokens are the answer and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from orpo.data.lengths import LengthPolicy
from orpo.data.template import RenderingError, Template
from orpo.data.types import Dropped, Messages, PreferencePair, Row, TextPair, TokenizedPair
from orpo.errors import DataError, ModelError

__all__ = ["PairTokenizer", "is_tokenised"]

_ANCHORS = ("\n", ":", "=", "a")

_TOKENISED = (
    # ours, and TRL's current names: answers without the prompt
    ("prompt_ids", "chosen_ids", "rejected_ids"),
    # TRL's ORPO and DPO names: with `*_labels`, the answers' columns hold the prompt too
    ("prompt_input_ids", "chosen_input_ids", "rejected_input_ids"),
)


def is_tokenised(columns: Mapping[str, Any]) -> bool:
    """Whether these columns hold token ids already."""
    return any(set(names) <= set(columns) for names in _TOKENISED)


class PairTokenizer:
    """Turns pairs into token ids with one tokenizer, one template and one length policy.

    Args:
        tokenizer: The model's tokenizer; it must have an end-of-sequence token.
        lengths: What to do with pairs that are too long.
        template_kwargs: Extra variables for the chat template.

    Raises:
        ModelError: The tokenizer has no end-of-sequence token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        lengths: LengthPolicy,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has no end-of-sequence token, so no answer could ever end",
                where=str(tokenizer.name_or_path or "tokenizer"),
                fix="Set tokenizer.eos_token.",
            )
        self.tokenizer = tokenizer
        self.lengths = lengths
        self.template = Template(tokenizer, dict(template_kwargs or {}))

    def __call__(self, pair: PreferencePair) -> TokenizedPair | Dropped:
        """Token ids of a pair within the length policy, or why it is dropped."""
        where = pair.row.where
        empty = _empty_answer(pair)
        if empty:
            return Dropped(f"empty_{empty}", where, f"field '{empty}' holds no text")
        try:
            text = self.template.render(pair)
            ids = self._encode_pair(text, chat=self.template.renders_messages(pair))
        except RenderingError as error:
            return Dropped("template_error", where, str(error))
        return self._admit(TokenizedPair(*ids, row=pair.row.index), where)

    def from_tokens(self, row: Row) -> TokenizedPair | Dropped:
        """The same for a row that holds token ids already.

        Raises:
            DataError: The row does not hold token ids of this tokenizer.
        """
        return self._admit(_read_tokens(row, self._vocabulary), row.where)

    def prompt_ids(self, prompt: str | Messages) -> list[int]:
        """Tokens of a prompt for generation: the same that training saw before the answer.

        Raises:
            RenderingError: The template does not accept these messages, or the text is no text.
        """
        if isinstance(prompt, str):
            return self._with_prefix(self.encode(prompt))
        return self._with_prefix(self.encode(*self.template.guarded_prompt(prompt)))

    def encode(self, text: str, guard: str = "") -> list[int]:
        """Tokens of a rendered text, nothing added; the guard's own tokens are left out.

        Raises:
            RenderingError: The tokenizer cannot split the text at the guard, or cannot read it.
        """
        try:
            encoded = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=bool(guard), verbose=False
            )
        except (TypeError, UnicodeEncodeError, NotImplementedError) as error:
            raise RenderingError(f"the tokenizer cannot read this text: {error}") from error
        ids: list[int] = encoded["input_ids"]
        if not guard:
            return ids
        kept = []
        for token, (start, end) in zip(ids, encoded["offset_mapping"], strict=True):
            covered = text[start:end]
            if guard not in covered:
                kept.append(token)
            elif covered.strip(guard):
                raise RenderingError("special-token text merges with its guard character")
        return kept

    def _admit(self, pair: TokenizedPair, where: str) -> TokenizedPair | Dropped:
        for name, ids in (
            ("prompt", pair.prompt_ids),
            ("chosen", pair.chosen_ids),
            ("rejected", pair.rejected_ids),
        ):
            if not ids:
                return Dropped(f"empty_{name}", where, f"the {name} has no tokens")
        if pair.chosen_ids == pair.rejected_ids:
            return Dropped("identical_answers", where, "both answers are the same")
        prefix = len(self.prefix) if pair.prompt_ids[: len(self.prefix)] == self.prefix else 0
        return self.lengths.fit(pair, where, prefix)

    def _encode_pair(self, text: TextPair, *, chat: bool) -> tuple[list[int], list[int], list[int]]:
        prompt = self.encode(text.prompt, text.guard)
        border = self._border(text, prompt)
        ends = self._special_ids if chat else {self.tokenizer.eos_token_id}
        answers = []
        for answer in (text.chosen, text.rejected):
            ids = self._encode_answer(border, answer, text.guard)
            if not ids or ids[-1] not in ends:
                ids = [*ids, self.tokenizer.eos_token_id]
            answers.append(ids)
        return self._with_prefix(prompt), answers[0], answers[1]

    def _border(self, text: TextPair, prompt: list[int]) -> tuple[str, list[int]]:
        """The prompt's last part, with its tokens, that decides how an answer is tokenised.

        Nothing merges across a special token, so the part from the last one on will do.
        """
        start = max((text.prompt.rfind(special) for special in self.template.specials), default=-1)
        if start > 0:
            part = text.prompt[start:]
            ids = self.encode(part, text.guard)
            if ids[:1] and ids[0] in self._special_ids and prompt[-len(ids) :] == ids:
                return part, ids
        return text.prompt, prompt

    def _encode_answer(self, border: tuple[str, list[int]], answer: str, guard: str) -> list[int]:
        before, before_ids = border
        full = self.encode(before + answer, guard)
        if full[: len(before_ids)] == before_ids:
            return full[len(before_ids) :]
        for anchor in _ANCHORS:
            anchor_ids = self.encode(anchor)
            after = self.encode(anchor + answer, guard)
            if after[: len(anchor_ids)] == anchor_ids:
                return after[len(anchor_ids) :]
        return self.encode(answer, guard)

    def _with_prefix(self, ids: list[int]) -> list[int]:
        """What the tokenizer starts every text with, once: a template may have written it."""
        if ids[: len(self.prefix)] == self.prefix:
            return ids
        return self.prefix + ids

    @cached_property
    def prefix(self) -> list[int]:
        """The tokens that the tokenizer itself puts before every text, usually BOS or nothing."""
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole: list[int] = self.tokenizer("a")["input_ids"]
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start]
        return []

    @cached_property
    def _special_ids(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        special = {token_id for token_id, token in added if token.special}
        return special | set(self.tokenizer.all_special_ids)

    @cached_property
    def _vocabulary(self) -> range:
        """The token ids of the tokenizer."""
        return range(max(self.tokenizer.get_vocab().values(), default=-1) + 1)


def _empty_answer(pair: PreferencePair) -> str:
    """The name of the answer that holds no text and calls no tool, or an empty string."""
    for name in ("chosen", "rejected"):
        message = getattr(pair, name)
        if message is not None:
            said = bool(str(message.get("content") or "").strip()) or message.get("tool_calls")
        else:
            assert pair.text is not None
            said = getattr(pair.text, name).strip()
        if not said:
            return name
    return ""


def _read_tokens(row: Row, vocabulary: range) -> TokenizedPair:
    names = next((names for names in _TOKENISED if set(names) <= set(row.values)), _TOKENISED[0])
    prompt, chosen, rejected = (_token_ids(row, name, vocabulary) for name in names)
    labels = row.values.get("chosen_labels")
    if labels is not None:
        prompt = chosen[: _masked(labels, len(chosen), f"{row.where}, field 'chosen_labels'")]
        with_prompt = True
    else:
        both = all(ids[: len(prompt)] == prompt for ids in (chosen, rejected))
        with_prompt = names[0] == "prompt_input_ids" and bool(prompt) and both
    if with_prompt:
        if rejected[: len(prompt)] != prompt:
            raise DataError(
                "the sequence does not begin with the prompt's tokens",
                where=f"{row.where}, field '{names[2]}'",
                fix="Both answers must follow the same prompt.",
            )
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    return TokenizedPair(prompt, chosen, rejected, row=row.index)


def _token_ids(row: Row, name: str, vocabulary: range) -> list[int]:
    where = f"{row.where}, field '{name}'"
    value = _as_list(row.values.get(name))
    if value is None:
        found = type(row.values.get(name)).__name__
        raise DataError(f"expected a list of token ids, found {found}", where=where)
    for token in value:
        if type(token) is not int:
            found = f"a list with {type(token).__name__}"
            raise DataError(f"expected a list of token ids, found {found}", where=where)
        if token not in vocabulary:
            raise DataError(
                f"token id {token} is outside of the tokenizer's 0 to {len(vocabulary) - 1}",
                where=where,
                fix="Use the tokenizer that made these ids.",
            )
    return value


def _as_list(value: Any) -> list[Any] | None:
    """A list as it is, an array as a list, None for anything else."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if isinstance(value, list) else None


def _masked(labels: Any, tokens: int, where: str) -> int:
    """Number of leading labels that are -100, which is the length of the prompt."""
    values = _as_list(labels)
    if values is None or len(values) != tokens:
        raise DataError(f"expected a list of {tokens} labels, one for each token", where=where)
    return next((i for i, label in enumerate(values) if label != -100), tokens)
