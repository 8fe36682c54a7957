"""Stage `download`: fetch a public prompt set, exactly the pinned bytes or nothing."""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from tenacity.stop import stop_base

from steer.artifacts.files import atomic_path
from steer.artifacts.origin import attach
from steer.artifacts.provenance import file_digest, provenance
from steer.errors import SteerError
from steer.origins import OriginError, PassingError, WrongBytesError, https, hub, pypi
from steer.pins import LOCK, Pin, pinned, write_pin
from steer.sources import Source

log = logging.getLogger(__name__)

Fetch = Callable[[Source, Path, float], str]

ORIGINS: dict[str, Fetch] = {"https": https.fetch, "pypi": pypi.fetch, "hub": hub.fetch}
BY_HAND = Path("data/by_hand")
# A mirror may serve a broken copy once; one that does so twice has another file.
TRIES_OF_WRONG_BYTES = 2


def download(
    source: Source,
    out: Path,
    timeout: float,
    attempts: int,
    wait: float,
    by_hand: Path = BY_HAND,
    lock: Path = LOCK,
) -> None:
    """Write the source's file to `out`, as it was pinned, whole or not at all.

    A file of the source's name in the folder `by_hand` is taken instead of asking the network. A source
    that is not pinned yet is, in the lock file, by what is found now.

    Args:
        source: a row of the table of sources.
        out: the file to write.
        timeout: longest silence of a server, in seconds.
        attempts: tries of what another try can help; of a wrong checksum at most two.
        wait: wait before the second try, in seconds; doubled each time.
        by_hand: where a person may have put the file.
        lock: the lock file.

    Raises:
        SteerError: the file can't be had, or is not the pinned one; names the source, the address, the cause
            and the ways to go on.
    """
    local, source = by_hand / source.name, pinned(source, lock)
    with atomic_path(out) as partial:
        if local.is_file():
            _take(local, source, partial)
            revision = source.revision
        else:
            revision = _fetch(source, partial, timeout, attempts, wait, local)
        found = Pin(revision=revision, sha256=file_digest(partial), bytes=partial.stat().st_size)
        if not source.sha256:
            write_pin(source, found, lock)
    settings = {**source.model_dump(mode="json"), **found.model_dump(mode="json")}
    attach(out, provenance(__name__, settings, {source.address: found.sha256}))
    how = "as pinned" if source.sha256 else f"pinned now in {lock}"
    log.info("%s: %d bytes, sha256 %s, licence %s", source.name, found.bytes, how, source.licence)


def prefetch(
    sources: Iterable[Source],
    timeout: float,
    attempts: int,
    wait: float,
    by_hand: Path = BY_HAND,
    lock: Path = LOCK,
) -> None:
    """Put files of public sources where runs without a network find them.

    Args:
        sources: rows of the table of sources.
        timeout: longest silence of a server, in seconds.
        attempts: tries of what another try can help.
        wait: wait before the second try, in seconds; doubled each time.
        by_hand: the folder for them; a file that is there and is the pinned one stays.
        lock: the lock file.

    Raises:
        SteerError: a file can't be had, or is not the pinned one.
    """
    for source in sources:
        out, wanted = by_hand / source.name, pinned(source, lock).sha256
        if source.origin != "here" and not (out.is_file() and wanted in ("", file_digest(out))):
            # A pin has moved on since it was put there.
            out.unlink(missing_ok=True)
            download(source, out, timeout, attempts, wait, by_hand, lock)


def missing(
    sources: Iterable[Source], downloads: Path, by_hand: Path = BY_HAND, lock: Path = LOCK
) -> list[str]:
    """What can't be had of sources that were not fetched yet, a sentence each.

    Args:
        sources: rows of the table.
        downloads: the folder that fetched files are in.
        by_hand: where a person may have put files.
        lock: the lock file.
    """
    return [
        f"`{source.name}` {cause}; or put the file by hand at {by_hand / source.name}"
        for source in sources
        if source.origin != "here"
        and not (downloads / source.name).is_file()
        and not (by_hand / source.name).is_file()
        for cause in _hindrances(pinned(source, lock))
    ]


def _hindrances(source: Source) -> Iterator[str]:
    if source.gated == "yes" and not (source.origin == "hub" and os.environ.get("HF_TOKEN")):
        yield f"is gated: {hub.ACCEPT if source.origin == 'hub' else 'its terms need a person'}"
    if source.origin == "hub" and hub.is_off():
        yield "is on the Hugging Face hub, which is switched off: set HF_HUB_OFFLINE=0"


def _take(local: Path, source: Source, partial: Path) -> None:
    shutil.copyfile(local, partial)
    try:
        _check(source, partial)
    except WrongBytesError as error:
        raise SteerError(str(local), str(error), f"put the file of {source.address} there") from error


def _fetch(source: Source, partial: Path, timeout: float, attempts: int, wait: float, local: Path) -> str:
    if source.gated == "yes" and source.origin != "hub":
        raise _given_up(source, "its terms have to be accepted by a person", local)

    def fetch_once() -> str:
        revision = ORIGINS[source.origin](source, partial, timeout)
        _check(source, partial)
        return revision

    retrying = Retrying(
        retry=retry_if_exception_type(PassingError),
        stop=stop_after_attempt(attempts) | _WrongTwice(),
        wait=wait_exponential(multiplier=wait),
        before_sleep=lambda state: log.warning("%s: %s", source.name, _describe(state, attempts)),
        reraise=True,
    )
    try:
        return str(retrying(fetch_once))
    except OriginError as error:
        tries = int(retrying.statistics["attempt_number"])
        times = "once" if tries == 1 else f"{tries} times"
        raise _given_up(source, f"{error} (tried {times})", local) from error


class _WrongTwice(stop_base):
    """Stops at the second wrong file of a download, whatever other faults came between."""

    def __init__(self) -> None:
        self._wrong = 0

    def __call__(self, retry_state: RetryCallState) -> bool:
        self._wrong += isinstance(_error(retry_state), WrongBytesError)
        return self._wrong >= TRIES_OF_WRONG_BYTES


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _describe(state: RetryCallState, attempts: int) -> str:
    return (
        f"try {state.attempt_number} of {attempts}: {_error(state)}; the next in {state.upcoming_sleep:g} s"
    )


def _check(source: Source, path: Path) -> None:
    found = file_digest(path)
    if source.sha256 and found != source.sha256:
        raise WrongBytesError(f"its sha256 is {found}, pinned is {source.sha256}")


def _given_up(source: Source, cause: str, local: Path) -> SteerError:
    return SteerError(
        f"source `{source.name}` ({source.address})",
        cause,
        f"without it: remove the sets of `source: {source.name}` from `sets` and `generation.sets` in "
        f"config.yaml; or put the file by hand at {local}; or run again when the network is back",
    )
