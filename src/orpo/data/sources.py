"""Where rows come from: files, folders, Hub ids and in-memory data sets, each row with its place.

.json (a list, or one object per line) · .jsonl · .csv · .parquet, each also as .gz where text
a folder written by `datasets.Dataset.save_to_disk`, or a folder of such files
a Hub id, optionally with a split: "owner/name" or "owner/name:train"
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from orpo.data.types import Row
from orpo.errors import DataError

__all__ = ["iterate_dataset", "open_source"]

_HINT = "Use a .json, .jsonl, .csv or .parquet file, a saved data set folder, or a Hub id."


def open_source(spec: str) -> Iterator[Row]:
    """The rows of a data set named by a path or a Hub id, in order, read as they are needed.

    Raises:
        DataError: Not found, empty, of an unknown kind, or broken; says where.
    """
    path = Path(spec)
    if path.is_dir():
        rows = _read_folder(path)
    elif path.is_file():
        rows = _read_file(path)
    elif path.suffix or spec.startswith((".", "/", "~")):
        raise DataError("no such file or folder", where=spec, fix=_HINT)
    else:
        rows = _read_hub(spec)
    first = next(rows, None)
    if first is None:
        raise DataError("the data set is empty", where=spec, fix="Give at least one row.")
    return chain([first], rows)


def iterate_dataset(dataset: Iterable[Any], name: str) -> Iterator[Row]:
    """The rows of an in-memory, map-style or streaming data set; `Row`s pass as they are.

    Args:
        dataset: Yields dicts of columns, or rows that know their file and line already.
        name: What the data set is called in messages.
    """
    for index, values in enumerate(dataset):
        if isinstance(values, Row):
            yield values
            continue
        where = f"{name} row {index}"
        if not isinstance(values, dict):
            raise DataError(
                f"expected a dict of columns, found {type(values).__name__}", where=where
            )
        yield Row(values, where, index)


def _read_file(path: Path) -> Iterator[Row]:
    suffixes = [s.lower() for s in path.suffixes]
    kind = next((s for s in reversed(suffixes) if s != ".gz"), "")
    if kind not in _READERS:
        raise DataError(f"unknown kind of file {kind or path.name!r}", where=str(path), fix=_HINT)
    try:
        for index, (line, values) in enumerate(_READERS[kind](path)):
            where = f"{path}:{line}"
            if not isinstance(values, dict):
                raise DataError(
                    f"expected an object with columns, found {type(values).__name__}",
                    where=where,
                    fix='Each row must look like {"prompt": ..., "chosen": ..., "rejected": ...}.',
                )
            yield Row(values, where, index)
    except (OSError, EOFError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 at byte {error.start}", where=str(path), fix="Convert it to UTF-8."
        ) from error


def _open_text(path: Path, newline: str | None = None) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with _open_text(path) as file:
        for line, text in enumerate(file, start=1):
            if text.strip():
                yield line, _parse(text, path, line)


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    """A JSON list of objects; a file of one object per line under this name is read as such."""
    with _open_text(path) as file:
        text = file.read()
    if not text.lstrip().startswith("["):
        yield from _read_jsonl(path)
        return
    decoder, position, line = json.JSONDecoder(), text.index("[") + 1, 1
    counted = 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", counted, position)
        counted = position
        if position >= len(text):
            raise DataError("broken JSON: the list has no end ']'", where=f"{path}:{line}")
        if text[position] == "]":
            return
        try:
            values, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            raise _broken(error, path, getattr(error, "lineno", line)) from error
        yield line, values


def _parse(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _broken(error, path, line) from error


def _broken(error: Exception, path: Path, line: int) -> DataError:
    column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
    return DataError(
        f"broken JSON{column} ({what})", where=f"{path}:{line}", fix="Correct or delete this line."
    )


def _read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)
    with _open_text(path, newline="") as file:
        reader = csv.DictReader(file)
        try:
            for values in reader:
                yield reader.line_num, {k: v for k, v in values.items() if k is not None}
        except csv.Error as error:
            raise DataError(f"broken CSV ({error})", where=f"{path}:{reader.line_num}") from error


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            line = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    line += 1
                    yield line, values
    except pa.ArrowException as error:
        raise DataError(f"broken Parquet ({error})", where=str(path)) from error


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _read_folder(path: Path) -> Iterator[Row]:
    """A `save_to_disk` folder (its "train" split if it has several), or a folder of data files."""
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        import datasets  # noqa: PLC0415

        loaded = datasets.load_from_disk(str(path))
        if isinstance(loaded, datasets.DatasetDict):
            loaded = _one_split(loaded, str(path))
        yield from iterate_dataset(loaded, str(path))
        return
    files = sorted(f for f in path.iterdir() if any(s.lower() in _READERS for s in f.suffixes))
    if not files:
        raise DataError("the folder holds no data set", where=str(path), fix=_HINT)
    index = 0
    for file in files:
        for row in _read_file(file):
            yield Row(row.values, row.where, index)
            index += 1


def _read_hub(spec: str) -> Iterator[Row]:
    import datasets  # noqa: PLC0415

    name, _, split = spec.partition(":")
    try:
        loaded = datasets.load_dataset(name, split=split or None)
    except Exception as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"no file or folder of this name, and it cannot be loaded from the Hub ({first_line})",
            where=spec,
            fix=_HINT,
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = _one_split(loaded, spec)
    yield from iterate_dataset(loaded, spec)


def _one_split(splits: Any, where: str) -> Any:
    for name in ("train", "train_prefs"):
        if name in splits:
            return splits[name]
    if len(splits) == 1:
        return next(iter(splits.values()))
    raise DataError(
        f"has the splits {', '.join(splits)} and none called 'train'",
        where=where,
        fix="Save or name one split, e.g. NAME:SPLIT for a Hub id.",
    )
