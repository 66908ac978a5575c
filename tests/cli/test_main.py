"""The command line as a whole: help, errors, exit codes, and that they come at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orpo.commands.data import ACTIONS as DATA
from orpo.commands.evaluate import ACTIONS as EVALUATE
from orpo.commands.main import COMMANDS
from tests.cli.conftest import Orpo

HEAVY = (
    *("torch", "torch._inductor", "transformers", "datasets", "peft", "accelerate", "bitsandbytes"),
    *("matplotlib", "openai", "optuna", "sklearn", "pandas", "pyarrow"),
)
SCRIPT = """
import contextlib, io, json, sys
from orpo.commands.main import main
heavy, found, seen = json.loads(sys.argv[1]), {}, set()
for words in json.loads(sys.argv[2]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(words)
        except SystemExit as stopped:
            assert stopped.code == 0
    new = [name for name in heavy if name in sys.modules and name not in seen]
    seen |= set(new)
    found[" ".join(words)] = [new, out.getvalue(), "rich" in sys.modules]
print(json.dumps(found))
"""


def imported(*calls: list[str]) -> dict[str, str]:
    """What each call says; nothing heavy is imported for any, and nothing at all for the first."""
    words = [sys.executable, "-c", SCRIPT, json.dumps(HEAVY), json.dumps([["--help"], *calls])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {name: new for name, (new, _, _) in found.items() if new} == {}
    assert not found["--help"][2]
    return {name: said for name, (_, said, _) in found.items()}


def test_help_says_what_there_is_and_imports_nothing_heavy() -> None:
    inner = [*(["data", one] for one in DATA), *(["evaluate", one] for one in EVALUATE)]
    calls = [[*words, "--help"] for words in [*([name] for name in COMMANDS), *inner]]
    found = imported(["data"], *calls)
    overview = found.pop("--help")
    assert all(f"  {name} " in overview for name in COMMANDS)
    for name, said in found.items():
        assert f"usage: orpo {name.removesuffix(' --help')}" in said
        assert "examples:" in said
        assert "--json" in said


def test_wrong_input_that_needs_no_model_imports_nothing_heavy() -> None:
    found = imported(
        *(["frobnicate"], ["train", "--lerning_rate", "1"], ["chat", "--temperature", "warm", "m"]),
        *(["convert-config", "train.py"], ["doctor", "none"], ["report", "none"]),
        *(["data", "audit", "none.jsonl"], ["data", "fix", "none.jsonl", "out.jsonl"]),
        *(["data", "audit", "d", "--truncation", "all"], ["merge", "none", "out"]),
        *(
            ["push", "none", "a/b"],
            ["train", "--nproc", "2", "--model", "./none", "--dataset", "d"],
        ),
    )
    del found["--help"]
    for said in found.values():
        assert said.startswith("error: ")
        assert said.count("\n") == 1, said


@pytest.mark.parametrize("name", ["orpo", "orpo.errors", "orpo.runs", "orpo.options", "orpo.audit"])
def test_what_is_light_stays_light(name: str) -> None:
    code = f"import sys, {name}; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "no command 'frobnicate'"),
        (["train"], "--model"),
        (["train", "--model", "m"], "--dataset"),
        (["train", "--learning_rat", "1"], "--learning_rat"),
        (["train", "--learning_rate", "fast"], "fast"),
        (["train", "missing.yaml"], "missing.yaml"),
        (["train", "--model", "./none", "--dataset", "none.jsonl"], "none"),
        (["train", "--model", "m", "--dataset", "d", "--orpo_alpha", "-1"], "orpo_alpha"),
        (["train", "--model", "m", "--dataset", "d", "--nll_scope", "word"], "nll_scope"),
        (["train", "--model", "m", "--dataset", "./d", "--engine", "shared"], "./d"),
        (["train", "--model", "m", "--dataset", "d", "--held_out", "2"], "held_out"),
        (["generate", "./none", "hello"], "./none"),
        (["generate", "./none", "none.jsonl"], "none.jsonl"),
        (["generate", "m", "hello", "--max_new_tokens", "0"], "max_new_tokens"),
        (["chat", "./none"], "./none"),
        (["merge", ".", "out"], "adapter"),
        (["report", "none"], "none"),
        (["report"], "RUN"),
        (["doctor", "--model", "./none"], "./none"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(
    orpo: Orpo, arguments: list[str], said: str, here: Path
) -> None:
    assert said in orpo.refuses_at_once(*arguments)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("a bug", "Traceback"),
        (
            "DataLoader worker (pid 7) is killed by signal: Killed. ",
            "error: a process that reads the data has ended: DataLoader worker",
        ),
    ],
)
def test_unexpected_errors_exit_1(
    orpo: Orpo, monkeypatch: pytest.MonkeyPatch, message: str, said: str
) -> None:
    def broken(given: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("orpo.commands.report.run", broken)
    assert orpo("report", "x") == 1
    assert orpo.err.startswith(said)
    assert ("--resume" in orpo.err) is said.startswith("error")
