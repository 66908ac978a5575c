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
_REPO = r"/api/models/([^/]+/[^/]+)"


@dataclass
class Hub:
    """What the server holds and was asked."""

    url: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """"owner/name" -> branch -> path -> content."""
    private: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)  # of the commits
    asked: list[str] = field(default_factory=list)  # method and path of every request
    objects: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, **files: bytes) -> None:
        """A repository that is there already."""
        self.repositories[name] = {"main": dict(files)}


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """Serve until the end of the block. TOKEN may write as `me`, READER may read."""
    held = Hub()

    class Handler(_Handler):
        hub = held

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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        known = self._token() in {TOKEN, READER}
        if path == "/api/whoami-v2":
            self._answer({"name": "me"}) if known else self._refuse(401, "Invalid token")
        elif found := re.fullmatch(rf"{_REPO}(?:/tree/([^/]+))?", path):
            self._repository(found[1], unquote(found[2] or ""), known=known)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            content = self.hub.repositories.get(found[1], {}).get(unquote(found[2]), {})
            if found[3] not in content:
                self._refuse(404, "Entry not found", "EntryNotFound")
                return
            about = {"ETag": f'"{_oid(content[found[3]])}"', "X-Repo-Commit": "0" * 40}
            self._answer(content[found[3]], **about)
        else:
            self._refuse(404, f"nothing at {path}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _repository(self, name: str, branch: str, *, known: bool) -> None:
        branches = self.hub.repositories.get(name)
        if not known:
            self._refuse(401, f"Invalid credentials: {self._token()}", "RepoNotFound")
        elif branches is None:
            self._refuse(404, "Repository not found", "RepoNotFound")
        elif not branch:
            about = {"id": name, "private": name in self.hub.private, "sha": "0" * 40}
            self._answer({**about, "siblings": []})
        elif branch not in branches:
            self._refuse(404, "Invalid rev id", "RevisionNotFound")
        else:
            files = branches[branch].items()
            kind = {"type": "file"}
            self._answer([{**kind, "path": p, "oid": _oid(c), "size": len(c)} for p, c in files])

    def do_POST(self) -> None:
        path, body, token = urlsplit(self.path).path, self._body(), self._token()
        self.hub.asked.append(f"POST {path}")
        if path == "/api/validate-yaml":
            self._answer({"warnings": [], "errors": []})
        elif token == READER:
            self._refuse(403, f"Forbidden: the token {READER} has no write access")
        elif token != TOKEN:
            self._refuse(401, "Invalid credentials in Authorization header")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(rf"{_REPO}/branch/(.+)", path):
            branches = self.hub.repositories[found[1]]
            branches.setdefault(unquote(found[2]), dict(branches["main"]))
            self._answer({})
        elif re.fullmatch(rf"{_REPO}/preupload/.+", path):
            ways = {True: "lfs", False: "regular"}
            names = [one["path"] for one in json.loads(body)["files"]]
            how = [{"path": p, "uploadMode": ways[bool(_LARGE.search(p))]} for p in names]
            self._answer({"files": [{**one, "shouldIgnore": False, "oid": None} for one in how]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
            self._answer({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(rf"{_REPO}/commit/(.+)", path):
            self._commit(self.hub.repositories[found[1]][unquote(found[2])], body)
            commit = "1" * 40
            url = f"{self.hub.url}/{found[1]}/commit/{commit}"
            self._answer({"success": True, "commitOid": commit, "commitUrl": url})
        else:
            self._refuse(404, f"nothing at {path}")

    def do_PUT(self) -> None:
        content = self._body()
        self.hub.objects[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        url = f"{self.hub.url}/{name}"
        if not name.startswith("me/"):
            self._refuse(403, f"You don't have the rights to create under {name}")
        elif name in self.hub.repositories:
            self._answer({"error": "You already created this model repo", "url": url}, 409)
        else:
            self.hub.repositories[name] = {"main": {".gitattributes": b""}}
            if asked.get("visibility") == "private" or asked.get("private"):
                self.hub.private.add(name)
            self._answer({"url": url})

    def _commit(self, files: dict[str, bytes], body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
                assert len(files[value["path"]]) == value["size"]
            else:
                assert line["key"] == "deletedFile", line
                del files[value["path"]]

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _refuse(self, status: int, said: str, code: str = "") -> None:
        heads = {"X-Error-Code": code, "X-Error-Message": said}
        self._answer({"error": said}, status, **heads)

    def _answer(self, body: Any, status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
