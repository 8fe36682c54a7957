"""One command as data, and what several commands share."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steer.config import Config, ModelSettings
    from steer.rates import Method

KNOWLEDGE = Path("data/knowledge")
GRAMMAR = Path("data/grammar")
SOURCES = Path("data/sources.tsv")

Run = Callable[["Config", argparse.Namespace], None]


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        help: what it does, in half a sentence.
        run: its function; what it imports is imported when it runs.
        required: flags that must be given.
        optional: flags that may be.
        trains: whether it trains an embedded model, with instructions that machines share (`steer.kernels`).
    """

    help: str
    run: Run
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    trains: bool = False


def on_engine(model: "ModelSettings") -> None:
    """Go on in the Python that has the engine of a model, if that is another one; see `hand_over`."""
    if model.engine == "vllm":
        from steer.vllm.support import hand_over

        hand_over(sys.argv[1:])


def method_of(config: "Config", **more: Any) -> "Method":
    """How intervals are made, as the settings say; `more` are the fields that only some tables use."""
    from steer.rates import Method

    return Method(config.scores.confidence, config.scores.resamples, config.seed, **more)
