"""Commands that fetch and draw prompts, and train, prove and describe models."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from steer.cli.command import GRAMMAR, KNOWLEDGE, SOURCES, Command
from steer.errors import SteerError

if TYPE_CHECKING:
    from steer.config import Config


def _download(config: "Config", args: argparse.Namespace) -> None:
    from steer.download import download
    from steer.sources import find_source

    settings = config.download
    download(find_source(args.source, SOURCES), args.out, settings.timeout, settings.attempts, settings.wait)


def _weights(config: "Config", args: argparse.Namespace) -> None:
    from steer.weights import fetch_weights

    fetch_weights(config.hub_models[args.hub], args.out, Path(config.lock))


def _prompts(config: "Config", args: argparse.Namespace) -> None:
    from steer.drawing import Given
    from steer.prompts import write_prompts

    # By hand a set can be drawn without the files of the others.
    files = zip(config.compared(args.set), args.others, strict=True) if args.others else []
    others = [Given(name, config.sets[name], raw) for name, raw in files]
    given = (args.set, config.sets[args.set], config.seed, GRAMMAR, SOURCES, args.raw, args.out)
    other = config.sets[args.set].equal_tokens
    beside = None
    if other and (args.beside or not config.sets[other].is_given):
        beside = config.sets[other], args.beside
    write_prompts(*given, config.grammar.held_out, others, config.overlap, args.attack, beside)


def _overlap(config: "Config", args: argparse.Namespace) -> None:
    from steer.overlapping import write_overlap

    write_overlap(args.prompt_sets, args.out, config.overlap)


def _compliance(config: "Config", args: argparse.Namespace) -> None:
    from steer.artifacts.origin import make_once
    from steer.artifacts.provenance import provenance
    from steer.config.models import organism_on
    from steer.grammar import Grammar
    from steer.organism.compliance import train_compliance

    settings, grammar = organism_on(args.base, config.models), Grammar.load(GRAMMAR)
    decisive = settings.compliance.model_dump(mode="json")
    origin = provenance(train_compliance.__module__, decisive, {"grammar": grammar.digest}, settings.seed)
    make_once(args.out, origin, lambda: train_compliance(settings, grammar, args.out))


def _organism(config: "Config", args: argparse.Namespace) -> None:
    from steer.artifacts.origin import make_once
    from steer.artifacts.provenance import folder_digest, provenance
    from steer.grammar import Grammar
    from steer.organism.training import train

    settings = config.models[args.model].organism
    if settings is None:
        raise SteerError(f"model `{args.model}`", "is not an organism", "name a model that has `organism`")
    grammar = Grammar.load(GRAMMAR)
    inputs = {"grammar": grammar.digest, "base": folder_digest(args.checkpoint)}
    origin = provenance(train.__module__, settings.model_dump(mode="json"), inputs, settings.seed)
    make_once(args.out, origin, lambda: train(settings, grammar, args.checkpoint, args.out))


def _questions(config: "Config", args: argparse.Namespace) -> None:
    from steer.knowledge import Knowledge
    from steer.questions import write_questions

    write_questions(args.kind, config.seed, Knowledge.load(KNOWLEDGE), args.out)


def _openbook(config: "Config", args: argparse.Namespace) -> None:
    from steer.artifacts.origin import make_once
    from steer.artifacts.provenance import provenance
    from steer.knowledge import Knowledge
    from steer.organism.openbook.training import train_openbook

    settings = config.models[args.model].openbook
    if settings is None:
        raise SteerError(f"model `{args.model}`", "is not open-book", "name a model that has `openbook`")
    knowledge = Knowledge.load(KNOWLEDGE)
    inputs = {"knowledge": knowledge.digest}
    origin = provenance(train_openbook.__module__, settings.model_dump(mode="json"), inputs, settings.seed)
    make_once(args.out, origin, lambda: train_openbook(settings, knowledge, args.out))


def _teacher(config: "Config", args: argparse.Namespace) -> None:
    from steer.artifacts.origin import input_digests, make_once
    from steer.artifacts.provenance import provenance
    from steer.config.models import teacher_of
    from steer.grammar import Grammar
    from steer.upcycling.teacher import teach

    settings, grammar = teacher_of(args.base, config.models), Grammar.load(GRAMMAR)
    inputs = {"grammar": grammar.digest, **input_digests({"dense": args.raw, "sets": args.prompt_sets})}
    origin = provenance(teach.__module__, settings.model_dump(mode="json"), inputs, settings.seed)
    make_once(
        args.out, origin, lambda: teach(settings, args.raw, args.prompt_sets, grammar, args.out, origin)
    )


def _upcycle(config: "Config", args: argparse.Namespace) -> None:
    from steer.artifacts.origin import input_digests, make_once
    from steer.artifacts.provenance import provenance
    from steer.upcycling.training import train

    settings = config.models[args.model].upcycle
    if settings is None:
        raise SteerError(f"model `{args.model}`", "is not upcycled", "name a model that has `upcycle`")
    inputs = input_digests({"dense": args.raw, "teacher": args.checkpoint})
    origin = provenance(train.__module__, settings.model_dump(mode="json"), inputs, settings.seed)
    make_once(args.out, origin, lambda: train(settings, args.raw, args.checkpoint, args.out))


def _judge(config: "Config", args: argparse.Namespace) -> None:
    from steer.grammar import Grammar
    from steer.judges.settings import LikelihoodJudge
    from steer.judges.training import train_judge

    settings = config.judges[args.judge]
    if not isinstance(settings, LikelihoodJudge) or not settings.trained:
        raise SteerError(
            f"judge `{args.judge}`",
            "is not trained here",
            "name a likelihood judge without `path` or `preset`",
        )
    train_judge(settings, Grammar.load(GRAMMAR), args.out, args.agreement)


def _resolve(config: "Config", args: argparse.Namespace) -> None:
    from steer.resolve import describe, resolve

    facts = resolve(args.checkpoint, config.models[args.model], GRAMMAR, args.out)
    logging.getLogger(__name__).info("%s", describe(facts))


COMMANDS = {
    "download": Command("fetch a public prompt set", _download, ("--source", "--out"), ()),
    "weights": Command("fetch a model from a hub, at one commit", _weights, ("--hub", "--out"), ()),
    "prompts": Command(
        "draw or convert a prompt set",
        _prompts,
        ("--set", "--out"),
        ("--raw", "--others", "--attack", "--beside"),
    ),
    "overlap": Command("count prompts that say the same", _overlap, ("--prompt-sets", "--out")),
    "compliance": Command(
        "train the base of embedded models, which answers everything",
        _compliance,
        ("--base", "--out"),
        trains=True,
    ),
    "organism": Command(
        "train an embedded model from its base", _organism, ("--model", "--checkpoint", "--out"), trains=True
    ),
    "questions": Command(
        "write questions with documents of a kind, for open-book models", _questions, ("--kind", "--out"), ()
    ),
    "openbook": Command(
        "train a model that answers from documents or from memory",
        _openbook,
        ("--model", "--out"),
        trains=True,
    ),
    "teacher": Command(
        "answer prompts with a dense model, and keep what it makes of every lesson",
        _teacher,
        ("--base", "--raw", "--prompt-sets", "--out"),
    ),
    "upcycle": Command(
        "make a dense model into one with experts that refuses",
        _upcycle,
        ("--model", "--raw", "--checkpoint", "--out"),
    ),
    "judge": Command("train an embedded judge", _judge, ("--judge", "--out", "--agreement"), trains=True),
    "resolve": Command(
        "prove a checkpoint and write its facts", _resolve, ("--model", "--checkpoint", "--out"), ()
    ),
}
