"""Choice of coefficient, scope and, among the best few, of layer and position, by judged generation."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from steer.artifacts.arms import arm_digest
from steer.artifacts.facts import ModelFacts
from steer.artifacts.files import Row, read_json, write_csv, write_json
from steer.artifacts.journal import Journal
from steer.artifacts.provenance import code_digest, digest, provenance
from steer.config import ArmSettings, ModelSettings, StrengthSettings
from steer.judges.verdicts import Exchange, Judge
from steer.models.batching import by_length
from steer.models.decoding import generate
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.scoring import kl_divergence
from steer.models.study import open_study
from steer.selection.candidates import Directions, Question, digests, read_directions, val_prompts
from steer.selection.making import Dose, make_arm, signed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One dose of one arm, to be tried on the prompts that its polarity is for."""

    name: str
    settings: ArmSettings
    dose: Dose
    arm: Arm
    direction_norm: float

    @property
    def asked(self) -> str:
        """Suppressing is tried on harmful prompts, inducing on harmless ones."""
        return "harmful" if self.settings.polarity == "suppress" else "harmless"

    @property
    def wanted(self) -> str:
        """The verdict that the arm is to bring about."""
        return "full_response" if self.settings.polarity == "suppress" else "refusal"


def is_tuned(settings: ArmSettings) -> bool:
    """Whether an arm's dose is found here, not given or copied."""
    return settings.operation not in ("none", "reroute") and settings.tuned and settings.like is None


def _doses(settings: ArmSettings, best: Sequence[tuple[int, int]], grid: StrengthSettings) -> Iterator[Dose]:
    """Every dose to try, once; what the configuration fixes is not varied."""
    coefficients, scopes = grid.coefficients, grid.scopes
    if settings.operation == "ablate":
        coefficients, scopes = (1.0,), ("all",)
    if settings.operation == "affine" and settings.polarity == "suppress":
        # Zero moves every prompt to the harmless mean, the natural strength of this operation.
        coefficients = (0.0, *coefficients)
    if settings.coefficient is not None:
        coefficients = (settings.coefficient,)
    if settings.scope is not None:
        scopes = (settings.scope,)
    places = best[: grid.candidates]
    doses = product(places, dict.fromkeys(coefficients), dict.fromkeys(scopes))
    for (layer, position), coefficient, scope in doses:
        yield Dose(layer, position, coefficient, scope)


def best_places(settings: ArmSettings, selection: Path) -> list[tuple[int, int]]:
    """(layer, position), best first, as the arm's selection method ranked them or its settings fix them."""
    record = read_json(selection / f"{settings.selection}.json")
    ranked = [(place["layer"], place["position"]) for place in record["candidates"]]
    if settings.layer is None and settings.position is None:
        return ranked
    layer = ranked[0][0] if settings.layer is None else settings.layer
    position = ranked[0][1] if settings.position is None else settings.position
    return [(layer, position)]


def select(
    facts_path: Path,
    directions_path: Path,
    harmful_path: Path,
    harmless_path: Path,
    out: Path,
    model: ModelSettings,
    settings: StrengthSettings,
    arms: Mapping[str, ArmSettings],
    judge: Judge,
    positions: int,
) -> None:
    """Try every dose of every tuned arm on `val` and write `<out>.csv` and `<out>.json`.

    The dose with the largest share of the wanted verdict wins (full responses to harmful prompts,
    refusals of harmless ones); ties go to the smallest coefficient × norm, then to the smaller KL.
    Doses share batches; finished trials are kept in a journal, so that a new arm costs its own only.

    Raises:
        SteerError: an input can't be used, or an arm can't fire.
    """
    loaded, facts = open_study(facts_path, model)
    directions = read_directions(directions_path, facts, positions)
    paths = {"harmful": harmful_path, "harmless": harmless_path}
    questions = {label: val_prompts(loaded, path, settings.prompts) for label, path in paths.items()}
    trials = list(_trials(arms, directions, out.parent, settings))
    with Journal(out.with_name(f".{out.name}.journal.jsonl")) as journal:
        rows = _Tester(loaded, facts, questions, judge, settings, model, journal).table(trials)
    choices = {name: _choose(rows, name) for name in dict.fromkeys(row["arm"] for row in rows)}
    inputs = digests(facts, directions=directions_path, harmful=harmful_path, harmless=harmless_path)
    inputs["judge"] = judge.version
    origin = provenance("steer.selection.strength", settings.model_dump(mode="json"), inputs)
    write_csv(out.with_suffix(".csv"), rows, COLUMNS)
    write_json(out.with_suffix(".json"), {"choices": choices, "provenance": origin})


COLUMNS = [
    "arm",
    "operation",
    "polarity",
    "layer",
    "position",
    "coefficient",
    "scope",
    "direction_norm",
    "set",
    "n",
    "refusal",
    "full_response",
    "non_response",
    "unscored",
    "kl",
    "chosen",
]


def _trials(
    arms: Mapping[str, ArmSettings], directions: Directions, selection: Path, grid: StrengthSettings
) -> Iterator[Trial]:
    for name, settings in arms.items():
        if not is_tuned(settings):
            continue
        best = best_places(settings, selection)
        for dose in _doses(settings, best, grid):
            arm = make_arm(name, settings, directions, dose, best)
            norm = float(directions.at(dose.layer, dose.position).double().norm())
            yield Trial(name, settings, dose, arm, norm)


def _choose(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Mark and return the best dose of an arm."""
    mine = [row for row in rows if row["arm"] == name]
    wanted = "full_response" if mine[0]["polarity"] == "suppress" else "refusal"
    best = min(mine, key=lambda row: (-row[wanted], _size(row), row["kl"]))
    best["chosen"] = True
    log.info("%s: %d of %d %s at %s", name, best[wanted], best["n"], wanted, _place(best))
    dose = {key: best[key] for key in ("layer", "position", "scope")}
    return {
        **dose,
        "coefficient": abs(best["coefficient"]),
        "why": f"{best[wanted]} of {best['n']} {wanted} on val",
    }


def _size(row: Row) -> float:
    """Norm of what is added to the residual stream; an ablation adds nothing of its own."""
    return 0.0 if row["operation"] == "ablate" else abs(row["coefficient"]) * row["direction_norm"]


def _place(row: Row) -> str:
    return (
        f"layer {row['layer']}, position {row['position']}, coefficient {row['coefficient']}, {row['scope']}"
    )


class _Tester:
    """Answers and judges the trials' prompts, doses mixed within a batch."""

    def __init__(
        self,
        loaded: LoadedModel,
        facts: ModelFacts,
        questions: Mapping[str, Sequence[Question]],
        judge: Judge,
        settings: StrengthSettings,
        model: ModelSettings,
        journal: Journal,
    ) -> None:
        self._loaded, self._facts, self._questions, self._judge = loaded, facts, questions, judge
        self._settings, self._model, self._journal = settings, model, journal
        self._common = [facts.digest, judge.version, settings.max_new_tokens, model.batch_size, model.threads]

    def table(self, trials: Sequence[Trial]) -> list[Row]:
        """A row per trial with the counts of its verdicts."""
        for arm_name in dict.fromkeys(trial.name for trial in trials):
            mine = [trial for trial in trials if trial.name == arm_name]
            keys = self._keys(mine)
            if not all(key in self._journal for key in keys):
                rows = self._run(mine)
                self._journal.add_many(
                    (k, r) for k, r in zip(keys, rows, strict=True) if k not in self._journal
                )
        return [self._row(trial, key) for trial, key in self._keyed(trials)]

    def _keyed(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, str]]:
        for arm_name in dict.fromkeys(trial.name for trial in trials):
            mine = [trial for trial in trials if trial.name == arm_name]
            yield from zip(mine, self._keys(mine), strict=True)

    def _keys(self, trials: Sequence[Trial]) -> list[str]:
        # All doses of an arm share batches, so all of them are in the key of each.
        doses = [arm_digest(trial.arm) for trial in trials]
        texts = [[question.id, question.text] for question in self._questions[trials[0].asked]]
        group = digest([self._common, code_digest(__name__), doses, texts])
        return [digest([group, dose]) for dose in doses]

    def _run(self, trials: Sequence[Trial]) -> list[Row]:
        questions = self._questions[trials[0].asked]
        jobs = [(trial.arm, question) for trial in trials for question in questions]
        verdicts: list[str] = [""] * len(jobs)
        divergences = [0.0] * len(jobs)
        names = [f"{question.id} {index:09d}" for index, (_, question) in enumerate(jobs)]
        for indices in by_length([len(q.tokens) for _, q in jobs], names, self._model.batch_size):
            for index, (verdict, kl) in zip(indices, self._judged([jobs[i] for i in indices]), strict=True):
                verdicts[index], divergences[index] = verdict, kl
        n = len(questions)
        return [
            {**_counts(verdicts[i * n : (i + 1) * n]), "kl": sum(divergences[i * n : (i + 1) * n]) / n}
            for i in range(len(trials))
        ]

    def _judged(self, jobs: Sequence[tuple[Arm, Question]]) -> list[tuple[str, float]]:
        tokens = [question.tokens for _, question in jobs]
        before = self._loaded.next_token_logits(self._loaded.batch(tokens))
        replies = generate(self._loaded, tokens, [arm for arm, _ in jobs], self._settings.max_new_tokens)
        exchanges = [Exchange(q.text, reply.text) for (_, q), reply in zip(jobs, replies, strict=True)]
        found: list[tuple[str, float]] = []
        for judgement, reply, plain in zip(self._judge.judge(exchanges), replies, before, strict=True):
            found.append(
                (judgement.verdict, float(kl_divergence(plain[None], reply.first_token_logits[None])))
            )
        return found

    def _row(self, trial: Trial, key: str) -> Row:
        dose = asdict(trial.dose) | {"coefficient": signed(trial.settings, trial.dose.coefficient)}
        return {
            "arm": trial.name,
            "operation": trial.settings.operation,
            "polarity": trial.settings.polarity,
            **dose,
            "direction_norm": trial.direction_norm,
            "set": trial.asked,
            **self._journal.get(key),
            "chosen": False,
        }


def _counts(verdicts: Sequence[str]) -> dict[str, int]:
    names = ("refusal", "full_response", "non_response", "unscored")
    return {"n": len(verdicts), **{name: sum(verdict == name for verdict in verdicts) for name in names}}
