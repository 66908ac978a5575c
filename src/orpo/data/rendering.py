"""One call of the tokenizer's chat template, which is somebody else's program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from orpo.data.types import Message, Messages

__all__ = ["PLAIN_TEMPLATE", "RenderingError", "Tools", "apply_template", "has_chat_template"]

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

# What a template may raise on messages that it was not written for.
_TEMPLATE_FAULTS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class RenderingError(ValueError):
    """A conversation that the chat template does not accept or changes beyond recognition."""


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
    """
    try:
        text = tokenizer.apply_chat_template(
            [_named_thoughts(message) for message in messages],
            chat_template=None if has_chat_template(tokenizer) else PLAIN_TEMPLATE,
            tools=None if tools is None else list(tools),
            tokenize=False,
            add_generation_prompt=opening,
            **variables,
        )
    except _TEMPLATE_FAULTS as error:
        said = " ".join(str(error).split())
        raise RenderingError(f"the chat template refuses this conversation: {said}") from error
    return str(text)


def thoughts_of(message: Message) -> str:
    """What a message says was thought, in a field of its own; empty if there is none."""
    found = next((message[name] for name in THOUGHTS if message.get(name)), "")
    return found if isinstance(found, str) else ""


def _named_thoughts(message: Message) -> dict[str, Any]:
    """A message whose thoughts stand under every name that a template may read."""
    found = thoughts_of(message)
    return {**dict.fromkeys(THOUGHTS, found), **message} if found else dict(message)
