"""Which figures a study draws, and which files and settings each of them reads.

The workflow takes inputs, outputs and rerun triggers from here. Modules of figures are named,
not imported, so that the code behind one figure is that figure's own: restyling one rebuilds one.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steer.artifacts.origin import attach, input_digests
from steer.artifacts.provenance import code_digest, digest, provenance
from steer.config import Config, pick
from steer.errors import SteerError
from steer.figures.index import FIGURES, OF_ANY_BEHAVIOUR, STUDY, figure_named
from steer.judges.behaviours import BEHAVIOURS

DRAWN_WITH = ("matplotlib", "numpy", "pandas", "jinja2", "h5py")

# {results} and {model} are filled in; {used} is each set that anything is made of, {replied} each set that
# arms answer, {captured} each set
# whose activations are read, {contrasted} each contrast of routing, {judge} the judge whose verdicts are
# shown, {trained} each judge that the flow trains, {measured} each that is held against labels, {effect}
# each table of side effects that is made, {choosing} each method that judges candidates.
INPUTS = {
    "scores": "{results}/{model}/scores.csv",
    "agreement": "{results}/{model}/agreement.csv",
    "effects": "{results}/{model}/{effect}.csv",
    "categories": "{results}/{model}/categories.csv",
    "labelled": "{results}/judges/{measured}/labelled.csv",
    "lengths": "{results}/{model}/lengths.csv",
    "corrected": "{results}/{model}/corrected.csv",
    "recovery": "{results}/{model}/recovery.csv",
    "pooled": "{results}/{model}/pooled.csv",
    "overlap": "{results}/overlap.csv",
    "pairing": "{results}/{model}/routing/pairing.csv",
    "held_out": "{results}/judges/{trained}/agreement.json",
    "strength": "{results}/{model}/selection/strength.csv",
    "chosen": "{results}/{model}/selection/{choosing}.csv",
    "arditi": "{results}/{model}/selection/arditi.csv",
    "arditi_choice": "{results}/{model}/selection/arditi.json",
    "cosmic": "{results}/{model}/selection/cosmic.csv",
    "cosmic_choice": "{results}/{model}/selection/cosmic.json",
    "strength_choice": "{results}/{model}/selection/strength.json",
    "experts_selection": "{results}/{model}/selection/experts.csv",
    "experts_choice": "{results}/{model}/selection/experts.json",
    "facts": "{results}/{model}/model.json",
    "directions": "{results}/{model}/directions/refusal.safetensors",
    "routing": "{results}/{model}/routing/{contrasted}.csv",
    "detection": "{results}/{model}/detection.csv",
    "cosines": "{results}/{model}/decomposition/cosines.csv",
    "truth": "{results}/{model}/truth.csv",
    "scorecard": "{results}/scorecard.csv",
    "reproduction": "{results}/reproduction.csv",
    "activations": "{results}/{model}/activations/{captured}.h5",
    "prompts": "{results}/prompts/{replied}.jsonl",
    "used": "{results}/prompts/{used}.jsonl",
    "replies": "{results}/{model}/generation/{replied}.jsonl",
    "verdicts": "{results}/{model}/judging/{replied}.{judge}.jsonl",
}


def figures_of(config: Config) -> list[str]:
    """Names of the figures that a configuration has something to draw for, in the order of reading."""
    drawn = dict.fromkeys(FIGURES, True)
    drawn["dose_response"] = any(arm.operation == "add" and _is_tuned(arm) for arm in config.arms.values())
    drawn["experts_dose"] = any(arm.selected for arm in config.arms.values())
    answered = [config.sets[name] for name in config.generation.sets]
    drawn["held_out"] = config.grammar.held_out > 0 and any(one.source == "grammar" for one in answered)
    drawn["agreement"] = len(config.verdict_judges) > 1
    drawn["decomposition"] = any(arm.operation == "replay_routing" for arm in config.arms.values())
    drawn["routing_map"] = bool(config.contrasts)
    drawn["truth"] = any(model.is_planted for model in config.models.values())
    drawn["scorecard"] = any(model.is_known for model in config.models.values())
    chosen_on = {"suppress": config.contrast.harmful, "induce": config.contrast.harmless}
    tuned = [arm for arm in config.arms.values() if _is_tuned(arm)]
    drawn["val_test"] = any(chosen_on[arm.polarity] in config.generation.sets for arm in tuned)  # type: ignore[union-attr]
    drawn["pareto"] = _has_gain_and_cost(config)
    drawn |= _about_judges(config)
    drawn["pairing"] = bool(config.paired)
    drawn["recovery"] = any(_is_told(config, *pair) for pair in config.recovered)
    drawn["pooled"] = _is_drawn_again(config)
    used = [config.sets[name] for name in config.used_sets]
    drawn["overlap"] = len(used) > 1 and any(one.test for one in used)
    if config.behaviour != "refusal":
        drawn = {name: drawn[name] and name in OF_ANY_BEHAVIOUR for name in drawn}
    return [name for name in FIGURES if drawn[name]]


def _is_drawn_again(config: Config) -> bool:
    """Whether replies are sampled several times, or a set is answered by several seeds of a control."""
    answering = [{*config.answering(name)} for name in config.generation.sets]
    pools = config.pools.values()
    again = any(len(own & {*members}) > 1 for own in answering for members in pools)
    return config.generation.samples > 1 or again


def _is_told(config: Config, part: str, whole: str, polarity: str) -> bool:
    """Whether some answered set is one that two arms of a polarity are for."""
    behaviour = BEHAVIOURS[config.behaviour]
    answered = {name: config.sets[name].label for name in config.generation.sets}
    return any(
        behaviour.is_for(polarity, {label}) and {part, whole} <= {*config.answering(name)}
        for name, label in answered.items()
    )


def _has_gain_and_cost(config: Config) -> bool:
    """Whether some arm is for an answered set, and whether what it costs is measured."""
    labels = {config.sets[name].label for name in config.generation.sets}
    behaviour = BEHAVIOURS[config.behaviour]
    steering = [arm for arm in config.arms.values() if arm.operation != "none"]
    gains = any(behaviour.is_for(arm.polarity, {label}) for arm in steering for label in labels)
    return gains and ("harmless" in labels or bool(_effects(config)))


def _about_judges(config: Config) -> dict[str, bool]:
    """Figures of judges that there is something to draw for."""
    measured, labelled = bool(config.measured_judges), bool(config.labelled)
    return {
        "labelled": measured and labelled,
        "corrected": measured and labelled and config.agreement.correct_by is not None,
        "lengths": measured and config.agreement.own > 0,
    }


def models_of(name: str, config: Config) -> list[str]:
    """What a figure is drawn for: names of models, or `STUDY`."""
    about = figure_named(name).about
    if about == "study":
        return [STUDY]
    known = config.models.items()
    fits = {name: {"experts": model.has_experts, "planted": model.is_planted} for name, model in known}
    return [name for name in config.models if about == "model" or fits[name][about]]


def _is_tuned(arm: Any) -> bool:
    return bool(arm.dosed and arm.coefficient is None)


def inputs_of(name: str) -> tuple[str, ...]:
    """Names of the inputs of a figure; see `INPUTS`."""
    return figure_named(name).inputs


def paths_of(name: str, config: Config, model: str) -> dict[str, list[str]]:
    """Paths that a figure of `model` reads, by the name of the input."""
    replied = list(config.generation.sets)
    each = {
        "used": config.used_sets,
        "replied": replied,
        "captured": list(dict.fromkeys([config.contrast.harmful, config.contrast.harmless, *replied])),
        "contrasted": list(config.contrasts),
        "effect": _effects(config),
        "choosing": _choosing(config, model),
        "measured": config.measured_judges,
        "trained": [judge for judge, settings in config.judges.items() if _is_trained(settings)],
    }
    known = {"results": config.results, "model": model, "judge": config.scores.judge}
    return {key: list(_expanded(INPUTS[key], known, each)) for key in inputs_of(name)}


def _choosing(config: Config, model: str) -> list[str]:
    arms = list(config.arms.values())
    known = config.models.get(model)
    experts = known is not None and known.has_experts and any(arm.selected for arm in arms)
    return ["strength", *(["experts"] if experts else [])]


def _effects(config: Config) -> list[str]:
    made = {"perplexity": config.perplexity.sets, "capability": config.capable_arms}
    return [name for name, wanted in made.items() if wanted]


def _expanded(template: str, known: dict[str, str], each: dict[str, list[str]]) -> Iterator[str]:
    """The paths of a template: one, or one for each member of what it ranges over."""
    ranges = [name for name in each if f"{{{name}}}" in template]
    for member in each[ranges[0]] if ranges else [""]:
        yield template.format(**known, **dict.fromkeys(ranges, member))


def _is_trained(judge: Any) -> bool:
    return judge.kind == "likelihood" and bool(judge.trained)


def settings_of(name: str, config: Config, model: str) -> dict[str, Any]:
    """Settings that a figure reads, by dotted key, as JSON-able values; it is given no others."""
    about = {} if figure_named(name).about == "study" else {"model": model}
    return {**about, **pick(config, figure_named(name).settings, {"model": model})}


def outputs_of(name: str, config: Config, model: str) -> list[str]:
    """Paths that a figure of `model` makes."""
    stem = f"{config.results}/{model}/figures/{name}"
    return [stem + suffix for suffix in figure_named(name).suffixes]


def module_of(name: str) -> str:
    """Module that draws a figure."""
    figure_named(name)
    return f"steer.figures.{name}"


def trigger(name: str, config: Config, model: str) -> str:
    """A text that changes when the code or the settings behind a figure do."""
    settings = digest(settings_of(name, config, model))
    return f"code {code_digest(module_of(name))}, settings {settings}"


def draw(name: str, config: Config, model: str) -> None:
    """Draw one figure of one model from the files under `config.results`.

    Raises:
        SteerError: an unknown figure or model, or an input that is missing or lacks what is drawn.
    """
    known = models_of(name, config)
    if model not in known:
        raise SteerError(f"model `{model}`", "unknown", f"choose one of {', '.join(known)}")
    module = importlib.import_module(module_of(name))
    stem = Path(config.results) / model / "figures" / name
    module.draw(_inputs(name, config, model), settings_of(name, config, model), stem)
    sign(name, config, model)


def sign(name: str, config: Config, model: str) -> None:
    """Give the files of a figure that is drawn their provenance."""
    inputs = input_digests(_inputs(name, config, model))
    record = provenance(module_of(name), settings_of(name, config, model), inputs, libraries=DRAWN_WITH)
    for path in outputs_of(name, config, model):
        if not path.endswith(".meta.json"):
            attach(path, record)


def _inputs(name: str, config: Config, model: str) -> dict[str, list[Path]]:
    return {key: [Path(path) for path in paths] for key, paths in paths_of(name, config, model).items()}
