"""A model hub on this machine, as far as its client asks: what a model consists of, and its files."""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.loopback import LoopbackServer, running

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Misdeed = Callable[["_Handler"], None]


def refuse(status: int, code: str, echo: bool = False) -> Misdeed:
    """An error as the hub words it; with `echo`, what the client sent stands in it."""

    def answer(handler: "_Handler") -> None:
        sent = str(handler.headers.get("Authorization")) if echo else ""
        handler.reply(b"{}", status, {"X-Error-Code": code, "X-Error-Message": f"no {sent}"})

    return answer


class Hub(LoopbackServer):
    """One model of some files.

    Attributes:
        files: content by name.
        listed: what the listing says of a file, where that is not true.
        misdeeds: what is done instead of answering a path, once for each in the list.
        requests: method and path of every request.
        tokens: what came as authorisation.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(_Handler)
        self.files = files
        self.commit = COMMIT
        self.listed: dict[str, dict[str, Any]] = {}
        self.misdeeds: dict[str, list[Misdeed]] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> list[str]:
        """Names of the files that were asked for, in order."""
        return [
            path.rsplit("/", 1)[1]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        ]

    def listing(self) -> bytes:
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": _git(content)}
            | _large(name, content)
            | self.listed.get(name, {})
            for name, content in self.files.items()
        ]
        return json.dumps({"id": "some/model", "sha": self.commit, "siblings": siblings}).encode()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _large(name: str, content: bytes) -> dict[str, Any]:
    if not name.endswith(".safetensors"):
        return {}
    digest = hashlib.sha256(content).hexdigest()
    return {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 130}}


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        self.server.tokens.add(str(self.headers.get("Authorization")))
        todo = self.server.misdeeds.get(path.rsplit("/", 1)[1] if "/resolve/" in path else "listing", [])
        if todo and self.command == "GET":
            todo.pop(0)(self)
        elif path.startswith("/api/models/some/model"):
            self.reply(self.server.listing())
        elif "/resolve/" in path and path.rsplit("/", 1)[1] in self.server.files:
            self.file(self.server.files[path.rsplit("/", 1)[1]])
        else:
            refuse(404, "RepoNotFound")(self)

    def do_HEAD(self) -> None:
        self.do_GET()

    def file(self, content: bytes, cut: int | None = None) -> None:
        """A file, or what of it stands before `cut` under the length of all of it."""
        headers = {"X-Repo-Commit": self.server.commit, "ETag": f'"{_git(content)}"'}
        status, start = 200, 0
        if asked := self.headers.get("Range"):
            status, start = 206, int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.reply(content[start:cut], status, headers, len(content) - start)

    def reply(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


def truncate(name: str) -> Misdeed:
    """Half of a file, and then the connection is closed."""
    return lambda handler: handler.file(handler.server.files[name], len(handler.server.files[name]) // 2)


def serve(files: dict[str, bytes]) -> AbstractContextManager[Hub]:
    """A running hub, stopped at the end of the block."""
    return running(Hub(files))
