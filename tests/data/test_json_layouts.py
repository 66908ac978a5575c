"""JSON files in every layout: a list, one object per line, or objects over several lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from orpo.data.sources import open_source
from orpo.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"prompt": f"p{i} {{", "chosen": f'c"{i}\u2028', "rejected": [{"role": "assistant"}]}
    for i in range(3)
]


def joined(between: str, indent: int | None = None) -> str:
    return between.join(json.dumps(row, indent=indent, ensure_ascii=False) for row in ROWS)


LAYOUTS = {
    "lines": joined("\n"),
    "lines of Windows": joined("\r\n") + "\r\n",
    "after a byte order mark": "\ufeff" + joined("\r\n"),
    "over several lines": joined("\n", 2),
    "over several lines of Windows": joined("\n\n", 2).replace("\n", "\r\n"),
    "after a byte order mark, over several lines": "\ufeff" + joined("\n", 4),
    "one after another": joined("", 1),
    "broken at other places": joined("\n").replace(', "chosen"', ',\n"chosen"'),
    "a list": json.dumps(ROWS),
    "a list over several lines": json.dumps(ROWS, indent=2),
    "a list after a byte order mark": "\ufeff \n" + json.dumps(ROWS),
}


@pytest.mark.parametrize("name", ["pairs.json", "pairs.jsonl", "pairs.ndjson", "pairs.json.gz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rows_are_the_same(layout: str, name: str, tmp_path: Path) -> None:
    path, content = tmp_path / name, LAYOUTS[layout].encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    rows = list(open_source(str(path)))
    assert [row.values for row in rows] == ROWS
    assert [row.index for row in rows] == [0, 1, 2]
    assert len({row.where for row in rows}) == 3


def test_places_are_those_where_objects_begin(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('\n{"a": 1,\n "b": 2}\n\n{\n"a": 3}', encoding="utf-8")
    assert [row.where for row in open_source(str(path))] == [f"{path}:2", f"{path}:5"]


def test_a_broken_object_over_several_lines_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{\n "a": 1\n}\n{\n "a": 1,\n "b": x\n}', encoding="utf-8")
    rows = open_source(str(path))
    assert next(rows).values == {"a": 1}
    with pytest.raises(DataError, match=r"pairs\.jsonl:6: broken JSON at column 7"):
        next(rows)


@pytest.mark.parametrize("first", ['{"a": 1', '{"a": 1,}', "[1, 2]", '[{"a": 1}]', '{"a": 1},'])
def test_a_line_that_is_no_object_leaves_the_others_alone(first: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{first}\n{{"a": 2}}\n{{"a": 3}}\n', encoding="utf-8")
    broken, *others = open_source(str(path))
    assert broken.broken is not None
    assert str(broken.broken).startswith(f"{path}:1: ")
    assert [row.values for row in others] == [{"a": 2}, {"a": 3}]


@pytest.mark.parametrize("depth", [100, 900, 5000, 100_000])
@pytest.mark.parametrize("name", ["pairs.json", "pairs.jsonl"])
def test_deep_nesting_is_read_or_named(depth: int, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        path.write_text(text, encoding="utf-8")
        said = ""
        try:
            said = " ".join(str(row.broken or "") for row in open_source(str(path)))
        except DataError as error:
            said = str(error)
        assert "\n" not in said
        assert depth < 5000 or "nested too deeply" in said
