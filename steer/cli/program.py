"""`python -m steer STAGE`: one thin command per stage, to run by hand what a rule runs."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from steer.cli.command import SOURCES, Command
from steer.cli.evidence import COMMANDS as EVIDENCE
from steer.cli.models import COMMANDS as MODELS
from steer.cli.parsing import parser
from steer.cli.reading import COMMANDS as READING
from steer.cli.records import COMMANDS as RECORDS
from steer.cli.steering import COMMANDS as STEERING
from steer.errors import SteerError

if TYPE_CHECKING:
    from steer.config import Config

COMMANDS: dict[str, Command] = MODELS | READING | STEERING | EVIDENCE | RECORDS


def _check_names(config: "Config", args: argparse.Namespace) -> None:
    """Check that the names given on the command line are those of the configuration."""
    known: dict[str, Sequence[str]] = {
        "method": ["arditi", "cosmic", "strength", "experts"],
        "model": list(config.models),
        "set": list(config.sets),
        "judge": list(config.judges),
        "contrast": list(config.contrasts),
        "hub": list(config.hub_models),
    }
    if args.command == "questions":
        from steer.knowledge import KINDS

        known["kind"] = KINDS
    if args.command == "figures":
        # Some are about all models together; the registry knows which.
        del known["model"]
    for kind, names in known.items():
        name = getattr(args, kind, None)
        if name is not None and name not in names:
            raise SteerError(f"{kind} `{name}`", "is unknown", f"known: {', '.join(names)}")


def _alone(config: "Config", args: argparse.Namespace) -> AbstractContextManager[None]:
    """The output of the command, held against other processes; nothing for a command without one."""
    from steer.artifacts.locks import sole_writer

    out = getattr(args, "out", None)
    if args.command == "figures":
        out = Path(config.results) / args.model / "figures" / args.figure
    return nullcontext() if out is None else sole_writer(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit status: 0, or 1 after an error that is explained on stderr."""
    args = parser(COMMANDS).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Nothing is fetched from a hub behind the user's back, and progress bars have no place in a log.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        from steer.config import load

        config = load(*(args.config or [Path("config.yaml")]))
        if COMMANDS[args.command].trains or config.is_embedded(getattr(args, "model", None)):
            from steer.kernels import use_shared_instructions

            use_shared_instructions()
        if any(model.system_source for model in config.models.values()):
            from steer.system_turns import with_system_turns

            config = with_system_turns(config, SOURCES)
        _check_names(config, args)
        with _alone(config, args):
            COMMANDS[args.command].run(config, args)
    except SteerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0
