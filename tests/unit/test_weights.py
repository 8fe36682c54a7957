"""Weights from a hub: the pinned commit, checked, safetensors only; against a hub that misbehaves."""

import json
import logging
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest

from steer.artifacts.origin import read_provenance
from steer.catalogue import HubModel
from steer.config import ModelSettings
from steer.errors import SteerError
from steer.models.loading import load_checkpoint
from steer.resolve import read_commit
from steer.weights import INDEX, SINGLE, fetch_weights
from tests.hub import COMMIT, Hub, refuse, serve, truncate

MODEL = HubModel("some/model")
TOKEN = "hf_averysecrettoken"
OTHERS = {"pytorch_model.bin": b"pickled", "modeling_some.py": b"print('code')", "README.md": b"words"}


@pytest.fixture
def hub(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a tiny model, and files beside it that nobody wants."""
    folder = checkpoint("olmoe")
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())} | OTHERS
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(folder / "no-such-token"))
    with serve(files) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """Where the weights go, and the lock file."""
    return tmp_path / "weights" / MODEL.folder, tmp_path / "models.lock.json"


def test_a_model_is_fetched_whole_and_nothing_else(hub: Hub, place: tuple[Path, Path]) -> None:
    out, lock = place
    fetch_weights(MODEL, out, lock)
    assert load_checkpoint(out).experts == 8
    assert {path.name for path in out.iterdir()} == {*(hub.files.keys() - OTHERS.keys()), "hub.json"}
    assert not set(hub.fetched()) & OTHERS.keys()
    assert read_commit(out) == COMMIT
    assert read_provenance(out)["inputs"] == {MODEL.id: COMMIT}
    assert json.loads(lock.read_text())[MODEL.key]["commit"] == COMMIT
    # Listed without a revision, and then asked for by the commit alone.
    assert all(f"/resolve/{COMMIT}/" in path for _, path in hub.requests[1:])


def test_the_first_commit_is_required_from_then_on(hub: Hub, place: tuple[Path, Path]) -> None:
    out, lock = place
    fetch_weights(MODEL, out, lock)
    written = lock.read_bytes()
    shutil.rmtree(out)
    hub.requests.clear()
    fetch_weights(MODEL, out, lock)
    assert lock.read_bytes() == written
    assert hub.requests[0][1].endswith(f"/revision/{COMMIT}")
    shutil.rmtree(out)
    hub.files["config.json"] += b" "
    with pytest.raises(SteerError, match="lists other files under the commit"):
        fetch_weights(MODEL, out, lock)
    assert not out.exists()


def test_shards_are_those_of_the_index(hub: Hub, place: tuple[Path, Path]) -> None:
    weights = hub.files.pop(SINGLE)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    hub.files |= dict.fromkeys(names, weights) | {"consolidated.safetensors": weights}
    hub.files[INDEX] = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    fetch_weights(MODEL, *place)
    assert sorted(path.name for path in place[0].glob("*.safetensors")) == names
    assert "consolidated.safetensors" not in hub.fetched()


def test_a_broken_connection_goes_on_where_it_broke(hub: Hub, place: tuple[Path, Path]) -> None:
    hub.misdeeds[SINGLE] = [truncate(SINGLE)]
    fetch_weights(MODEL, *place)
    assert (place[0] / SINGLE).read_bytes() == hub.files[SINGLE]


def test_finished_files_of_a_failed_download_are_kept(hub: Hub, place: tuple[Path, Path]) -> None:
    hub.misdeeds[SINGLE] = [refuse(500, "ServerError")] * 20
    with pytest.raises(
        SteerError, match=r"the hub (answered 500|can't be reached).*\n.*finished files are kept"
    ):
        fetch_weights(MODEL, *place)
    assert not place[0].exists()
    assert not place[1].exists()
    hub.misdeeds.clear()
    hub.requests.clear()
    fetch_weights(MODEL, *place)
    assert hub.fetched() == [SINGLE]


def test_leftovers_of_another_commit_are_not_published(hub: Hub, place: tuple[Path, Path]) -> None:
    hub.files["added_tokens.json"] = b"{}"
    hub.misdeeds[SINGLE] = [refuse(500, "ServerError")] * 20
    with pytest.raises(SteerError, match="finished files are kept"):
        fetch_weights(MODEL, *place)
    hub.misdeeds.clear()
    hub.commit = COMMIT[::-1]
    del hub.files["added_tokens.json"]
    fetch_weights(MODEL, *place)
    assert read_commit(place[0]) == hub.commit
    assert {path.name for path in place[0].iterdir()} == {*(hub.files.keys() - OTHERS.keys()), "hub.json"}


def test_other_bytes_than_the_listed_ones_are_refused(hub: Hub, place: tuple[Path, Path]) -> None:
    hub.listed[SINGLE] = {"lfs": {"sha256": "0" * 64, "size": len(hub.files[SINGLE]), "pointerSize": 1}}
    with pytest.raises(
        SteerError, match=r"model\.safetensors: its content is not the one that the hub lists"
    ):
        fetch_weights(MODEL, *place)
    assert not place[0].exists()


def test_a_model_without_safetensors_is_refused(hub: Hub, place: tuple[Path, Path]) -> None:
    del hub.files[SINGLE]
    with pytest.raises(SteerError, match=r"lists no model\.safetensors .* other formats can run code"):
        fetch_weights(MODEL, *place)
    assert "pytorch_model.bin" not in hub.fetched()


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "GatedRepo", "its terms have to be accepted by a person"),
        (403, "", "its terms have to be accepted by a person"),
        (401, "RepoNotFound", "the hub has no such model"),
        (404, "RevisionNotFound", "the hub has no revision"),
    ],
)
def test_what_may_not_be_had_is_told_and_the_token_is_not(
    status: int,
    code: str,
    said: str,
    token: str | None,
    hub: Hub,
    place: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.misdeeds["listing"] = [refuse(status, code, echo=True)]
    with caplog.at_level(logging.DEBUG), pytest.raises(SteerError, match=said) as raised:
        fetch_weights(MODEL, *place)
    assert hub.tokens == {f"Bearer {token}" if token else "None"}
    if code != "RevisionNotFound":
        assert ("a token was sent" if token else "no token was sent") in str(raised.value)
    assert TOKEN not in str(raised.value) + caplog.text
    assert not list(place[0].parent.glob("*")) or not place[0].exists()


def test_space_is_checked_before_the_first_byte(
    hub: Hub, place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2, 2, 10**9))
    with pytest.raises(SteerError, match=r"its files want .* GB more.*has 1\.0 GB free"):
        fetch_weights(MODEL, *place)
    assert not hub.fetched()


def test_a_hub_that_is_switched_off_or_gone_is_told(
    hub: Hub, place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SteerError, match="is switched off"):
        fetch_weights(MODEL, *place)
    assert not hub.requests
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SteerError, match="can't be reached, or broke off"):
        fetch_weights(MODEL, *place)


def test_a_path_is_a_folder_or_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ModelSettings(path="some/model", revision="v1").hub == HubModel("some/model", "v1")
    assert HubModel("some/model", "v1").folder == "some--model@v1"
    (tmp_path / "some" / "model").mkdir(parents=True)
    assert ModelSettings(path="some/model").hub is None
    assert ModelSettings(path="/else/where").hub is None
    assert ModelSettings(path="a/b/c").hub is None
    assert ModelSettings(path="checkpoint").hub is None


def test_dense_models_on_the_hub_are_known_as_such() -> None:
    assert not ModelSettings(path="Qwen/Qwen3-8B").has_experts
    assert ModelSettings(path="Qwen/Qwen3-30B-A3B").has_experts
    assert ModelSettings(path="some/unknown").has_experts
