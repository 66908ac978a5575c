"""From the columns of a data set to pairs: one function per format, chosen by the columns.

    prompt        prompt, chosen, rejected: strings, or lists of {role, content}
    implicit      chosen, rejected: two conversations that share their beginning
    hh            chosen, rejected: "\\n\\nHuman: ... \\n\\nAssistant: ..." transcripts
    alpaca        instruction, [input], chosen, rejected

A new format is a function here and a line in `FORMATS`.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping, ValuesView
from typing import Any, TypeAlias

from orpo.data.types import Message, PreferencePair, Row, TextPair
from orpo.errors import DataError

__all__ = ["FORMATS", "recognise", "to_pair"]

Parser: TypeAlias = Callable[[Row], PreferencePair]

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_DEEPEST = 32  # levels of nesting in a tool call that anyone means
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def recognise(columns: Mapping[str, Any], where: str) -> str:
    """The name of the format that these columns (of a first row, with its values) are in.

    Raises:
        DataError: No format has these columns; the message names them.
    """
    names = set(columns)
    missing = {"chosen", "rejected"} - names
    if missing:
        raise DataError(
            f"no column {' and no column '.join(repr(m) for m in sorted(missing))}; "
            f"found {', '.join(map(repr, sorted(names))) or 'no columns'}",
            where=where,
            fix="Preference data need 'chosen' and 'rejected', and usually 'prompt'.",
        )
    if "prompt" in names:
        return "prompt"
    if "instruction" in names:
        return "alpaca"
    texts = [columns["chosen"], columns["rejected"]]
    if any(isinstance(t, str) and _ASSISTANT in t for t in texts):
        return "hh"
    return "implicit"


def to_pair(row: Row, name: str) -> PreferencePair:
    """Read one row in the format `name`.

    Raises:
        DataError: A field is missing or has the wrong type; names file, line and field.
    """
    return FORMATS[name](row)


def _prompt(row: Row) -> PreferencePair:
    prompt, chosen, rejected = (_field(row, name) for name in ("prompt", "chosen", "rejected"))
    if all(isinstance(value, str) for value in (prompt, chosen, rejected)):
        return PreferencePair(row, text=TextPair(prompt, chosen, rejected))
    if _opens_with_prompt(prompt, chosen, rejected):
        return _implicit(row)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return PreferencePair(
        row,
        prompt=list(messages),
        chosen=_answer(chosen, row, "chosen"),
        rejected=_answer(rejected, row, "rejected"),
    )


def _implicit(row: Row) -> PreferencePair:
    chosen, rejected = _field(row, "chosen"), _field(row, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return PreferencePair(row, text=_split_texts(chosen, rejected, row))
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise _wrong_type(row, "rejected", "a list of messages as 'chosen' is, or both strings")
    shared = 0
    for ours, theirs in zip(chosen[:-1], rejected[:-1], strict=False):
        if _same_turn(ours, theirs):
            shared += 1
        else:
            break
    if shared == 0:
        raise DataError(
            "'chosen' and 'rejected' do not begin with the same message, so there is no prompt",
            where=f"{row.where}, field 'chosen'",
            fix="Add a 'prompt' column, or let both conversations start with the prompt.",
        )
    return PreferencePair(
        row,
        prompt=list(chosen[:shared]),
        chosen=_answer(chosen[shared:], row, "chosen"),
        rejected=_answer(rejected[shared:], row, "rejected"),
    )


def _hh(row: Row) -> PreferencePair:
    chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
    for name, transcript in (("chosen", chosen), ("rejected", rejected)):
        if _ASSISTANT not in transcript:
            raise DataError(
                "not a transcript: it has no '\\n\\nAssistant:' turn",
                where=f"{row.where}, field '{name}'",
                fix="Every row must be a Human/Assistant transcript, as the first row is.",
            )
    border = _transcript_border(chosen, rejected, row)
    text = TextPair(chosen[:border], chosen[border:], rejected[border:])
    turns = _turns(text.prompt)
    if not turns:
        return PreferencePair(row, text=text)
    return PreferencePair(
        row,
        text=text,
        prompt=turns,
        chosen={"role": "assistant", "content": text.chosen.strip()},
        rejected={"role": "assistant", "content": text.rejected.strip()},
    )


def _alpaca(row: Row) -> PreferencePair:
    instruction, chosen, rejected = (_text(row, k) for k in ("instruction", "chosen", "rejected"))
    extra = "" if row.values.get("input") is None else _text(row, "input")
    request = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    section = f"\n\n### Input:\n{extra}" if extra.strip() else ""
    plain = f"### Instruction:\n{instruction}{section}\n\n### Response:\n"
    return PreferencePair(
        row,
        text=TextPair(plain, chosen, rejected),
        prompt=[{"role": "user", "content": request}],
        chosen={"role": "assistant", "content": chosen},
        rejected={"role": "assistant", "content": rejected},
    )


FORMATS: dict[str, Parser] = {
    "prompt": _prompt,
    "implicit": _implicit,
    "hh": _hh,
    "alpaca": _alpaca,
}


def _field(row: Row, name: str) -> Any:
    """A string or a list of messages; anything else is the user's mistake."""
    if name not in row.values or row.values[name] is None:
        state = "is null" if name in row.values else "is missing"
        raise DataError(
            f"field {name!r} {state}",
            where=row.where,
            fix="Give every row this field, or set on_bad_row='drop' to leave such rows out.",
        )
    value = row.values[name]
    messages = isinstance(value, list) and value and all(_is_message(m) for m in value)
    if not messages and not isinstance(value, str):
        raise _wrong_type(row, name, "a string or a list of {'role', 'content'} messages")
    fault = _fault(value)
    if fault:
        raise DataError(
            fault,
            where=f"{row.where}, field '{name}'",
            fix="Correct the row, or set on_bad_row='drop' to leave such rows out.",
        )
    return value


def _text(row: Row, name: str) -> str:
    value = _field(row, name)
    if not isinstance(value, str):
        raise _wrong_type(row, name, "a string")
    return value


def _wrong_type(row: Row, name: str, expected: str) -> DataError:
    value = row.values.get(name)
    found = reprlib.repr(value)
    return DataError(
        f"expected {expected}, found {type(value).__name__} {found[:60]}{'…' * (len(found) > 60)}",
        where=f"{row.where}, field '{name}'",
        fix="Correct the row, or set on_bad_row='drop' to leave such rows out.",
    )


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        return False
    content = value.get("content")
    return isinstance(content, str) or (content is None and bool(value.get("tool_calls")))


def _fault(value: Any, depth: int = 0) -> str:
    """What makes a text, or a text within messages, unusable; empty if nothing does."""
    if isinstance(value, str):
        broken = not value.isascii() and _SURROGATE.search(value)
        return "holds half a character (a lone surrogate such as \\ud800)" if broken else ""
    if depth > _DEEPEST:
        return "is nested too deeply"
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(parts, list | tuple | ValuesView):
        return ""
    return next((fault for part in parts if (fault := _fault(part, depth + 1))), "")


def _same_turn(ours: Message, theirs: Message) -> bool:
    return all(ours.get(part) == theirs.get(part) for part in ("role", "content", "tool_calls"))


def _opens_with_prompt(prompt: Any, chosen: Any, rejected: Any) -> bool:
    """Whether both conversations repeat the prompt, as UltraFeedback-binarized does."""
    if not all(isinstance(c, list) and len(c) > 1 for c in (chosen, rejected)):
        return False
    if isinstance(prompt, str):
        return all(any(m.get("content") == prompt for m in c[:-1]) for c in (chosen, rejected))
    return all(
        any(_same_turn(turn, m) for m in c[:-1]) for turn in prompt for c in (chosen, rejected)
    )


def _answer(value: Any, row: Row, name: str) -> Message:
    """The single assistant message that an answer consists of."""
    if isinstance(value, str):
        return {"role": "assistant", "content": value}
    if len(value) != 1 or value[0]["role"] != "assistant":
        roles = ", ".join(str(m["role"]) for m in value)
        raise DataError(
            f"expected one assistant message as the answer, found {len(value)} ({roles})",
            where=f"{row.where}, field '{name}'",
            fix="Put the turns before the last answer into 'prompt'.",
        )
    message: Message = value[0]
    return message


def _common_prefix(a: str, b: str) -> int:
    """Number of characters that both begin with, by bisection."""
    shared, end = 0, min(len(a), len(b))
    while shared < end:
        middle = (shared + end + 1) // 2
        if a[shared:middle] == b[shared:middle]:
            shared = middle
        else:
            end = middle - 1
    return shared


def _split_texts(chosen: str, rejected: str, row: Row) -> TextPair:
    """Two plain texts: the prompt is what they share, up to the last border between words."""
    shared = chosen[: _common_prefix(chosen, rejected)]
    # The white space before the first differing word belongs to the answer.
    ends_in_space = shared[-1:].isspace()
    whole_words = shared.rstrip() if ends_in_space else _without_last_word(shared)
    if not whole_words:
        raise DataError(
            "'chosen' and 'rejected' share no beginning, so there is no prompt",
            where=f"{row.where}, field 'chosen'",
            fix="Add a 'prompt' column.",
        )
    border = len(whole_words)
    return TextPair(whole_words, chosen[border:], rejected[border:])


def _without_last_word(text: str) -> str:
    """The text before its last word and the white space in front of that; empty for one word."""
    parts = text.rsplit(None, 1)
    return parts[0] if len(parts) == 2 else ""


def _transcript_border(chosen: str, rejected: str, row: Row) -> int:
    """End of the last "\\n\\nAssistant:" that both transcripts share."""
    at = chosen.rfind(_ASSISTANT, 0, _common_prefix(chosen, rejected))
    if at < 0:
        raise DataError(
            "'chosen' and 'rejected' do not begin with the same prompt",
            where=f"{row.where}, field 'rejected'",
            fix="Both transcripts must share everything up to the answer.",
        )
    return at + len(_ASSISTANT)


def _turns(transcript: str) -> list[Message]:
    """Messages of an HH prompt that ends with "\\n\\nAssistant:"; empty if it is not regular."""
    parts = _TURN.split(transcript)
    if parts[0].strip():
        return []
    roles = {"Human": "user", "Assistant": "assistant"}
    turns: list[Message] = [
        {"role": roles[speaker], "content": said.strip()}
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return turns[:-1] if turns and turns[-1]["role"] == "assistant" else []
