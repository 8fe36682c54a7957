"""Choice of the number of experts that are rerouted, by judged generation (SteerMoE, section 4)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from steer.artifacts.arms import arm_digest
from steer.artifacts.facts import ModelFacts
from steer.artifacts.files import Row, write_csv, write_json
from steer.artifacts.journal import Journal
from steer.artifacts.provenance import code_digest, digest, provenance
from steer.artifacts.routing import read_routing
from steer.config import ModelSettings, RerouteSettings
from steer.config.arm_base import Polarity
from steer.errors import SteerError
from steer.judges.behaviours import REFUSAL, Behaviour
from steer.judges.verdicts import UNSCORED, Exchange, Judge
from steer.models.batching import by_length
from steer.models.decoding import generate
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.scoring import check_finite, kl_divergence
from steer.models.study import open_study
from steer.selection.candidates import Question, digests, next_token_values, val_prompts
from steer.selection.matching import Expert
from steer.selection.picks import Pick, detected, fits, reroute_arm

log = logging.getLogger(__name__)

Asked = Literal["suppress", "induce", "control"]
"""What prompts are for: a polarity is tried on them, or they are to be left alone by both."""


def columns(behaviour: Behaviour) -> tuple[str, ...]:
    """The columns of the table of trials."""
    return (
        *("polarity", "activated", "deactivated", "activate", "deactivate", "set", "n"),
        *(*behaviour.verdicts, UNSCORED, "kl", "status"),
    )


@dataclass(frozen=True)
class Trial:
    """A number of experts to activate and to deactivate, and the arm that does."""

    polarity: Polarity
    activated: int
    deactivated: int
    pick: Pick
    arm: Arm


def select(
    facts_path: Path,
    ranking_path: Path,
    suppressing_path: Path,
    inducing_path: Path,
    out: Path,
    model: ModelSettings,
    settings: RerouteSettings,
    judge: Judge,
    control_path: Path | None = None,
    behaviour: Behaviour = REFUSAL,
) -> None:
    """Try every number of activated and deactivated experts on `val`; write `<out>.csv` and `<out>.json`.

    The prompts that suppressing is tried on show the behaviour unsteered, those of inducing don't; the KL is
    measured on the prompts that are to be left alone: the control, or where none is given those that the
    other polarity is tried on.

    Of the trials whose text stays coherent (share of broken replies, KL on those prompts) the one with
    the largest share of the wanted verdict is chosen, in each polarity; ties go to fewer experts, then to
    the smaller KL. The trial of no experts is in the table for comparison and is never chosen. Where no
    trial is coherent, the one with the fewest incoherent replies is, and the choice says so.

    Raises:
        SteerError: an input can't be used, or the model has no MoE layers.
    """
    loaded, facts = open_study(facts_path, model)
    if not facts.moe_layers:
        raise SteerError(
            str(facts_path), "is of a model without MoE layers", "leave rerouting to models with experts"
        )
    ranking = read_routing(ranking_path)
    paths: dict[Asked, Path] = {"suppress": suppressing_path, "induce": inducing_path}
    if control_path:
        paths["control"] = control_path
    questions = {use: val_prompts(loaded, path, settings.prompts) for use, path in paths.items()}
    trials = [trial for trial in _trials(ranking, settings) if fits(trial.pick, facts.experts, facts.top_k)]
    with Journal(out.with_name(f".{out.name}.journal.jsonl")) as journal:
        scored, keys = _scored(loaded, facts, trials, questions, judge, settings, model, journal, behaviour)
        rows = [
            _row(trial, paths[trial.polarity].stem, found, settings, behaviour)
            for trial, found in zip(trials, scored, strict=True)
        ]
        choices = {
            polarity: _choose(polarity, trials, rows, behaviour)
            for polarity in dict.fromkeys(_polarities(trials))
        }
        inputs = digests(facts, ranking=ranking_path, **paths)
        inputs["judge"] = judge.version
        origin = provenance("steer.selection.rerouting", settings.model_dump(mode="json"), inputs)
        write_csv(out.with_suffix(".csv"), rows, columns(behaviour))
        record = {"ranking": settings.ranking, "choices": choices, "provenance": origin}
        write_json(out.with_suffix(".json"), record)
        journal.drop_stale(keys)


def _polarities(trials: Sequence[Trial]) -> list[Polarity]:
    return [trial.polarity for trial in trials]


def _trials(ranking: Any, settings: RerouteSettings) -> Iterator[Trial]:
    """The grid in both polarities, without numbers that the ranking does not have experts for."""
    grid = list(product(sorted({0, *settings.activated}), sorted({0, *settings.deactivated})))
    for polarity in get_args(Polarity):
        for activated, deactivated in grid:
            try:
                pick = detected(ranking, polarity, activated, deactivated)
            except SteerError as error:
                log.info("%s, %d and %d experts: %s", polarity, activated, deactivated, error.cause)
                continue
            arm = reroute_arm(f"{polarity} {activated} {deactivated}", pick)
            yield Trial(polarity, activated, deactivated, pick, arm)


def _scored(
    loaded: LoadedModel,
    facts: ModelFacts,
    trials: Sequence[Trial],
    questions: Mapping[Asked, list[Question]],
    judge: Judge,
    settings: RerouteSettings,
    model: ModelSettings,
    journal: Journal,
    behaviour: Behaviour,
) -> tuple[list[Row], list[str]]:
    """Verdicts and KL of every trial, and its key in the journal.

    A trial is a group of batches of its own, and kept when finished.
    """
    texts = {use: [_content(question) for question in asked] for use, asked in questions.items()}
    common = [facts.digest, judge.version, settings.max_new_tokens, model.batch_size]
    common += [*model.arithmetic, texts]
    code = code_digest(__name__)
    found, keys = [], []
    for trial in trials:
        key = digest([common, code, trial.polarity, arm_digest(trial.arm)])
        if key not in journal:
            asked = questions[trial.polarity]
            verdicts = _verdicts(loaded, trial.arm, asked, judge, settings.max_new_tokens, model.batch_size)
            counts: Row = {name: verdicts.count(name) for name in (*behaviour.verdicts, UNSCORED)}
            kl = mean_kl(loaded, trial.arm, _left_alone(trial.polarity, questions), model.batch_size)
            journal.add_many([(key, {"n": len(verdicts), **counts, "kl": kl})])
        found.append(journal.get(key))
        keys.append(key)
    return found, keys


def _left_alone(polarity: Polarity, questions: Mapping[Asked, list[Question]]) -> list[Question]:
    """The prompts whose replies a polarity is to leave as they are."""
    other: Asked = "induce" if polarity == "suppress" else "suppress"
    return questions["control" if "control" in questions else other]


def _content(question: Question) -> list[Any]:
    answers = [asdict(question.answers)] if question.answers else []
    return [question.id, question.text, *answers]


def _verdicts(
    loaded: LoadedModel, arm: Arm, asked: Sequence[Question], judge: Judge, limit: int, batch_size: int
) -> list[str]:
    verdicts: list[str] = []
    for rows in by_length([len(q.tokens) for q in asked], [q.id for q in asked], batch_size):
        replies = generate(loaded, [asked[row].tokens for row in rows], [arm] * len(rows), limit)
        exchanges = [
            Exchange(asked[row].text, reply.text, asked[row].answers)
            for row, reply in zip(rows, replies, strict=True)
        ]
        verdicts += [judgement.verdict for judgement in judge.judge(exchanges)]
    return verdicts


def mean_kl(loaded: LoadedModel, arm: Arm, asked: Sequence[Question], batch_size: int) -> float:
    """Mean KL of the first reply token's distribution to the unsteered one, nats, over prompts."""
    total = 0.0
    for rows in by_length([len(q.tokens) for q in asked], [q.id for q in asked], batch_size):
        group = [asked[row] for row in rows]
        baseline = loaded.next_token_logits(loaded.batch([question.tokens for question in group]))
        found = next_token_values(
            loaded,
            [(arm, question) for question in group],
            len(group),
            lambda logits, at, plain=baseline: kl_divergence(plain[list(at)], logits),  # type: ignore[misc]
        )
        for question, kl in zip(group, found.tolist(), strict=True):
            check_finite(arm.name, question.id, loaded.model.dtype, kl)
        total += float(found.sum())
    return total / len(asked)


def _row(trial: Trial, asked: str, found: Row, settings: RerouteSettings, behaviour: Behaviour) -> Row:
    return {
        "polarity": trial.polarity,
        "activated": trial.activated,
        "deactivated": trial.deactivated,
        "activate": _spelt(trial.pick.activate),
        "deactivate": _spelt(trial.pick.deactivate),
        "set": asked,
        **found,
        "status": _status(trial, found, settings, behaviour),
    }


def _spelt(experts: Sequence[Expert]) -> str:
    return " ".join(f"{layer}:{expert}" for layer, expert in experts)


def _status(trial: Trial, found: Row, settings: RerouteSettings, behaviour: Behaviour) -> str:
    if not trial.arm.operations:
        return "unsteered"
    if found[behaviour.broken] > settings.non_response * found["n"]:
        return "incoherent"
    return "kept" if found["kl"] <= settings.kl_threshold else "KL above threshold"


def _choose(
    polarity: Polarity, trials: Sequence[Trial], rows: Sequence[Row], behaviour: Behaviour
) -> dict[str, Any]:
    """Mark and return the best coherent trial of a polarity; without one, the nearest.

    Raises:
        SteerError: there is no trial of any experts.
    """
    mine = [(trial, row) for trial, row in zip(trials, rows, strict=True) if trial.polarity == polarity]
    kept = [(trial, row) for trial, row in mine if row["status"] == "kept"]
    steered = [one for one in mine if one[1]["status"] != "unsteered"]
    if not steered:
        cause = f"the ranking has no experts for any number of `selection.rerouting` that could {polarity}"
        raise SteerError("rerouting", cause, "use another `ranking`, or smaller numbers")
    wanted, broken = behaviour.wanted(polarity), behaviour.broken
    if kept:
        trial, row = min(kept, key=lambda one: (-one[1][wanted], _size(one[0]), one[1]["kl"]))
        row["status"] = "chosen"
    else:
        trial, row = min(steered, key=lambda one: (one[1][broken], one[1]["kl"], _size(one[0])))
    found = f"{row[wanted]} of {row['n']} {wanted} on val, KL {row['kl']:.3g} on prompts to be left alone"
    why = found if kept else f"{row['status']}, as all are, {row[broken]} {broken}; {found}"
    log.info("%s: %d activated, %d deactivated: %s", polarity, trial.activated, trial.deactivated, why)
    return {
        "activated": trial.activated,
        "deactivated": trial.deactivated,
        "activate": [list(expert) for expert in trial.pick.activate],
        "deactivate": [list(expert) for expert in trial.pick.deactivate],
        "why": why,
    }


def _size(trial: Trial) -> int:
    return trial.activated + trial.deactivated
