"""Tokenised data are kept, found again, and made anew when anything about them changed."""

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
from tests.data.build import rows_of
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.data import prepare as prepare_module
from orpo.data.lengths import LengthPolicy
from orpo.data.prepare import Preparation
from orpo.data.sources import Source, iterate_dataset
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Row
from orpo.errors import DataError

ROWS = 20
ALONE = '{"prompt": "p", "chosen": "c"}\n'  # without a rejected answer


class Counted:
    """A file that counts how often it is read."""

    def __init__(self, path: Path, text: str = "") -> None:
        if text:
            path.write_text(text)
        self.path, self.source, self.passes = path, Source(str(path)), 0

    def __iter__(self) -> Iterator[Row]:
        self.passes += 1
        return iter(self.source)

    def fingerprint(self) -> Any:
        return self.source.fingerprint()


@pytest.fixture
def source(tmp_path: Path) -> Counted:
    rows = [f'{{"prompt": "p{i}", "chosen": "c{i}", "rejected": "r{i}"}}' for i in range(ROWS)]
    rows.append('{"prompt": "p", "chosen": "", "rejected": "r"}')
    return Counted(tmp_path / "pairs.jsonl", "\n".join(rows))


@pytest.fixture
def prepare(
    tmp_path: Path, small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> Preparation:
    monkeypatch.setattr(prepare_module, "_WORTH_KEEPING", ROWS)
    tokenize = PairTokenizer(small_tokenizer, LengthPolicy(64))
    return Preparation(tokenize, "drop", cache=tmp_path / "cache")


def kept_in(prepare: Preparation) -> list[Path]:
    return sorted((prepare.cache or Path()).glob("*"))


def test_the_second_time_nothing_is_read(source: Counted, prepare: Preparation) -> None:
    first, again = prepare(source, "train_dataset"), prepare(source, "train_dataset")
    assert source.passes == 1
    assert (first[0].to_dict(), first[1]) == (again[0].to_dict(), again[1])
    assert first[1].dropped == {"empty_chosen": 1}
    assert again[1].examples["empty_chosen"][0].where.endswith(f"pairs.jsonl:{ROWS + 1}")
    assert len(kept_in(prepare)) == 1


@pytest.mark.parametrize("change", ["rows", "length", "strictness", "template", "code"])
def test_what_changed_is_made_anew(
    change: str, source: Counted, prepare: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(source, "d")
    if change == "rows":
        source.path.write_text(source.path.read_text().replace("c7", "C7"))
    elif change == "length":
        pairs = PairTokenizer(prepare.tokenize.tokenizer, LengthPolicy(63))
        prepare = dataclasses.replace(prepare, tokenize=pairs)
    elif change == "strictness":
        prepare = dataclasses.replace(prepare, on_bad_row="error")
    elif change == "template":
        monkeypatch.setattr(prepare.tokenize.tokenizer, "chat_template", "{{ messages }}")
    else:
        monkeypatch.setattr(prepare_module, "_code", lambda: "another version")
    prepare(source, "d")
    assert source.passes == 2


@pytest.mark.parametrize("damage", ["ledger", "cut", "noise", "bits", "gone", "columns"])
def test_a_damaged_store_is_made_again(damage: str, source: Counted, prepare: Preparation) -> None:
    plain = prepare(source, "d")[0].to_dict()
    (home,) = kept_in(prepare)
    ledger, arrow = home / "ledger.json", home / "pairs.arrow"
    if damage == "ledger":
        ledger.write_text("{")
    elif damage == "columns":
        ledger.write_text(ledger.read_text().replace('"dropped"', '"lost"'))
    else:
        content = arrow.read_bytes()
        arrow.unlink()  # the first data set is still mapped
        flipped = content[:900] + bytes(b ^ 1 for b in content[900:1300]) + content[1300:]
        damaged = {"cut": content[:999], "noise": b"noise", "bits": flipped}
        if damage != "gone":
            arrow.write_bytes(damaged[damage])
    again = prepare(source, "d")
    assert source.passes == 2
    assert again[0].to_dict() == plain


def test_what_is_not_kept(source: Counted, prepare: Preparation, tmp_path: Path) -> None:
    few = Counted(tmp_path / "few.jsonl", '{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    prepare(few, "d")
    prepare(few, "d")
    assert few.passes == 2
    with pytest.raises(DataError, match="no row has a rejected answer"):
        prepare(Counted(tmp_path / "bad.jsonl", ALONE * ROWS), "d")
    unnamed = rows_of([{"prompt": "p", "chosen": f"c{i}", "rejected": "r"} for i in range(ROWS)])
    assert len(prepare(unnamed, "d")[0]) == ROWS
    assert not [folder for folder in kept_in(prepare) if not folder.name.startswith("draft")]
    (tmp_path / "file").write_text("no folder")  # a cache that cannot be written is done without
    prepared, ledger = dataclasses.replace(prepare, cache=tmp_path / "file")(source, "d")
    assert len(prepared) == ledger.kept == ROWS


def test_drafts_of_killed_programs_do_not_pile_up(source: Counted, prepare: Preparation) -> None:
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

    @pytest.fixture
    def fleeting(self, prepare: Preparation) -> Preparation:
        return dataclasses.replace(prepare, cache=None)

    def test_goes_with_the_data_set(
        self, source: Counted, fleeting: Preparation, folders: Callable[[], list[Path]]
    ) -> None:
        pairs, _ = fleeting(source, "d")
        whole, derived = pairs.to_dict(), pairs.shuffle(seed=0).with_format("numpy")
        assert len(folders()) == 1
        assert len(pickle.loads(pickle.dumps(derived))[:]["row"]) == ROWS  # it has the file's name
        del pairs
        gc.collect()
        assert folders() == []
        assert sorted(derived[:]["row"]) == whole["row"]  # what is mapped is there

    def test_outlives_a_forked_worker(
        self, source: Counted, fleeting: Preparation, folders: Callable[[], list[Path]]
    ) -> None:
        pairs, _ = fleeting(source, "d")
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
        self, tmp_path: Path, fleeting: Preparation, folders: Callable[[], list[Path]]
    ) -> None:
        with pytest.raises(DataError):
            fleeting(Counted(tmp_path / "bad.jsonl", ALONE * 9), "d")
        gc.collect()
        assert folders() == []

    def test_a_full_disk_names_the_folder(
        self, source: Counted, fleeting: Preparation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(prepare_module.pa.ipc, "new_stream", full)
        with pytest.raises(DataError, match=r"cannot be written \(No space left.*with ORPO_CACHE"):
            fleeting(source, "d")


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
