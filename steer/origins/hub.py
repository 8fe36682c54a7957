"""A data set of the Hugging Face hub, at a commit, written as JSON lines."""

import json
import os
from pathlib import Path
from typing import Any

from steer.origins import PASSING_STATUS, OriginError, PassingError, hush
from steer.sources import Source

ACCEPT = "accept its terms on the hub and set HF_TOKEN to a token of that account"


def is_off() -> bool:
    """Whether nothing may be fetched from the hub, as is the default."""
    return os.environ.get("HF_HUB_OFFLINE", "1").lower() in ("1", "true", "yes", "on")


def fetch(source: Source, path: Path, timeout: float) -> str:
    """Write every row of the source's subset and split to `path`, in their order, keys sorted.

    The SHA-256 of such a file is the fingerprint of the rows: it depends on no version of the library.

    Args:
        source: a row of origin `hub`.
        path: the file to write.
        timeout: longest silence of the hub in seconds, when it is asked for the commit.

    Returns:
        The commit that was fetched.

    Raises:
        PassingError: the hub is not reached, or is broken.
        OriginError: it is switched off, has no such data set, commit, subset or split, or wants its terms
            to be accepted first.
    """
    if is_off():
        raise OriginError("the hub is switched off (HF_HUB_OFFLINE); `make HF_HUB_OFFLINE=0` switches it on")
    from datasets.exceptions import DatasetsError
    from httpx2 import HTTPError
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    hush()
    try:
        commit = _commit(source, timeout)
        _write(_rows(source, commit), path)
    except GatedRepoError as error:
        raise OriginError(f"its terms have to be accepted by a person: {ACCEPT}") from error
    except RepositoryNotFoundError as error:
        raise OriginError(f"the hub has no such data set, or not for everyone: {ACCEPT}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        kind = PassingError if status in PASSING_STATUS else OriginError
        raise kind(f"the hub answered {status}") from error
    except (ValueError, FileNotFoundError) as error:
        raise OriginError(f"can't be read as a data set ({_kind(error)})") from error
    except (HTTPError, OSError, DatasetsError) as error:
        raise PassingError(f"the hub can't be reached, or broke off ({_kind(error)})") from error
    return commit


def _commit(source: Source, timeout: float) -> str:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    found = api.dataset_info(source.location, revision=source.revision or None, timeout=timeout).sha
    if not found:
        raise OriginError("the hub names no commit of it")
    return str(found)


def _rows(source: Source, commit: str) -> Any:
    from datasets import load_dataset

    subset, _, split = source.member.partition(":")
    return load_dataset(source.location, subset or None, split=split, revision=commit)


def _write(rows: Any, path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, sort_keys=True, default=str) + "\n")


def _kind(error: BaseException) -> str:
    """What went wrong, without the library's words: they can hold signed addresses."""
    return type(error).__name__
