"""From rows to a data set of token ids with an exact account of every row.

It lies in a file that is mapped into memory. Where a cache is named it is kept from run to run: a
folder of pairs.arrow and ledger.json, written under another name and renamed when it is whole.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch

from orpo.data.reading import PairReader, PairReaders, is_tokenised
from orpo.data.sources import fingerprint_of
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import COLUMNS, Dropped, Ledger, PreferencePair, Row, TokenizedPair
from orpo.errors import DataError
from orpo.runs.manifest import describe
from orpo.runs.reading import read_object
from orpo.runs.writing import remove
from orpo.terminal import under_way

_TOGETHER = 256  # rows that are tokenised at once

_SCHEMA = pa.schema(
    [
        *((name, pa.list_(pa.int32())) for name in COLUMNS[:3]),
        ("row", pa.int64()),
        ("weight", pa.float32()),
    ]
)
_BATCH = 1000  # pairs of a record batch
_ABANDONED = 24 * 3600  # seconds after which nobody writes a draft any more
_WORTH_KEEPING = 2000  # rows; fewer are tokenised in a second


def is_prepared(dataset: object) -> bool:
    """Whether a data set came out of `Preparation`."""
    columns = tuple(getattr(dataset, "column_names", None) or ())
    return isinstance(dataset, StreamedPairs) or columns == COLUMNS


@dataclass(frozen=True)
class Preparation:
    """How rows become token ids."""

    tokenize: PairTokenizer
    on_bad_row: str = "error"  # or "drop"; this and the next two as in `PairReader`
    data_format: str = ""
    pair_rule: str = "best_worst"
    cache: Path | None = None  # folder that keeps what was tokenised

    def __call__(self, rows: Iterable[Row], name: str) -> tuple[datasets.Dataset, Ledger]:
        """All rows as a data set with the columns `COLUMNS`, and the account of every row."""
        home = self._home(rows)
        kept = None if home is None else _load(home)
        if kept is not None:
            kept[1].name, kept[1].recalled = name, True
            return kept
        ledger = Ledger(name)
        return _save(self._required(rows, ledger), ledger, home), ledger

    def stream(self, rows: Iterable[Row], ledger: Ledger) -> Iterator[TokenizedPair]:
        """The kept pairs one by one; the ledger counts along."""
        readers = PairReaders(self.data_format, self.on_bad_row, self.pair_rule)
        renderings: dict[str, None] = {}
        tokenised: dict[str, None] = {}
        ahead, together = iter(rows), 1
        while chunk := list(islice(ahead, together)):
            read = [self._read(row, readers.of(row), tokenised) for row in chunk]
            pairs = [pair for pair in read if isinstance(pair, PreferencePair)]
            spoken = map(self.tokenize.template.renders_messages, pairs)
            renderings |= {"chat template" if chat else "plain text": None for chat in spoken}
            tokens = iter(self.tokenize.batch(pairs))
            ledger.format = " + ".join([*readers.formats, *tokenised])
            ledger.rendering = " + ".join(renderings)
            for found in read:
                outcome = next(tokens) if isinstance(found, PreferencePair) else found
                ledger.count(outcome)
                if isinstance(outcome, TokenizedPair):
                    yield outcome
            together = min(2 * together, _TOGETHER)
        readers.require_readable()

    def _read(
        self, row: Row, reader: PairReader, tokenised: dict[str, None]
    ) -> PreferencePair | TokenizedPair | Dropped:
        if reader.format or not is_tokenised(row.values):
            return reader(row)
        tokenised["already tokenised"] = None
        return reader.tokens(row, self.tokenize.from_tokens)

    def _required(self, rows: Iterable[Row], ledger: Ledger) -> Iterator[TokenizedPair]:
        with under_way(f"reading {ledger.name}") as advance:
            for pair in self.stream(rows, ledger):
                advance(1)
                yield pair
        _require_pairs(ledger)

    def _home(self, rows: Iterable[Row]) -> Path | None:
        """Where these rows are kept, tokenised so; None if they do not say what they are."""
        identity = None if self.cache is None else fingerprint_of(rows)
        if self.cache is None or identity is None:
            return None
        how = (self.on_bad_row, self.data_format, self.pair_rule)
        parts = [_code(), identity, self.tokenize.fingerprint(), *how]
        text = json.dumps(parts, sort_keys=True, default=str)
        return self.cache / hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class StreamedPairs(torch.utils.data.IterableDataset[dict[str, Any]]):
    """A stream of token ids: rows of `source()` are tokenised in each pass, and counted."""

    def __init__(
        self, source: Callable[[], Iterator[Row]], preparation: Preparation, name: str
    ) -> None:
        super().__init__()
        self.source = source
        self.preparation = preparation
        self.ledger = Ledger(name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        vars(self.ledger).update(vars(Ledger(self.ledger.name)))
        for pair in self.preparation.stream(self.source(), self.ledger):
            yield {key: getattr(pair, key) for key in COLUMNS}
        # A worker of a data loader may have been dealt no rows; it leaves them to the others.
        if self.ledger.rows_in > 0 or torch.utils.data.get_worker_info() is None:
            _require_pairs(self.ledger)


def _require_pairs(ledger: Ledger) -> None:
    """Check that there is something to prefer: a pair, and a rejected answer."""
    if ledger.kept == 0:
        details = [rows[0].detail for rows in ledger.examples.values()]
        detail = f" ({details[0]})" if details and details[0] else ""
        long = any("too_long" in reason for reason in ledger.dropped)
        what = f"no pair is left to train on: {ledger.summary()}{detail}"
        fix = "Raise max_length, or see the reasons." if long else "See the reasons."
        raise DataError(what, where=ledger.name, fix=fix)
    if ledger.nll_only == ledger.kept:
        what = f"no row has a rejected answer (column 'rejected'): {ledger.summary()}"
        fix = "Preference data need 'chosen' and 'rejected'; rows without may be among them."
        raise DataError(what, where=ledger.name, fix=fix)


def _load(home: Path) -> tuple[datasets.Dataset, Ledger] | None:
    """A data set that is kept and its account, if it is there and whole."""
    if not (home / "ledger.json").is_file():
        return None
    try:
        plain = read_object(home / "ledger.json")
        if plain.pop("sha256") != describe(home / "pairs.arrow").sha256:
            return None
        ledger = Ledger.from_dict(plain)
        pairs = datasets.Dataset.from_file(str(home / "pairs.arrow"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException):
        return None  # damaged: it is made again
    return (pairs, ledger) if pairs.data.schema.equals(_SCHEMA) else None


def _save(pairs: Iterator[TokenizedPair], ledger: Ledger, home: Path | None) -> datasets.Dataset:
    """The data set of these pairs: kept at `home`, or for as long as it lives."""
    with _room("the temporary folder"):
        draft = _scratch_folder(None if home is None else home.parent)
    try:
        _write(pairs, draft / "pairs.arrow")
        folder = draft
        if home is not None and ledger.rows_in >= _WORTH_KEEPING:
            plain = {**ledger.as_dict(), "sha256": describe(draft / "pairs.arrow").sha256}
            with _room(draft.parent):
                (draft / "ledger.json").write_text(json.dumps(plain), "utf-8")
            with suppress(OSError):  # another process may have been faster, with the same content
                remove(home)
                folder = draft.rename(home)
        prepared = datasets.Dataset.from_file(str(folder / "pairs.arrow"))
    except BaseException:
        _remove(draft, os.getpid())
        raise
    if folder == draft:
        weakref.finalize(prepared, _remove, draft, os.getpid())
    return prepared


def _write(pairs: Iterator[TokenizedPair], path: Path) -> None:
    folder = path.parent.parent
    with _room(folder):
        file = pa.ipc.new_stream(str(path), _SCHEMA)
    try:
        # Outside of `_room`: what the rows' own source raises is no matter of room.
        while batch := list(islice(pairs, _BATCH)):
            columns = {name: [getattr(pair, name) for pair in batch] for name in COLUMNS}
            with _room(folder):
                file.write_batch(pa.RecordBatch.from_pydict(columns, schema=_SCHEMA))
    finally:
        with _room(folder):
            file.close()


@contextmanager
def _room(folder: object) -> Iterator[None]:
    """Says of a failed write where room is needed."""
    try:
        yield
    except OSError as error:
        what = f"tokenised data cannot be written ({error.strerror or error})"
        fix = "Make room there, or name another folder with ORPO_CACHE."
        raise DataError(what, where=str(folder), fix=fix) from error


def _scratch_folder(beside: Path | None) -> Path:
    """A new folder; what programs left there that were killed a day ago or earlier goes."""
    with suppress(OSError):  # a cache that cannot be written is no reason not to train
        if beside is not None:
            beside.mkdir(parents=True, exist_ok=True)
            for draft in beside.glob("draft-*"):
                with suppress(OSError):
                    if time.time() - draft.stat().st_mtime > _ABANDONED:
                        shutil.rmtree(draft)
            return Path(tempfile.mkdtemp(prefix="draft-", dir=beside))
    return Path(tempfile.mkdtemp(prefix="orpo-"))


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a loader's forked worker has the object too, not the folder
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _code() -> str:
    """A digest of what tokenises: what other versions of it made is not used."""
    digest = hashlib.sha256()
    for library in ("tokenizers", "transformers", "jinja2"):
        digest.update(f"{library} {version(library)}".encode())
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
