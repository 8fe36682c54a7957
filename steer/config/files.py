"""Configuration files, overrides laid over them, and values picked out of the result."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from steer.config.names import nearest
from steer.config.parsing import named_sections, parse
from steer.config.root import Config
from steer.errors import SteerError


def load(*paths: Path | str) -> Config:
    """Read one configuration file and the overrides laid over it, in order.

    Raises:
        SteerError: a file is missing or not YAML, or the result is not a valid configuration.
    """
    return parse(laid_over(*paths), " + ".join(str(path) for path in paths))


def laid_over(*paths: Path | str) -> dict[str, Any]:
    """The values of one configuration file and of the overrides laid over it, in order, as they stand there.

    Raises:
        SteerError: a file is missing or not YAML, or leaves out what those before it don't have.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        over = read_settings(Path(path))
        if merged:
            check_removals(merged, over, str(path))
        merged = merge(merged, over)
    return merged


def read_settings(path: Path) -> dict[str, Any]:
    """The values of one configuration file, as they stand in it.

    Raises:
        SteerError: it is missing, or holds no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SteerError(str(path), "no such file", "name an existing file with --config") from error
    except yaml.YAMLError as error:
        raise SteerError(str(path), f"is not YAML ({error})", "mend the line that is named") from error
    if not isinstance(values, dict):
        raise SteerError(str(path), "is not a mapping of settings", "start from config.yaml")
    return values


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` laid over it, mapping by mapping, as Snakemake merges files."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def check_removals(base: dict[str, Any], over: dict[str, Any], origin: str = "an override") -> None:
    """Check that what an override leaves out, by saying `false`, was there.

    Raises:
        SteerError: a name that `base` does not have, with the nearest that it has.
    """
    for key in named_sections():
        there, said = base.get(key), over.get(key)
        if not isinstance(there, dict) or not isinstance(said, dict):
            continue
        for name in said:
            if said[name] is False and name not in there:
                cause = f"`{key}.{name}: false` leaves out what is not there"
                raise SteerError(origin, cause, nearest(name, sorted(there)))


def pick(config: Config, keys: Iterable[str], names: Mapping[str, str]) -> dict[str, Any]:
    """The values at dotted keys, as JSON-able values; `{name}` in a key is filled in from `names`."""
    values = config.model_dump(mode="json")
    return {key: _at(values, key.format(**names).split(".")) for key in keys}


def _at(section: Any, path: list[str]) -> Any:
    return _at(section[path[0]], path[1:]) if path else section
