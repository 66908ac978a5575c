"""Asking a judge's server: nothing twice, nothing lost, and one line for what goes wrong."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orpo.errors import ConfigError, EvaluationError
from orpo.evaluate.asking import Reply
from orpo.evaluate.judge.replies import Request, complete, spend
from orpo.evaluate.pacing import Pacer
from orpo.evaluate.settings import JudgeSettings
from tests import forked
from tests.evaluate.judge.server import Asked, Fail, Say, Script, ScriptedServer

KEY = "sk-canary-0123456789abcdef"


def requests(count: int = 20) -> list[Request]:
    return [Request(({"role": "user", "content": f"question {n}"},)) for n in range(count)]


def settings(server: ScriptedServer, cache: Path | None = None, **more: object) -> JudgeSettings:
    quick = {"backoff": 0.001, "concurrency": 4, "retries": 4, **more}
    return JudgeSettings(model="scripted", base_url=server.url, cache=cache, **quick)  # type: ignore[arg-type]


def echo(asked: Asked) -> str:
    return f"reply to {asked.last}"


def test_replies_come_in_order_and_equal_requests_are_asked_once() -> None:
    with ScriptedServer(echo) as server:
        asked = [*requests(5), *requests(5)]
        replies = complete(settings(server), asked)
        assert [reply.text for reply in replies] == [
            f"reply to question {n % 5}" for n in range(10)
        ]
        assert len(server.asked) == 5
        body = server.asked[0].body
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("scripted", 0.0, 1024)
        assert "seed" not in body
        complete(settings(server, seed=9, temperature=0.7, max_tokens=1), asked[:1])
        body = server.asked[-1].body
        assert (body["max_tokens"], body["temperature"], body["seed"]) == (1, 0.7, 9)
        assert replies[0].model == "scripted-as-scripted"


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache.jsonl"
    with ScriptedServer(echo) as server:
        prices = {"price_in": 2.0, "price_out": 10.0}
        first = complete(settings(server, cache, **prices), requests(12))
        again = complete(settings(server, cache, **prices), requests(15))
        assert len(server.asked) == 15
    assert [r.text for r in first] == [r.text for r in again[:12]]
    assert [r.cached for r in again] == [True] * 12 + [False] * 3
    spent = spend(settings(server, **prices), again)
    assert (spent.requests, spent.from_cache) == (15, 12)
    assert (spent.prompt_tokens, spent.completion_tokens) == (30, 60)  # 2 and 4 words each
    assert spent.cost == pytest.approx((30 * 2 + 60 * 10) / 1e6)
    assert spent.cost_now == pytest.approx((6 * 2 + 12 * 10) / 1e6)


def test_another_question_has_another_key() -> None:
    own, (asked,) = JudgeSettings(model="m", base_url="http://127.0.0.1:2/v1"), requests(1)
    others = [
        {"model": "other"},
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"base_url": "http://127.0.0.1:1/v1"},
    ]
    keys = {asked.key(replace(own, **change)) for change in others}  # type: ignore[arg-type]
    assert len(keys | {asked.key(own)}) == 5
    same = replace(own, concurrency=1, retries=0, price_in=0.0, price_out=0.0)
    # As 0.1.0 has kept its replies.
    assert asked.key(own) == asked.key(same)
    assert asked.key(own).startswith("b22f9345649db7a0")


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
    fails = [
        Fail(429, "slow down", retry_after="0.001"),
        Fail(429, "slow down"),
        Fail(500),
        Fail(503, raw=b"<html>busy</html>"),
        Fail(529),
        Fail(408),
        Fail(cut=True),
    ]
    seen = Counter[str]()

    def script(asked: Asked) -> str | Fail:
        seen[asked.last] += 1
        again = asked.last != "question 7" and seen[asked.last] <= 2
        return fails[int(asked.last[-1])] if again else echo(asked)

    with ScriptedServer(script) as server:
        complete(settings(server), requests(8)[7:])  # contact first
        replies = complete(settings(server, concurrency=3), requests(7))
    assert [r.text for r in replies] == [f"reply to question {n}" for n in range(7)]
    assert [seen[f"question {n}"] for n in range(7)] == [3] * 7


def test_retry_after_is_what_all_wait_for() -> None:
    now, said = [0.0], list[str]()
    pacer = Pacer(say=said.append, clock=lambda: now[0])
    pacer.busy({"retry-after": "40"})
    assert [pacer.book() for _ in range(2)] == [40.0, 40.0]
    assert said == ["the judge's server is busy; waiting 40 s"]
    now[0] = 50.0
    pacer.busy({})
    assert pacer.book() == 1.0
    assert len(said) == 2


def test_requests_are_spaced_evenly() -> None:
    now = [100.0]
    pacer = Pacer(30, clock=lambda: now[0])
    assert [pacer.book() for _ in range(3)] == [0.0, 2.0, 4.0]
    now[0] = 120.0
    assert [pacer.book() for _ in range(2)] == [0.0, 2.0]
    pacer.busy({"retry-after": "30"})
    assert [pacer.book() for _ in range(2)] == [30.0, 32.0]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (lambda asked: Fail(401, f"wrong key {KEY}"), r"refuses the key in \$JUDGE_KEY .*401.*Put"),
        (lambda asked: Fail(404, "no model such"), "http://127.*knows no model .*no model such"),
        (lambda asked: Fail(400, "what?"), "--judge scripted: .*refuses every request .*what"),
        (lambda asked: Fail(503), r"http://127.*failed again and again .*503.*log"),
        (lambda asked: Fail(cut=True), "no server answers .*--judge_url"),
        (lambda asked: Fail(200, raw=b"<html>"), "not as an OpenAI-compatible.*--judge_url"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line_for_the_user(
    script: Script, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with ScriptedServer(script) as server:
        with pytest.raises(ConfigError, match=says) as caught:
            complete(settings(server, retries=1, api_key_env="JUDGE_KEY"), requests(40))
        assert "\n" not in str(caught.value)
        assert KEY not in str(caught.value)
        assert len(server.asked) < 40  # it stops soon


def test_no_server_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ScriptedServer(echo) as server:
        gone = settings(server)
    with pytest.raises(ConfigError, match=r"no server answers .*refused.*--judge_url"):
        complete(gone, requests(3))
    with pytest.raises(ConfigError, match=r"\$OPENAI_API_KEY: there is no API key.*--judge_url"):
        complete(JudgeSettings(model="gpt"), requests(1))


def test_half_of_the_requests_failing_for_good(tmp_path: Path) -> None:
    broken = {"question 1", "question 3", "question 5"}
    script: Script = lambda asked: Fail(500) if asked.last in broken else echo(asked)  # noqa: E731
    with ScriptedServer(script) as server:
        own = settings(server, tmp_path / "c.jsonl", retries=2)
        says = "failed 3 requests for good .*5 of 8 requests are answered; the same command goes on"
        with pytest.raises(EvaluationError, match=says):
            complete(own, requests(8))
        assert Counter(asked.last for asked in server.asked)["question 1"] == 3
        broken.clear()
        replies = complete(own, requests(8))
        assert sum(not reply.cached for reply in replies) == 3


@pytest.mark.parametrize(
    ("fail", "concurrency", "most", "says"),
    [
        (Fail(502), 4, 29, "failed again and again"),
        (Fail(429, "no money", code="insufficient_quota"), 1, 6, "used up .*no money"),
        (Fail(429, retry_after="3600"), 1, 6, "asks to wait 3600 seconds"),
    ],
)
def test_what_waiting_does_not_mend_is_not_waited_for(
    fail: Fail, concurrency: int, most: int, says: str, tmp_path: Path
) -> None:
    script: Script = lambda asked: echo(asked) if asked.number < 5 else fail  # noqa: E731
    with ScriptedServer(script) as server:
        own = settings(server, tmp_path / "c.jsonl", retries=1, concurrency=concurrency)
        with pytest.raises(EvaluationError, match=f"{says}.*5 of 200 .* same command goes on"):
            complete(own, requests(200))
        assert len(server.asked) <= most


def test_a_refused_request_is_a_reply_with_a_reason_and_none_may_be_empty(tmp_path: Path) -> None:
    def script(asked: Asked) -> str | Fail | Say:
        if asked.last == "question 3":
            return Say(None, "length", usage=False)
        return Fail(400, "too long") if asked.last == "question 2" else echo(asked)

    with ScriptedServer(script) as server:
        own = settings(server, tmp_path / "c.jsonl", price_in=1.0, price_out=1.0)
        replies = complete(own, requests(6))
        assert [bool(reply.error) for reply in replies] == [n == 2 for n in range(6)]
        assert "too long" in replies[2].error
        empty = replies[3]
        assert (empty.text, empty.finish_reason, empty.prompt_tokens) == ("", "length", None)
        spent = spend(own, replies)
        assert (spent.refused, spent.without_usage) == (1, 1)
        complete(own, requests(6))
        assert len(server.asked) == 7  # a refusal is not kept


def test_settings_that_a_model_does_not_know_are_left_out() -> None:
    def particular(asked: Asked) -> str | Fail:
        if "max_tokens" in asked.body:
            return Fail(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.")
        if "temperature" in asked.body:
            return Fail(400, "Unsupported value: 'temperature' does not support 0.0.")
        return echo(asked)

    with ScriptedServer(particular) as server:
        said: list[str] = []
        replies = complete(settings(server), requests(), said.append)
        assert not any(reply.error for reply in replies)
        assert server.asked[-1].body["max_completion_tokens"] == 1024
        assert sum("takes no temperature" in line for line in said) == 1


def test_the_limit_of_the_cost_holds_before_and_during(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        own = settings(server, tmp_path / "c.jsonl", price_in=1.0, price_out=50.0, max_tokens=100)
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
    chatty: Script = lambda asked: "word " * 5000  # noqa: E731
    with ScriptedServer(chatty) as server:
        own = settings(server, price_in=1.0, price_out=50.0, max_tokens=100, max_cost=0.3)
        with pytest.raises(
            EvaluationError, match=r"--max_cost: 0\.\d+ are spent.*requests are answ"
        ):
            complete(replace(own, concurrency=1), requests())
        assert len(server.asked) < 5


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
        own = settings(server, cache, concurrency=1)
        code = (
            "import signal, sys, tests.evaluate.judge.test_judge_client as t\n"
            # A shell's background job begins with SIGINT ignored, and so do its children.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from orpo.evaluate.judge.replies import JudgeSettings, complete\n"
            "s = JudgeSettings('scripted', sys.argv[1], concurrency=1, cache=t.Path(sys.argv[2]))\n"
            "complete(s, t.requests())\n"
        )
        run = subprocess.Popen(
            [forked.python(), "-c", code, server.url, str(cache)],
            cwd=Path(__file__).parents[3],
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
        replies = complete(own, requests())
        times = Counter(asked.last for asked in server.asked)
    assert sum(reply.cached for reply in replies) == 10
    assert times == {f"question {n}": 2 if n == 10 else 1 for n in range(20)}


def test_replies_that_are_not_kept_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with ScriptedServer(echo) as server:
        own = settings(server, tmp_path / "file" / "cache.jsonl")
        with pytest.raises(ConfigError, match="cannot be written to"):
            complete(own, requests(1))


def test_a_bug_in_the_work_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **how: object) -> Callable[..., Reply]:
        raise ZeroDivisionError

    monkeypatch.setattr("orpo.evaluate.served.Client.ask", broken)
    with ScriptedServer(echo) as server, pytest.raises(ZeroDivisionError):
        complete(settings(server), requests(3))
