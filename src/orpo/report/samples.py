"""Sample answers side by side: what the model said before training, and what it says now."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from orpo.report.page import Words
from orpo.report.values import mapping, records, shortened
from orpo.runs.files import Run

_SHOWN = {"samples": 20, "failures": 8}
_LONGEST = 1200
_LANGUAGES = {"english": "en", "chinese": "zh"}
_TURNS = {
    (False, True): "turned from wrong to right",
    (True, False): "turned from right to wrong",
    (True, True): "right both times",
    (False, False): "wrong both times",
}


def read_samples(run: Run, block: str = "samples") -> dict[str, Any]:
    """Some samples, `shown`, and a `sentence` about all of them.

    Of the `failures`, answers that turned from right to wrong, alone. They are taken at even
    distances through the file: nobody picked them.
    """
    pairs = [
        (row, (row.get("correct_before"), row.get("correct_after"))) for row in records(run.samples)
    ]
    judged = Counter(pair for _, pair in pairs if all(isinstance(side, bool) for side in pair))
    found = [row for row, pair in pairs if block == "samples" or pair == (True, False)]
    count = min(len(found), _SHOWN[block])
    words = Words(
        "run",
        rows=found,
        count=count,
        answered_again=any(row.get("after") is not None for row in found),
        from_training=any(row.get("held_out") is False for row in found),
        turned=[f"{judged[pair]} {told}" for pair, told in _TURNS.items() if judged[pair]],
        judged=judged.total(),
    )
    shown = [_sample(found[i * len(found) // count]) for i in range(count)]
    return {"shown": shown, "sentence": words[block]}


def answer_lengths(run: Run) -> list[tuple[int, int, int]]:
    """Characters of the answers before and after, and of the preferred one (0 if unknown)."""
    return [
        (len(_text(row["before"])), len(_text(row["after"])), len(_text(row.get("chosen"))))
        for row in records(run.samples)
        if row.get("before") is not None and row.get("after") is not None
    ]


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt's turns, (role, text), its answers, the preferred one, a tag of its language."""
    prompt, turns = row.get("prompt"), [("", row.get("prompt"))]
    if isinstance(prompt, list):
        turns = [
            (str(turn.get("role", "")), turn.get("content"))
            for turn in map(mapping, prompt)
            if turn
        ]
    language = str(row.get("language") or "").lower()
    language = _LANGUAGES.get(language, language)
    known = re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]{2,8})*", language)
    return {
        "turns": [(shortened(role, 40), shortened(_text(text), _LONGEST)) for role, text in turns],
        "answers": [_answer(row, "before"), _answer(row, "after")],
        "preferred": shortened(_text(row.get("chosen")), _LONGEST),
        "tags": [shortened(str(row[name]), 60) for name in ("task", "language") if row.get(name)],
        "language": language if known else "",
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


def _text(value: object) -> str:
    """The text of a string, a message, a list of messages or of content parts."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if isinstance(value, dict):
        for name in ("content", "text"):
            if name in value:
                return _text(value[name])
    return json.dumps(value, ensure_ascii=False, default=str)
