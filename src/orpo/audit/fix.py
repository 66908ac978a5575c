"""A cleaned copy of a data set, and a ledger of every change.

Every row is read once, and what becomes of it decided: only keys are kept in mind that stand for
texts, so that memory does not grow with them. Then the rows are read again and copied. The copies
appear under their names when every row is accounted for; the data set itself is never written to.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from orpo.audit.copies import JsonLines, Parquet, Staged, schema_of
from orpo.audit.entries import (
    Entry,
    balance_lengths,
    balance_values,
    drop_nearly_repeated,
    drop_repeated,
    drop_reversed,
)
from orpo.audit.faults import check_of, faults
from orpo.audit.leakage import near_prompts
from orpo.audit.repair import Repair, Repaired, kind_of
from orpo.audit.views import PairView, view
from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader, is_tokenised
from orpo.data.sources import open_source
from orpo.data.split import is_held_out
from orpo.data.types import Dropped, PreferencePair, Row
from orpo.errors import ConfigError, DataError

if TYPE_CHECKING:
    from orpo.data.tokenize import PairTokenizer


def fix_dataset(
    repair: Repair,
    reader: PairReader,
    tokenize: PairTokenizer | None = None,
    lengths: LengthPolicy | None = None,
) -> Repaired:
    """Write a cleaned copy, and a ledger of every change.

    Args:
        repair: What is to be done.
        reader: Reads rows as pairs, and gives those that it cannot read as dropped.
        tokenize: Turns pairs into tokens without a limit; None counts lengths in characters.
        lengths: The longest pair, in tokens; longer ones are dropped.
    """
    repair.check_targets()
    copying = _Copying(repair, reader, tokenize, lengths or LengthPolicy(None))
    copying.decide()
    try:
        return copying.copy()
    except OSError as error:  # a full disk, say
        raise DataError(
            f"the copy cannot be written ({error.strerror or error})", where=str(repair.output)
        ) from error


@dataclass
class _Copying:
    """The passes over one data set: `decide`, then `copy`."""

    job: Repair
    reader: PairReader
    tokenize: PairTokenizer | None
    lengths: LengthPolicy
    entries: list[Entry] = field(default_factory=list)
    balance: dict[str, Any] = field(default_factory=dict)
    fingerprint: bytes = b""

    def decide(self) -> None:
        """Read every row once, and decide what becomes of it."""
        job, columns = self.job, set[str]()
        for row in open_source(job.dataset):
            self.entries.append(self._inspect(row))
            self.fingerprint = _mixed(self.fingerprint, row)
            columns |= set(row.values)
        self.reader.require_readable()
        if "contradictions" in job.drop:
            drop_reversed(self.entries)
        if job.deduplicate != "none":
            drop_repeated(self.entries)
        while job.deduplicate == "near" and drop_nearly_repeated(self._texts()):
            pass  # without the copies, others may be the nearest
        self._hold_out()
        self._balance(columns)
        if not any(entry.kept for entry in self.entries):
            first = self.entries[0]
            raise DataError(
                f"none of {len(self.entries)} rows would be left (the first: {first.reason}, "
                f"{first.detail})",
                where=job.dataset,
                fix="See what is wrong with them: orpo data audit.",
            )

    def _inspect(self, row: Row) -> Entry:
        if is_tokenised(row.values):
            raise DataError(
                "the rows hold token ids, and only texts can be mended",
                where=row.where,
                fix="Give the data set as it was before it was tokenised.",
            )
        column = self.job.balance if self.job.balance != "length" else ""
        entry = Entry(row.index, row.where, category=_category(row, column))
        pair = self.reader(row)
        if isinstance(pair, Dropped):
            if pair.reason != "malformed" or "malformed" in self.job.drop:
                entry.where = pair.where  # names the field, too
                entry.drop(pair.reason, pair.detail)
            return entry
        seen = view(pair)
        entry.key, entry.question, entry.weight = seen.key, seen.question_key, seen.weight
        if seen.rejected is not None:
            entry.longer = _sign(len(seen.chosen) - len(seen.rejected))
        for reason, detail in faults(seen, self.job.min_score_margin):
            if check_of(reason) in self.job.drop:
                entry.drop(reason, detail)
                return entry
        if self.tokenize is not None:
            self._measure(entry, self.tokenize(pair))
        return entry

    def _measure(self, entry: Entry, tokens: Any) -> None:
        """Compare lengths in tokens, and drop what a training would drop."""
        if not isinstance(tokens, Dropped):
            if tokens.rejected_ids:
                entry.longer = _sign(len(tokens.chosen_ids) - len(tokens.rejected_ids))
            tokens = self.lengths.fit(tokens, entry.where)
        if isinstance(tokens, Dropped) and check_of(tokens.reason) in self.job.drop:
            entry.drop(tokens.reason, tokens.detail)

    def _hold_out(self) -> None:
        """Hold out a share of the prompts, by the rule of `orpo.data.split`."""
        job = self.job
        if not job.held_out:
            return
        near = {}
        if job.deduplicate == "near":  # prompts that resemble each other share a side
            near = near_prompts(seen for _, seen in self._texts())
        for entry in self._pairs():
            group = near.get(entry.question, entry.question)
            entry.held = is_held_out(group, job.held_out, job.seed)
        if len({entry.held for entry in self.entries if entry.kept}) < 2:
            prompts = len({entry.question for entry in self.entries if entry.kept})
            raise ConfigError(
                f"a share of {job.held_out} of {prompts} prompts leaves one side empty with seed "
                f"{job.seed}",
                where="--held_out",
                fix="Give another share or seed, or more data.",
            )

    def _balance(self, columns: set[str]) -> None:
        """Balance the copy and the held-out rows, each on its own."""
        job = self.job
        if job.balance not in {"", "length", *columns}:
            raise ConfigError(
                f"there is no column {job.balance!r}; found "
                f"{', '.join(map(repr, sorted(columns)))}",
                where="--balance",
                fix="Give 'length' or a column.",
            )
        for name, held in {"output": False, "held_out_output": True}.items():
            if job.balance and name in job.targets:
                side = [entry for entry in self.entries if entry.held == held]
                self.balance[name] = (
                    balance_lengths(side, job.seed, job.dataset, strict=not held)
                    if job.balance == "length"
                    else balance_values(side, job.balance, job.balance_ratio, job.seed)
                )

    def copy(self) -> Repaired:
        """Read every row again, and write what is kept."""
        written, fingerprint = Counter[str](), b""
        with ExitStack() as stack:
            staged = {n: stack.enter_context(Staged(p)) for n, p in self.job.targets.items()}
            writers = self._writers(staged, stack)
            for row, entry in self._rows():
                fingerprint = _mixed(fingerprint, row)
                name = "" if not entry.kept else "held_out_output" if entry.held else "output"
                if name:
                    writers[name].write(row)
                    written[name] += 1
                if name != "output":
                    staged["ledger"].file.write(entry.line())
            for writer in writers.values():
                writer.close()
            if fingerprint != self.fingerprint:
                raise _changed(self.job.dataset)
            result = self._result(written)
            for name in ("ledger", "held_out_output", "output"):  # the copy last: then all is there
                if name in staged:
                    staged[name].commit()
        return result

    def _writers(
        self, staged: dict[str, Staged], stack: ExitStack
    ) -> dict[str, JsonLines | Parquet]:
        made: dict[str, JsonLines | Parquet] = {}
        schema = None
        for name in ("output", "held_out_output"):
            if name in staged:
                file, kind = staged[name].file, kind_of(staged[name].target)
                if kind == ".parquet" and schema is None:
                    kept = (row for row, entry in self._rows() if entry.kept)
                    schema = schema_of(kept, self.job.dataset)
                zipped = kind == ".jsonl.gz"
                parquet = kind == ".parquet"
                made[name] = Parquet(file, schema) if parquet else JsonLines(file, zipped=zipped)
                stack.callback(made[name].release)
        return made

    def _result(self, written: Counter[str]) -> Repaired:
        dropped = Counter(entry.reason for entry in self.entries if not entry.kept)
        examples: dict[str, str] = {}
        for entry in self.entries:
            examples.setdefault(entry.reason, entry.where)
        rows, copied = len(self.entries), written["output"] + written["held_out_output"]
        if rows != copied + dropped.total():
            raise AssertionError(f"{rows} rows, {copied} written, {dropped.total()} dropped")
        every = {entry.question for entry in self._pairs()}
        held = {entry.question for entry in self._pairs() if entry.held}
        prompts = {"asked": self.job.held_out, "held_out": len(held), "all": len(every)}
        return Repaired(
            self.job.dataset,
            self.reader.format,
            self.job.targets,
            rows,
            written["output"],
            written["held_out_output"],
            dict(dropped.most_common()),
            {reason: examples[reason] for reason in dropped},
            self.job.balance,
            self.balance,
            prompts if self.job.held_out else {},
        )

    def _pairs(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.kept and entry.key)

    def _rows(self) -> Iterator[tuple[Row, Entry]]:
        """Every row with what was decided about it."""
        entries = iter(self.entries)
        for row in open_source(self.job.dataset):
            entry = next(entries, None)
            if entry is None:
                raise _changed(self.job.dataset)
            yield row, entry
        if next(entries, None) is not None:
            raise _changed(self.job.dataset)

    def _texts(self) -> Iterator[tuple[Entry, PairView]]:
        """The kept rows with their texts."""
        read = replace(self.reader)  # knows the format by now
        for row, entry in self._rows():
            if entry.kept and entry.key:
                pair = read(row)
                if isinstance(pair, PreferencePair):
                    yield entry, view(pair)


def _mixed(fingerprint: bytes, row: Row) -> bytes:
    """A running hash of rows, to notice that a file changed between two readings."""
    try:
        text = f"{fingerprint.hex()} {row.where} {row.values!r}"
    except RecursionError:  # nested beyond what can be written, so it is refused there
        return fingerprint
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _changed(dataset: str) -> DataError:
    return DataError(
        "changed while it was read", where=dataset, fix="Run again when nobody writes to it."
    )


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _category(row: Row, column: str) -> str:
    """A category as text; a missing one is "null", as in JSON."""
    value = row.values.get(column) if column else None
    return value if isinstance(value, str) else json.dumps(value, default=str)
