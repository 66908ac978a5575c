"""Which column is which: other tools' names under ours, the format that columns are in.

Rows of other tools are brought under our columns, so that each is read by the format that it is.
Names that are nearly ours ("reject", " rejected", "promt") are refused where they lose something.
"""

import difflib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from typing import Any, TypeAlias

from orpo.data.fields import ANSWERS, SCORES, has_answers, past_turns
from orpo.data.media import is_empty
from orpo.data.messages import MISSPELT, as_messages, literal, unspelled, user
from orpo.data.types import Row
from orpo.errors import DataError, did_you_mean

_AHEAD = 100  # rows among which a column is looked for that somebody named
_Known: TypeAlias = dict[str, tuple[tuple[str, ...], ...]]

HH_ANSWER = "\n\nAssistant:"
"""What opens an answer in a transcript (HH-RLHF)."""

TEXT_PROMPTS = ("prompt", "question", "query", "input", "prefix")
"""Columns that the format "prompt" may have its prompt in, the first one that is there."""

_COLUMNS: _Known = {
    "prompt": tuple((p, "chosen", "rejected") for p in TEXT_PROMPTS),
    "alpaca": (("instruction", "chosen", "rejected"),),
    "sharegpt": (("conversations", "chosen", "rejected"),),
    "messages": (
        ("messages", "rejected_response"),
        ("messages", "rejected_messages"),
        ("messages", "chosen", "rejected"),
    ),
    "two_messages": (("chosen_messages", "rejected_messages"),),
}
"""Format -> the columns that make it out, in any of these sets."""

_NLL_COLUMNS: _Known = {
    "prompt": (*((p, "chosen") for p in TEXT_PROMPTS), ("prompt", "completion")),
    "alpaca": (("instruction", "chosen"), ("instruction", "output")),
    "sharegpt": (("conversations",),),
    "messages": (("messages",),),
    "two_messages": (("chosen_messages",),),
}
"""The same for rows without a rejected answer."""

_SURE_PROMPTS = ("prompt", "question", "instruction", "messages", "conversations")
_LOOSE_PROMPTS = ("query", "input", "prefix")  # only where nothing else is the prompt
PROMPTS = (*_SURE_PROMPTS, *_LOOSE_PROMPTS, "context", "contents")
"""Columns that a list of answers may have its prompt in, the first one that is there."""

_BESIDE_MESSAGES = ("prompt", "question", "instruction", "conversations")
_REJECTED = ("rejected", "rejected_response", "rejected_messages")
_PAIR = ("chosen", "rejected")
_EXTRAS = {*_PAIR, "system", "tools", "weight", "split"}.union(*SCORES)
# Columns whose names say that no prompt stands in them.
_ABOUT = re.compile(
    r"(.+_)?(id|idx|index|uid|uuid|hash|source|dataset|category|subset|topic|domain|split|url|uri"
    r"|date|time|timestamp|created_at|type|license|version|tags?|model|score|rating|rank|label)"
    r"|(lang|model|score|annot|meta|source).*",
    re.IGNORECASE,
)
_FLAGS = {"true", "false", "0", "1", "-1"}

_TEXTS = ("prompt", "chosen", "rejected", "instruction", "messages", "conversations")
_SETTINGS = ("system", "tools", "weight", "history")
# With another column for the answer than these, it is not clear which two belong together.
_OTHER_ANSWER = re.compile(
    r"(?P<name>chosen|rejected)_(response|answer|output|completion|continuation|reply|text)s?"
)
# What stands in the columns of data in no known format, to guess it by; none of it is taken.
_SIGNS = {
    "prompt": re.compile(r"(.*_)?(prompt|question|query|instruction|input|user|ask(ed)?|task|x)s?"),
    "chosen": re.compile(
        r"(.*_)?(chosen|good|better|best|win|winner|preferred|accepted|positive|pos|a|1|w)(_.*)?"
    ),
    "rejected": re.compile(
        r"(.*_)?(rejected|bad|worse|worst|lose|loser|dispreferred|negative|neg|b|2|l)(_.*)?"
    ),
}
_NAME = 60  # a column with a longer name is a text of data without a header
_GAPS = re.compile(r"[\s\-]+")
_ALIKE = 0.8  # "rejects" and "rejected"; "question" and "instruction" are less so

_ANSWER = "response|answer|output|completion|continuation|reply|generation|text|message"
# chosen_X and rejected_X, X_chosen and X_rejected, X and rejected_X, preferred_X and so on
_BETTER = "chosen|preferred|accepted|better"
_WORSE = "rejected|non_?preferred|dispreferred|unpreferred|worse"
_TOLD = re.compile(
    rf"(?:(?P<chosen>{_BETTER})|{_WORSE})_(?P<said>{_ANSWER})"
    rf"|(?P<spoken>{_ANSWER})_(?:(?P<better>{_BETTER})|(?:{_WORSE}))"
)
_WHOLE = re.compile(r"(chosen|rejected)_conversations?")
# A prompt and its answer, without a worse one.
_SINGLE = (("query", "response"), ("prefix", "continuation"))
_MESSAGES = ("messages", "conversations")

_READ = (
    *PROMPTS,
    *("chosen", "rejected", "completion", "output", "rejected_response"),
    *("chosen_messages", "rejected_messages", *ANSWERS),
)


class UndecidedError(DataError):
    """Columns that leave open how all the rows are to be read, or that are no preferences."""


def recognise(row: Row) -> str:
    """The name of the format that the columns of a first row are in, with their values."""
    found = _candidates(row.values)
    if len(found) != 1:
        raise _unrecognised(row, found)
    if found == ["implicit"]:
        refuse_guess(row)
    if found != ["answers"]:
        refuse_unpaired(row, UndecidedError)
    return found[0]


def renamed(rows: Iterable[Row], names: Mapping[str, str] | None) -> Iterator[Row]:
    """The rows with columns under our names, which somebody gave (`columns`); their own are gone.

    A row that lacks a column stays as it is there; a name that no row has is refused.
    """
    if not names:
        yield from rows
        return
    ahead = iter(rows)
    first = list(islice(ahead, _AHEAD))
    there = {name: None for row in first for name in row.values}
    for ours, theirs in names.items():
        if there and theirs not in there and ours not in there:
            what = f"there is no column {theirs!r}; there are {', '.join(map(repr, there))}"
            near = did_you_mean(theirs, there, shown=f"{ours}={{}}")
            if theirs.partition(".")[0] in there:
                near = "What is inside a column is not looked into: write it as one of its own."
            raise DataError(what, where=f"columns ({first[0].where})", fix=near)
    for row in chain(first, ahead):
        given = {ours: row.values[name] for ours, name in names.items() if name in row.values}
        gone = {*given, *names.values()}
        own = {name: value for name, value in row.values.items() if name not in gone}
        yield replace(row, values={**given, **own})


def refuse_guess(row: Row) -> None:
    """Refuse to take what two texts share for the prompt where it may be in a column of its own."""
    unknown = sorted(name for name, value in row.values.items() if _may_be_prompt(name, value))
    if unknown and any(isinstance(row.values.get(name), str) for name in _PAIR):
        listed = ", ".join(map(repr, unknown[:6]))
        what = f"the prompt may be in {listed}, or be what 'chosen' and 'rejected' begin with"
        fix = "Name the prompt's column 'prompt', or say data_format=implicit."
        raise UndecidedError(what, where=f"{row.where}, field {unknown[0]!r}", fix=fix)


def refuse_unpaired(row: Row, error: type[DataError] = DataError) -> None:
    """Refuse a single answer that was marked as wanted or not: it may be the unwanted one."""
    label = row.values.get("label")
    if any(row.values.get(name) is not None for name in _REJECTED) or label is None:
        return
    number = isinstance(label, int | float) or str(label).strip().lower() in _FLAGS
    if isinstance(label, bool) or (number and row.values.get("completion") is not None):
        what = "unpaired feedback (column 'label') is not preference pairs"
        fix = "Pair a wanted with an unwanted completion of the same prompt."
        raise error(what, where=f"{row.where}, field 'label'", fix=fix)


def _candidates(columns: Mapping[str, Any]) -> list[str]:
    """Every format that the columns may be in."""
    names = _telling(columns)
    prompted = not names.isdisjoint(PROMPTS)
    if "chosen" in names and not names.isdisjoint(_BESIDE_MESSAGES):
        names.discard("messages")  # UltraFeedback has its chosen conversation there as well

    def among(known: _Known) -> list[str]:
        return [name for name, sets in known.items() if any(names.issuperset(s) for s in sets)]

    return (
        among(_COLUMNS)
        or [_by_answers(columns)] * names.issuperset(_PAIR)
        or ["answers"] * (prompted and has_answers(columns))
        or among(_NLL_COLUMNS)
        or ["answers"] * (prompted and has_answers(columns, empty=True))
        or [_by_answers(columns)] * ("chosen" in names)
    )


def _telling(columns: Mapping[str, Any]) -> set[str]:
    """The columns' names, without those that are not the prompt, though they may be elsewhere."""
    names = set(columns)
    if "chosen" in names and not columns.get("messages"):
        names.discard("messages")
    answers = [columns.get(name) for name in _PAIR]
    whole = any(isinstance(answer, list) and len(answer) > 1 for answer in answers)
    another = not names.isdisjoint(_SURE_PROMPTS) or len(names.intersection(_LOOSE_PROMPTS)) > 1
    if another or whole or _by_answers(columns) == "hh":
        return names.difference(_LOOSE_PROMPTS)
    return names


def _by_answers(columns: Mapping[str, Any]) -> str:
    texts = (columns.get(name) for name in _PAIR)
    return "hh" if any(isinstance(t, str) and HH_ANSWER in t for t in texts) else "implicit"


def _may_be(name: str, value: Any) -> bool:
    return name in _PAIR or _may_be_prompt(name, value)


def _may_be_prompt(name: str, value: Any) -> bool:
    if name in _EXTRAS or _ABOUT.fullmatch(name):
        return False
    if not isinstance(value, str):
        return bool(as_messages(value))
    try:
        float(value)
    except ValueError:
        return bool(value.strip())
    return False


def _unrecognised(row: Row, found: list[str]) -> DataError:
    """The complaint about columns that several formats have, or none."""
    listed = ", ".join(map(repr, sorted(row.values))) or "no columns"
    if found:
        what = f"the columns may be read as {' or '.join(found)}: {listed}"
        fix = f"Say which, e.g. --data_format={found[0]}, or leave columns out."
        return UndecidedError(what, where=row.where, fix=fix)
    missing = " and no column ".join(map(repr, sorted(set(_PAIR) - set(row.values))))
    usual = "Preference data need 'chosen' and 'rejected', and usually 'prompt'."
    fix = renaming(row.values) or usual
    return row.fault(f"no column {missing}; found {listed}", fix=fix)


def _near_misses(columns: Mapping[str, Any]) -> dict[str, str]:
    """Column -> the one of ours that is meant by it, where the row does not have that."""
    meant = ((name, _meant_by(name)) for name in columns)
    return {name: ours for name, ours in meant if ours and is_empty(columns.get(ours))}


@lru_cache(1024)
def _meant_by(name: str) -> str:
    """The column of ours that a name is nearly; empty if it is one of ours or nearly none."""
    plain = _GAPS.sub("_", name.strip()).casefold()
    other = _OTHER_ANSWER.fullmatch(plain)
    close = difflib.get_close_matches(plain, _TEXTS, n=1, cutoff=_ALIKE)
    meant = plain if plain in _SETTINGS else other["name"] if other else next(iter(close), "")
    return "" if meant == name else meant


def renaming(columns: Mapping[str, Any]) -> str:
    """The `--columns` that would make a row one of pairs; empty if nothing can be guessed."""
    wanted = [name for name in _SIGNS if is_empty(columns.get(name))]
    if not {*PROMPTS}.isdisjoint(columns):
        wanted = [name for name in wanted if name != "prompt"]
    near = _near_misses(columns)
    texts = {n: _GAPS.sub("_", n.strip()).casefold() for n, v in columns.items() if _may_be(n, v)}
    meant: dict[str, str] = {}
    for ours in wanted:
        told = [name for name, plain in texts.items() if _SIGNS[ours].fullmatch(plain)]
        told = told if len(told) == 1 else [name for name, own in near.items() if own == ours]
        if len(told) == 1:
            meant[ours] = told[0]
    left = [name for name in texts if name not in meant.values() and name not in _SIGNS]
    talk = isinstance(columns.get(meant.get("chosen", "chosen")), list)
    missing = [name for name in wanted if name not in meant and not (talk and name == "prompt")]
    if left and len(left) == len(missing):
        meant |= zip(missing, left, strict=True)
    names = {name: meant[name] for name in _SIGNS if name in meant}
    names |= {own: name for name, own in near.items() if own in _SETTINGS}
    if any(len(name) > _NAME or "\n" in name for name in names.values()):
        return "If these are texts and no names, write names above: prompt,chosen,rejected."
    simple = not any(set(",=") & set(name) for name in names.values())
    listed = ",".join(f"{k}={v}" for k, v in names.items()) if simple else json.dumps(names)
    return f"Add --columns {shlex.quote(listed)} if that is what they are." if names else ""


def refuse_near_misses(row: Row, *, has_rejected: bool) -> None:
    """Refuse a row that would lose an answer or a setting because a name is nearly ours."""
    for name, meant in _near_misses(row.values).items():
        lost = not has_rejected if meant == "rejected" else meant in _SETTINGS
        if lost and not is_empty(row.values[name]):
            what = f"column {name!r} is not read: {meant!r} is"
            fix = f"Add --columns {shlex.quote(f'{meant}={name}')}, or leave it out."
            raise DataError(what, where=f"{row.where}, field {name!r}", fix=fix)


def under_our_columns(row: Row) -> Row:
    """The row as our formats read it: the same where it is in one of them."""
    values, turns = _renamed(row)
    for name in (*_READ, "history"):
        if name in values:
            values[name] = _read(row, name, values[name])
    _unwrap(values, row)
    ours = replace(row, values=values)
    _join_history(values, ours, spoken=turns)
    return ours


def _renamed(row: Row) -> tuple[dict[str, Any], bool]:
    """The values under our names for answers, and whether they are turns of a conversation."""
    values, renamed = row.values, {}
    for name in values:
        whole = _WHOLE.fullmatch(name)
        if whole and f"{whole[1]}_messages" not in values:
            renamed[name] = f"{whole[1]}_messages"
    found = [] if {"chosen", "rejected"} & values.keys() else _answers(values)
    if len(found) > 1:
        listed = " or ".join(f"{chosen!r} and {rejected!r}" for chosen, rejected in found)
        what = f"the answers may be {listed}"
        raise UndecidedError(what, where=row.where, fix="Leave the others out.")
    for chosen, rejected in found:
        renamed |= {chosen: "chosen", rejected: "rejected"}
    turns = [name for pair in found for name in pair if name in values][:1] == ["response"]
    return {renamed.get(n, n): v for n, v in values.items()}, turns and "query" in values


def _answers(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The columns of the chosen and the rejected answer, one pair for each way to read them."""
    told: dict[str, dict[bool, str]] = {}
    for name in values:
        if match := _TOLD.fullmatch(name):
            better = bool(match["chosen"] or match["better"])
            told.setdefault(match["said"] or match["spoken"], {})[better] = name
    for said, names in told.items():
        if said in values:
            names.setdefault(True, said)
    found = [
        (names[True], names.get(False, "rejected")) for names in told.values() if True in names
    ]
    whole = [pair for pair in found if pair[1] in values] or found
    if {"response_j", "response_k"} <= values.keys():
        whole.append(("response_j", "response_k"))
    if whole or "label" in values:  # which may say that a single answer is the unwanted one
        return whole
    return [(said, "rejected") for asked, said in _SINGLE if {asked, said} <= values.keys()]


def _read(row: Row, name: str, value: Any) -> Any:
    """A value with its messages as messages, however they are written."""
    if type(value).__name__ == "ndarray":
        value = value.tolist()
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return [_read(row, name, part) for part in value]
    if not isinstance(value, str):
        return value
    if name == "history":
        turns = literal(value) if value.lstrip()[:1] == "[" else None
        return value if turns is None else turns
    found = unspelled(value)
    if found is MISSPELT:
        what = "holds messages as a text that is neither JSON nor Python"
        raise row.fault(what, name, "Write them as JSON: a list of {'role', 'content'} objects.")
    return found


def _unwrap(values: dict[str, Any], row: Row) -> None:
    """Take the conversation, the tools and the system prompt out of objects that hold them."""
    for name in _READ:
        held = values.get(name)
        if not isinstance(held, Mapping):
            continue
        inner = next((part for part in _MESSAGES if isinstance(held.get(part), list)), "")
        if not inner:
            continue
        values[name] = held[inner]
        for extra in ("tools", "system"):
            if is_empty(held.get(extra)):
                continue
            if not is_empty(values.get(extra)) and values[extra] != held[extra]:
                what = f"has another {extra!r} than the rest of the row"
                raise row.fault(what, name, "Both answers are given under the same conditions.")
            values[extra] = held[extra]


def _join_history(values: dict[str, Any], row: Row, *, spoken: bool) -> None:
    """Put the turns before into the prompt; an instruction's are put there by its format."""
    name = next((name for name in TEXT_PROMPTS if name in values), "")
    if not name or "instruction" in values:
        return
    before, prompt = past_turns(row), values[name]
    if before and not isinstance(prompt, str):
        what = "is there beside a conversation"
        raise row.fault(what, "history", f"Put the turns into {name!r}.")
    if before or (spoken and isinstance(prompt, str)):
        values[name] = [*before, user(prompt)]
