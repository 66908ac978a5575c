"""From the columns of a data set to pairs: one function per format, chosen by the columns.

docs/preference-data.md shows a row of each. A new one is a function here, a line in `FORMATS` and
one in `orpo.data.columns`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from orpo.data import columns, fields
from orpo.data.fields import Said, has_value, text, text_or_messages
from orpo.data.messages import assistant, user
from orpo.data.types import Dropped, Message, PreferencePair, Row, TextPair

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_SECTIONS = {"user": "Instruction", "assistant": "Response"}  # of Alpaca's plain text


def to_pair(row: Row, name: str, pair_rule: str = "best_worst") -> PreferencePair | Dropped:
    """Read one row in the format `name`, one of `FORMATS` or "answers"."""
    if name == "answers":
        found = fields.choose_pair(row, pair_rule)
        if isinstance(found, Dropped):
            return found
        chosen, rejected, scores = found
        pair = replace(_answered(row, chosen, rejected), scores=scores)
    else:
        pair = FORMATS[name](row)
        columns.refuse_unpaired(row)
    columns.refuse_near_misses(row, has_rejected=pair.has_rejected)
    return fields.with_extras(pair)


def _prompt(row: Row) -> PreferencePair:
    names = (n for n in columns.TEXT_PROMPTS if n != "input" or "instruction" not in row.values)
    name = next((name for name in names if name in row.values), "prompt")
    chosen_name = _present(row, "completion", "chosen")
    prompt, chosen = text_or_messages(row, name), text_or_messages(row, chosen_name)
    rejected = _given(row, "rejected")
    if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str | None):
        return PreferencePair(row, text=TextPair(prompt, chosen, rejected))
    if _opens_with_prompt(prompt, chosen, rejected):
        return _implicit(row)
    return _spoken(row, (_conversation(prompt), name), (chosen, chosen_name), rejected)


def _implicit(row: Row) -> PreferencePair:
    chosen, rejected = text_or_messages(row, "chosen"), _given(row, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return PreferencePair(row, text=_split_texts(chosen, rejected, row))
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise row.fault(
            "one answer is a text and there is no prompt"
            if rejected is None
            else "'chosen' and 'rejected' must both be texts or both be conversations",
            "rejected",
            "Add a 'prompt' column, or give both as lists of messages.",
        )
    return _two_conversations(row, chosen, rejected, ("chosen", "rejected"))


def _two_messages(row: Row) -> PreferencePair:
    names = ("chosen_messages", "rejected_messages")
    chosen, rejected = text_or_messages(row, names[0]), _given(row, names[1])
    other = None if rejected is None else _conversation(rejected)
    return _two_conversations(row, _conversation(chosen), other, names)


def _turns(row: Row, name: str) -> PreferencePair:
    """A conversation up to the answers or with the chosen one, and what is beside it."""
    turns = _conversation(text_or_messages(row, name))
    if has_value(row, "chosen") or has_value(row, "rejected"):
        chosen, rejected = text_or_messages(row, "chosen"), _given(row, "rejected")
        asked = turns[:-1] if turns[-1]["role"] == "assistant" else turns
        if _opens_with_prompt(asked, chosen, rejected):
            return _implicit(row)
        prompt = asked if _same_turn(turns[-1], _answer(chosen, row, "chosen")) else turns
        return _spoken(row, (prompt, name), (chosen, "chosen"), rejected)
    if name == "messages" and has_value(row, "rejected_messages"):
        other = _conversation(text_or_messages(row, "rejected_messages"))
        return _two_conversations(row, turns, other, (name, "rejected_messages"))
    answer = _given(row, "rejected_response") if name == "messages" else None
    return _spoken(row, (turns[:-1], name), (turns[-1:], name), answer, "rejected_response")


def _hh(row: Row) -> PreferencePair:
    rejected = text(row, "rejected") if has_value(row, "rejected") else None
    pair = _split_transcripts(text(row, "chosen"), rejected, row)
    # Messages, if the transcript is regular: before the last "\n\nAssistant:" stands a question.
    opening, *parts = _TURN.split(pair.prompt)
    turns: list[Message] = [
        {"role": _ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    if opening.strip() or len(turns) < 2:
        return PreferencePair(row, text=pair)
    return PreferencePair(
        row,
        text=pair,
        prompt=turns[:-1],
        chosen=assistant(pair.chosen.strip()),
        rejected=None if pair.rejected is None else assistant(pair.rejected.strip()),
    )


def _alpaca(row: Row) -> PreferencePair:
    chosen_name = _present(row, "output", "chosen")
    chosen = _text_or_answer(row, chosen_name)
    rejected = _text_or_answer(row, "rejected") if has_value(row, "rejected") else None
    turns, plain = _instruction(row)
    pair = _spoken(row, (turns, "instruction"), (chosen, chosen_name), rejected)
    if isinstance(chosen, str) and isinstance(rejected, str | None):
        return replace(pair, text=TextPair(plain, chosen, rejected))
    return pair


def _answered(row: Row, chosen: Said, rejected: Said) -> PreferencePair:
    """The pair of a list of answers, with whichever prompt the row has."""
    name = next((n for n in columns.PROMPTS if has_value(row, n)), "prompt")
    field = fields.answers_column(row)
    prompt: str | list[Message]
    if name == "instruction":
        prompt, plain = _instruction(row)
    else:
        prompt = text_or_messages(row, name)
        plain = prompt if isinstance(prompt, str) else ""
    pair = _spoken(row, (_conversation(prompt), name), (chosen, field), rejected, field)
    if plain and isinstance(chosen, str) and isinstance(rejected, str):
        texts = TextPair(plain, chosen, rejected)
        return replace(pair if name == "instruction" else PreferencePair(row), text=texts)
    return pair


FORMATS: dict[str, Callable[[Row], PreferencePair]] = {
    "prompt": _prompt,
    "implicit": _implicit,
    "hh": _hh,
    "alpaca": _alpaca,
    "sharegpt": partial(_turns, name="conversations"),
    "messages": partial(_turns, name="messages"),
    "two_messages": _two_messages,
}
"""Name -> reader of a row; "answers" is the one that needs a rule, see `to_pair`."""


def _spoken(
    row: Row,
    prompt: tuple[list[Message], str],
    chosen: tuple[Said, str],
    rejected: Said | None = None,
    rejected_name: str = "rejected",
) -> PreferencePair:
    """A pair as messages; each part comes with the column that it is from."""
    asked, name = prompt
    if not asked or asked[-1]["role"] == "assistant":
        what = (
            "the turn before the answer is the assistant's own" if asked else "there is no prompt"
        )
        raise row.fault(what, name, "Let the prompt end with what the user or a tool says.")
    return PreferencePair(
        row,
        prompt=asked,
        chosen=_answer(chosen[0], row, chosen[1]),
        rejected=None if rejected is None else _answer(rejected, row, rejected_name),
    )


def _present(row: Row, other: str, usual: str) -> str:
    """The other name of a column if the row has that one only."""
    return other if other in row.values and usual not in row.values else usual


def _given(row: Row, name: str) -> str | list[Message] | None:
    return text_or_messages(row, name) if has_value(row, name) else None


def _text_or_answer(row: Row, name: str) -> Said:
    """A text, or the message that an answer is."""
    spoken = isinstance(row.values.get(name), list | tuple | Mapping)
    return text_or_messages(row, name) if spoken else text(row, name)


def _instruction(row: Row) -> tuple[list[Message], str]:
    """An Alpaca row's request and the turns before it as messages, and as plain text."""
    instruction = text(row, "instruction")
    extra = text(row, "input") if has_value(row, "input") else ""
    request, before = instruction, fields.past_turns(row)
    plain = "".join(f"### {_SECTIONS[m['role']]}:\n{m['content']}\n\n" for m in before)
    plain += f"### Instruction:\n{instruction}\n\n"
    if extra.strip():
        request, plain = f"{instruction}\n\n{extra}", f"{plain}### Input:\n{extra}\n\n"
    return [*before, user(request)], f"{plain}### Response:\n"


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
        raise row.fault(
            f"'{names[0]}' and '{names[1]}' do not begin with the same message, "
            "so there is no prompt",
            names[0],
            "Add a 'prompt' column, or let both conversations start with the prompt.",
        )
    answers = (chosen[shared:], names[0]), rejected and rejected[shared:], names[1]
    return _spoken(row, (chosen[:shared], names[0]), *answers)


def _conversation(value: Said) -> list[Message]:
    return [user(value)] if isinstance(value, str) else list(value)


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


def _answer(value: Said, row: Row, name: str) -> Message:
    """The single assistant message that an answer consists of."""
    if isinstance(value, str):
        return assistant(value)
    if len(value) != 1 or value[0]["role"] != "assistant":
        roles = ", ".join(str(m["role"]) for m in value)
        what = f"expected one assistant message as the answer, found {len(value)} ({roles})"
        raise row.fault(what, name, "Put the turns before the last answer into 'prompt'.")
    return value[0]


def _split_transcripts(chosen: str, rejected: str | None, row: Row) -> TextPair:
    """The prompt up to the last "\\n\\nAssistant:" that both share, and the answers."""
    for name, transcript in (("chosen", chosen), ("rejected", rejected)):
        if transcript is not None and columns.HH_ANSWER not in transcript:
            what = "not a transcript: it has no '\\n\\nAssistant:' turn"
            fix = "Every row must be a Human/Assistant transcript, as the first row is."
            raise row.fault(what, name, fix)
    shared = chosen if rejected is None else _common_prefix(chosen, rejected)
    at = shared.rfind(columns.HH_ANSWER)
    if at < 0:
        what = "'chosen' and 'rejected' do not begin with the same prompt"
        fix = "Both transcripts must share everything up to the answer."
        raise row.fault(what, "rejected", fix)
    border = at + len(columns.HH_ANSWER)
    other = None if rejected is None else rejected[border:]
    return TextPair(chosen[:border], chosen[border:], other)


def _split_texts(chosen: str, rejected: str, row: Row) -> TextPair:
    """Two plain texts: the prompt is what they share, up to the last border between words."""
    shared = _common_prefix(chosen, rejected)
    # The white space before the first differing word belongs to the answer.
    words = [shared.rstrip()] if shared[-1:].isspace() else shared.rsplit(None, 1)[:-1]
    border = len(words[0]) if words else 0
    if not border:
        what = "'chosen' and 'rejected' share no beginning, so there is no prompt"
        raise row.fault(what, "chosen", "Add a 'prompt' column.")
    return TextPair(chosen[:border], chosen[border:], rejected[border:])


def _common_prefix(a: str, b: str) -> str:
    """What both begin with, by bisection."""
    shared, end = 0, min(len(a), len(b))
    while shared < end:
        middle = (shared + end + 1) // 2
        if a[shared:middle] == b[shared:middle]:
            shared = middle
        else:
            end = middle - 1
    return a[:shared]
