"""The stages: which code and which settings each of them depends on.

A rule puts `trigger(...)` into its parameters, so that changed code or settings rebuild what depends on
them, and nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from steer.artifacts.provenance import code_digest, digest
from steer.config import ArmSettings, Config, pick
from steer.judges.settings import JudgeSettings, LikelihoodJudge


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        module: its code; everything it imports counts.
        settings: dotted keys of the configuration that it reads, wildcards in braces.
    """

    module: str
    settings: tuple[str, ...] = ()


STAGES = {
    "download": Stage("steer.download"),
    "weights": Stage("steer.weights"),
    "prompts": Stage("steer.prompts", ("seed", "grammar", "sets.{set}")),
    "overlap": Stage("steer.overlapping", ("overlap",)),
    "compliance": Stage("steer.organism.compliance"),
    "organism": Stage("steer.organism.training", ("models.{model}.organism",)),
    "questions": Stage("steer.questions", ("seed",)),
    "openbook": Stage("steer.organism.openbook.training", ("models.{model}.openbook",)),
    "teacher": Stage("steer.upcycling.teacher"),
    "upcycle": Stage("steer.upcycling.training", ("models.{model}.upcycle",)),
    "judge": Stage("steer.judges.training", ("judges.{judge}",)),
    "resolve": Stage("steer.resolve", ("models.{model}",)),
    "activations": Stage("steer.activations", ("models.{model}", "activations")),
    "directions": Stage("steer.directions.refusal", ("directions", "contrast")),
    "expert_directions": Stage("steer.directions.experts", ("models.{model}", "contrast")),
    "routing": Stage(
        "steer.routing.contrast",
        ("seed", "contrasts.{contrast}", "routing.resamples", "routing.confidence", "routing.top"),
    ),
    "published": Stage("steer.routing.published", ("contrasts.{contrast}",)),
    "pairing": Stage("steer.pairing", ("models.{model}", "pairing", "routing.top")),
    "sorting": Stage("steer.routing.sorting", ("routing.q_value", "routing.stability")),
    "detection": Stage("steer.detection.detecting", ("models.{model}", "detection", "seed")),
    "decomposition": Stage("steer.decomposition", ("models.{model}",)),
    "scorecard": Stage("steer.scorecard.writing", ("routing.recognise", "routing.control")),
    "arditi": Stage("steer.selection.arditi", ("models.{model}", "contrast", "selection.arditi")),
    "cosmic": Stage("steer.selection.cosmic", ("models.{model}", "contrast", "selection.cosmic")),
    "strength": Stage(
        "steer.selection.strength",
        ("models.{model}", "contrast", "selection.strength", "arms", "judges.{judge}"),
    ),
    "rerouting": Stage(
        "steer.selection.rerouting",
        ("models.{model}", "behaviour", "contrast", "selection.rerouting", "judges.{judge}"),
    ),
    "experts": Stage(
        "steer.selection.experts",
        ("models.{model}", "contrast", "selection.experts", "arms", "judges.{judge}"),
    ),
    "ranges": Stage("steer.selection.ranges", ("contrast",)),
    "arms": Stage("steer.selection.arms", ("arms", "behaviour")),
    "generation": Stage(
        "steer.generation",
        (
            *("models.{model}", "seed", "generation.max_new_tokens"),
            *("generation.temperature", "generation.top_p", "generation.samples"),
        ),
    ),
    "judging": Stage("steer.judging", ("judges.{judge}",)),
    "perplexity": Stage(
        "steer.perplexity",
        ("models.{model}", "perplexity", "scores.confidence", "scores.resamples", "seed"),
    ),
    "capability": Stage(
        "steer.capability.running",
        ("models.{model}", "capability", "scores.confidence", "scores.resamples", "seed"),
    ),
    "truth": Stage("steer.truth.checking", ("models.{model}", "contrast", "truth")),
    "reproduction": Stage("steer.reproduction", ("reproduction", "scores.confidence")),
    "agreement": Stage(
        "steer.agreement",
        (
            *("judges.{judge}", "labelled", "agreement.lengths", "seed"),
            *("scores.confidence", "scores.resamples"),
        ),
    ),
    "lengths": Stage(
        "steer.lengths",
        ("agreement.own", "agreement.own_lengths", "judges", "scores.confidence", "scores.resamples", "seed"),
    ),
    "correction": Stage(
        "steer.correction", ("agreement.correct_by", "scores.confidence", "scores.resamples", "seed")
    ),
    "fluency": Stage("steer.fluency", ("scores", "seed")),
    "scores": Stage(
        "steer.scores",
        ("scores", "behaviour", "seed", "contrast", "contrasts", "arms", "selection.rerouting.ranking"),
    ),
}


# A verdict depends on the code of its judge's kind, and not on that of the other kinds.
JUDGES = {
    "phrases": "steer.judges.phrases",
    "refusals": "steer.judges.refusals",
    "grammar": "steer.judges.truth",
    "exact": "steer.judges.exact",
    "likelihood": "steer.judges.likelihood",
    "server": "steer.judges.server",
}


# A choice that is made for some arms depends on those alone: any other arm is written without it.
CHOOSES_FOR: dict[str, Callable[[ArmSettings], bool]] = {
    "strength": lambda arm: arm.dosed,
    "experts": lambda arm: arm.selected,
}

# Stages that run on the engine that a model names; another engine leaves the others as they are.
ENGINES = ("activations", "generation")

# What says how replies are drawn, so nothing of greedy ones.
DRAWING = ("seed", "generation.temperature", "generation.top_p", "generation.samples")


def settings_of(stage: str, config: Config, names: Mapping[str, str]) -> dict[str, Any]:
    """The settings that a stage reads, by dotted key, as JSON-able values."""
    greedy = stage == "generation" and config.generation.temperature == 0
    read = (key for key in STAGES[stage].settings if not (greedy and key in DRAWING))
    found = pick(config, read, names)
    if stage == "prompts":
        found |= pick(config, _beside(config, names["set"]), names)
        # Who answers a set has no say in what it holds.
        for key in (key for key in found if key.startswith("sets.")):
            found[key] = {name: value for name, value in found[key].items() if name != "arms"}
    if "judges.{judge}" in found:
        found |= _published(config.judges[names["judge"]])
    if "judges" in found:
        found |= {f"published {name}": _published(config.judges[name]) for name in config.measured_judges}
    if stage not in ENGINES:
        for key in found.keys() & {"models.{model}"}:
            found[key] = {name: value for name, value in found[key].items() if name != "engine"}
    if stage in CHOOSES_FOR:
        concerns = CHOOSES_FOR[stage]
        found["arms"] = {name: arm for name, arm in found["arms"].items() if concerns(config.arms[name])}
    return found


def _beside(config: Config, name: str) -> tuple[str, ...]:
    """Settings of other sets that decide what is in a set."""
    # A set from a file leaves out what test prompts of others repeat.
    others = config.compared(name)
    sets = [*others, *filter(None, [config.sets[name].equal_tokens])]
    return (*(["overlap"] if others else []), *(f"sets.{other}" for other in dict.fromkeys(sets)))


def _published(judge: JudgeSettings) -> dict[str, Any]:
    """The row of the published judge that a judge is."""
    row = judge.published if isinstance(judge, LikelihoodJudge) else None
    return {"published": row.model_dump(mode="json")} if row else {}


def trigger(stage: str, config: Config, **names: str) -> str:
    """A text that changes when the code or the settings behind a stage do."""
    modules = [STAGES[stage].module]
    if stage in ("strength", "rerouting"):
        names = {**names, "judge": getattr(config.selection, stage).judge}
    if stage == "experts":
        names = {**names, "judge": config.selection.strength.judge}
    if stage in ("judging", "agreement", "strength", "rerouting", "experts"):
        modules.append(JUDGES[config.judges[names["judge"]].kind])
    if stage == "lengths":
        modules += sorted({JUDGES[config.judges[name].kind] for name in config.measured_judges})
    if stage == "prompts" and (config.sets[names["set"]].refused_by or "").endswith(".jsonl"):
        modules.append(JUDGES["phrases"])
    code = " ".join(code_digest(module) for module in modules)
    return f"code {code}, settings {digest(settings_of(stage, config, names))}"
