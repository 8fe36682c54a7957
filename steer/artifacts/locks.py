"""One writer an output: a job that outlived its flow and the rerun of it must not share unfinished files.

Journals, parts, training states and `.partial` files have fixed names beside their output, so that a rerun
finds them. Two processes at work on one output would write into each other's.
"""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steer.artifacts.files import explained, lock_path, make_folder

log = logging.getLogger(__name__)

# What file systems answer that know no locks, as some of clusters do.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def sole_writer(out: Path | str) -> Iterator[None]:
    """Hold the output `out` for the length of the block; wait first while another process holds it.

    The system lets go of the lock when its process ends in any way, so a killed one blocks nobody. Who
    waited finds the other's finished rows, parts and training steps, and goes on from them.

    Raises:
        SteerError: the lock can't be written beside `out`.
    """
    path = lock_path(Path(out))
    with explained(Path(out)):
        make_folder(path.parent)
        descriptor = _acquire(path)
    try:
        yield
    finally:
        # Removed while it is held: whoever waits for this file sees that it is gone, and makes a new one.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _wait(descriptor, path)
            if _is_there(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _wait(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "unknown"
        log.warning(
            "waiting for process %s, which makes the same output (lock %s); it may be left of a flow that was"
            " killed: let it end, or stop it with `kill %s`, and this one goes on from what it has done",
            holder,
            path,
            holder.split()[0],
        )
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks; don't run two flows on it at once", path)


def _is_there(descriptor: int, path: Path) -> bool:
    """Whether the file that was opened is still the one of that name, and not one that its holder removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
