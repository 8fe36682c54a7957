import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class SmallDisk:
    """A file system of a few megabytes.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def free(self) -> int:
        """Bytes left."""
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def leave(self, left: int) -> None:
        """Fill the disk up to `left` bytes; nothing that was there is touched."""
        filler = self.path / "filler"
        filler.unlink(missing_ok=True)
        with filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, self.free() - left)

    def clear(self) -> None:
        """Take the filling away."""
        (self.path / "filler").unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A tmpfs of 16 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield SmallDisk(path)
    subprocess.run(["umount", str(path)], check=True)
