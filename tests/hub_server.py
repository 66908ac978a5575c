"""As much of the Hub as `orpo push` needs, over real HTTP: repositories, branches, LFS, commits."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "t" * 34
READER = "hf_" + "r" * 34
_LARGE = re.compile(r"\.(safetensors|png|gguf|bin)$")


@dataclass
class Hub:
    """What the server holds and was asked.

    Attributes:
        url: Its address.
        repositories: "owner/name" -> branch -> path -> content.
        private: "owner/name" of those that are private.
        messages: Of the commits, in order.
        asked: Method and path of every request.
    """

    url: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, **files: bytes) -> None:
        """A repository that is there already."""
        self.repositories[name] = {"main": dict(files)}


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """Serve until the end of the block. TOKEN may write as `me`, READER may read."""
    held = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _get(self, held)

        def do_HEAD(self) -> None:
            _get(self, held)

        def do_POST(self) -> None:
            _post(self, held)

        def do_PUT(self) -> None:
            content = _body(self)
            held.objects[hashlib.sha256(content).hexdigest()] = content
            answer(self, 200, {})

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    held.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield held
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def answer(to: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    to.send_response(status)
    for name, value in headers.items():
        to.send_header(name.replace("_", "-"), value)
    to.send_header("Content-Length", str(len(content)))
    to.end_headers()
    if to.command != "HEAD":
        to.wfile.write(content)


def refuse(to: BaseHTTPRequestHandler, status: int, said: str, code: str = "") -> None:
    answer(to, status, {"error": said}, X_Error_Code=code, X_Error_Message=said)


def _body(of: BaseHTTPRequestHandler) -> bytes:
    return of.rfile.read(int(of.headers.get("Content-Length") or 0))


def _token(of: BaseHTTPRequestHandler) -> str:
    return of.headers.get("Authorization", "").removeprefix("Bearer ")


def _get(to: BaseHTTPRequestHandler, held: Hub) -> None:  # noqa: PLR0911
    path = urlsplit(to.path).path
    held.asked.append(f"{to.command} {path}")
    if path == "/api/whoami-v2":
        known = _token(to) in {TOKEN, READER}
        return answer(to, 200, {"name": "me"}) if known else refuse(to, 401, "Invalid token")
    if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/tree/([^/]+))?", path):
        name, branch = found.groups()
        if _token(to) not in {TOKEN, READER}:
            return refuse(to, 401, f"Invalid credentials: {_token(to)}", "RepoNotFound")
        if name not in held.repositories:
            return refuse(to, 404, "Repository not found", "RepoNotFound")
        if not branch:
            about = {"id": name, "private": name in held.private, "sha": "0" * 40, "siblings": []}
            return answer(to, 200, about)
        files = held.repositories[name].get(unquote(branch))
        if files is None:
            return refuse(to, 404, "Invalid rev id", "RevisionNotFound")
        rows = [
            {"type": "file", "path": one, "oid": _oid(content), "size": len(content)}
            for one, content in files.items()
        ]
        return answer(to, 200, rows)
    if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
        name, branch, file = found.groups()
        content = held.repositories.get(name, {}).get(unquote(branch), {}).get(file)
        if content is None:
            return refuse(to, 404, "Entry not found", "EntryNotFound")
        return answer(to, 200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit="0" * 40)
    return refuse(to, 404, f"nothing at {path}")


def _post(to: BaseHTTPRequestHandler, held: Hub) -> None:  # noqa: PLR0911
    path, body = urlsplit(to.path).path, _body(to)
    held.asked.append(f"POST {path}")
    if path == "/api/validate-yaml":
        return answer(to, 200, {"warnings": [], "errors": []})
    if _token(to) == READER:
        return refuse(to, 403, f"Forbidden: the token {READER} has no write access")
    if _token(to) != TOKEN:
        return refuse(to, 401, "Invalid credentials in Authorization header")
    if path == "/api/repos/create":
        asked = json.loads(body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if not name.startswith("me/"):
            return refuse(to, 403, f"You don't have the rights to create under {name}")
        if name in held.repositories:
            there = {"error": "You already created this model repo", "url": f"{held.url}/{name}"}
            return answer(to, 409, there)
        held.repositories[name] = {"main": {".gitattributes": b""}}
        if asked.get("visibility") == "private" or asked.get("private"):
            held.private.add(name)
        return answer(to, 200, {"url": f"{held.url}/{name}"})
    if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
        branches = held.repositories[found[1]]
        branches.setdefault(unquote(found[2]), dict(branches["main"]))
        return answer(to, 200, {})
    if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/.+", path):
        rows = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if _LARGE.search(one["path"]) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for one in json.loads(body)["files"]
        ]
        return answer(to, 200, {"files": rows})
    if path.endswith(".git/info/lfs/objects/batch"):
        objects = [
            {**one, "actions": {"upload": {"href": f"{held.url}/lfs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        return answer(to, 200, {"transfer": "basic", "objects": objects})
    if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
        _commit(held, held.repositories[found[1]][unquote(found[2])], body)
        url = f"{held.url}/{found[1]}/commit/{'1' * 40}"
        return answer(to, 200, {"success": True, "commitOid": "1" * 40, "commitUrl": url})
    return refuse(to, 404, f"nothing at {path}")


def _commit(held: Hub, files: dict[str, bytes], body: bytes) -> None:
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            held.messages.append(value["summary"])
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            content = held.objects[value["oid"]]
            assert len(content) == value["size"]
            files[value["path"]] = content
        elif line["key"] == "deletedFile":
            del files[value["path"]]
        else:
            raise AssertionError(line)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
