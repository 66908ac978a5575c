"""What stands in the columns of a row: texts, messages, numbers, lists of scored answers.

Anything else is refused by file, line and field.
"""

import hashlib
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from orpo.data import messages
from orpo.data.types import Dropped, Message, Messages, PreferencePair, Row
from orpo.errors import DataError

Said: TypeAlias = str | Messages
"""What an answer is given as."""

PAIR_RULES = ("best_worst", "best_second", "best_random")
"""The best of several answers against the worst (the clearest preference), the runner-up (the
hardest), or one of the worse ones, drawn by the answers' texts alone."""

ANSWERS = ("answers", "responses", "completions", "candidates", "generations", "continuations")
"""Names of the column that holds several answers."""

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_reward", "rejected_reward"),
)
"""Columns with the scores of both answers, in any of these pairs."""

_OF_ANSWERS = ("scores", "ratings", "rewards")
_RANKS = ("ranks", "ranking", "rank")
_SAID = (
    *("answer", "response", "completion", "continuation", "content", "text", "output", "value"),
)
_SCORE = ("overall_score", "score", "rating", "reward", "pm_score")
_RANK = ("rank", "ranking")
_FLOAT32 = (1.1754943508222875e-38, 3.4028234663852886e38)  # smallest normal one, largest
_CORRECT = "Correct the row, or set on_bad_row='drop' to leave such rows out."


def has_value(row: Row, name: str) -> bool:
    """Whether the row has this field and it is not null."""
    return row.values.get(name) is not None


def required(row: Row, name: str) -> Any:
    """The value of a field that must be there."""
    if not has_value(row, name):
        raise row.fault(
            f"field {name!r} {'is null' if name in row.values else 'is missing'}",
            fix="Give every row this field, or set on_bad_row='drop' to leave such rows out.",
        )
    return row.values[name]


def text_or_messages(row: Row, name: str) -> str | list[Message]:
    """A text, or a conversation as role/content messages, whichever way it is spelled."""
    value = _readable(row, name)
    if isinstance(value, str):
        return value
    found = messages.as_messages(value)
    if not found and (kind := messages.foreign_part(value)):
        what = f"holds a part of type {kind!r}, and only texts are trained on"
        raise row.fault(what, name, "Give rows without pictures, sound, video and files.")
    if not found:
        raise wrong_type(row, name, "a string or a list of {'role', 'content'} messages")
    return found


def text(row: Row, name: str) -> str:
    """A text that must be there."""
    if not isinstance(required(row, name), str):
        raise wrong_type(row, name, "a string")
    return str(_readable(row, name))


def _readable(row: Row, name: str) -> Any:
    value = required(row, name)
    if fault := messages.unusable(value):
        raise row.fault(fault, name, _CORRECT)
    return value


def weight_of(row: Row) -> float:
    """The number in the column "weight", 1 without one; 0 if a float32 cannot tell it from 0."""
    found = _number(row, "weight")
    if found is None:
        return 1.0
    smallest, largest = _FLOAT32
    if found < 0:
        fix = "Swap 'chosen' and 'rejected' if that is what is meant."
        raise row.fault(f"a weight must not be negative, is {found}", "weight", fix)
    if found > largest:
        fix = "Give weights around 1, which is the weight of a row without one."
        raise row.fault(f"a weight must fit a float32, is {found}", "weight", fix)
    return found if found >= smallest else 0.0


def past_turns(row: Row) -> list[Message]:
    """What was asked and answered before: a "history" of [user, assistant] pairs of texts."""
    value = row.values.get("history")
    if value is None or value in ("", []):
        return []
    said: list[Message] = []
    for turn in value if isinstance(value, list | tuple) else [value]:
        texts = isinstance(turn, list | tuple) and all(isinstance(part, str) for part in turn)
        if not texts or len(turn) != 2:
            raise wrong_type(row, "history", "a list of [user, assistant] pairs of texts")
        said += [messages.user(turn[0]), messages.assistant(turn[1])]
    _readable(row, "history")
    return said


def wrong_type(row: Row, name: str, expected: str) -> DataError:
    """The complaint about a field of the wrong type, with the beginning of what is there."""
    value = row.values.get(name)
    found = reprlib.repr(value)
    shown = f"{type(value).__name__} {found[:60]}{'…' * (len(found) > 60)}"
    return row.fault(f"expected {expected}, found {shown}", name, _CORRECT)


def _number(row: Row, name: str) -> float | None:
    """A finite number, also one written as text; None if the field is empty or not there."""
    value = row.values.get(name)
    return None if value is None or value == "" else _finite(value, row, name, "a finite number")


def _finite(value: Any, row: Row, name: str, expected: str) -> float:
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise wrong_type(row, name, expected)
    return found


def with_extras(pair: PreferencePair) -> PreferencePair:
    """The pair with what the columns `system`, `tools`, `weight` and of scores add to it."""
    row = pair.row
    scores = pair.scores or _scores_of_both(row)
    pair = replace(pair, tools=_tools_of(row), weight=weight_of(row), scores=scores)
    system = text(row, "system").strip() if has_value(row, "system") else ""
    plain = pair.text
    # Only a chat template shows tools, and it shows them with messages.
    if pair.prompt is None and plain is not None and (system or pair.tools):
        pair = replace(
            pair,
            prompt=[messages.user(plain.prompt)],
            chosen=messages.assistant(plain.chosen),
            rejected=None if plain.rejected is None else messages.assistant(plain.rejected),
        )
    said = pair.prompt or []
    first = said[0] if said else {}
    if not system or (
        first.get("role") == "system" and str(first.get("content") or "").strip() == system
    ):
        return pair
    if first.get("role") == "system":
        what = "the conversation has another system message already"
        raise row.fault(what, "system", "Keep one of them.")
    if plain is not None:
        plain = replace(plain, prompt=f"{system}\n\n{plain.prompt.lstrip()}")
    return replace(pair, prompt=[{"role": "system", "content": system}, *said], text=plain)


def _scores_of_both(row: Row) -> tuple[float, float] | None:
    for names in SCORES:
        if all(has_value(row, name) for name in names):
            chosen, rejected = (_number(row, name) for name in names)
            return None if chosen is None or rejected is None else (chosen, rejected)
    return None


def _tools_of(row: Row) -> list[Any] | None:
    """The descriptions of tools in the column "tools": a list of objects, or JSON text of one."""
    value = row.values.get("tools")
    spelled = isinstance(value, str)
    if isinstance(value, str) and value.strip():
        written, value = value.strip(), messages.literal(value)
        if value is None and written not in {"null", "None"}:
            raise wrong_type(row, "tools", "a list of tools, or JSON text of one")
    if not value and (value is None or isinstance(value, str | list)):
        return None
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise wrong_type(row, "tools", "a list of tools, or JSON text of one")
    if fault := messages.unusable(value):
        raise row.fault(fault, "tools", _CORRECT)
    return value if spelled else [messages.without_nulls(tool) for tool in value]


def has_answers(columns: Mapping[str, Any], *, empty: bool = False) -> bool:
    """Whether a column holds a list of answers; an empty one counts beside scores, or if asked."""
    scored = any(isinstance(columns.get(name), list) for name in (*_OF_ANSWERS, *_RANKS))
    lists = (columns[name] for name in ANSWERS if isinstance(columns.get(name), list))
    return any(answers or empty or scored for answers in lists)


def answers_column(row: Row) -> str:
    """The name of the row's column that holds its answers."""
    there = [name for name in ANSWERS if name in row.values]
    name = next((name for name in there if isinstance(row.values[name], list)), "")
    if not name and there:
        raise wrong_type(row, there[0], "a list of answers")
    return name or str(required(row, ANSWERS[0]))


def choose_pair(row: Row, rule: str) -> tuple[Said, Said, tuple[float, float]] | Dropped:
    """The better and the worse answer of a row, by one of `PAIR_RULES`, and their scores.

    Higher scores are better; a rank is counted negative.
    """
    name = answers_column(row)
    answers = [_answer(item, row, name) for item in required(row, name)]
    scores = _scores(row, name)
    if len(scores) != len(answers):
        what = f"{len(scores)} scores for {len(answers)} answers"
        raise row.fault(what, name, "Give one score for each answer.")
    if len(answers) < 2:
        return Dropped("single_answer", row.where, f"{len(answers)} answers are no pair")
    # Stable: of equal ones the first counts as better.
    order = sorted(range(len(answers)), key=lambda i: -scores[i])
    worse = [i for i in order if scores[i] < scores[order[0]]]
    if not worse:
        return Dropped("tied_scores", row.where, "all answers have the same score")
    best, other = order[0], worse[0] if rule == "best_second" else worse[-1]
    if rule == "best_random":
        drawn = json.dumps(answers, sort_keys=True, default=str)
        digest = hashlib.sha256(drawn.encode("utf-8", "surrogatepass")).digest()
        other = worse[int.from_bytes(digest[:8]) % len(worse)]
    return answers[best], answers[other], (scores[best], scores[other])


def _answer(item: Any, row: Row, name: str) -> Said:
    value = _first(item, _SAID) if isinstance(item, Mapping) and "role" not in item else item
    found = value if isinstance(value, str) else messages.as_messages(value)
    if not isinstance(found, str) and not found:
        raise wrong_type(row, name, "a list of answers (texts, or objects with a text and a score)")
    return found


def _scores(row: Row, name: str) -> list[float]:
    """One number for each answer, higher is better."""
    expected = "finite numbers as scores"
    for names, sign in ((_OF_ANSWERS, 1), (_RANKS, -1)):
        for column in names:
            value = row.values.get(column)
            if isinstance(value, list):
                return [sign * _finite(item, row, column, expected) for item in value]
    found = []
    for item in row.values[name]:
        parts = item if isinstance(item, Mapping) else {}
        score, rank = _first(parts, _SCORE), _first(parts, _RANK)
        if score is None and rank is None:
            what = "an answer has neither a score nor a rank"
            fix = "Give each answer a 'score' or 'rank', or add a column 'scores' or 'ranks'."
            raise row.fault(what, name, fix)
        sign = 1 if rank is None else -1
        found.append(sign * _finite(score if rank is None else rank, row, name, expected))
    return found


def _first(parts: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((parts[name] for name in names if parts.get(name) is not None), None)
