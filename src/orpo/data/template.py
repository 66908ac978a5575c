"""From a pair to the text that the model sees: one prompt, two answers.

Whatever the tokenizer's chat template puts between the opening of the assistant's turn and the
answer (an empty think block, say) belongs to the prompt: the model does not have to say it.

Text that looks like a special token inside a message ("<|im_end|>") must stay text. A guard
character splits it before rendering; `tokenize.encode` drops the guard's tokens again. Only plain
`prompt`/`chosen`/`rejected` strings are the user's own markup: special tokens in them are meant.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orpo.data import rendering
from orpo.data.rendering import RenderingError, Tools, bounded, has_chat_template, thoughts_of
from orpo.data.types import Message, Messages, PreferencePair, TextPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWERED = "answered"
"""A prompt up to a plain answer, with whatever the template writes before one."""
OPENED = "opened"
"""A prompt with the assistant's turn opened, as the template does for generation."""
SHARED = "shared"
"""What a plain answer and one with thoughts of its own both stand after."""

# Private-use characters: no text of a natural language contains them.
_GUARDS = "\ue0f0\ue0f1\ue0f2\ue0f3"
_PROBE, _THOUGHT = "\ue0f4", "\ue0f5"

# Templates shorten earlier answers (their reasoning) and wrap what tools return.
_MAY_BE_REWRITTEN = ("assistant", "tool", "function")

# Variables of templates that decide about thinking, by their names; the compared texts of those
# that are no switches.
_THINKING = re.compile(r"(?<![\w.'\"/<\[])[a-zA-Z_]*(?:think|reason)[a-zA-Z_]*(?![\w'\"(>])")
_COMPARED = r"(?<![\w.])%s\s*[!=]=\s*['\"]([\w-]{1,20})['\"]"
_MOST_CHOICES = 12
_BLOCK = re.compile(r"\s*<think>(.*?)</think>(.*)\Z", re.DOTALL)
_UNFINISHED = re.compile(r"[<\[][^>\]\s]*\Z")  # the beginning of "<think>", say


@dataclass(frozen=True)
class _Frame:
    """What the template writes around an answer."""

    opened: str  # the prompt with the assistant's turn opened
    before: str  # the conversation up to the answer's first character
    after: str  # the text from the answer's last character to the end of the turn
    tail: str  # white space after that, which nobody has to say

    @property
    def prompt(self) -> str:
        """The prompt as far as the model need not say it; white space goes to the answer."""
        injected = self.before.removeprefix(self.opened)
        blank = self.before.startswith(self.opened) and not injected.strip()
        return self.opened if blank else self.before

    @property
    def opens_more(self) -> bool:
        """Whether generation is given more than what stands before an answer: "<think>", say."""
        more = self.opened.removeprefix(self.before)
        return self.opened.startswith(self.before) and bool(more.strip())


@dataclass(frozen=True)
class Template:
    """Renders pairs and prompts with one tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    kwargs: Mapping[str, Any]  # extra variables for it, such as {"enable_thinking": False}
    asked: str = ""
    """The prompt that a model is asked after: `ANSWERED`, `OPENED` or `SHARED`; empty for the
    template's own opening, or the first of them if it has none."""

    def told(self, variables: Mapping[str, Any]) -> Template:
        """The same template, told more."""
        return replace(self, kwargs={**self.kwargs, **variables})

    def asking(self, prompt: str) -> Template:
        """The same template for a model that is asked after another prompt."""
        return replace(self, asked=prompt)

    def renders_messages(self, pair: PreferencePair) -> bool:
        """Whether this pair goes through the chat template rather than as plain text."""
        if pair.prompt is None:
            return False
        return pair.text is None or bool(pair.tools) or has_chat_template(self.tokenizer)

    def render(self, pair: PreferencePair) -> TextPair:
        """The pair as text; its guard stands inside special-token text that people typed."""
        if not self.renders_messages(pair):
            assert pair.text is not None
            return pair.text if pair.prompt is None else self._guarded_text(pair.text)
        with bounded(self.tokenizer):
            return self._rendered(pair)

    def _rendered(self, pair: PreferencePair) -> TextPair:
        assert pair.prompt is not None
        said = [pair.chosen] if pair.rejected is None else [pair.chosen, pair.rejected]
        guard, parts = self._guarded([pair.prompt, pair.tools, *said])
        prompt, tools, *answers = parts
        if tools and not has_chat_template(self.tokenizer):
            raise RenderingError("the tokenizer has no chat template to show tools with")
        frame = self._frame(prompt, tools)
        whole = [self._apply([*prompt, one], tools).removesuffix(frame.tail) for one in answers]
        text, after = self._common(frame, whole, prompt, tools)
        _require_answers(frame, whole, answers)
        shown = [one[len(text) :] for one in whole]
        both = zip(answers, shown, strict=True)
        lost = tuple(sorted({one for answer, kept in both for one in _lost(answer, kept)}))
        rejected = shown[1] if len(shown) > 1 else None
        return TextPair(text, shown[0], rejected, guard, after, lost=lost)

    def render_prompt(self, messages: Messages) -> str:
        """A conversation up to the opening of the assistant's turn, to read."""
        text, guard = self.guarded_prompt(messages)
        return text.replace(guard, "")

    def guarded_prompt(self, messages: Messages, tools: Tools = None) -> tuple[str, str]:
        """The same to tokenise: (text, the guard that stands in it or an empty string)."""
        guard, (guarded, shown) = self._guarded([messages, tools])
        with bounded(self.tokenizer):
            if self.asked == ANSWERED:
                return self._frame(guarded, shown).prompt, guard
            if self.asked == SHARED:
                return self._shared(self._frame(guarded, shown), guarded, shown), guard
            return self._opened(guarded, shown), guard

    def try_to_open(self, prompt: Messages, tools: Tools = None) -> str | None:
        """What everybody else asks with, the template's own opening; None if it refuses."""
        try:
            return self._open(prompt, tools)
        except RenderingError:
            return None

    def closed(self, messages: Messages) -> str:
        """A conversation to which no answer is asked."""
        return self._apply(messages)

    @cached_property
    def _source(self) -> str:
        return str(getattr(self.tokenizer, "chat_template", None) or "")

    @cached_property
    def thinking_variables(self) -> tuple[str, ...]:
        """Names that the template asks about thinking by, as far as they can be told."""
        found = dict.fromkeys(_THINKING.findall(self._source))
        return tuple(name for name in found if name != "reasoning_content")

    @cached_property
    def variants(self) -> tuple[dict[str, Any], ...]:
        """What the template may be told about thinking."""
        found = [
            {name: value}
            for name in self.thinking_variables
            for value in (False, True, *dict.fromkeys(re.findall(_COMPARED % name, self._source)))
        ]
        return tuple(found[:_MOST_CHOICES])

    @cached_property
    def choices(self) -> tuple[dict[str, Any], ...]:
        """Those that make it open the turn otherwise."""
        probe = [{"role": "user", "content": "a"}]
        opened = self._open(probe)
        return tuple(one for one in self.variants if self.told(one).try_to_open(probe) != opened)

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """The texts that the tokenizer turns into special tokens."""
        added = self.tokenizer.added_tokens_decoder.values()
        texts = {str(t.content) for t in added if t.special} | {*self.tokenizer.all_special_tokens}
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
        free = (guard for guard in _GUARDS if not any(guard in text for text in texts))
        guard = next(free, "")
        if not guard:
            raise RenderingError("special-token text beside every guard character")
        return guard

    def _guarded(self, messages: list[Any]) -> tuple[str, list[Any]]:
        texts: list[str] = []

        def seen(text: str) -> str:
            texts.append(text)
            return text

        _with_strings(messages, seen)
        guard = self._guard_for(texts)
        if not guard:
            return guard, messages
        return guard, _with_strings(messages, lambda text: self._split_specials(text, guard))

    def _guarded_text(self, text: TextPair) -> TextPair:
        names = ("prompt", "chosen", "rejected")
        parts = {name: part for name in names if (part := getattr(text, name)) is not None}
        guard = self._guard_for(list(parts.values()))
        split = {name: self._split_specials(part, guard) for name, part in parts.items()}
        if not guard:
            return text
        return TextPair(split["prompt"], split["chosen"], split.get("rejected"), guard)

    def _split_specials(self, text: str, guard: str) -> str:
        return self._special.sub(lambda first: first[0] + guard, text)

    def _frame(self, prompt: Messages, tools: Tools = None) -> _Frame:
        """What the template writes around an answer, seen by letting it render a probe."""
        probe = {"role": "assistant", "content": _PROBE}
        whole = self._apply([*prompt, probe], tools)
        before, found, after = whole.rpartition(_PROBE)
        if not found:
            raise RenderingError("the template leaves out what the assistant says")
        end = after.rstrip()
        return _Frame(self._open(prompt, tools), before, end, after[len(end) :])

    def _common(
        self, frame: _Frame, whole: list[str], prompt: Messages, tools: Tools
    ) -> tuple[str, str]:
        """The prompt that all of these conversations begin with, and what it is.

        Answers that think for themselves have no empty think block before them, so theirs is what
        generation is opened with; a plain answer beside such a one then says the block itself.
        """

        def fits(text: str | None) -> bool:
            return text is not None and all(one.startswith(text) for one in whole)

        plain = fits(frame.before) and all(one.endswith(frame.after) for one in whole)
        if plain and not (frame.opens_more and fits(frame.opened)):
            return frame.prompt, ANSWERED
        opened = self._opened(prompt, tools)
        if fits(opened):
            return opened, OPENED
        for choice in self.choices:
            text = self.told(choice).try_to_open(prompt, tools)
            if text is not None and fits(text):
                return text, f"{OPENED} {json.dumps(choice)}"
        shared = self._shared(frame, prompt, tools)
        if fits(shared) and _unsaid(prompt, shared) is None:
            return shared, SHARED
        raise RenderingError("the template's prompt is no beginning of its conversation")

    def _shared(self, frame: _Frame, prompt: Messages, tools: Tools) -> str:
        """What the openings of all kinds of answers have in common."""
        written = f"<think>\n{_THOUGHT}\n</think>\n\n{_PROBE}"
        for thought in ({"content": _PROBE, "reasoning_content": _THOUGHT}, {"content": written}):
            thinking = self._apply([*prompt, {"role": "assistant", **thought}], tools)
            if _THOUGHT in thinking:
                break
        before = thinking.rpartition(_THOUGHT)[0] or frame.before
        text = common_beginning(self._opened(prompt, tools), frame.before, before)
        return _UNFINISHED.sub("", text)

    def _opened(self, prompt: Messages, tools: Tools = None) -> str:
        """The prompt as the template opens it, or up to an answer if it opens nothing."""
        opened = self._open(prompt, tools)
        return self._frame(prompt, tools).prompt if opened == self._apply(prompt, tools) else opened

    def _open(self, prompt: Messages, tools: Tools = None) -> str:
        """The prompt with the assistant's turn opened; every question must stand in it."""
        text = self._apply(prompt, tools, opening=True)
        if tools and text == self._apply(prompt, opening=True):
            raise RenderingError("the template does not show tools")
        left_out = _unsaid(prompt, text)
        if left_out is not None:
            raise RenderingError(f"the template leaves out what {left_out!r} said")
        return text

    def _apply(self, messages: Messages, tools: Tools = None, *, opening: bool = False) -> str:
        return rendering.apply_template(
            self.tokenizer, messages, tools, self.kwargs, opening=opening
        )


def _lost(answer: Message, rendered: str) -> Iterator[str]:
    """What a template left out of an answer or changed in it, by the names in `asked.CHANGES`."""
    content, reasoning = str(answer.get("content") or ""), thoughts_of(answer).strip()
    found = None if content.strip() in rendered else _BLOCK.match(content)
    block, text = found.groups() if found else ("", content)
    for thought, what in ((reasoning, "reasoning_dropped"), (block.strip(), "thoughts_dropped")):
        _, kept, rest = rendered.partition(thought) if thought else ("", "-", rendered)
        if not kept or (text.strip() in rendered and text.strip() not in rest):
            yield what  # a short thought may be a part of the answer
    if text.strip() not in rendered:
        yield "text_changed"
    for call in answer.get("tool_calls") or ():
        described = call.get("function", call) if isinstance(call, Mapping) else {}
        called = described.get("name") if isinstance(described, Mapping) else None
        if isinstance(called, str) and called not in rendered:
            yield "tool_calls_dropped"


def _require_answers(frame: _Frame, whole: Sequence[str], answers: Sequence[Message]) -> None:
    """Something must be left of each answer, and of what they differ in."""
    for name, one in zip(("chosen", "rejected"), whole, strict=False):
        if not one.removeprefix(frame.before).removesuffix(frame.after).strip():
            raise RenderingError(
                f"the template leaves nothing of the {name} answer", "empty_after_template"
            )
    if len(whole) > 1 and whole[0] == whole[1] and not _alike(*answers):
        raise RenderingError(
            "the template leaves out all that the answers differ in", "identical_after_template"
        )


def _alike(one: Message, other: Message) -> bool:
    parts = [
        (str(a.get("content") or "").strip(), thoughts_of(a).strip(), a.get("tool_calls") or None)
        for a in (one, other)
    ]
    return parts[0] == parts[1]


def common_beginning(*texts: str) -> str:
    """The longest text that all of these begin with."""
    return os.path.commonprefix(texts)  # noqa: RUF071 - texts, not paths


def _unsaid(prompt: Messages, text: str) -> str | None:
    """Whose words a text lacks; None if it has all that no template may rewrite."""
    for message in prompt:
        said = str(message.get("content") or "").strip()
        if message["role"] not in _MAY_BE_REWRITTEN and said not in text:
            return str(message["role"])
    return None


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
