"""What is measured of a run: held-out pairs and answers; seconds, memory and counted work.

Runs that are compared are processes of their own, so that time and memory are theirs alone. None
outlives the one that started it. What each is told lies in its folder, with its stderr.
"""

import contextlib
import ctypes
import gc
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import TrainerCallback

from orpo.config import ORPOConfig
from orpo.data.split import Selection, as_given, hold_out, pairs_of
from orpo.data.types import Row
from orpo.errors import ConfigError
from orpo.evaluate import Sampling, generate_answers
from orpo.evaluate.judge.fences import conversation
from orpo.evaluate.questions import Grader
from orpo.experiments.results import Cost, Machine, Outcome
from orpo.runs.files import write_json
from orpo.runs.processes import Child, Supervisor, death_of
from orpo.runs.reading import read_object
from orpo.runs.typed import plain
from orpo.runs.writing import make_way
from orpo.train.trainer import ORPOTrainer
from orpo.train.work import WORK, now

QUIET = {
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
LOG = "log.txt"
_TAIL = 3
_PATIENCE = 30  # seconds that a process may take to end once its pipe is closed
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def measure_outcomes(
    trainer: ORPOTrainer,
    held_out: Sequence[Row],
    *,
    answers: int = 0,
    sampling: Sampling | None = None,
    grade: Grader | None = None,
) -> list[Outcome]:
    """Score the trainer's held-out pairs, and answer so many prompts; `grade` sees their rows."""
    pairs, tokenizer = trainer.eval_dataset, trainer.processing_class
    scores = trainer.predict(pairs)
    columns = (scores.label_ids, *scores.predictions)
    found = {int(row): (float(c), float(r)) for row, c, r in zip(*columns, strict=True)}
    kept = [pair for pair in pairs if pair["rejected_ids"]]
    asked = [pair["prompt_ids"] for pair in kept[:answers]]
    sampling = sampling or Sampling()
    texts = generate_answers(trainer.model, tokenizer, asked, sampling) if asked else []
    rows = {row.index: row for row in held_out}
    how = trainer.args.format_name, trainer.args.pair_rule
    given, outcomes = pairs_of(held_out, (int(pair["row"]) for pair in kept), *how), []
    for number, pair in enumerate(kept):
        row, answer = int(pair["row"]), texts[number] if number < len(texts) else None
        word = grade(rows[row], answer) if grade and answer is not None else None
        prompt = tokenizer.decode(pair["prompt_ids"])  # where there are token ids alone
        if row in given:
            prompt = conversation(as_given(given[row])["prompt"]).strip()
        correct, reason = (word.correct, word.reason) if word else (None, "")
        ids = [] if answer is None else pair["chosen_ids"]
        chosen = tokenizer.decode(ids, skip_special_tokens=True).strip()
        outcomes.append(Outcome(row, prompt, *found[row], answer, correct, reason, chosen))
    return outcomes


def divided(
    held: Sequence[Row], share: float, most: int, seed: int, config: ORPOConfig
) -> tuple[Selection, Selection]:
    """Held-out rows to test with, and a share, so many at most, to choose by; no prompt is both."""
    reading = {"data_format": config.format_name, "pair_rule": config.pair_rule}
    share = min(share, most / max(len(held), 1))
    try:
        return hold_out(held, share, seed, "", **reading)
    except ConfigError as error:
        what = "are too few to test with some and to choose by others: "
        what += f"{len(held)} row{'s' * (len(held) != 1)}"
        raise ConfigError(what, where="held-out pairs", fix="Hold out more.") from error


def machine() -> Machine:
    """This one."""
    cuda = torch.cuda.is_available()
    device = torch.accelerator.current_accelerator()
    return Machine(
        device=torch.cuda.get_device_name() if cuda else str(device or "cpu"),
        processor=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
    )


class MemoryMeter:
    """Memory from its `start`: allocated on CUDA, the process's resident elsewhere.

    Where the system cannot forget an earlier high-water mark it is not `exact`: loading counts.
    """

    def __init__(self) -> None:
        self.idle = 0  # bytes at the start
        self.exact = True

    def start(self, model: nn.Module) -> None:
        """Take the state of rest, weights in memory, and forget what came before."""
        gc.collect()
        for parameter in model.parameters():
            parameter.detach().sum()  # weights of a mapped file come into memory when they are read
        if sys.platform == "linux":  # what the C library keeps though it is free counts as resident
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL("libc.so.6").malloc_trim(0)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.idle = torch.cuda.memory_allocated()
            return
        self.idle = psutil.Process().memory_info().rss
        try:
            _CLEAR.write_text("5", encoding="ascii")
        except OSError:
            self.exact = False

    def peak(self) -> int:
        """The most bytes held since the start."""
        if torch.cuda.is_available():
            return int(torch.cuda.max_memory_allocated())
        return max(self.idle, _high_water_mark())


def _high_water_mark() -> int:
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # noqa: PLC0415 - not on Windows

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


class StageClock(TrainerCallback):
    """Times the training between its evaluations, and meters its memory from its first moment."""

    def __init__(self) -> None:
        self.meter = MemoryMeter()
        self.seconds = 0.0
        self.peak = 0
        self._rest = 0.0  # when what came before the training had ended
        self._training = False

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model is loaded: what comes on top of it is what counts."""
        self.meter.start(kwargs["model"])
        self._rest = now()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count what the training itself had to prepare, such as a reference."""
        self.seconds, self._training = -self._rest, True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluations during the training are not part of it."""
        metrics: Mapping[str, Any] = kwargs.get("metrics") or {}
        if self._training:
            self.seconds -= float(metrics.get("eval_runtime", 0.0))
        else:
            self._rest = now()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock, and take the most memory that was held."""
        self.seconds += now()
        self._training = False
        self.peak = self.meter.peak()

    def cost(self, objective: str, folder: Path) -> Cost:
        """The cost of a finished stage, with what its trainer counted and left in a folder."""
        work = read_object(folder / WORK)
        return Cost(
            objective=objective,
            steps=int(work["steps"]),
            pairs=int(work["pairs"]),
            forwards_trained=int(work["sequences_trained"]),
            forwards_scored=int(work["sequences_scored"]),
            flops=float(work["flops"]),
            seconds=self.seconds,
            idle_bytes=self.meter.idle,
            peak_bytes=self.peak,
        )


# Processes


def start_worker(
    group: Supervisor, module: str, told: Any, folder: Path, environment: Mapping[str, str]
) -> Child:
    """Start a worker: `python -m MODULE FILE`, where the file holds what it is told."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, log = folder / "task.json", folder / LOG
    write_json(spec, plain(told))
    make_way(log)
    command = [sys.executable, "-m", module, str(spec)]
    return group.start(command, environment=environment, log=log, stdout=subprocess.PIPE)


def last_words(child: Child) -> tuple[int, str]:
    """The exit code of a worker that ended, and how, with its last lines."""
    try:
        code = child.process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.process.kill()
        code = child.process.wait()
    tail = " | ".join([line.strip() for line in child.lines()][-_TAIL:])
    return code, f"{death_of(code)}: {tail or 'said nothing'}"
