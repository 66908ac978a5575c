"""The command line as a whole: help, errors, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orpo.commands.main import COMMANDS, main


def test_overview_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from orpo.commands.main import main; assert main(['--help']) == 0; "
        "heavy = {'torch', 'transformers', 'datasets', 'rich', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_shows_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"orpo {name}" in text
    assert "--json" in text


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
        (["train", "--model", "m", "--dataset", "d", "--engine", "shared"], "none"),
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
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "shared" in arguments:
        said = "d"  # the data set is missing first
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_unexpected_errors_keep_their_traceback_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import orpo.commands.report as command

    def broken(given: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(command, "run", broken)
    assert main(["report", "x"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_loader_that_lost_its_process_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(given: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr("orpo.commands.report.run", broken)
    assert main(["report", "x"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a process that reads the data has ended: DataLoader worker")
    assert "--resume" in line


def test_json_steers_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"where": "a\x9b31m\u202e\x7f中文"}
    monkeypatch.setattr("orpo.commands.doctor.run", lambda given: said)
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    assert "\\u009b31m\\u202e\\u007f中文" in out
    assert json.loads(out) == said
