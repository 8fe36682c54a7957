"""The command line: every command with its flags."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from steer.cli.command import Command

_PATHS = (
    *("--out", "--raw", "--checkpoint", "--facts", "--prompts", "--directions", "--harmful", "--harmless"),
    *("--selection", "--generation", "--agreement", "--categories", "--record", "--file", "--experts"),
    *("--recognise", "--control", "--ranking", "--published", "--attack", "--beside", "--scorecard"),
    *("--questions", "--texts"),
    *("--pooled", "--recovery"),
)
_PATH_LISTS = (
    "--others",
    "--shards",
    "--activations",
    "--arms",
    "--prompt-sets",
    "--routing",
    "--models",
    "--detections",
    "--truths",
    "--pairs",
    "--scores",
    "--replies",
)


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of all commands."""
    whole = argparse.ArgumentParser(prog="python -m steer", description=__import__("steer").__doc__)
    stages = whole.add_subparsers(dest="command", required=True, metavar="STAGE")
    for name, command in commands.items():
        stage = stages.add_parser(name, help=command.help, description=command.help)
        stage.add_argument(
            "--config", type=Path, action="append", help="configuration; given again, laid over the first"
        )
        for flag in (*command.required, *command.optional):
            _add_flag(stage, flag, required=flag in command.required)
    return whole


def _add_flag(command: argparse.ArgumentParser, flag: str, *, required: bool) -> None:
    if flag == "--fix":
        command.add_argument(flag, action="store_true", help="rewrite what drifted")
    elif not flag.startswith("-"):
        command.add_argument(flag, nargs=None if required else "?")
    elif flag in _PATH_LISTS:
        # An optional list may be empty, so that a rule can pass on whatever there is.
        count = "+" if required else "*"
        command.add_argument(flag, required=required, type=Path, nargs=count, metavar="FILE")
    else:
        command.add_argument(flag, required=required, type=Path if flag in _PATHS else str)
