"""Every figure: its title, its part of the report, what it reads and what it makes."""

from dataclasses import dataclass
from typing import Literal

from steer.errors import SteerError

STUDY = "study"
"""Stands for a model in the paths of figures that are about all models together."""

PICTURE = (".svg", ".png", ".csv", ".meta.json")
PAGE = (".html", ".csv", ".meta.json")


@dataclass(frozen=True)
class Figure:
    """What a figure depends on, and what it makes.

    Args:
        title: its name in the report.
        category: the part of the report that it stands in.
        inputs: names in `INPUTS`.
        settings: dotted keys of the configuration, `{model}` filled in; it can read no others.
        suffixes: the files that it makes.
        about: what it is drawn for: each model, each that has experts, each that is planted, or once for the
            whole study.
    """

    title: str
    category: str
    inputs: tuple[str, ...]
    settings: tuple[str, ...]
    suffixes: tuple[str, ...] = PICTURE
    about: Literal["model", "experts", "planted", "study"] = "model"


# Their order is the order of reading.
FIGURES = {
    "summary": Figure(
        "Summary: every arm on every set",
        "1 Results",
        ("scores",),
        ("arms", "sets", "generation.sets", "generation.samples", "scores"),
        PAGE,
    ),
    "verdicts": Figure(
        "Verdicts by arm and set",
        "1 Results",
        ("scores",),
        ("arms", "behaviour", "sets", "generation.sets", "scores"),
    ),
    "pareto": Figure(
        "Gain against cost",
        "1 Results",
        ("scores", "effects"),
        ("arms", "sets", "generation.sets", "scores"),
    ),
    "held_out": Figure(
        "Seen and unseen categories of harm",
        "1 Results",
        ("categories",),
        ("arms", "sets", "generation.sets", "scores"),
    ),
    "pooled": Figure(
        "Seeds and samples",
        "1 Results",
        ("pooled",),
        ("generation.sets", "scores"),
    ),
    "reproduction": Figure(
        "Published numbers and ours",
        "1 Results",
        ("reproduction",),
        (),
        PAGE,
        about="study",
    ),
    "val_test": Figure(
        "What the choice promised, and what it holds",
        "2 How the arms were chosen",
        ("scores", "chosen"),
        ("scores", "selection.strength.judge", "contrast"),
    ),
    "dose_response": Figure(
        "Dose and response of addition",
        "2 How the arms were chosen",
        ("strength",),
        ("arms", "scores.confidence", "selection.strength.judge"),
    ),
    "experts_dose": Figure(
        "Dose and response of experts",
        "2 How the arms were chosen",
        ("experts_selection", "experts_choice"),
        ("arms", "scores.confidence", "selection.strength.judge", "selection.experts.kl_threshold"),
        about="experts",
    ),
    "selection_map": Figure(
        "Scores by layer and position",
        "2 How the arms were chosen",
        ("arditi", "arditi_choice", "cosmic", "cosmic_choice", "strength_choice"),
        ("arms",),
    ),
    "direction_writes": Figure(
        "What writes the refusal direction",
        "3 The refusal direction",
        ("directions", "arditi_choice"),
        ("models.{model}.dtype", "activations"),
    ),
    "projections": Figure(
        "Prompts along the refusal direction",
        "3 The refusal direction",
        ("directions", "arditi_choice", "activations"),
        ("contrast",),
    ),
    "decomposition": Figure(
        "Arms taken apart: edits and routing",
        "3 The refusal direction",
        ("scores",),
        ("arms", "sets", "generation.sets", "scores"),
        about="experts",
    ),
    "recovery": Figure(
        "What experts recover of the whole effect",
        "3 The refusal direction",
        ("recovery",),
        ("scores",),
        about="experts",
    ),
    "cosines": Figure(
        "Cosines between directions",
        "3 The refusal direction",
        ("cosines",),
        (),
    ),
    "routing_map": Figure(
        "Routing by layer and expert",
        "4 Experts and routers",
        ("routing",),
        ("contrasts", "routing"),
        about="experts",
    ),
    "detection_effect": Figure(
        "Detection against causal effect",
        "4 Experts and routers",
        ("detection", "facts"),
        ("scores.confidence", "routing.recognise", "routing.control"),
        about="experts",
    ),
    "pairing": Figure(
        "Making of pairs",
        "4 Experts and routers",
        ("pairing",),
        ("pairing",),
        about="experts",
    ),
    "truth": Figure(
        "Refusal with and without what was planted",
        "4 Experts and routers",
        ("truth",),
        ("truth.confidence",),
        about="planted",
    ),
    "scorecard": Figure(
        "Detectors against a known truth",
        "4 Experts and routers",
        ("scorecard",),
        (),
        about="study",
    ),
    "agreement": Figure(
        "Agreement between judges",
        "5 Judges and replies",
        ("agreement", "held_out"),
        ("arms", "scores.confidence"),
        PAGE,
    ),
    "labelled": Figure(
        "Judges against labels",
        "5 Judges and replies",
        ("labelled",),
        ("scores.confidence",),
        about="study",
    ),
    "corrected": Figure(
        "Rates corrected for judges' errors",
        "5 Judges and replies",
        ("corrected",),
        ("arms", "scores.confidence"),
    ),
    "lengths": Figure(
        "Verdicts on cut replies",
        "5 Judges and replies",
        ("lengths",),
        ("scores.confidence",),
    ),
    "overlap": Figure(
        "Prompts that say the same",
        "5 Judges and replies",
        ("overlap",),
        ("overlap",),
        about="study",
    ),
    "counts": Figure(
        "How many of everything",
        "5 Judges and replies",
        ("used", "scores", "routing", "effects", "labelled"),
        ("sets", "generation.samples"),
        PAGE,
    ),
    "samples": Figure(
        "Sample replies",
        "5 Judges and replies",
        ("prompts", "replies", "verdicts"),
        ("arms", "report", "scores.judge"),
        (".html",),
    ),
}


OF_ANY_BEHAVIOUR = ("verdicts", "routing_map")
"""Figures that do not speak of refusal."""


def figure_named(name: str) -> Figure:
    """The figure of that name.

    Raises:
        SteerError: there is none.
    """
    if name not in FIGURES:
        raise SteerError(f"figure `{name}`", "unknown", f"choose one of {', '.join(FIGURES)}")
    return FIGURES[name]
