"""From the columns of a data set to pairs: one function per format, chosen by the columns.

    prompt        prompt, chosen, rejected: strings, or lists of {role, content}
    implicit      chosen, rejected: two conversations that share their beginning
    hh            chosen, rejected: "\\n\\nHuman: ... \\n\\nAssistant: ..." transcripts
    alpaca        instruction, [input], chosen, rejected
    sharegpt      conversations, chosen, rejected: {from, value} turns
    messages      messages that end with the chosen answer, rejected_response or rejected_messages;
                  or messages up to the answers, chosen, rejected
    two_messages  chosen_messages, rejected_messages: two conversations that share their beginning
    answers       a prompt and a list of scored or ranked answers, see `orpo.data.ranked`

Every format may have the columns `system`, `tools`, `weight` and the scores of both answers. Where
the rejected answer is null or missing, the row is learnt from by its NLL alone; so are `messages`
or `conversations` by themselves, `prompt` with `completion` and `instruction` with `output`.

An Alpaca row may have a `history` of earlier turns. The prompt's column may also be called
`question`, `query`, `input` or `prefix`. Rows of other tools are brought under these columns by
`orpo.data.peers`.

A new format is a function here, a line in `FORMATS` and one in `orpo.data.columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from orpo.data.columns import PROMPTS, prompt_column, recognise, refuse_unpaired
from orpo.data.extras import with_extras
from orpo.data.fields import (
    assistant,
    has_value,
    past_turns,
    text,
    text_or_messages,
)
from orpo.data.near_misses import refuse_near_misses
from orpo.data.ranked import PAIR_RULES, answers_column, choose_pair
from orpo.data.transcripts import split_texts, split_transcripts, turns_of
from orpo.data.types import Dropped, Message, Messages, PreferencePair, Row, TextPair
from orpo.errors import DataError

__all__ = ["FORMATS", "PAIR_RULES", "recognise", "to_pair"]

Parser: TypeAlias = Callable[[Row], PreferencePair]


def to_pair(row: Row, name: str, pair_rule: str = "best_worst") -> PreferencePair | Dropped:
    """Read one row in the format `name`.

    Args:
        row: The row.
        name: One of `FORMATS`.
        pair_rule: One of `PAIR_RULES`, for lists of answers.

    Returns:
        The pair; or why the row gives none, if its answers cannot be told apart.

    Raises:
        DataError: A field is missing or has the wrong type; names file, line and field.
    """
    if name == "answers":
        found = choose_pair(row, pair_rule)
        if isinstance(found, Dropped):
            return found
        pair = replace(_answered(row, found.chosen, found.rejected), scores=found.scores)
    else:
        pair = FORMATS[name](row)
        refuse_unpaired(row.values, row.where)
    refuse_near_misses(row.values, row.where, has_rejected=pair.has_rejected)
    return with_extras(pair)


def _prompt(row: Row) -> PreferencePair:
    name = prompt_column(row.values)
    chosen_name = _present(row, "completion", "chosen")
    prompt, chosen = text_or_messages(row, name), text_or_messages(row, chosen_name)
    rejected = text_or_messages(row, "rejected") if has_value(row, "rejected") else None
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str | None):
        return PreferencePair(row, text=TextPair(prompt, chosen, rejected))
    if _opens_with_prompt(prompt, chosen, rejected):
        return _implicit(row)
    return PreferencePair(
        row,
        prompt=_asked(_conversation(prompt), row, name),
        chosen=_answer(chosen, row, chosen_name),
        rejected=None if rejected is None else _answer(rejected, row, "rejected"),
    )


def _implicit(row: Row) -> PreferencePair:
    chosen = text_or_messages(row, "chosen")
    rejected = text_or_messages(row, "rejected") if has_value(row, "rejected") else None
    if isinstance(chosen, str) and isinstance(rejected, str):
        return PreferencePair(row, text=split_texts(chosen, rejected, row))
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise DataError(
            "one answer is a text and there is no prompt"
            if rejected is None
            else "'chosen' and 'rejected' must both be texts or both be conversations",
            where=f"{row.where}, field 'rejected'",
            fix="Add a 'prompt' column, or give both as lists of messages.",
        )
    return _two_conversations(row, chosen, rejected, ("chosen", "rejected"))


def _two_messages(row: Row) -> PreferencePair:
    names = ("chosen_messages", "rejected_messages")
    chosen = _conversation(text_or_messages(row, names[0]))
    rejected = _conversation(text_or_messages(row, names[1])) if has_value(row, names[1]) else None
    return _two_conversations(row, chosen, rejected, names)


def _messages(row: Row) -> PreferencePair:
    if has_value(row, "chosen") or has_value(row, "rejected"):
        return _turns(row, "messages")
    chosen = _conversation(text_or_messages(row, "messages"))
    if has_value(row, "rejected_messages"):
        rejected = _conversation(text_or_messages(row, "rejected_messages"))
        return _two_conversations(row, chosen, rejected, ("messages", "rejected_messages"))
    answer = None
    if has_value(row, "rejected_response"):
        answer = _answer(text_or_messages(row, "rejected_response"), row, "rejected_response")
    return PreferencePair(
        row,
        prompt=_asked(chosen[:-1], row, "messages"),
        chosen=_answer(chosen[-1:], row, "messages"),
        rejected=answer,
    )


def _sharegpt(row: Row) -> PreferencePair:
    if has_value(row, "chosen") or has_value(row, "rejected"):
        return _turns(row, "conversations")
    turns = _conversation(text_or_messages(row, "conversations"))
    return PreferencePair(
        row,
        prompt=_asked(turns[:-1], row, "conversations"),
        chosen=_answer(turns[-1:], row, "conversations"),
    )


def _turns(row: Row, name: str) -> PreferencePair:
    """A conversation up to the answers, or with the chosen one, and the answers beside it."""
    turns = _conversation(text_or_messages(row, name))
    chosen = text_or_messages(row, "chosen")
    rejected = text_or_messages(row, "rejected") if has_value(row, "rejected") else None
    asked = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    if _opens_with_prompt(asked, chosen, rejected):
        return _implicit(row)
    answer = _answer(chosen, row, "chosen")
    return PreferencePair(
        row,
        prompt=_asked(asked if _same_turn(turns[-1], answer) else turns, row, name),
        chosen=answer,
        rejected=None if rejected is None else _answer(rejected, row, "rejected"),
    )


def _hh(row: Row) -> PreferencePair:
    rejected = text(row, "rejected") if has_value(row, "rejected") else None
    pair = split_transcripts(text(row, "chosen"), rejected, row)
    turns = turns_of(pair.prompt)
    if not turns:
        return PreferencePair(row, text=pair)
    return PreferencePair(
        row,
        text=pair,
        prompt=turns,
        chosen=assistant(pair.chosen.strip()),
        rejected=None if pair.rejected is None else assistant(pair.rejected.strip()),
    )


def _alpaca(row: Row) -> PreferencePair:
    chosen_name = _present(row, "output", "chosen")
    chosen = _text_or_answer(row, chosen_name)
    rejected = _text_or_answer(row, "rejected") if has_value(row, "rejected") else None
    turns, plain = _instruction(row)
    texts = None
    if isinstance(chosen, str) and isinstance(rejected, str | None):
        texts = TextPair(plain, chosen, rejected)
    return PreferencePair(
        row,
        text=texts,
        prompt=turns,
        chosen=_answer(chosen, row, chosen_name),
        rejected=None if rejected is None else _answer(rejected, row, "rejected"),
    )


def _text_or_answer(row: Row, name: str) -> str | Messages:
    """A text, or the message that an answer is."""
    spoken = isinstance(row.values.get(name), list | tuple | Mapping)
    return text_or_messages(row, name) if spoken else text(row, name)


def _answered(row: Row, chosen: str | Messages, rejected: str | Messages) -> PreferencePair:
    """The pair of a list of answers, with whichever prompt the row has."""
    name = next((n for n in PROMPTS if has_value(row, n)), "prompt")
    field = answers_column(row)
    prompt: str | list[Message]
    if name == "instruction":
        prompt, plain = _instruction(row)
    else:
        prompt = text_or_messages(row, name)
        plain = prompt if isinstance(prompt, str) else ""
    pair = PreferencePair(
        row,
        prompt=_asked(_conversation(prompt), row, name),
        chosen=_answer(chosen, row, field),
        rejected=_answer(rejected, row, field),
    )
    if plain and isinstance(chosen, str) and isinstance(rejected, str):
        plain_pair = TextPair(plain, chosen, rejected)
        return (
            replace(pair, text=plain_pair)
            if name == "instruction"
            else PreferencePair(row, text=plain_pair)
        )
    return pair


FORMATS: dict[str, Parser] = {
    "prompt": _prompt,
    "implicit": _implicit,
    "hh": _hh,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "two_messages": _two_messages,
}
"""Name -> reader of a row; "answers" is the one that needs a rule, see `to_pair`."""


def _present(row: Row, other: str, usual: str) -> str:
    """The other name of a column if the row has that one only."""
    return other if other in row.values and usual not in row.values else usual


def _instruction(row: Row) -> tuple[list[Message], str]:
    """An Alpaca row's request and the turns before it as messages, and as plain text."""
    instruction = text(row, "instruction")
    extra = text(row, "input") if has_value(row, "input") else ""
    request = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    section = f"\n\n### Input:\n{extra}" if extra.strip() else ""
    turns: list[Message] = []
    plain = ""
    for asked, said in past_turns(row, "history"):
        turns += [{"role": "user", "content": asked}, assistant(said)]
        plain += f"### Instruction:\n{asked}\n\n### Response:\n{said}\n\n"
    plain += f"### Instruction:\n{instruction}{section}\n\n### Response:\n"
    return [*turns, {"role": "user", "content": request}], plain


def _two_conversations(
    row: Row, chosen: list[Message], rejected: list[Message] | None, names: tuple[str, str]
) -> PreferencePair:
    """Two conversations: the prompt is the turns that they share."""
    shared = len(chosen) - 1
    if rejected is not None:
        turns = zip(chosen[:-1], rejected[:-1], strict=False)
        same = [_same_turn(ours, theirs) for ours, theirs in turns]
        shared = same.index(False) if False in same else len(same)
    if shared == 0:
        raise DataError(
            f"'{names[0]}' and '{names[1]}' do not begin with the same message, "
            "so there is no prompt",
            where=f"{row.where}, field '{names[0]}'",
            fix="Add a 'prompt' column, or let both conversations start with the prompt.",
        )
    return PreferencePair(
        row,
        prompt=_asked(chosen[:shared], row, names[0]),
        chosen=_answer(chosen[shared:], row, names[0]),
        rejected=None if rejected is None else _answer(rejected[shared:], row, names[1]),
    )


def _conversation(value: str | Messages) -> list[Message]:
    return [{"role": "user", "content": value}] if isinstance(value, str) else list(value)


def _asked(prompt: list[Message], row: Row, name: str) -> list[Message]:
    """A prompt, which somebody else than the assistant must have ended."""
    if not prompt or prompt[-1]["role"] == "assistant":
        raise DataError(
            "the turn before the answer is the assistant's own" if prompt else "there is no prompt",
            where=f"{row.where}, field '{name}'",
            fix="Let the prompt end with what the user or a tool says.",
        )
    return prompt


def _same_turn(ours: Message, theirs: Message) -> bool:
    return all(ours.get(part) == theirs.get(part) for part in ("role", "content", "tool_calls"))


def _opens_with_prompt(prompt: Any, chosen: Any, rejected: Any) -> bool:
    """Whether both conversations repeat the prompt, as UltraFeedback-binarized does."""
    answers = [c for c in (chosen, rejected) if c is not None]
    if not all(isinstance(c, list) and len(c) > 1 for c in answers):
        return False
    if isinstance(prompt, str):
        return all(any(m.get("content") == prompt for m in c[:-1]) for c in answers)
    return all(any(_same_turn(turn, m) for m in c[:-1]) for turn in prompt for c in answers)


def _answer(value: str | Messages, row: Row, name: str) -> Message:
    """The single assistant message that an answer consists of."""
    if isinstance(value, str):
        return assistant(value)
    if len(value) != 1 or value[0]["role"] != "assistant":
        roles = ", ".join(str(m["role"]) for m in value)
        raise DataError(
            f"expected one assistant message as the answer, found {len(value)} ({roles})",
            where=f"{row.where}, field '{name}'",
            fix="Put the turns before the last answer into 'prompt'.",
        )
    return value[0]
