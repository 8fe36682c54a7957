"""Configuration files, overrides laid over them, and values picked out of the result."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from steer.config.parsing import parse
from steer.config.root import Config
from steer.errors import SteerError


def load(*paths: Path | str) -> Config:
    """Read one configuration file and the overrides laid over it, in order.

    Raises:
        SteerError: a file is missing or not YAML, or the result is not a valid configuration.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, _read(Path(path)))
    return parse(merged, " + ".join(str(path) for path in paths))


def _read(path: Path) -> dict[str, Any]:
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


def pick(config: Config, keys: Iterable[str], names: Mapping[str, str]) -> dict[str, Any]:
    """The values at dotted keys, as JSON-able values; `{name}` in a key is filled in from `names`."""
    values = config.model_dump(mode="json")
    return {key: _at(values, key.format(**names).split(".")) for key in keys}


def _at(section: Any, path: list[str]) -> Any:
    return _at(section[path[0]], path[1:]) if path else section
