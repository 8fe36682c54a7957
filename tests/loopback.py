"""A web server on this machine that misbehaves as it is told."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

Answer = Callable[[BaseHTTPRequestHandler], None]
LONGEST_HANG = 20.0


def send(body: bytes, status: int = 200, length: int | None = -1, **headers: str) -> Answer:
    """A whole answer; `length` is what it claims to be long (None: it does not say)."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        if length is not None:
            handler.send_header("Content-Length", str(len(body) if length == -1 else length))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def trickle(body: bytes, pause: float) -> Answer:
    """The right answer, a byte at a time."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(b"", length=len(body))(handler)
        for position in range(len(body)):
            handler.wfile.write(body[position : position + 1])
            handler.wfile.flush()
            time.sleep(pause)

    return answer


class LoopbackServer(ThreadingHTTPServer):
    """A server on a free port of this machine.

    Attributes:
        closing: set when the test is over, for handlers that hang.
    """

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.closing = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the tests."""


Running = TypeVar("Running", bound=LoopbackServer)


@contextmanager
def running(server: Running) -> Iterator[Running]:
    """The server, answering in a thread of its own, and stopped at the end of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Server(LoopbackServer):
    """Answers the n-th request for a path with the n-th answer of its script, the last one ever after."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.scripts: dict[str, Sequence[Answer]] = {}
        self.requests: list[str] = []

    def url(self, path: str, *script: Answer) -> str:
        """Give a path its script; the URL of the path."""
        self.scripts[path] = script
        return f"http://127.0.0.1:{self.server_port}{path}"

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Say nothing until the test is over."""
        del handler
        self.closing.wait(LONGEST_HANG)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.rstrip("/")
        number = self.server.requests.count(path)
        self.server.requests.append(path)
        script = self.server.scripts.get(path, [send(b"", 404)])
        script[min(number, len(script) - 1)](self)

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


def serve() -> AbstractContextManager[Server]:
    """A running server, stopped at the end of the block."""
    return running(Server())
