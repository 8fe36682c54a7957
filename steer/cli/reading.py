"""Commands that read a model: activations, directions, routing, and what they say of its experts."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from steer.cli.command import Command, on_engine
from steer.errors import SteerError

if TYPE_CHECKING:
    from steer.config import Config


def _activations(config: "Config", args: argparse.Namespace) -> None:
    from steer.activations import dump_activations, gather
    from steer.artifacts.shards import Shard

    common = (args.out, config.models[args.model], config.activations)
    if args.shards:
        gather(args.facts, args.prompts, args.shards, *common)
    else:
        on_engine(config.models[args.model])
        shard = Shard.parse(args.shard) if args.shard else None
        dump_activations(args.facts, args.prompts, *common, shard)


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


def _pairing(config: "Config", args: argparse.Namespace) -> None:
    from steer.pairing import write_pairing

    settings, top = config.pairing, config.routing.top
    write_pairing(args.facts, args.prompt_sets, args.out, config.models[args.model], settings, top)


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
    from steer.scorecard.writing import write_scorecard

    trained = {name: model.training_seed for name, model in config.models.items()}
    seeds = {name: seed for name, seed in trained.items() if seed is not None}
    contrasts = (config.routing.recognise, config.routing.control)
    write_scorecard(args.models, args.detections, args.truths or (), args.out, seeds, contrasts)


def _scorecard_readme(config: "Config", args: argparse.Namespace) -> None:
    from steer.scorecard.readme import write_table

    del config
    write_table(args.scorecard)


COMMANDS = {
    "activations": Command(
        "record activations to HDF5",
        _activations,
        ("--model", "--facts", "--prompts", "--out"),
        ("--shard", "--shards"),
    ),
    "directions": Command("estimate refusal directions", _directions, ("--activations", "--out"), ()),
    "expert_directions": Command(
        "apply every expert to its inputs: expert directions",
        _expert_directions,
        ("--model", "--facts", "--activations", "--record", "--out"),
        (),
    ),
    "routing": Command(
        "contrast the routing of two sets",
        _routing,
        ("--contrast", "--facts", "--out"),
        ("--activations", "--prompt-sets"),
    ),
    "pairing": Command(
        "count pairs as they may be made",
        _pairing,
        ("--model", "--facts", "--prompt-sets", "--out"),
        (),
    ),
    "sorting": Command(
        "sort experts by what they recognise and control", _sorting, ("--recognise", "--control", "--out"), ()
    ),
    "detection": Command(
        "score every expert by every detector",
        _detection,
        (
            "--model",
            "--facts",
            "--harmful",
            "--harmless",
            "--record",
            "--directions",
            "--experts",
            "--routing",
            "--out",
        ),
        ("--pairs",),
    ),
    "decomposition": Command(
        "share out the refusal direction, and compare directions",
        _decomposition,
        ("--model", "--facts", "--directions", "--out"),
        ("--experts",),
    ),
    "scorecard": Command(
        "compare detectors with a known truth",
        _scorecard,
        ("--models", "--detections", "--out"),
        ("--truths",),
    ),
    "scorecard_readme": Command(
        "put a finished scorecard's summary into the README", _scorecard_readme, ("--scorecard",)
    ),
}
