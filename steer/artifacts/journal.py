"""Finished rows of a stage that may be stopped at any moment, so that no row is computed twice."""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from steer.artifacts.files import Row, atomic_path, disk_full
from steer.errors import SteerError


class Journal:
    """An append-only JSONL file of keyed rows: `{"key": …, "row": {…}}` a line.

    A key is the digest of everything that decides the row, so a journal may hold rows of other
    settings beside those that are wanted. Only keys are held in memory. The order of lines is that
    of the work; the caller writes the final file in an order of its own.

    Args:
        path: the file; made when absent. A last line that was cut short is dropped, so that its row
            is computed again.

    Raises:
        SteerError: a line other than the last is damaged (named by its number).
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self._open()

    def _open(self) -> None:
        self._offsets, self._end = _index(self.path)
        os.truncate(self.path, self._end)
        self._writer = self.path.open("ab", buffering=0)
        self._reader = self.path.open("rb")

    def _close(self) -> None:
        self._writer.close()
        self._reader.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def get(self, key: str) -> Row:
        """The row of a key.

        Raises:
            KeyError: no such row.
        """
        self._reader.seek(self._offsets[key])
        row: Row = json.loads(self._reader.readline())["row"]
        return row

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Append one row; it is on disk when this returns."""
        self.add_many([(key, row)])

    def add_many(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Append the rows of one batch; they are on disk when this returns.

        Raises:
            ValueError: a key is there already, or a row is not JSON.
            SteerError: the disk is full; earlier batches are kept, this one is not.
        """
        lines: dict[str, bytes] = {}
        for key, row in rows:
            if key in self._offsets or key in lines:
                raise ValueError(f"{self.path}: key {key} is there already")
            line = json.dumps({"key": key, "row": row}, ensure_ascii=False, allow_nan=False) + "\n"
            lines[key] = line.encode()
        self._append(b"".join(lines.values()))
        for key, encoded in lines.items():
            self._offsets[key] = self._end
            self._end += len(encoded)

    def drop_stale(self, wanted: Collection[str]) -> None:
        """Drop the rows that are not wanted, once they are more than the wanted ones.

        So a journal stays within twice its needed length, and most settings that are tried and taken back
        find their rows again. Call it when the final file is written.

        Raises:
            SteerError: the disk is full; nothing is lost.
        """
        kept = sorted(self._offsets[key] for key in {*wanted} & self._offsets.keys())
        if len(self) <= 2 * len(kept):
            return
        with atomic_path(self.path) as partial, partial.open("wb") as stream:
            for offset in kept:
                self._reader.seek(offset)
                stream.write(self._reader.readline())
        self._close()
        self._open()

    def _append(self, content: bytes) -> None:
        left = memoryview(content)
        try:
            while left:
                left = left[self._writer.write(left) :]
            os.fsync(self._writer.fileno())
        except OSError as error:
            self._writer.truncate(self._end)
            raise disk_full(self.path, f"the {len(self)} finished rows in it are kept") from error


def _index(path: Path) -> tuple[dict[str, int], int]:
    """Where the whole line of each key begins, and where the last one ends, in bytes."""
    offsets: dict[str, int] = {}
    end = 0
    damaged: int | None = None
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if damaged is not None:
                raise SteerError(
                    f"{path}, line {damaged}", "is damaged, and lines follow it", "remove the line"
                )
            key = _key(line)
            if key is None:
                damaged = number
                continue
            offsets[key] = end
            end += len(line)
    return offsets, end


def _key(line: bytes) -> str | None:
    """The key of a whole line; None for one that was cut short."""
    if not line.endswith(b"\n"):
        return None
    try:
        return str(json.loads(line)["key"])
    except (ValueError, KeyError, TypeError):
        return None
