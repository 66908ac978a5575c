"""Asking a judge's server: nothing twice, nothing lost, and one line for what goes wrong."""

import fcntl
import signal
import subprocess
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from orpo.errors import ConfigError, EvaluationError, OrpoError
from orpo.evaluate.asking import Pacer
from orpo.evaluate.judge.replies import Request, complete, spend
from orpo.evaluate.settings import JudgeSettings
from tests import forked
from tests.evaluate.judge.server import Asked, Fail, Reply, Say, Script, ScriptedServer

KEY = "sk-canary-0123456789abcdef"
PRICED = {"price_in": 1.0, "price_out": 50.0}


def requests(count: int = 20) -> list[Request]:
    return [Request(({"role": "user", "content": f"question {n}"},)) for n in range(count)]


def settings(server: ScriptedServer, cache: Path | None = None, **more: object) -> JudgeSettings:
    quick = {"backoff": 0.001, "concurrency": 4, "retries": 4, **more}
    return JudgeSettings(model="scripted", base_url=server.url, cache=cache, **quick)


def echo(asked: Asked) -> str:
    return f"reply to {asked.last}"


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache.jsonl"
    with ScriptedServer(echo) as server:
        first = complete(settings(server, cache, **PRICED), [*requests(12), *requests(6)])
        again = complete(settings(server, cache, **PRICED), requests(15))
        assert len(server.asked) == 15
        body = server.asked[0].body
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("scripted", 0.0, 1024)
        assert "seed" not in body
        complete(settings(server, cache, seed=9, temperature=0.7, max_tokens=1), requests(1))
        body = server.asked[15].body
        assert (body["max_tokens"], body["temperature"], body["seed"]) == (1, 0.7, 9)
    assert [r.text for r in first] == [f"reply to question {n % 12}" for n in range(18)]
    assert [r.text for r in first[:12]] == [r.text for r in again[:12]]
    assert [r.cached for r in again] == [True] * 12 + [False] * 3
    assert first[0].model == "scripted-as-scripted"
    spent = spend(settings(server, **PRICED), again)
    assert (spent.requests, spent.from_cache) == (15, 12)
    assert (spent.prompt_tokens, spent.completion_tokens) == (30, 60)  # 2 and 4 words each
    assert spent.cost == pytest.approx((30 * 1 + 60 * 50) / 1e6)
    assert spent.cost_now == pytest.approx((6 * 1 + 12 * 50) / 1e6)


def test_another_question_has_another_key() -> None:
    own, (asked,) = JudgeSettings(model="m", base_url="http://127.0.0.1:2/v1"), requests(1)
    others = [{"model": "other"}, {"temperature": 0.5}, {"max_tokens": 7}]
    others.append({"base_url": "http://127.0.0.1:1/v1"})
    keys = {asked.key(replace(own, **change)) for change in others}
    assert len(keys | {asked.key(own)}) == 5
    assert asked.key(own) == asked.key(replace(own, concurrency=1, retries=0))
    assert asked.key(own).startswith("b22f9345649db7a0"), "as 0.1.0 has kept its replies"


def test_a_torn_line_is_asked_again_and_spoils_no_other(tmp_path: Path) -> None:
    cache = tmp_path / "cache.jsonl"
    with ScriptedServer(echo) as server:
        complete(settings(server, cache), requests(6))
        lines = cache.read_bytes().splitlines(keepends=True)
        cache.write_bytes(b"".join([b"\xff nonsense\n", *lines[:-1], lines[-1][:25]]))
        replies = complete(settings(server, cache), requests(6))
        assert len(server.asked) == 7
        assert [r.text for r in replies] == [f"reply to question {n}" for n in range(6)]
        assert all(r.cached for r in complete(settings(server, cache), requests(6)))


def test_a_busy_or_broken_server_is_asked_again() -> None:
    fails = [Fail(429, retry_after="0.001"), *map(Fail, (429, 500, 529, 408)), Fail(cut=True)]
    fails.append(Fail(503, raw=b"<html>busy</html>"))
    seen = Counter[str]()

    def script(asked: Asked) -> Reply:
        seen[asked.last] += 1
        again = asked.last != "question 7" and seen[asked.last] <= 2
        return fails[int(asked.last[-1])] if again else echo(asked)

    with ScriptedServer(script) as server:
        complete(settings(server), requests(8)[7:])  # contact first
        replies = complete(settings(server, concurrency=3), requests(7))
    assert [r.text for r in replies] == [f"reply to question {n}" for n in range(7)]
    assert [seen[f"question {n}"] for n in range(7)] == [3] * 7


def test_requests_are_spaced_evenly_and_all_wait_for_a_busy_server() -> None:
    now, said = [100.0], list[str]()
    pacer = Pacer(30, say=said.append, clock=lambda: now[0])
    assert [pacer.book() for _ in range(3)] == [0.0, 2.0, 4.0]
    now[0] = 120.0
    assert [pacer.book() for _ in range(2)] == [0.0, 2.0]
    pacer.busy({"retry-after": "40"})
    assert [pacer.book() for _ in range(2)] == [40.0, 42.0]
    assert said == ["the judge's server is busy; waiting 40 s"]
    now[0] = 170.0
    pacer.busy({})
    assert pacer.book() == 1.0
    assert len(said) == 2


@pytest.mark.parametrize(
    ("answered", "fail", "says"),
    [
        (0, Fail(401, f"wrong key {KEY}"), r"refuses the key in \$JUDGE_KEY .*401.*Put"),
        (0, Fail(404, "no model such"), "http://127.*knows no model .*no model such"),
        (0, Fail(400, "what?"), "--judge scripted: .*refuses every request .*what"),
        (0, Fail(503), r"http://127.*failed again and again .*503.*log"),
        (0, Fail(cut=True), "no server answers .*--judge_url"),
        (0, Fail(200, raw=b"<html>"), "not as an OpenAI-compatible.*--judge_url"),
        (5, Fail(502), "failed again and again.*5 of 40 .* same command goes on"),
        (5, Fail(400, "no"), "refuses .* requests .no.*5 of 40 .* same command goes on"),
        (5, Fail(429, "no money", code="insufficient_quota"), "used up .*no money.*5 of 40 .*"),
        (5, Fail(429, retry_after="3600"), "asks to wait 3600 seconds.*5 of 40 .*"),
    ],
)
def test_what_cannot_work_is_one_line_and_not_waited_for(
    answered: int, fail: Fail, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    script: Script = lambda asked: echo(asked) if asked.number < answered else fail  # noqa: E731
    with ScriptedServer(script) as server:
        how = {"retries": 1, "api_key_env": "JUDGE_KEY", "concurrency": 1 if answered else 4}
        with pytest.raises(OrpoError, match=says) as caught:
            complete(settings(server, tmp_path / "c.jsonl", **how), requests(40))
        assert type(caught.value) is (EvaluationError if answered else caught.type)
        assert "\n" not in str(caught.value)
        assert KEY not in str(caught.value)
        assert len(server.asked) < 40 or fail.status == 400  # it stops soon


def test_no_server_and_nowhere_to_keep_replies(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with ScriptedServer(echo) as server:
        own = settings(server)
        with pytest.raises(ConfigError, match="cannot be written to"):
            complete(settings(server, tmp_path / "file" / "cache.jsonl"), requests(1))
    with pytest.raises(ConfigError, match=r"no server answers .*refused.*--judge_url"):
        complete(own, requests(3))


def test_some_of_the_requests_failing_for_good(tmp_path: Path) -> None:
    broken = {"question 1", "question 3", "question 5"}

    def script(asked: Asked) -> Reply:
        if asked.last == "question 7":
            return Say(None, "length", usage=False)
        if asked.last == "question 2":
            return Fail(400, "too long")
        return Fail(500) if asked.last in broken else echo(asked)

    with ScriptedServer(script) as server:
        own = settings(server, tmp_path / "c.jsonl", retries=2, **PRICED)
        says = "failed 3 requests for good .*5 of 9 requests are answered; the same command goes on"
        with pytest.raises(EvaluationError, match=says):
            complete(own, requests(9))
        assert Counter(asked.last for asked in server.asked)["question 1"] == 3
        broken.clear()
        replies = complete(own, requests(9))
    assert sum(not reply.cached for reply in replies) == 4, "a refusal is not kept"
    assert [reply.error for reply in replies if reply.error] == ["too long"]
    empty, spent = replies[7], spend(own, replies)
    assert (empty.text, empty.finish_reason, empty.prompt_tokens) == ("", "length", None)
    assert (spent.refused, spent.without_usage) == (1, 1)


def test_settings_that_a_model_does_not_know_are_left_out() -> None:
    def particular(asked: Asked) -> Reply:
        if "max_tokens" in asked.body:
            return Fail(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.")
        if "temperature" in asked.body:
            return Fail(400, "Unsupported value: 'temperature' does not support 0.0.")
        return echo(asked)

    said: list[str] = []
    with ScriptedServer(particular) as server:
        replies = complete(settings(server), requests(), said.append)
    assert not any(reply.error for reply in replies)
    assert server.asked[-1].body["max_completion_tokens"] == 1024
    assert sum("takes no temperature" in line for line in said) == 1


def test_the_limit_of_the_cost_holds_before_and_during(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        own = settings(server, tmp_path / "c.jsonl", max_tokens=100, **PRICED)
        # At most 20 * 100 * 50 per million for replies, and a little for the prompts.
        with pytest.raises(ConfigError, match=r"--max_cost: 20 requests.*limit.*nothing was asked"):
            complete(replace(own, max_cost=0.1), requests())
        assert not server.asked
        said: list[str] = []
        complete(replace(own, max_cost=0.11), requests(), said.append)
        assert "20 requests, an estimated" in said[0]
        assert "2,000 of replies, so at most about 0.1" in said[0]
        spent = (20 * 2 * 1 + 20 * 4 * 50) / 1e6
        with pytest.raises(ConfigError, match=r"0\.0040 were spent before"):
            complete(replace(own, max_cost=spent + 0.004), requests(21))
        complete(replace(own, max_cost=0.0), requests())  # all from the cache: nothing to pay
    with ScriptedServer(lambda asked: "word " * 5000) as server:
        own = settings(server, max_tokens=100, max_cost=0.3, concurrency=1, **PRICED)
        with pytest.raises(EvaluationError, match=r"--max_cost: 0\.\d+ are spent.*are answered"):
            complete(own, requests())
        assert len(server.asked) < 5


_RUN = """\
import signal, sys, tests.evaluate.judge.test_judge_client as t
# A shell's background job begins with SIGINT ignored, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
s = t.JudgeSettings('scripted', sys.argv[1], concurrency=1, cache=t.Path(sys.argv[2]))
t.complete(s, t.requests())
"""


def test_an_interrupted_run_ends_at_once_and_goes_on_where_it_was(tmp_path: Path) -> None:
    blocked, go_on = threading.Event(), threading.Event()

    def script(asked: Asked) -> str:
        if asked.number == 10:
            blocked.set()
        if asked.number >= 10 and not go_on.is_set():
            go_on.wait(60)
        return echo(asked)

    cache = tmp_path / "cache.jsonl"
    with ScriptedServer(script) as server:
        run = subprocess.Popen(
            [forked.python(), "-c", _RUN, server.url, str(cache)],
            cwd=forked.ROOT,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert blocked.wait(120)
            run.send_signal(signal.SIGINT)
            assert run.wait(30) != 0
        finally:
            run.kill()
            run.wait()
            go_on.set()
        with cache.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until what was killed has let go of it
        assert len(cache.read_text(encoding="utf-8").splitlines()) == 10
        replies = complete(settings(server, cache, concurrency=1), requests())
        times = Counter(asked.last for asked in server.asked)
    assert sum(reply.cached for reply in replies) == 10
    assert times == {f"question {n}": 2 if n == 10 else 1 for n in range(20)}


def test_a_bug_in_the_work_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpo.evaluate.served.Client.ask", lambda *_, **__: 1 / 0)
    with ScriptedServer(echo) as server, pytest.raises(ZeroDivisionError):
        complete(settings(server), requests(3))
