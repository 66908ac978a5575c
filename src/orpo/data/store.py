"""Where tokenised pairs lie: in a file that is mapped into memory, kept from run to run if asked.

A kept data set is a folder of two files, written under another name and renamed when it is whole:

    pairs.arrow   the columns `COLUMNS` as an Arrow stream
    ledger.json   what became of every row, and the digest of the pairs
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from orpo.data.types import Ledger, TokenizedPair
from orpo.errors import DataError
from orpo.runs import read_object, remove
from orpo.runs.manifest import describe

__all__ = ["COLUMNS", "PairStore", "default_cache"]

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "row", "weight")
"""Columns of a prepared data set, as `TokenizedPair` describes them."""

_SCHEMA = pa.schema(
    [
        *((name, pa.list_(pa.int32())) for name in COLUMNS[:3]),
        ("row", pa.int64()),
        ("weight", pa.float32()),
    ]
)
_TOGETHER = 1000  # pairs of a record batch
_ABANDONED = 24 * 3600  # seconds after which nobody writes a draft any more
_WORTH_KEEPING = 2000  # rows; fewer are tokenised in a second


def default_cache() -> Path:
    """The folder for tokenised data: ORPO_CACHE, or "orpo" in the user's cache folder."""
    named = os.environ.get("ORPO_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else base / "orpo"


class PairStore:
    """Writes the pairs of one data set, or finds them written.

    Args:
        folder: Keeps data sets; None to keep none.
        key: Name of this one; empty if it cannot be told from others.
    """

    def __init__(self, folder: Path | None, key: str = "") -> None:
        self.home = folder / key if folder is not None and key else None

    @cached_property
    def draft(self) -> Path:
        """Where it is written; beside its home, so that it can be renamed."""
        folder = _scratch_folder(None if self.home is None else self.home.parent)
        self._removed = _removed_with(self, folder)
        return folder

    @staticmethod
    def key(*parts: object) -> str:
        """A name that changes with any of the parts, and with the code that tokenises."""
        text = json.dumps([_code(), *parts], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def load(self) -> tuple[datasets.Dataset, Ledger] | None:
        """The data set and its account, if it is there and whole."""
        if self.home is None or not (self.home / "ledger.json").is_file():
            return None
        try:
            plain = read_object(self.home / "ledger.json")
            if plain.pop("sha256") != describe(self.home / "pairs.arrow").sha256:
                return None
            ledger = Ledger.from_dict(plain)
            pairs = datasets.Dataset.from_file(str(self.home / "pairs.arrow"))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException):
            return None  # damaged: it is made again
        return (pairs, ledger) if pairs.data.schema.equals(_SCHEMA) else None

    @contextmanager
    def writing(self) -> Iterator[Callable[[TokenizedPair], None]]:
        """Gives the function that writes a pair."""
        waiting: dict[str, list[Any]] = {name: [] for name in COLUMNS}

        def flush() -> None:
            with self._room():
                file.write_batch(pa.RecordBatch.from_pydict(waiting, schema=_SCHEMA))
            for values in waiting.values():
                values.clear()

        def write(pair: TokenizedPair) -> None:
            for name in COLUMNS:
                waiting[name].append(getattr(pair, name))
            if len(waiting["row"]) == _TOGETHER:
                flush()

        # What the rows' own source raises passes through: it is no matter of room here.
        with self._room():
            file = pa.ipc.new_stream(str(self.draft / "pairs.arrow"), _SCHEMA)
        try:
            yield write
            flush()
        finally:
            with self._room():
                file.close()

    def finish(self, ledger: Ledger) -> datasets.Dataset:
        """The data set that was written: kept under its name, or as long as the object lives.

        What was derived from it can be read even then: the file is mapped.
        """
        folder = self.draft
        if self.home is not None and ledger.rows_in >= _WORTH_KEEPING:
            plain = {**ledger.as_dict(), "sha256": describe(self.draft / "pairs.arrow").sha256}
            with self._room():
                (self.draft / "ledger.json").write_text(json.dumps(plain), "utf-8")
            folder = self.home if _moved(self.draft, self.home) else self.draft
        pairs = datasets.Dataset.from_file(str(folder / "pairs.arrow"))
        self._removed.detach()
        if folder == self.draft:
            _removed_with(pairs, folder)
        return pairs

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Says of a failed write where room is needed."""
        try:
            yield
        except OSError as error:
            draft = vars(self).get("draft")  # asking for it anew could fail again
            raise DataError(
                f"tokenised data cannot be written ({error.strerror or error})",
                where=str(draft.parent) if draft else "the temporary folder",
                fix="Make room there, or name another folder with ORPO_CACHE.",
            ) from error


def _moved(draft: Path, home: Path) -> bool:
    """Rename a folder; another process may have been faster, with the same content."""
    try:
        remove(home)
        draft.rename(home)
    except OSError:
        return False
    return True


def _scratch_folder(beside: Path | None) -> Path:
    """A new folder."""
    folder = ""
    if beside is not None:
        with suppress(OSError):  # a cache that cannot be written is no reason not to train
            beside.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(beside)
            folder = tempfile.mkdtemp(prefix="draft-", dir=beside)
    return Path(folder or tempfile.mkdtemp(prefix="orpo-"))


def _removed_with(owner: Any, folder: Path) -> weakref.finalize[[Path, int], Any]:
    """Have a folder removed when an object is, or when the program ends."""
    return weakref.finalize(owner, _remove, folder, os.getpid())


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a loader's forked worker has the object too, not the folder
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Delete what programs left behind that were killed a day ago or earlier."""
    for draft in folder.glob("draft-*"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _ABANDONED:
                shutil.rmtree(draft)


@cache
def _code() -> str:
    """A digest of what tokenises: what other versions of it made is not used."""
    digest = hashlib.sha256()
    for library in ("tokenizers", "transformers", "jinja2"):
        digest.update(f"{library} {version(library)}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
