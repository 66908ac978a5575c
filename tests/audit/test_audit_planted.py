"""Faults that are planted into real rows are found, and nothing is said of rows without them."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from tests.audit.faults import (
    audited,
    clean_rows,
    found,
    like,
    reworded,
    reworded_zh,
    texts_of,
)
from transformers import PreTrainedTokenizerBase

from orpo.audit.findings import Audit
from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer

ROWS = 520
RECALL = 0.95


@pytest.fixture(scope="module")
def control(hh_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return clean_rows(hh_rows, ROWS + 60)


@pytest.fixture(scope="module")
def held(control: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluation rows that are no training rows."""
    return control[ROWS:]


@pytest.fixture(scope="module")
def clean(
    control: list[dict[str, Any]],
    held: list[dict[str, Any]],
    small_tokenizer: PreTrainedTokenizerBase,
) -> Audit:
    tokenize = PairTokenizer(small_tokenizer, LengthPolicy(None))
    return audited(
        control[:ROWS], eval_values=held, tokenize=tokenize, lengths=LengthPolicy(100_000)
    )


def test_nothing_is_said_of_clean_rows(clean: Audit) -> None:
    assert clean.verdict == "ok", [f.says for f in clean.worst(9)]
    silent = {
        "unreadable_rows",
        "empty_texts",
        "identical_answers",
        "exact_duplicates",
        "contradictions",
        "near_duplicates",
        "leakage",
        "near_leakage",
        "template",
        "languages",
        "turns",
        "truncation",
    }
    assert {f.check: f.count for f in clean.findings if f.check in silent and f.count} == {}
    assert silent <= {f.check for f in clean.findings}
    assert clean.notes == ()
    assert all(not f.do for f in clean.findings)


@pytest.fixture(scope="module")
def planted(control: list[dict[str, Any]], held: list[dict[str, Any]]) -> tuple[Audit, Any]:
    """The audit of rows with every fault at once, and how many rows have each."""
    rng = random.Random(7)
    rows = copy.deepcopy(control[:ROWS])
    share = {"exact": 0.03, "near": 0.03, "identical": 0.05, "template": 0.02}
    counts = {name: round(ROWS * part) for name, part in share.items()}
    order = rng.sample(range(ROWS), ROWS)
    _bias(rows, rng)
    for i in order[: counts["identical"]]:
        rows[i]["rejected"] = copy.deepcopy(rows[i]["chosen"])
    broken = order[counts["identical"] : counts["identical"] + counts["template"]]
    for i in broken:
        said = rows[i]["chosen"][0]["content"]
        rows[i]["chosen"][0]["content"] = f"<|im_start|>assistant\n{said}<|im_end|>"
    sound = order[counts["identical"] + counts["template"] :]
    exact = [copy.deepcopy(rows[i]) for i in sound[: counts["exact"]]]
    near = [
        like(rows[i], lambda text: reworded(text, rng))
        for i in sound[counts["exact"] : counts["exact"] + counts["near"]]
    ]
    counts["leakage"] = round(ROWS * 0.02)
    leaked = [like(rows[i], lambda text: text) for i in sound[-counts["leakage"] :]]
    everything = [*rows, *exact, *near]
    rng.shuffle(everything)
    return audited(everything, eval_values=[*held, *leaked]), counts


def _bias(rows: list[dict[str, Any]], rng: random.Random) -> None:
    """Swap answers until the longer one is chosen in four of five pairs."""
    for number, row in enumerate(rows):
        _, chosen, rejected = texts_of(row)
        if (len(chosen) > len(rejected)) != (number % 5 != 0):
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        ("exact_duplicates", "exact"),
        ("near_duplicates", "near"),
        ("identical_answers", "identical"),
        ("template", "template"),
        ("leakage", "leakage"),
    ],
)
def test_planted_rows_are_found(planted: tuple[Audit, Any], check: str, fault: str) -> None:
    audit, counts = planted
    finding = found(audit, check)
    assert RECALL * counts[fault] <= finding.count <= counts[fault]
    assert finding.verdict != "ok"
    assert finding.do
    assert finding.examples


def test_leakage_stops(planted: tuple[Audit, Any]) -> None:
    audit, _ = planted
    assert found(audit, "leakage").verdict == "stop"
    assert audit.verdict == "stop"


def test_a_length_bias_of_80_to_20_is_measured(planted: tuple[Audit, Any]) -> None:
    finding = found(planted[0], "length_bias")
    assert finding.figures["longer_chosen"] == pytest.approx(0.8, abs=0.02)
    assert finding.figures["auc"] == pytest.approx(0.78, abs=0.03)  # identical pairs are ties
    assert finding.verdict == "look"


def test_what_was_not_planted_is_not_found(planted: tuple[Audit, Any]) -> None:
    audit, _ = planted
    for check in ("empty_texts", "contradictions", "near_leakage", "languages", "turns"):
        assert found(audit, check).count == 0


def test_nearly_leaked_prompts_are_found(control: list[dict[str, Any]]) -> None:
    rng = random.Random(3)
    train, rest = control[:300], control[300:400]
    longer = [row for row in train if len(texts_of(row)[0].split()) >= 12][:40]
    leaked = [{**row, **_prompt(row, rng)} for row in longer]
    audit = audited(train, eval_values=[*rest, *leaked])
    assert found(audit, "leakage").count <= 2  # changes of case only
    both = found(audit, "near_leakage").count + found(audit, "leakage").count
    assert RECALL * len(leaked) <= both <= len(leaked)
    assert found(audit, "near_leakage").verdict == "look"


def _prompt(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    return {"prompt": like(row, lambda text: reworded(text, rng))["prompt"]}


def test_chinese_rows(chinese_rows: list[dict[str, Any]]) -> None:
    unique = {texts_of(row): row for row in chinese_rows}
    rows, rng = list(unique.values()), random.Random(5)
    prompts = {texts_of(row)[0] for row in rows}
    assert len(prompts) == len(rows)
    before = audited(rows)
    assert found(before, "near_duplicates").count == 0
    assert found(before, "languages").count == 0
    assert max(before.languages, key=lambda name: before.languages[name]) == "Chinese"
    near = [like(row, lambda text: reworded_zh(text, rng)) for row in rows[:40]]
    after = found(audited([*rows, *near]), "near_duplicates")
    assert RECALL * 40 <= after.count <= 40
