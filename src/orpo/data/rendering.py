"""One call of the tokenizer's chat template, which is somebody else's program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from orpo.data.limits import SECONDS, TooMuch, limited
from orpo.data.types import Message, Messages
from orpo.errors import ModelError

__all__ = [
    "PLAIN_TEMPLATE",
    "RenderingError",
    "Tools",
    "apply_template",
    "bounded",
    "has_chat_template",
    "thoughts_of",
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

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold what was thought before the answer; the first is what most
templates read, and gpt-oss reads the last."""

Tools: TypeAlias = Sequence[Any] | None

_SHOWN = 300  # characters of what a template complains of
_LONGEST = 1_000_000  # characters that a template may write of its own
_TIMES = 20  # that it may say what it was given


class RenderingError(ValueError):
    """A conversation that the chat template does not accept or changes beyond recognition.

    Args:
        said: What is wrong.
        reason: The name under which a row is dropped for it.
    """

    def __init__(self, said: str, reason: str = "template_error") -> None:
        super().__init__(said)
        self.reason = reason


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer brings a chat template of its own (or was given one)."""
    return bool(getattr(tokenizer, "chat_template", None))


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    tools: Tools,
    variables: Mapping[str, Any],
    *,
    opening: bool,
) -> str:
    """The text of a conversation.

    Args:
        tokenizer: Its template is applied, or `PLAIN_TEMPLATE` if it has none.
        messages: The conversation.
        tools: What the assistant may call.
        variables: What the template is told beside.
        opening: Open the assistant's turn at the end.

    Raises:
        RenderingError: The template does not accept these messages.
        ModelError: The template does not come to an end, or asks for too much memory.
    """
    given = [_named_thoughts(message) for message in messages]
    try:
        with bounded(tokenizer):
            text = tokenizer.apply_chat_template(
                given,
                chat_template=None if has_chat_template(tokenizer) else PLAIN_TEMPLATE,
                tools=None if tools is None else list(tools),
                tokenize=False,
                add_generation_prompt=opening,
                **variables,
            )
    except (ModelError, ImportError):
        raise
    except Exception as error:  # whatever somebody else's program brings about
        said = " ".join(str(error).split())[:_SHOWN]
        raise RenderingError(f"the chat template refuses this conversation: {said}") from error
    if len(text) > _LONGEST and len(text) > _LONGEST + _TIMES * len(str((given, tools))):
        raise _unusable(tokenizer, f"writes {len(text):,} characters for one conversation")
    return str(text)


@contextmanager
def bounded(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Limits of time and memory for what a template does within; entered within itself, once.

    Raises:
        ModelError: It does not keep to them.
    """
    try:
        with limited():
            yield
    except TooMuch:
        raise _unusable(tokenizer, f"takes more than {SECONDS:g} s for one conversation") from None
    except MemoryError:
        raise _unusable(tokenizer, "asks for too much memory for one conversation") from None
    except RecursionError:
        raise _unusable(tokenizer, "calls itself without end") from None


def _unusable(tokenizer: PreTrainedTokenizerBase, what: str) -> ModelError:
    return ModelError(
        f"the chat template {what}",
        where=str(tokenizer.name_or_path or "tokenizer"),
        fix="Give another one with --chat_template FILE.",
    )


def thoughts_of(message: Message) -> str:
    """What a message says was thought, in a field of its own; empty if there is none."""
    found = next((message[name] for name in THOUGHTS if message.get(name)), "")
    return found if isinstance(found, str) else ""


def _named_thoughts(message: Message) -> dict[str, Any]:
    """A message whose thoughts stand under every name that a template may read."""
    found = thoughts_of(message)
    return {**dict.fromkeys(THOUGHTS, found), **message} if found else dict(message)
