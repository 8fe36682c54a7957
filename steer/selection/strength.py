"""Choice of coefficient, scope and, among the best few, of layer and position, by judged generation."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeGuard

from steer.artifacts.files import Row, read_json, write_csv, write_json
from steer.artifacts.journal import Journal
from steer.artifacts.provenance import provenance
from steer.config import ArmSettings, ModelSettings, ResidualArm, StrengthSettings
from steer.judges.verdicts import Judge
from steer.models.study import open_study
from steer.selection.candidates import Directions, digests, read_directions, val_prompts
from steer.selection.making import Dose, make_arm, signed
from steer.selection.trials import WANTED, Budget, Tester, Trial

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dosed:
    """One dose of one arm: how it is tried, and what it is."""

    trial: Trial
    settings: ResidualArm
    dose: Dose
    direction_norm: float


def is_tuned(settings: ArmSettings) -> TypeGuard[ResidualArm]:
    """Whether an arm's dose is found here, not given or copied."""
    return isinstance(settings, ResidualArm) and settings.dosed


def _doses(settings: ResidualArm, best: Sequence[tuple[int, int]], grid: StrengthSettings) -> Iterator[Dose]:
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


def chosen_places(method: str, selection: Path) -> list[tuple[int, int]]:
    """(layer, position), best first, as a selection method ranked them."""
    record = read_json(selection / f"{method}.json")
    return [(place["layer"], place["position"]) for place in record["candidates"]]


def best_places(settings: ResidualArm, selection: Path) -> list[tuple[int, int]]:
    """(layer, position), best first, as the arm's selection method ranked them or its settings fix them."""
    ranked = chosen_places(settings.selection, selection)
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
    doses = list(_dosed(arms, directions, out.parent, settings))
    with Journal(out.with_name(f".{out.name}.journal.jsonl")) as journal:
        budget = Budget(settings.max_new_tokens, model.batch_size, (facts.digest, *model.arithmetic))
        tester = Tester(loaded, questions, judge, budget, journal)
        counts = tester.counts([dosed.trial for dosed in doses])
        rows = [_row(dosed, found) for dosed, found in zip(doses, counts, strict=True)]
        choices = {name: _choose(rows, name) for name in dict.fromkeys(row["arm"] for row in rows)}
        inputs = digests(facts, directions=directions_path, harmful=harmful_path, harmless=harmless_path)
        inputs["judge"] = judge.version
        origin = provenance("steer.selection.strength", settings.model_dump(mode="json"), inputs)
        write_csv(out.with_suffix(".csv"), rows, COLUMNS)
        write_json(out.with_suffix(".json"), {"choices": choices, "provenance": origin})
        journal.drop_stale(tester.keys)


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


def _dosed(
    arms: Mapping[str, ArmSettings], directions: Directions, selection: Path, grid: StrengthSettings
) -> Iterator[Dosed]:
    for name, settings in arms.items():
        if not is_tuned(settings):
            continue
        best = best_places(settings, selection)
        for dose in _doses(settings, best, grid):
            arm = make_arm(name, settings, directions, dose, best)
            norm = float(directions.at(dose.layer, dose.position).double().norm())
            yield Dosed(Trial(name, settings.polarity, arm), settings, dose, norm)


def _choose(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """Mark and return the best dose of an arm."""
    mine = [row for row in rows if row["arm"] == name]
    wanted = WANTED[mine[0]["polarity"]]
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


def _row(dosed: Dosed, counts: Row) -> Row:
    dose = asdict(dosed.dose) | {"coefficient": signed(dosed.settings, dosed.dose.coefficient)}
    return {
        "arm": dosed.trial.name,
        "operation": dosed.settings.operation,
        "polarity": dosed.settings.polarity,
        **dose,
        "direction_norm": dosed.direction_norm,
        "set": dosed.trial.asked,
        **counts,
        "chosen": False,
    }
