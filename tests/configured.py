"""A valid configuration to lay changes over, and the check that a wrong one is named."""

from typing import Any

import pytest

from steer.config import merge, parse
from steer.errors import SteerError
from tests.figure_inputs.study import config

NONE = {"operation": "none"}


def valid() -> dict[str, Any]:
    values: dict[str, Any] = config().model_dump(mode="json", exclude_unset=True)
    return values


def refuses(change: dict[str, Any], said: str) -> None:
    """A valid configuration with a change laid over it is an error that says so."""
    with pytest.raises(SteerError) as caught:
        parse(merge(valid(), change), "study.yaml")
    assert said in caught.value.cause
    assert caught.value.what == "study.yaml"
