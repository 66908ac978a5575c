"""`orpo chat` as a user has it: in a terminal, piped, and two models side by side."""

import io
import json
import os
import signal
import stat
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from orpo.errors import DataError
from orpo.evaluate import Sampling, conversation, load_answerer
from orpo.evaluate.conversation import ITS_BASE, Chat, sides
from orpo.terminal import spelled_out
from tests.cli.conftest import Orpo
from tests.train.small import tiny_llama


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of `tiny` that answers quite differently."""
    folder = tmp_path_factory.mktemp("chat") / "adapter"
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():  # peft asks transformers by an older name
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), config)
    model.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    torch.manual_seed(1)
    save_file({n: torch.randn_like(one) for n, one in load_file(weights).items()}, weights)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def say(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


@pytest.mark.slow
def test_a_terminal_edits_recalls_and_interrupts(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    history = tmp_path / "state" / "orpo" / "chat_history"
    history.parent.mkdir(parents=True)
    history.write_text("Said in an earlier chat\n")
    saved = tmp_path / "now.txt"
    words = ["chat", adapter, "--beside", tiny, "--max_new_tokens", 10**6]
    chat = pexpect.spawn(
        sys.executable,
        ["-m", "orpo", *map(str, words)],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "TERM": "xterm"},
        dimensions=(24, 80),
        encoding="utf-8",
        codec_errors="replace",
        timeout=120,
        # A background job's children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        chat.expect_exact("you> ")
        chat.send("\x1b[A\r")  # the arrow upwards
        chat.expect_exact("┡")
        assert "Said in an earlier chat" in chat.before
        for _ in range(2):  # Ctrl-C ends each side's answer, and not the chat
            chat.expect_exact("┡")  # drawn anew: something was said
            chat.send("\x03")
            chat.expect_exact("[interrupted]")
        keys = {  # to the beginning of the line, and to its end
            f"{saved.stem}\x01/save {tmp_path}/\x05.txt\r": "saved:",
            "/undo\r": "taken back: Said in an earlier chat",
            "/nonsense\r": "there is no /nonsense",
        }
        for typed, answer in keys.items():
            chat.expect_exact("you> ")
            chat.send(typed)
            chat.expect_exact(answer)
        chat.expect_exact("you> ")
        chat.send("/exit\r")
        chat.expect(pexpect.EOF)
        assert chat.wait() == 0
    finally:
        chat.close(force=True)
    lines = ["Said in an earlier chat"] * 2 + [f"/save {saved}", "/undo", "/nonsense", "/exit"]
    assert history.read_text().splitlines() == lines
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    base, tuned = map(json.loads, saved.read_text().splitlines())
    assert [base["model"], tuned["model"]] == [str(tiny), str(adapter)]
    assert base["messages"][1]["content"] != tuned["messages"][1]["content"]


def test_two_models_go_on_from_their_own_answers(
    orpo: Orpo, tiny: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, loaded = ("--max_new_tokens", 6, "--system", "Be short."), list[str]()
    monkeypatch.setattr(
        conversation,
        "load_answerer",
        lambda name, **how: loaded.append(name) or load_answerer(name, **how),
    )
    expected = []
    for model in (tiny, adapter):
        say(monkeypatch, "Say 1", "Say 2")
        expected.append(orpo.does("chat", model, *how, "--json")["messages"])
    assert expected[0] != expected[1]
    loaded.clear()
    say(monkeypatch, "Say 1", "Say 2")
    told = orpo.does("chat", adapter, "--beside", "--json", *how)
    assert told["model"] == str(adapter)
    assert told["beside"] == {"model": str(tiny), "messages": expected[0]}
    assert told["messages"] == expected[1]
    assert loaded == [str(adapter)], "an adapter and its base are one model in memory"
    say(monkeypatch, "Say 1")
    orpo.does("chat", adapter, "--beside", tiny, *how)
    first = [spelled_out(messages[2]["content"]) for messages in expected]
    assert orpo.out == f"[{tiny.name}]\n{first[0]}\n\n[adapter]\n{first[1]}\n\n"


def test_a_question_that_one_side_cannot_take_was_never_asked(tiny: Path, adapter: Path) -> None:
    chat = Chat(sides(str(adapter), ITS_BASE), Sampling(max_new_tokens=2), None)
    chat.ask("Say 1", lambda side: lambda piece: None)
    before = [list(side.turns) for side in chat.sides]
    short = tiny_llama(max_position_embeddings=8).eval()
    chat.sides[1].answerer = replace(chat.sides[1].answerer, model=short)
    with pytest.raises(DataError, match="/undo"):
        chat.ask("Say 2", lambda side: lambda piece: None)
    assert [side.turns for side in chat.sides] == before


def test_a_line_can_be_taken_back_asked_again_and_saved(
    orpo: Orpo, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = tmp_path / "chat.jsonl"
    lines = ("Say 1", "Say 2", "/undo", "/retry", "//etc", "/tmp or what?", "/undo", "/system Be.")
    say(monkeypatch, *lines, "Say 3", "/system", f"/save {saved}", "/help", "/quit", "never")
    how = ("--max_new_tokens", 4, "--temperature", 1)
    turns = orpo.does("chat", tiny, *how, "--json")["messages"]
    assert [one["content"] for one in turns[::2]] == ["Say 1", "/etc", "Say 3"]
    assert json.loads(saved.read_text()) == {"model": str(tiny), "messages": turns}
    assert "taken back: Say 2" in orpo.err
    assert "/retry        ask the last question again" in orpo.err
    say(monkeypatch, "Say 1", "/retry")
    orpo.does("chat", tiny, *how)
    first, second = orpo.out.splitlines()
    assert first != second, "another draw"
    say(monkeypatch, "Say 1", f"/save {saved}")
    assert orpo("chat", tiny, *how) == 2
    assert "is there already" in orpo.err
    assert json.loads(saved.read_text())["messages"] == turns


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_not_steered_by_an_answer(
    orpo: Orpo, tiny: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    def answer(self: object, turns: object, how: object, seed: int, hear: Any) -> str:
        for piece in ("a\x1b", "[2Jb\x9bc", "\u202e\n👩‍👩‍👧\tد"):  # pieces end anywhere
            hear(piece)
        return ""

    monkeypatch.setattr("orpo.evaluate.conversation.Side.answer", answer)
    say(monkeypatch, "Say 1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    orpo.does("chat", tiny)
    assert orpo.out == "a\\x1b[2Jb\\x9bc\\u202e\n👩‍👩‍👧\tد\n"


@pytest.mark.parametrize(
    ("lines", "arguments", "words"),
    [
        (("Say",), ("--beside",), "does not say which model it started from"),
        (("Say",), ("--beside", "./nowhere"), "no such model folder"),
        (("Say",), ("--beside", "nowhere"), "nowhere: is no folder here, and the Hub"),
        (("Say",), ("--beside", "{tiny}"), "is the model itself"),
        (("/undo",), (), "there is nothing to take back"),
        (("/save",), (), "/save: needs the name of a file"),
        (("/save /no/such/folder/x",), (), "cannot be written"),
        (("Say", "x" * 600), ("--max_new_tokens", 2), "with /undo, or start again with /reset"),
    ],
)
def test_wrong_input_is_one_line(
    orpo: Orpo, tiny: Path, monkeypatch: pytest.MonkeyPatch, lines: Any, arguments: Any, words: str
) -> None:
    say(monkeypatch, *lines)
    assert orpo("chat", tiny, *(str(one).format(tiny=tiny) for one in arguments)) == 2
    assert words in orpo.err.splitlines()[-1]
    assert orpo.err.count("error:") == 1
    assert "Traceback" not in orpo.err


def test_chat_streams_what_generate_answers_and_keeps_nothing_that_is_piped(
    orpo: Orpo, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    told = orpo.does("generate", tiny, "Say 1", "--max_new_tokens", 5, "--json")
    answer = told["answers"][0]["answer"]
    say(monkeypatch, "Say 1")
    orpo.does("chat", tiny, "--max_new_tokens", 5)
    assert orpo.out.strip().removeprefix("\\x0b") == spelled_out(answer)  # white space is kept
    assert not list(tmp_path.iterdir())
    say(monkeypatch, "Say 1", "", "Say 2", "/reset", "Say 2", "/exit", "never read")
    how = ("--system", "Be short.", "--max_new_tokens", 5)
    turns = orpo.does("chat", tiny, *how, "--json")["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]
    assert turns[1]["content"] == "Say 2"
