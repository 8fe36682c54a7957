"""Files that are whole or absent: written beside, flushed to disk, then renamed."""

import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steer.errors import SteerError

Row = dict[str, Any]
BOM = b"\xef\xbb\xbf"
"""Mark that some editors put before a text."""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_path(path: Path) -> Path:
    """The name beside `path` under which its unfinished bytes stand."""
    return path.with_name(f".{path.name}.partial")


def lock_path(path: Path) -> Path:
    """The name beside `path` whose lock means that a process is making it; see `steer.artifacts.locks`."""
    return path.with_name(f".{path.name}.lock")


def publish(partial: Path, final: Path) -> None:
    """Give the finished file or folder `partial` its final name, durably and at once."""
    members = sorted(partial.rglob("*")) if partial.is_dir() else []
    for member in [*members, partial]:
        _sync(member)
    if final.is_dir():
        shutil.rmtree(final)
    partial.replace(final)
    _sync(final.parent)


@contextmanager
def atomic_path(final: Path | str) -> Iterator[Path]:
    """Yield a path beside `final` to write to; publish it when the block ends well.

    The block may make a file or a folder there. When it raises, what it wrote is
    removed and `final` stays as it was.

    Raises:
        SteerError: the disk is full, or the folder can't be written to.
    """
    final = Path(final)
    partial = partial_path(final)
    with explained(final):
        try:
            make_folder(final.parent)
            remove(partial)
            yield partial
            publish(partial, final)
        except BaseException:
            remove(partial)
            raise


@contextmanager
def explained(final: Path) -> Iterator[None]:
    """Turn what can keep `final` from being written, within the block, into an error for the user.

    Raises:
        SteerError: the disk is full, or the folder can't be written to.
    """
    try:
        yield
    except BaseException as error:
        if _is_disk_full(error):
            raise disk_full(final) from error
        if isinstance(error, PermissionError) and _concerns(error, final):
            raise SteerError(str(final), "no permission to write", "check the folder's owner") from error
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, where they are not there.

    Raises:
        SteerError: a file is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise SteerError(
            str(folder), f"can't be a folder ({error.strerror}: {error.filename})", "move that file away"
        ) from error


def _concerns(error: OSError, final: Path) -> bool:
    """Whether the error is about writing `final`, and not about something that the block reads."""
    return error.filename in {
        str(place) for place in (final, partial_path(final), lock_path(final), *final.parents)
    }


def _is_disk_full(error: BaseException) -> bool:
    # h5py and safetensors report a full disk in words of their own, often without an errno.
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(sign in str(error) for sign in ("No space left on device", "Disk quota exceeded"))


def disk_full(path: Path, kept: str = "nothing was written under this name") -> SteerError:
    """The error for a write to `path` that found no room (or no quota); `kept` says what is left."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free / 2**20
    return SteerError(
        str(path),
        f"the disk is full ({free:.1f} MiB free); {kept}",
        "free some space, or set `results` to a folder on a larger disk, and run the same command again",
    )


def remove(path: Path) -> None:
    """Remove a file or a folder; do nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a whole file, atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def canonical_json(value: Any) -> str:
    """JSON of one spelling: sorted keys, no blanks, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_json(path: Path | str, value: Any) -> None:
    """Write an indented JSON file, keys in the order given."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        SteerError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise SteerError(
            str(path), f"is not JSON ({error})", "remove it and run again to rebuild it"
        ) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SteerError(str(path), "no such file", "run the stage that makes it first") from error
    except UnicodeDecodeError as error:
        raise SteerError(str(path), f"is not UTF-8 text ({error})", "convert the file to UTF-8") from error


def write_jsonl(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, streaming."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def iter_jsonl(path: Path | str) -> Iterator[Row]:
    """Read one JSON object a line, streaming.

    Raises:
        SteerError: the file is missing, or a line is not a JSON object (named by its number).
    """
    path = Path(path)
    if not path.is_file():
        cure = "correct its name, or run the stage that makes it first"
        raise SteerError(str(path), "no such file", cure)
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            yield _row(line, f"{path}, line {number}")


def _row(line: bytes, where: str) -> Row:
    if line.startswith(BOM):
        cause = "starts with a byte order mark"
        raise SteerError(where, cause, "save the file as UTF-8 without one")
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise SteerError(where, f"is not UTF-8 text ({error.reason})", "convert the file to UTF-8") from error
    except json.JSONDecodeError as error:
        raise SteerError(where, f"is not JSON ({error})", "mend or remove the file") from error
    if not isinstance(row, dict):
        raise SteerError(where, "is not a JSON object", "mend or remove the file")
    return row


def read_jsonl(path: Path | str) -> list[Row]:
    """All rows of a JSONL file; see `iter_jsonl`."""
    return list(iter_jsonl(path))


def write_csv(path: Path | str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a CSV table; floats with 10 significant digits, None and NaN as an empty cell.

    Raises:
        ValueError: a row has a key that is not among `columns`.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    write_bytes(path, stream.getvalue().encode())


def _cell(value: Any) -> Any:
    if value is None or value != value:
        return ""
    return format(value, ".10g") if isinstance(value, float) else value
