"""Stage `truth`: does refusal stand and fall with the parts that a planted model's truth names?

Makes `truth.csv`, a row per trial and prompt set, and `truth_routing.csv`, a row per expert. Every verdict
is the exact one of the grammar, on full replies to held-out prompts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from steer import stats
from steer.artifacts.facts import ModelFacts, Part, Truth
from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.prompts import Label, Prompt, Split, read_prompts
from steer.artifacts.provenance import provenance
from steer.config import ModelSettings, TruthSettings
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.judges.truth import GrammarTruth
from steer.judges.verdicts import VERDICTS, Exchange, Judgement
from steer.models.architectures import head_count
from steer.models.batching import by_length
from steer.models.decoding import generate
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.study import open_study
from steer.truth.readout import readout_direction
from steer.truth.trials import Trial, aimed, role_of, trials
from steer.truth.usage import Usage, read_usage

COLUMNS = (
    *("role", "parts", "way", "label", "n"),
    *(f"{verdict}{suffix}" for verdict in VERDICTS for suffix in ("", "_rate", "_low", "_high")),
    "restates",
)
ROUTING_COLUMNS = ("layer", "expert", "role", "usage_harmful", "usage_harmless", "risk_difference")


def check_truth(
    facts_path: Path,
    prompt_files: Sequence[Path],
    activation_files: Sequence[Path],
    grammar_folder: Path,
    out: Path,
    model: ModelSettings,
    settings: TruthSettings,
) -> None:
    """Write `out` and, beside it, `<stem>_routing.csv`.

    Args:
        facts_path: `model.json` of a planted model.
        prompt_files: the harmful and the harmless prompts.
        activation_files: the model's activations on them.
        grammar_folder: what the replies are read by.
        out: the table of trials.
        model: how the model is loaded.
        settings: how much is tried.

    Raises:
        SteerError: the model is not planted, or an input is missing or of another model.
    """
    prompt_paths, activation_paths = _by_label(prompt_files), _by_label(activation_files)
    loaded, facts = open_study(facts_path, model)
    if facts.truth is None:
        cause, cure = "nobody planted its refusal, so there is no truth to check", "name a planted organism"
        raise SteerError(str(facts_path), cause, cure)
    usage = read_usage(activation_paths, facts)
    tried = trials(facts.truth, usage, facts.layers, head_count(loaded.model), settings.controls)
    judge = GrammarTruth(Grammar.load(grammar_folder))
    told = {label: read_prompts(path) for label, path in prompt_paths.items()}
    known = [one for each in told.values() for one in _first(each, "train", settings.prompts)]
    # Only trials of attention as a whole are aimed at it.
    aims = facts.truth.carrier == "distributed"
    direction = (
        readout_direction(loaded, known, facts.refusal_token_ids, model.batch_size)
        if aims
        else torch.zeros(loaded.hidden_size)
    )
    rows = []
    for label, every in told.items():
        for trial in tried:
            # What the model does by itself is held to closer bars than a trial's large effect.
            count = None if trial.role == "baseline" else settings.prompts
            prompts = _first(every, "test", count)
            arm = aimed(trial.arm, direction)
            replies = _answer(loaded, prompts, arm, model.batch_size, settings.max_new_tokens)
            exchanges = [Exchange(p.text, reply) for p, reply in zip(prompts, replies, strict=True)]
            rows.append(_row(trial, label, judge.judge(exchanges), settings.confidence))
    write_csv(out, rows, COLUMNS)
    routing = out.with_name(f"{out.stem}_routing.csv")
    write_csv(routing, _routing_rows(usage, facts.truth, tried), ROUTING_COLUMNS)
    _attach((out, routing), facts, prompt_paths, activation_paths, model, settings)


def _by_label(paths: Sequence[Path]) -> dict[Label, Path]:
    harmful, harmless = paths
    return {"harmful": harmful, "harmless": harmless}


def _first(prompts: Sequence[Prompt], split: Split, count: int | None) -> list[Prompt]:
    return [prompt for prompt in prompts if prompt.split == split][:count]


def _answer(
    loaded: LoadedModel, prompts: Sequence[Prompt], arm: Arm, batch_size: int, max_new_tokens: int
) -> list[str]:
    """Replies in the order of the prompts."""
    encoded = [loaded.encode(prompt.text, prompt.before) for prompt in prompts]
    replies = [""] * len(prompts)
    for batch in by_length([len(ids) for ids in encoded], [prompt.id for prompt in prompts], batch_size):
        made = generate(loaded, [encoded[at] for at in batch], [arm] * len(batch), max_new_tokens)
        for at, reply in zip(batch, made, strict=True):
            replies[at] = reply.text
    return replies


def _row(trial: Trial, label: Label, judged: Sequence[Judgement], confidence: float) -> Row:
    row: Row = {"role": trial.role, "parts": trial.name, "way": trial.way, "label": label, "n": len(judged)}
    for verdict in VERDICTS:
        row[verdict] = sum(one.verdict == verdict for one in judged)
        share = stats.wilson(row[verdict], len(judged), confidence)
        row |= dict(zip((f"{verdict}_rate", f"{verdict}_low", f"{verdict}_high"), share, strict=True))
    return row | {"restates": sum(bool(one.raw["restates"]) for one in judged)}


def _routing_rows(usage: Mapping[Part, Usage], truth: Truth, tried: Sequence[Trial]) -> list[Row]:
    return [
        {
            "layer": part[0],
            "expert": part[1],
            "role": role_of(part, truth, tried),
            "usage_harmful": found.harmful,
            "usage_harmless": found.harmless,
            "risk_difference": found.risk_difference,
        }
        for part, found in usage.items()
    ]


def _attach(
    outs: Sequence[Path],
    facts: ModelFacts,
    prompts: Mapping[Label, Path],
    activations: Mapping[Label, Path],
    model: ModelSettings,
    settings: TruthSettings,
) -> None:
    files = {"prompts": [*prompts.values()], "activations": [*activations.values()]}
    stage_settings = {"model": model.model_dump(mode="json"), "truth": settings.model_dump(mode="json")}
    record = provenance(__name__, stage_settings, {"model": facts.digest, **input_digests(files)})
    for out in outs:
        attach(out, record)
