"""The folder of a comparison: whose it is, and the held-out pairs that it keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from orpo.config import ORPOConfig
from orpo.data import Row, Source
from orpo.data.split import hold_out
from orpo.errors import ConfigError, DataError
from orpo.jobs.train_job import TrainJob
from orpo.runs import (
    EVALUATION,
    REPORT,
    read_object,
    refuse_links,
    remove,
    write_json,
    write_text,
)

__all__ = ["KIND", "Data", "claim_comparison", "drawn_rows", "prepare_data"]

KIND = "comparison"
_OURS = ("base", "data", "sensitivity", "figures", "*-seed*")
_FILES = (EVALUATION, REPORT, "judge-cache.jsonl", "judgments.jsonl")
_CHOOSING = 0.25
_MOST_CHOOSING = 128
_SPLIT = 42
"""Seed of the sides that prompts fall on: the same whatever the runs' seeds are."""
_HOLDING_OUT = 43
"""Another one: the draw that held a prompt out would put it on one and the same side again."""


class Data:
    """Where the rows of a comparison lie.

    Attributes:
        train: What every method trains on.
        test: Held-out pairs of the table.
        choosing: Other held-out pairs, for the curves and the sensitivity grid: a setting that
            looks best there has not seen those of the table.
        rows: Training rows.
        test_rows: Rows of `test`.
        choosing_rows: Rows of `choosing`.
    """

    def __init__(self, folder: Path, train: str, counts: Mapping[str, int]) -> None:
        self.train = train
        self.test = str(folder / "test.jsonl")
        self.choosing = str(folder / "choosing.jsonl")
        self.rows, self.test_rows = counts["train"], counts["test"]
        self.choosing_rows = counts["choosing"]


def claim_comparison(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder this comparison's, or go on with it.

    Args:
        folder: The output folder.
        settings: What may not change if runs of the folder are to stand beside new ones.
        overwrite: Delete another comparison that it holds.

    Raises:
        ConfigError: It holds another comparison, or something else.
    """
    path = folder / EVALUATION
    refuse_links(folder, (*_OURS, *_FILES))
    for pattern in _OURS:  # the runs of the comparison lie one level further down
        for inner in folder.glob(pattern):
            refuse_links(inner, ("*",))
    before = _read(path)
    if before.get("kind") == KIND and before.get("settings") == json.loads(json.dumps(settings)):
        return
    if before.get("kind") == KIND:
        changed = _changed(before.get("settings"), settings)
        if not overwrite:
            raise ConfigError(
                f"holds a comparison with other settings ({changed})",
                where=str(folder),
                fix="Use --overwrite to replace it, or another --output_dir.",
            )
        _clear(folder)
    elif folder.is_dir() and any(p for p in folder.iterdir() if p.name != ".lock"):
        raise ConfigError(
            "holds something that is no comparison",
            where=str(folder),
            fix="Give another --output_dir.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"kind": KIND, "settings": settings})


def prepare_data(folder: Path, job: TrainJob, config: ORPOConfig) -> Data:
    """Divide the held-out rows, and count; what is there already stays as it is.

    Raises:
        DataError: Rows that cannot be read.
        ConfigError: Too few of them.
    """
    assert job.dataset is not None
    place = folder / "data"
    record = _read(place / "counts.json")
    (spec,) = job.dataset
    whole = spec if job.eval_dataset else str(place / "train.jsonl")
    if record:
        return Data(place, whole, record)
    place.mkdir(parents=True, exist_ok=True)
    reading = {"data_format": config.format_name, "pair_rule": config.pair_rule}
    rows: Iterable[Row]
    held: Iterable[Row]
    if job.eval_dataset:
        rows, held = Source(spec), Source(job.eval_dataset)
    else:
        rows, held = hold_out(Source(spec), job.held_out, _HOLDING_OUT, spec, **reading)
    share = min(_CHOOSING, _MOST_CHOOSING / max(_count(held), 1))
    test, choosing = hold_out(held, share, _SPLIT, "the held-out rows", **reading)
    counts = {
        "train": _write_rows(place / "train.jsonl", rows) if not job.eval_dataset else _count(rows),
        "test": _write_rows(place / "test.jsonl", test),
        "choosing": _write_rows(place / "choosing.jsonl", choosing),
    }
    write_json(place / "counts.json", counts)
    return Data(place, whole, counts)


def drawn_rows(folder: Path, spec: str, count: int, seed: int, total: int) -> str:
    """A file of rows drawn at random, or the data themselves where all of them are needed.

    DPO's reference scores its whole data set: given the rows that it will train on and no others,
    it costs what it must.
    """
    if count >= total:
        return spec
    path = folder / "data" / f"drawn-{count}-seed{seed}.jsonl"
    if not path.is_file():
        kept = frozenset(Random(seed).sample(range(total), count))  # noqa: S311 - no secret
        _write_rows(path, (row for n, row in enumerate(Source(spec)) if n in kept))
    return str(path)


def _write_rows(path: Path, rows: Iterable[Row]) -> int:
    lines = [_line(row) for row in rows]
    write_text(path, "".join(lines))
    return len(lines)


def _line(row: Row) -> str:
    if row.broken is not None:
        raise row.broken
    try:
        return json.dumps(dict(row.values), ensure_ascii=True) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"JSON cannot hold this row ({error})", where=row.where) from error


def _count(rows: Iterable[Row]) -> int:
    return sum(1 for _ in rows)


def _changed(before: Any, now: Mapping[str, Any]) -> str:
    """The first few settings that differ."""
    old = before if isinstance(before, dict) else {}
    flat = [_flat(one) for one in (old, json.loads(json.dumps(now)))]
    names = [n for n in {**flat[0], **flat[1]} if flat[0].get(n) != flat[1].get(n)]
    shown = [f"{n.rpartition('.')[2]}: {flat[0].get(n)} there, {flat[1].get(n)} now" for n in names]
    return "; ".join(shown[:3]) + ("; …" if len(shown) > 3 else "")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _clear(folder: Path) -> None:
    """Delete what a comparison writes, and nothing else."""
    for pattern in _OURS:
        for path in folder.glob(pattern):
            if path.is_dir():
                remove(path)
    for name in _FILES:
        remove(folder / name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except DataError:
        return {}
