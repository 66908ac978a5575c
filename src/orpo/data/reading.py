"""From rows to pairs: the format is recognised from the first row that can be read.

A run goes through its data several times, to split, tokenise, audit and score them. `ReadOnce`
opens the file and converts each row once, and gives the rows with their pairs from then on.
"""

import marshal
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from typing import Any

from orpo.data import columns
from orpo.data.fields import weight_of
from orpo.data.formats import to_pair
from orpo.data.lengths import TooLongError
from orpo.data.media import refuse_media, refuse_placeholders
from orpo.data.sources import fingerprint_of
from orpo.data.types import (
    Converted,
    Dropped,
    PreferencePair,
    Refused,
    Row,
    TextPair,
    TokenizedPair,
)
from orpo.errors import DataError

_TOKENISED = (
    # ours, and TRL's current names: answers without the prompt
    ("prompt_ids", "chosen_ids", "rejected_ids"),
    # TRL's ORPO and DPO names: with `*_labels`, the answers' columns hold the prompt too
    ("prompt_input_ids", "chosen_input_ids", "rejected_input_ids"),
)

_PATIENCE = 100  # rows that are in no format, before the data set is taken to be in none
_TOGETHER = 256  # rows that are kept as one piece
_IN_MEMORY = 2**25  # bytes of kept rows; what is beyond lies in a temporary file


@dataclass
class PairReader:
    """Reads the rows of one data set, all in one format.

    Attributes:
        format: Name of the format out of `orpo.data.formats.FORMATS`; empty until the first row
            that can be read decides it.
        on_bad_row: "error" stops at a malformed row; "drop" gives `Dropped` for it. That the
            columns leave open how all the rows are to be read is no row's fault, and stops both.
        pair_rule: How a pair is chosen from a list of scored answers, see
            `orpo.data.fields.PAIR_RULES`.
    """

    format: str = ""
    on_bad_row: str = "error"
    pair_rule: str = "best_worst"
    _guessed: bool = field(default=False, init=False, repr=False)
    _strange: int = field(default=0, init=False, repr=False)
    _rows: int = field(default=0, init=False, repr=False)
    _bad: int = field(default=0, init=False, repr=False)
    _first: DataError | None = field(default=None, init=False, repr=False)

    def __call__(self, row: Row) -> PreferencePair | Dropped:
        """The pair of a row, or why it gives none.

        Raises:
            DataError: The row is malformed and `on_bad_row` is "error"; or, before any row could be
                read, its columns may be read in several ways, or a hundred rows were in no format.
        """
        found = self.convert(row)
        if isinstance(found, Refused):
            if found.fatal or self.on_bad_row == "error":
                raise copy(found.error)
            return self._refuse(row, found.error)
        self._rows += not row.left_out
        return found

    def convert(self, row: Row) -> PreferencePair | Dropped | Refused:
        """The pair of a row, or why there is none, without entering it."""
        known = row.known
        if known and known.pair_rule == self.pair_rule and self.format in {"", known.format}:
            self.format = known.format
            return known.found
        try:
            return self._read(row)
        except DataError as error:
            undecided = isinstance(error, columns.UndecidedError) and not self.format
            # A copy has no traceback, which would hold on to the row and to the open file.
            return Refused(copy(error), undecided or self._strange >= _PATIENCE)

    def tokens(
        self, row: Row, read: Callable[[Row], TokenizedPair | Dropped]
    ) -> TokenizedPair | Dropped:
        """What `read` makes of a row of token ids, entered as a row that this reader reads."""
        try:
            found = read(row)
        except TooLongError:
            raise  # asked for by truncation="error"; nothing is wrong with the row's form
        except DataError as error:
            if self.on_bad_row == "error":
                raise
            return self._refuse(row, error)
        self._rows += not row.left_out
        return found

    def _refuse(self, row: Row, error: DataError) -> Dropped:
        self._rows, self._bad = self._rows + 1, self._bad + 1
        self._first = self._first or error
        reason = "unreadable" if row.broken else "malformed"
        return Dropped(reason, error.where or row.where, error.what)

    @property
    def mostly_unreadable(self) -> bool:
        """Whether most rows up to here cannot be read."""
        return 2 * self._bad > self._rows

    def require_readable(self) -> None:
        """Refuse data of which, when all rows were read, most could not be."""
        if self._first is not None and self.mostly_unreadable:
            what = f"{self._bad} of {self._rows} rows cannot be read; the first: {self._first.what}"
            raise DataError(what, where=self._first.where, fix=self._first.fix)

    def _read(self, row: Row) -> PreferencePair | Dropped:
        if row.left_out:
            return Dropped(row.left_out, row.where)
        if row.broken is not None:
            raise copy(row.broken)
        refuse_media(row)
        ours = columns.under_our_columns(row)
        name = self._format_of(ours)
        try:
            pair = to_pair(ours, name, self.pair_rule)
        except DataError as error:
            raise _explained(error, ours, name) from error
        self._guessed |= not self.format
        self.format, self._strange = name, 0
        if isinstance(pair, Dropped):
            return pair
        refuse_placeholders(pair)
        return replace(pair, row=row)

    def _format_of(self, row: Row) -> str:
        """The format of all the rows, which this one decides if none did before."""
        if self.format:
            if self._guessed and self.format == "implicit":
                columns.refuse_guess(row)
            return self.format
        try:
            return columns.recognise(row)
        except DataError as error:
            self._strange += bool(row.values)
            if self._strange < _PATIENCE:
                raise
            what = f"none of {_PATIENCE} rows is in a known format: {error.what}"
            raise DataError(what, where=error.where, fix=error.fix) from error


def _explained(error: DataError, row: Row, name: str) -> DataError:
    """The complaint about a row in the format `name`, with what may be meant by it."""
    try:
        other = columns.recognise(row)
    except DataError:
        other = name
    if other != name:
        what = f"{error.what}; this row looks like {other!r} data, the first like {name!r}"
        fix = "Put rows of different formats into files of their own."
        return DataError(what, where=error.where, fix=fix)
    missing = "no prompt" in error.what or "is missing" in error.what
    hint = columns.renaming(row.values) if missing else ""
    return DataError(error.what, where=error.where, fix=hint or error.fix)


class PairReaders:
    """Reads the rows of one data set, or of several that are mixed: each has its own format."""

    def __init__(self, data_format: str, on_bad_row: str, pair_rule: str) -> None:
        make = partial(PairReader, data_format, on_bad_row, pair_rule)
        self._readers: defaultdict[int, PairReader] = defaultdict(make)

    def __call__(self, row: Row) -> PreferencePair | Dropped:
        """The pair of a row, or why it gives none; raises as `PairReader` does."""
        return self.of(row)(row)

    def of(self, row: Row) -> PairReader:
        """The reader of the data set that a row came from."""
        return self._readers[row.source]

    def require_readable(self) -> None:
        """Check each data set as `PairReader.require_readable` does."""
        for reader in self._readers.values():
            reader.require_readable()

    @property
    def formats(self) -> list[str]:
        """The formats that were recognised, each once."""
        return list(dict.fromkeys(r.format for r in self._readers.values() if r.format))


class ReadOnce:
    """The rows of a data set with their pairs, read and converted when they first pass, and kept.

    Readers of the same format and rule take the pair as it is; passes may go side by side.
    """

    def __init__(
        self, rows: Iterable[Row], data_format: str = "", pair_rule: str = "best_worst"
    ) -> None:
        self._rows, self._remaining = rows, iter(self._converted())
        self._read = PairReaders(data_format, "drop", pair_rule)
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - lives as long
        # Where each piece lies in the file and its size, or itself if it cannot be written there.
        self._pieces: list[tuple[int, int] | list[Row]] = []
        self._failure: Exception | None = None
        self._identity: list[Any] | None = None
        weakref.finalize(self, self._file.close)

    def __iter__(self) -> Iterator[Row]:
        for number in count():
            rows = self._kept(number) if number < len(self._pieces) else self._more()
            if not rows:
                break
            yield from rows
        if self._failure is not None:
            raise self._failure

    def fingerprint(self) -> list[Any] | None:
        """What the rows depend on; None if that is not known."""
        self._identity = self._identity or fingerprint_of(self._rows)
        return self._identity

    def _kept(self, number: int) -> list[Row]:
        piece = self._pieces[number]
        if isinstance(piece, list):
            return piece
        start, size = piece
        self._file.seek(start)
        return [_restored(row) for row in marshal.loads(self._file.read(size))]  # noqa: S302 - data

    def _more(self) -> list[Row]:
        """Some further rows, which are kept; none at the end."""
        rows: list[Row] = []
        try:
            rows += islice(self._remaining, _TOGETHER)
        except Exception as error:
            self._failure = error
        if not rows:
            return []
        try:
            written = marshal.dumps([_plain(row) for row in rows])
        except ValueError:  # a date, say: nothing that stands for a text or a number
            self._pieces.append(rows)
            return rows
        try:
            start = self._file.seek(0, 2)
            self._file.write(written)
        except OSError as error:
            what = f"the rows cannot be kept ({error.strerror or error})"
            fix = "Make room there, or name another folder with TMPDIR."
            raise DataError(what, where=tempfile.gettempdir(), fix=fix) from error
        self._pieces.append((start, len(written)))
        return rows

    def _converted(self) -> Iterator[Row]:
        for row in self._rows:
            reader = self._read.of(row)
            if is_tokenised(row.values) and not reader.format:
                yield row
                continue
            found = reader.convert(row)
            known = Converted(found, reader.format, reader.pair_rule)
            # Of a row that is refused nobody reads the values, and they may be pictures.
            values = {} if isinstance(found, Refused) else row.values
            yield replace(row, values=values, known=known)


_KEPT = {
    kind.__name__: kind
    for kind in (Row, Converted, PreferencePair, TextPair, Dropped, Refused, DataError)
}
_DATA = frozenset((str, int, float, bool, type(None), dict, list, tuple))  # marshal's as they are


def _plain(value: Any) -> Any:
    """A noun of the data path, as a marked tuple of its name and fields: no code is read back."""
    kind = type(value)
    if kind in _DATA:
        return value
    if kind is DataError:
        return (..., "DataError", {"what": value.what, "where": value.where, "fix": value.fix})
    if _KEPT.get(kind.__name__) is kind:
        return (..., kind.__name__, {name: _plain(one) for name, one in vars(value).items()})
    return dict(value) if isinstance(value, Mapping) else value


def _restored(value: Any) -> Any:
    if type(value) is not tuple or value[:1] != (...,):
        return value
    fields = {name: _restored(one) for name, one in value[2].items()}
    if value[1] == "DataError":
        return DataError(fields.pop("what"), **fields)
    return _KEPT[value[1]](**fields)


def is_tokenised(values: Mapping[str, Any]) -> bool:
    """Whether these columns hold token ids already."""
    return any(set(names) <= set(values) for names in _TOKENISED)


def read_tokens(row: Row, vocabulary: range) -> TokenizedPair | Dropped:
    """The pair of a row of token ids, or why it is dropped."""
    refuse_media(row)
    names = next((names for names in _TOKENISED if set(names) <= set(row.values)), _TOKENISED[0])
    prompt, chosen, rejected = (_token_ids(row, name, vocabulary) for name in names)
    labels = row.values.get("chosen_labels")
    if labels is not None:
        masked = _as_list(labels)
        if masked is None or len(masked) != len(chosen):
            what = f"expected a list of {len(chosen)} labels, one for each token"
            raise row.fault(what, "chosen_labels")
        prompt = chosen[: next((i for i, label in enumerate(masked) if label != -100), None)]
    both = all(ids[: len(prompt)] == prompt for ids in (chosen, rejected))
    if labels is not None or (names == _TOKENISED[1] and prompt and both):
        if not both:
            what = "the sequence does not begin with the prompt's tokens"
            raise row.fault(what, names[2], "Both answers must follow the same prompt.")
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        if not rejected:
            return Dropped("empty_rejected", row.where, "the rejected has no tokens")
    weight = weight_of(row)
    if weight == 0:
        return Dropped("zero_weight", row.where, "field 'weight' is 0")
    return TokenizedPair(prompt, chosen, rejected, row=row.index, weight=weight)


def _token_ids(row: Row, name: str, vocabulary: range) -> list[int]:
    value = _as_list(row.values.get(name))
    if value is None:
        found = type(row.values.get(name)).__name__
        raise row.fault(f"expected a list of token ids, found {found}", name)
    for token in value:
        if type(token) is not int:
            found = f"a list with {type(token).__name__}"
            raise row.fault(f"expected a list of token ids, found {found}", name)
        if token not in vocabulary:
            what = f"token id {token} is outside of the tokenizer's 0 to {len(vocabulary) - 1}"
            raise row.fault(what, name, "Use the tokenizer that made these ids.")
    return value


def _as_list(value: Any) -> list[Any] | None:
    """A list as it is, an array as a list, None for anything else."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if isinstance(value, list) else None
