"""Sample answers side by side: what the model said before training, and what it says now."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass

from orpo.report.values import as_count, entries, joined, mapping, records, sentence, shortened
from orpo.runs import Run

SHOWN = 20
FAILURES = 8
_LONGEST = 1200
_LANGUAGES = {"english": "en", "chinese": "zh"}


@dataclass(frozen=True)
class Turn:
    """One turn of a prompt; a plain text has no role."""

    role: str
    text: str


@dataclass(frozen=True)
class Answer:
    """An answer before or after training, and what the check says of it, if there was one."""

    when: str
    text: str | None
    correct: bool | None
    reason: str


@dataclass(frozen=True)
class Sample:
    """A prompt's turns, its answers, the one that the data prefer; `language` is a tag ("zh")."""

    prompt: list[Turn]
    answers: list[Answer]
    preferred: str
    tags: list[str]
    language: str


@dataclass(frozen=True)
class Samples:
    """The samples that are shown, and a sentence about all of them."""

    shown: list[Sample]
    sentence: str


def read_failures(run: Run) -> Samples:
    """Answers that turned from right to wrong, at most `FAILURES`, at even distances."""
    found = [
        row
        for row in records(run.samples)
        if row.get("correct_before") is True and row.get("correct_after") is False
    ]
    count = min(len(found), FAILURES)
    shown = [found[i * len(found) // count] for i in range(count)]
    text = f"{as_count(len(found), 'answer')} turned from right to wrong" if found else ""
    if count < len(found):
        text += f"; {count} of them are shown, at even distances"
    return Samples([_sample(row) for row in shown], sentence(text) if text else "")


def read_samples(run: Run) -> Samples:
    """At most `SHOWN` samples, at even distances through the file: nobody picked them."""
    found = records(run.samples)
    count = min(len(found), SHOWN)
    shown = [found[i * len(found) // count] for i in range(count)]
    return Samples([_sample(row) for row in shown], _about(found, count))


def answer_lengths(run: Run) -> list[tuple[int, int, int]]:
    """Characters of the answers before and after, and of the preferred one (0 if unknown)."""
    return [
        (len(_text(row["before"])), len(_text(row["after"])), len(_text(row.get("chosen"))))
        for row in records(run.samples)
        if row.get("before") is not None and row.get("after") is not None
    ]


def _about(found: list[dict[str, object]], shown: int) -> str:
    if not found:
        return ""
    answered = any(row.get("after") is not None for row in found)
    text = f"{as_count(len(found), 'prompt')}, answered before "
    text += "and after training." if answered else "training; there are no answers after it yet."
    if shown < len(found):
        text += (
            f" {shown} of {len(found)} are shown, at even distances through the file, not picked."
        )
    if any(row.get("held_out") is False for row in found):
        text += " The prompts are from the training data."
    return f"{text} {_transitions(found)}".strip()


def _transitions(found: list[dict[str, object]]) -> str:
    """How many answers turned right or wrong, over all samples."""
    both = [(row.get("correct_before"), row.get("correct_after")) for row in found]
    judged = Counter(pair for pair in both if all(isinstance(side, bool) for side in pair))
    if not judged:
        return ""
    names = {
        (False, True): "turned from wrong to right",
        (True, False): "turned from right to wrong",
        (True, True): "right both times",
        (False, False): "wrong both times",
    }
    parts = [f"{judged[pair]} {name}" for pair, name in names.items() if judged[pair]]
    return sentence(f"of {as_count(judged.total(), 'checked prompt')}, {joined(parts)}")


def _sample(row: dict[str, object]) -> Sample:
    tags = [shortened(str(row[name]), 60) for name in ("task", "language") if row.get(name)]
    return Sample(
        _turns(row.get("prompt")),
        [_answer(row, "before"), _answer(row, "after")],
        shortened(_text(row.get("chosen")), _LONGEST),
        tags,
        _language(row.get("language")),
    )


def _answer(row: dict[str, object], when: str) -> Answer:
    value, correct = row.get(when), row.get(f"correct_{when}")
    reason = row.get(f"reason_{when}")
    return Answer(
        f"{when.capitalize()} training",
        None if value is None else shortened(_text(value), _LONGEST),
        correct if isinstance(correct, bool) else None,
        shortened(str(reason), 200) if reason and reason != "correct" else "",
    )


def _turns(prompt: object) -> list[Turn]:
    if not isinstance(prompt, list):
        return [Turn("", shortened(_text(prompt), _LONGEST))]
    turns = [mapping(turn) for turn in prompt]
    return [
        Turn(
            shortened(str(turn.get("role", "")), 40),
            shortened(_text(turn.get("content")), _LONGEST),
        )
        for turn in turns
        if turn
    ]


def _text(value: object) -> str:
    """The text of a string, a message, a list of messages or of content parts."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(_text(part) for part in entries(value))
    if isinstance(value, dict):
        for name in ("content", "text"):
            if name in value:
                return _text(value[name])
    return json.dumps(value, ensure_ascii=False, default=str)


def _language(value: object) -> str:
    name = str(value or "").lower()
    name = _LANGUAGES.get(name, name)
    return name if re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]{2,8})*", name) else ""
