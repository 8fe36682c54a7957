"""Commands about what is there, and what is to come: provenance, documented settings, the plan of a study."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from steer.cli.command import GRAMMAR, KNOWLEDGE, SOURCES, Command
from steer.errors import SteerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from steer.config import Config, ModelSettings
    from steer.plan.anatomy import Anatomy
    from steer.upcycling import UpcycleSettings

STUDIES = Path("workflow/studies")


def _provenance(config: "Config", args: argparse.Namespace) -> None:
    from steer.artifacts.origin import read_provenance

    del config
    sys.stdout.write(json.dumps(read_provenance(args.file), indent=2) + "\n")


def _config(config: "Config", args: argparse.Namespace) -> None:
    from steer.documentation import write_documentation

    del config
    write_documentation(check=not args.fix)


def _plan(config: "Config", args: argparse.Namespace) -> None:
    from steer.plan.report import Rates, plan
    from steer.plan.study import Lengths
    from steer.preflight import check_study

    if args.study:
        config = _study(args.study, args.config or [Path("config.yaml")])
    check_study(config, GRAMMAR, SOURCES)
    default = Rates()
    lengths = Lengths(
        int(_number("--prompt-tokens", args.prompt_tokens, default.lengths.prompt)),
        int(_number("--target-tokens", args.target_tokens, default.lengths.target)),
    )
    prices = (
        _number("--price-in", args.price_in, default.price_in),
        _number("--price-out", args.price_out, default.price_out),
    )
    anatomies = {name: anatomy_for(name, model) for name, model in config.models.items()}
    sys.stdout.write(plan(config, anatomies, Rates(args.gpu or default.gpu, lengths, *prices)))


def _prefetch(config: "Config", args: argparse.Namespace) -> None:
    from steer.download import prefetch
    from steer.sources import with_parts

    if args.study:
        config = _study(args.study, args.config or [Path("config.yaml")])
    settings = config.download
    rows = [row for name in config.public_sources for row in with_parts(name, SOURCES)]
    prefetch(rows, settings.timeout, settings.attempts, settings.wait)


def anatomy_for(name: str, model: "ModelSettings") -> "Anatomy":
    """What a model is made of; an embedded one is built without weights, as its training would build it."""
    import torch

    from steer.plan.anatomy import count
    from steer.plan.sources import anatomy_at

    if model.upcycle is not None:
        return _upcycled(name, model.upcycle)
    trained = model.organism or model.openbook
    if trained is None:
        return anatomy_at(name, model.path or "")
    from steer.organism.model import build_model

    with torch.device("meta"):
        return count(build_model(trained, _tokenizer(model)), trained.experts)


def _tokenizer(model: "ModelSettings") -> "PreTrainedTokenizerFast":
    """That of a model which is trained here on one of the grammars."""
    if model.organism:
        from steer.grammar import Grammar
        from steer.training.tokenizer import build_tokenizer

        return build_tokenizer(Grammar.load(GRAMMAR), model.organism.merges)
    from steer.knowledge import Knowledge
    from steer.organism.openbook.training import build_tokenizer as build_openbook

    return build_openbook(Knowledge.load(KNOWLEDGE))


def _upcycled(name: str, settings: "UpcycleSettings") -> "Anatomy":
    """What an upcycled model is made of, by the architecture of the dense one."""
    from transformers import LlamaConfig

    from steer.catalogue import architecture
    from steer.plan.anatomy import anatomy_of
    from steer.upcycling.sparse import sparse_config

    dense = architecture(settings.source)
    if dense is None:
        cause = f"the architecture of `{settings.source}` is not known: data/models.yaml has no row"
        raise SteerError(f"model `{name}`", cause, "add a row")
    return anatomy_of(sparse_config(LlamaConfig(**dense), settings).to_dict(), name)


def _study(name: str, configs: list[Path]) -> "Config":
    """The configuration with a study laid over it: a file, or a name in workflow/studies."""
    from steer.config import load
    from steer.config.names import nearest

    studies = {path.stem: path for path in sorted(STUDIES.glob("*.yaml"))}
    path = studies.get(name, Path(name))
    if not path.is_file():
        raise SteerError(
            f"study `{name}`", f"is no file, and none of {STUDIES}", nearest(name, list(studies))
        )
    return load(*configs, path)


def _number(flag: str, text: str | None, default: int | float) -> float:
    """The value of a flag.

    Raises:
        SteerError: it is no number, or below zero.
    """
    try:
        value = float(default if text is None else text)
    except ValueError as error:
        raise SteerError(flag, f"`{text}` is no number", "give one, such as 64") from error
    if not 0 <= value < float("inf"):
        raise SteerError(flag, f"{text} can't be", "give a number of zero or more")
    return value


COMMANDS = {
    "provenance": Command("print where a file of the results comes from", _provenance, ("--file",), ()),
    "plan": Command(
        "print what a study costs: parameters, bytes, GPUs, passes, tokens, time, judge calls",
        _plan,
        (),
        ("study", "--gpu", "--prompt-tokens", "--target-tokens", "--price-in", "--price-out"),
    ),
    "prefetch": Command(
        "put every public prompt file of a study into data/by_hand, for runs without a network",
        _prefetch,
        (),
        ("study",),
    ),
    "config": Command("check the generated documentation of the settings", _config, (), ("--fix",)),
}
