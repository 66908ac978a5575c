"""From rows to pairs: the format is recognised from the first row that can be read.

A run goes through its data several times, to split, tokenise, audit and score them. `ReadOnce`
opens the file and converts each row once, and gives the rows with their pairs from then on.
"""

from __future__ import annotations

import marshal
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from orpo.data.columns import (
    UndecidedError,
    recognise,
    refuse_guess,
    renaming,
    under_our_columns,
)
from orpo.data.fields import weight_of
from orpo.data.formats import to_pair
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
            `orpo.data.formats.PAIR_RULES`.
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
            return self.refuse(row, found.error)
        self.accept(row)
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
            undecided = isinstance(error, UndecidedError) and not self.format
            # A copy has no traceback, which would hold on to the row and to the open file.
            return Refused(copy(error), undecided or self._strange >= _PATIENCE)

    def accept(self, row: Row) -> None:
        """Enter a row that can be read, by this reader or as token ids."""
        self._rows += not row.left_out

    def refuse(self, row: Row, error: DataError) -> Dropped:
        """Enter a row that cannot be read, for whatever reason."""
        self._rows, self._bad = self._rows + 1, self._bad + 1
        self._first = self._first or error
        reason = "unreadable" if row.broken else "malformed"
        return Dropped(reason, error.where or row.where, error.what)

    @property
    def mostly_unreadable(self) -> bool:
        """Whether most rows up to here cannot be read."""
        return 2 * self._bad > self._rows

    def require_readable(self) -> None:
        """Check, when all rows were read, that they are preference data after all.

        Raises:
            DataError: Most of them cannot be read; names the first one and what is wrong with it.
        """
        if self._first is not None and self.mostly_unreadable:
            raise DataError(
                f"{self._bad} of {self._rows} rows cannot be read; the first: {self._first.what}",
                where=self._first.where,
                fix=self._first.fix,
            )

    def _read(self, row: Row) -> PreferencePair | Dropped:
        if row.left_out:
            return Dropped(row.left_out, row.where)
        if row.broken is not None:
            raise copy(row.broken)
        refuse_media(row.values, row.where)
        ours = under_our_columns(row)
        name = self._format_of(ours)
        try:
            pair = to_pair(ours, name, self.pair_rule)
        except DataError as error:
            other = _looks_like(ours)
            if other in {"", name}:
                raise _with_renaming(error, ours) from error
            raise DataError(
                f"{error.what}; this row looks like {other!r} data, the first like {name!r}",
                where=error.where,
                fix="Put rows of different formats into files of their own.",
            ) from error
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
                refuse_guess(row.values, row.where)
            return self.format
        try:
            return recognise(row.values, row.where)
        except DataError as error:
            self._strange += bool(row.values)
            if self._strange < _PATIENCE:
                raise
            raise DataError(
                f"none of {_PATIENCE} rows is in a known format: {error.what}",
                where=error.where,
                fix=error.fix,
            ) from error


class PairReaders:
    """Reads the rows of one data set, or of several that are mixed: each has its own format."""

    def __init__(self, data_format: str, on_bad_row: str, pair_rule: str) -> None:
        self._how = (data_format, on_bad_row, pair_rule)
        self._readers: dict[int, PairReader] = {}

    def __call__(self, row: Row) -> PreferencePair | Dropped:
        """The pair of a row, or why it gives none; raises as `PairReader` does."""
        return self.of(row)(row)

    def of(self, row: Row) -> PairReader:
        """The reader of the data set that a row came from."""
        if row.source not in self._readers:
            self._readers[row.source] = PairReader(*self._how)
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
    """The rows of a data set with their pairs, read and converted when they first pass.

    Readers of the same format and rule take the pair of such a row as it is. The rows lie in
    memory, beyond `_IN_MEMORY` bytes in a temporary file, and can be gone through again and again.

    Args:
        rows: The data set, which is gone through once.
        data_format: As in `PairReaders`.
        pair_rule: As in `PairReaders`.
    """

    def __init__(
        self, rows: Iterable[Row], data_format: str = "", pair_rule: str = "best_worst"
    ) -> None:
        self._rows = rows
        self._remaining: Iterator[Row] = iter(())
        self._read = PairReaders(data_format, "drop", pair_rule)
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - lives as long
        # Where each piece lies in the file, or the piece itself if it cannot be written there.
        self._pieces: list[int | list[Row]] | None = None
        self._failure: Exception | None = None
        self._identity: list[Any] | None = None
        weakref.finalize(self, self._file.close)

    def __iter__(self) -> Iterator[Row]:
        number = 0
        while rows := self._kept(number) or self._more():
            yield from rows
            number += 1
        if self._failure is not None:
            raise self._failure

    def fingerprint(self) -> list[Any] | None:
        """What the rows depend on; None if that is not known."""
        if self._identity is None:
            self._identity = fingerprint_of(self._rows)
        return self._identity

    def _kept(self, number: int) -> list[Row]:
        if self._pieces is None:
            self._pieces, self._remaining = [], iter(self._rows)
        if number >= len(self._pieces):
            return []
        piece = self._pieces[number]
        if isinstance(piece, list):
            return piece
        self._file.seek(piece)
        return [_restored(*plain) for plain in marshal.load(self._file)]  # noqa: S302 - see _plain

    def _more(self) -> list[Row]:
        """Some further rows, which are kept; none at the end."""
        rows: list[Row] = []
        try:
            rows += map(self._converted, islice(self._remaining, _TOGETHER))
        except Exception as error:
            self._failure = error
        if rows:
            assert self._pieces is not None
            self._pieces.append(self._written(rows))
        return rows

    def _written(self, rows: list[Row]) -> int | list[Row]:
        try:
            written = marshal.dumps([_plain(row) for row in rows])
        except ValueError:  # a date, say: nothing that stands for a text or a number
            return rows
        try:
            start = self._file.seek(0, 2)
            self._file.write(written)
        except OSError as error:
            raise DataError(
                f"the rows cannot be kept ({error.strerror or error})",
                where=tempfile.gettempdir(),
                fix="Make room there, or name another folder with TMPDIR.",
            ) from error
        return start

    def _converted(self, row: Row) -> Row:
        reader = self._read.of(row)
        if is_tokenised(row.values) and not reader.format:
            return row
        found = reader.convert(row)
        known = Converted(found, reader.format, reader.pair_rule)
        # Of a row that is refused nobody reads the values, and they may be pictures.
        return replace(row, values={} if isinstance(found, Refused) else row.values, known=known)


def _plain(row: Row) -> tuple[Any, ...]:
    """A row as texts, numbers and lists of them: all that is read back is data.

    Raises:
        ValueError: An error of it is of a special kind.
    """
    place = (row.where, row.index, row.source, row.left_out)
    return dict(row.values), place, _plain_error(row.broken), row.known and _plain_known(row.known)


def _plain_error(error: DataError | None) -> tuple[str, str, str] | None:
    if error is not None and type(error) is not DataError:
        raise ValueError(error)
    return None if error is None else (error.what, error.where, error.fix)


def _plain_known(known: Converted) -> tuple[Any, ...]:
    found = known.found
    if isinstance(found, Refused):
        what: tuple[Any, ...] = (_plain_error(found.error), found.fatal)
    elif isinstance(found, Dropped):
        what = (dict(vars(found)),)
    else:
        fields = {name: value for name, value in vars(found).items() if name != "row"}
        what = ({**fields, "text": found.text and dict(vars(found.text))},)
    return type(found).__name__, what, known.format, known.pair_rule


def _restored(
    values: dict[str, Any], place: tuple[Any, ...], broken: Any, known: tuple[Any, ...] | None
) -> Row:
    """The row that `_plain` took apart."""
    where, index, source, left_out = place
    row = Row(values, where, index, _restored_error(broken), source, left_out)
    if known is None:
        return row
    kind, what, of_format, pair_rule = known
    found: PreferencePair | Dropped | Refused
    if kind == "Refused":
        error = _restored_error(what[0])
        assert error is not None
        found = Refused(error, what[1])
    elif kind == "Dropped":
        found = Dropped(**what[0])
    else:
        text = what[0]["text"] and TextPair(**what[0]["text"])
        found = PreferencePair(**{**what[0], "row": row, "text": text})
    return replace(row, known=Converted(found, of_format, pair_rule))


def _restored_error(error: tuple[str, str, str] | None) -> DataError | None:
    return None if error is None else DataError(error[0], where=error[1], fix=error[2])


def _with_renaming(error: DataError, row: Row) -> DataError:
    """The same complaint about what is not there, with the columns that may be meant for it."""
    missing = "no prompt" in error.what or "is missing" in error.what
    hint = renaming(row.values) if missing else ""
    return DataError(error.what, where=error.where, fix=hint) if hint else error


def _looks_like(row: Row) -> str:
    try:
        return recognise(row.values, row.where)
    except DataError:
        return ""


def is_tokenised(columns: Mapping[str, Any]) -> bool:
    """Whether these columns hold token ids already."""
    return any(set(names) <= set(columns) for names in _TOKENISED)


def read_tokens(row: Row, vocabulary: range) -> TokenizedPair | Dropped:
    """The pair of a row of token ids, or why it is dropped."""
    refuse_media(row.values, row.where)
    names = next((names for names in _TOKENISED if set(names) <= set(row.values)), _TOKENISED[0])
    prompt, chosen, rejected = (_token_ids(row, name, vocabulary) for name in names)
    if _holds_prompt(row, names, prompt, (chosen, rejected)):
        labels = row.values.get("chosen_labels")
        if labels is not None:
            prompt = chosen[: _masked(labels, len(chosen), f"{row.where}, field 'chosen_labels'")]
        if rejected[: len(prompt)] != prompt:
            raise row.fault(
                "the sequence does not begin with the prompt's tokens",
                names[2],
                "Both answers must follow the same prompt.",
            )
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        if not rejected:
            return Dropped("empty_rejected", row.where, "the rejected has no tokens")
    weight = weight_of(row)
    if weight == 0:
        return Dropped("zero_weight", row.where, "field 'weight' is 0")
    return TokenizedPair(prompt, chosen, rejected, row=row.index, weight=weight)


def _holds_prompt(
    row: Row, names: tuple[str, ...], prompt: list[int], answers: tuple[list[int], ...]
) -> bool:
    """Whether the answers' columns hold the prompt's tokens too."""
    if row.values.get("chosen_labels") is not None:
        return True
    both = all(ids[: len(prompt)] == prompt for ids in answers)
    return names[0] == "prompt_input_ids" and bool(prompt) and both


def _token_ids(row: Row, name: str, vocabulary: range) -> list[int]:
    where = f"{row.where}, field '{name}'"
    value = _as_list(row.values.get(name))
    if value is None:
        found = type(row.values.get(name)).__name__
        raise DataError(f"expected a list of token ids, found {found}", where=where)
    for token in value:
        if type(token) is not int:
            found = f"a list with {type(token).__name__}"
            raise DataError(f"expected a list of token ids, found {found}", where=where)
        if token not in vocabulary:
            raise DataError(
                f"token id {token} is outside of the tokenizer's 0 to {len(vocabulary) - 1}",
                where=where,
                fix="Use the tokenizer that made these ids.",
            )
    return value


def _as_list(value: Any) -> list[Any] | None:
    """A list as it is, an array as a list, None for anything else."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if isinstance(value, list) else None


def _masked(labels: Any, tokens: int, where: str) -> int:
    """Number of leading labels that are -100, which is the length of the prompt."""
    values = _as_list(labels)
    if values is None or len(values) != tokens:
        raise DataError(f"expected a list of {tokens} labels, one for each token", where=where)
    return next((i for i, label in enumerate(values) if label != -100), tokens)
