"""A cleaned copy of a data set, and a ledger of every change.

Every row is read once, and what becomes of it decided: only keys are kept in mind that stand for
texts, so that memory does not grow with them. Then the rows are read again and copied. The copies
appear under their names when every row is accounted for; the data set itself is never written to.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from pyarrow import ArrowException

from orpo.audit.copies import JsonLines, Parquet, Staged, schema_of
from orpo.audit.faults import PairView, check_of, faults, opposite, view
from orpo.audit.repair import Repair, Repaired, kind_of
from orpo.audit.repeats import NearDuplicates, near_prompts
from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader, is_tokenised
from orpo.data.sources import open_source
from orpo.data.split import is_held_out
from orpo.data.types import Dropped, PreferencePair, Row
from orpo.errors import ConfigError, DataError

if TYPE_CHECKING:
    from orpo.data.tokenize import PairTokenizer

TOLERANCE = 0.01
"""How far from one half the share of longer chosen answers may stay."""


@dataclass(slots=True)
class Entry:
    """What is kept in mind of a row."""

    index: int
    where: str
    reason: str = ""  # why it is dropped; empty while it is kept
    detail: str = ""  # the same in words
    held: bool = False  # whether it is held out
    key: bytes = b""  # `PairView.key`; empty where a row that may be kept holds no pair
    question: int = -1  # `PairView.question_key`, for the split
    weight: float = 1.0
    category: str = ""  # value of the column to balance by; or which answer is the longer one

    @property
    def kept(self) -> bool:
        """Whether the row is in one of the copies."""
        return not self.reason

    def drop(self, reason: str, detail: str) -> None:
        """Leave the row out."""
        self.reason, self.detail = reason, detail

    def line(self) -> bytes:
        """The row in the ledger of changes."""
        change = {
            "where": self.where,
            "row": self.index + 1,
            "action": "held_out" if self.kept else "dropped",
            "reason": "held_out" if self.kept else self.reason,
            "detail": self.detail,
        }
        return json.dumps(change).encode() + b"\n"


def fix_dataset(
    repair: Repair,
    reader: PairReader,
    tokenize: PairTokenizer | None = None,
    lengths: LengthPolicy | None = None,
    columns: Mapping[str, str] | None = None,
) -> Repaired:
    """Write a cleaned copy, and a ledger of every change.

    `reader` gives rows that it cannot read as dropped; `tokenize` has no limit, and without it
    lengths are in characters; pairs longer than `lengths` are dropped; `columns` are written
    under our names.
    """
    repair.check_targets()
    copying = _Copying(repair, reader, tokenize, lengths or LengthPolicy(None), columns)
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
    names: Mapping[str, str] | None = None
    entries: list[Entry] = field(default_factory=list)
    balance: dict[str, Any] = field(default_factory=dict)
    fingerprint: bytes = b""

    def decide(self) -> None:
        """Read every row once, and decide what becomes of it."""
        job, columns = self.job, set[str]()
        for row in open_source(job.dataset, self.names):
            self.entries.append(self._inspect(row))
            self.fingerprint = _mixed(self.fingerprint, row)
            columns |= set(row.values)
        self.reader.require_readable()
        if "contradictions" in job.drop:
            drop_reversed(self.entries)
        if job.deduplicate != "none":
            drop_repeated(self.entries)
        while job.deduplicate == "near" and self._drop_nearly_repeated():
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
        job, entry = self.job, Entry(row.index, row.where)
        if is_tokenised(row.values):
            raise DataError(
                "the rows hold token ids, and only texts can be mended",
                where=row.where,
                fix="Give the data set as it was before it was tokenised.",
            )
        if job.balance and job.balance != "length":  # a missing category is "null", as in JSON
            value = row.values.get(job.balance)
            entry.category = value if isinstance(value, str) else json.dumps(value, default=str)
        pair = self.reader(row)
        if isinstance(pair, Dropped):
            if pair.reason != "malformed" or "malformed" in job.drop:
                entry.where = pair.where  # names the field, too
                entry.drop(pair.reason, pair.detail)
            return entry
        seen = view(pair)
        entry.key, entry.question, entry.weight = seen.key, seen.question_key, seen.weight
        if job.balance == "length" and seen.rejected is not None:
            entry.category = _longer(seen.chosen, seen.rejected)
        for reason, detail in faults(seen, job.min_score_margin):
            if check_of(reason) in job.drop:
                entry.drop(reason, detail)
                return entry
        if self.tokenize is not None:  # lengths are in tokens, and what a training drops is dropped
            tokens = self.tokenize(pair)
            if not isinstance(tokens, Dropped):
                if job.balance == "length" and tokens.rejected_ids:
                    entry.category = _longer(tokens.chosen_ids, tokens.rejected_ids)
                tokens = self.lengths.fit(tokens, entry.where)
            if isinstance(tokens, Dropped) and check_of(tokens.reason) in job.drop:
                entry.drop(tokens.reason, tokens.detail)
        return entry

    def _drop_nearly_repeated(self) -> int:
        """Drop rows that say nearly the same as an earlier one; how many were dropped."""
        finder = NearDuplicates()
        # Rows without words, or beyond its limit, are not compared.
        added = [entry for entry, seen in self._texts() if finder.keep(seen)]
        copies = finder.copies()
        for row, earlier in copies:
            added[row].drop("near_duplicate", f"nearly repeats {added[earlier].where}")
        return len(copies)

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
            found = ", ".join(map(repr, sorted(columns)))
            raise ConfigError(
                f"there is no column {job.balance!r}; found {found}",
                where="--balance",
                fix="Give 'length' or a column.",
            )
        for name, held in {"output": False, "held_out_output": True}.items():
            if job.balance and name in job.targets:
                side = [entry for entry in self.entries if entry.held == held and entry.kept]
                self.balance[name] = _balanced(side, job, strict=not held)

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
        for name in [name for name in staged if name != "ledger"]:
            file, kind = staged[name].file, kind_of(staged[name].target)
            if kind == ".parquet":
                kept = (row for row, entry in self._rows() if entry.kept)
                schema = schema or schema_of(kept, self.job.dataset)
                made[name] = Parquet(file, schema)
            else:
                made[name] = JsonLines(file, zipped=kind == ".jsonl.gz")
            stack.callback(_release, made[name])
        return made

    def _result(self, written: Counter[str]) -> Repaired:
        job, dropped, examples = self.job, Counter[str](), dict[str, str]()
        for entry in self.entries:
            if not entry.kept:
                dropped[entry.reason] += 1
                examples.setdefault(entry.reason, entry.where)
        rows, copied = len(self.entries), written["output"] + written["held_out_output"]
        if rows != copied + dropped.total():
            raise AssertionError(f"{rows} rows, {copied} written, {dropped.total()} dropped")
        every = {entry.question for entry in self._pairs()}
        held = {entry.question for entry in self._pairs() if entry.held}
        prompts = {"asked": job.held_out, "held_out": len(held), "all": len(every)}
        return Repaired(
            job.dataset,
            self.reader.format,
            job.targets,
            rows,
            written["output"],
            written["held_out_output"],
            dict(dropped.most_common()),
            examples,
            job.balance,
            self.balance,
            prompts if job.held_out else {},
        )

    def _pairs(self) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.kept and entry.key)

    def _rows(self) -> Iterator[tuple[Row, Entry]]:
        """Every row with what was decided about it."""
        entries = iter(self.entries)
        for row in open_source(self.job.dataset, self.names):
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


def drop_reversed(entries: Iterable[Entry]) -> None:
    """Drop rows that prefer the opposite of each other; all, as nobody knows which is right."""
    pairs = [entry for entry in entries if entry.kept and opposite(entry.key)]
    first: dict[bytes, Entry] = {}
    for entry in pairs:
        first.setdefault(entry.key, entry)
    for entry in pairs:
        against = first.get(opposite(entry.key))
        if against is not None:
            entry.drop("contradiction", f"prefers the opposite of {against.where}")


def drop_repeated(entries: Iterable[Entry]) -> None:
    """Drop rows whose prompt and answers are, word for word, those of an earlier row.

    A row that differs in its weight alone is a copy, too: the first says how much the pair counts.
    """
    first: dict[bytes, Entry] = {}
    for entry in entries:
        if entry.kept and entry.key:
            earlier = first.setdefault(entry.key, entry)
            if earlier is not entry:
                other = f"; same pair, other weight ({entry.weight:g}, there {earlier.weight:g})"
                same = entry.weight == earlier.weight
                entry.drop("exact_duplicate", f"repeats {earlier.where}{'' if same else other}")


def _balanced(entries: Sequence[Entry], job: Repair, *, strict: bool) -> dict[str, Any]:
    """Drop rows of categories that are there too often; the counts before and after.

    By length, the longer answer is then the chosen one in about half of the pairs that differ;
    where one of the two kinds is absent, that is refused if `strict`, else all is left as it is.
    By a column, no value has more than a ratio times the rows of the rarest one.
    """
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.category].append(entry)
    by_length = job.balance == "length"
    if by_length:
        groups = {side: groups[side] for side in ("chosen", "rejected")}
    before = {name: len(rows) for name, rows in sorted(groups.items())}
    few, many = min(before.values(), default=0), max(before.values(), default=0)
    limit = int(job.balance_ratio * few)
    if by_length:
        limit = int(few * (0.5 + TOLERANCE) / (0.5 - TOLERANCE) + 1e-9) if few else many
        if many and not few and strict:
            which = "chosen" if before["chosen"] else "rejected"
            raise DataError(
                f"the {which} answer is the longer one in all {many} pairs whose lengths differ, "
                "so balancing would leave none of them",
                where=job.dataset,
                fix="Collect pairs with the opposite, or leave --balance length out.",
            )
    salt = (job.seed % 2**64).to_bytes(8)

    def draw(entry: Entry) -> tuple[bytes, int]:  # by seed and pair: the same on every machine
        return blake2b(entry.key, digest_size=8, salt=salt).digest(), entry.index

    for name, rows in groups.items():
        what = f"the {name} answer is the longer one"
        what = what if by_length else f"{job.balance} {name!r} is there"
        for entry in sorted(rows, key=draw)[limit:]:
            entry.drop("balance", f"{what} too often; drawn with seed {job.seed}")
    after = Counter(entry.category for entry in entries if entry.kept)
    if by_length:
        return {"before": _share(before), "after": _share(after)}
    return {"before": before, "after": dict(sorted(after.items()))}


def _share(counts: Mapping[str, int]) -> dict[str, Any]:
    pairs = counts["chosen"] + counts["rejected"]
    return {"pairs": pairs, "longer_chosen": counts["chosen"] / pairs if pairs else None}


def _release(writer: JsonLines | Parquet) -> None:
    """Let go of a file that may be closed; or the writer tries to end it when it is forgotten."""
    with suppress(OSError, ValueError, ArrowException):
        writer.close()


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


def _longer(chosen: Sized, rejected: Sized) -> str:
    if len(chosen) == len(rejected):
        return ""
    return "chosen" if len(chosen) > len(rejected) else "rejected"
