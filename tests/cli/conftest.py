"""A tiny chat model, a few pairs, and the commands in this process."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orpo.commands.main import main
from tests.train.small import chat_tokenizer, saved_llama, write_rows

QUIET = ("--use_cpu", "true", "--report_to", "none")
SETTINGS = (
    *("--max_steps", 4, "--save_steps", 2, "--logging_steps", 1, "--held_out", 0.2),
    *("--per_device_train_batch_size", 4, "--max_length", 64, "--samples", 1),
    *("--sample_tokens", 4, *QUIET),
)
"""Of the finished runs."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer Llama and its tokenizer."""
    return saved_llama(tmp_path_factory.mktemp("tiny"), chat_tokenizer())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder, in which commands are run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def conversations(count: int) -> list[dict[str, Any]]:
    """Pairs of which two have one prompt."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Say {n // 2}"}],
            "chosen": [{"role": "assistant", "content": f"{n // 2}, of course {n}."}],
            "rejected": [{"role": "assistant", "content": "no " * (n % 5 + 1)}],
        }
        for n in range(count)
    ]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty-four pairs over twelve prompts."""
    return write_rows(tmp_path / "pairs.jsonl", conversations(24))


@pytest.fixture(scope="session")
def runs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `pairs.jsonl` and two finished runs, `run` and, with LoRA, `lora`."""
    place = tmp_path_factory.mktemp("runs")
    data = write_rows(place / "pairs.jsonl", conversations(24))
    (place / "prompts.txt").write_text("hello\n")
    for name, more in (("run", ()), ("lora", ("--lora_r", 2))):
        told = ("--model", tiny, "--dataset", data, "--output_dir", place / name)
        assert main([str(word) for word in ("train", *told, *SETTINGS, *more)]) == 0
    event = {"time": "2026-12-01T00:00:00", "step": 2, "kind": "spike", "message": "m"}
    write_rows(place / "run" / "events.jsonl", [event])
    return place


@pytest.fixture
def copied_runs(runs: Path, tmp_path: Path) -> Path:
    """A copy of `runs`; whatever a command does is done in it."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


class Orpo:
    """Runs a command in this process and keeps what it printed."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self.out = self.err = ""

    def __call__(self, *arguments: object) -> int:
        self._capfd.readouterr()
        code = main([str(a) for a in arguments])
        self.out, self.err = self._capfd.readouterr()
        return code

    def does(self, *arguments: object) -> Any:
        """What it says with `--json`, if that is in the arguments; it ends well."""
        assert self(*arguments) == 0, self.err
        return json.loads(self.out) if "--json" in arguments else None

    def refuses(self, *arguments: object) -> str:
        """The one line that ends a command whose input is wrong; nothing is on stdout."""
        assert self(*arguments) == 2, (arguments, self.err)
        lines = self.err.strip().splitlines()
        assert [line.startswith("error: ") for line in lines].count(True) == 1, self.err
        assert lines[-1].startswith("error: "), self.err
        assert "Traceback" not in self.err
        assert self.out == ""
        return lines[-1]

    def refuses_at_once(self, *arguments: object) -> str:
        """The same, and nothing else was said."""
        line = self.refuses(*arguments)
        assert self.err.strip() == line
        return line


@pytest.fixture
def orpo(capfd: pytest.CaptureFixture[str]) -> Orpo:
    """`orpo("train", ...)` returns the exit code; `.out` and `.err` hold the streams."""
    return Orpo(capfd)
