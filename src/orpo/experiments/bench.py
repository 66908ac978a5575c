"""The bench: our trainer beside TRL's on the same rows, a step of each in turn, and the figures."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from orpo.config import ORPOConfig
from orpo.errors import ConfigError, ModelError, RunStopped, TrainingError
from orpo.experiments import bench_rows as rowing
from orpo.experiments import measuring
from orpo.experiments.bench_rows import BenchRow, PairLengths, RowMaker, SideSpec
from orpo.experiments.plans import OURS, BenchJob
from orpo.runs.processes import Supervisor, supervised
from orpo.runs.typed import plain
from orpo.terminal import Say
from orpo.train.models import load_tokenizer
from orpo.train.recorder import versions
from orpo.train.work import now

_WITHOUT_ORPO = {
    "THP_MEM_ALLOC_ENABLE": "0",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024",
    "LRU_CACHE_CAPACITY": "1024",
}
"""What torch and oneDNN do by themselves."""
_PRODUCTS = 7
_FEWEST_STEPS = 3  # a median of fewer is the slower or the faster one
_BUSY, _UNSTEADY = 0.25, 0.2  # share of the processors at work for others; change of their rate


def run_bench(job: BenchJob, *, say: Say) -> dict[str, Any]:
    """Measure every cell of a job that is given in full; what was found, ready for JSON."""
    trl, own = importlib.util.find_spec("trl") is not None, job.against
    if not trl:
        own = tuple(peer for peer in own if not peer.startswith("trl")) or ("orpo-padded",)
    if own != job.against:
        say("TRL is not installed (pip install 'orpo[bench]'): our own engines are compared")
        job = replace(job, against=own)
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
    busy, rate = psutil.cpu_percent(0.5) / 100, matmul_rate(job.precision)
    say(f"matrix products in {job.precision}: {rate / 1e9:,.0f} GFLOP/s")
    cells = [*_cells(job, max_length, rows, (size, rate), say)]
    lacking = [*_lacking(job, busy, matmul_rate(job.precision) / rate)]
    where = plain(measuring.machine())
    return {
        "evidence": not lacking,
        "lacking": lacking,
        **plain(job),
        "max_length": max_length,
        "machine": {name: where[name] for name in ("device", "processor", "threads")},
        "versions": {**versions(), **({"trl": version("trl")} if trl else {})},
        "parameters": {"body": size.body, "head": size.vocabulary * size.width},
        "matmul_flops_per_second": rate,
        "cells": cells,
    }


def _cells(
    job: BenchJob, max_length: int, rows: list[BenchRow], machine: tuple[ModelSize, float], say: Say
) -> Iterator[dict[str, Any]]:
    """What the sides did at each batch size, one after the other."""
    size, rate = machine
    names = (OURS, *job.against)
    for number, batch_size in enumerate(job.batch_sizes):
        say(f"batch {batch_size}: {', '.join(names)}, {job.rounds} steps each, in turn")
        sides = _measure(job, names, batch_size, max_length, rows)
        ours = sides[OURS]
        counted = ours.rows[job.warmup * batch_size :]
        yield {
            "batch_size": batch_size,
            "pairs": len(counted),
            "tokens_per_pair": rowing.mean_lengths(counted),
            "sides": {n: side_figures(s, size, rate, lora=job.lora) for n, s in sides.items()},
            "against": {name: against(ours, sides[name]) for name in job.against},
        }
        for note in () if number else ours.facts["notes"]:
            say(f"orpo: {note}")


def _lacking(job: BenchJob, busy: float, steady: float) -> Iterator[str]:
    """Why the figures are no result."""
    if job.steps < _FEWEST_STEPS:
        yield f"{job.steps} counted steps ({_FEWEST_STEPS} are the least)"
    if not job.warmup:
        yield "no step to warm up"
    if busy > _BUSY:
        yield f"the processors were {100 * busy:.0f} % busy with something else"
    if abs(math.log(steady)) > _UNSTEADY:
        yield f"the machine ran at {steady:.2f} times its rate at the end"


def _rows(job: BenchJob, make: RowMaker, say: Say) -> list[BenchRow]:
    """Rows for the largest batch size, repeated where they are too few."""
    count = max(job.batch_sizes) * job.rounds
    where = str(job.dataset if job.rows == "dataset" else job.rows)
    texts = make.text_pairs(job.dataset) if job.dataset else iter(())
    if job.rows != "dataset":
        words = rowing.words_of(islice(texts, 500), make.tokenizer)
        lengths = rowing.draw_lengths(rowing.SHAPES[job.rows], count)
        texts = rowing.synthetic_pairs(lengths, words, make.max_length)
    rows = make.first(texts, count, where)
    if len(rows) < count:
        say(f"{where}: {len(rows)} usable rows, repeated to {count}")
    shown = " / ".join(f"{value:.0f}" for value in rowing.mean_lengths(rows).values())
    say(f"{where}: prompt / chosen / rejected {shown} tokens on average")
    return list(islice(cycle(rows), count))


def _measure(
    job: BenchJob, names: Sequence[str], batch_size: int, max_length: int, rows: list[BenchRow]
) -> dict[str, Side]:
    rows = rows[: batch_size * job.rounds]
    grouped = rowing.grouped_by_length(rows, batch_size, job.warmup)
    order = {name: grouped if name == "trl-grouped" else rows for name in names}
    sides = [Side(name, order[name], batch_size, job.warmup) for name in names]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, supervised() as group:
        try:
            for side in sides:
                texts = [row.texts for row in side.rows]
                place = str(Path(folder, side.name))
                side.start(SideSpec(side.name, job, batch_size, max_length, place, texts), group)
            for side in sides:
                side.facts = side.receive("ready")
            take_turns(sides, job.rounds)
            for side in sides:
                side.memory = side.go("done")
        except (TrainingError, ChildProcessError):
            if group.received:
                words = "stopped: nothing was measured"
                raise RunStopped(words, group.received[0]) from None
            raise
    return {side.name: side for side in sides}


@dataclass(frozen=True)
class Step:
    """One step of one side: seconds, those until it was ready for the next, and a finite loss."""

    seconds: float
    between: float
    loss: float | None


@dataclass
class Side:
    """One side of a cell: its process, and what it did."""

    name: str
    rows: list[BenchRow]  # in order of use
    batch_size: int
    warmup: int  # leading steps that do not count
    facts: dict[str, Any] = field(default_factory=dict)  # its `ready` message
    steps: list[Step] = field(default_factory=list)  # those of the warm-up included
    memory: dict[str, Any] = field(default_factory=dict)  # its `done` message

    def start(self, spec: SideSpec, group: Supervisor) -> None:
        """Its process begins; its folder receives what it writes, stderr included."""
        module, environment = "orpo.experiments.bench_worker", environment_of(self.name)
        self.child = measuring.start_worker(group, module, spec, Path(spec.folder), environment)

    def receive(self, kind: str) -> Any:
        """The content of the next message, which must be of this kind."""
        assert self.child.process.stdout is not None
        line = self.child.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._obituary()
        message = json.loads(line)
        if "refused" in message:
            raise ConfigError(str(message["refused"]).removesuffix("."), where=self.name)
        return message[kind]

    def go(self, kind: str) -> Any:
        """Take a step, or end after the last one of every side; what it says of it."""
        assert self.child.process.stdin is not None
        try:
            self.child.process.stdin.write(b"go\n")
            self.child.process.stdin.flush()
        except OSError as error:
            raise self._obituary() from error
        return self.receive(kind)

    def _obituary(self) -> TrainingError:
        _, how = measuring.last_words(self.child)
        return TrainingError(f"the {self.name} side stopped with {how}")

    @property
    def counted(self) -> list[Step]:
        """The steps after the warm-up."""
        return self.steps[self.warmup :]

    @property
    def seconds(self) -> float:
        """Seconds of all counted steps."""
        return sum(step.seconds for step in self.counted)

    def rates(self, worth: Callable[[PairLengths], int] = sum) -> list[float]:
        """What the pairs of each counted step are worth, per second: tokens, each once."""
        starts = range(self.warmup * self.batch_size, len(self.rows), self.batch_size)
        values = [sum(worth(r.lengths) for r in self.rows[i : i + self.batch_size]) for i in starts]
        return [n / step.seconds for n, step in zip(values, self.counted, strict=True)]


def take_turns(sides: Sequence[Side], rounds: int) -> None:
    """One step of each side per round, the order swapped every round."""
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            side.steps.append(Step(**side.go("step")))


def environment_of(side: str) -> dict[str, str]:
    """The variables of a side's process."""
    environment = {**measuring.QUIET, **os.environ}
    if side.startswith("trl"):  # what importing orpo sets is not what TRL's users have
        environment |= _WITHOUT_ORPO
    if torch.cuda.device_count() > 1:  # Trainer would split the batch among all of them
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[0]
    return environment


@dataclass(frozen=True)
class ModelSize:
    """The parameters that take part in matrix products."""

    body: int  # without embeddings and head; all experts of a mixture count
    vocabulary: int  # rows of the head
    width: int  # columns of the head
    positions: int | None = None  # that the model was made for, if it says

    def useful_flops(self, pair: PairLengths, *, lora: bool) -> int:
        """What a pair needs if no token is computed twice: 6 N (P+C+R) + 6 V d (P-1+C+R).

        Two per parameter and token forward, four backward, two where weights are frozen; the head
        where a token is predicted. Attention's products of tokens are left out for all sides alike.
        """
        tokens = sum(pair)
        return (4 if lora else 6) * (
            self.body * tokens + self.vocabulary * self.width * (tokens - 1)
        )


def model_size(name: str) -> ModelSize:
    """The sizes of a model folder or Hub id, read from its configuration."""
    try:
        config = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).splitlines()), repr(error)).rstrip(".")
        raise ModelError(f"the model cannot be read ({first})", where=name) from error
    return size_of(model, getattr(config, "max_position_embeddings", None))


def size_of(model: nn.Module, positions: int | None = None) -> ModelSize:
    """The sizes of a model object."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    outside = {id(p) for module in (*tables, head) for p in module.parameters()}
    body = sum(p.numel() for p in model.parameters() if id(p) not in outside)
    vocabulary, width = head.weight.shape
    return ModelSize(body, int(vocabulary), int(width), positions)


def matmul_rate(precision: str) -> float:
    """Operations per second of a large matrix product, the median of a few."""
    width = 8192 if torch.cuda.is_available() else 2048
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(_PRODUCTS + 1):
        begin = time.perf_counter()
        left @ right
        seconds.append(now() - begin)
    del left, right
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return 2 * width**3 / median(seconds[1:])


def side_figures(side: Side, size: ModelSize, matmul_rate: float, *, lora: bool) -> dict[str, Any]:
    """The figures of one side; rates are medians over the counted steps."""
    peak, idle = side.memory["peak"], side.memory["idle"]
    rate = median(side.rates(lambda pair: size.useful_flops(pair, lora=lora)))
    return {
        "engine": side.facts["engine"],
        "gradient_checkpointing": side.facts["gradient_checkpointing"],
        "pairs_per_second": median(side.batch_size / step.seconds for step in side.counted),
        "pairs_per_second_overall": side.batch_size * len(side.counted) / side.seconds,
        "tokens_per_second": median(side.rates()),
        "useful_flops_per_second": rate,
        "share_of_matmul_rate": rate / matmul_rate,
        "peak_bytes": peak,
        "idle_bytes": idle,
        "beyond_idle_bytes": peak - idle,
        "peak_without_loading": side.memory["exact"],
        "step_seconds": [step.seconds for step in side.steps],
        "between_steps_seconds": median(step.between for step in side.counted),
        "losses": [step.loss for step in side.steps],
        "notes": side.facts["notes"],
    }


def against(ours: Side, peer: Side) -> dict[str, Any]:
    """Our side beside a peer: speed above 1 and memory below 1 are in our favour.

    A round's ratio is of tokens per second: a peer whose rows are grouped had others in it, so that
    its first loss says nothing about ours.
    """
    rounds = [a / b for a, b in zip(ours.rates(), peer.rates(), strict=True)]
    a, b = (side.memory["peak"] for side in (ours, peer))
    idle_a, idle_b = (side.memory["idle"] for side in (ours, peer))
    differing = (Counter(peer.facts["tokens"]) - Counter(ours.facts["tokens"])).total()
    first, other = ours.steps[0].loss, peer.steps[0].loss
    same = ours.rows[: ours.batch_size] == peer.rows[: peer.batch_size]
    apart = abs(first - other) / abs(other) if first is not None and other and same else None
    return {
        "speed_ratio": {
            "median": median(rounds),
            "min": min(rounds),
            "max": max(rounds),
            "overall": peer.seconds / ours.seconds,
        },
        "peak_memory_ratio": a / b,
        "beyond_idle_memory_ratio": (a - idle_a) / (b - idle_b) if b > idle_b else None,
        "first_losses": [first, other],
        "first_loss_relative_difference": apart,
        "same_tokens": differing == 0,
        "rows_with_other_tokens": differing,
    }
