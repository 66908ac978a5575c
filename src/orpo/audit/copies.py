"""Copies of rows as JSON Lines or Parquet; they appear under their names when they are complete."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orpo.data.types import Row
from orpo.errors import ConfigError, DataError

_BATCH = 1000
_UNFIT = (pa.ArrowException, TypeError, ValueError, OverflowError)
_INSTEAD = "Write .jsonl instead, where each row may hold what it likes."


class Staged:
    """A file that is written under a temporary name beside its own, and then renamed.

    A context manager: what is not committed is removed.
    """

    def __init__(self, target: Path) -> None:
        self.target = target.resolve()  # a link stays, and what it points to is replaced
        folder, name = self.target.parent, self.target.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".partial")
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"cannot be written ({said})", where=str(target)) from error
        self.partial = Path(partial)
        self.file: IO[bytes] = os.fdopen(handle, "wb")

    def __enter__(self) -> Staged:
        return self

    def __exit__(self, *_: object) -> None:
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
        try:
            text = json.dumps(dict(row.values), ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"JSON cannot hold this row ({error})",
                where=row.where,
                fix="Write .parquet instead.",
            ) from error
        try:
            line = text.encode()
        except UnicodeEncodeError:  # half a character in a column that nobody reads
            line = json.dumps(dict(row.values)).encode()
        (self._zip or self._file).write(line + b"\n")

    def close(self) -> None:
        """Write what is left."""
        if self._zip:
            self._zip.close()
        self._file.flush()


class Parquet:
    """Columns of one type each; the same two methods."""

    def __init__(self, file: IO[bytes], schema: Any) -> None:
        self._schema = schema
        self._rows: list[Row] = []
        self._writer = pq.ParquetWriter(file, schema)

    def write(self, row: Row) -> None:
        """Add a row."""
        for name, value in row.values.items():
            if not isinstance(value, dict | list):
                continue
            if lacking := _lacking(value, self._schema.field(name).type):
                said = f"Parquet would fill in {lacking!r}, which objects in other rows have, with"
                where = f"{row.where}, field {name!r}"
                raise DataError(f"{said} null", where=where, fix=_INSTEAD)
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._write_rows()

    def close(self) -> None:
        """Write what is left."""
        self._write_rows()
        self._writer.close()

    def _write_rows(self) -> None:
        rows, self._rows = self._rows, []
        try:
            if values := [dict(row.values) for row in rows]:
                self._writer.write_table(pa.Table.from_pylist(values, schema=self._schema))
        except _UNFIT as error:
            raise _unfit(error, rows) from error


def schema_of(rows: Iterable[Row], source: str) -> Any:
    """The types of the columns, for Parquet: those of a Parquet file, or what the values say."""
    if source.lower().endswith(".parquet") and Path(source).is_file():
        return pq.read_schema(source)
    schema, batch = pa.schema([]), list[Row]()
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            schema, batch = _joined(schema, batch), []
    # As it is read back, so that a copy of a copy is the same, byte for byte.
    schema, stand_in = _joined(schema, batch), BytesIO()
    try:
        pq.ParquetWriter(stand_in, schema).close()
    except (pa.ArrowException, TypeError) as error:
        raise _unfit(error, []) from error
    stand_in.seek(0)
    return pq.read_schema(stand_in)


def _joined(schema: Any, rows: list[Row]) -> Any:
    names = dict.fromkeys(name for row in rows for name in row.values)
    try:
        columns = {name: pa.array([row.values.get(name) for row in rows]) for name in names}
        found = pa.schema([(name, column.type) for name, column in columns.items()])
        return pa.unify_schemas([schema, found], promote_options="permissive")
    except _UNFIT as error:
        raise _unfit(error, rows) from error


def _lacking(value: Any, column: Any) -> str:
    """A member that an object within the value lacks though its type has it, or empty."""
    if isinstance(value, dict) and pa.types.is_struct(column):
        for member in column:
            if member.name not in value:
                return str(member.name)
            if found := _lacking(value[member.name], member.type):
                return found
    elif isinstance(value, list) and pa.types.is_list(column):
        return next(filter(None, (_lacking(item, column.value_type) for item in value)), "")
    return ""


def _unfit(error: Exception, rows: list[Row]) -> DataError:
    where = f"{rows[0].where} to {rows[-1].where}" if rows else "the data set"
    said = f"the rows do not fit into Parquet's columns ({error})"
    return DataError(said, where=where, fix=_INSTEAD)
