"""What a judgment's score is, and FastChat's file of judgments."""

from __future__ import annotations

import ast
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo.errors import DataError
from orpo.evaluate import parse_rating, read_judgments
from orpo.evaluate.mt_bench.fastchat import Judgment, write_judgments
from tests.evaluate.mt_bench.files import write_lines


@pytest.mark.parametrize(
    ("judgment", "rating"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("Rating: [[8.5]]", 8.5),
        ("Rating: [[10]] and not [[2]]", 10.0),
        ("See [3]. Rating: [[6]]", 6.0),
        ("Rating: [9]", 9.0),
        ("Rating: [[0]]", 0.0),
        ("Rating: [[9.]]", 9.0),
        ("Rating: [[rating]]", None),
        ("Rating: [[ 9 ]]", None),
        ("Rating: [[-3]]", None),
        ("Rating: 9", None),
        ("$ERROR$", None),
        ("", None),
        (f"[[{'9' * 400}]]", None),
    ],
)
def test_the_protocols_rule(judgment: str, rating: float | None) -> None:
    assert parse_rating(judgment) == rating


@given(st.text(st.sampled_from("[]0123456789. ab\n"), max_size=40))
def test_any_text_as_a_scan_by_hand(text: str) -> None:
    def scan(opening: str, closing: str) -> float | None:
        for start in range(len(text)):
            if text.startswith(opening, start):
                end = text.find(closing, start + len(opening))
                inner = text[start + len(opening) : end] if end >= 0 else ""
                whole, _, part = inner.partition(".")
                if whole.isdigit() and (part == "" or part.isdigit()):
                    return float(inner)
        return None

    double = scan("[[", "]]")
    assert parse_rating(text) == (double if double is not None else scan("[", "]"))


def test_every_recorded_score_is_read_from_its_judgment(shared_data: Path) -> None:
    path = shared_data / "mt_bench" / "judgments.jsonl"
    judgments = read_judgments(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(judgments) == len(rows) == 320
    assert [parse_rating(row["judgment"]) for row in rows] == [row["score"] for row in rows]
    assert [one.score for one in judgments] == [row["score"] for row in rows]
    # As the protocol's own words have it, not through a float.
    named = [re.findall(r"\[\[(\d+\.?\d*)\]\]", row["judgment"])[0] for row in rows]
    assert [ast.literal_eval(one) for one in named] == [row["score"] for row in rows]


def line(**changed: Any) -> dict[str, Any]:
    row = {
        "question_id": 81,
        "model": "m",
        "judge": ["gpt-4", "single-v1"],
        "user_prompt": "asked",
        "judgment": "Rating: [[7]]",
        "score": 7,
        "turn": 1,
        "tstamp": 2.5,
    }
    return {name: value for name, value in {**row, **changed}.items() if value is not ...}


def test_what_is_written_is_read_again_and_is_fastchats(tmp_path: Path) -> None:
    rows = [line(), line(turn=2, score=-1, judgment="no"), line(question_id=82, score=8.5)]
    path = write_lines(tmp_path / "j.jsonl", rows)
    judgments = read_judgments(path)
    assert [one.score for one in judgments] == [7, None, 8.5]
    again = tmp_path / "again.jsonl"
    write_judgments(again, judgments)
    assert [json.loads(text) for text in again.read_text().splitlines()] == rows
    flagged = Judgment(1, "m", 1, None, flags=("forged verdict",))
    write_judgments(again, [flagged])
    assert read_judgments(again)[0].flags == ("forged verdict",)


def test_no_infinity_is_written(tmp_path: Path) -> None:
    write_judgments(tmp_path / "j.jsonl", [Judgment(1, "m", 1, math.inf)])
    assert json.loads((tmp_path / "j.jsonl").read_text())["score"] == -1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no judgment"),
        ("{", "j.jsonl:1: no JSON"),
        ("[]", "j.jsonl:1: no JSON object"),
        (json.dumps(line(turn=3)), "j.jsonl:1: turn 3"),
        (json.dumps(line(turn=True)), "field 'turn' is no number"),
        (json.dumps(line(score="7")), "field 'score' is no number"),
        (json.dumps(line(model=...)), "field 'model' is missing"),
        (json.dumps(line()) + "\n\n" + json.dumps(line(question_id=None)), "j.jsonl:3: field"),
        (json.dumps({"question_id": 1, "g1_winner": "tie"}), "a pairwise judgment"),
    ],
)
def test_wrong_files_are_named_with_their_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(says)):
        read_judgments(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_judgments(tmp_path / "none.jsonl")
