"""Near duplicates: what is found, what is not, and what is said when it cannot be looked for."""

import random
from typing import Any

import numpy as np
import pytest
from tests.audit.faults import audited, distinct_rows, found, like, pair, reworded

from orpo.audit import repeats, similar
from orpo.audit.similar import (
    NUMBER,
    Signatures,
    WordWeights,
    candidate_pairs,
    shingles,
    similarity,
    words,
)

Values = list[dict[str, Any]]


def near(values: Values) -> Any:
    return found(audited(values), "near_duplicates")


@pytest.mark.parametrize("every", [6, 20])
def test_reworded_rows_are_found_and_distinct_ones_are_not(every: int) -> None:
    rng, rows = random.Random(every), distinct_rows(200)
    assert near(rows).count == 0
    audit = audited([*rows, *(like(row, lambda text: reworded(text, rng, every)) for row in rows)])
    finding, exact = found(audit, "near_duplicates"), found(audit, "exact_duplicates")
    assert 190 <= finding.count + exact.count <= 200
    assert all(int(e.where.split(":")[1]) - 200 == int(e.other[5:]) for e in finding.examples)


def test_what_makes_no_difference() -> None:
    rng, rows = random.Random(1), distinct_rows(50)
    shouted = like(rows[3], lambda text: text.upper().replace(".", "!!"))
    finding = near([*rows, shouted])
    assert (finding.count, finding.examples[0].other) == (1, "data:4")
    copies = [like(rows[0], lambda text: reworded(text, rng, 12)) for _ in range(12)]
    assert near([*rows, *copies]).count == 12  # a cluster counts for each row but its first
    assert near([*rows, *rows[:5]]).count == 0  # they are exact
    short = [pair("Is it on?", "Yes.", "No."), pair("is it on", "yes", "no")]
    wordless = [pair("?!", "...", "---"), pair("!?", "…", "--")]
    finding = near([*rows, *short, *wordless])
    assert (finding.count, finding.of) == (1, 52)


def test_data_that_are_nothing_but_copies_are_seen_as_such() -> None:
    rng, (row,) = random.Random(2), distinct_rows(1, seed=8)

    def with_new_word(text: str) -> str:
        return f"{text} {''.join(rng.choices('bdgklmnprst', k=9))}"

    finding = near([like(row, with_new_word) for _ in range(150)])
    assert finding.of == 150
    assert finding.count >= 142
    assert finding.verdict == "stop"


def test_another_answer_to_the_same_prompt_is_no_near_duplicate() -> None:
    rows = distinct_rows(60)
    question = rows[0]["prompt"]
    fresh = [{**row, "prompt": question} for row in distinct_rows(30, seed=5)]
    assert near([*rows, *fresh]).count == 0
    ranked = [{**rows[0], "rejected": row["rejected"]} for row in rows[1:20]]
    assert near([*rows, *ranked]).count == 0


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("Convert 5 km to m.", "5 km are 5000 m."), ("Convert 8 km to m.", "8 km are 8000 m.")),
        (("Is it on?", "Yes."), ("Is it off?", "Yes.")),
        (("2 + 2", "4"), ("2 * 2", "4")),
        (("好吗？", "好。"), ("在吗？", "在。")),
        (("a", "b"), ("c", "d")),
    ],
)
def test_short_texts_that_differ_are_left_alone(one: tuple[str, str], two: tuple[str, str]) -> None:
    rows = [pair(*one, "Not at all."), pair(*two, "Not at all."), *distinct_rows(20)]
    assert near(rows).count == 0


def test_texts_that_differ_in_a_number_ask_different_things() -> None:
    asked = "Please list the {} largest lakes of the country by size, with a reason for each."
    answer = "Here are the lakes that you asked for, the largest of them first, as far as I know."
    rows = [pair(asked.format(n), answer, "I do not know of any.") for n in (5, 8)]
    assert near([*rows, *distinct_rows(20)]).count == 0
    worded = [pair(asked.format(n), answer, "I do not know of any.") for n in ("some", "few")]
    assert near([*worded, *distinct_rows(20)]).count == 1


def test_without_datasketch_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "find_spec", lambda name: None)
    rows = distinct_rows(10)
    audit = audited([*rows, rows[0]], eval_values=rows[:2])
    checks = {f.check for f in audit.findings}
    assert checks.isdisjoint({"near_duplicates", "near_leakage"})
    assert {"exact_duplicates", "leakage"} <= checks
    assert any("not checked" in n and "orpo[data]" in n for n in audit.notes)


def test_rows_beyond_the_limit_are_said_to_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "NEAR_ROWS", 20)
    audit = audited(distinct_rows(50))
    assert found(audit, "near_duplicates").of == 20
    assert any("30 further ones were left out" in note for note in audit.notes)


def test_texts_with_half_of_their_features_in_common_are_candidates() -> None:
    rng, made = np.random.default_rng(1), Signatures()
    for _ in range(200):
        common = rng.integers(0, 2**32, 40, dtype=np.uint32)
        for _ in range(2):
            made.add(np.concatenate([common, rng.integers(0, 2**32, 20, dtype=np.uint32)]))
    pairs = {tuple(p) for p in candidate_pairs(made).tolist()}
    together = sum((2 * n, 2 * n + 1) in pairs for n in range(200))
    assert together >= 196
    assert len(pairs) == together


def test_words() -> None:
    assert len(words("Hello, hello WORLD!", 9)) == 3
    hello, again, _ = words("Hello, hello WORLD!", 9).tolist()
    assert hello == again
    assert len(words("今天天气 good", 9)) == 5
    assert len(words("210度", 9)) == 2
    assert (words("42 apples", 9) & NUMBER).tolist() == [NUMBER, 0]
    assert words("a b c d", 2).tolist() == words("a b", 9).tolist()
    assert words("a b c d", 2, from_end=True).tolist() == words("c d", 9).tolist()
    assert len(words("half \ud800 of it", 9)) >= 3
    assert len(words("x" * 2_000_000, 50)) == 1
    assert len(words("", 9)) == 0
    assert set(shingles(words("a b", 9)).tolist()) != set(shingles(words("b a", 9)).tolist())
    assert [len(shingles(words(text, 9))) for text in ("a b a b", "a")] == [2, 1]


def test_rare_words_count_more() -> None:
    weights = WordWeights()
    texts = [words(f"please convert this {n} wugs{n}", 9) for n in range(50)]
    for text in texts:
        weights.count(text)
    assert similarity(texts[0], texts[0], weights) == pytest.approx(1.0)
    assert similarity(texts[0], texts[1], weights) < 0.5
    assert similarity(texts[0], words("0 wugs0", 9), weights) > 0.9
