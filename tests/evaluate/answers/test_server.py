"""Answers from servers: a scripted one over real HTTP, and the one that `orpo serve` becomes."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orpo.errors import ConfigError, DataError, UserError
from orpo.evaluate import Sampling
from orpo.evaluate.answers import Answered, Question, answer_questions, open_source_of_answers
from orpo.evaluate.judge import Comparison, JudgeSettings, compare_pairs
from tests.evaluate.judge.server import Asked, Fail, Reply, Say, ScriptedServer
from tests.servers import BASE, free_port, transformers_server

KEY = "sk-verysecret0123456789"
SAMPLING = Sampling(max_new_tokens=24, batch_size=4)
HI = [Question("1", ("Hi",))]


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(
    url: str,
    asked: list[Question],
    sampling: Sampling = SAMPLING,
    *,
    env: str = "OPENAI_API_KEY",
    **more: Any,
) -> list[Answered]:
    source = open_source_of_answers("m", server=url, api_key_env=env)
    assert KEY not in repr(vars(source))
    return answer_questions(source, asked, sampling, **more)


def test_turns_settings_and_ends_are_passed_on() -> None:
    before = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    asked = [Question("1", ("One?", "Two?"), system="Be brief.")]
    asked += [Question("2", ("Three?",), before=before)]
    asked += [Question(name, ("Three?",)) for name in "34"]
    sampling = Sampling(max_new_tokens=5, temperature=0.5, top_p=0.9, seed=7, batch_size=2)
    with ScriptedServer(
        lambda a: Say(f" to {a.last} ", "length" if "Two" in a.last else "stop")
    ) as server:
        found = ask(server.url, asked, sampling)
    assert [one.turns for one in found] == [("to One?", "to Two?"), *[("to Three?",)] * 3]
    assert [one.truncated for one in found] == [(False, True), (False,), (False,), (False,)]
    conversations = [body["messages"] for body in server.bodies]
    assert [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "to One?"},
        {"role": "user", "content": "Two?"},
    ] in conversations
    assert [*map(dict, before), {"role": "user", "content": "Three?"}] in conversations
    settings = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "model": "m"}
    assert all(body.items() >= settings.items() for body in server.bodies)
    # The same question asked twice is drawn twice.
    assert sorted(body["seed"] for body in server.bodies) == [7, 7, 7, 7, 8]


def test_several_are_asked_at_once() -> None:
    together = threading.Barrier(4)

    def reply(asked: Asked) -> Reply:
        together.wait(30)  # breaks unless four requests are there at a time
        return asked.last

    with ScriptedServer(reply) as server:
        found = ask(server.url, [Question(str(n), (f"Q{n}",)) for n in range(8)])
    assert [one.turns[0] for one in found] == [f"Q{n}" for n in range(8)]


def test_what_is_finished_is_kept_when_another_question_fails(tmp_path: Path) -> None:
    store = tmp_path / "answers.jsonl"
    asked = [Question(str(n), (f"Q{n}",)) for n in range(6)]
    broken = True

    def reply(asked: Asked) -> Reply:
        return Fail(400, "not \x1b[31mthis\none") if broken and asked.last == "Q3" else "ok"

    one_by_one = Sampling(batch_size=1)
    with ScriptedServer(reply) as server:
        says = r"question '3': .* refuses .*not \\x1b\[31mthis one"
        with pytest.raises(DataError, match=says) as caught:
            ask(server.url, asked, one_by_one, store=store)
        assert "\n" not in str(caught.value)
        assert len(store.read_text(encoding="utf-8").splitlines()) == 3
        broken, before = False, len(server.bodies)
        assert len(ask(server.url, asked, one_by_one, store=store)) == 6
        assert len(server.bodies) == before + 3


def test_the_key_is_sent_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(asked: Asked) -> Reply:
        return "ok" if asked.headers["authorization"] == f"Bearer {KEY}" else Fail(401, "no")

    store = tmp_path / "answers.jsonl"
    with ScriptedServer(locked) as server:
        says = r"asks for a key .*Put the right one into \$OPENAI_API_KEY"
        with pytest.raises(ConfigError, match=says):
            ask(server.url, HI)
        monkeypatch.setenv("MY_KEY", "sk-wrong")
        with pytest.raises(ConfigError, match=r"refuses the key in \$MY_KEY") as caught:
            ask(server.url, HI, env="MY_KEY")
        assert "sk-wrong" not in str(caught.value)
        monkeypatch.setenv("MY_KEY", KEY)
        ask(server.url, HI, env="MY_KEY", store=store)
    assert KEY not in store.read_text(encoding="utf-8")
    with (
        ScriptedServer(lambda _: Fail(400, f"you sent {KEY}")) as server,
        pytest.raises(UserError, match=r"you sent \*\*\*"),
    ):
        ask(server.url, HI, env="MY_KEY")


def test_a_conversation_that_does_not_fit_gets_an_empty_answer() -> None:
    def reply(asked: Asked) -> Reply:
        if len(asked.last) > 50:
            return Fail(400, "This model's maximum context length is 50 tokens")
        return "ok"

    lines: list[str] = []
    with ScriptedServer(reply) as server:
        asked = [Question("1", ("x" * 60,)), Question("2", ("x",))]
        long, short = ask(server.url, asked, say=lines.append)
    assert (long.turns, long.truncated, short.turns) == (("",), (True,), ("ok",))
    assert "1 of 2 answers are empty" in lines


def test_what_is_no_address_is_refused_and_nobody_there_is_told_at_once() -> None:
    for address in ["localhost:8000", "ftp://host", "http://", "", "http://h:99999"]:
        with pytest.raises(ConfigError, match="is no address of a server"):
            ask(address, [])
    with pytest.raises(ConfigError, match=r"no server answers .*refused.*Start it") as caught:
        ask(f"http://me:{KEY}@127.0.0.1:{free_port()}", HI)
    assert KEY not in str(caught.value)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    with transformers_server(log) as url:
        yield url
    assert f"answers as model '{BASE}'" in " ".join(log.read_text().split())


@pytest.mark.slow
def test_a_real_server_gives_the_answers_of_the_model(real: str, tmp_path: Path) -> None:
    asked = [
        Question("1", ("Which number is larger, 318 or 381?", "And which one is smaller?")),
        Question("2", ("Which number is larger, 12 or 21?",), system="Be brief."),
        Question("3", ("What is 5 plus 6?",)),
    ]
    for limit in (40, 3):
        sampling = Sampling(max_new_tokens=limit, batch_size=1)  # batches round otherwise in bf16
        served = answer_questions(open_source_of_answers(str(BASE), server=real), asked, sampling)
        here = answer_questions(open_source_of_answers(str(BASE)), asked, sampling)
        assert [one.turns for one in served] == [one.turns for one in here]
        assert [one.truncated for one in served] == [one.truncated for one in here]
    absent = open_source_of_answers(str(tmp_path), server=real)
    with pytest.raises(UserError, match=r"question '1': .* refuses to answer as") as caught:
        answer_questions(absent, HI, SAMPLING)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_small_model_is_a_judge_that_knows_no_verdicts(real: str, tmp_path: Path) -> None:
    priced = {"max_tokens": 8, "concurrency": 2, "price_in": 1.0, "price_out": 2.0}
    own = JudgeSettings(str(BASE), f"{real}/v1", cache=tmp_path / "c.jsonl", **priced)
    pairs = [Comparison(f"p{n}", f"Say {n}", f"{n}", f"It is {n}.") for n in range(2)]
    compared = compare_pairs(own, pairs)
    # All canaries but the constant one have two prompts, and there are no more than two.
    assert compared.spend.requests == 2 * (2 + 8)
    assert compared.spend.without_usage == 0
    assert compared.spend.cost
    assert compared.unparsed > 0
    assert not compared.trust.trusted
    json.dumps(compared.as_dict(), allow_nan=False)
