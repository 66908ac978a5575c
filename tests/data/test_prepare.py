"""Every row is accounted for: rows in = kept + dropped by a named reason, whatever the rows are."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import datasets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.build import Values, assistant, rows_of, user
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.data.lengths import LengthPolicy, TooLongError
from orpo.data.prepare import Preparation, StreamedPairs, is_prepared
from orpo.data.sources import iterate_dataset
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import COLUMNS, Ledger, TokenizedPair
from orpo.errors import DataError

HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How?\n\nAssistant:"
PROMPT = {"prompt": "Why is it so?", "chosen": "Because.", "rejected": "No idea.\n"}
TALK = {
    "prompt": [user("Why?"), assistant("Why what?"), user("Life.")],
    "chosen": [assistant("42")],
    "rejected": [assistant("</s> 41")],
}
IDS = {"prompt_ids": [5, 6], "chosen_ids": [7, 2], "rejected_ids": [8, 9, 2]}
# A row, its format, and how an instruct and a base tokenizer render it.
GOOD: dict[str, tuple[Values, str, str, str]] = {
    "prompt": (PROMPT, "prompt", "plain text", "plain text"),
    "messages": (TALK, "prompt", "chat template", "chat template"),
    "implicit": (
        {"chosen": [user("你好"), assistant("好!")], "rejected": [user("你好"), assistant("?")]},
        *("implicit", "chat template", "chat template"),
    ),
    "hh": ({"chosen": f"{HH} Well.", "rejected": f"{HH} Go."}, "hh", "chat template", "plain text"),
    "alpaca": (
        {"instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"},
        *("alpaca", "chat template", "plain text"),
    ),
    "tokenised": (IDS, "already tokenised", "", ""),
    "trl": (
        {
            "prompt_input_ids": [5, 6],
            "chosen_input_ids": [5, 6, 7, 2],
            "chosen_labels": [-100, -100, 7, 2],
            "rejected_input_ids": [5, 6, 8, 9, 2],
        },
        *("already tokenised", "", ""),
    ),
}


class Bad(NamedTuple):
    """A row, and the reason under which it must be dropped; empty if it is kept."""

    values: Values
    reason: str


MIXTURE: list[Bad] = [
    *(Bad({**PROMPT, "chosen": f"answer {i}"}, "") for i in range(6)),
    Bad({**PROMPT, "prompt": "long " * 60}, "prompt_too_long"),
    Bad({**PROMPT, "chosen": "long " * 60}, ""),  # cut, kept
    Bad({**PROMPT, "chosen": ""}, "empty_chosen"),
    Bad({**PROMPT, "rejected": " \n"}, "empty_rejected"),
    Bad({**PROMPT, "prompt": ""}, "empty_prompt"),
    Bad({**PROMPT, "rejected": PROMPT["chosen"]}, "identical_answers"),
    Bad({**PROMPT, "chosen": None}, "malformed"),
    Bad({**PROMPT, "prompt": float("nan")}, "malformed"),
    Bad({**PROMPT, "chosen": "\ud800"}, "malformed"),
    Bad({"prompt": "only"}, "malformed"),
    Bad({}, "malformed"),
    Bad({**PROMPT, "chosen": [["nested"]]}, "malformed"),
    Bad({**PROMPT, "weight": 0}, "zero_weight"),
    Bad({**PROMPT, "prompt": [user("a"), {"role": "nobody", "content": "b"}]}, ""),
]
mixtures = st.lists(st.sampled_from(MIXTURE), min_size=1, max_size=25)


@pytest.fixture(scope="module")
def drop(small_tokenizer: Tokenizer) -> Preparation:
    return Preparation(PairTokenizer(small_tokenizer, LengthPolicy(64)), on_bad_row="drop")


@pytest.fixture(scope="module")
def strict(small_tokenizer: Tokenizer) -> Preparation:
    return Preparation(PairTokenizer(small_tokenizer, LengthPolicy(64)))


def adds_up(ledger: Ledger, rows: int) -> bool:
    return ledger.rows_in == rows == ledger.kept + sum(ledger.dropped.values())


def account(prepare: Preparation, rows: list[Values]) -> Ledger:
    return prepare(rows_of(rows), "d")[1]


@pytest.mark.parametrize("name", GOOD)
def test_every_format_is_prepared(
    name: str, strict: Preparation, plain_tokenizer: Tokenizer
) -> None:
    values, form, chat, plain = GOOD[name]
    base = Preparation(PairTokenizer(plain_tokenizer, LengthPolicy()))
    for prepare, rendering in ((strict, chat), (base, plain)):
        dataset, ledger = prepare(rows_of([values] * 3), "train_dataset")
        assert (ledger.rows_in, ledger.kept, ledger.dropped) == (3, 3, Counter())
        assert (ledger.format, ledger.rendering) == (form, rendering)
        assert tuple(dataset.column_names) == COLUMNS
        assert is_prepared(dataset)
        assert dataset["row"] == [0, 1, 2]
        assert all(dataset[0][name] for name in COLUMNS[:3])
    for raw in (datasets.Dataset.from_list([PROMPT]), [PROMPT], None):
        assert not is_prepared(raw)


def fault(ledger: Ledger, rows: list[Bad]) -> str:
    """What is wrong with an account of these rows; empty if nothing."""
    if not adds_up(ledger, len(rows)):
        return "it does not add up"
    if ledger.dropped != Counter(row.reason for row in rows if row.reason):
        return f"dropped {dict(ledger.dropped)}"
    for reason, examples in ledger.examples.items():
        places = [f"d row {i}" for i, row in enumerate(rows) if row.reason == reason]
        if [example.where.partition(",")[0] for example in examples] != places[:3]:
            return f"the first rows of {reason} are not named"
    return ""


class TestLedger:
    @given(mixtures, st.booleans())
    def test_every_row_is_kept_or_dropped_by_its_reason(
        self, drop: Preparation, rows: list[Bad], good_first: bool
    ) -> None:
        """Also where rows that cannot be read come first: they decide no format."""
        good = [MIXTURE[0]] * (len(rows) + 1)  # most can be read
        unread = [row for row in rows if row.reason in ("", "malformed")]
        rows = [*good, *rows] if good_first else [*unread, *good]
        values, kept = [row.values for row in rows], [i for i, r in enumerate(rows) if not r.reason]
        dataset, ledger = drop(rows_of(values), "d")
        assert fault(ledger, rows) == ""
        assert dataset["row"] == kept
        streamed = StreamedPairs(lambda: iterate_dataset(values, "d"), drop, "d")
        assert is_prepared(streamed)
        for _ in range(2):  # each pass counts afresh, in the same account
            assert list(streamed) == [dataset[i] for i in range(len(dataset))]
            assert streamed.ledger == ledger

    def test_the_check_rejects_planted_mistakes(self, drop: Preparation) -> None:
        rows = [row.values for row in MIXTURE]
        assert fault(account(drop, rows), MIXTURE) == ""
        for change in (
            lambda ledger: setattr(ledger, "kept", ledger.kept + 1),
            lambda ledger: setattr(ledger, "rows_in", ledger.rows_in - 1),
            lambda ledger: ledger.dropped.update(["malformed"]),
            lambda ledger: ledger.dropped.update({"malformed": -1, "other": 1}),
            lambda ledger: ledger.examples["malformed"].pop(),
        ):
            ledger = account(drop, rows)
            change(ledger)
            assert fault(ledger, MIXTURE) != ""

    def test_the_summary_is_one_line_with_the_first_places(self, drop: Preparation) -> None:
        ledger = account(drop, [row.values for row in MIXTURE])
        summary = ledger.summary()
        assert "\n" not in summary
        assert f"d (prompt, plain text + chat template): {len(MIXTURE)} rows = " in summary
        assert f"{ledger.kept} kept + {len(MIXTURE) - ledger.kept} dropped" in summary
        assert "1 empty_chosen (first: d row 8)" in summary
        plain = json.loads(json.dumps(ledger.as_dict()))
        assert plain["rows_in"] == plain["kept"] + sum(plain["dropped"].values())
        assert len(plain["dropped_examples"]["malformed"]) == 3
        assert Ledger.from_dict(plain) == ledger
        long = {**PROMPT, "rejected": "long " * 60}
        cut = account(drop, [PROMPT, long, {**long, "chosen": "x " * 99}])
        assert cut.cut == Counter(rejected=2, chosen=1)
        assert "cut: 2 rejected, 1 chosen" in cut.summary()


class TestStrict:
    @pytest.mark.parametrize("values", [row.values for row in MIXTURE if row.reason == "malformed"])
    def test_a_malformed_row_stops_with_its_place(
        self, values: Values, strict: Preparation
    ) -> None:
        with pytest.raises(DataError, match=r"^d row 2[^\n]*$"):
            account(strict, [PROMPT, PROMPT, values])

    def test_rows_of_another_kind(self, strict: Preparation, drop: Preparation) -> None:
        with pytest.raises(DataError, match="d row 0: no column 'chosen' and no column 'rejected'"):
            account(strict, [{"text": "a"}])
        nothing, other = {"chosen": None, "rejected": None}, {"chosen": "x", "rejected": "y"}
        ledger = account(drop, [nothing, other, *[GOOD["hh"][0]] * 2])
        assert (ledger.format, ledger.kept) == ("hh", 2)  # no transcript decides nothing
        assert ledger.dropped == Counter(malformed=2)
        ledger = account(drop, [IDS, PROMPT, IDS])
        assert (ledger.kept, ledger.dropped) == (2, Counter(malformed=1))
        ledger = account(drop, [IDS, {**IDS, "chosen_ids": ["a"]}, IDS])
        assert (ledger.kept, ledger.dropped) == (2, Counter(malformed=1))
        with pytest.raises(DataError, match="d row 1, field 'chosen_ids'"):
            account(strict, [IDS, {**IDS, "chosen_ids": ["a"]}])

    def test_no_pair_left_says_why(self, drop: Preparation) -> None:
        with pytest.raises(DataError, match=r"^[^\n]*no pair is left to train on[^\n]*$") as caught:
            account(drop, [{**PROMPT, "prompt": "long " * 60}] * 4)
        assert "4 prompt_too_long (first: d row 0) (prompt " in str(caught.value)

    @pytest.mark.parametrize(
        ("rows", "said"), [([], "no pair is left"), ([{}], "d row 0: 1 of 1 rows cannot be read")]
    )
    def test_nothing_at_all(
        self, rows: list[Values], said: str, drop: Preparation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(DataError, match=said):
            account(drop, rows)
        streamed = StreamedPairs(lambda: iterate_dataset(rows, "d"), drop, "d")
        with pytest.raises(DataError, match=said):
            list(streamed)
        # A worker of a data loader without rows leaves it to the others.
        monkeypatch.setattr(torch.utils.data, "get_worker_info", object)
        if not rows:
            assert list(streamed) == []

    @pytest.mark.parametrize("on_bad_row", ["error", "drop"])
    def test_too_long_stops_where_it_should(
        self, on_bad_row: str, small_tokenizer: Tokenizer
    ) -> None:
        tokenize = PairTokenizer(small_tokenizer, LengthPolicy(20, None, "error"))
        long = {**IDS, "chosen_ids": [7] * 60}
        for rows in ([{**PROMPT, "prompt": "a"}, {**PROMPT, "chosen": "long " * 60}], [IDS, long]):
            with pytest.raises(TooLongError, match="d row 1: the pair is too long"):
                account(Preparation(tokenize, on_bad_row), rows)


class TestStreaming:
    def test_rows_are_tokenised_as_they_pass(self, drop: Preparation) -> None:
        taken = 0

        def source() -> Iterator[Values]:
            nonlocal taken
            while True:
                taken += 1
                yield PROMPT

        stream = drop.stream(iterate_dataset(source(), "d"), Ledger("d"))
        for _ in range(5):
            assert isinstance(next(stream), TokenizedPair)
        assert taken == 7  # a chunk of one, of two, of four: the beginning is there at once

    def test_a_pass_that_stops_early_has_counted_so_far(self, drop: Preparation) -> None:
        rows = [PROMPT, {**PROMPT, "chosen": ""}, PROMPT, PROMPT]
        streamed = StreamedPairs(lambda: iterate_dataset(rows, "d"), drop, "d")
        passing = iter(streamed)
        next(passing)
        next(passing)
        assert adds_up(streamed.ledger, 3)
