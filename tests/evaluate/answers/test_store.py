"""Finished answers survive whatever ends the process, and are not taken for others."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orpo.commands.main import main
from orpo.errors import ConfigError, DataError
from orpo.evaluate import Sampling
from orpo.evaluate.answers import answer_questions, open_store
from orpo.evaluate.questions import Answered, Answers, Asked, Question
from tests import forked
from tests.servers import BASE

SAMPLING = Sampling(max_new_tokens=7)


class Echo:
    """Answers with the question, and breaks off after some of them."""

    def __init__(self, breaks_after: int = 99, name: str = "echo") -> None:
        self.model, self.asked, self.left = name, [], breaks_after

    def identity(self) -> dict[str, Any]:
        return {"weights": self.model}

    def answers(self, asked: Sequence[Asked], sampling: Sampling) -> Answers:
        for one in reversed(asked):
            if one.wanted:
                if self.left == 0:
                    raise ConfigError("broken off")
                self.left -= 1
                self.asked.append(one.question.id)
                turns = tuple(f"{turn}!" for turn in one.question.turns)
                yield one.key, Answered(one.question, turns, self.model, (False,) * len(turns))

    def close(self) -> None:
        pass


def questions(count: int = 5) -> list[Question]:
    return [Question(str(n), (f"你好 {n}\u2028", "Und?")[: 1 + n % 2]) for n in range(count)]


def test_a_broken_run_goes_on_and_ends_in_the_order_of_the_questions(tmp_path: Path) -> None:
    store, said = tmp_path / "deep" / "answers.jsonl", list[str]()
    with pytest.raises(ConfigError, match="broken off"):
        answer_questions(Echo(3), questions(), SAMPLING, store)
    assert len(store.read_text(encoding="utf-8").split("\n")) == 4
    second = Echo()
    answered = answer_questions(second, questions(), SAMPLING, store, said.append)
    assert second.asked == ["1", "0"]
    assert [one.question for one in answered] == questions()
    expected = [tuple(f"{turn}!" for turn in one.turns) for one in questions()]
    assert [one.turns for one in answered] == expected
    assert said == [f"3 of 5 answers are in {store} already"]
    lines = [json.loads(line) for line in store.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [line["id"] for line in lines] == list("01234")
    assert lines[0]["prompt"] == "你好 0\u2028"
    assert lines[0]["answer"] == "你好 0\u2028!"
    assert lines[1]["turns"][1] == "Und?"
    assert lines[1]["answers"][1] == "Und?!"
    assert lines[0]["made_by"] == {"weights": "echo", "max_new_tokens": 7, "temperature": 0.0}
    third = Echo()
    assert answer_questions(third, questions()[::-1], SAMPLING, store) == answered[::-1]
    assert third.asked == []


def test_a_half_written_line_is_dropped_with_a_word(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    answer_questions(Echo(), questions(3), SAMPLING, store)
    whole = store.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    # Where only the line break is missing, nothing is lost.
    for left, asked in [(whole[:-1], []), (whole[: last + 10], ["2"]), (whole[: last + 40], ["2"])]:
        store.write_bytes(left)
        source, said = Echo(), list[str]()
        answer_questions(source, questions(3), SAMPLING, store, said.append)
        assert source.asked == asked
        assert ("the last line was cut off" in said[0]) == bool(asked)
        assert store.read_bytes() == whole


def test_what_was_answered_otherwise_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    answer_questions(Echo(), questions(3), SAMPLING, store)
    kept = store.read_bytes()
    for source, sampling, words in [
        (Echo(name="other"), SAMPLING, "with weights 'echo', now it is 'other'"),
        (Echo(), Sampling(max_new_tokens=8), "with max_new_tokens 7, now it is 8"),
        (Echo(), Sampling(max_new_tokens=7, temperature=0.5), "with seed None, now it is 42"),
    ]:
        with pytest.raises(ConfigError, match=f"a\\.jsonl:1: .*{words}.*--overwrite"):
            answer_questions(source, questions(3), sampling, store)
    greedy = Sampling(max_new_tokens=7, seed=9, top_p=0.1, batch_size=1)
    answer_questions(Echo(), questions(3), greedy, store)  # nothing is drawn
    with pytest.raises(ConfigError, match="holds answers to 3 questions that are not among"):
        answer_questions(Echo(), [Question("0", ("Else?",))], SAMPLING, store)
    assert store.read_bytes() == kept
    assert len(answer_questions(Echo(0), questions(1), SAMPLING, store)) == 1  # fewer are fine
    assert len(store.read_bytes().splitlines()) >= 3
    assert len(answer_questions(Echo(), questions(4), SAMPLING, store)) == 4  # so are more


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    store = tmp_path / "a.jsonl"
    for line in ["[]", "null", '{"answer": 1}', "not JSON", '{"key": "k", "answer": "a"}']:
        store.write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"a\.jsonl:1: is no answer"):
            answer_questions(Echo(), questions(1), SAMPLING, store)
        assert store.read_text(encoding="utf-8") == f"{line}\n"
    store.write_text("somebody's own file", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl: is no answer"):
        answer_questions(Echo(), questions(1), SAMPLING, store)


def test_two_processes_never_write_one_file(tmp_path: Path) -> None:
    def opened(path: Path) -> Any:
        return open_store(path, print, begins="{", strict=True, say=print)

    store = tmp_path / "a.jsonl"
    another = pytest.raises(ConfigError, match="another process is writing")
    with opened(store), another, opened(store):
        pass
    with pytest.raises(ConfigError, match="is a folder"), opened(tmp_path):
        pass


def test_a_killed_process_loses_no_finished_answer(tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    rows = [{"id": f"q{n}", "prompt": f"Which is larger, {n} or {n * 37 % 50}?"} for n in range(16)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    store, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    drawn = ("--max_new_tokens", "16", "--temperature", "1", "--batch_size", "2")
    generate = ["generate", str(BASE), str(prompts), *drawn, "--output"]
    process = subprocess.Popen(
        [forked.python(), "-m", "orpo", *generate, str(store)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not store.exists() or store.read_bytes().count(b"\n") < 4:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
            break
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with store.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until what was killed has let go of it
    assert 4 <= store.read_bytes().count(b"\n") < 16
    for path in (store, whole):
        assert main([*generate, str(path)]) == 0
    assert store.read_bytes() == whole.read_bytes()
    lines = [json.loads(line) for line in store.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
