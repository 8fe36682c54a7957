"""New HDF5 files on a disk that may be full."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py


class Sink(io.FileIO):
    """A file that keeps a failed write to itself.

    HDF5 (2.0, seen under h5py 3.16) ends the process with a segmentation fault when a flush fails on
    a full disk. So it is told that every write went well, and `check` raises what really happened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write all of `data`, or remember why that failed."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self._error is None:
            try:
                done += super().write(view[done:])
            except OSError as error:
                self._error = error
        return len(view)

    def check(self) -> None:
        """Raise the error of the first write that failed; call it between writes, to stop early.

        Raises:
            OSError: a write failed.
        """
        if self._error is not None:
            raise self._error


class NewFile(h5py.File):  # type: ignore[misc]
    """An HDF5 file that is being written, with a `check` for failed writes."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink, "w")
        self.check = sink.check


@contextmanager
def new_file(path: Path) -> Iterator[NewFile]:
    """Write an HDF5 file; nothing in it depends on the time.

    Raises:
        OSError: a write failed; the file is then worthless.
    """
    with Sink(path) as sink:
        try:
            with NewFile(sink) as file:
                yield file
        finally:
            # Comes first of all errors: HDF5 stumbles over the data that it believes to be there.
            sink.check()
