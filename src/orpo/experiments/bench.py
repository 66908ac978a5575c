"""The bench: our trainer beside TRL's on the same rows, a step of each in turn, and the figures."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from orpo.config import ORPOConfig
from orpo.errors import ConfigError, RunStopped, TrainingError
from orpo.experiments.bench_figures import (
    ModelSize,
    Side,
    Step,
    against,
    matmul_rate,
    model_size,
    side_figures,
)
from orpo.experiments.bench_job import OURS, BenchJob, SideSpec
from orpo.experiments.bench_rows import (
    SHAPES,
    BenchRow,
    RowMaker,
    draw_lengths,
    grouped_by_length,
    mean_lengths,
    synthetic_pairs,
    words_of,
)
from orpo.experiments.measuring import machine
from orpo.runs.files import write_json
from orpo.runs.processes import Child, Supervisor, death_of, supervised
from orpo.runs.typed import plain
from orpo.train.recorder import versions
from orpo.train.tokenizer import load_tokenizer

_QUIET = {
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_WITHOUT_ORPO = {
    "THP_MEM_ALLOC_ENABLE": "0",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024",
    "LRU_CACHE_CAPACITY": "1024",
}
"""What torch and oneDNN do by themselves."""
_TAIL = 3
_PATIENCE = 30  # seconds that a process may take to end once its pipe is closed

Say = Callable[[str], None]


def run_bench(job: BenchJob, *, say: Say) -> dict[str, Any]:
    """Measure every cell.

    Args:
        job: What is measured; its model, rows and batch sizes are given.
        say: Told, line by line, what happens.

    Returns:
        The circumstances, and under "cells" the figures of each batch size, ready for JSON.

    Raises:
        UserError: Wrong input.
        TrainingError: A side broke down.
    """
    trl = importlib.util.find_spec("trl") is not None
    job = job if trl else _without_trl(job, say)
    tokenizer, size = load_tokenizer(job.model, ORPOConfig()), model_size(job.model)
    asked = job.max_length or (2048 if job.rows == "ultrafeedback-like" else 1024)
    max_length = min(asked, size.positions or asked)
    if max_length < asked:
        say(f"max_length is {max_length}: the model has no more positions")
    rows = _rows(job, RowMaker(tokenizer, max_length), say)
    if "trl-grouped" in job.against:
        say(
            "trl-grouped: the counted rows in batches of similar length; "
            "sorted over a whole data set, their lengths would be closer still"
        )
    rate = matmul_rate(job.precision)
    say(f"matrix products in {job.precision}: {rate / 1e9:,.0f} GFLOP/s")
    names, cells = (OURS, *job.against), []
    for batch_size in job.batch_sizes:
        say(f"batch {batch_size}: {', '.join(names)}, {job.rounds} steps each, in turn")
        sides = _measure(job, names, batch_size, max_length, rows)
        cells.append(_cell(job, sides, size, rate))
        for note in sides[OURS].facts["notes"] if len(cells) == 1 else ():
            say(f"orpo: {note}")
    where = plain(machine())
    return {
        **plain(job),
        "max_length": max_length,
        "machine": {name: where[name] for name in ("device", "processor", "threads")},
        "versions": {**versions(), **({"trl": version("trl")} if trl else {})},
        "parameters": {"body": size.body, "head": size.vocabulary * size.width},
        "matmul_flops_per_second": rate,
        "cells": cells,
    }


def _without_trl(job: BenchJob, say: Say) -> BenchJob:
    ours = tuple(peer for peer in job.against if not peer.startswith("trl")) or ("orpo-padded",)
    if ours != job.against:
        say("TRL is not installed (pip install 'orpo[bench]'): our own engines are compared")
    return replace(job, against=ours)


def _rows(job: BenchJob, make: RowMaker, say: Say) -> list[BenchRow]:
    """Rows for the largest batch size, repeated where they are too few."""
    count = max(job.batch_sizes) * job.rounds
    where = str(job.dataset if job.rows == "dataset" else job.rows)
    texts = make.text_pairs(job.dataset) if job.dataset else iter(())
    if job.rows != "dataset":
        words = words_of(islice(texts, 500), make.tokenizer)
        texts = synthetic_pairs(draw_lengths(SHAPES[job.rows], count), words, make.max_length)
    rows = make.first(texts, count, where)
    if len(rows) < count:
        say(f"{where}: {len(rows)} usable rows, repeated to {count}")
    shown = " / ".join(f"{value:.0f}" for value in mean_lengths(rows).values())
    say(f"{where}: prompt / chosen / rejected {shown} tokens on average")
    return list(islice(cycle(rows), count))


class Worker:
    """One side in its own process; its folder receives what it writes, stderr included."""

    def __init__(self, spec: SideSpec, group: Supervisor) -> None:
        self.side = spec.side
        folder = Path(spec.folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "spec.json", plain(spec))
        command = [sys.executable, "-m", "orpo.experiments.bench_worker", str(folder / "spec.json")]
        self.child: Child = group.start(
            command,
            environment=environment_of(spec.side),
            log=folder / "stderr.txt",
            stdout=subprocess.PIPE,
        )

    def receive(self, kind: str) -> Any:
        """The content of the next message, which must be of this kind.

        Raises:
            ConfigError: The side refused its input.
            TrainingError: The process ended instead.
        """
        assert self.child.process.stdout is not None
        line = self.child.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._obituary()
        message = json.loads(line)
        if "refused" in message:
            raise ConfigError(str(message["refused"]).removesuffix("."), where=self.side)
        return message[kind]

    def go(self, kind: str) -> Any:
        """Take a step, or end after the last one of every side; what it says of it.

        Raises:
            TrainingError: The process ended instead.
        """
        assert self.child.process.stdin is not None
        try:
            self.child.process.stdin.write(b"go\n")
            self.child.process.stdin.flush()
        except OSError as error:
            raise self._obituary() from error
        return self.receive(kind)

    def _obituary(self) -> TrainingError:
        try:
            code = self.child.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.process.kill()
            code = self.child.process.wait()
        tail = " | ".join([line.strip() for line in self.child.lines()][-_TAIL:])
        how = f"{death_of(code)}: {tail or 'said nothing'}"
        return TrainingError(f"the {self.side} side stopped with {how}")


def take_turns(sides: Sequence[Worker], rounds: int) -> list[dict[str, Step]]:
    """One step of each side per round, the order swapped every round."""
    taken = []
    for number in range(rounds):
        order = sides if number % 2 == 0 else sides[::-1]
        taken.append({worker.side: Step(**worker.go("step")) for worker in order})
    return taken


def environment_of(side: str) -> dict[str, str]:
    """The variables of a side's process."""
    environment = {**_QUIET, **os.environ}
    if side.startswith("trl"):  # what importing orpo sets is not what TRL's users have
        environment |= _WITHOUT_ORPO
    if torch.cuda.device_count() > 1:  # Trainer would split the batch among all of them
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[0]
    return environment


def _measure(
    job: BenchJob, names: Sequence[str], batch_size: int, max_length: int, rows: list[BenchRow]
) -> dict[str, Side]:
    rows = rows[: batch_size * job.rounds]
    grouped = grouped_by_length(rows, batch_size, job.warmup)
    order = {name: grouped if name == "trl-grouped" else rows for name in names}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        supervised() as group,
    ):
        specs = [
            SideSpec(
                side=name,
                model=job.model,
                precision=job.precision,
                lora=job.lora,
                gradient_checkpointing=job.checkpoints(name),
                batch_size=batch_size,
                steps=job.rounds,
                max_length=max_length,
                folder=str(Path(folder, name)),
                rows=[row.texts for row in order[name]],
            )
            for name in names
        ]
        try:
            started = [Worker(spec, group) for spec in specs]
            facts = {worker.side: worker.receive("ready") for worker in started}
            steps = take_turns(started, job.rounds)
            memory = {worker.side: worker.go("done") for worker in started}
        except (TrainingError, ChildProcessError):
            if group.received:
                words = "stopped: nothing was measured"
                raise RunStopped(words, group.received[0]) from None
            raise
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
        "sides": {n: side_figures(side, size, rate, lora=job.lora) for n, side in sides.items()},
        "against": {name: against(ours, side) for name, side in sides.items() if name != OURS},
    }
