"""Stage `weights`: fetch a model from a hub at one commit, safetensors only, checked against what it lists.

The first download writes the commit and every file's digest into a lock file; from then on no other bytes are
accepted under this name. Finished files of a download that was killed are kept and not fetched again.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What huggingface_hub speaks HTTP with, a dependency of its own, whose errors it lets through.
from httpx2 import HTTPError
from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from steer.artifacts.facts import HUB_FILE
from steer.artifacts.files import explained, publish, read_json, remove, write_json
from steer.artifacts.locks import sole_writer
from steer.artifacts.origin import attach
from steer.artifacts.provenance import file_digest, provenance
from steer.catalogue import HubModel
from steer.errors import SteerError
from steer.origins import hush

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# What a checkpoint is besides its weights; never code: what is not in transformers is not run.
KEPT: tuple[str, ...] = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
KEPT += ("merges.txt", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja")
KEPT += ("chat_template.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "USE_POLICY.md")
KEPT_FILES = "finished files are kept"
SPARE = 2**30
"""Bytes that are to be left on the disk."""

log = logging.getLogger(__name__)
Record = dict[str, Any]


@dataclass(frozen=True)
class Listed:
    """A file as the hub lists it: its size, and the digest of its content.

    Attributes:
        digest: `sha256:…` for a large file, `git:…` (as git names a blob) for a small one.
    """

    name: str
    size: int
    digest: str


def fetch_weights(model: HubModel, out: Path, lock: Path) -> None:
    """Fetch a checkpoint to the folder `out`, whole or not at all.

    Raises:
        SteerError: the hub can't be reached or is switched off, has no such model or commit, or wants a
            person to accept terms; it has no safetensors; the disk is too small; or what came is not what is
            listed here or in the lock file. No message and no log holds a token.
    """
    hush()
    entry = _locked(lock, model)
    wanted = entry["commit"] if entry else model.revision
    with _explained(model):
        commit, listed = _list(model, wanted)
        if entry and entry["files"] != _as_record(entry["files"], listed):
            raise _changed(model, lock)
        folder = out.with_name(f".{out.name}.download")
        folder.mkdir(parents=True, exist_ok=True)
        files = _choose(model, commit, listed, folder)
        _check_space(model, folder, files)
        with explained(out):
            for file in files:
                _fetch(model, commit, file, folder)
    _keep_only({file.name for file in files}, folder)
    write_json(folder / HUB_FILE, {"id": model.id, "commit": commit})
    _write_lock(lock, model, {"commit": commit, "files": {file.name: file.digest for file in files}})
    publish(folder, out)
    attach(out, provenance(__name__, {"id": model.id, "revision": model.revision}, {model.id: commit}))
    log.info(
        "%s: commit %s, %d files, %d bytes", model.id, commit, len(files), sum(file.size for file in files)
    )


def _keep_only(names: Set[str], folder: Path) -> None:
    """Remove what the client noted, and what a download of another commit left when it was killed."""
    for member in folder.iterdir():
        if member.name not in names:
            remove(member)


def _locked(lock: Path, model: HubModel) -> Record | None:
    """What the lock file says of a model; None where nothing is locked yet."""
    if not lock.is_file():
        return None
    found = read_json(lock)
    entry = found.get(model.key) if isinstance(found, dict) else None
    if entry is not None and not {"commit", "files"} <= {*entry}:
        raise SteerError(str(lock), f"its entry `{model.key}` is malformed", "mend it, or remove the entry")
    return entry


def _write_lock(lock: Path, model: HubModel, entry: Record) -> None:
    with sole_writer(lock):
        found = read_json(lock) if lock.is_file() else {}
        if found.get(model.key) != entry:
            write_json(lock, dict(sorted({**found, model.key: entry}.items())))
            log.info("%s: commit %s is now required by %s", model.key, entry["commit"], lock)


def _as_record(names: Mapping[str, str], listed: Mapping[str, Listed]) -> dict[str, str]:
    return {name: listed[name].digest if name in listed else "" for name in names}


def _changed(model: HubModel, lock: Path) -> SteerError:
    return SteerError(
        f"model `{model.id}`",
        f"the hub lists other files under the commit than {lock} holds",
        f"find out why; to accept them, remove the entry `{model.key}` from {lock}",
    )


def _list(model: HubModel, revision: str | None) -> tuple[str, dict[str, Listed]]:
    """The commit that a revision is, and the files of its first level."""
    api = HfApi(endpoint=_endpoint())
    info = api.model_info(model.id, revision=revision, files_metadata=True)
    files = {}
    for sibling in info.siblings or []:
        if "/" not in sibling.rfilename and sibling.size is not None:
            digest = f"sha256:{sibling.lfs.sha256}" if sibling.lfs else f"git:{sibling.blob_id}"
            files[sibling.rfilename] = Listed(sibling.rfilename, sibling.size, digest)
    return str(info.sha), files


def _choose(model: HubModel, commit: str, listed: Mapping[str, Listed], folder: Path) -> list[Listed]:
    """The files that make a checkpoint: what its index names, or its one file of weights, and KEPT."""
    names = [name for name in KEPT if name in listed]
    if INDEX in listed:
        _fetch(model, commit, listed[INDEX], folder)
        shards = sorted({*read_json(folder / INDEX)["weight_map"].values()})
    else:
        shards = [SINGLE]
    missing = [name for name in ("config.json", *shards) if name not in listed]
    if missing:
        raise SteerError(
            f"model `{model.id}`",
            f"the hub lists no {missing[0]} at commit {commit}; weights in other formats can run code when"
            " they are read, and are not fetched",
            "use a repository that has safetensors, or convert the model and name its folder",
        )
    return [listed[name] for name in (*names, *([INDEX] if INDEX in listed else []), *shards)]


def _check_space(model: HubModel, folder: Path, files: list[Listed]) -> None:
    """Check before the first byte that the disk holds what is still to be fetched, and a GiB more."""
    missing = sum(file.size for file in files if not _is_there(folder / file.name, file))
    free = shutil.disk_usage(folder).free
    if missing + SPARE > free:
        raise SteerError(
            f"model `{model.id}`",
            f"its files want {missing / 1e9:.1f} GB more, and a GiB to spare; {folder.parent} has"
            f" {free / 1e9:.1f} GB free",
            f"free some space, or set `results` to a folder on a larger disk; {KEPT_FILES}",
        )


def _is_there(path: Path, file: Listed) -> bool:
    return path.is_file() and path.stat().st_size == file.size


def _fetch(model: HubModel, commit: str, file: Listed, folder: Path) -> None:
    """Fetch a file that is not there yet, and check its content.

    Raises:
        SteerError: its content is not the listed one; it is removed.
    """
    path = folder / file.name
    if not _is_there(path, file):
        log.info("%s: fetching %s, %d bytes", model.id, file.name, file.size)
        hf_hub_download(model.id, file.name, revision=commit, local_dir=folder, endpoint=_endpoint())
    if _digest(path, file.digest) != file.digest:
        remove(path)
        remove(folder / ".cache")
        raise SteerError(
            f"model `{model.id}`, {file.name}",
            "its content is not the one that the hub lists",
            "run again to fetch it anew; if it happens again, suspect a proxy or mirror in between",
        )


def _digest(path: Path, kind: str) -> str:
    if kind.startswith("sha256:"):
        return f"sha256:{file_digest(path)}"
    content = path.read_bytes()
    # As git names a blob; https://git-scm.com/book/en/v2/Git-Internals-Git-Objects.
    named = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return f"git:{named.hexdigest()}"


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


@contextmanager
def _explained(model: HubModel) -> Iterator[None]:
    """Turn what a hub answers into an error for the user.

    Their own words are left out: they can hold signed addresses and what the server echoes of a request.
    """
    try:
        yield
    except OfflineModeIsEnabled as error:
        next_step = (
            "set HF_HUB_OFFLINE=0 (`make HF_HUB_OFFLINE=0`), or name the folder of a checkpoint in `path`"
        )
        raise _said(model, "the model hub is switched off (HF_HUB_OFFLINE)", next_step) from error
    except HfHubHTTPError as error:
        raise _said(model, *_answer(model, error)) from error
    except (HTTPError, OSError, RuntimeError) as error:
        cause = f"the hub can't be reached, or broke off ({type(error).__name__})"
        raise _said(model, cause, f"run again when the network is back; {KEPT_FILES}") from error


def _answer(model: HubModel, error: HfHubHTTPError) -> tuple[str, str]:
    """Cause and next step of an answer that is no file."""
    sent = "a token was sent" if get_token() else "no token was sent (HF_TOKEN is not set)"
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no revision `{model.revision}` of it", "mend `revision`"
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        cause = f"the hub has no such model, or none that may be seen, and no folder has this name; {sent}"
        return cause, "mend `path`, or set HF_TOKEN to a token that may read it"
    if isinstance(error, GatedRepoError) or status in (401, 403):
        page = f"{_endpoint() or constants.ENDPOINT}/{model.id}"
        next_step = f"accept them at {page} and set HF_TOKEN to a token of that account"
        return f"its terms have to be accepted by a person; {sent}", next_step
    return f"the hub answered {status}", f"run again later; {KEPT_FILES}"


def _said(model: HubModel, cause: str, next_step: str) -> SteerError:
    return SteerError(f"model `{model.id}`", cause, next_step)
