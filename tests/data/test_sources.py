"""Rows come out of every kind of file as they are in it; what is broken is named by its place."""

import csv
import gzip
import io
import json
import random
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.build import Values, assistant, user

from orpo.data.sources import Mixture, Source, iterate_dataset, open_source
from orpo.data.types import Row
from orpo.errors import DataError

ROWS: list[Values] = [
    {"prompt": f"Question {i}?", "chosen": f'Yes,\n"{i}" 是的。', "rejected": " no\r\n"}
    for i in range(5)
]
TALK: list[Values] = [
    {"prompt": [user("问?")], "chosen": [assistant("是\n")], "rejected": [assistant(f"{i}")]}
    for i in range(2)
]


def lines(rows: list[Values]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(rows: list[Values]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def save_parts(rows: list[Values], path: Path) -> None:
    path.mkdir()
    (path / "b.jsonl").write_text(lines(rows[3:]))
    (path / "a.json").write_text(json.dumps(rows[:2]))
    (path / "a.part2.jsonl.gz").write_bytes(gzip.compress(lines(rows[2:3]).encode()))
    (path / "README.md").write_text("# Pairs")
    (path / "notes.jsonl.bak").write_text("not data")
    (path / "cache.json").mkdir()


def save_splits(rows: list[Values], path: Path) -> None:
    train, other = datasets.Dataset.from_list(rows), datasets.Dataset.from_list(rows[:1])
    datasets.DatasetDict({"test": other, "train": train}).save_to_disk(path)


WRITERS: dict[str, Callable[[list[Values], Path], Any]] = {
    "list.json": lambda rows, path: path.write_text(json.dumps(rows)),
    "indented.json": lambda rows, path: path.write_text(json.dumps(rows, indent=2)),
    "trailing-comma.json": lambda rows, path: path.write_text(json.dumps(rows)[:-1] + ", ]\n"),
    "lines.json": lambda rows, path: path.write_text(lines(rows)),
    "pairs.ndjson": lambda rows, path: path.write_text(lines(rows)),
    "PAIRS.v2.JSONL": lambda rows, path: path.write_text(lines(rows)),
    "blank-lines.jsonl": lambda rows, path: path.write_text("\n\n" + lines(rows) + " \n"),
    "no-last-newline.jsonl": lambda rows, path: path.write_text(lines(rows).rstrip()),
    "pairs.jsonl.gz": lambda rows, path: path.write_bytes(gzip.compress(lines(rows).encode())),
    "pairs.json.gz": lambda rows, path: path.write_bytes(gzip.compress(json.dumps(rows).encode())),
    "pairs.csv": lambda rows, path: path.write_text(as_csv(rows), newline=""),
    "bom.csv": lambda rows, path: path.write_text(as_csv(rows), newline="", encoding="utf-8-sig"),
    "blank-lines.csv": lambda rows, path: path.write_text(as_csv(rows) + "\r\n\r\n", newline=""),
    "pairs.csv.gz": lambda rows, path: path.write_bytes(gzip.compress(as_csv(rows).encode())),
    "pairs.parquet": lambda rows, path: datasets.Dataset.from_list(rows).to_parquet(path),
    "saved": lambda rows, path: datasets.Dataset.from_list(rows).save_to_disk(path),
    "splits": save_splits,
    "parts": save_parts,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for given_rows in (ROWS, *([TALK] * ("csv" not in name))):
        WRITERS[name](given_rows, path)
        rows = list(open_source(str(path)))
        assert [dict(row.values) for row in rows] == given_rows
        assert [row.index for row in rows] == list(range(len(given_rows)))
        assert len({row.where for row in rows}) == len(given_rows)
        assert all(row.where.startswith(str(path)) for row in rows)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20)


@settings(max_examples=25)
@given(st.lists(st.fixed_dictionaries({"chosen": texts, "rejected": texts}), min_size=1))
@pytest.mark.parametrize("name", ["list.json", "indented.json", "pairs.jsonl.gz", "pairs.csv"])
def test_any_text_comes_back(name: str, tmp_path: Path, rows: list[Values]) -> None:
    WRITERS[name](rows, tmp_path / name)
    assert [dict(row.values) for row in open_source(str(tmp_path / name))] == rows


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("pairs.ndjson", [1, 2, 3, 4, 5]),
        ("blank-lines.jsonl", [3, 4, 5, 6, 7]),
        ("indented.json", [2, 7, 12, 17, 22]),
        ("list.json", ["1", "1 row 1", "1 row 2", "1 row 3", "1 row 4"]),
        ("pairs.csv", [2, 4, 6, 8, 10]),  # two lines for each row, as a field breaks one
        ("pairs.parquet", [1, 2, 3, 4, 5]),
    ],
)
def test_rows_know_their_line(name: str, places: list[Any], tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b\nc", "rejected": "d"}] * 5
    WRITERS[name](rows, tmp_path / name)
    found = [row.where for row in open_source(str(tmp_path / name))]
    assert found == [f"{tmp_path / name}:{line}" for line in places]


def test_rows_are_read_as_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pairs.jsonl").write_text(lines(ROWS) + "broken\n")
    rows = open_source("~/pairs.jsonl")
    assert [next(rows).values for _ in ROWS] == ROWS
    assert "pairs.jsonl:6: broken JSON" in str(next(rows).broken)


TWICE = b'{"prompt": "p", "chosen": "a", "chosen": "b"}'
BROKEN: dict[str, tuple[bytes, str]] = {
    "cut-off.jsonl": (lines(ROWS).encode() + b"\n" + b'{"prompt": "x", "ch', ":7: broken JSON"),
    "no-quote.jsonl": (lines(ROWS).encode() + b'\n{"prompt": x}\n', ":7: broken JSON at column 12"),
    "two-rows-in-a-line.jsonl": (b'{"a": 1} {"a": 2}\n', ":1: broken JSON at column 10"),
    "text.jsonl": (b"Once upon a time\n", ":1: broken JSON"),
    "number.jsonl": (b"1\n", ":1: expected an object with columns, found int"),
    "list.jsonl": (b'\n["a"]\n', ":2: expected an object with columns, found list"),
    "string.json": (b'["a"]\n', ":1: expected an object with columns, found str"),
    "deep.jsonl": (b"[" * 100_000, ":1: broken JSON (nested too deeply)"),
    "deep.json": (b'[{"a": ' + b"[" * 100_000, ":1: broken JSON (nested too deeply)"),
    "long-number.jsonl": (b'{"a": ' + b"9" * 5000 + b"}\n", ":1: broken JSON (Exceeds"),
    "long-number.json": (b'[\n{"a": ' + b"9" * 5000 + b"}]\n", ":2: broken JSON (Exceeds"),
    "row.json": (b'[{"a": 1},\n{"a": 2},\n\n\n\n\n{"a" 3}]', ":7: broken JSON at column 6"),
    "no-comma.json": (b'[{"a": 1}\n{"a": 2}]', ":2: broken JSON at column 1"),
    "no-end.json": (b'[{"a": 1},\n', ":2: broken JSON"),
    "no-end-bracket.json": (b'[{"a": 1}\n', ":2: broken JSON"),
    "second-list.json": (b'[{"a": 1}]\n[{"a": 2}]', ":2: broken JSON at column 1 (Nothing may"),
    "two-commas.json": (b'[{"a": 1},,{"a": 2}]', ":1: broken JSON"),
    "objects.jsonl": (b'{\n "a": 1\n}\n{\n "a": 1,\n "b": x\n}', ":6: broken JSON at column 7"),
    "twice.jsonl": (TWICE, ":1: broken JSON (column 'chosen' is there twice)"),
    "twice.json": (b"[" + TWICE + b"]", ":1: broken JSON (column 'chosen' is there twice)"),
    "latin.jsonl": (lines(ROWS).encode() + b'{"prompt": "\xe9"}\n', ":6: is not UTF-8 text"),
    "latin.json": (b'[{"a": 1},\n{"a": "\xe9"}]', ":2: is not UTF-8 text"),
    "latin.csv": (b"prompt,chosen\r\na,b\r\nc,\xe9\r\n", ":3: is not UTF-8 text"),
    "latin.jsonl.gz": (gzip.compress(b'{"a": 1}\n{"a": "\xff"}'), ":2: is not UTF-8 text"),
    "utf16.jsonl": (lines(ROWS).encode("utf-16"), ":1: is not UTF-8 text"),
    "cut-off.jsonl.gz": (gzip.compress(lines(ROWS).encode())[:-9], "cannot be read"),
    "no-gzip.jsonl.gz": (lines(ROWS).encode(), "cannot be read (Not a gzipped file"),
    "empty.jsonl.gz": (b"", "empty"),
    "quote.csv": (b'prompt,chosen,rejected\r\na,"b,c\r\nd,e,f\r\n', ":2: broken CSV"),
    "quote-later.csv": (b'prompt,chosen\r\na,b\r\nc,"d\r\ne,f\r\ng,h\r\n', ":3: broken CSV"),
    "after-quote.csv": (b'prompt,chosen\r\n"a"b,c\r\n', ":2: broken CSV"),
    "too-many.csv": (b"prompt,chosen\r\na,b\r\nc,d, e\r\n", ":3: broken CSV: 3 fields for 2"),
    "caret.csv": (b'prompt^chosen\r\na^"b, c"\r\n', "Line 1 is one column, 'prompt^chosen'"),
    "twice.csv": (b"prompt,chosen,chosen\r\na,b,c\r\n", ":1: column 'chosen' is there twice"),
    "text.parquet": (b"PAR1 but nothing else", "broken Parquet"),
    "empty.parquet": (b"", "broken Parquet"),
    "empty.jsonl": (b"", "the data set is empty"),
    "blank.jsonl": (b"\n \n\t\n", "the data set is empty"),
    "empty.json": (b"", "the data set is empty"),
    "empty-list.json": (b"[ ]\n", "the data set is empty"),
    "empty.csv": (b"", "the data set is empty"),
    "blank-header.csv": (b"\r\n\r\n", "the data set is empty"),
    "header-only.csv": (b"prompt,chosen,rejected\r\n", "the data set is empty"),
    "pairs.txt": (b"hello\n", "unknown kind of file '.txt'"),
    "pairs": (b"hello\n", "unknown kind of file 'pairs'"),
    "pairs.gz": (b"hello\n", "unknown kind of file 'pairs.gz'"),
    "pairs.jsonl.zip": (b"hello\n", "unknown kind of file '.zip'"),
}


def refusal(spec: str) -> str:
    def read() -> None:
        for row in open_source(spec):
            if row.broken:
                raise row.broken

    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_by_place_and_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, expected = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    message = refusal(str(tmp_path / name))
    assert message.startswith(str(tmp_path / name))
    assert expected in message
    for part in (1, 5, 33):  # however much of the file is read at a time
        monkeypatch.setattr("orpo.data.files._PART", part)
        if name.endswith(".json"):
            assert refusal(str(tmp_path / name)) == message


@pytest.mark.parametrize("position", [10, -300, -200, -100, -40, None])
def test_damaged_gzip_is_a_named_mistake(position: int | None, tmp_path: Path) -> None:
    noise = random.Random(0)
    content = bytearray(gzip.compress(lines([{"a": noise.randbytes(4000).hex()}]).encode()))
    if position is not None:
        content[position] ^= 0xFF
        content[10] |= 0x06 * (position == 10)  # a type of block that there is not
    ends: list[int | None] = [None] if position is not None else [9, len(content) // 3, -1]
    for end in ends:
        (tmp_path / "pairs.jsonl.gz").write_bytes(content[:end])
        assert "pairs.jsonl.gz" in refusal(str(tmp_path / "pairs.jsonl.gz"))


def test_a_broken_line_leaves_the_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": \r\n\r\n{"a": "\xff"}\r\n[2]\r\n{"a": 3}')
    rows = list(open_source(str(path)))
    assert [row.values for row in rows] == [{"a": 1}, {}, {}, {}, {"a": 3}]
    assert [row.where.rpartition(":")[2] for row in rows] == ["1", "2", "4", "5", "6"]
    assert [bool(row.broken) for row in rows] == [False, True, True, True, False]
    for first in ('{"a": 1', '{"a": 1,}', "[1, 2]", '[{"a": 1}]', '{"a": 1},'):
        path.write_text(f'{first}\n{{"a": 2}}\n{{"a": 3}}\n', encoding="utf-8")
        broken, *others = open_source(str(path))
        assert str(broken.broken).startswith(f"{path}:1: ")
        assert [row.values for row in others] == [{"a": 2}, {"a": 3}]
    (tmp_path / "pairs.csv").write_bytes(b"prompt,chosen,rejected\r\na,b\r\nd,e,f\r\n")
    short, whole = open_source(str(tmp_path / "pairs.csv"))
    assert "pairs.csv:2: broken CSV: 2 fields for 3 columns" in str(short.broken)
    assert (whole.where, whole.index) == (str(tmp_path / "pairs.csv:3"), 1)


def test_a_parquet_column_that_is_there_twice(tmp_path: Path) -> None:
    table = pa.table([["p"], ["a"], ["b"]], names=["prompt", "chosen", "chosen"])
    pq.write_table(table, tmp_path / "rows.parquet")
    assert "column 'chosen' is there twice" in refusal(str(tmp_path / "rows.parquet"))


class TestNames:
    @pytest.mark.parametrize(
        "spec",
        ["missing.jsonl", "./missing", "/no/such/folder", "a/b/c", "missing.txt", "", "x\0.json"],
    )
    def test_a_missing_file_is_no_hub_id(
        self, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert "no such file or folder" in refusal(spec)

    def test_what_is_no_path_and_what_the_hub_does_not_have(self) -> None:
        assert "is no path" in refusal("a" * 5000)
        message = refusal("no-such-owner/no-such-name-1.5")
        assert message.startswith("no-such-owner/no-such-name-1.5: ")
        assert "keeps from asking the Hub" in message  # the tests are offline

    @pytest.mark.parametrize("spec", ["owner/name-v1.5", "owner/name:train", "name"])
    def test_a_hub_id_is_looked_up(
        self, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def load_dataset(name: str, split: str | None) -> datasets.Dataset:
            asked.append((name, split))
            return datasets.Dataset.from_list(ROWS)

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        assert [row.values for row in open_source(spec)] == ROWS
        name, _, split = spec.partition(":")
        assert asked == [(name, split or None)]


def in_hub_cache(home: Path, commit: str, rows: list[Values], scratch: Path) -> None:
    """A data set "org/name" as `datasets` keeps what it loaded from the Hub."""
    file = scratch / f"{commit}.jsonl"
    file.write_text(lines(rows))
    builder = datasets.load_dataset_builder(
        "json", data_files=str(file), cache_dir=str(scratch / "made")
    )
    builder.download_and_prepare()
    folder = home / "org___name" / "default" / "0.0.0" / commit
    shutil.copytree(builder.cache_dir, folder)
    for part in folder.glob("json-*.arrow"):
        part.rename(folder / part.name.replace("json-", "name-"))
    info = json.loads((folder / "dataset_info.json").read_text())
    info |= {"dataset_name": "name", "builder_name": "parquet", "config_name": "default"}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def test_a_pinned_revision_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` itself would take any revision that it loaded last."""
    new = "2" * 40
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    in_hub_cache(tmp_path / "cache", new, [{"prompt": "a", "chosen": "b"}], tmp_path)
    for spec in ("org/name", f"org/name@{new}", f"org/name@{new[:8]}:train"):
        assert [row.values["prompt"] for row in open_source(spec)] == ["a"]
    for revision in ("1" * 40, "v1", "main"):
        assert f"what was loaded last is commit {new}" in refusal(f"org/name@{revision}")


class TestFolders:
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("model.safetensors", b"x", "the folder holds no data set"),
            ("pairs.json/", b"", "the folder holds no data set"),
            (".git/pairs.jsonl", b"{}\n", "the folder holds no data set"),
            ("pairs.jsonl", b"", "the data set is empty"),
            ("parts/b.jsonl", b"{", "b.jsonl:1: broken JSON"),
        ],
    )
    def test_what_is_no_data_set(
        self, name: str, content: bytes, said: str, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.write_bytes(content)
        assert said in refusal(str(tmp_path))

    def test_a_folder_as_the_hub_has_it_gives_its_training_files(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
            (tmp_path / "data" / f"{name}.jsonl").write_text(f'{{"from": "{name}"}}\n')
        found = [row.values["from"] for row in open_source(str(tmp_path))]
        assert found == ["train-00000-of-00002", "train-00001-of-00002"]
        (tmp_path / "data" / "test-00000-of-00001.jsonl").rename(tmp_path / "trainer.jsonl")
        assert len(list(open_source(str(tmp_path)))) == 3  # these are no splits

    @pytest.mark.parametrize("damage", ["gone", "cut", "no state"])
    def test_a_damaged_saved_data_set(self, damage: str, tmp_path: Path) -> None:
        WRITERS["saved"](ROWS, tmp_path / "saved")
        arrow = next((tmp_path / "saved").glob("*.arrow"))
        if damage == "gone":
            arrow.unlink()
        elif damage == "cut":
            arrow.write_bytes(arrow.read_bytes()[:20])
        else:
            (tmp_path / "saved" / "state.json").write_text("{}")
        assert "saved data set cannot be loaded" in refusal(str(tmp_path / "saved"))

    def test_the_one_split_that_can_be_meant(self, tmp_path: Path) -> None:
        part = datasets.Dataset.from_list(ROWS)
        for number, names in enumerate([["train_prefs", "test_prefs"], ["anything"], ["a", "b"]]):
            path = tmp_path / str(number)
            datasets.DatasetDict(dict.fromkeys(names, part)).save_to_disk(path)
            if names == ["a", "b"]:
                assert "has the splits a, b" in refusal(str(path))
            else:
                assert len(list(open_source(str(path)))) == len(ROWS)


class TorchStream(torch.utils.data.IterableDataset[Values]):
    def __iter__(self) -> Iterator[Values]:
        return iter(ROWS)


@pytest.mark.parametrize("kind", ["list", "mappings", "datasets", "stream", "torch", "numpy"])
def test_data_sets_in_memory(kind: str) -> None:
    made = datasets.Dataset.from_list(ROWS)
    dataset: Any = {
        "list": ROWS,
        "mappings": tuple(MappingProxyType(row) for row in ROWS),
        "datasets": made,
        "stream": made.to_iterable_dataset(),
        "torch": TorchStream(),
        "numpy": made.with_format("numpy"),
    }[kind]
    rows = list(iterate_dataset(dataset, "train_dataset"))
    assert [dict(row.values) for row in rows] == ROWS
    assert [row.where for row in rows] == [f"train_dataset row {i}" for i in range(len(ROWS))]
    assert [row.index for row in rows] == list(range(len(ROWS)))


def test_rows_pass_as_they_are_and_what_is_no_dict_is_refused() -> None:
    rows = [Row(values, f"pairs.jsonl:{9 - i}", 9 - i) for i, values in enumerate(ROWS)]
    assert list(iterate_dataset(rows, "train_dataset")) == rows
    mixed = iterate_dataset([ROWS[0], ("a", "b", "c")], "train_dataset")
    next(mixed)
    with pytest.raises(DataError, match="train_dataset row 1: expected a dict of columns"):
        next(mixed)


def test_a_long_list_takes_no_more_memory_than_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = []
    monkeypatch.setattr("orpo.data.files._PART", 1 << 15)
    for count in (300, 3_000):
        path = tmp_path / f"{count}.json"
        path.write_text(json.dumps([{"prompt": "p" * 1000, "i": i} for i in range(count)]))
        tracemalloc.start()
        assert sum(1 for _ in open_source(str(path))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


SPOKEN: list[Values] = [
    {"prompt": f"p{i} {{", "chosen": f'c"{i}\u2028', "中": [{"🙂": "\n"}, i, None, True, -1.5e-3]}
    for i in range(3)
]


def joined(between: str, indent: int | None = None) -> str:
    return between.join(json.dumps(row, indent=indent, ensure_ascii=False) for row in SPOKEN)


LAYOUTS = {
    "lines": joined("\n"),
    "lines of Windows": joined("\r\n") + "\r\n",
    "after a byte order mark": "\ufeff" + joined("\r\n"),
    "over several lines": joined("\n", 2),
    "over several lines of Windows": joined("\n\n", 2).replace("\n", "\r\n"),
    "after a byte order mark, over several lines": "\ufeff" + joined("\n", 4),
    "one after another": joined("", 1),
    "broken at other places": joined("\n").replace(', "chosen"', ',\n"chosen"'),
    "a list": json.dumps(SPOKEN),
    "a list over several lines": json.dumps(SPOKEN, indent=2),
    "a list after a byte order mark": "\ufeff \n" + json.dumps(SPOKEN),
}


@pytest.mark.parametrize("part", [1, 2, 7, 64, 2**16])  # read at a time
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rows_are_the_same_however_they_are_laid_out(
    layout: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpo.data.files._PART", part)
    for name in ("pairs.json", "pairs.json.gz", *["pairs.jsonl"] * (part > 64)):
        path, content = tmp_path / name, LAYOUTS[layout].encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        rows = list(open_source(str(path)))
        assert [row.values for row in rows] == SPOKEN
        assert [row.index for row in rows] == [0, 1, 2]
        assert len({row.where for row in rows}) == 3
    path.with_name("places.jsonl").write_text('\n{"a": 1,\n "b": 2}\n\n{\n"a": 3}')
    found = [row.where.rpartition(":")[2] for row in open_source(str(tmp_path / "places.jsonl"))]
    assert found == ["2", "5"]


@pytest.mark.parametrize("depth", [100, 900, 5000, 100_000])
def test_deep_nesting_is_read_or_named(depth: int, tmp_path: Path) -> None:
    for name in ("pairs.json", "pairs.jsonl"):
        path = tmp_path / name
        for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            path.write_text(text, encoding="utf-8")
            try:
                said = " ".join(str(row.broken or "") for row in open_source(str(path)))
            except DataError as error:
                said = str(error)
            assert "\n" not in said
            assert depth < 5000 or "nested too deeply" in said


TABLE = ["prompt", "chosen", "rejected"], ["Is it; really?", "Yes | no", "No,\tand never"]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_is_read_whatever_divides_it_and_says_so(
    ending: str, delimiter: str, mark: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text, path = io.StringIO(newline=""), tmp_path / f"t{ending}"
    csv.writer(text, delimiter=delimiter).writerows(TABLE)
    content = (mark + text.getvalue()).encode()
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    for _ in range(2):
        (row,) = open_source(str(path))
        assert [row.values[name] for name in TABLE[0]] == TABLE[1]
    usual = {"," + ending for ending in (".csv", ".tsv", ".csv.gz")} | {"\t.tsv"}
    told = [one.getMessage() for one in caplog.records]
    said = f"{path}: columns are divided by {delimiter!r}, not by commas"
    assert told == ([] if delimiter + ending in usual else [said])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04...", "Excel"),
        (b"PAR1", "Parquet"),
        (b"<!DOCTYPE html>\n<p>a,b", "a web page"),
        (b'{"prompt": "a"}\n', "JSON"),
        (b"a\0,b\n", "binary"),
    ],
)
def test_what_cannot_be_a_table_is_told_by_its_beginning(
    content: bytes, what: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.csv: is no CSV: .*" + what):
        next(open_source(str(tmp_path / "t.csv")))


NAMES = {"prompt": "question", "chosen": "bad", "rejected": "chosen"}
FOREIGN: list[Values] = [
    {"question": "a", "bad": "b", "chosen": "c", "prompt": "old", "id": 1},
    {"prompt": "kept", "bad": "b", "chosen": "c"},
]
OURS: list[Values] = [
    {"prompt": "a", "chosen": "b", "rejected": "c", "id": 1},
    {"prompt": "kept", "chosen": "b", "rejected": "c"},
]


def test_columns_of_any_names_are_brought_under_ours(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(lines(FOREIGN))
    source = Source(str(tmp_path / "t.jsonl"), NAMES)
    for rows in (source, open_source(source.spec, NAMES), iterate_dataset(FOREIGN, "d", NAMES)):
        assert [dict(row.values) for row in rows] == OURS
    # What a `Source` has read is not renamed once more: the names may be swapped ones.
    for again in (iterate_dataset(source, "d", NAMES), Mixture([source, source])):
        assert [dict(row.values) for row in again][:2] == OURS
    prints = [
        Source(source.spec, names).fingerprint() for names in (None, NAMES, {"chosen": "bad"})
    ]
    assert len({json.dumps(one) for one in prints}) == 3


def test_a_column_that_nobody_has_is_refused_with_those_that_there_are() -> None:
    told = r"d row 0.*no column 'questoin'; there are 'question', 'bad', .*prompt=question\?"
    rows = [{name: value for name, value in FOREIGN[0].items() if name != "prompt"}]
    with pytest.raises(DataError, match=told):
        next(iterate_dataset(rows, "d", {"prompt": "questoin"}))
