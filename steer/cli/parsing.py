"""The command line: every command with its flags."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from steer.cli.command import Command
from steer.cli.flags import FLAGS


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
            FLAGS[flag].add(stage, flag, required=flag in command.required)
    return whole
