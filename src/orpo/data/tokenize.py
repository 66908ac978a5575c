"""From a pair to token ids, or to the reason why it was dropped.

The prompt is tokenised on its own, exactly as it will be at generation, and the answer is what
follows it in the tokens of the whole text. Where a token would merge across the border, the
answer is tokenised separately, so that the supervised tokens are the answer and nothing else.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from orpo.data.asked import advice, template_of
from orpo.data.lengths import LengthPolicy
from orpo.data.reading import read_tokens
from orpo.data.rendering import RenderingError, Tools, thoughts_of, together
from orpo.data.types import Dropped, Messages, PreferencePair, Row, TextPair, TokenizedPair
from orpo.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Known: TypeAlias = dict[str, list[int]]
"""Text -> its tokens, nothing added."""

_THREADS = "TOKENIZERS_PARALLELISM"
_OWN_PROCESS = os.getpid()
# What a tokenizer may raise on a text that it cannot read.
_UNREADABLE = (TypeError, UnicodeEncodeError, NotImplementedError)
_COMPARED = 16  # texts that the tokenizer itself reads too: it may do more than what lies below
_BORDER = 40  # characters at the end of a prompt that an answer is tokenised with, at least
_ANCHORS = ("\n", ":", "=", "a")


class PairTokenizer:
    """Turns pairs into token ids with one tokenizer, one template and one length policy.

    Args:
        tokenizer: The model's tokenizer; it must have an end-of-sequence token.
        lengths: What to do with pairs that are too long.
        template_kwargs: Extra variables for the chat template, beside those that the tokenizer
            keeps from its training (`orpo.data.asked`).

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
            what = "the tokenizer has no end-of-sequence token, so no answer could ever end"
            fix = "Set tokenizer.eos_token."
            raise ModelError(what, where=str(tokenizer.name_or_path or "tokenizer"), fix=fix)
        self.tokenizer = tokenizer
        self.lengths = lengths
        self.template = template_of(tokenizer, template_kwargs)
        self._compared = False

    def __call__(self, pair: PreferencePair) -> TokenizedPair | Dropped:
        """Token ids of a pair within the length policy, or why it is dropped."""
        return self.batch([pair])[0]

    def batch(self, pairs: Sequence[PreferencePair]) -> list[TokenizedPair | Dropped]:
        """The same for many pairs: the tokenizer, which works on all cores, is called for all."""
        with together():
            rendered = [self._render(pair) for pair in pairs]
        wanted: dict[str, None] = {}
        for text in rendered:
            if isinstance(text, Dropped) or text.guard:
                continue
            part = self._border_part(text)
            answers = (text.chosen,) if text.rejected is None else (text.chosen, text.rejected)
            wanted |= dict.fromkeys((text.prompt, part, *(part + answer for answer in answers)))
        known = self._encode_all(list(wanted))
        found = zip(pairs, rendered, strict=True)
        return [self._tokens(pair, text, known) for pair, text in found]

    def _render(self, pair: PreferencePair) -> TextPair | Dropped:
        where, empty = pair.row.where, _empty_answer(pair)
        if empty:
            return Dropped(f"empty_{empty}", where, f"field '{empty}' holds no text")
        if pair.weight == 0:
            return Dropped("zero_weight", where, "field 'weight' is 0")
        try:
            return self.template.render(pair)
        except RenderingError as error:
            detail = str(error)
            if error.reason != "template_error":
                detail += f"; {self._advice(_dropped_part(pair))}"
            return Dropped(error.reason, where, detail)

    @cached_property
    def _advice(self) -> Callable[[str], str]:
        return cache(lambda change: advice(self.template, change))

    def _tokens(
        self, pair: PreferencePair, text: TextPair | Dropped, known: Known
    ) -> TokenizedPair | Dropped:
        if isinstance(text, Dropped):
            return text
        where = pair.row.where
        try:
            ids = self._encode_pair(text, known, chat=self.template.renders_messages(pair))
        except RenderingError as error:
            return Dropped("template_error", where, str(error))
        row, weight = pair.row.index, pair.weight
        found = TokenizedPair(*ids, row, weight, after=text.after, lost=text.lost)
        return self._admit(found, where)

    def _encode_all(self, texts: list[str]) -> Known:
        """Tokens of texts without guard; empty if one of them cannot be read."""
        if not texts:
            return {}
        try:
            with _all_cores():
                return dict(zip(texts, self._encode_batch(texts), strict=True))
        except _UNREADABLE:
            return {}

    def _encode_batch(self, texts: list[str]) -> list[list[int]]:
        """By the library below the tokenizer, which need not say where each token came from."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or backend.truncation is not None or backend.padding is not None:
            return [self.encode(text) for text in texts]
        found = [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
        if not self._compared:
            if found[:_COMPARED] != [self.encode(text) for text in texts[:_COMPARED]]:
                return [self.encode(text) for text in texts]
            self._compared = True
        return found

    def fingerprint(self) -> dict[str, Any]:
        """Everything that its result depends on, as plain values."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        template = str(getattr(self.tokenizer, "chat_template", None))
        return {
            "tokenizer": backend.to_str() if backend else self.tokenizer.get_vocab(),
            "special": str(self.tokenizer.special_tokens_map),
            "prefix": self.prefix,
            "template": template,
            "variables": dict(self.template.kwargs),
            # A template may write the date into the prompt.
            "today": str(datetime.date.today()) if "strftime_now" in template else "",
            "lengths": vars(self.lengths),
        }

    def from_tokens(self, row: Row) -> TokenizedPair | Dropped:
        """The same for a row that holds token ids already.

        Raises:
            DataError: The row does not hold token ids of this tokenizer.
        """
        pair = read_tokens(row, self._vocabulary)
        return pair if isinstance(pair, Dropped) else self._admit(pair, row.where)

    def prompt_ids(self, prompt: str | Messages, tools: Tools = None) -> list[int]:
        """Tokens of a prompt for generation: the same that training saw before the answer.

        Raises:
            RenderingError: The template does not accept these messages, or the text is no text.
        """
        if isinstance(prompt, str):
            return self._with_prefix(self.encode(prompt))
        return self._with_prefix(self.encode(*self.template.guarded_prompt(prompt, tools)))

    def encode(self, text: str, guard: str = "") -> list[int]:
        """Tokens of a rendered text, nothing added; the guard's own tokens are left out.

        Raises:
            RenderingError: The tokenizer cannot split the text at the guard, or cannot read it.
        """
        try:
            encoded = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=bool(guard), verbose=False
            )
        except _UNREADABLE as error:
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
        for name, ids in (("prompt", pair.prompt_ids), ("chosen", pair.chosen_ids)):
            if not ids:
                return Dropped(f"empty_{name}", where, f"the {name} has no tokens")
        if pair.chosen_ids == pair.rejected_ids:
            return Dropped("identical_answers", where, "both answers are the same")
        prefix = len(self.prefix) if pair.prompt_ids[: len(self.prefix)] == self.prefix else 0
        return self.lengths.fit(pair, where, prefix)

    def _encode_pair(
        self, text: TextPair, known: Known, *, chat: bool
    ) -> tuple[list[int], list[int], list[int]]:
        prompt = self._known_or_encoded(text.prompt, text.guard, known)
        border = self._border(text, prompt, known)
        ends = self._special_ids if chat else {self.tokenizer.eos_token_id}
        answers: list[list[int]] = []
        for answer in (text.chosen, text.rejected):
            if answer is None:
                answers.append([])
                continue
            ids = self._encode_answer(border, answer, text.guard, known)
            if not ids or ids[-1] not in ends:
                ids = [*ids, self.tokenizer.eos_token_id]
            answers.append(ids)
        return self._with_prefix(prompt), answers[0], answers[1]

    def _known_or_encoded(self, text: str, guard: str, known: Known) -> list[int]:
        # What is known was read without guard.
        return known[text] if not guard and text in known else self.encode(text, guard)

    def _border_part(self, text: TextPair) -> str:
        """The prompt's last part that decides how an answer is tokenised: some words.

        It saves reading every prompt three times. Nothing merges across a special token.
        """
        specials = (text.prompt.rfind(special) for special in self.template.specials)
        word = text.prompt.rfind(" ", 0, max(0, len(text.prompt) - _BORDER))
        word += self._space_is_implied if word >= 0 else 0
        return text.prompt[max(0, word, *specials) :]

    def _border(self, text: TextPair, prompt: list[int], known: Known) -> tuple[str, list[int]]:
        """That part with its tokens; the whole prompt if its tokens are not how the prompt ends."""
        part = self._border_part(text)
        ids = self._known_or_encoded(part, text.guard, known)
        if ids and prompt[-len(ids) :] == ids:
            return part, ids
        return text.prompt, prompt

    @cached_property
    def _space_is_implied(self) -> bool:
        """Whether a text by itself is tokenised as if a space stood before it."""
        whole, word = self.encode("one two"), self.encode("two")
        return bool(word) and whole[-len(word) :] == word

    def _encode_answer(
        self, border: tuple[str, list[int]], answer: str, guard: str, known: Known
    ) -> list[int]:
        before, before_ids = border
        full = self._known_or_encoded(before + answer, guard, known)
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
        return ids if ids[: len(self.prefix)] == self.prefix else self.prefix + ids

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
        return {i for i, token in added if token.special} | set(self.tokenizer.all_special_ids)

    @cached_property
    def _vocabulary(self) -> range:
        return range(max(self.tokenizer.get_vocab().values(), default=-1) + 1)


def _dropped_part(pair: PreferencePair) -> str:
    """What a template left out that left nothing over, by the names in `asked.CHANGES`."""
    said = [message for message in (pair.chosen, pair.rejected) if message is not None]
    if any(thoughts_of(message) for message in said):
        return "reasoning_dropped"
    return "tool_calls_dropped" if any(m.get("tool_calls") for m in said) else "thoughts_dropped"


def _empty_answer(pair: PreferencePair) -> str:
    """The name of the answer that holds no text and calls no tool, or an empty string."""
    for name in ("chosen", "rejected") if pair.has_rejected else ("chosen",):
        message = getattr(pair, name)
        if message is not None:
            text = str(message.get("content") or "").strip() or thoughts_of(message).strip()
            said = bool(text) or message.get("tool_calls")
        else:
            said = getattr(pair.text, name).strip()
        if not said:
            return name
    return ""


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let the tokenizer work on all cores, unless the user decided otherwise.

    Elsewhere the switch is off ("0", unlike "false", is orpo's own word for that): a forked process
    (a worker of a data loader) would wait forever for threads that it does not have.
    """
    if os.environ.get(_THREADS, "0") != "0" or os.getpid() != _OWN_PROCESS:
        yield
        return
    os.environ[_THREADS] = "true"
    try:
        yield
    finally:
        os.environ[_THREADS] = "0"


def answer_endings(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """EOS, if there is one, and the end of turn that the chat template writes, often another."""
    eos = tokenizer.eos_token_id
    ids = set() if eos is None else {int(eos)}
    if tokenizer.chat_template:
        pair = PreferencePair(
            Row({}, "probe", 0),
            prompt=[{"role": "user", "content": "a"}],
            chosen={"role": "assistant", "content": "a"},
            rejected={"role": "assistant", "content": "b"},
        )
        tokens = PairTokenizer(tokenizer, LengthPolicy(None))(pair)
        if isinstance(tokens, TokenizedPair):
            ids.add(tokens.chosen_ids[-1])
    return ids
