"""What is said of a whole data set: its columns are clear, or reading it stops at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orpo.data import reading
from orpo.data.columns import UndecidedError, recognise
from orpo.data.reading import PairReader, ReadOnce
from orpo.data.types import Dropped, PreferencePair, Row, TextPair
from orpo.errors import DataError

Values = dict[str, Any]
GOOD: Values = {"prompt": "p", "chosen": "c", "rejected": "r"}
BOTH: Values = {"prompt": "p", "instruction": "i", "chosen": "c", "rejected": "r"}
TEXTS: Values = {"chosen": "It is so", "rejected": "It is not"}
UNPAIRED: Values = {"prompt": "p", "completion": "c", "label": True}


def as_row(values: Values) -> Row:
    return row(values)


def row(values: Values, index: int = 0) -> Row:
    return Row(values, f"pairs.jsonl:{index + 1}", index)


def refusal(values: Values, read: PairReader | None = None) -> str:
    with pytest.raises(DataError) as caught:
        (read or PairReader())(row(values))
    assert "\n" not in str(caught.value)
    assert "pairs.jsonl:1" in str(caught.value)
    return str(caught.value)


class TestPromptColumns:
    @pytest.mark.parametrize("name", ["prompt", "question", "query", "input"])
    def test_texts(self, name: str) -> None:
        pair = PairReader()(row({name: "Is it?", **TEXTS}))
        assert isinstance(pair, PreferencePair)
        assert pair.text == TextPair("Is it?", "It is so", "It is not")

    @pytest.mark.parametrize("name", ["query", "input"])
    def test_answers_and_rows_without_rejected(self, name: str) -> None:
        scored = PairReader()(row({name: "Is it?", "answers": ["a", "b"], "scores": [1, 2]}))
        alone = PairReader()(row({name: "Is it?", "chosen": "c"}))
        assert isinstance(scored, PreferencePair)
        assert isinstance(alone, PreferencePair)
        assert scored.text == TextPair("Is it?", "b", "a")
        assert alone.text == TextPair("Is it?", "c", None)

    def test_beside_an_instruction_the_input_belongs_to_it(self) -> None:
        assert recognise(as_row({"instruction": "i", "input": "x", **TEXTS})) == "alpaca"
        assert recognise(as_row({"instruction": "i", "query": "x", **TEXTS})) == "alpaca"

    def test_a_named_prompt_comes_first(self) -> None:
        pair = PairReader()(row({"prompt": "p", "input": "x", "query": "y", **TEXTS}))
        assert isinstance(pair, PreferencePair)
        assert pair.text is not None
        assert pair.text.prompt == "p"

    @pytest.mark.parametrize("name", ["query", "input"])
    def test_answers_that_hold_their_prompt_keep_it(self, name: str) -> None:
        opened = "\n\nHuman: a\n\nAssistant:"
        assert recognise(as_row({name: "x", "chosen": f"{opened} b", "rejected": "c"})) == "hh"
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        assert recognise(as_row({name: "x", "chosen": turns, "rejected": turns})) == "implicit"


class TestGuesses:
    @pytest.mark.parametrize("name", ["context", "user", "text", "Prompt", "post", "instructions"])
    @pytest.mark.parametrize("value", ["Is it?", [{"role": "user", "content": "Is it?"}]])
    @pytest.mark.parametrize("on_bad_row", ["error", "drop"])
    def test_a_column_of_text_may_be_the_prompt(
        self, name: str, value: Any, on_bad_row: str
    ) -> None:
        message = refusal({**TEXTS, name: value}, PairReader(on_bad_row=on_bad_row))
        assert f"field '{name}'" in message
        assert "Name the prompt's column 'prompt', or say data_format=implicit." in message

    def test_all_of_them_are_named(self) -> None:
        message = refusal({**TEXTS, "input": "a", "query": "b", "context": "c"})
        assert "'context', 'input', 'query'" in message

    @pytest.mark.parametrize(
        "name",
        [
            *("id", "prompt_id", "source", "category", "subset", "topic", "split", "lang"),
            *("language", "model", "chosen_model", "model_name", "score", "scores_by", "annotator"),
            *("meta", "metadata", "url", "date", "weight", "score_chosen"),
        ],
    )
    def test_what_is_said_about_a_row_is_no_prompt(self, name: str) -> None:
        assert recognise(as_row({**TEXTS, name: "words"})) == "implicit"

    @pytest.mark.parametrize("value", [None, "", " ", 7, "0.5", ["a"], {"a": "b"}, True])
    def test_what_is_no_text_is_no_prompt(self, value: Any) -> None:
        assert recognise(as_row({**TEXTS, "context": value})) == "implicit"

    def test_who_says_implicit_gets_it(self) -> None:
        read = PairReader("implicit")
        for name in ("context", "input"):
            pair = read(row({**TEXTS, name: "Is it?"}))
            assert isinstance(pair, PreferencePair)
            assert pair.text == TextPair("It is", " so", " not")

    def test_a_later_row_with_text_in_it_is_malformed(self) -> None:
        read = PairReader(on_bad_row="drop")
        assert isinstance(read(row({**TEXTS, "context": None})), PreferencePair)
        found = read(row({**TEXTS, "context": "Is it?"}, 1))
        assert isinstance(found, Dropped)
        assert (found.reason, found.where) == ("malformed", "pairs.jsonl:2, field 'context'")


class TestUnpairedFeedback:
    @pytest.mark.parametrize("label", [True, False, 1, 0, 1.0, "True", "false", "0"])
    @pytest.mark.parametrize("on_bad_row", ["error", "drop"])
    def test_it_is_refused(self, label: Any, on_bad_row: str) -> None:
        message = refusal({**UNPAIRED, "label": label}, PairReader(on_bad_row=on_bad_row))
        assert "unpaired feedback (column 'label') is not preference pairs" in message
        assert "Pair a wanted with an unwanted completion of the same prompt." in message

    def test_messages_too(self) -> None:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        assert "unpaired feedback" in refusal({"messages": turns, "label": False})

    @pytest.mark.parametrize(
        "values",
        [
            {**UNPAIRED, "label": None},
            {**UNPAIRED, "label": "sports"},
            {**GOOD, "label": True},
            {"prompt": "p", "completion": "c", "rejected": "r", "label": 1, "chosen": "c"},
            {"prompt": "p", "answers": ["a", "b"], "scores": [1, 2], "label": True},
        ],
    )
    def test_other_labels_are_no_feedback(self, values: Values) -> None:
        assert isinstance(PairReader()(row(values)), PreferencePair)

    def test_one_such_row_among_pairs_is_malformed(self) -> None:
        read = PairReader(on_bad_row="drop")
        read(row(GOOD))
        found = read(row(UNPAIRED, 1))
        assert isinstance(found, Dropped)
        assert "unpaired feedback" in found.detail
        assert isinstance(PairReader("prompt", "drop")(row(UNPAIRED)), Dropped)


class TestWholeDataSets:
    def test_columns_of_two_formats_are_no_bad_row(self) -> None:
        message = refusal(BOTH, PairReader(on_bad_row="drop"))
        assert "prompt or alpaca" in message
        assert "--data_format=prompt" in message

    def test_who_says_which_reads_them(self) -> None:
        assert isinstance(PairReader("alpaca", "drop")(row(BOTH)), PreferencePair)

    def test_a_row_of_two_formats_among_others_is_read_in_the_known_one(self) -> None:
        read = PairReader(on_bad_row="drop")
        read(row(GOOD))
        assert isinstance(read(row(BOTH, 1)), PreferencePair)
        assert read.format == "prompt"

    def test_ambiguous_columns_have_their_own_error(self) -> None:
        with pytest.raises(UndecidedError):
            recognise(as_row(BOTH))

    def test_rows_in_no_format_are_dropped_until_there_are_a_hundred(self) -> None:
        read = PairReader(on_bad_row="drop")
        strange = {"text": "a", "other": 1}
        for index in range(99):
            assert isinstance(read(row(strange, index)), Dropped)
        for empty in range(5):
            assert isinstance(read(row({}, empty)), Dropped)
        with pytest.raises(DataError) as caught:
            read(row(strange, 99))
        message = str(caught.value)
        assert message.startswith("pairs.jsonl:100: none of 100 rows is in a known format: ")
        assert "no column 'chosen' and no column 'rejected'; found 'other', 'text'" in message
        assert "\n" not in message

    def test_one_readable_row_is_enough(self) -> None:
        read = PairReader(on_bad_row="drop")
        for index in range(99):
            read(row({"text": "a"}, index))
        assert isinstance(read(row(GOOD, 99)), PreferencePair)
        for index in range(100, 300):
            found = read(row({"text": "a"}, index))
            assert isinstance(found, Dropped)
            assert found.reason == "malformed"

    def test_an_empty_list_of_answers_is_one(self) -> None:
        read = PairReader()
        found = read(row({"prompt": "p", "answers": [], "scores": []}))
        assert isinstance(found, Dropped)
        assert found.reason == "single_answer"
        pair = read(row({"prompt": "p", "answers": ["a", "b"], "scores": [1, 2]}, 1))
        assert isinstance(pair, PreferencePair)
        assert recognise(as_row({"prompt": "p", "responses": []})) == "answers"

    def test_an_empty_list_beside_another_format_is_no_answers(self) -> None:
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        assert recognise(as_row({"messages": turns, "completions": []})) == "messages"


class TestReadOnce:
    """Rows that are gone through often are read and converted the first time."""

    def rows(self) -> Iterator[Row]:
        self.passes = getattr(self, "passes", 0) + 1
        yield from (row({**GOOD, "prompt": f"p{i}"}, i) for i in range(600))
        yield row({"prompt": 5, "chosen": "c", "rejected": "r"}, 600)
        yield row({"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}, 601)
        turns = [[{"role": "assistant", "content": text}] for text in ("cé𝄞", "r")]
        talk = {"prompt": [{"role": "user", "content": "p"}], "chosen": turns[0]}
        more = {"rejected": turns[1], "weight": 2, "tools": [{"name": "t"}], "seen": (1, 2.5)}
        yield row({**talk, **more}, 602)
        broken = DataError("is no JSON", where="pairs.jsonl:604", fix="Mend it.")
        yield Row({}, "pairs.jsonl:604", 603, broken=broken)

    @pytest.mark.parametrize("memory", [2**25, 1])
    def test_every_pass_gives_what_reading_anew_gives(
        self, memory: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "_IN_MEMORY", memory)
        plain = list(self.rows())
        once = ReadOnce(Once(self.rows))
        expected = list(map(PairReader(on_bad_row="drop"), plain))
        monkeypatch.setattr(reading, "_TOGETHER", 100)
        for _ in range(2):
            known = list(once)
            assert [r.index for r in known] == [r.index for r in plain]
            assert list(map(PairReader(on_bad_row="drop"), known)) == expected
            assert [str(r.broken) for r in known] == [str(r.broken) for r in plain]
            assert [r.values for r in known if r.index in {0, 602}] == [
                r.values for r in plain if r.index in {0, 602}
            ]
        assert self.passes == 2
        with pytest.raises(DataError, match=r"pairs\.jsonl:601, field 'prompt'"):
            list(map(PairReader(), known))

    def test_passes_may_be_broken_off_and_go_side_by_side(self) -> None:
        once = ReadOnce(Once(self.rows))
        first, second = iter(once), iter(once)
        places = [(next(first).index, next(second).index) for _ in range(400)]
        assert places == [(i, i) for i in range(400)]
        assert len(list(once)) == len(list(first)) + 400

    def test_a_reader_of_another_format_reads_for_itself(self) -> None:
        (known,) = ReadOnce([row(BOTH)], "alpaca")
        pair = PairReader("prompt")(known)
        assert isinstance(pair, PreferencePair)
        assert pair.text == TextPair("p", "c", "r")

    def test_a_source_that_fails_does_so_behind_its_rows_each_time(self) -> None:
        def failing() -> Iterator[Row]:
            yield row(GOOD)
            raise DataError("cannot be read", where="pairs.jsonl")

        once = ReadOnce(Once(failing))
        for _ in range(2):
            passing = iter(once)
            assert next(passing).index == 0
            with pytest.raises(DataError, match="cannot be read"):
                next(passing)

    def test_values_that_cannot_be_written_stay_in_memory(self) -> None:
        rows = [row({**GOOD, "picked_by": (lambda: 0) if i else None}, i) for i in range(3)]
        once = ReadOnce(rows)
        assert [r.values for r in once] == [r.values for r in once] == [r.values for r in rows]


class Once:
    """Rows that are made anew each time they are gone through."""

    def __init__(self, rows: Callable[[], Iterator[Row]]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Row]:
        return self._rows()
