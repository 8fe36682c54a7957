"""A real Chromium, driven through its DevTools protocol over a pair of pipes."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
TIMEOUT = 60.0
# Chromium listens on descriptor 3 and answers on 4.
START = """
import os, sys
reads, writes, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execvp(program[0], program)
"""


def find() -> str | None:
    """Path of an installed Chromium or Chrome."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab: navigate, evaluate, wait, look."""

    def __init__(self, ask: "Asker", session: str) -> None:
        self._ask, self._session = ask, session
        for domain in ("Page", "Runtime", "Network"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **params: Any) -> Any:
        return self._ask(method, self._session, **params)

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        end = time.monotonic() + TIMEOUT
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise AssertionError(f"never became true: {expression}")
            time.sleep(0.05)

    def click(self, text: str, selector: str = "a") -> None:
        """Click the first element whose text is `text`."""
        elements = f"[...document.querySelectorAll('{selector}')]"
        found = f"{elements}.find(e => e.textContent.trim() === {json.dumps(text)})"
        self.wait(f"!!{found}")
        self.evaluate(f"{found}.click()")

    def screenshot(self, path: Path, width: int = 1500, height: int = 1000) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        time.sleep(0.5)
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def requested(self) -> list[str]:
        """Every address that anything on the page asked for."""
        events = [event for event in self._ask.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in events]

    def console_errors(self) -> list[str]:
        """Uncaught exceptions of scripts on the page."""
        events = [event for event in self._ask.events if event["method"] == "Runtime.exceptionThrown"]
        return [str(event["params"]["exceptionDetails"].get("text")) for event in events]


class Asker:
    """Sends commands and collects what comes back; messages end in a zero byte."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = to_browser, from_browser
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __call__(self, method: str, session: str | None = None, **params: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            if "method" in answer:
                self.events.append(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise AssertionError("Chromium ended")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Callable[[], Page]]:
    """Start Chromium with an empty profile; yields a function that opens a tab. Ends it at the end."""
    reads, to_browser = os.pipe()
    from_browser, writes = os.pipe()
    starter = [sys.executable, "-c", START, str(reads), str(writes)]
    process = subprocess.Popen(
        [*starter, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(reads, writes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(reads)
    os.close(writes)
    ask = Asker(to_browser, from_browser)

    def tab() -> Page:
        target = ask("Target.createTarget", url="about:blank")["targetId"]
        return Page(ask, ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])

    try:
        yield tab
    finally:
        os.close(to_browser)
        os.close(from_browser)
        process.terminate()
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
