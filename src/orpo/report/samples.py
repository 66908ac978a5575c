"""Sample answers side by side: what the model said before training, and what it says now."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orpo.report.page import Words
from orpo.report.values import entries, mapping, records, shortened
from orpo.runs.files import Run

SHOWN, FAILURES = 20, 8
_LONGEST = 1200
_LANGUAGES = {"english": "en", "chinese": "zh"}
_TURNS = {
    (False, True): "turned from wrong to right",
    (True, False): "turned from right to wrong",
    (True, True): "right both times",
    (False, False): "wrong both times",
}


def read_samples(run: Run) -> dict[str, Any]:
    """At most `SHOWN` samples, `shown`, and a `sentence` about all of them."""
    found = records(run.samples)
    pairs = [(row.get("correct_before"), row.get("correct_after")) for row in found]
    judged = Counter(pair for pair in pairs if all(isinstance(side, bool) for side in pair))
    return _told(
        "samples", found, SHOWN, [f"{judged[p]} {t}" for p, t in _TURNS.items() if judged[p]]
    )


def read_failures(run: Run) -> dict[str, Any]:
    """Answers that turned from right to wrong, at most `FAILURES`, as `read_samples` tells them."""
    turned = (True, False)
    found = [
        row
        for row in records(run.samples)
        if (row.get("correct_before"), row.get("correct_after")) == turned
    ]
    return _told("failures", found, FAILURES, [])


def _told(
    block: str, found: Sequence[Mapping[str, Any]], most: int, turned: Sequence[str]
) -> dict[str, Any]:
    """Some of the rows, at even distances through the file: nobody picked them."""
    count = min(len(found), most)
    shown = [_sample(found[i * len(found) // count]) for i in range(count)]
    words = Words(
        "run",
        rows=found,
        count=count,
        answered_again=any(row.get("after") is not None for row in found),
        from_training=any(row.get("held_out") is False for row in found),
        turned=turned,
        judged=sum(int(one.split()[0]) for one in turned),
    )
    return {"shown": shown, "sentence": words[block]}


def answer_lengths(run: Run) -> list[tuple[int, int, int]]:
    """Characters of the answers before and after, and of the preferred one (0 if unknown)."""
    return [
        (len(_text(row["before"])), len(_text(row["after"])), len(_text(row.get("chosen"))))
        for row in records(run.samples)
        if row.get("before") is not None and row.get("after") is not None
    ]


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt's turns, its answers, the one that the data prefer, a tag of its language."""
    return {
        "turns": _turns(row.get("prompt")),
        "answers": [_answer(row, "before"), _answer(row, "after")],
        "preferred": shortened(_text(row.get("chosen")), _LONGEST),
        "tags": [shortened(str(row[name]), 60) for name in ("task", "language") if row.get(name)],
        "language": _language(row.get("language")),
    }


def _answer(row: Mapping[str, Any], when: str) -> dict[str, Any]:
    """An answer before or after training, and what the check says of it, if there was one."""
    value, correct = row.get(when), row.get(f"correct_{when}")
    reason = row.get(f"reason_{when}")
    return {
        "when": f"{when.capitalize()} training",
        "text": None if value is None else shortened(_text(value), _LONGEST),
        "correct": correct if isinstance(correct, bool) else None,
        "reason": shortened(str(reason), 200) if reason and reason != "correct" else "",
    }


def _turns(prompt: object) -> list[tuple[str, str]]:
    """(role, text); a plain text has no role."""
    if not isinstance(prompt, list):
        return [("", shortened(_text(prompt), _LONGEST))]
    turns = [
        (str(turn.get("role", "")), _text(turn.get("content")))
        for turn in map(mapping, prompt)
        if turn
    ]
    return [(shortened(role, 40), shortened(text, _LONGEST)) for role, text in turns]


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
