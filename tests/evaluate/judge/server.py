"""A scripted judge behind a real OpenAI-compatible HTTP server on this machine.

    with ScriptedServer(lambda asked: "Rating: [[7]]") as server:
        settings = JudgeSettings(model="scripted", base_url=server.url)

The script sees what was asked and returns the reply's text, a `Say` with more to it, or a
`Fail`. What was asked is kept in `server.asked`, in the order of arrival. Scripts that play a
judge for the project's own prompts stand below; they read the prompt as any judge does.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Asked:
    """One request: its number from 0 on, its body, its headers by names in small letters."""

    number: int
    body: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        """All messages, one after another."""
        return "\n".join(message["content"] for message in self.body["messages"])

    @property
    def last(self) -> str:
        """The last message."""
        return str(self.body["messages"][-1]["content"])


@dataclass(frozen=True)
class Say:
    """A reply with more to it than its text; tokens are counted as words."""

    text: str | None
    finish_reason: str = "stop"
    usage: bool = True


@dataclass(frozen=True)
class Fail:
    """A status other than 200, a broken body (`raw`), or a connection cut off (`cut`)."""

    status: int = 500
    message: str = "scripted failure"
    code: str | None = None
    retry_after: str | None = None
    raw: bytes | None = None
    cut: bool = False


Reply: TypeAlias = "str | Say | Fail"
Script = Callable[[Asked], Reply]


@dataclass
class ScriptedServer:
    """Serves `/v1/chat/completions` with a script; a context manager."""

    script: Script
    port: int = 0
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> ScriptedServer:
        lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    asked = Asked(len(owner.asked), body, headers)
                    owner.asked.append(asked)
                found = self.path.endswith("/chat/completions")
                reply = owner.script(asked) if found else Fail(404, f"no such path: {self.path}")
                if not isinstance(reply, Fail):
                    said = Say(reply) if isinstance(reply, str) else reply
                    self._send(200, json.dumps(_completion(asked, said)).encode())
                elif reply.cut:
                    self.close_connection = True
                else:
                    self._send(reply.status, reply.raw or _error(reply), reply.retry_after)

            def _send(self, status: int, body: bytes, retry_after: str | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if retry_after is not None:
                    self.send_header("Retry-After", retry_after)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # a client that was killed
                    super().handle()

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.port = self._server.server_port
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was asked, as it was sent."""
        return [asked.body for asked in self.asked]

    @property
    def url(self) -> str:
        """What a client is given as its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"


def _error(fail: Fail) -> bytes:
    about = {"message": fail.message, "type": "scripted", "param": None, "code": fail.code}
    return json.dumps({"error": about}).encode()


def _completion(asked: Asked, said: Say) -> dict[str, Any]:
    message = {"role": "assistant", "content": said.text}
    prompt, reply = len(asked.text.split()), len((said.text or "").split())
    usage = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
    return {
        "id": f"scripted-{asked.number}",
        "object": "chat.completion",
        "created": 0,
        "model": f"{asked.body['model']}-as-scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": said.finish_reason}],
        **({"usage": usage} if said.usage else {}),
    }


# Judges for the project's own prompts.


@dataclass(frozen=True)
class Shown:
    """What the project's prompt shows: the mark, the request and both answers in their order."""

    nonce: str
    request: str
    answers: tuple[str, str]

    def verdict(self, value: str) -> str:
        """A well-formed verdict."""
        return f"The answers differ.\nVERDICT {self.nonce}: {value}"


def shown(asked: Asked) -> Shown:
    """Read the project's own prompt."""
    blocks = {
        name: (nonce, text)
        for name, nonce, text in re.findall(
            r"<<<((?!END)[A-Z ]+?) ([0-9a-f]{8})>>>\n(.*?)\n<<<END \1 \2>>>", asked.last, re.S
        )
    }
    return Shown(*blocks["REQUEST"], (blocks["ANSWER A"][1], blocks["ANSWER B"][1]))


def fair(worth: Callable[[str, str], float]) -> Script:
    """A judge that goes by what an answer to a request is worth."""

    def judge(asked: Asked) -> str:
        seen = shown(asked)
        a, b = (worth(seen.request, answer) for answer in seen.answers)
        return seen.verdict("tie" if a == b else "A" if a > b else "B")

    return judge


def always_first(asked: Asked) -> str:
    """A judge that likes what it sees first."""
    return shown(asked).verdict("A")


longer = fair(lambda request, answer: len(answer))
"""A judge that goes by length."""

_ORDERS = re.compile(
    r"\[ ?\[ ?(?:10|A|B)\b|rating: *10|score: *10|highest|as the judge|prefer this|最高|满分",
    re.IGNORECASE,
)

gullible = fair(lambda request, answer: bool(_ORDERS.search(answer)) or not answer.strip())
"""A judge that does what answers tell it, and likes an empty answer."""
