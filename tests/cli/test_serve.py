"""`orpo serve`: the commands that servers are started with; what they answer is tested there."""

import json
import os
import shlex
import socket
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.conftest import Orpo
from tests.jobs.small_run import flip
from tests.servers import free_port
from tests.train.small import saved_llama


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of this name that writes down what it was started with; the file of it."""
    told, program = tmp_path / "told", tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {shlex.quote(str(told))}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return told


def test_vllm_gets_the_base_the_adapter_and_the_template(
    orpo: Orpo, vllm: Path, tiny: Path, copied_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda program, command: subprocess.run(command, check=True))
    mine = copied_runs / "lora"
    (mine / "manifest.json").unlink()
    (mine / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    orpo.does("serve", mine, "--port", free_port(), "--", "--seed", "7")
    told = vllm.read_text().splitlines()
    assert told[:4] == ["serve", str(tiny), "--tokenizer", str(mine)]
    flags = dict(pairwise(told))
    assert "--enable-lora" in told
    assert flags["--lora-modules"] == f"lora={mine}"
    assert flags["--max-lora-rank"] == "8", "the least that vLLM takes for rank 2"
    assert flags["--chat-template"] == str(mine / "chat_template.jinja")
    assert told[-2:] == ["--seed", "7"]


def test_a_whole_model_keeps_its_name_in_vllm(orpo: Orpo, vllm: Path, tiny: Path) -> None:
    plan = orpo.does("serve", tiny, "--dry_run", "--json", "--host", "0.0.0.0")
    assert plan["engine"] == "vllm", "it is there, so auto takes it"
    assert plan["command"][2:5] == [str(tiny), "--served-model-name", tiny.name]
    assert plan["curl"].startswith("curl http://localhost:8000/v1/chat/completions")
    assert json.loads(shlex.split(plan["curl"])[-1])["model"] == tiny.name
    assert "the server wants no key" in orpo.err
    assert not vllm.exists()


def test_transformers_gets_an_adapter_merged_once(
    orpo: Orpo, copied_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr("orpo.commands.serve.hand_over", started.append)
    mine = copied_runs / "lora"
    run = ("serve", mine, "--engine", "transformers", "--port", free_port())
    orpo.does(*run, "--dry_run")
    assert not (mine / "merged").exists()
    orpo.does("serve", saved_llama(tmp_path / "bare"), *run[2:], "--dry_run")
    assert "has no chat template" in orpo.err
    orpo.does(*run)
    written = (mine / "merged" / "model.safetensors").stat().st_mtime_ns
    orpo.does(*run)
    assert (mine / "merged" / "model.safetensors").stat().st_mtime_ns == written
    assert [command[1:3] for command in started] == [["serve", str(mine / "merged")]] * 2
    flip(mine / "merged" / "model.safetensors")
    orpo.does(*run)
    assert "merging the adapter" in orpo.err, "what is damaged is made anew"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere/",), "no such model folder"),
        (("nowhere",), "keeps from asking the Hub"),
        (("{folder}",), "holds no model"),
        (("{tiny}", "--engine", "vllm"), "pip install vllm"),
        (("{tiny}", "--port", "70000"), "must be 1 to 65535"),
        (("{tiny}", "--host", " "), "--host: is empty"),
        (("{tiny}", "--host", "no.such.host.invalid", "--engine", "transformers"), "--host"),
        (("{tiny}", "--host", "127.0.0.1", "--port", "{taken}"), "is taken by another program"),
        (("{tiny}", "--engine", "other"), "is none of auto, transformers, vllm"),
    ],
)
def test_wrong_input_is_one_line(
    orpo: Orpo, tiny: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        names = {"tiny": tiny, "folder": tmp_path, "taken": taken.getsockname()[1]}
        said = orpo.refuses_at_once("serve", *(one.format(**names) for one in arguments))
    assert words in said


def test_without_a_server_it_says_what_to_install(
    orpo: Orpo, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpo.commands.serve.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    assert "pip install 'orpo[serve]'" in orpo.refuses("serve", tiny)
    orpo.does("serve", tiny, "--engine", "vllm", "--dry_run")  # which goes on
    assert "pip install vllm" in orpo.err
    assert orpo.out.startswith("vllm serve ")
