"""Stage `download`: fetch a public prompt set, exactly the pinned bytes or nothing."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from tenacity.stop import stop_base

from steer.artifacts.files import atomic_path
from steer.artifacts.origin import attach
from steer.artifacts.provenance import file_digest, provenance
from steer.errors import SteerError
from steer.origins import OriginError, PassingError, WrongBytesError, https, pypi
from steer.sources import Source

log = logging.getLogger(__name__)

Fetch = Callable[[Source, Path, float], None]

ORIGINS: dict[str, Fetch] = {"https": https.fetch, "pypi": pypi.fetch}
BY_HAND = Path("data/by_hand")
# A mirror may serve a broken copy once; one that does so twice has another file.
TRIES_OF_WRONG_BYTES = 2


def download(
    source: Source, out: Path, timeout: float, attempts: int, wait: float, by_hand: Path = BY_HAND
) -> None:
    """Write the source's file to `out`, as it was pinned, whole or not at all.

    A file of the source's name in the folder `by_hand` is taken instead of asking the network.

    Args:
        source: a row of the table of sources.
        out: the file to write.
        timeout: longest silence of a server, in seconds.
        attempts: tries of what another try can help; of a wrong checksum at most two.
        wait: wait before the second try, in seconds; doubled each time.
        by_hand: where a person may have put the file.

    Raises:
        SteerError: the file can't be had, or is not the pinned one; names the source, the address, the cause
            and the ways to go on.
    """
    local = by_hand / source.name
    with atomic_path(out) as partial:
        if local.is_file():
            _take(local, source, partial)
        else:
            _fetch(source, partial, timeout, attempts, wait, local)
    attach(out, provenance(__name__, source.model_dump(mode="json"), {source.address: source.sha256}))
    log.info("%s: %d bytes, sha256 as pinned, licence %s", source.name, source.bytes, source.licence)


def _take(local: Path, source: Source, partial: Path) -> None:
    shutil.copyfile(local, partial)
    try:
        _check(source, partial)
    except WrongBytesError as error:
        raise SteerError(str(local), str(error), f"put the file of {source.address} there") from error


def _fetch(source: Source, partial: Path, timeout: float, attempts: int, wait: float, local: Path) -> None:
    if source.gated == "yes":
        raise _given_up(source, "its terms have to be accepted by a person", local)

    def fetch_once() -> None:
        ORIGINS[source.origin](source, partial, timeout)
        _check(source, partial)

    retrying = Retrying(
        retry=retry_if_exception_type(PassingError),
        stop=stop_after_attempt(attempts) | _WrongTwice(),
        wait=wait_exponential(multiplier=wait),
        before_sleep=lambda state: log.warning("%s: %s", source.name, _describe(state, attempts)),
        reraise=True,
    )
    try:
        retrying(fetch_once)
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
    if found != source.sha256:
        raise WrongBytesError(f"its sha256 is {found}, pinned is {source.sha256}")


def _given_up(source: Source, cause: str, local: Path) -> SteerError:
    return SteerError(
        f"source `{source.name}` ({source.address})",
        cause,
        f"without it: remove the sets of `source: {source.name}` from `sets` and `generation.sets` in "
        f"config.yaml; or put the file by hand at {local}; or run again when the network is back",
    )
