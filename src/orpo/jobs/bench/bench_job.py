"""`orpo bench`: rows, workers, rounds and figures in order."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from orpo.config import ORPOConfig
from orpo.errors import ConfigError
from orpo.jobs.bench.figures import Side, against, mean_lengths, side_figures
from orpo.jobs.bench.flops import ModelSize, matmul_rate, model_size
from orpo.jobs.bench.processes import take_turns, workers
from orpo.jobs.bench.rows import (
    BenchRow,
    RowMaker,
    grouped_by_length,
    read_rows,
    repeated,
    text_pairs,
)
from orpo.jobs.bench.spec import CHECKPOINTING, OURS, PEERS, PRECISIONS, SideSpec
from orpo.jobs.bench.synthetic import (
    SHAPES,
    draw_lengths,
    synthetic_pairs,
    words_of_texts,
    words_of_vocabulary,
)
from orpo.train.recorder import versions
from orpo.train.tokenizer import load_tokenizer

__all__ = ["BenchJob", "run_bench"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchJob:
    """What is measured.

    Attributes:
        model: Folder or Hub id.
        dataset: Preference data; gives the rows, or the words of synthetic ones.
        rows: "dataset" (its rows in order), or one of `SHAPES`.
        batch_sizes: Pairs in a step; one cell for each.
        against: Some of `PEERS`.
        gradient_checkpointing: "off", "on", or "trl-default" (ours off, TRL's on).
        lora: Train an adapter instead of the whole model.
        precision: One of `PRECISIONS`.
        max_length: Tokens of prompt and answer together; None for what suits the rows.
        steps: Rounds that count.
        warmup: Rounds before them.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    model: str
    dataset: str | None = None
    rows: str = "dataset"
    batch_sizes: tuple[int, ...] = (4,)
    against: tuple[str, ...] = ("trl",)
    gradient_checkpointing: str = "off"
    lora: bool = False
    precision: str = "bf16"
    max_length: int | None = None
    steps: int = 5
    warmup: int = 1

    def __post_init__(self) -> None:
        """Check every value before anything is loaded."""
        _require_one_of("rows", self.rows, ("dataset", *SHAPES))
        _require_one_of("gradient_checkpointing", self.gradient_checkpointing, CHECKPOINTING)
        _require_one_of("precision", self.precision, PRECISIONS)
        for peer in self.against:
            _require_one_of("against", peer, PEERS)
        for name, values in (("batch_size", self.batch_sizes), ("against", self.against)):
            if not values or len(set(values)) < len(values):
                raise ConfigError("needs different values, at least one", where=f"--{name}")
        sizes = [("batch_size", size, 1) for size in self.batch_sizes]
        length = [("max_length", self.max_length, 32)] if self.max_length is not None else []
        counts = [("steps", self.steps, 1), ("warmup", self.warmup, 0)]
        for name, value, least in (*sizes, *length, *counts):
            if value < least:
                raise ConfigError(f"must be at least {least}, is {value}", where=f"--{name}")
        if self.rows == "dataset" and self.dataset is None:
            raise ConfigError(
                "is needed for --rows dataset",
                where="--dataset",
                fix=f"Add --dataset NAME, or use --rows {' or '.join(SHAPES)}.",
            )

    @property
    def rounds(self) -> int:
        """Steps of each side in one cell."""
        return self.warmup + self.steps


def run_bench(job: BenchJob, *, say: Say) -> dict[str, Any]:
    """Measure every cell.

    Args:
        job: What is measured.
        say: Told, line by line, what happens.

    Returns:
        The circumstances, and under "cells" the figures of each batch size, ready for JSON.

    Raises:
        UserError: Wrong input.
        TrainingError: A side broke down.
    """
    peers = _available(job.against, say)
    tokenizer = load_tokenizer(job.model, ORPOConfig())
    size = model_size(job.model)
    max_length = _fitting_length(job, size, say)
    rows = _rows(job, RowMaker(tokenizer, max_length), say)
    if "trl-grouped" in peers:
        say(
            "trl-grouped: the counted rows in batches of similar length; "
            "sorted over a whole data set, their lengths would be closer still"
        )
    rate = matmul_rate(job.precision)
    say(f"matrix products in {job.precision}: {rate / 1e9:,.0f} GFLOP/s")
    cells = []
    for batch_size in job.batch_sizes:
        say(f"batch {batch_size}: {', '.join((OURS, *peers))}, {job.rounds} steps each, in turn")
        sides = _measure(job, (OURS, *peers), batch_size, max_length, rows)
        cells.append(_cell(job, sides, size, rate))
        for note in sides[OURS].facts["notes"] if len(cells) == 1 else ():
            say(f"orpo: {note}")
    return {
        **asdict(job),
        "max_length": max_length,
        "against": list(peers),
        "batch_sizes": list(job.batch_sizes),
        "machine": _machine(),
        "versions": {**versions(), **_trl_version()},
        "parameters": {"body": size.body, "head": size.vocabulary * size.width},
        "matmul_flops_per_second": rate,
        "cells": cells,
    }


def _available(wanted: tuple[str, ...], say: Say) -> tuple[str, ...]:
    if _has_trl():
        return wanted
    ours = tuple(peer for peer in wanted if not peer.startswith("trl")) or ("orpo-padded",)
    if ours != wanted:
        say("TRL is not installed (pip install 'orpo[bench]'): our own engines are compared")
    return ours


def _trl_version() -> dict[str, str]:
    return {"trl": version("trl")} if _has_trl() else {}


def _has_trl() -> bool:
    return importlib.util.find_spec("trl") is not None


def _fitting_length(job: BenchJob, size: ModelSize, say: Say) -> int:
    asked = job.max_length or (2048 if job.rows == "ultrafeedback-like" else 1024)
    if size.positions is None or asked <= size.positions:
        return asked
    say(f"max_length is {size.positions}: the model has no more positions")
    return size.positions


def _rows(job: BenchJob, make: RowMaker, say: Say) -> list[BenchRow]:
    """Rows for the largest batch size; smaller ones take the first of them."""
    count = max(job.batch_sizes) * job.rounds
    where = str(job.dataset if job.rows == "dataset" else job.rows)
    texts = text_pairs(job.dataset, make) if job.dataset else iter(())
    if job.rows != "dataset":
        words = words_of_texts(islice(texts, 500), make.tokenizer)
        words = words or words_of_vocabulary(make.tokenizer)
        texts = synthetic_pairs(draw_lengths(SHAPES[job.rows], count), words, make.max_length)
    rows = read_rows(texts, make, count, where)
    if len(rows) < count:
        say(f"{where}: {len(rows)} usable rows, repeated to {count}")
    lengths = mean_lengths(rows)
    shown = " / ".join(f"{value:.0f}" for value in lengths.values())
    say(f"{where}: prompt / chosen / rejected {shown} tokens on average")
    return repeated(rows, count)


def _measure(
    job: BenchJob, names: tuple[str, ...], batch_size: int, max_length: int, rows: list[BenchRow]
) -> dict[str, Side]:
    rows = rows[: batch_size * job.rounds]
    grouped = grouped_by_length(rows, batch_size, job.warmup)
    order = {name: grouped if name == "trl-grouped" else rows for name in names}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        specs = [
            SideSpec(
                side=name,
                model=job.model,
                precision=job.precision,
                lora=job.lora,
                gradient_checkpointing=_checkpoints(job.gradient_checkpointing, name),
                batch_size=batch_size,
                steps=job.rounds,
                max_length=max_length,
                rows=[row.texts for row in order[name]],
                folder=str(Path(folder, name)),
            )
            for name in names
        ]
        with workers(specs) as started:
            facts = {worker.side: worker.receive("ready") for worker in started}
            steps = take_turns(started, job.rounds)
            memory = {worker.side: worker.end() for worker in started}
    return {
        name: Side(
            facts[name],
            [taken[name] for taken in steps],
            memory[name],
            order[name],
            batch_size,
            job.warmup,
        )
        for name in names
    }


def _cell(job: BenchJob, sides: dict[str, Side], size: ModelSize, rate: float) -> dict[str, Any]:
    ours = sides[OURS]
    counted = ours.rows[job.warmup * ours.batch_size :]
    return {
        "batch_size": ours.batch_size,
        "pairs": len(counted),
        "tokens_per_pair": mean_lengths(counted),
        "sides": {
            name: side_figures(side, size, rate, lora=job.lora) for name, side in sides.items()
        },
        "against": {name: against(ours, side) for name, side in sides.items() if name != OURS},
    }


def _checkpoints(mode: str, side: str) -> bool:
    return mode == "on" or (mode == "trl-default" and side.startswith("trl"))


def _machine() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.accelerator.current_accelerator()
    return {
        "device": torch.cuda.get_device_name() if cuda else str(device or "cpu"),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{value!r} is none of {', '.join(choices)}", where=f"--{name}")
