"""Help and refusals answer at once: nothing heavy is imported for them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    *("torch", "torch._inductor", "transformers", "datasets", "peft", "accelerate", "bitsandbytes"),
    *("matplotlib", "openai", "optuna", "sklearn", "pandas", "pyarrow"),
)
SCRIPT = """
import contextlib, io, json, sys
from orpo.commands.main import COMMANDS, main
heavy, calls, found, seen = json.loads(sys.argv[1]), json.loads(sys.argv[2]), {}, set()
calls += [[name, "--help"] for name in COMMANDS if name not in {"data", "evaluate"}]
for words in calls:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(words)
        except SystemExit:
            pass
    new = [name for name in heavy if name in sys.modules and name not in seen]
    seen |= set(new)
    found[" ".join(words)] = [new, out.getvalue()]
print(json.dumps(found))
"""
INNER = {
    "data": ("audit", "show", "fix"),
    "evaluate": ("preference", "win-rate", "alpaca", "mt-bench", "harness"),
}


def imported(*calls: list[str]) -> dict[str, tuple[list[str], str]]:
    """What each call, and the help of each command, imports and says, in one process."""
    words = [sys.executable, "-c", SCRIPT, json.dumps(HEAVY), json.dumps(calls)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {name: (new, said) for name, (new, said) in json.loads(done.stdout).items()}


def test_help_imports_nothing_heavy() -> None:
    inner = [[name, one, "--help"] for name, ones in INNER.items() for one in ones]
    found = imported(["--help"], *([name, "--help"] for name in INNER), *inner)
    assert {name: new for name, (new, _) in found.items() if new} == {}
    for name, (_, said) in found.items():
        assert "usage: orpo" in said, name


def test_wrong_input_that_needs_no_model_imports_nothing_heavy() -> None:
    found = imported(
        ["frobnicate"],
        ["train", "--lerning_rate", "1"],
        ["chat", "--temperature", "warm", "m"],
        ["convert-config", "train.py"],
        ["doctor", "none"],
        ["report", "none"],
        ["data", "audit", "none.jsonl"],
        ["data", "fix", "none.jsonl", "out.jsonl"],
        ["merge", "none", "out"],
        ["push", "none", "a/b"],
    )
    heavy = {name: new for name, (new, _) in found.items() if new}
    assert heavy == {}
    for name, (_, said) in found.items():
        assert "--help" in name or said.count("\n") == 1, said


@pytest.mark.parametrize("name", ["orpo", "orpo.errors", "orpo.runs", "orpo.options", "orpo.audit"])
def test_what_is_light_stays_light(name: str) -> None:
    code = f"import sys, {name}; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
