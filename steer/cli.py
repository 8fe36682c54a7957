"""`python -m steer STAGE`: one thin command per stage, to run by hand what a rule runs."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from steer.errors import SteerError

if TYPE_CHECKING:
    from steer.config import Config, ModelSettings
    from steer.judges.verdicts import Judge

    # What every method of selection is given: facts, directions, both prompt sets, output, model.
    Common = tuple[Path, Path, Path, Path, Path, ModelSettings]

GRAMMAR = Path("data/grammar")
SOURCES = Path("data/sources.tsv")

Run = Callable[["Config", argparse.Namespace], None]


def _download(config: "Config", args: argparse.Namespace) -> None:
    from steer.download import download
    from steer.sources import find_source

    settings = config.download
    download(find_source(args.source, SOURCES), args.out, settings.timeout, settings.attempts, settings.wait)


def _prompts(config: "Config", args: argparse.Namespace) -> None:
    from steer.prompts import write_prompts

    settings, held_out = config.sets[args.set], config.grammar.held_out
    write_prompts(args.set, settings, config.seed, GRAMMAR, SOURCES, args.raw, args.out, held_out)


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


def _judge(config: "Config", args: argparse.Namespace) -> None:
    from steer.grammar import Grammar
    from steer.judges.settings import LikelihoodJudge
    from steer.judges.training import train_judge

    settings = config.judges[args.judge]
    if not isinstance(settings, LikelihoodJudge) or settings.path:
        raise SteerError(
            f"judge `{args.judge}`", "is not trained here", "name a likelihood judge without `path`"
        )
    train_judge(settings, Grammar.load(GRAMMAR), args.out, args.agreement)


def _resolve(config: "Config", args: argparse.Namespace) -> None:
    from steer.resolve import describe, resolve

    facts = resolve(args.checkpoint, config.models[args.model], GRAMMAR, args.out)
    logging.getLogger(__name__).info("%s", describe(facts))


def _activations(config: "Config", args: argparse.Namespace) -> None:
    from steer.activations import dump_activations

    dump_activations(args.facts, args.prompts, args.out, config.models[args.model], config.activations)


def _directions(config: "Config", args: argparse.Namespace) -> None:
    from steer.directions.refusal import estimate_directions

    estimate_directions(args.activations, args.out, config.directions)


def _expert_directions(config: "Config", args: argparse.Namespace) -> None:
    from steer.directions.experts import estimate_expert_directions

    estimate_expert_directions(args.facts, args.activations, args.record, args.out, config.models[args.model])


def _routing(config: "Config", args: argparse.Namespace) -> None:
    contrast = config.contrasts[args.contrast]
    if contrast.ranking is not None:
        from steer.routing.published import import_ranking

        import_ranking(Path(contrast.ranking), args.facts, args.out)
        return
    from steer.routing.contrast import write_contrast

    if not (args.activations and args.prompt_sets):
        cause = "its files are not given"
        raise SteerError(
            f"contrast `{args.contrast}`", cause, "name them with --activations and --prompt-sets"
        )
    files = (args.facts, args.activations, args.prompt_sets, args.out)
    write_contrast(contrast, *files, config.routing, config.seed)


def _sorting(config: "Config", args: argparse.Namespace) -> None:
    from steer.routing.sorting import write_experts

    write_experts(args.recognise, args.control, args.out, config.routing)


def _detection(config: "Config", args: argparse.Namespace) -> None:
    from steer.detection.detecting import Inputs, detect

    tables = (args.directions, args.experts, tuple(args.routing), tuple(args.pairs or ()))
    inputs = Inputs(args.facts, args.harmful, args.harmless, args.record, *tables)
    model, positions = config.models[args.model], config.activations.positions
    detect(inputs, args.out, model, config.detection, positions, config.seed)


def _decomposition(config: "Config", args: argparse.Namespace) -> None:
    from steer.decomposition import decompose

    model, positions = config.models[args.model], config.activations.positions
    decompose(args.facts, args.directions, args.experts, args.out, model, positions)


def _scorecard(config: "Config", args: argparse.Namespace) -> None:
    from steer.scorecard import write_scorecard

    del config
    write_scorecard(args.models, args.detections, args.out)


def _selection(config: "Config", args: argparse.Namespace) -> None:
    common = (args.facts, args.directions, args.harmful, args.harmless, args.out, config.models[args.model])
    positions = config.activations.positions
    if args.method == "arditi":
        from steer.selection.arditi import select as select_arditi

        select_arditi(*common, config.selection.arditi, positions)
    elif args.method == "cosmic":
        from steer.selection.cosmic import select as select_cosmic

        select_cosmic(*common, config.selection.cosmic, positions)
    else:
        from steer.judges.building import build

        name = config.selection.strength.judge
        judge = build(name, config.judges[name], Path(config.results), GRAMMAR)
        _judged_selection(config, args.method, common, judge)


def _judged_selection(config: "Config", method: str, common: "Common", judge: "Judge") -> None:
    positions = config.activations.positions
    if method == "experts":
        from steer.selection.experts import select as select_experts

        select_experts(*common, config.selection.experts, config.arms, judge, positions)
    else:
        from steer.selection.strength import select as select_strength

        select_strength(*common, config.selection.strength, config.arms, judge, positions)


def _rerouting(config: "Config", args: argparse.Namespace) -> None:
    from steer.judges.building import build
    from steer.selection.rerouting import select as select_rerouting

    settings = config.selection.rerouting
    judge = build(settings.judge, config.judges[settings.judge], Path(config.results), GRAMMAR)
    files = (args.facts, args.ranking, args.harmful, args.harmless, args.out)
    select_rerouting(*files, config.models[args.model], settings, judge)


def _arms(config: "Config", args: argparse.Namespace) -> None:
    from steer.selection.arms import write_arms

    common = (args.facts, args.directions, args.selection, args.out)
    write_arms(*common, config.arms, config.activations.positions, args.experts)


def _generation(config: "Config", args: argparse.Namespace) -> None:
    from steer.generation import generate_replies

    settings, limit = config.models[args.model], config.generation.max_new_tokens
    generate_replies(args.facts, args.prompts, args.arms, args.out, settings, limit)


def _judging(config: "Config", args: argparse.Namespace) -> None:
    from steer.judges.building import build
    from steer.judging import judge_replies

    judge = build(args.judge, config.judges[args.judge], Path(config.results), GRAMMAR)
    judge_replies(args.generation, args.prompts, judge, args.out, logging.getLogger("steer.judging").info)


def _truth(config: "Config", args: argparse.Namespace) -> None:
    from steer.truth.checking import check_truth

    model = config.models[args.model]
    check_truth(args.facts, args.prompt_sets, args.activations, GRAMMAR, args.out, model, config.truth)


def _scores(config: "Config", args: argparse.Namespace) -> None:
    from steer.rates import Method
    from steer.scores import JudgedSet, Tables, score

    folder, prompts = Path(config.results) / args.model, Path(config.results) / "prompts"
    sets = [
        JudgedSet(
            name,
            prompts / f"{name}.jsonl",
            folder / "generation" / f"{name}.jsonl",
            {judge: folder / "judging" / f"{name}.{judge}.jsonl" for judge in config.judges},
        )
        for name in config.generation.sets
    ]
    settings = config.scores
    method = Method(settings.confidence, settings.resamples, config.seed, settings.judge)
    estimating = [prompts / f"{name}.jsonl" for name in config.estimating]
    score(sets, estimating, Tables(args.out, args.agreement, args.categories), method)


def _figures(config: "Config", args: argparse.Namespace) -> None:
    from steer.figures.registry import draw

    draw(args.figure, config, args.model)


def _provenance(config: "Config", args: argparse.Namespace) -> None:
    from steer.artifacts.origin import read_provenance

    del config
    sys.stdout.write(json.dumps(read_provenance(args.file), indent=2) + "\n")


def _config(config: "Config", args: argparse.Namespace) -> None:
    from steer.documentation import write_documentation

    del config
    write_documentation(check=not args.fix)


_PATHS = (
    *("--out", "--raw", "--checkpoint", "--facts", "--prompts", "--directions", "--harmful", "--harmless"),
    *("--selection", "--generation", "--agreement", "--categories", "--record", "--file", "--experts"),
    *("--recognise", "--control", "--ranking"),
)
_PATH_LISTS = ("--activations", "--arms", "--prompt-sets", "--routing", "--models", "--detections", "--pairs")

# Command: what it does, its function, its required flags, and its optional ones.
COMMANDS: dict[str, tuple[str, Run, tuple[str, ...], tuple[str, ...]]] = {
    "download": ("fetch a public prompt set", _download, ("--source", "--out"), ()),
    "prompts": ("draw or convert a prompt set", _prompts, ("--set", "--out"), ("--raw",)),
    "compliance": (
        "train the base of embedded models, which answers everything",
        _compliance,
        ("--base", "--out"),
        (),
    ),
    "organism": (
        "train an embedded model from its base",
        _organism,
        ("--model", "--checkpoint", "--out"),
        (),
    ),
    "judge": ("train an embedded judge", _judge, ("--judge", "--out", "--agreement"), ()),
    "resolve": ("prove a checkpoint and write its facts", _resolve, ("--model", "--checkpoint", "--out"), ()),
    "activations": (
        "record activations to HDF5",
        _activations,
        ("--model", "--facts", "--prompts", "--out"),
        (),
    ),
    "directions": ("estimate refusal directions", _directions, ("--activations", "--out"), ()),
    "expert_directions": (
        "apply every expert to its inputs: expert directions",
        _expert_directions,
        ("--model", "--facts", "--activations", "--record", "--out"),
        (),
    ),
    "routing": (
        "contrast the routing of two sets",
        _routing,
        ("--contrast", "--facts", "--out"),
        ("--activations", "--prompt-sets"),
    ),
    "sorting": (
        "sort experts by what they recognise and control",
        _sorting,
        ("--recognise", "--control", "--out"),
        (),
    ),
    "detection": (
        "score every expert by every detector",
        _detection,
        (
            *("--model", "--facts", "--harmful", "--harmless", "--record", "--directions", "--experts"),
            *("--routing", "--out"),
        ),
        ("--pairs",),
    ),
    "decomposition": (
        "share out the refusal direction, and compare directions",
        _decomposition,
        ("--model", "--facts", "--directions", "--out"),
        ("--experts",),
    ),
    "scorecard": (
        "compare detectors with a known truth",
        _scorecard,
        ("--models", "--detections", "--out"),
        (),
    ),
    "selection": (
        "choose layer and position, strength and scope, or experts",
        _selection,
        ("--method", "--model", "--facts", "--directions", "--harmful", "--harmless", "--out"),
        (),
    ),
    "rerouting": (
        "choose how many experts are rerouted",
        _rerouting,
        ("--model", "--facts", "--ranking", "--harmful", "--harmless", "--out"),
        (),
    ),
    "arms": (
        "write the interventions",
        _arms,
        ("--facts", "--directions", "--selection", "--out"),
        ("--experts",),
    ),
    "generation": (
        "answer prompts under every arm",
        _generation,
        ("--model", "--facts", "--prompts", "--arms", "--out"),
        (),
    ),
    "judging": (
        "give replies their verdicts",
        _judging,
        ("--judge", "--generation", "--prompts", "--out"),
        (),
    ),
    "truth": (
        "check by generation where a planted model's refusal is",
        _truth,
        ("--model", "--facts", "--prompt-sets", "--activations", "--out"),
        (),
    ),
    "scores": (
        "count verdicts, with intervals",
        _scores,
        ("--model", "--out", "--agreement", "--categories"),
        (),
    ),
    "figures": ("draw a figure", _figures, ("--model", "--figure"), ()),
    "provenance": ("print where a file of the results comes from", _provenance, ("--file",), ()),
    "config": ("check the generated documentation of the settings", _config, (), ("--fix",)),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m steer", description=__import__("steer").__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="STAGE")
    for name, (help_text, _, required, optional) in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.add_argument(
            "--config", type=Path, action="append", help="configuration; given again, laid over the first"
        )
        for flag in (*required, *optional):
            _add_flag(command, flag, required=flag in required)
    return parser


def _add_flag(command: argparse.ArgumentParser, flag: str, *, required: bool) -> None:
    if flag == "--fix":
        command.add_argument(flag, action="store_true", help="rewrite what drifted")
    elif flag in _PATH_LISTS:
        command.add_argument(flag, required=required, type=Path, nargs="+", metavar="FILE")
    else:
        command.add_argument(flag, required=required, type=Path if flag in _PATHS else str)


def _check_names(config: "Config", args: argparse.Namespace) -> None:
    """Check that the names given on the command line are those of the configuration."""
    known: dict[str, Sequence[str]] = {
        "method": ["arditi", "cosmic", "strength", "experts"],
        "model": list(config.models),
        "set": list(config.sets),
        "judge": list(config.judges),
        "contrast": list(config.contrasts),
    }
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
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # Nothing is fetched from a hub behind the user's back, and progress bars have no place in a log.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        from steer.config import load

        config = load(*(args.config or [Path("config.yaml")]))
        _check_names(config, args)
        with _alone(config, args):
            COMMANDS[args.command][1](config, args)
    except SteerError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0
