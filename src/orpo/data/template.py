"""From a pair to the text that the model sees: one prompt, two answers.

A conversation goes through the tokenizer's own chat template: the prompt once, with the opening
of the assistant's turn, and each answer with the end-of-turn token that the template gives it.
Whatever the template puts between the opening and the answer (an empty think block, say) belongs
to the prompt, because the model does not have to say it.

Text that looks like a special token inside a message ("<|im_end|>") must stay text. It is split
by a guard character before rendering; `tokenize.encode` drops the guard's tokens again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from orpo.data.types import Message, Messages, PreferencePair, TextPair

__all__ = [
    "PLAIN_TEMPLATE",
    "RenderingError",
    "Template",
    "guard_in",
    "has_chat_template",
]

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\nHuman: ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '\\n\\nAssistant: ' + message['content'] }}"
    "{% else %}{{ '\\n\\nSystem: ' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)
"""For messages with a tokenizer that has no chat template: the transcript style of HH-RLHF."""

# Private-use characters: no text of a natural language contains them.
_GUARDS = "\ue0f0\ue0f1\ue0f2\ue0f3"
_PROBE = "\ue0f4"


class RenderingError(ValueError):
    """A conversation that the chat template does not accept or changes beyond recognition."""


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer brings a chat template of its own (or was given one)."""
    return bool(getattr(tokenizer, "chat_template", None))


@dataclass(frozen=True)
class _Frame:
    """The prompt with the assistant's turn opened, and the text before and after an answer."""

    opened: str
    before: str
    after: str


@dataclass(frozen=True)
class Template:
    """Renders pairs and prompts with one tokenizer.

    Attributes:
        tokenizer: The model's tokenizer.
        kwargs: Extra variables for the template, such as {"enable_thinking": False}.
    """

    tokenizer: PreTrainedTokenizerBase
    kwargs: Mapping[str, Any]

    def renders_messages(self, pair: PreferencePair) -> bool:
        """Whether this pair goes through the chat template rather than as plain text."""
        return pair.prompt is not None and (pair.text is None or has_chat_template(self.tokenizer))

    def render(self, pair: PreferencePair) -> TextPair:
        """The pair as text; guards stand inside special-token text of the messages.

        Raises:
            RenderingError: The template does not accept these messages.
        """
        if not self.renders_messages(pair):
            assert pair.text is not None
            return pair.text
        assert pair.prompt is not None
        assert pair.chosen is not None
        assert pair.rejected is not None
        prompt, chosen, rejected = self._guarded([*pair.prompt], pair.chosen, pair.rejected)
        frame = self._frame(prompt)
        chosen_prompt, chosen_text = self._split(frame, prompt, chosen)
        rejected_prompt, rejected_text = self._split(frame, prompt, rejected)
        if chosen_prompt != rejected_prompt:
            raise RenderingError("the template renders the prompt differently for the two answers")
        return TextPair(chosen_prompt, chosen_text, rejected_text)

    def render_prompt(self, messages: Messages) -> str:
        """A conversation up to the opening of the assistant's turn, for generation.

        Raises:
            RenderingError: The template does not accept these messages.
        """
        (guarded,) = self._guarded([*messages])
        return self._apply(guarded, opening=True)

    def _guarded(self, messages: list[Message], *answers: Message) -> list[Any]:
        everything = [*messages, *answers]
        specials = _special_texts(self.tokenizer)
        written = "".join(str(m.get("content") or "") for m in everything)
        if not specials.search(written):
            return [messages, *answers]
        guard = next((g for g in _GUARDS if g not in written), None)
        if guard is None:
            raise RenderingError("special-token text beside every guard character")

        def split(match: re.Match[str]) -> str:
            return match[0][0] + guard + match[0][1:]

        safe = [
            {**m, "content": specials.sub(split, m["content"])} if m.get("content") else dict(m)
            for m in everything
        ]
        return [safe[: len(messages)], *safe[len(messages) :]]

    def _frame(self, prompt: Messages) -> _Frame:
        """What the template writes around an answer, seen by letting it render a probe."""
        opened = self._apply(prompt, opening=True)
        probe = {"role": "assistant", "content": _PROBE}
        before, _, after = self._apply([*prompt, probe], opening=False).partition(_PROBE)
        return _Frame(opened, before, after.rstrip())

    def _split(self, frame: _Frame, prompt: Messages, answer: Message) -> tuple[str, str]:
        """(prompt text, answer text with its end-of-turn token and no white space after it)."""
        full = self._apply([*prompt, answer], opening=False).rstrip()
        if full.startswith(frame.before) and full.endswith(frame.after):
            injected = frame.before.removeprefix(frame.opened)
            if frame.before.startswith(frame.opened) and not injected.strip():
                return frame.opened, full[len(frame.opened) :]
            return frame.before, full[len(frame.before) :]
        if full.startswith(frame.opened):
            return frame.opened, full[len(frame.opened) :]
        raise RenderingError("the template's prompt is no beginning of its conversation")

    def _apply(self, messages: Messages, *, opening: bool) -> str:
        template = None if has_chat_template(self.tokenizer) else PLAIN_TEMPLATE
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=opening,
                **self.kwargs,
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RenderingError(f"the chat template refuses this conversation: {error}") from error
        return str(text)


def guard_in(text: str) -> str:
    """The guard character that occurs in a rendered text, or an empty string."""
    return next((g for g in _GUARDS if g in text), "")


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    added = tokenizer.added_tokens_decoder.values()
    special = {str(t.content) for t in added if t.special} | set(tokenizer.all_special_tokens)
    return _pattern(tuple(sorted((t for t in special if len(t) > 1), key=len, reverse=True)))


@lru_cache(maxsize=32)
def _pattern(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")
