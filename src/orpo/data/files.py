"""Rows out of files, each with the place that a fault is named by: JSON, CSV, Parquet; gzip too.

`datasets` would read these as well, but a fault would have no line, one broken row would take the
file with it, and columns would be bent into one type: null where a row has none, 7 for "7".
"""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

from orpo.data.types import Row
from orpo.errors import DataError
from orpo.runs.processes import rank

HINT = "Use a .json, .jsonl, .csv or .parquet file, a saved data set folder, or a Hub id."
UNREADABLE = (OSError, EOFError, zlib.error)
"""What damaged files and archives bring about."""

_PART = 1 << 20  # characters of a JSON list that are read at a time
_LITERAL = 16  # longer than any word of JSON
_LIST = re.compile(r"\[[ \t\r\n]*\{")
_BLANK = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t|"
_NO_CSV = {
    b"PK\x03\x04": "a ZIP archive or an Excel file",
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed (name it .csv.gz)",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"%PDF": "a PDF",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b'{"': "JSON",
    b"[{": "JSON",
    b"\0": "binary, or UTF-16",
}
_LOG = logging.getLogger(__name__)  # a warning goes to stderr where nobody has said otherwise

Records = Iterator[tuple[int, Any]]  # line, and a record or the complaint about it


def read_file(path: Path) -> Iterator[Row]:
    """The rows of a file, read as they are needed."""
    kind = kind_of(path)
    if kind not in READERS:
        raise DataError(f"unknown kind of file {kind or path.name!r}", where=str(path), fix=HINT)
    try:
        above = 0
        for index, (line, values) in enumerate(READERS[kind](path)):
            # A JSON list may be one long line: the number of the row tells its rows apart.
            where = f"{path}:{line}" if line > above else f"{path}:{line} row {index}"
            above = line
            broken = values if isinstance(values, DataError) else None
            if broken is None and not isinstance(values, dict):
                broken = DataError(
                    f"expected an object with columns, found {type(values).__name__}",
                    where=where,
                    fix='Each row must look like {"prompt": ..., "chosen": ..., "rejected": ...}.',
                )
            yield Row({} if broken else values, where, index, broken)
    except UNREADABLE as error:
        raise DataError(f"cannot be read ({reason(error)})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise _not_text(_first_undecodable(path)) from error


def kind_of(path: Path) -> str:
    """The suffix that says what is in a file: ".jsonl" for "pairs.v2.JSONL.gz"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    said = getattr(error, "strerror", None) or str(error)
    return next(iter(said.splitlines()), type(error).__name__)


def _not_text(where: str) -> DataError:
    return DataError("is not UTF-8 text", where=where, fix="Convert it to UTF-8.")


def _open_bytes(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def _as_text(file: IO[bytes], newline: str | None = None, errors: str = "strict") -> TextIOWrapper:
    return TextIOWrapper(file, encoding="utf-8-sig", newline=newline, errors=errors)


def _first_undecodable(path: Path) -> str:
    """The place of the first line that is not UTF-8; a text reader is ahead of its lines."""
    line = 1
    with suppress(*UNREADABLE, UnicodeDecodeError), _open_bytes(path) as file:
        for content in file:
            content.decode()
            line += 1
    return f"{path}:{line}"


def _read_json(path: Path) -> Records:
    """A list of objects, one object per line, or objects over several lines: the beginning says."""
    with _open_bytes(path) as file:
        layout = _layout(file, path)
        file.seek(0)
        if layout == "lines":
            yield from _lines(file, path)
            return
        text = _Reader(_as_text(file), path)
        if layout == "list":
            yield from _elements(text)
        while layout == "objects" and text.next():
            yield text.line, text.value()


def _layout(file: IO[bytes], path: Path) -> str:
    """How the values of a JSON file stand in it: "list", "objects" over several lines, "lines"."""
    beginning = _as_text(file, errors="replace")  # one line may be broken among good ones
    try:
        text = _Reader(beginning, path)
        opening = text.next()
        if opening == "[" and kind_of(path) == ".json":
            return "list"
        line, below = text.this_line()
        if opening == "[" and text.opens(_LIST) and not (_is_json(line) and below.strip()):
            return "list"  # of objects, rather than a line that is a list
        # A bracket alone: wherever its object is broken, it is no line of its own.
        over = line.strip() == "{" or (not _is_json(line) and text.spans_lines())
        return "objects" if opening == "{" and over else "lines"
    finally:
        beginning.detach()  # or it would close the file


def _lines(file: IO[bytes], path: Path) -> Records:
    """One object per line; a line that is none is given as the complaint about it."""
    for line, content in enumerate(file, start=1):
        text = content.removeprefix(_BOM) if line == 1 else content
        if not text.strip():
            continue
        try:
            yield line, _DECODER.decode(text.decode())
        except UnicodeDecodeError:
            yield line, _not_text(f"{path}:{line}")
        except (ValueError, RecursionError) as error:
            yield line, _broken(error, path, line)


def _elements(text: _Reader) -> Records:
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
    """The text of a JSON file, a part at a time: a list may be larger than memory."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path, self._size = file, path, _PART
        self._text, self._ended = "", False
        self._lines, self._columns = 0, 0  # that lie before the part
        self.at = 0  # position within the part that is in memory

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

    def this_line(self) -> tuple[str, str]:
        """The line that begins here, and the beginning of what is below; what lies before goes."""
        self._more()
        while "\n" not in self._text and not self._ended:
            self._more()
        line, _, below = self._text.partition("\n")
        return line, below

    def opens(self, pattern: re.Pattern[str]) -> bool:
        """Whether the text from here on begins so."""
        return pattern.match(self._text, self.at) is not None

    def spans_lines(self) -> bool:
        """Whether the value that begins here goes on behind the end of its line."""
        with suppress(DataError):
            self.value()
        return "\n" in self._text[: self.at]

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


def _broken(error: Exception, path: Path, line: int, column: int = 0) -> DataError:
    place, what = "", "nested too deeply" if isinstance(error, RecursionError) else str(error)
    if isinstance(error, json.JSONDecodeError):
        place, what = f" at column {column or error.colno}", error.msg
    return DataError(
        f"broken JSON{place} ({what})", where=f"{path}:{line}", fix="Correct or delete this line."
    )


def _read_csv(path: Path) -> Records:
    csv.field_size_limit(2**31 - 1)
    delimiter, line = _delimiter(path), 1
    with _as_text(_open_bytes(path), newline="") as file:
        # Strict, because a quotation mark that is never closed swallows rows otherwise.
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        try:
            header = next(reader, [])
            _check_header(header, path)
            line = reader.line_num + 1
            for fields in reader:
                if fields and len(fields) == len(header):
                    yield line, dict(zip(header, fields, strict=True))
                elif fields:
                    what = f"broken CSV: {len(fields)} fields for {len(header)} columns"
                    fix = f"Put quotation marks around fields with {delimiter!r} or line breaks."
                    if len(header) == 1:
                        fix = f"Line 1 is one column, {header[0]!r}: divide by ',;|' or tabs."
                    yield line, DataError(what, where=f"{path}:{line}", fix=fix)
                line = reader.line_num + 1
        except csv.Error as error:
            fix = "Check the quotation marks, and that columns are divided by ',;|' or tabs."
            raise DataError(f"broken CSV ({error})", where=f"{path}:{line}", fix=fix) from error


def _delimiter(path: Path) -> str:
    """What stands between the columns: a comma, or what makes more of the first line."""
    with _open_bytes(path) as file:
        beginning = file.read(_PART)
    header = beginning.partition(b"\n")[0]
    for mark, what in _NO_CSV.items():
        if header.lstrip().startswith(mark) or (mark == b"\0" and mark in header):
            fix = "Give it the ending that it has, or save it as CSV (UTF-8)."
            raise DataError(f"is no CSV: {what}", where=str(path), fix=fix)
    text, counts = beginning.decode("utf-8-sig", "replace"), dict.fromkeys(_DELIMITERS, 0)
    for delimiter in _DELIMITERS:
        with suppress(csv.Error):
            counts[delimiter] = len(next(csv.reader(StringIO(text), delimiter=delimiter), []))
    found = max(_DELIMITERS, key=counts.__getitem__)  # the comma, among equals
    if found != "," and not (found == "\t" and kind_of(path) == ".tsv"):
        _say_delimiter(path, found)
    return found


@cache
def _say_delimiter(path: Path, found: str) -> None:
    if rank() == 0:
        _LOG.warning("%s: columns are divided by %r, not by commas", path, found)


def _check_header(header: list[str], path: Path) -> None:
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f"column {twice[0]!r} is there twice", where=f"{path}:1")


def _read_parquet(path: Path) -> Records:
    import pyarrow as pa  # noqa: PLC0415 - takes a while, and few data are Parquet
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(path) as file:
            _check_header(file.schema_arrow.names, path)
            rows = (values for batch in file.iter_batches() for values in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"broken Parquet ({reason(error)})", where=str(path)) from error


READERS: dict[str, Callable[[Path], Records]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _read_json),
    **dict.fromkeys((".csv", ".tsv"), _read_csv),
    ".parquet": _read_parquet,
}
