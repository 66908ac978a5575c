"""What a template makes of an answer that it was given, held against what the row says.

Templates drop the thoughts of an answer, cut or rewrite its text, or leave its tool calls out; the
model then learns something else than the data say. White space around a part is not worth a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from orpo.data.rendering import RenderingError
from orpo.data.template import Template
from orpo.data.types import Message

__all__ = ["WORDS", "advice", "told_of_changes"]

WORDS = {
    "reasoning_dropped": "the reasoning in a field of its own is left out",
    "thoughts_dropped": "the <think> block in the text is left out",
    "text_changed": "the text is cut or rewritten",
    "tool_calls_dropped": "tool calls are left out",
}
"""Name of a change -> what it is."""

_BLOCK = "<think>\n{}\n</think>\n\n{}"
_A, _B = "qzx", "qzy"  # words that no template writes
_REASONED: Message = {"role": "assistant", "content": _B, "reasoning_content": _A}
_THOUGHT: Message = {"role": "assistant", "content": _BLOCK.format(_A, _B)}
_CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": _A, "arguments": {"x": _B}}}],
}
_PROBES = {
    "reasoning_dropped": _REASONED,
    "thoughts_dropped": _THOUGHT,
    "tool_calls_dropped": _CALL,
}
_USER = {"role": "user", "content": "a"}


def advice(template: Template, change: str) -> str:
    """What keeps what a template drops, tried out on it; empty if nothing does."""
    probe = _PROBES.get(change)
    if probe is None:
        return ""
    for choice in template.variants:
        if _keeps(template.told(choice), probe):
            return f"--chat_template_kwargs '{json.dumps(choice)}' keeps it"
    if change == "reasoning_dropped" and _keeps(template, _THOUGHT):
        return "written into the answer as <think>...</think> it is kept"
    if change == "thoughts_dropped" and _keeps(template, _REASONED):
        return "in a field reasoning_content of the answer it is kept"
    return "no variable of the template keeps it; --chat_template FILE takes another one"


def told_of_changes(template: Template, changed: Mapping[str, int], kept: int) -> Iterator[str]:
    """A line for each kind of change, with the number of pairs and what would keep it."""
    for change, count in sorted(changed.items()):
        what = advice(template, change)
        yield (
            f"the chat template changes answers of {count:,} of {kept:,} pairs: "
            f"{WORDS.get(change, change)}{f'; {what}' if what else ''}"
        )


def _keeps(template: Template, answer: Message) -> bool:
    try:
        text = template.closed([_USER, answer])
    except RenderingError:
        return False
    return all(word in text for word in (_A, _B))
