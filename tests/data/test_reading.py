"""What is said of a whole data set, and that each row of it is read once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.data.build import Values

from orpo.data import reading
from orpo.data.reading import PairReader, ReadOnce
from orpo.data.types import Dropped, PreferencePair, Row, TextPair
from orpo.errors import DataError

GOOD: Values = {"prompt": "p", "chosen": "c", "rejected": "r"}
BOTH: Values = {**GOOD, "instruction": "i"}
TEXTS: Values = {"chosen": "It is so", "rejected": "It is not"}
UNPAIRED: Values = {"prompt": "p", "completion": "c", "label": True}


def row(values: Values, index: int = 0) -> Row:
    return Row(values, f"pairs.jsonl:{index + 1}", index)


@pytest.mark.parametrize(
    ("first", "later", "told"),
    [
        ({**TEXTS, "context": None}, {**TEXTS, "context": "Is it?"}, "the prompt may be in"),
        (GOOD, UNPAIRED, "unpaired feedback"),
        (GOOD, {"instruction": "i", "chosen": "c", "rejected": "r"}, "looks like 'alpaca' data"),
        (GOOD, {"promt": "p", "chosen": "c", "rejected": "r"}, "field 'prompt' is missing"),
    ],
)
def test_a_later_row_of_another_kind_is_malformed(first: Values, later: Values, told: str) -> None:
    read = PairReader(on_bad_row="drop")
    assert isinstance(read(row(first)), PreferencePair)
    found = read(row(later, 1))
    assert isinstance(found, Dropped)
    assert (found.reason, found.where.partition(",")[0]) == ("malformed", "pairs.jsonl:2")
    assert told in found.detail
    known = read(row(BOTH, 2))  # which of two formats is meant is known by now
    assert isinstance(known, PreferencePair) is (first == GOOD)


def test_rows_in_no_format_are_dropped_until_there_are_a_hundred() -> None:
    read, strange = PairReader(on_bad_row="drop"), {"text": "a", "other": 1}
    for index in range(99):
        assert isinstance(read(row(strange, index)), Dropped)
    for empty in range(5):
        assert isinstance(read(row({}, empty)), Dropped)
    with pytest.raises(DataError) as caught:
        read(row(strange, 99))
    assert str(caught.value).startswith(
        "pairs.jsonl:100: none of 100 rows is in a known format: "
        "no column 'chosen' and no column 'rejected'; found 'other', 'text'"
    )
    read = PairReader(on_bad_row="drop")  # one that can be read is enough
    found = [read(row(strange if i != 99 else GOOD, i)) for i in range(300)]
    assert [i for i, one in enumerate(found) if isinstance(one, PreferencePair)] == [99]


class Once:
    """Rows that are made anew each time they are gone through."""

    def __init__(self, rows: Callable[[], Iterator[Row]]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Row]:
        return self._rows()


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
            assert [known[i].values for i in (0, 602)] == [plain[i].values for i in (0, 602)]
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

    def test_a_full_disk_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        once = ReadOnce([row(GOOD)])
        said = r"No space left.*another folder with TMPDIR"
        with Path("/dev/full").open("r+b", buffering=0) as full:
            monkeypatch.setattr(once, "_file", full)
            with pytest.raises(DataError, match=said):
                list(once)
