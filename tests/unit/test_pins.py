"""Sources that the table does not pin: found at the first download, required from then on."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from steer.download import download, missing
from steer.errors import SteerError
from steer.origins import hub
from steer.pins import Pin, pinned, read_pins, write_pin
from steer.sources import Source, read_source
from tests.loopback import send, serve

BODY = b"Name a river\nName a sea\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROW: dict[str, Any] = dict.fromkeys(Source.model_fields, "") | {
    "name": "lines",
    "origin": "https",
    "revision": "127.0.0.1",
    "licence": "unknown",
    "format": "txt",
    "kind": "prompts",
    "gated": "no",
    "about": "lines of a test",
}
HUB = {
    "origin": "hub",
    "location": "owner/rivers",
    "member": ":train",
    "revision": "",
    "format": "jsonl",
    "columns": "prompt",
    "text": "prompt",
}


def _source(**changes: Any) -> Source:
    return Source.model_validate({**ROW, **changes})


def _download(source: Source, folder: Path) -> Path:
    out = folder / "downloads" / "lines"
    lock = folder / "lock.json"
    download(source, out, 2.0, attempts=2, wait=0.01, by_hand=folder / "by_hand", lock=lock)
    return out


def test_a_file_is_pinned_by_its_first_download_and_another_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve() as server:
        source = _source(location=server.url("/lines", send(BODY), send(BODY), send(BODY[::-1])))
        out = _download(source, tmp_path)
        pins = json.loads((tmp_path / "lock.json").read_text())
        assert pins["lines"]["sha256"] == hashlib.sha256(BODY).hexdigest()
        assert pins["lines"]["bytes"] == len(BODY)
        _download(source, tmp_path)
        out.unlink()
        with pytest.raises(SteerError, match=r"sha256 is .*, pinned is"):
            _download(source, tmp_path)
    assert not out.exists()


def test_a_file_put_by_hand_is_pinned_as_well(tmp_path: Path) -> None:
    by_hand = tmp_path / "by_hand" / "lines"
    by_hand.parent.mkdir()
    by_hand.write_bytes(BODY)
    source = _source(location="http://127.0.0.1:9/lines", gated="yes")
    assert _download(source, tmp_path).read_bytes() == BODY
    by_hand.write_bytes(BODY + b"more\n")
    with pytest.raises(SteerError, match="pinned is"):
        _download(source, tmp_path)


def test_the_first_pin_stays_and_one_against_the_table_is_an_error(tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    source = _source(location="http://127.0.0.1/lines")
    first = Pin(revision="", sha256="a" * 64, bytes=5)
    write_pin(source, first, lock)
    write_pin(source, Pin(revision="", sha256="b" * 64, bytes=6), lock)
    write_pin(_source(name="another", location="http://127.0.0.1/x"), first, lock)
    assert list(read_pins(lock)) == ["another", "lines"]
    assert pinned(source, lock).sha256 == "a" * 64
    said = _source(location="http://127.0.0.1/lines", sha256="c" * 64, bytes="7")
    with pytest.raises(SteerError, match="`sha256` of `lines` is aaa"):
        pinned(said, lock)
    lock.write_text("[1]")
    with pytest.raises(SteerError, match="no lock file"):
        read_pins(lock)


@pytest.fixture
def on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set that the library reads from a folder, under the name that it has on the hub."""
    folder = tmp_path / "owner" / "rivers"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(
        '{"prompt": "Name a river", "b": 1}\n{"prompt": "Name a sea", "b": 2}\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_data_set_of_the_hub_is_pinned_by_its_commit_and_its_rows(
    on_the_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    facts = json.dumps({"id": "owner/rivers", "sha": COMMIT}).encode()
    with serve() as server:
        url = server.url("/api/datasets/owner/rivers", send(facts, **{"Content-Type": "application/json"}))
        server.url(
            f"/api/datasets/owner/rivers/revision/{COMMIT}",
            send(facts, **{"Content-Type": "application/json"}),
        )
        monkeypatch.setenv("HF_ENDPOINT", url.removesuffix("/api/datasets/owner/rivers"))
        source = _source(**HUB)
        out = _download(source, on_the_hub)
        before = out.read_bytes()
        pin = read_pins(on_the_hub / "lock.json")["lines"]
        assert (pin.revision, pin.sha256) == (COMMIT, hashlib.sha256(before).hexdigest())
        assert [row["text"] for row in read_source(out, source)] == ["Name a river", "Name a sea"]
        # Other rows under the same name are refused, although the hub says the same commit.
        (on_the_hub / "owner" / "rivers" / "train.jsonl").write_text('{"prompt": "Name a lake", "b": 3}\n')
        with pytest.raises(SteerError, match="pinned is"):
            _download(source, on_the_hub)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (403, "answered 403"),
        (404, "no such data set|answered 404"),
        (500, r"answered 500 \(tried 2 times"),
    ],
)
def test_what_the_hub_refuses_is_told(
    on_the_hub: Path, monkeypatch: pytest.MonkeyPatch, status: int, cause: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serve() as server:
        url = server.url("/api/datasets/owner/rivers", send(b"", status))
        monkeypatch.setenv("HF_ENDPOINT", url.removesuffix("/api/datasets/owner/rivers"))
        with pytest.raises(SteerError, match=cause):
            _download(_source(**HUB), on_the_hub)
    assert not (on_the_hub / "lock.json").exists()


def test_a_hub_that_is_not_there_is_told_and_asked_again(
    on_the_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with serve() as server:
        address = server.url("/").removesuffix("/")
    # The server is gone, and its port is closed.
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(SteerError, match=r"can't be reached, or broke off \(\w+\).*tried 2 times"):
        _download(_source(**HUB), on_the_hub)
    assert not (on_the_hub / "lock.json").exists()


def test_a_hub_that_is_switched_off_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert hub.is_off()
    with pytest.raises(SteerError, match="HF_HUB_OFFLINE=0"):
        _download(_source(**HUB), tmp_path)


def test_what_is_gated_or_switched_off_is_said_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    sources = [_source(**HUB, gated="yes"), _source(name="open", location="http://127.0.0.1/lines")]
    folders = tmp_path / "downloads", tmp_path / "by_hand", tmp_path / "lock.json"
    said = missing(sources, *folders)
    assert len(said) == 2
    assert "`lines` is gated" in said[0]
    assert "switched off" in said[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", "of somebody")
    assert missing(sources, *folders) == []
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "by_hand").mkdir()
    (tmp_path / "by_hand" / "lines").touch()
    assert missing(sources, *folders) == []
