"""Commands that judge replies, count verdicts and draw figures."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from steer.cli.command import GRAMMAR, Command, method_of
from steer.errors import SteerError

if TYPE_CHECKING:
    from steer.config import Config


def _judging(config: "Config", args: argparse.Namespace) -> None:
    from steer.judges.building import build
    from steer.judging import judge_replies

    judge = build(args.judge, config.judges[args.judge], Path(config.results), GRAMMAR)
    judge_replies(args.generation, args.prompts, judge, args.out, logging.getLogger("steer.judging").info)


def _scores(config: "Config", args: argparse.Namespace) -> None:
    from steer.controls import compared
    from steer.judges.behaviours import BEHAVIOURS
    from steer.scores import Comparisons, JudgedSet, Tables, score

    folder, prompts = Path(config.results) / args.model, Path(config.results) / "prompts"
    sets = [
        JudgedSet(
            name,
            prompts / f"{name}.jsonl",
            folder / "generation" / f"{name}.jsonl",
            {judge: folder / "judging" / f"{name}.{judge}.jsonl" for judge in config.verdict_judges},
        )
        for name in config.generation.sets
    ]
    settings = config.scores
    method = method_of(
        config, reference=settings.judge, margin=settings.margin, behaviour=BEHAVIOURS[config.behaviour]
    )
    estimating = [prompts / f"{name}.jsonl" for name in config.estimating]
    arms = {name: arm.model_dump(mode="json") for name, arm in config.arms.items()}
    claims = compared(arms, config.selection.rerouting.ranking)
    comparisons = Comparisons(claims, config.pools, config.recovered)
    out = Tables(args.out, args.agreement, args.categories, args.pooled, args.recovery)
    score(sets, estimating, out, method, comparisons)


def _agreement(config: "Config", args: argparse.Namespace) -> None:
    from steer.agreement import read_set, write_agreement
    from steer.judges.building import build

    labelled = {
        name: read_set(one.source, GRAMMAR, one.count, config.seed) for name, one in config.labelled.items()
    }
    judge = build(args.judge, config.judges[args.judge], Path(config.results), GRAMMAR)
    lengths, log = config.agreement.lengths, logging.getLogger("steer.agreement").info
    method = method_of(config, reference=config.scores.judge)
    write_agreement(labelled, args.judge, judge, lengths, method, args.out, log)


def _lengths(config: "Config", args: argparse.Namespace) -> None:
    from steer.judges.building import build
    from steer.lengths import write_lengths

    results = Path(config.results)
    judges = {name: build(name, config.judges[name], results, GRAMMAR) for name in config.measured_judges}
    answered = {
        results / args.model / "generation" / f"{name}.jsonl": results / "prompts" / f"{name}.jsonl"
        for name in config.generation.sets
    }
    settings, log = config.agreement, logging.getLogger("steer.lengths").info
    method = method_of(config, reference=config.scores.judge)
    write_lengths(answered, judges, settings.own_lengths, settings.own, args.out, method, log)


def _correction(config: "Config", args: argparse.Namespace) -> None:
    from steer.correction import write_corrected

    labelled = config.agreement.correct_by
    if labelled is None:
        raise SteerError("`agreement.correct_by`", "names no labelled set", "name one")
    scores = Path(config.results) / args.model / "scores.csv"
    measured = {
        judge: Path(config.results) / "judges" / judge / "labelled.csv" for judge in config.measured_judges
    }
    write_corrected(scores, measured, labelled, args.out, method_of(config, reference=config.scores.judge))


def _fluency(config: "Config", args: argparse.Namespace) -> None:
    from steer.fluency import write_fluency

    folder = Path(config.results) / args.model
    sets = {
        name: (
            folder / "generation" / f"{name}.jsonl",
            {judge: folder / "judging" / f"{name}.{judge}.jsonl" for judge in config.grading_judges},
        )
        for name in config.generation.sets
    }
    write_fluency(sets, args.out, method_of(config, reference=config.scores.judge))


def _reproduction(config: "Config", args: argparse.Namespace) -> None:
    from steer.reproduction import write_reproduction

    models = {model.path or name: name for name, model in config.models.items()}
    settings, confidence = config.reproduction, config.scores.confidence
    files = (args.scores, args.routing or [], args.out)
    write_reproduction(args.published, models, *files, settings, confidence)


def _figures(config: "Config", args: argparse.Namespace) -> None:
    from steer.figures.registry import draw

    draw(args.figure, config, args.model)


COMMANDS = {
    "judging": Command(
        "give replies their verdicts", _judging, ("--judge", "--generation", "--prompts", "--out"), ()
    ),
    "scores": Command(
        "count verdicts, with intervals",
        _scores,
        ("--model", "--out", "--agreement", "--categories", "--pooled", "--recovery"),
        (),
    ),
    "agreement": Command("hold a judge against labelled replies", _agreement, ("--judge", "--out"), ()),
    "lengths": Command("judge a model's replies whole and cut short", _lengths, ("--model", "--out"), ()),
    "correction": Command(
        "correct rates for the measured errors of judges", _correction, ("--model", "--out"), ()
    ),
    "fluency": Command("average grades of fluency, with intervals", _fluency, ("--model", "--out"), ()),
    "reproduction": Command(
        "lay published numbers beside ours",
        _reproduction,
        ("--published", "--scores", "--out"),
        ("--routing",),
    ),
    "figures": Command("draw a figure", _figures, ("--model", "--figure"), ()),
}
