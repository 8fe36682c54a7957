"""Commands that choose interventions, write them as arms, and answer prompts under them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from steer.cli.command import GRAMMAR, Command, method_of, on_engine

if TYPE_CHECKING:
    from steer.config import Config, ModelSettings
    from steer.judges.verdicts import Judge

    # What every method of selection is given: facts, directions, both prompt sets, output, model.
    Common = tuple[Path, Path, Path, Path, Path, ModelSettings]


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
    from steer.judges.behaviours import BEHAVIOURS
    from steer.judges.building import build
    from steer.selection.rerouting import select as select_rerouting

    settings = config.selection.rerouting
    judge = build(settings.judge, config.judges[settings.judge], Path(config.results), GRAMMAR)
    suppressing, inducing, *others = args.prompt_sets
    files = (args.facts, args.ranking, suppressing, inducing, args.out)
    behaviour = BEHAVIOURS[config.behaviour]
    control = others[0] if others else None
    select_rerouting(*files, config.models[args.model], settings, judge, control, behaviour)


def _arms(config: "Config", args: argparse.Namespace) -> None:
    from steer.config import RouterArm
    from steer.judges.behaviours import BEHAVIOURS
    from steer.selection.arms import write_arms
    from steer.selection.swapping import Recorded

    common = (args.facts, args.directions, args.selection, args.out)
    arms = {
        name: arm.of_model(args.model or "") if isinstance(arm, RouterArm) else arm
        for name, arm in config.arms.items()
    }
    files = zip(args.prompt_sets or (), args.activations or (), strict=True)
    sources = {prompts.stem: Recorded(prompts, activations) for prompts, activations in files}
    told = (BEHAVIOURS[config.behaviour], config.contrasts_of_classes)
    write_arms(*common, arms, config.activations.positions, args.experts, sources, *told)


def _ranges(_config: "Config", args: argparse.Namespace) -> None:
    from steer.selection.ranges import write_ranges

    write_ranges(args.facts, args.activations, args.out)


def _generation(config: "Config", args: argparse.Namespace) -> None:
    from steer.artifacts.shards import Shard
    from steer.models.sampling import Sampling

    settings, limit = config.models[args.model], config.generation.max_new_tokens
    asked = config.generation
    sampling = Sampling(asked.temperature, asked.top_p, asked.samples, config.seed)
    if args.shards:
        from steer.generation import gather_replies

        gather_replies(args.facts, args.prompts, args.arms, args.shards, args.out, settings, limit, sampling)
        return
    on_engine(settings)
    from steer.generation import generate_replies

    shard = Shard.parse(args.shard) if args.shard else None
    generate_replies(args.facts, args.prompts, args.arms, args.out, settings, limit, sampling, shard)


def _truth(config: "Config", args: argparse.Namespace) -> None:
    from steer.truth.checking import check_truth

    model = config.models[args.model]
    check_truth(args.facts, args.prompt_sets, args.activations, GRAMMAR, args.out, model, config.truth)


def _perplexity(config: "Config", args: argparse.Namespace) -> None:
    from steer.perplexity import measure

    sets = {path.stem: path for path in args.prompt_sets}
    replies = {path.stem: path for path in args.replies or []}
    model, method = config.models[args.model], method_of(config, margin=config.scores.margin)
    measure(args.facts, sets, replies, args.arms, args.out, args.texts, model, method)


def _capability(config: "Config", args: argparse.Namespace) -> None:
    from steer.capability.running import measure

    model, wanted = config.models[args.model], config.capability
    method = method_of(config, margin=wanted.margin)
    measure(args.facts, args.arms, args.out, args.questions, model, wanted, method)


COMMANDS = {
    "selection": Command(
        "choose layer and position, strength and scope, or experts",
        _selection,
        ("--method", "--model", "--facts", "--directions", "--harmful", "--harmless", "--out"),
        (),
    ),
    "rerouting": Command(
        "choose how many experts are rerouted",
        _rerouting,
        ("--model", "--facts", "--ranking", "--prompt-sets", "--out"),
        (),
    ),
    "arms": Command(
        "write the interventions",
        _arms,
        ("--facts", "--selection", "--out"),
        ("--directions", "--experts", "--model", "--prompt-sets", "--activations"),
    ),
    "ranges": Command(
        "measure how far router logits spread", _ranges, ("--facts", "--activations", "--out"), ()
    ),
    "generation": Command(
        "answer prompts under every arm",
        _generation,
        ("--model", "--facts", "--prompts", "--arms", "--out"),
        ("--shard", "--shards"),
    ),
    "perplexity": Command(
        "read harmless replies under every arm",
        _perplexity,
        ("--model", "--facts", "--prompt-sets", "--arms", "--out", "--texts"),
        ("--replies",),
    ),
    "capability": Command(
        "run tasks of lm-evaluation-harness under every arm",
        _capability,
        ("--model", "--facts", "--arms", "--out", "--questions"),
        (),
    ),
    "truth": Command(
        "check by generation where a planted model's refusal is",
        _truth,
        ("--model", "--facts", "--prompt-sets", "--activations", "--out"),
        (),
    ),
}
