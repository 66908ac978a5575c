"""Cleaned copies: what is dropped, balanced and held out, exactly and again and again alike."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.audit.faults import plain as pair
from tests.audit.faults import read, write

from orpo.audit import fix as fixing
from orpo.audit.fix import Entry, fix_dataset
from orpo.audit.repair import Repair, Repaired
from orpo.data.reading import PairReader
from orpo.errors import ConfigError, DataError

Values = dict[str, Any]


def fix(source: Path, output: Path, *, pair_rule: str = "best_worst", **settings: Any) -> Repaired:
    reader = PairReader(on_bad_row="drop", pair_rule=pair_rule)
    return fix_dataset(Repair(str(source), output, **settings), reader)


def ledger(result: Repaired) -> list[Values]:
    return read(result.targets["ledger"])


DIRTY = [
    pair("p1", "good", "bad", id=1),
    pair("p1", "good", "bad", id=2),  # repeats the first
    pair("p2", " same ", "same"),
    pair("p3", "", "b"),
    pair("p4", "a", "b"),
    pair("p4", "b", "a"),  # the opposite
    pair("p5", 5, "b"),
    '{"prompt": "p6", "chosen"',
    pair(" \n", "a", "b"),
    pair("p7", "é \u2028 你好", "no", extra={"deep": [1, None, 2.5]}),
]


def test_every_fault_is_dropped_by_name_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", DIRTY)
    result = fix(source, tmp_path / "clean.jsonl")
    assert result.dropped == {
        "exact_duplicate": 1,
        "identical_answers": 1,
        "empty_chosen": 1,
        "contradiction": 2,
        "malformed": 1,
        "unreadable": 1,
        "empty_prompt": 1,
    }
    assert result.rows_in == 10 == result.written + sum(result.dropped.values())
    assert read(tmp_path / "clean.jsonl") == [DIRTY[0], DIRTY[-1]]
    changes = ledger(result)
    assert [change["row"] for change in changes] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert changes[0] == {
        "where": f"{source}:2",
        "row": 2,
        "action": "dropped",
        "reason": "exact_duplicate",
        "detail": f"repeats {source}:1",
    }
    assert changes[5]["where"] == f"{source}:7, field 'chosen'"
    write(source, [pair("p", "a", "b", weight=w) for w in (1, 3, 1)])
    details = [change["detail"] for change in ledger(fix(source, tmp_path / "other.jsonl"))]
    assert details[0].endswith("pairs.jsonl:1; same pair, other weight (3, there 1)")
    assert details[1].endswith("pairs.jsonl:1")


@pytest.mark.parametrize("name", ["clean.jsonl", "clean.jsonl.gz", "clean.parquet"])
def test_a_fixed_file_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    first, second = tmp_path / "one" / name, tmp_path / "two" / name
    fix(write(tmp_path / "pairs.jsonl", DIRTY), first)
    result = fix(first, second)
    assert first.suffix != ".gz" or first.read_bytes()[4:8] == bytes(4)  # no time stamp
    assert first.read_bytes() == second.read_bytes()
    assert result.dropped == {}
    assert ledger(result) == []


words = st.text("ab \n", max_size=3)
rows = st.lists(
    st.one_of(
        st.builds(pair, words, words, words, topic=st.sampled_from(["x", "y", None])),
        st.just("{broken"),
        st.just({"prompt": "p", "chosen": None, "rejected": "b"}),
    ),
    min_size=1,
    max_size=30,
)


@hypothesis_settings(max_examples=60)
@given(
    rows,
    st.sampled_from(["", "length", "topic"]),
    st.sampled_from([".jsonl", ".parquet"]),
    st.integers(0, 3),
)
def test_rows_in_are_rows_out_and_fixing_twice_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], balance: str, suffix: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("fix")
    source = write(folder / "pairs.jsonl", [pair("q", "good", "bad", topic="x"), *rows])
    settings: Values = {"balance": balance, "seed": seed}
    try:
        first = fix(source, folder / f"one{suffix}", **settings)
    except DataError:  # nothing would be left; said where that is tested
        assert sorted(path.name for path in folder.iterdir()) == ["pairs.jsonl"]
        return
    kept = read(folder / f"one{suffix}")
    assert first.rows_in == len(rows) + 1 == len(kept) + sum(first.dropped.values())
    assert len(ledger(first)) == sum(first.dropped.values())
    assert all(row in rows or row["prompt"] == "q" for row in kept)
    texts = [(r["prompt"], r["chosen"], r["rejected"]) for r in kept]
    assert len(set(texts)) == len(texts)
    assert not {(p, b, a) for p, a, b in texts} & set(texts)
    assert all(
        p.strip() and a.strip() and b.strip() and a.split() != b.split() for p, a, b in texts
    )
    again = fix(folder / f"one{suffix}", folder / f"two{suffix}", **settings)
    assert again.dropped == {}
    assert (folder / f"one{suffix}").read_bytes() == (folder / f"two{suffix}").read_bytes()


def biased(count: int) -> list[Values]:
    """Four of five pairs with the longer answer chosen."""
    return [
        pair(f"Question {n}?", *(("long answer", "no") if n % 5 else ("no", "long answer")), n=n)
        for n in range(count)
    ]


def test_length_is_balanced_with_as_few_drops_as_it_takes(tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", biased(500))
    result = fix(source, tmp_path / "clean.jsonl", balance="length")
    counts = result.balance["output"]
    assert counts["before"] == {"pairs": 500, "longer_chosen": 0.8}
    assert result.dropped == {"balance": 500 - counts["after"]["pairs"]}
    assert counts["after"]["pairs"] == 100 + 104  # 104 of 204 are 51.0 %, 105 of 205 are too many
    assert 0.5 <= counts["after"]["longer_chosen"] <= 0.51
    kept = read(tmp_path / "clean.jsonl")
    assert [row["n"] for row in kept] == sorted(row["n"] for row in kept)
    other = fix(source, tmp_path / "other.jsonl", balance="length", seed=1)
    assert other.written == result.written
    assert read(tmp_path / "other.jsonl") != kept
    assert "80.0% of 500 pairs, now in 51.0% of 204" in "\n".join(result.summary())


def test_no_prompt_is_on_both_sides(tmp_path: Path) -> None:
    rows = [
        pair(("What is {}?", "what  IS {}?\n")[n % 2].format(n // 4), f"a{n}", "b")
        for n in range(400)
    ]
    source = write(tmp_path / "pairs.jsonl", rows)
    result = fix(source, tmp_path / "train.jsonl", held_out=0.3)
    held = tmp_path / "train.held_out.jsonl"
    assert result.targets["held_out_output"] == held
    sides = [
        {" ".join(row["prompt"].lower().split()) for row in read(path)}
        for path in (tmp_path / "train.jsonl", held)
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 100
    assert result.prompts == {"asked": 0.3, "held_out": len(sides[1]), "all": 100}
    told = f"held out: {len(sides[1])} of 100 prompts ({len(sides[1]) / 100:.1%}; asked for 30.0%)"
    assert told in "\n".join(result.summary())
    assert 80 <= result.held_out <= 180
    assert result.written + result.held_out == 400
    assert sum(change["action"] == "held_out" for change in ledger(result)) == result.held_out


def test_near_duplicates_go_and_near_prompts_stay_together(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    topics = ["rivers of Asia", "bread without yeast", "the moons of Jupiter", "old clocks"]
    topics += ["garden soil", "sailing knots", "Roman roads", "paper boats", "winter coats"]
    rows = []
    for n, topic in enumerate(topics):
        prompt = f"Please explain to a curious child number {n} everything about {topic} today"
        answer = f"A long and careful account of {topic}, with {n} examples and some history in it"
        rows.append(pair(prompt, answer, f"I do not know much about {topic}, sorry about that now"))
        rows.append(pair(prompt + " please", answer, rows[-1]["rejected"]))
    source = write(tmp_path / "pairs.jsonl", rows)
    result = fix(source, tmp_path / "clean.jsonl", deduplicate="near")
    assert result.dropped == {"near_duplicate": len(topics)}
    assert read(tmp_path / "clean.jsonl") == rows[::2]
    assert f"nearly repeats {source}:1" in ledger(result)[0]["detail"]
    for row in rows[1::2]:  # another answer: no duplicate, but nearly the same prompt
        row["chosen"] = "Ask somebody who has studied that for years, or read a book in a library"
    write(source, rows)
    fix(source, tmp_path / "train.jsonl", deduplicate="near", held_out=0.4)
    sides = [
        {row["prompt"].removesuffix(" please") for row in read(tmp_path / name)}
        for name in ("train.jsonl", "train.held_out.jsonl")
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == len(topics)


SCORED = [pair(f"p{n}", "a", "b", score_chosen=3, score_rejected=n) for n in range(6)]
ANSWERS = [
    {"prompt": "p1", "answers": ["a", "b", "c"], "scores": [1, 5, 4]},
    {"prompt": "p2", "answers": ["a", "b"], "scores": [2, 2]},
    {"prompt": "p3", "answers": ["a"], "scores": [2]},
]
NO_PAIR = {"tied_scores": 1, "single_answer": 1}
ALONE = {"prompt": "p", "chosen": "a", "rejected": None}


@pytest.mark.parametrize(
    ("rows", "settings", "dropped"),
    [
        (SCORED, {"min_score_margin": 0}, {"low_margin": 2}),
        (SCORED, {"min_score_margin": 1}, {"low_margin": 3}),
        (SCORED, {}, {}),
        (ANSWERS, {"min_score_margin": 2}, NO_PAIR),  # best and worst are 4 apart
        (ANSWERS, {"drop": ("empty",)}, NO_PAIR),  # what gives no pair always goes
        (
            [*ANSWERS, {**ANSWERS[0], "scores": [1, 5, 2]}],
            {"min_score_margin": 2, "pair_rule": "best_second"},
            {**NO_PAIR, "low_margin": 1},
        ),
        (  # what cannot be read cannot be written either
            DIRTY,
            {"drop": ("identical_answers",), "deduplicate": "none"},
            {"identical_answers": 1, "unreadable": 1},
        ),
        ([ALONE, ALONE, pair("p", "a", "b")], {}, {"exact_duplicate": 1}),
        ([pair("p", "a", "b", weight=w) for w in (1, 3, 1)], {}, {"exact_duplicate": 2}),
    ],
)
def test_what_is_dropped(
    rows: list[Any], settings: Values, dropped: dict[str, int], tmp_path: Path
) -> None:
    result = fix(write(tmp_path / "pairs.jsonl", rows), tmp_path / "clean.jsonl", **settings)
    assert result.dropped == dropped
    gone = {change["row"] - 1 for change in ledger(result)}
    assert read(tmp_path / "clean.jsonl") == [r for n, r in enumerate(rows) if n not in gone]


def test_a_category_is_balanced_to_the_smallest(tmp_path: Path) -> None:
    rows = [pair(f"p{n}", "a", "b", topic="xyy"[n % 3] if n < 90 else "z") for n in range(100)]
    source = write(tmp_path / "pairs.jsonl", rows)
    for ratio, after in ((1, {"x": 10, "y": 10, "z": 10}), (2.5, {"x": 25, "y": 25, "z": 10})):
        found = fix(source, tmp_path / f"{ratio}.jsonl", balance="topic", balance_ratio=ratio)
        assert found.balance["output"] == {"before": {"x": 30, "y": 60, "z": 10}, "after": after}


@pytest.mark.filterwarnings("error")
def test_values_survive_parquet_and_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    rows = [pair("p1", "a", "b", tags=["x"]), pair("p2", "a", "b", weight=2)]
    source = write(tmp_path / "pairs.jsonl", rows)
    fix(source, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [{**rows[0], "weight": None}, {**rows[1], "tags": None}]
    alike = [pair(f"p{n}", "a", "b", meta=[{"k": n, "m": {"x": None}}]) for n in range(3)]
    fix(write(source, alike), tmp_path / "clean.parquet")
    assert len(read(tmp_path / "clean.parquet")) == 3
    half = '{"prompt": "p", "chosen": "a", "rejected": "b", "note": "\\ud800"}'
    lacking = [pair(f"p{n}", "a", "b", meta=[{"k": 1}, {"k": 2, "m": {"x": n}}]) for n in range(3)]
    for bad, said in (
        ([*rows, pair("p3", "a", "b", tags="not a list")], "rows do not fit .*jsonl instead"),
        ([half], "Parquet"),
        (lacking, r"pairs.jsonl:1, field 'meta'.*fill in 'm'.*\.jsonl"),
    ):
        with pytest.raises(DataError, match=said):
            fix(write(source, bad), tmp_path / "b.parquet", held_out=0.5 * (bad is lacking), seed=3)
        assert not (tmp_path / "b.parquet").exists()
    fix(write(source, [half]), tmp_path / "c.jsonl")  # half a character in a column nobody reads
    assert json.loads((tmp_path / "c.jsonl").read_text()) == json.loads(half)


def test_malformed_rows_that_are_kept_are_not_compared(tmp_path: Path) -> None:
    bad = [pair(f"p{n}", 5, "b") for n in range(20)]
    good = [pair(f"q{n}", "a", "b") for n in range(20)]
    source = write(tmp_path / "pairs.jsonl", [*good, *bad])
    result = fix(source, tmp_path / "a.jsonl", drop=("empty",), held_out=0.8)
    assert result.dropped == {}
    assert all(row in read(tmp_path / "a.jsonl") for row in bad)  # reported in training


def test_nothing_is_left_behind_by_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "pairs.jsonl", DIRTY)
    write(tmp_path / "clean.jsonl", ["before"])

    def broken(entry: Entry) -> bytes:
        raise RuntimeError("the power went")

    monkeypatch.setattr(Entry, "line", broken)
    with pytest.raises(RuntimeError):
        fix(source, tmp_path / "clean.jsonl", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean.jsonl", "pairs.jsonl"]
    assert (tmp_path / "clean.jsonl").read_text() == "before\n"


@pytest.mark.parametrize("after", [["c", "b"], ["b"], ["b", "b", "b"]])
def test_a_file_that_changes_in_between_is_noticed(
    after: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "pairs.jsonl", [pair(f"p{n}", "a", "b") for n in range(2)])
    decide = fixing._Copying.decide

    def decide_and_change(self: Any) -> None:
        decide(self)
        write(source, [pair(f"p{n}", "a", rejected) for n, rejected in enumerate(after)])

    monkeypatch.setattr(fixing._Copying, "decide", decide_and_change)
    with pytest.raises(DataError, match="changed while it was read"):
        fix(source, tmp_path / "clean.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_row_that_is_lost_in_copying_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(Counter):  # type: ignore[type-arg]
        """Counts at most one of a kind."""

        def __setitem__(self, key: Any, value: int) -> None:
            super().__setitem__(key, min(value, 1))

    source = write(tmp_path / "pairs.jsonl", [pair("p", "a", "b"), pair("q", "a", "b")])
    monkeypatch.setattr(fixing, "Counter", Forgetful)
    with pytest.raises(AssertionError, match="2 rows"):
        fix(source, tmp_path / "clean.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_folder_of_data_gets_no_new_file(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.jsonl", DIRTY)
    with pytest.raises(ConfigError, match="become a part of it"):
        fix(folder, folder / "clean.jsonl")
    dangling = tmp_path / "dangling.jsonl"  # a link is written through
    dangling.symlink_to(tmp_path / "clean.jsonl")
    assert fix(folder, dangling).written == 2
    assert dangling.is_symlink()
    assert len(read(tmp_path / "clean.jsonl")) == 2


def test_a_data_set_of_faults_alone_leaves_no_file(tmp_path: Path) -> None:
    source = write(tmp_path / "pairs.jsonl", [pair("p", "", "b"), "{"])
    with pytest.raises(DataError, match="none of 2 rows"):
        fix(source, tmp_path / "clean.jsonl")
    write(source, [pair(f"p{n}", "longer", "b") for n in range(5)])
    with pytest.raises(DataError, match="in all 5 pairs"):
        fix(source, tmp_path / "clean.jsonl", balance="length")
    write(source, [{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}])
    with pytest.raises(DataError, match="token ids"):
        fix(source, tmp_path / "clean.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_rows_are_what_they_were(tmp_path: Path, hh_rows: list[Values]) -> None:
    source = write(tmp_path / "pairs.jsonl", hh_rows)
    result = fix(source, tmp_path / "c.jsonl.gz")
    dropped = {change["row"] - 1 for change in ledger(result)}
    assert read(tmp_path / "c.jsonl.gz") == [r for n, r in enumerate(hh_rows) if n not in dropped]
    assert result.dropped["empty_chosen"] == sum(
        not row["chosen"].rpartition("\n\nAssistant:")[2].strip() for row in hh_rows
    )
