"""`orpo train --nproc 2`, and the same under torchrun and accelerate: real ranks, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from tests import forked
from tests.cli.conftest import Orpo

ROOT = Path(__file__).parents[2]
SHORT = ("--logging_steps", "1", "--max_length", "128", "--learning_rate", "1e-3")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
PATIENCE = 150
FAMILY = "ORPO_TESTS_FAMILY"  # a variable that ranks inherit


def command(*words: object) -> list[str]:
    return [forked.python(), *map(str, words)]


def new_process(*words: object) -> list[str]:
    """Nothing is imported in it, nor in the ranks that it starts."""
    return [sys.executable, *map(str, words)]


def numbers(found: Any, name: str = "") -> dict[str, float]:
    """Every number of nested dicts and lists, by its path."""
    if isinstance(found, dict | list):
        parts = found.items() if isinstance(found, dict) else enumerate(found)
        return {k: v for key, part in parts for k, v in numbers(part, f"{name}/{key}").items()}
    return {name: float(found)} if isinstance(found, int | float) else {}


@contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose words go to a file; nothing of it outlives the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", FAMILY: str(log)}
    with log.open("wb") as file:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        for member in family(log):
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def family(log: Path) -> list[psutil.Process]:
    """The process whose words go to this file, and all that come from it."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(FAMILY) == str(log):
                found.append(process)
    return found


def until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def rank_one(log: Path) -> psutil.Process:
    return next(p for p in family(log) if p.environ().get("RANK") == "1")


def steps(run: Path) -> list[int]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "loss" in line]


def test_what_cannot_be_is_said_once_before_ranks_start(
    orpo: Orpo, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text("learning_rte: 1e-5\n")
    for arguments, said in (
        (("--nproc", "many"), "expected a number of ranks, found 'many'"),
        (("--nproc=0",), "must be at least 1"),
        ((tmp_path / "recipe.yaml", "--nproc", 2), "recipe.yaml:1: unknown setting"),
        (("--model", "./nowhere", "--dataset", "d", "--nproc", 2), "no such model folder"),
        (("--model", tiny, "--dataset", "d.jsonl", "--nproc", 2), "d.jsonl: no such file"),
    ):
        assert orpo("train", *arguments) == 2
        assert said in orpo.err
        assert len(orpo.err.splitlines()) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert orpo("train", "--nproc", 2) == 2
    assert "another launcher" in orpo.err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["nproc", "accelerate"])
def test_two_ranks_are_the_run_of_one(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path, launcher: str
) -> None:
    both, one = tmp_path / "both", tmp_path / "one"
    train = ("train", "--model", tiny, "--dataset", pairs, "--held_out", 0.3, "--max_steps", 3)
    train += ("--samples", 2, "--sample-tokens", 8, *SHORT)
    train += ("--train_sampling_strategy", "sequential")
    batch = "--per_device_train_batch_size"
    ranked = (*train, batch, 2, "--output_dir", both, "--json")
    config = ROOT / "recipes" / "accelerate" / "ddp.yaml"
    words = {
        "nproc": new_process("-m", "orpo", *ranked, "--nproc", 2),
        "accelerate": command(
            *("-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", 2),
            *("--mixed_precision", "no", "-m", "orpo", *ranked),
        ),
    }[launcher]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object and nothing else
    assert done.stderr.count("step 3/3: loss") == 1
    assert done.stderr.count("answering 2 prompts after training") == 1
    assert yaml.safe_load((both / "recipe.yaml").read_text())["_run"]["world_size"] == 2

    assert orpo(*train, batch, 4, "--output_dir", one) == 0, orpo.err
    assert steps(both) == steps(one) == [1, 2, 3]
    ours, theirs = (load_file(run / "model.safetensors") for run in (both, one))
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in theirs) < 1e-5
    alone = json.loads((one / "evaluation.json").read_text())
    for moment in ("before", "after"):
        ours, theirs = numbers(result["evaluation"][moment]), numbers(alone[moment])
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
        assert len(ours) > 20
    assert (both / "samples.jsonl").read_text() == (one / "samples.jsonl").read_text()


@pytest.mark.slow
def test_sigterm_commits_one_checkpoint_and_a_killed_rank_ends_the_resumed_run(
    tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    train = ("-m", "orpo", "train", "--nproc", 2, "--model", tiny, "--dataset", pairs, *SHORT)
    train += ("--max_steps", 100000, "--samples", 0, "--output_dir", run)
    with running(command(*train), log) as process:
        until(lambda: "step 3/" in log.read_text(), "training did not begin")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    assert log.read_text().count("stopped by SIGTERM") == 1
    assert "Traceback" not in log.read_text()
    (checkpoint,) = run.glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])

    with running(command(*train, "--resume"), log) as process:
        until(lambda: f"step {step + 2}/" in log.read_text(), "the run did not go on")
        rank_one(log).kill()
        assert process.wait(PATIENCE) == 1
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith("error: rank 1 was killed by SIGKILL")
    assert "Traceback" not in log.read_text()
    assert steps(run)[: step + 2] == list(range(1, step + 3))


@pytest.mark.slow
def test_under_torchrun_a_killed_rank_ends_the_run_too(
    tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    orpo = forked.programs() / "orpo"
    train = ("--no-python", orpo, "train", "--model", tiny, "--dataset", pairs, *SHORT)
    train += ("--max_steps", 100000, "--samples", 0, "--output_dir", run)
    with running(command(*TORCHRUN, *train), log) as process:
        until(lambda: "step 3/" in log.read_text(), "training did not begin")
        rank_one(log).kill()
        assert process.wait(PATIENCE) != 0
    said = log.read_text()
    assert said.count("step 3/") == 1
    assert "SIGKILL" in said[said.index("Root Cause") :]
    assert "rank      : 1" in said[said.index("Root Cause") :]
