"""Where rows come from: files, folders, Hub ids and in-memory data sets, alone or mixed.

.json, .jsonl, .ndjson (a list, one object per line, or objects over several lines) ·
.csv, .tsv (commas, or what makes more columns of the first line: ; tab |) · .parquet;
each also as .gz where text
a folder written by `datasets.Dataset.save_to_disk`, or a folder of such files
a Hub id, optionally with a revision and a split: "owner/name", "owner/name@commit:train"
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from orpo.data.columns import renamed
from orpo.data.files import HINT, READERS, UNREADABLE, kind_of, read_file, reason
from orpo.data.types import Row
from orpo.errors import DataError
from orpo.runs.hub import refusal
from orpo.runs.manifest import describe

# "owner/name" or "name", revision, split; the name of a file with a dot needs a folder to be an id.
_HUB_ID = re.compile(r"(\w[\w.-]*/[\w.-]+|\w[\w-]*)(@[^\s@:]+)?(:\S+)?")
_SPLIT = re.compile(r"train(?![a-z])")
_OTHER_SPLIT = re.compile(r"(test|valid|validation|val|dev|eval|heldout|held_out)(?![a-z])")


def open_source(spec: str, columns: Mapping[str, str] | None = None) -> Iterator[Row]:
    """The rows of a data set named by a path or a Hub id, in order, read as they are needed.

    `columns` are our names -> those of the data, where it has other ones.

    Raises:
        DataError: Not found, empty, of an unknown kind, or broken; says where.
    """
    rows = renamed(check_source(spec), columns)
    first = next(rows, None)
    if first is None:
        raise DataError("the data set is empty", where=spec, fix="Give at least one row.")
    return chain([first], rows)


@dataclass(frozen=True)
class Source:
    """A data set named by a path or a Hub id; its rows are read anew each time it is gone through.

    Attributes:
        spec: The path or id.
        columns: As in `open_source`.
    """

    spec: str
    columns: Mapping[str, str] | None = None

    def __iter__(self) -> Iterator[Row]:
        return open_source(self.spec, self.columns)

    def fingerprint(self) -> list[Any] | None:
        """What the rows depend on: names and content of files; None for a Hub id."""
        path = Path(self.spec).expanduser()
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        contents = [(str(file), describe(file).sha256) for file in files if file.is_file()]
        names = [dict(self.columns)] if self.columns else []
        return [self.spec, *contents, *names] if contents else None


@dataclass(frozen=True)
class Mixture:
    """The rows of several data sets, each iterable more than once, numbered anew.

    Without shares they follow one another. With shares (a positive number for each, in any unit)
    they alternate, always the data set that is furthest behind its share, so that the order depends
    on nothing else; where the first of them ends, the mix ends, and the rows that are left
    elsewhere are marked "not_in_mix". No row comes twice.
    """

    sources: Sequence[Iterable[Row]]
    shares: Sequence[float] | None = None

    def __iter__(self) -> Iterator[Row]:
        for index, (source, row) in enumerate(self._in_turn()):
            yield replace(row, index=index, source=source)

    def fingerprint(self) -> list[Any] | None:
        """What the rows depend on; None if that is not known of one data set."""
        found = [fingerprint_of(source) for source in self.sources]
        return None if None in found else [found, self.shares and list(self.shares)]

    def _in_turn(self) -> Iterator[tuple[int, Row]]:
        rows = [iterate_dataset(source, f"data set {i}") for i, source in enumerate(self.sources)]
        taken, shares = [0] * len(rows), self.shares
        while shares is not None:
            # The next row of each would stand at (taken + 1) / share; the earliest comes first.
            places = [(count + 1) / share for count, share in zip(taken, shares, strict=True)]
            source = places.index(min(places))
            row = next(rows[source], None)
            if row is None:
                break
            taken[source] += 1
            yield source, row
        for source, rest in enumerate(rows):
            for row in rest:
                yield source, row if shares is None else replace(row, left_out="not_in_mix")


def fingerprint_of(rows: Iterable[Row]) -> list[Any] | None:
    """What rows depend on, if they say; None if not."""
    ask = getattr(rows, "fingerprint", None)
    found: list[Any] | None = ask() if callable(ask) else None
    return found


def iterate_dataset(
    dataset: Iterable[Any], name: str, columns: Mapping[str, str] | None = None
) -> Iterator[Row]:
    """The rows of a data set in memory or a stream, as plain values; `Row`s pass as they are."""
    if hasattr(dataset, "with_format") and hasattr(dataset, "__len__"):
        dataset = dataset.with_format(None)  # not for streams: the copy would forget its epoch
    values = _readable(dataset, name)
    first = list(islice(values, 1))
    rows = _as_rows(chain(first, values), name)
    known = isinstance(next(iter(first), None), Row)  # of a `Source`, which has renamed them
    yield from rows if known else renamed(rows, columns)


def _as_rows(dataset: Iterable[Any], name: str) -> Iterator[Row]:
    for index, values in enumerate(dataset):
        where = f"{name} row {index}"
        if isinstance(values, Row):
            yield values
        elif isinstance(values, Mapping):
            yield Row(values, where, index)
        else:
            what = f"expected a dict of columns, found {type(values).__name__}"
            fix = "Pass rows, e.g. datasets.Dataset.from_pandas(frame) for a DataFrame."
            raise DataError(what, where=where, fix=fix)


def _readable(dataset: Iterable[Any], name: str) -> Iterator[Any]:
    """What a data set gives; that it cannot be read any further is said as such."""
    count = 0
    try:
        for values in dataset:
            yield values
            count += 1
    except (*UNREADABLE, ImportError) as error:
        # `datasets` imports what decodes pictures and sound only when a row holds some.
        raise DataError(
            f"cannot be read ({reason(error)})",
            where=f"{name} row {count}",
            fix="Pass rows of texts: pictures, sound and video are not trained on."
            if isinstance(error, ImportError)
            else "The data set itself fails there: look at its files.",
        ) from error


def check_source(spec: str) -> Iterator[Row]:
    """The rows of a name under which something lies: only the first one reads, or asks the Hub."""
    path = Path(spec).expanduser() if spec.startswith("~/") else Path(spec)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise DataError(f"is no path ({reason(error)})", where=spec[:80], fix=HINT) from error
    if spec and is_folder:
        return _read_folder(path)
    if is_file:
        return read_file(path)
    if _HUB_ID.fullmatch(spec) is None or kind_of(path) in READERS:
        raise DataError("no such file or folder", where=spec or "dataset", fix=HINT)
    return _read_hub(spec)


def _read_folder(path: Path) -> Iterator[Row]:
    """A `save_to_disk` folder (its "train" split if it has several), or a folder of data files."""
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        yield from _read_saved(path)
        return
    try:
        found = sorted(f for f in path.rglob("*") if kind_of(f) in READERS and f.is_file())
    except OSError as error:
        raise DataError(f"cannot be read ({reason(error)})", where=str(path)) from error
    files = [f for f in found if not any(p[0] == "." for p in f.relative_to(path).parts)]
    if any(_OTHER_SPLIT.match(file.name.lower()) for file in files):  # as a repository of the Hub
        files = [file for file in files if _SPLIT.match(file.name.lower())]
    if not files:
        raise DataError("the folder holds no data set", where=str(path), fix=HINT)
    rows = chain.from_iterable(map(read_file, files))
    yield from (replace(row, index=index) for index, row in enumerate(rows))


def _read_saved(path: Path) -> Iterator[Row]:
    import datasets  # noqa: PLC0415 - takes a second

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever the files of a damaged folder bring about
        what = f"the saved data set cannot be loaded ({reason(error)})"
        raise DataError(what, where=str(path), fix="Save it again with save_to_disk.") from error
    yield from iterate_dataset(_one_split(loaded, str(path)), str(path))


def _read_hub(spec: str) -> Iterator[Row]:
    import datasets  # noqa: PLC0415 - takes a second

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
        what = "no file or folder of this name, and it cannot be loaded from the Hub"
        said = refusal(error, name, "data set") or (f"{what} ({reason(error)})", HINT)
        raise DataError(said[0], where=spec, fix=said[1]) from error
    yield from iterate_dataset(_one_split(loaded, spec), spec)


def _check_revision(builder: Any, revision: str, spec: str) -> None:
    """Where the Hub cannot be asked, `datasets` takes what it loaded last, of any revision."""
    from_cache = type(builder).__module__.endswith("packaged_modules.cache.cache")
    if from_cache and not str(builder.hash).startswith(revision):
        what = f"the Hub cannot be asked, and what was loaded last is commit {builder.hash}"
        raise DataError(what, where=spec, fix="Name that commit, or go online.")


def _one_split(loaded: Any, where: str) -> Any:
    """A data set as it is; of several splits, the one that is meant for training."""
    if not isinstance(loaded, Mapping):
        return loaded
    alone = list(loaded) if len(loaded) == 1 else []
    for name in ("train", "train_prefs", *alone):
        if name in loaded:
            return loaded[name]
    what = f"has the splits {', '.join(loaded)} and none called 'train'"
    raise DataError(what, where=where, fix="Save or name one split, e.g. NAME:SPLIT for a Hub id.")


def default_cache() -> Path:
    """The folder for tokenised data: ORPO_CACHE, or "orpo" in the user's cache folder."""
    named = os.environ.get("ORPO_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else base / "orpo"
