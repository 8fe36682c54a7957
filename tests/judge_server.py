"""An OpenAI-compatible server on this machine, whose model and misbehaviour are written by the test."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import LONGEST_HANG, LoopbackServer, running

KEY = "sk-test-0123456789abcdef"

Mind = Callable[[str], str]
"""A model: the question in, what it writes out."""

Fault = Callable[["JudgeServer", BaseHTTPRequestHandler, str], None]
"""What happens to one request instead of an answer; it is given the right answer."""


def completion(text: Any, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion, as the API defines it."""
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted-1",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def verdict(word: str, reason: str = "because") -> str:
    """The answer that is asked for."""
    return json.dumps({"reason": reason, "verdict": word})


def send(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    status: int = 200,
    claimed: int | None = None,
    kind: str = "application/json",
    **headers: str,
) -> None:
    """Answer a request; `claimed` is how long the body is said to be."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body) if claimed is None else claimed))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def says(text: Any, finish: str = "stop", **message: Any) -> Fault:
    """Well-formed HTTP around something else than the right answer."""
    body = json.dumps(completion(text, finish, **message)).encode()
    return lambda _, handler, __: send(handler, body)


def sends(body: bytes, status: int = 200, **headers: str) -> Fault:
    """These bytes, whatever was asked."""
    return lambda _, handler, __: send(handler, body, status, **headers)


def truncated(_: "JudgeServer", handler: BaseHTTPRequestHandler, answer: str) -> None:
    """Half of the right answer, with the length of the whole."""
    body = json.dumps(completion(answer)).encode()
    send(handler, body[: len(body) // 2], claimed=len(body))
    handler.close_connection = True


def hangs(server: "JudgeServer", handler: BaseHTTPRequestHandler, _: str) -> None:
    """Nothing, until the test is over."""
    server.closing.wait(LONGEST_HANG)
    handler.close_connection = True


class JudgeServer(LoopbackServer):
    """Lets `mind` answer, or the next fault of the script happen; keeps what it was asked."""

    request_queue_size = 64

    def __init__(self, mind: Mind, faults: Iterator[Fault | None], key: str | None) -> None:
        super().__init__(_Handler)
        self.mind, self.faults, self.key = mind, faults, key
        self.asked: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.times.append(time.monotonic())
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._answer(request)
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self, request: dict[str, Any]) -> None:
        server = self.server
        if server.key and self.headers["Authorization"] != f"Bearer {server.key}":
            # As real ones do, it says what it was sent.
            message = {"error": {"message": f"Incorrect API key: {self.headers['Authorization']}"}}
            send(self, json.dumps(message).encode(), 401)
            return
        question = request["messages"][-1]["content"]
        with server.lock:
            server.asked.append(question)
            server.requests.append(request)
            fault = next(server.faults, None)
        answer = server.mind(question)
        if fault is None:
            send(self, json.dumps(completion(answer)).encode())
        else:
            fault(server, self, answer)

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


def judging_server(
    mind: Mind, faults: Sequence[Fault | None] | Iterator[Fault | None] = (), key: str | None = None
) -> AbstractContextManager[JudgeServer]:
    """A running server, stopped at the end of the block."""
    return running(JudgeServer(mind, iter(faults), key))
