"""Copies of rows as JSON Lines or Parquet; they appear under their names when they are complete."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orpo.data.types import Row
from orpo.errors import ConfigError, DataError

_BATCH = 1000


class Staged:
    """A file that is written under a temporary name beside its own, and then renamed.

    A context manager: what is not committed is removed.
    """

    def __init__(self, target: Path) -> None:
        self.target = target.resolve()  # a link stays, and what it points to is replaced
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(
                dir=self.target.parent, prefix=f".{self.target.name}.", suffix=".partial"
            )
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"cannot be written ({said})", where=str(target)) from error
        self.partial = Path(name)
        self.file: IO[bytes] = os.fdopen(handle, "wb")

    def __enter__(self) -> Staged:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()
        self.partial.unlink(missing_ok=True)

    def commit(self) -> None:
        """Give the file its name; what had it before is replaced in one step."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        mask = os.umask(0)
        os.umask(mask)
        self.partial.chmod(0o666 & ~mask)
        self.partial.replace(self.target)


class JsonLines:
    """One object per line, as UTF-8; zipped without a time stamp: the same rows, the same bytes."""

    def __init__(self, file: IO[bytes], *, zipped: bool) -> None:
        self._zip = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if zipped else None
        self._file = file

    def write(self, row: Row) -> None:
        """Add a row."""
        (self._zip or self._file).write(_as_line(row))

    def close(self) -> None:
        """Write what is left."""
        if self._zip:
            self._zip.close()
        self._file.flush()

    def release(self) -> None:
        """Let go of the file."""
        if self._zip:
            with suppress(OSError, ValueError):
                self._zip.close()


class Parquet:
    """Columns of one type each; the same three methods."""

    def __init__(self, file: IO[bytes], schema: Any) -> None:
        self._schema = schema
        self._rows: list[Row] = []
        self._writer = pq.ParquetWriter(file, schema)

    def write(self, row: Row) -> None:
        """Add a row."""
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._write_rows()

    def close(self) -> None:
        """Write what is left."""
        self._write_rows()
        self._writer.close()

    def release(self) -> None:
        """Let go of the file."""
        with suppress(OSError, ValueError, pa.ArrowException):
            self._writer.close()  # or it tries when it is forgotten, and the file is closed

    def _write_rows(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        where = f"{rows[0].where} to {rows[-1].where}"
        for row in rows:
            _refuse_filling_in(row, self._schema)
        try:
            values = [dict(row.values) for row in rows]
            table = pa.Table.from_pylist(values, schema=self._schema)
            self._writer.write_table(table)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise _unfit(error, where) from error


def schema_of(rows: Iterable[Row], source: str) -> Any:
    """The types of the columns, for Parquet: those of a Parquet file, or what the values say."""
    if source.lower().endswith(".parquet") and Path(source).is_file():
        return pq.read_schema(source)
    schema, batch = pa.schema([]), list[Row]()
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            schema, batch = _joined(schema, batch), []
    return _as_read_back(_joined(schema, batch))


def _joined(schema: Any, rows: list[Row]) -> Any:
    names = dict.fromkeys(name for row in rows for name in row.values)
    try:
        columns = {name: pa.array([row.values.get(name) for row in rows]) for name in names}
        found = pa.schema([(name, column.type) for name, column in columns.items()])
        return pa.unify_schemas([schema, found], promote_options="permissive")
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _unfit(error, f"{rows[0].where} to {rows[-1].where}") from error


def _as_read_back(schema: Any) -> Any:
    """The schema that the file will have, so that a copy of a copy is the same, byte for byte."""
    stand_in = BytesIO()
    try:
        pq.ParquetWriter(stand_in, schema).close()
    except (pa.ArrowException, TypeError) as error:
        raise _unfit(error, "the data set") from error
    stand_in.seek(0)
    return pq.read_schema(stand_in)


def _refuse_filling_in(row: Row, schema: Any) -> None:
    """Refuse objects that lack members of others: Parquet would fill them in with null."""
    for name, value in row.values.items():
        column = schema.field(name).type if isinstance(value, dict | list) else None
        lacking = "" if column is None else _lacking(value, column)
        if lacking:
            raise DataError(
                f"Parquet would fill in {lacking!r}, which objects in other rows have, with null",
                where=f"{row.where}, field {name!r}",
                fix="Write .jsonl instead, where each row may hold what it likes.",
            )


def _lacking(value: Any, column: Any) -> str:
    """A member that an object within the value lacks though its type has it, or empty."""
    if isinstance(value, dict) and pa.types.is_struct(column):
        for member in column:
            if member.name not in value:
                return str(member.name)
            if found := _lacking(value[member.name], member.type):
                return found
    elif isinstance(value, list) and pa.types.is_list(column):
        for item in value:
            if found := _lacking(item, column.value_type):
                return found
    return ""


def _unfit(error: Exception, where: str) -> DataError:
    return DataError(
        f"the rows do not fit into Parquet's columns ({error})",
        where=where,
        fix="Write .jsonl instead, where each row may hold what it likes.",
    )


def _as_line(row: Row) -> bytes:
    try:
        text = json.dumps(dict(row.values), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"JSON cannot hold this row ({error})", where=row.where, fix="Write .parquet instead."
        ) from error
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half a character in a column that nobody reads
        return json.dumps(dict(row.values)).encode() + b"\n"
