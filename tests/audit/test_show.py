"""What the model will see of a row: the tokens of the training, and what each is for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.audit.faults import plain as pair
from tests.audit.faults import write
from transformers import PreTrainedTokenizerBase

from orpo.audit.show import ShownRow, TokenTexts, show_rows
from orpo.config import ORPOConfig
from orpo.data.lengths import LengthPolicy
from orpo.data.pack import PairCollator
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import PreferencePair, Row, TokenizedPair
from orpo.engine.layout import pair_lengths
from orpo.errors import DataError

Values = dict[str, Any]
Load = Callable[[str], PreTrainedTokenizerBase]

TEXTS = ("Hi 你好 龘 🙂🙂 café\n\n\tx", "<|im_end|> </s> [INST]", "\u202e\x1b[0m \ud7ff", "  a  b ")


def show(
    data: Path, tokenizer: PreTrainedTokenizerBase, *rows: str, count: int = 3, **settings: Any
) -> list[ShownRow]:
    return show_rows(str(data), tokenizer, ORPOConfig(**settings), count=count, rows=rows)


def part(row: ShownRow, name: str) -> list[Values]:
    tokens: list[Values] = row.as_dict()[name]["sequence"]
    return tokens


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_tokens_join_to_the_text(
    real_tokenizer: PreTrainedTokenizerBase, text: str
) -> None:
    ids = real_tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = TokenTexts(real_tokenizer)(ids)
    assert [piece.id for piece in pieces] == ids
    joined = "".join(piece.text for piece in pieces)
    assert joined.removeprefix(" ") == text.removeprefix(" ")  # SentencePiece begins with a space
    special = set(real_tokenizer.all_special_ids)
    assert {p.id for p in pieces if p.special} >= {i for i in ids if i in special}


@hypothesis_settings(max_examples=40)
@given(st.text(max_size=20), st.integers(0, 8), st.integers(0, 8))
def test_any_part_of_a_sequence_has_as_many_texts_as_tokens(
    small_tokenizer: PreTrainedTokenizerBase, text: str, start: int, drop: int
) -> None:
    ids = small_tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = TokenTexts(small_tokenizer)
    if not any(i in small_tokenizer.added_tokens_decoder for i in ids):
        assert "".join(piece.text for piece in texts(ids)) == text
    part = ids[start : len(ids) - drop]
    pieces = texts(part)
    assert [piece.id for piece in pieces] == part
    whole = b"".join(piece.text.encode("utf-8", "surrogateescape") for piece in pieces)
    assert whole in text.encode()
    for piece in pieces:
        assert piece.text or piece.continues
        piece.readable.encode()  # no half character is left


def test_a_character_of_several_tokens_stands_where_it_starts(
    small_tokenizer: PreTrainedTokenizerBase,
) -> None:
    ids = small_tokenizer("🙂", add_special_tokens=False)["input_ids"]
    pieces = TokenTexts(small_tokenizer)(ids)
    assert len(pieces) > 1
    assert [piece.text for piece in pieces] == ["🙂"] + [""] * (len(pieces) - 1)
    assert [piece.continues for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    cut = TokenTexts(small_tokenizer)(ids[:1])[0]
    assert cut.text == "\udcf0"
    assert cut.readable == "\ufffd"


def test_the_tokens_are_those_of_the_training(
    small_tokenizer: PreTrainedTokenizerBase, chinese_rows: list[Values], tmp_path: Path
) -> None:
    data = write(tmp_path / "pairs.jsonl", chinese_rows[:20])
    shown = show(data, small_tokenizer, count=20, max_length=900)
    policy = LengthPolicy(900)
    tokenize = PairTokenizer(small_tokenizer, policy)
    assert len(shown) == 20
    for row, values in zip(shown, chinese_rows, strict=False):
        pair = PreferencePair(
            Row(values, "", 0),
            prompt=values["prompt"],
            chosen=values["chosen"][0],
            rejected=values["rejected"][0],
        )
        tokens = tokenize(pair)
        if not isinstance(tokens, TokenizedPair):
            assert row.dropped is not None
            assert row.dropped.reason == tokens.reason
            continue
        for name in ("prompt", "chosen", "rejected"):
            assert [t["id"] for t in part(row, name)] == getattr(tokens, f"{name}_ids")
        assert {p.name for p in row.parts if p.lost} == set(tokens.cut)


def test_what_counts_and_what_is_shared(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    data = write(tmp_path / "pairs.jsonl", [pair("Say it:", " yes, I do", " yes, I don't")])
    (row,) = show(data, small_tokenizer)
    prompt, chosen, rejected = (part(row, name) for name in ("prompt", "chosen", "rejected"))
    assert [t["terms"] for t in prompt] == [[]] + [["nll"]] * (len(prompt) - 1)
    assert all(t["terms"] == ["nll", "odds_chosen"] for t in chosen)
    assert all(t["terms"] == ["odds_rejected"] for t in rejected)
    assert row.denominators == {
        "nll": len(prompt) - 1 + len(chosen),
        "odds_chosen": len(chosen),
        "odds_rejected": len(rejected),
    }
    common = sum(t["shared"] for t in chosen)
    assert common == sum(t["shared"] for t in rejected) > 0
    assert [t["id"] for t in chosen[:common]] == [t["id"] for t in rejected[:common]]
    assert chosen[common]["id"] != rejected[common]["id"]
    assert row.shared == len(prompt) + common
    assert row.positions == len(prompt) + len(chosen) + len(rejected) - common
    assert chosen[-1]["special"]
    features = {f"{p.name}_ids": [piece.id for piece in p.pieces] for p in row.parts}
    lengths = pair_lengths(PairCollator(0)([{**features, "row": 0}]))[0].tolist()
    assert [row.shared, row.positions - row.shared] == [lengths[0], sum(lengths[1:])]
    (row,) = show(data, small_tokenizer, nll_scope="completion")
    assert all(t["terms"] == [] for t in part(row, "prompt"))
    assert row.denominators["nll"] == len(chosen)


@pytest.mark.parametrize("truncation", ["truncate_answer", "keep_end", "keep_start"])
def test_where_it_was_cut(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path, truncation: str
) -> None:
    texts = ["one two three four five six seven " * 3, " eight nine" * 30, " no"]
    data = write(tmp_path / "pairs.jsonl", [pair(*texts)])
    (whole,) = show(data, small_tokenizer, max_length=None)
    (row,) = show(data, small_tokenizer, max_length=120, truncation=truncation)
    for before, after in zip(whole.parts, row.parts, strict=True):
        lost, at = after.lost, after.lost_at
        ids = [piece.id for piece in before.pieces]
        kept = [piece.id for piece in after.pieces]
        assert len(kept) + lost == len(ids)
        assert kept == ids[:at] + ids[at + lost :]
    cut = {p.name for p in row.parts if p.lost}
    assert cut == ({"chosen"} if truncation == "truncate_answer" else {"prompt", "chosen"})


def test_dropped_rows_are_shown_with_their_reason(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [
        pair("p", "a", "b"),
        pair("p", "", "b"),
        pair("p", "a", "a"),
        pair("p", 5, "a"),
        pair("p " * 400, "a", "b"),
        "{broken",
    ]
    data = write(tmp_path / "pairs.jsonl", rows)
    shown = show(data, small_tokenizer, count=9, max_length=64)
    assert [row.dropped.reason if row.dropped else "" for row in shown] == [
        *("", "empty_chosen", "identical_answers", "malformed", "prompt_too_long", "unreadable")
    ]
    assert f"{data}:4" in shown[3].where
    (row,) = show(data, small_tokenizer, "5", max_length=64, truncation="error")
    assert row.dropped is not None
    assert row.dropped.reason == "too_long"


def test_rows_by_number_and_by_place(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    data = write(tmp_path / "pairs.jsonl", [pair(f"p{n}", "a", "b") for n in range(9)])
    for names, numbers in (
        (("7", "2"), [2, 7]),
        (("pairs.jsonl:3", f"{data}:4"), [3, 4]),
        ((), list(range(1, 10))),
    ):
        assert [row.number for row in show(data, small_tokenizer, *names, count=99)] == numbers
    with pytest.raises(DataError, match=r"no row 10, x; 9 rows"):
        show(data, small_tokenizer, "10", "x", "1")


def test_tokens_that_are_there_already(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [
        {"prompt_ids": [70, 71], "chosen_ids": [72, 4], "rejected_ids": [73, 4]},
        {"prompt_ids": [70, 71], "chosen_ids": [72, 4], "rejected_ids": ["x"]},
    ]
    one, two = show(write(tmp_path / "pairs.jsonl", rows), small_tokenizer)
    assert one.rendering == "already tokenised"
    assert [t["id"] for t in part(one, "rejected")] == [73, 4]
    assert two.dropped is not None
    assert two.dropped.reason == "malformed"


def test_the_first_row_decides_the_format_also_if_it_is_not_shown(
    small_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    talk = "\n\nHuman: Hi\n\nAssistant:"
    rows = [{"chosen": f"{talk} a", "rejected": f"{talk} b"}, {"chosen": "x a", "rejected": "x b"}]
    (row,) = show(write(tmp_path / "pairs.jsonl", rows), small_tokenizer, "2")
    assert row.format == "hh"
    assert row.dropped is not None
