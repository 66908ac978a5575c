"""Tokenised data are kept, found again, and made anew when anything about them changed."""

from __future__ import annotations

import dataclasses
import gc
import os
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.data import prepare as prepare_module
from orpo.data.lengths import LengthPolicy
from orpo.data.prepare import Preparation
from orpo.data.sources import Source, iterate_dataset
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Ledger, Row
from orpo.errors import DataError

ROWS = 2100


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "pairs.jsonl"
    lines = [f'{{"prompt": "p{i}", "chosen": "c{i}", "rejected": "r{i}"}}' for i in range(ROWS)]
    path.write_text("\n".join([*lines, '{"prompt": "p", "chosen": "", "rejected": "r"}']))
    return Source(str(path))


@pytest.fixture
def prepare(tmp_path: Path, small_tokenizer: Tokenizer) -> Preparation:
    return Preparation(
        PairTokenizer(small_tokenizer, LengthPolicy(64)), "drop", cache=tmp_path / "cache"
    )


class Counted:
    """A source that counts how often it is read."""

    def __init__(self, source: Source) -> None:
        self.source, self.passes = source, 0

    def __iter__(self) -> Iterator[Row]:
        self.passes += 1
        return iter(self.source)

    def fingerprint(self) -> Any:
        return self.source.fingerprint()


def same(first: tuple[Any, Ledger], second: tuple[Any, Ledger]) -> bool:
    return first[0].to_dict() == second[0].to_dict() and first[1] == second[1]


def test_the_second_time_nothing_is_read(source: Source, prepare: Preparation) -> None:
    counted = Counted(source)
    first = prepare(counted, "train_dataset")
    again = prepare(counted, "train_dataset")
    assert counted.passes == 1
    assert same(first, again)
    assert first[1].dropped == {"empty_chosen": 1}
    assert again[1].examples["empty_chosen"][0].where.endswith(f"pairs.jsonl:{ROWS + 1}")
    assert not list((prepare.cache or Path()).glob("draft-*"))


@pytest.mark.parametrize("change", ["rows", "length", "strictness", "template", "code"])
def test_what_changed_is_made_anew(
    change: str, source: Source, prepare: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(source)
    prepare(counted, "d")
    if change == "rows":
        path = Path(source.spec)
        path.write_text(path.read_text().replace("c7", "C7"))
    elif change == "length":
        pairs = PairTokenizer(prepare.tokenize.tokenizer, LengthPolicy(63))
        prepare = dataclasses.replace(prepare, tokenize=pairs)
    elif change == "strictness":
        prepare = dataclasses.replace(prepare, on_bad_row="error")
    elif change == "template":
        monkeypatch.setattr(prepare.tokenize.tokenizer, "chat_template", "{{ messages }}")
    else:
        monkeypatch.setattr(prepare_module, "_code", lambda: "another version")
    prepare(counted, "d")
    assert counted.passes == 2


@pytest.mark.parametrize("damage", ["ledger", "cut", "noise", "bits", "gone"])
def test_a_damaged_store_is_made_again(damage: str, source: Source, prepare: Preparation) -> None:
    counted = Counted(source)
    first = prepare(counted, "d")
    plain = first[0].to_dict()
    (home,) = (prepare.cache or Path()).iterdir()
    if damage == "ledger":
        (home / "ledger.json").write_text("{")
    elif damage == "gone":
        (home / "pairs.arrow").unlink()
    else:
        content = (home / "pairs.arrow").read_bytes()
        (home / "pairs.arrow").unlink()  # the first data set is still mapped
        flipped = content[:5000] + bytes(b ^ 1 for b in content[5000:5400]) + content[5400:]
        damaged = {"cut": content[:999], "noise": b"noise", "bits": flipped}
        (home / "pairs.arrow").write_bytes(damaged[damage])
    again = prepare(counted, "d")
    assert counted.passes == 2
    assert again[0].to_dict() == plain


def test_small_data_sets_are_not_kept(tmp_path: Path, prepare: Preparation) -> None:
    (tmp_path / "few.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    counted = Counted(Source(str(tmp_path / "few.jsonl")))
    prepare(counted, "d")
    prepare(counted, "d")
    assert counted.passes == 2


def test_a_cache_that_cannot_be_written_is_done_without(
    source: Source, prepare: Preparation, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    prepared, ledger = dataclasses.replace(prepare, cache=tmp_path / "file")(source, "d")
    assert len(prepared) == ledger.kept == ROWS


def test_nothing_is_kept_of_a_run_that_breaks(tmp_path: Path, prepare: Preparation) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "p", "chosen": "c"}\n' * ROWS)
    with pytest.raises(DataError, match="no row has a rejected answer"):
        prepare(Source(str(tmp_path / "bad.jsonl")), "d")
    assert not [f for f in (prepare.cache or Path()).glob("*") if not f.name.startswith("draft")]


def test_rows_that_do_not_say_what_they_are_are_not_kept(prepare: Preparation) -> None:
    rows = [Row({"prompt": "p", "chosen": f"c{i}", "rejected": "r"}, "d", i) for i in range(ROWS)]
    prepared, _ = prepare(rows, "d")
    assert len(prepared) == ROWS
    assert not list((prepare.cache or Path()).glob("*"))


def test_drafts_of_killed_programs_do_not_pile_up(source: Source, prepare: Preparation) -> None:
    assert prepare.cache is not None
    old, new = prepare.cache / "draft-old", prepare.cache / "draft-new"
    for draft in (old, new):
        draft.mkdir(parents=True)
    os.utime(old, (0, 0))
    prepare(source, "d")
    assert (old.exists(), new.exists()) == (False, True)


class TestScratch:
    """Data sets that are not kept lie in a folder that lives as long as they do."""

    @pytest.fixture
    def folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        return lambda: [*scratch.iterdir()]

    def test_goes_with_the_data_set(
        self, source: Source, prepare: Preparation, folders: Callable[[], list[Path]]
    ) -> None:
        pairs, _ = dataclasses.replace(prepare, cache=None)(source, "d")
        whole, derived = pairs.to_dict(), pairs.shuffle(seed=0).with_format("numpy")
        assert len(folders()) == 1
        assert len(pickle.loads(pickle.dumps(derived))[:]["row"]) == ROWS  # it has the file's name
        del pairs
        gc.collect()
        assert folders() == []
        assert sorted(derived[:]["row"]) == whole["row"]  # what is mapped is there

    def test_outlives_a_forked_worker(
        self, source: Source, prepare: Preparation, folders: Callable[[], list[Path]]
    ) -> None:
        pairs, _ = dataclasses.replace(prepare, cache=None)(source, "d")
        (finalizer,) = [
            one for one in weakref.finalize._registry if one.peek()[1] is prepare_module._remove
        ]
        worker = os.fork()
        if worker == 0:
            finalizer()
            os._exit(0)
        assert os.waitpid(worker, 0)[1] == 0
        assert len(folders()) == 1
        assert len(pairs) == ROWS

    def test_goes_if_reading_fails(
        self, tmp_path: Path, prepare: Preparation, folders: Callable[[], list[Path]]
    ) -> None:
        (tmp_path / "bad.jsonl").write_text('{"prompt": "p", "chosen": "c"}\n' * 9)
        with pytest.raises(DataError):
            dataclasses.replace(prepare, cache=None)(Source(str(tmp_path / "bad.jsonl")), "d")
        gc.collect()
        assert folders() == []


class _Failing:
    """Rows of a data set that fails by itself while it is read."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, str]]:
        for index in range(self.rows):
            yield {"prompt": f"p{index}", "chosen": "c", "rejected": "r"}
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("rows", [0, 1, 1500])
def test_a_data_set_that_cannot_be_read_is_no_matter_of_room(
    rows: int, prepare: Preparation
) -> None:
    with pytest.raises(DataError) as caught:
        prepare(iterate_dataset(_Failing(rows), "train_dataset"), "train_dataset")
    assert str(caught.value).startswith(
        f"train_dataset row {rows}: cannot be read (Input/output error). "
    )
    assert "room" not in str(caught.value)
