"""Every row is accounted for: rows in = kept + dropped by a named reason, whatever the rows are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.build import Values, as_row, assistant, user
from transformers import PreTrainedTokenizerBase

from orpo.data.columns import UndecidedError, recognise
from orpo.data.lengths import LengthPolicy, TooLongError
from orpo.data.prepare import Preparation, StreamedPairs, is_prepared
from orpo.data.reading import PairReader, is_tokenised
from orpo.data.sources import iterate_dataset
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import COLUMNS, Dropped, Ledger, TokenizedPair
from orpo.errors import DataError, UserError

Tokenizer = PreTrainedTokenizerBase


GOOD: dict[str, Values] = {
    "prompt": {"prompt": "Why is it so?", "chosen": "Because.", "rejected": "No idea.\n"},
    "messages": {
        "prompt": [user("Why?"), assistant("Why what?"), user("Life.")],
        "chosen": [assistant("42")],
        "rejected": [assistant("</s> 41")],
    },
    "ultrafeedback": {
        "prompt": "Why?",
        "chosen": [user("Why?"), assistant("So.")],
        "rejected": [user("Why?"), assistant("No.")],
    },
    "implicit": {
        "chosen": [user("你好"), assistant("你好!")],
        "rejected": [user("你好"), assistant("什么?")],
    },
    "hh": {
        "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How?\n\nAssistant: Well.",
        "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How?\n\nAssistant: Go.",
    },
    "alpaca": {"instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"},
    "tokenised": {"prompt_ids": [5, 6], "chosen_ids": [7, 2], "rejected_ids": [8, 9, 2]},
    "trl": {
        "prompt_input_ids": [5, 6],
        "chosen_input_ids": [5, 6, 7, 2],
        "chosen_labels": [-100, -100, 7, 2],
        "rejected_input_ids": [5, 6, 8, 9, 2],
        "rejected_labels": [-100, -100, 8, 9, 2],
    },
}


class Bad(NamedTuple):
    """A row that is no pair, and the reason under which it must be counted."""

    values: Values
    reason: str


PROMPT = GOOD["prompt"]
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
    Bad({**PROMPT, "prompt": [user("a"), {"role": "nobody", "content": "b"}]}, ""),
]


@pytest.fixture(scope="module")
def drop(small_tokenizer: Tokenizer) -> Preparation:
    return Preparation(PairTokenizer(small_tokenizer, LengthPolicy(64)), on_bad_row="drop")


@pytest.fixture(scope="module")
def strict(small_tokenizer: Tokenizer) -> Preparation:
    return Preparation(PairTokenizer(small_tokenizer, LengthPolicy(64)))


def adds_up(ledger: Ledger, rows: int) -> bool:
    return ledger.rows_in == rows == ledger.kept + sum(ledger.dropped.values())


@pytest.mark.parametrize("name", GOOD)
def test_every_format_is_prepared(name: str, strict: Preparation) -> None:
    dataset, ledger = strict(iterate_dataset([GOOD[name]] * 3, "train_dataset"), "train_dataset")
    assert (ledger.rows_in, ledger.kept, ledger.dropped) == (3, 3, Counter())
    assert tuple(dataset.column_names) == COLUMNS
    assert is_prepared(dataset)
    assert dataset["row"] == [0, 1, 2]
    assert all(dataset[0][name] for name in COLUMNS[:3])
    assert ledger.format in ("prompt", "implicit", "hh", "alpaca", "already tokenised")


def test_formats_and_renderings_are_told(strict: Preparation, plain_tokenizer: Tokenizer) -> None:
    base = Preparation(PairTokenizer(plain_tokenizer, LengthPolicy()))
    told = {
        (name, kind): preparation(iterate_dataset([GOOD[name]], "d"), "d")[1]
        for name in ("hh", "prompt", "messages", "tokenised")
        for kind, preparation in (("instruct", strict), ("base", base))
    }
    assert {key: (ledger.format, ledger.rendering) for key, ledger in told.items()} == {
        ("hh", "instruct"): ("hh", "chat template"),
        ("hh", "base"): ("hh", "plain text"),
        ("prompt", "instruct"): ("prompt", "plain text"),
        ("prompt", "base"): ("prompt", "plain text"),
        ("messages", "instruct"): ("prompt", "chat template"),
        ("messages", "base"): ("prompt", "chat template"),
        ("tokenised", "instruct"): ("already tokenised", ""),
        ("tokenised", "base"): ("already tokenised", ""),
    }


mixtures = st.lists(st.sampled_from(MIXTURE), min_size=1, max_size=25)


def expected(rows: list[Bad]) -> Counter[str]:
    """Reasons and their numbers; the first readable row decides the format."""
    return Counter(row.reason for row in rows if row.reason)


def fault(ledger: Ledger, rows: list[Bad]) -> str:
    """What is wrong with an account of these rows; empty if nothing."""
    if not adds_up(ledger, len(rows)):
        return "it does not add up"
    if ledger.dropped != expected(rows):
        return f"dropped {dict(ledger.dropped)}"
    for reason, examples in ledger.examples.items():
        places = [f"d row {i}" for i, row in enumerate(rows) if row.reason == reason]
        if [example.where.partition(",")[0] for example in examples] != places[:3]:
            return f"the first rows of {reason} are not named"
    return ""


class TestLedger:
    @given(mixtures)
    def test_every_row_is_kept_or_dropped_by_its_reason(
        self, drop: Preparation, rows: list[Bad]
    ) -> None:
        rows = [*[MIXTURE[0]] * (len(rows) + 1), *rows]  # most can be read
        dataset, ledger = drop(iterate_dataset([row.values for row in rows], "d"), "d")
        assert fault(ledger, rows) == ""
        assert dataset["row"] == [i for i, row in enumerate(rows) if not row.reason]

    @given(mixtures)
    def test_the_order_of_good_and_bad_rows_is_free(
        self, drop: Preparation, rows: list[Bad]
    ) -> None:
        # Rows with answers that cannot be read come first now and then; the format is that of the
        # first row that can be read, so nothing before it may decide.
        rows = [row for row in rows if row.reason in ("", "malformed")]
        rows += [MIXTURE[0]] * (len(rows) + 1)
        ledger = Ledger("d")
        for _ in drop.stream(iterate_dataset([row.values for row in rows], "d"), ledger):
            pass
        assert fault(ledger, rows) == ""

    @given(mixtures)
    def test_a_stream_counts_each_pass_afresh(self, drop: Preparation, rows: list[Bad]) -> None:
        rows = [*[MIXTURE[0]] * (len(rows) + 1), *rows]  # most can be read
        values = [row.values for row in rows]
        streamed = StreamedPairs(lambda: iterate_dataset(values, "d"), drop, "d")
        assert is_prepared(streamed)
        ledger = streamed.ledger
        for _ in range(2):
            pairs = list(streamed)
            assert streamed.ledger is ledger
            assert fault(ledger, rows) == ""
            assert [pair["row"] for pair in pairs] == [
                i for i, row in enumerate(rows) if not row.reason
            ]
        dataset, _ = drop(iterate_dataset(values, "d"), "d")
        assert [dataset[i] for i in range(len(dataset))] == pairs

    def test_the_check_rejects_planted_mistakes(self, drop: Preparation) -> None:
        def account(rows: list[Bad]) -> Ledger:
            return drop(iterate_dataset([row.values for row in rows], "d"), "d")[1]

        assert fault(account(MIXTURE), MIXTURE) == ""
        for change in (
            lambda ledger: setattr(ledger, "kept", ledger.kept + 1),
            lambda ledger: setattr(ledger, "rows_in", ledger.rows_in - 1),
            lambda ledger: ledger.dropped.update(["malformed"]),
            lambda ledger: ledger.dropped.update({"malformed": -1, "other": 1}),
            lambda ledger: ledger.examples["malformed"].pop(),
        ):
            ledger = account(MIXTURE)
            change(ledger)
            assert fault(ledger, MIXTURE) != ""

    def test_cuts_are_counted(self, drop: Preparation) -> None:
        long = {**PROMPT, "rejected": "long " * 60}
        _, ledger = drop(iterate_dataset([PROMPT, long, {**long, "chosen": "x " * 99}], "d"), "d")
        assert ledger.cut == Counter(rejected=2, chosen=1)
        assert "cut: 2 rejected, 1 chosen" in ledger.summary()

    def test_the_summary_is_one_line_with_the_first_places(self, drop: Preparation) -> None:
        _, ledger = drop(iterate_dataset([row.values for row in MIXTURE], "d"), "d")
        summary = ledger.summary()
        assert "\n" not in summary
        assert f"d (prompt, plain text + chat template): {len(MIXTURE)} rows = " in summary
        assert f"{ledger.kept} kept + {len(MIXTURE) - ledger.kept} dropped" in summary
        assert "1 empty_chosen (first: d row 8)" in summary

    def test_the_account_is_json(self, drop: Preparation) -> None:
        _, ledger = drop(iterate_dataset([row.values for row in MIXTURE], "d"), "d")
        account = json.loads(json.dumps(ledger.as_dict()))
        assert account["rows_in"] == account["kept"] + sum(account["dropped"].values())
        assert len(account["dropped_examples"]["malformed"]) == 3


class TestStrict:
    @pytest.mark.parametrize(
        "index", [i for i, row in enumerate(MIXTURE) if row.reason == "malformed"]
    )
    def test_a_malformed_row_stops_with_its_place(self, index: int, strict: Preparation) -> None:
        rows = [PROMPT, PROMPT, MIXTURE[index].values]
        with pytest.raises(DataError) as caught:
            strict(iterate_dataset(rows, "d"), "d")
        assert str(caught.value).startswith("d row 2")
        assert "\n" not in str(caught.value)

    def test_a_first_row_without_the_columns(self, strict: Preparation) -> None:
        with pytest.raises(DataError, match="d row 0: no column 'chosen' and no column 'rejected'"):
            strict(iterate_dataset([{"text": "a"}], "d"), "d")

    def test_a_first_row_that_is_no_transcript_decides_nothing(self, drop: Preparation) -> None:
        rows = [{"chosen": None, "rejected": None}, {"chosen": "x", "rejected": "y"}]
        rows += [GOOD["hh"]] * 2
        _, ledger = drop(iterate_dataset(rows, "d"), "d")
        assert (ledger.format, ledger.kept) == ("hh", 2)
        assert ledger.dropped == Counter(malformed=2)

    def test_a_row_of_another_kind_is_malformed(self, drop: Preparation) -> None:
        rows = [GOOD["tokenised"], PROMPT, GOOD["tokenised"]]
        _, ledger = drop(iterate_dataset(rows, "d"), "d")
        assert (ledger.kept, ledger.dropped) == (2, Counter(malformed=1))

    def test_no_pair_left_says_why(self, drop: Preparation) -> None:
        rows = [{**PROMPT, "prompt": "long " * 60}] * 4
        with pytest.raises(DataError) as caught:
            drop(iterate_dataset(rows, "d"), "d")
        message = str(caught.value)
        assert "no pair is left to train on" in message
        assert "4 prompt_too_long (first: d row 0) (prompt " in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("rows", "said"), [([], "no pair is left"), ([{}], "d row 0: 1 of 1 rows cannot be read")]
    )
    def test_nothing_at_all(self, rows: list[Values], said: str, drop: Preparation) -> None:
        with pytest.raises(DataError, match=said):
            drop(iterate_dataset(rows, "d"), "d")
        with pytest.raises(DataError, match=said):
            list(StreamedPairs(lambda: iterate_dataset(rows, "d"), drop, "d"))

    def test_a_worker_without_rows_is_no_mistake(
        self, drop: Preparation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.utils.data, "get_worker_info", object)
        assert list(StreamedPairs(lambda: iter(()), drop, "d")) == []
        with pytest.raises(DataError, match="1 of 1 rows cannot be read"):
            list(StreamedPairs(lambda: iterate_dataset([{}], "d"), drop, "d"))

    @pytest.mark.parametrize("on_bad_row", ["error", "drop"])
    def test_too_long_stops_where_it_should(
        self, on_bad_row: str, small_tokenizer: Tokenizer
    ) -> None:
        tokenize = PairTokenizer(small_tokenizer, LengthPolicy(20, None, "error"))
        rows = [{**PROMPT, "prompt": "a"}, {**PROMPT, "chosen": "long " * 60}]
        with pytest.raises(TooLongError, match="d row 1: the pair is too long"):
            Preparation(tokenize, on_bad_row)(iterate_dataset(rows, "d"), "d")

    def test_a_pass_that_stops_early_has_counted_so_far(self, drop: Preparation) -> None:
        rows = [PROMPT, {**PROMPT, "chosen": ""}, PROMPT, PROMPT]
        streamed = StreamedPairs(lambda: iterate_dataset(rows, "d"), drop, "d")
        passing = iter(streamed)
        next(passing)
        next(passing)
        assert adds_up(streamed.ledger, 3)


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

    def test_a_streaming_data_set_equals_the_map_style_one(self, drop: Preparation) -> None:
        rows = [{**PROMPT, "chosen": f"answer {i}" * (i % 7 > 0)} for i in range(40)]
        mapped = datasets.Dataset.from_list(rows)
        stream = mapped.to_iterable_dataset()
        whole, ledger = drop(iterate_dataset(mapped, "d"), "d")
        streamed = StreamedPairs(lambda: iterate_dataset(stream, "d"), drop, "d")
        assert list(streamed) == [whole[i] for i in range(len(whole))]
        assert streamed.ledger == ledger

    def test_a_data_loader_batches_a_stream(self, drop: Preparation) -> None:
        streamed = StreamedPairs(lambda: iterate_dataset([PROMPT] * 5, "d"), drop, "d")
        loader = torch.utils.data.DataLoader(streamed, batch_size=2, collate_fn=list)
        assert [[pair["row"] for pair in batch] for batch in loader] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("dataset", "answer"),
    [
        (datasets.Dataset.from_list([{name: [1] for name in COLUMNS}]), True),
        (datasets.Dataset.from_list([PROMPT]), False),
        ([PROMPT], False),
        (None, False),
    ],
    ids=["prepared", "raw", "list", "none"],
)
def test_is_prepared(dataset: Any, answer: bool) -> None:
    assert is_prepared(dataset) is answer


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 500),
    st.just(2**80),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\ud800", "\ue0f0</s>", "<|im_end|>", "\n\nAssistant:", "\n\nHuman: a", "\0"]),
    st.lists(st.integers(-2, 500) | st.none() | st.text(max_size=3), max_size=3),
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system", "tool", "gpt", 3])},
            optional={
                "content": st.none() | st.text(max_size=8) | st.just("</s>\udfff"),
                "tool_calls": st.none()
                | st.lists(st.dictionaries(st.text(), st.text()), max_size=2),
                "extra": st.text(max_size=3),
            },
        ),
        max_size=4,
    ),
)


@st.composite
def damaged_rows(draw: st.DrawFn) -> list[Values]:
    """Rows of one format with fields replaced, removed, swapped and added."""
    name = draw(st.sampled_from(sorted(GOOD)))
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        row = dict(GOOD[draw(st.sampled_from([name, name, name, "prompt"]))])
        for _ in range(draw(st.integers(0, 2))):
            field = draw(st.sampled_from([*row, "prompt", "input", "chosen"]))
            if draw(st.booleans()):
                row[field] = draw(junk)
            else:
                row.pop(field, None)
        rows.append(row)
    return rows


class TestNothingElseEscapes:
    """Whatever the data, the user gets pairs or one line that says what is wrong and where."""

    def prepare(self, preparation: Preparation, rows: Callable[[], Any]) -> Ledger | None:
        """The account of what was prepared, or None after a mistake that is the user's."""
        ledger, said, count, alone = Ledger("d"), "", 0, 0
        try:
            for pair in preparation.stream(rows(), ledger):
                assert pair.chosen_ids
                assert pair.prompt_ids
                alone += not pair.rejected_ids
                count += 1
        except UserError as error:
            said = str(error)
        if said:
            assert "\n" not in said
            said.encode()  # it can be printed
            return None
        assert (ledger.kept, ledger.nll_only) == (count, alone)
        return ledger

    @settings(max_examples=150)
    @given(damaged_rows())
    def test_damaged_rows(self, drop: Preparation, strict: Preparation, rows: list[Values]) -> None:
        ledger = self.prepare(drop, lambda: iterate_dataset(rows, "d"))
        # Each row is dropped by itself, unless it leaves open how all of them are to be read.
        assert adds_up(ledger, len(rows)) if ledger is not None else refused(rows)
        self.prepare(strict, lambda: iterate_dataset(rows, "d"))

    @settings(max_examples=20)
    @given(damaged_rows())
    def test_damaged_rows_with_real_templates(
        self, real_tokenizer: Tokenizer, rows: list[Values]
    ) -> None:
        preparation = Preparation(PairTokenizer(real_tokenizer, LengthPolicy(64)), "drop")
        ledger = self.prepare(preparation, lambda: iterate_dataset(rows, "d"))
        assert adds_up(ledger, len(rows)) if ledger is not None else refused(rows)


def refused(rows: list[Values]) -> bool:
    """Whether the rows as a whole are no data set: most cannot be read, or it is left open how."""
    read = PairReader(on_bad_row="drop")
    lost = 0
    for row in iterate_dataset(rows, "d"):
        if undecided(row.values):
            return True
        lost += is_tokenised(row.values) or isinstance(read(row), Dropped)
    return 2 * lost > len(rows)


def undecided(values: Values) -> bool:
    """Whether a row's columns may be read in several ways."""
    try:
        recognise(as_row(values))
    except UndecidedError:
        return True
    except DataError:
        return False
    return False
