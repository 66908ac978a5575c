"""Where rows come from: files, folders, Hub ids and in-memory data sets, each row with its place.

.json, .jsonl, .ndjson (a list, one object per line, or objects over several lines) · .csv ·
.parquet; each also as .gz where text
a folder written by `datasets.Dataset.save_to_disk`, or a folder of such files
a Hub id, optionally with a revision and a split: "owner/name", "owner/name@commit:train"
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from orpo.data.types import Row
from orpo.errors import DataError
from orpo.runs.manifest import describe

__all__ = ["Source", "iterate_dataset", "open_source"]

# "owner/name" or "name", revision, split; the name of a file with a dot needs a folder to be an id.
_HUB_ID = re.compile(r"(\w[\w.-]*/[\w.-]+|\w[\w-]*)(@[^\s@:]+)?(:\S+)?")
# What damaged files and archives bring about.
_UNREADABLE = (OSError, EOFError, zlib.error)
_PART = 1 << 20  # characters of a JSON list that are read at a time
_LITERAL = 16  # longer than any word of JSON
_SPLIT = re.compile(r"train(?![a-z])")
_OTHER_SPLIT = re.compile(r"(test|valid|validation|val|dev|eval|heldout|held_out)(?![a-z])")
_LIST = re.compile(r"\[[ \t\r\n]*\{")
_BLANK = re.compile(r"[ \t\r\n]*")
_HINT = "Use a .json, .jsonl, .csv or .parquet file, a saved data set folder, or a Hub id."


def open_source(spec: str) -> Iterator[Row]:
    """The rows of a data set named by a path or a Hub id, in order, read as they are needed.

    Raises:
        DataError: Not found, empty, of an unknown kind, or broken; says where.
    """
    rows = _reader(spec)
    first = next(rows, None)
    if first is None:
        raise DataError("the data set is empty", where=spec, fix="Give at least one row.")
    return chain([first], rows)


@dataclass(frozen=True)
class Source:
    """A data set named by a path or a Hub id; its rows are read anew each time it is gone through.

    Attributes:
        spec: The path or id.
    """

    spec: str

    def __iter__(self) -> Iterator[Row]:
        return open_source(self.spec)

    def fingerprint(self) -> list[Any] | None:
        """What the rows depend on: names and content of files; None for a Hub id."""
        path = Path(self.spec).expanduser()
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        contents = [(str(file), describe(file).sha256) for file in files if file.is_file()]
        return [self.spec, *contents] if contents else None


def _reader(spec: str) -> Iterator[Row]:
    path = Path(spec).expanduser() if spec.startswith("~/") else Path(spec)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise DataError(f"is no path ({_reason(error)})", where=spec[:80], fix=_HINT) from error
    if spec and is_folder:
        return _read_folder(path)
    if is_file:
        return _read_file(path)
    if _HUB_ID.fullmatch(spec) is None or _kind(path) in _READERS:
        raise DataError("no such file or folder", where=spec or "dataset", fix=_HINT)
    return _read_hub(spec)


def iterate_dataset(dataset: Iterable[Any], name: str) -> Iterator[Row]:
    """The rows of an in-memory, map-style or streaming data set; `Row`s pass as they are.

    A map-style `datasets` object gives plain values, whatever its format.

    Args:
        dataset: Yields dicts of columns, or rows that know their file and line already.
        name: What the data set is called in messages.
    """
    if hasattr(dataset, "with_format") and hasattr(dataset, "__len__"):
        dataset = dataset.with_format(None)  # not for streams: the copy would forget its epoch
    for index, values in enumerate(_readable(dataset, name)):
        if isinstance(values, Row):
            yield values
            continue
        where = f"{name} row {index}"
        if not isinstance(values, Mapping):
            raise DataError(
                f"expected a dict of columns, found {type(values).__name__}",
                where=where,
                fix="Pass rows, e.g. datasets.Dataset.from_pandas(frame) for a DataFrame.",
            )
        yield Row(values, where, index)


def _readable(dataset: Iterable[Any], name: str) -> Iterator[Any]:
    """What a data set gives; that it cannot be read any further is said as such."""
    rows, count = iter(dataset), 0
    while True:
        try:
            values = next(rows)
        except StopIteration:
            return
        except DataError:
            raise
        except (*_UNREADABLE, ImportError) as error:
            # `datasets` imports what decodes pictures and sound only when a row holds some.
            raise DataError(
                f"cannot be read ({_reason(error)})",
                where=f"{name} row {count}",
                fix="Pass rows of texts: pictures, sound and video are not trained on."
                if isinstance(error, ImportError)
                else "The data set itself fails there: look at its files.",
            ) from error
        yield values
        count += 1


def _read_file(path: Path) -> Iterator[Row]:
    kind = _kind(path)
    if kind not in _READERS:
        raise DataError(f"unknown kind of file {kind or path.name!r}", where=str(path), fix=_HINT)
    try:
        above = 0
        for index, (line, values) in enumerate(_READERS[kind](path)):
            # A JSON list may be one long line: the number of the row tells its rows apart.
            where = f"{path}:{line}" if line > above else f"{path}:{line} row {index}"
            above = line
            broken = values if isinstance(values, DataError) else _no_object(values, where)
            yield Row({} if broken else values, where, index, broken)
    except _UNREADABLE as error:
        raise DataError(f"cannot be read ({_reason(error)})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError(
            "is not UTF-8 text", where=_first_undecodable(path), fix="Convert it to UTF-8."
        ) from error


def _no_object(values: Any, where: str) -> DataError | None:
    """The complaint about a record that has no columns."""
    if isinstance(values, dict):
        return None
    return DataError(
        f"expected an object with columns, found {type(values).__name__}",
        where=where,
        fix='Each row must look like {"prompt": ..., "chosen": ..., "rejected": ...}.',
    )


def _kind(path: Path) -> str:
    """The suffix that says what is in a file: ".jsonl" for "pairs.v2.JSONL.gz"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _open_bytes(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def _open_text(path: Path, newline: str | None = None, errors: str = "strict") -> IO[str]:
    return TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline=newline, errors=errors)


def _first_undecodable(path: Path) -> str:
    """The place of the first line that is not UTF-8; a text reader is ahead of its lines."""
    line = 1
    with suppress(*_UNREADABLE), _open_bytes(path) as file:
        for content in file:
            try:
                content.decode()
            except UnicodeDecodeError:
                break
            line += 1
    return f"{path}:{line}"


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    """A list of objects, one object per line, or objects over several lines: the beginning says."""
    layout = _layout(path)
    if layout == "lines":
        yield from _read_lines(path)
        return
    with _open_text(path) as file:
        text = _Reader(file, path)
        if layout == "list":
            yield from _elements(text)
        while layout == "objects" and text.next():
            yield text.line, text.value()


def _layout(path: Path) -> str:
    """How the values of a JSON file stand in it: "list", "objects" over several lines, "lines"."""
    with _open_text(path, errors="replace") as file:  # one line may be broken among good ones
        text = _Reader(file, path)
        opening = text.next()
        if opening == "[" and (_kind(path) == ".json" or text.opens_list()):
            return "list"
        return "objects" if opening == "{" and text.spans_lines() else "lines"


def _read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """One object per line; a line that is none is given as the complaint about it."""
    with _open_bytes(path) as file:
        for line, content in enumerate(file, start=1):
            text = content.removeprefix(b"\xef\xbb\xbf") if line == 1 else content
            if text.strip():
                yield line, _parse(text, path, line)


def _elements(text: _Reader) -> Iterator[tuple[int, Any]]:
    """The elements of the list that the text is."""
    text.next()
    text.at += 1
    while text.next() != "]":
        yield text.line, text.value()
        if text.next() == ",":
            text.at += 1
        elif text.next() != "]":
            raise text.broken("Expecting ',' or ']'")
    text.at += 1
    if text.next():
        raise text.broken("Nothing may follow the list")


class _Reader:
    """The text of a JSON file, a part at a time: a list may be larger than memory.

    Attributes:
        at: Position within the part that is in memory.
    """

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path, self._size = file, path, _PART
        self._text, self._ended = "", False
        self._lines, self._columns = 0, 0  # that lie before the part
        self.at = 0

    @property
    def line(self) -> int:
        """The line of the position, from 1."""
        return 1 + self._lines + self._text.count("\n", 0, self.at)

    def next(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            blank = _BLANK.match(self._text, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self._text) or self._ended:
                return self._text[self.at : self.at + 1]
            self._more()

    def opens_list(self) -> bool:
        """Whether the bracket here opens a list of objects, rather than a line that is a list."""
        line, below = self._this_line()
        if not _LIST.match(self._text):
            return False
        return not (_is_json(line) and below.strip())

    def spans_lines(self) -> bool:
        """Whether the object that begins here goes on behind the end of its line."""
        line, _ = self._this_line()
        if line.strip() == "{":
            return True  # wherever it is broken, it is no line of its own
        if _is_json(line):
            return False
        with suppress(DataError):
            self.value()
        spans, self.at = "\n" in self._text[: self.at], 0
        return spans

    def _this_line(self) -> tuple[str, str]:
        """The line that begins here, and the beginning of what is below; nothing lies before."""
        self._more()
        while "\n" not in self._text and not self._ended:
            self._more()
        line, _, below = self._text.partition("\n")
        return line, below

    def value(self) -> Any:
        """The value that begins here."""
        self._size = _PART
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self.at)
            except (ValueError, RecursionError) as error:
                if self._ended or not _cut_off(error, len(self._text)):
                    raise self._complaint(error) from error
            else:
                if end < len(self._text) or self._ended:
                    self.at = end
                    return value
            self._more()

    def broken(self, what: str) -> DataError:
        """The complaint about what stands here."""
        return self._complaint(json.JSONDecodeError(what, self._text, self.at))

    def _more(self) -> None:
        """Let go of what was read, and take up a further part, larger each time in one value."""
        gone = self._text[: self.at]
        self._lines += gone.count("\n")
        self._columns = len(gone) - gone.rfind("\n") - 1 + ("\n" not in gone) * self._columns
        part = self._file.read(self._size)
        self._text, self.at, self._ended = self._text[self.at :] + part, 0, not part
        self._size *= 2

    def _complaint(self, error: Exception) -> DataError:
        if not isinstance(error, json.JSONDecodeError):
            return _broken(error, self._path, self.line)
        column = error.colno + (self._columns if error.lineno == 1 else 0)
        return _broken(error, self._path, self._lines + error.lineno, column)


def _cut_off(error: Exception, length: int) -> bool:
    """Whether a value could not be read because it goes on behind what is in memory."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= length - _LITERAL


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; Python would take the last of two columns of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"column {twice!r} is there twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _is_json(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(content: bytes, path: Path, line: int) -> Any:
    try:
        return _DECODER.decode(content.decode())
    except UnicodeDecodeError:
        return DataError("is not UTF-8 text", where=f"{path}:{line}", fix="Convert it to UTF-8.")
    except (ValueError, RecursionError) as error:
        return _broken(error, path, line)


def _broken(error: Exception, path: Path, line: int, column: int = 0) -> DataError:
    place = f" at column {column or error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    what = error.msg if isinstance(error, json.JSONDecodeError) else what
    return DataError(
        f"broken JSON{place} ({what})", where=f"{path}:{line}", fix="Correct or delete this line."
    )


def _read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    line = 1
    with _open_text(path, newline="") as file:
        # Strict, because a quotation mark that is never closed swallows rows otherwise.
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            _check_header(header, path)
            line = reader.line_num + 1
            for fields in reader:
                if fields:
                    yield line, _by_column(header, fields, f"{path}:{line}")
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"broken CSV ({error})", where=f"{path}:{line}", fix="Check the quotation marks."
            ) from error


def _check_header(header: list[str], path: Path) -> None:
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f"column {twice[0]!r} is there twice", where=f"{path}:1")


def _by_column(header: list[str], fields: list[str], where: str) -> dict[str, str] | DataError:
    if len(fields) != len(header):
        return DataError(
            f"broken CSV: {len(fields)} fields for {len(header)} columns",
            where=where,
            fix="Put quotation marks around fields with commas or line breaks.",
        )
    return dict(zip(header, fields, strict=True))


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            _check_header(file.schema_arrow.names, path)
            line = 0
            for batch in file.iter_batches():
                for values in batch.to_pylist():
                    line += 1
                    yield line, values
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"broken Parquet ({_reason(error)})", where=str(path)) from error


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _read_folder(path: Path) -> Iterator[Row]:
    """A `save_to_disk` folder (its "train" split if it has several), or a folder of data files."""
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        yield from _read_saved(path)
        return
    try:
        files = _training_files(sorted(f for f in path.rglob("*") if _is_data(f, path)))
    except OSError as error:
        raise DataError(f"cannot be read ({_reason(error)})", where=str(path)) from error
    if not files:
        raise DataError("the folder holds no data set", where=str(path), fix=_HINT)
    index = 0
    for file in files:
        for row in _read_file(file):
            yield replace(row, index=index)
            index += 1


def _is_data(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return _kind(file) in _READERS and not hidden and file.is_file()


def _training_files(files: list[Path]) -> list[Path]:
    """Of files that are named after splits, as in a repository of the Hub, those of "train"."""
    train = [file for file in files if _SPLIT.match(file.name.lower())]
    return train if any(_OTHER_SPLIT.match(file.name.lower()) for file in files) else files


def _read_saved(path: Path) -> Iterator[Row]:
    import datasets  # noqa: PLC0415

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever the files of a damaged folder bring about
        raise DataError(
            f"the saved data set cannot be loaded ({_reason(error)})",
            where=str(path),
            fix="Save it again with save_to_disk.",
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = _one_split(loaded, str(path))
    yield from iterate_dataset(loaded, str(path))


def _read_hub(spec: str) -> Iterator[Row]:
    import datasets  # noqa: PLC0415

    pinned, _, split = spec.partition(":")
    name, _, revision = pinned.partition("@")
    asked = {"revision": revision} if revision else {}
    try:
        if revision:
            _check_revision(datasets.load_dataset_builder(name, **asked), revision, spec)
        loaded = datasets.load_dataset(name, split=split or None, **asked)
    except DataError:
        raise
    except Exception as error:  # whatever the network or a loading script brings about
        raise DataError(
            "no file or folder of this name, and it cannot be loaded from the Hub "
            f"({_reason(error)})",
            where=spec,
            fix=_HINT,
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = _one_split(loaded, spec)
    yield from iterate_dataset(loaded, spec)


def _check_revision(builder: Any, revision: str, spec: str) -> None:
    """Where the Hub cannot be asked, `datasets` takes what it loaded last, of any revision."""
    from_cache = type(builder).__module__.endswith("packaged_modules.cache.cache")
    if from_cache and not str(builder.hash).startswith(revision):
        raise DataError(
            f"the Hub cannot be asked, and what was loaded last is commit {builder.hash}",
            where=spec,
            fix="Name that commit, or go online.",
        )


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    said = getattr(error, "strerror", None) or str(error)
    return next(iter(said.splitlines()), type(error).__name__)


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
