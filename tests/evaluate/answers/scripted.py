"""A server over real HTTP whose replies are written by the test."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, Any]]


def said(text: str | None, finish: str = "stop") -> Reply:
    """A chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
    }
    return 200, {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
    }


def refused(status: int, message: str) -> Reply:
    """An error in the form that OpenAI gives it."""
    return status, {"error": {"message": message, "type": "x"}}


@dataclass
class Scripted:
    """What was asked, and where.

    Attributes:
        url: The server's address.
        bodies: Every chat completion asked for.
        keys: The Authorization header of every request.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@contextlib.contextmanager
def scripted(reply: Callable[[dict[str, Any]], Reply], key: str = "") -> Iterator[Scripted]:
    """Serve until the end of the block; with a key, whoever has another one is refused."""
    server = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer((200, {"object": "list", "data": []}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.bodies.append(body)
            self._answer(reply(body))

        def _answer(self, found: Reply) -> None:
            server.keys.append(self.headers.get("Authorization", ""))
            if key and server.keys[-1] != f"Bearer {key}":
                found = refused(401, f"Incorrect API key provided: {server.keys[-1]}")
            content = json.dumps(found[1]).encode()
            self.send_response(found[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
