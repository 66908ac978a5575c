"""From a pair to the text that the model sees: one prompt, two answers.

A conversation goes through the tokenizer's own chat template: the prompt once, with the opening
of the assistant's turn, and each answer with the end-of-turn token that the template gives it.
Whatever the template puts between the opening and the answer (an empty think block, say) belongs
to the prompt, because the model does not have to say it.

Text that looks like a special token inside a message ("<|im_end|>") must stay text. It is split
by a guard character before rendering; `tokenize.encode` drops the guard's tokens again. The same
goes for transcripts and instructions in plain text. Plain `prompt`/`chosen`/`rejected` strings are
the user's own markup: special tokens in them are meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from orpo.data.types import Message, Messages, PreferencePair, TextPair

__all__ = [
    "PLAIN_TEMPLATE",
    "RenderingError",
    "Template",
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

# Templates shorten earlier answers (their reasoning) and wrap what tools return.
_MAY_BE_REWRITTEN = ("assistant", "tool", "function")

# What a template may raise on messages that it was not written for.
_TEMPLATE_FAULTS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


Tools: TypeAlias = Sequence[Any] | None


class RenderingError(ValueError):
    """A conversation that the chat template does not accept or changes beyond recognition."""


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer brings a chat template of its own (or was given one)."""
    return bool(getattr(tokenizer, "chat_template", None))


@dataclass(frozen=True)
class _Frame:
    """What the template writes around an answer.

    Attributes:
        opened: The prompt with the assistant's turn opened.
        before: The conversation up to the answer's first character.
        after: The text from the answer's last character to the end of the turn.
        tail: White space after that, which nobody has to say.
    """

    opened: str
    before: str
    after: str
    tail: str

    @property
    def prompt(self) -> str:
        """The prompt as far as the model need not say it; white space goes to the answer."""
        injected = self.before.removeprefix(self.opened)
        blank = self.before.startswith(self.opened) and not injected.strip()
        return self.opened if blank else self.before


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
        if pair.prompt is None:
            return False
        return pair.text is None or bool(pair.tools) or has_chat_template(self.tokenizer)

    def render(self, pair: PreferencePair) -> TextPair:
        """The pair as text; its guard stands inside special-token text that people typed.

        Raises:
            RenderingError: The template does not accept these messages.
        """
        if not self.renders_messages(pair):
            assert pair.text is not None
            return pair.text if pair.prompt is None else self._guarded_text(pair.text)
        assert pair.prompt is not None
        said = [pair.chosen] if pair.rejected is None else [pair.chosen, pair.rejected]
        guard, parts = self._guarded([pair.prompt, pair.tools, *said])
        prompt, tools, *answers = parts
        if tools and not has_chat_template(self.tokenizer):
            raise RenderingError("the tokenizer has no chat template to show tools with")
        frame = self._frame(prompt, tools)
        prompt_text, chosen = self._split(frame, prompt, answers[0], tools)
        if pair.rejected is None:
            return TextPair(prompt_text, chosen, None, guard)
        other_prompt, rejected = self._split(frame, prompt, answers[1], tools)
        if prompt_text != other_prompt:
            raise RenderingError("the template renders the prompt differently for the two answers")
        return TextPair(prompt_text, chosen, rejected, guard)

    def render_prompt(self, messages: Messages) -> str:
        """A conversation up to the opening of the assistant's turn, to read.

        Raises:
            RenderingError: The template does not accept these messages.
        """
        text, guard = self.guarded_prompt(messages)
        return text.replace(guard, "")

    def guarded_prompt(self, messages: Messages) -> tuple[str, str]:
        """The same to tokenise: (text, the guard that stands in it or an empty string)."""
        guard, guarded = self._guarded([*messages])
        opened = self._open(guarded)
        if opened == self._apply(guarded, opening=False):
            # No opening of its own: what it writes before an answer opens the turn, if anything.
            opened = self._frame(guarded).prompt
        return opened, guard

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """The texts that the tokenizer turns into special tokens."""
        added = self.tokenizer.added_tokens_decoder.values()
        texts = {str(t.content) for t in added if t.special} | set(
            self.tokenizer.all_special_tokens
        )
        return tuple(sorted(text for text in texts if len(text) > 1))

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """The first character of a special token's text; overlapping ones are all found."""
        texts = (f"{re.escape(t[0])}(?={re.escape(t[1:])})" for t in self.specials)
        return re.compile("|".join(texts) or r"(?!)")

    def _guard_for(self, texts: list[str]) -> str:
        """A guard that occurs in none of the texts; empty if none is needed."""
        if not any(map(self._special.search, texts)):
            return ""
        for guard in _GUARDS:
            if not any(guard in text for text in texts):
                return guard
        raise RenderingError("special-token text beside every guard character")

    def _guarded(self, messages: list[Any]) -> tuple[str, list[Any]]:
        guard = self._guard_for(list(_strings(messages)))
        if not guard:
            return guard, messages
        return guard, _with_strings(messages, lambda text: self._split_specials(text, guard))

    def _guarded_text(self, text: TextPair) -> TextPair:
        names = ("prompt", "chosen", "rejected")
        parts = {name: part for name in names if (part := getattr(text, name)) is not None}
        guard = self._guard_for(list(parts.values()))
        split = {name: self._split_specials(part, guard) for name, part in parts.items()}
        return replace(text, **split, guard=guard) if guard else text

    def _split_specials(self, text: str, guard: str) -> str:
        return self._special.sub(lambda first: first[0] + guard, text)

    def _frame(self, prompt: Messages, tools: Tools = None) -> _Frame:
        """What the template writes around an answer, seen by letting it render a probe."""
        probe = {"role": "assistant", "content": _PROBE}
        whole = self._apply([*prompt, probe], tools, opening=False)
        before, _, after = whole.rpartition(_PROBE)
        end = after.rstrip()
        return _Frame(self._open(prompt, tools), before, end, after[len(end) :])

    def _split(
        self, frame: _Frame, prompt: Messages, answer: Message, tools: Tools
    ) -> tuple[str, str]:
        """(prompt text, answer text with its end-of-turn token and no white space after it)."""
        full = self._apply([*prompt, answer], tools, opening=False).removesuffix(frame.tail)
        if full.startswith(frame.before) and full.endswith(frame.after):
            return frame.prompt, full[len(frame.prompt) :]
        if full.startswith(frame.opened):
            return frame.opened, full[len(frame.opened) :]
        raise RenderingError("the template's prompt is no beginning of its conversation")

    def _open(self, prompt: Messages, tools: Tools = None) -> str:
        """The prompt with the assistant's turn opened; every question must stand in it."""
        text = self._apply(prompt, tools, opening=True)
        if tools and text == self._apply(prompt, opening=True):
            raise RenderingError("the template does not show tools")
        for message in prompt:
            said = str(message.get("content") or "").strip()
            if message["role"] not in _MAY_BE_REWRITTEN and said not in text:
                raise RenderingError(f"the template leaves out what {message['role']!r} said")
        return text

    def _apply(self, messages: Messages, tools: Tools = None, *, opening: bool) -> str:
        template = None if has_chat_template(self.tokenizer) else PLAIN_TEMPLATE
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages],
                chat_template=template,
                tools=None if tools is None else list(tools),
                tokenize=False,
                add_generation_prompt=opening,
                **self.kwargs,
            )
        except _TEMPLATE_FAULTS as error:
            raise RenderingError(f"the chat template refuses this conversation: {error}") from error
        return str(text)


def _strings(value: Any) -> Iterator[str]:
    """Every string within messages: contents, roles, tool calls and their arguments' names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if _is_typed(key):
                yield key
            yield from _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def _with_strings(value: Any, change: Callable[[str], str]) -> Any:
    """The same messages with every string changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            change(key) if _is_typed(key) else key: _with_strings(part, change)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_with_strings(part, change) for part in value]
    return value


def _is_typed(key: Any) -> bool:
    """Whether a key may be what somebody typed, an argument's name, and no template asks for it."""
    return isinstance(key, str) and not key.isidentifier()
