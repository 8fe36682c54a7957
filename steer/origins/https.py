"""A file behind an https URL."""

import time
from pathlib import Path

import httpx

from steer.origins import PASSING_STATUS, OriginError, PassingError, WrongBytesError
from steer.sources import Source, is_allowed_url

# Slower than this a server counts as stalled, however steadily it trickles.
SLOWEST = 8 * 1024
LARGEST = 512 * 1024**2
"""Bytes of a file whose size nobody knows yet."""


def fetch(source: Source, path: Path, timeout: float) -> str:
    """Write the file at the source's URL to `path`, streaming.

    Args:
        source: a row of origin `https`.
        path: the file to write.
        timeout: longest silence in seconds. A whole file may take that long and the time that it needs at
            8 KiB per second.

    Returns:
        The commit that the URL names.

    Raises:
        PassingError: no connection, silence, a broken body, or a status that tells of a passing fault.
        OriginError: any other status, or a redirect away from https.
    """
    hooks = {"request": [_refuse_other_schemes]}
    # As it is stored: a body that is compressed on the way has no length to check.
    headers = {"Accept-Encoding": "identity"}
    try:
        with (
            httpx.Client(
                timeout=timeout, follow_redirects=True, event_hooks=hooks, headers=headers
            ) as client,
            client.stream("GET", source.location) as response,
        ):
            _check_status(response)
            longest = source.bytes or LARGEST
            _write(response, source, path, time.monotonic() + timeout + longest / SLOWEST)
    except httpx.TimeoutException as error:
        raise PassingError(f"nothing came for {timeout:g} s ({type(error).__name__})") from error
    except httpx.TransportError as error:
        raise PassingError(f"the connection failed ({str(error) or type(error).__name__})") from error
    except httpx.HTTPError as error:
        raise OriginError(str(error)) from error
    return source.revision


def _refuse_other_schemes(request: httpx.Request) -> None:
    if not is_allowed_url(str(request.url)):
        # The path of a redirect can hold what only its receiver should know.
        raise OriginError(f"a redirect leaves https, for {request.url.scheme}://{request.url.host}")


def _check_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    cause = f"the server answered {response.status_code} {response.reason_phrase}"
    raise PassingError(cause) if response.status_code in PASSING_STATUS else OriginError(cause)


def _write(response: httpx.Response, source: Source, path: Path, deadline: float) -> None:
    size = 0
    with path.open("wb") as stream:
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > (source.bytes or LARGEST):
                pinned = f"its {source.bytes} pinned bytes" if source.bytes else f"{LARGEST} bytes"
                raise WrongBytesError(f"the file is longer than {pinned}")
            if time.monotonic() > deadline:
                raise PassingError(f"too slow: {size} of {source.bytes or 'unknown'} bytes came in time")
            stream.write(chunk)
    if source.bytes and size < source.bytes:
        raise PassingError(f"the body ended after {size} of {source.bytes} bytes")
