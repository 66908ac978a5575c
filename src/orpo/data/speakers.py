"""Who speaks in a message, under the names that chat templates know."""

from __future__ import annotations

__all__ = ["is_speaker", "speaker_of"]

_SPEAKERS = {
    "system": ("system",),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "llm"),
    "tool": ("tool", "observation", "tool_response", "tool_result", "function_response"),
}
_NAMES = {name: speaker for speaker, names in _SPEAKERS.items() for name in names}
_CALLS = ("function_call", "tool_call")
_OTHERS = ("developer", "function", "ipython")  # which some templates know by themselves


def speaker_of(name: str) -> tuple[str, bool]:
    """The role of a template, and whether what is said is the call of a tool.

    A name that nobody uses so is left as it is: a template may know it.
    """
    plain = name.strip().casefold().replace(" ", "_").replace("-", "_")
    if plain in _CALLS:
        return "assistant", True
    return _NAMES.get(plain, name), False


def is_speaker(name: str) -> bool:
    """Whether somebody who speaks in conversations is called so."""
    role, calls = speaker_of(name)
    return calls or role in _SPEAKERS or name.strip().casefold() in _OTHERS
