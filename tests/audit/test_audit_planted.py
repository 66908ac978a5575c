"""Faults that are planted into real rows are found, and nothing is said of rows without them."""

import copy
import random
from typing import Any

import pytest
from tests.audit.faults import audited, clean_rows, found, like, reworded, reworded_zh, texts_of
from transformers import PreTrainedTokenizerBase

from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer

Values = list[dict[str, Any]]

ROWS = 520
RECALL = 0.95
SILENT = """
unreadable_rows empty_texts identical_answers exact_duplicates contradictions near_duplicates
leakage near_leakage template languages turns truncation
"""


@pytest.fixture(scope="module")
def control(hh_rows: Values) -> Values:
    """Rows to train on, and behind them rows for an evaluation."""
    return clean_rows(hh_rows, ROWS + 60)


def test_nothing_is_said_of_clean_rows(
    control: Values, small_tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenize = PairTokenizer(small_tokenizer, LengthPolicy(None))
    settings: Any = {"tokenize": tokenize, "lengths": LengthPolicy(100_000)}
    clean = audited(control[:ROWS], eval_values=control[ROWS:], **settings)
    assert clean.verdict == "ok", [f.says for f in clean.worst(9)]
    counts = {f.check: f.count for f in clean.findings}
    assert {name: counts[name] for name in SILENT.split()} == dict.fromkeys(SILENT.split(), 0)
    assert clean.notes == ()
    assert all(not f.do for f in clean.findings)


def test_what_was_planted_is_found_and_nothing_else(control: Values) -> None:
    rng, rows = random.Random(7), copy.deepcopy(control[:ROWS])
    for number, row in enumerate(rows):  # the longer answer is chosen in four of five pairs
        _, chosen, rejected = texts_of(row)
        if (len(chosen) > len(rejected)) != (number % 5 != 0):
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    planted = {"identical_answers": 26, "template": 10, "exact_duplicates": 16}
    planted |= {"near_duplicates": 16, "leakage": 10}
    order = iter(rng.sample(range(ROWS), ROWS))
    drawn = {check: [rows[next(order)] for _ in range(n)] for check, n in planted.items()}
    for row in drawn["identical_answers"]:
        row["rejected"] = copy.deepcopy(row["chosen"])
    for row in drawn["template"]:
        said = row["chosen"][0]["content"]
        row["chosen"][0]["content"] = f"<|im_start|>assistant\n{said}<|im_end|>"
    rows += copy.deepcopy(drawn["exact_duplicates"])
    rows += [like(row, lambda text: reworded(text, rng)) for row in drawn["near_duplicates"]]
    rng.shuffle(rows)
    audit = audited(rows, eval_values=[*control[ROWS:], *copy.deepcopy(drawn["leakage"])])
    for check, count in planted.items():
        finding = found(audit, check)
        assert RECALL * count <= finding.count <= count, check
        assert finding.verdict != "ok"
        assert finding.do
        assert finding.examples
    assert found(audit, "leakage").verdict == audit.verdict == "stop"
    for check in ("empty_texts", "contradictions", "near_leakage", "languages", "turns"):
        assert found(audit, check).count == 0
    bias = found(audit, "length_bias")
    assert bias.figures["longer_chosen"] == pytest.approx(0.8, abs=0.02)
    assert bias.figures["auc"] == pytest.approx(0.78, abs=0.03)  # identical pairs are ties
    assert bias.verdict == "look"


def test_nearly_leaked_prompts_are_found(control: Values) -> None:
    rng, train, rest = random.Random(3), control[:300], control[300:400]
    longer = [row for row in train if len(texts_of(row)[0].split()) >= 12][:40]
    leaked = [
        {**row, "prompt": like(row, lambda text: reworded(text, rng))["prompt"]} for row in longer
    ]
    audit = audited(train, eval_values=[*rest, *leaked])
    assert found(audit, "leakage").count <= 2  # changes of case only
    both = found(audit, "near_leakage").count + found(audit, "leakage").count
    assert RECALL * len(leaked) <= both <= len(leaked)
    assert found(audit, "near_leakage").verdict == "look"


def test_chinese_rows(chinese_rows: Values) -> None:
    unique = {tuple(texts_of(row)): row for row in chinese_rows}
    rows, rng = list(unique.values())[:300], random.Random(5)
    assert len({texts_of(row)[0] for row in rows}) == len(rows)
    before = audited(rows)
    assert found(before, "near_duplicates").count == 0
    assert found(before, "languages").count == 0
    assert max(before.languages, key=lambda name: before.languages[name]) == "Chinese"
    near = [like(row, lambda text: reworded_zh(text, rng)) for row in rows[:40]]
    after = found(audited([*rows, *near]), "near_duplicates")
    assert RECALL * 40 <= after.count <= 40
