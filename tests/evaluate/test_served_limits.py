"""Whatever a server answers: requests end, responses have a size, and nothing goes elsewhere."""

from __future__ import annotations

import contextlib
import gc
import gzip
import json
import socketserver
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from orpo.errors import OrpoError
from orpo.evaluate.asking import Reply, Unanswered, endpoint_at, retry_after
from orpo.evaluate.served import Client

Write = Callable[[bytes], object]
SOON = 0.3
"""Seconds that a request may take here."""


@contextlib.contextmanager
def raw_server(script: Callable[[Write], None]) -> Iterator[Any]:
    """Sends whatever bytes a script says, to every request: its `url`, and what it `heard`."""
    told = SimpleNamespace(url="", heard=[])

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = self.rfile.readline()
                    if not line:
                        return
                    head += line
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                told.heard.append(head + self.rfile.read(int(length or 0)))
                script(self.wfile.write)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        told.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            yield told
        finally:
            server.shutdown()


def ask(url: str, seconds: float = SOON) -> Reply:
    endpoint = replace(endpoint_at("m", url, "NO_KEY"), seconds=seconds, retries=0)
    with contextlib.closing(Client(endpoint)) as client:
        return client.ask([{"role": "user", "content": "which?"}])


def said(content: Any = "yes", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, **more}
    return json.dumps({"model": "m", "choices": [choice | {"finish_reason": "stop"}]}).encode()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> Callable[[Write], None]:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return lambda write: write(head + body)


def forever(head: bytes, piece: bytes) -> Callable[[Write], None]:
    """A piece after the other, until nobody listens; a drip where there is a pause between them."""
    pause = threading.Event()

    def script(write: Write) -> None:
        write(head)
        while True:
            write(piece)
            if len(piece) < 1000:
                pause.wait(0.01)

    return script


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"


@pytest.mark.parametrize(
    "script",
    [
        forever(LONG, b" "),
        forever(CHUNKED, b"1\r\n \r\n"),
        forever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        forever(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        forever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ],
    ids=["body", "chunks", "headers", "one header", "hints"],
)
def test_a_response_that_drips_has_an_end(script: Any) -> None:
    with raw_server(script) as server, pytest.raises(OrpoError, match="not answer within"):
        ask(server.url)


@pytest.mark.parametrize(
    "script",
    [
        forever(LONG, b" " * 65536),
        forever(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
        whole(gzip.compress(b" " * 2**28), "Content-Encoding: gzip"),
        whole(zlib.compress(b" " * 2**28), "Content-Encoding: deflate"),
        whole(b"\x00" * 99, "Content-Encoding: br"),
        whole(b"\x00" * 99, "Content-Encoding: gzip, gzip, gzip"),
        whole(b"no zlib", "Content-Encoding: gzip"),
        whole(b" " * 2**24, status="500 Internal Server Error"),
    ],
    ids=["long", "chunks", "gzip bomb", "deflate bomb", "br", "nested", "not gzip", "error"],
)
def test_a_response_has_a_size(script: Any) -> None:
    with raw_server(script) as server:
        tracemalloc.start()
        try:
            with pytest.raises(OrpoError, match=r"response of more than|packed"):
                ask(server.url, 20.0)
            assert tracemalloc.get_traced_memory()[1] < 80 * 2**20
        finally:
            tracemalloc.stop()


KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said()), said())


@pytest.mark.parametrize("how", ["kept open", "late", "drips"])
def test_no_connection_is_left_to_the_garbage_collector(how: str) -> None:
    def script(write: Write) -> None:
        if how == "late":  # when nobody waits for it any more
            threading.Event().wait(SOON + 0.2)
        (forever(LONG, b" ") if how == "drips" else lambda write: write(KEPT))(write)

    gc.collect()
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always", ResourceWarning)
        with raw_server(script) as server, contextlib.suppress(OrpoError):
            ask(server.url)
        for thread in threading.enumerate():
            if "exchange" in thread.name:
                thread.join(5)
        gc.collect()
    assert not [str(one.message) for one in left]


def test_what_is_packed_though_not_asked_for_is_read() -> None:
    for encoding, packed in (("gzip", gzip.compress(said())), ("deflate", zlib.compress(said()))):
        with raw_server(whole(packed, f"Content-Encoding: {encoding}")) as server:
            assert ask(server.url).text == "yes"
            assert b"accept-encoding: identity" in server.heard[-1].lower()


def test_nothing_goes_to_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_KEY", "sk-canary-0123456789abcdef")
    with raw_server(whole(said())) as other:
        for status in ("302 Found", "307 Temporary"):
            moved = whole(b"", f"Location: {other.url}/chat/completions?who=me", status=status)
            with (
                raw_server(moved) as server,
                pytest.raises(OrpoError, match=r"redirects to.*nothing was sent there") as caught,
            ):
                ask(server.url)
            assert "sk-canary" not in str(caught.value)
        assert other.heard == []


def test_a_redirect_within_one_address_is_followed_and_a_circle_ends() -> None:
    def script(write: Write) -> None:
        if b"/v2/" in server.heard[-1].partition(b"\r\n")[0]:
            return whole(said())(write)
        return whole(b"", f"Location: /v{there}/chat/completions", status="307 Moved")(write)

    with raw_server(script) as server:
        there = 2
        assert ask(server.url).text == "yes"
        there = 1
        with pytest.raises(OrpoError, match="redirects more than"):
            ask(server.url)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'"text"',
        b"\xff\xfe\x00",
        b"<html><body>It works!</body></html>",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"choices": [' + b"9" * 5000 + b"]}",
        b'{"choices": []}',
        b'{"choices": "text"}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": "yes"}]}',
        said([{"type": "text", "text": "yes"}]),
        said(7),
        said(1e400),
    ],
    ids=lambda body: str(body[:40]),
)
def test_what_is_no_completion_is_told_in_one_line(body: bytes) -> None:
    script = whole(body, "Content-Type: application/json")
    with raw_server(script) as server, pytest.raises(OrpoError) as caught:
        ask(server.url)
    assert "\n" not in str(caught.value)
    assert "OpenAI-compatible" in str(caught.value)


@pytest.mark.parametrize(
    "script",
    [
        lambda _write: None,
        lambda write: write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        lambda write: write(CHUNKED + b"ffff\r\nhalf"),
        lambda write: write(CHUNKED + b"no number\r\n"),
        lambda write: write(b"\x16\x03\x01 no HTTP at all\r\n\r\n"),
        lambda write: write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"),
    ],
    ids=["closed", "half", "half a chunk", "bad chunk", "no HTTP", "600 kB of headers"],
)
def test_a_broken_connection_is_told_in_one_line(script: Any) -> None:
    for scheme in ("http:", "https:"):
        with raw_server(script) as server, pytest.raises(OrpoError) as caught:
            ask(server.url.replace("http:", scheme))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4)),
        ({"prompt_tokens": 3.0, "completion_tokens": 0}, (3, 0)),
        ({"prompt_tokens": -3, "completion_tokens": float("nan")}, (None, None)),
        ({"prompt_tokens": "many", "completion_tokens": [1]}, (None, None)),
        ({"prompt_tokens": float("inf"), "completion_tokens": 10**300}, (None, None)),
        ({"prompt_tokens": True}, (None, None)),
        ("none", (None, None)),
        ([], (None, None)),
    ],
)
def test_what_is_no_count_of_tokens_costs_nothing(usage: Any, tokens: Any) -> None:
    body = json.loads(said()) | {"usage": usage, "model": [7]}
    body["choices"][0]["finish_reason"] = {"a": 1}
    with raw_server(whole(json.dumps(body).encode())) as server:
        reply = ask(server.url)
    assert (reply.prompt_tokens, reply.completion_tokens) == tokens
    assert (reply.text, reply.model, reply.finish_reason) == ("yes", "", "")


def test_a_server_that_asks_to_wait_for_years_is_not_waited_for() -> None:
    for wait in ("1e9", "Fri, 31 Dec 2100 23:59:59 GMT"):
        busy = whole(b"{}", f"Retry-After: {wait}", status="429 Too Many Requests")
        with raw_server(busy) as server, pytest.raises(Unanswered, match="asks to wait") as caught:
            ask(server.url)
        assert caught.value.all_are


def test_how_long_a_server_asks_to_wait() -> None:
    waits = {"2.5": 2.5, "Fri, 31 Dec 1999 23:59:59 GMT": 0.0}
    waits |= dict.fromkeys(["-5", "nan", "inf", "soon", "Fri, 99 Dec 9999", ""])
    for wait, seconds in waits.items():
        assert retry_after({"retry-after": wait}) == seconds
