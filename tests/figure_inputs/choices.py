"""Tables of what was tried, and what was chosen."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from steer.artifacts.files import write_csv, write_json
from tests.figure_inputs.study import CHOICE, COEFFICIENTS, EXPERT_CHOICES, LAYERS, POSITIONS


def write_selection(folder: Path, rng: np.random.Generator) -> None:
    arditi = list(arditi_rows(rng))
    cosmic = [
        {key: row[key] for key in ("layer", "position", "status", "rank")}
        | {"score": float(rng.uniform(1.0, 1.9)), "comply_similarity": float(rng.uniform())}
        for row in arditi
    ]
    write_csv(folder / "arditi.csv", arditi, list(arditi[0]))
    write_csv(folder / "cosmic.csv", cosmic, list(cosmic[0]))
    for method in ("arditi", "cosmic"):
        write_json(folder / f"{method}.json", {"choice": CHOICE, "candidates": [CHOICE], "why": "best"})
    strength = list(strength_rows())
    write_csv(folder / "strength.csv", strength, list(strength[0]))
    choices = {name: {**CHOICE, "coefficient": 1.0} for name in ("add-suppress", "add-induce")}
    write_json(folder / "strength.json", {"choices": {**choices, "ablate": {"layer": 2, "position": -2}}})


def arditi_rows(rng: np.random.Generator) -> Iterable[dict[str, Any]]:
    for layer in range(LAYERS):
        for position in range(-POSITIONS, 0):
            kl = float(10 ** rng.uniform(-4, 0))
            chosen = (layer, position) == (CHOICE["layer"], CHOICE["position"])
            status = (
                "chosen"
                if chosen
                else "pruned layer"
                if layer == 0
                else "KL too large"
                if kl > 0.1
                else "kept"
            )
            yield {
                "layer": layer,
                "position": position,
                "bypass_score": float(rng.normal(-2 * layer, 1)),
                "induce_score": float(rng.normal(2 * layer - 3, 1)),
                "kl": 0.01 if chosen else kl,
                "direction_norm": float(1 + layer),
                "status": status,
                "rank": 1 if chosen else None,
            }


def strength_rows(n: int = 32) -> Iterable[dict[str, Any]]:
    for arm, polarity in (("add-suppress", "suppress"), ("add-induce", "induce")):
        for layer in (CHOICE["layer"], CHOICE["layer"] - 1):
            for scope in ("all", "prompt", "generated"):
                for coefficient in COEFFICIENTS:
                    place = {"layer": layer, "position": CHOICE["position"]}
                    yield _strength_row(arm, polarity, place, scope, coefficient, n)


def _strength_row(
    arm: str, polarity: str, place: dict[str, int], scope: str, coefficient: float, n: int
) -> dict[str, Any]:
    reach = {"all": 1.0, "prompt": 0.7, "generated": 0.4}[scope] * coefficient
    broken = int(n * np.clip((reach - 1.5) / 1.5, 0, 1))
    moved = int((n - broken) * np.clip(reach / 0.8, 0, 1))
    wanted, other = ("full_response", "refusal") if polarity == "suppress" else ("refusal", "full_response")
    return {
        "arm": arm,
        "operation": "add",
        "polarity": polarity,
        **place,
        "coefficient": -coefficient if polarity == "suppress" else coefficient,
        "scope": scope,
        "direction_norm": 4.2,
        "set": "harmful" if polarity == "suppress" else "harmless",
        "n": n,
        "non_response": broken,
        wanted: moved,
        other: n - broken - moved,
        "unscored": 0,
        "kl": 0.4 * reach**2,
        "chosen": coefficient == 1.0 and scope == "all" and place == CHOICE,
    }


def write_experts_selection(folder: Path) -> None:
    """Doses of three arms at the place chosen for each, and of one more; the strongest were not judged."""
    rows = list(experts_rows())
    write_csv(folder / "experts.csv", rows, list(rows[0]))
    choices = {arm: {"baseline_refusal_score": 5.0 - 11 * ("induce" in arm)} for arm in EXPERT_CHOICES}
    write_json(folder / "experts.json", {"choices": choices})


def experts_rows(n: int = 32) -> Iterable[dict[str, Any]]:
    for arm, (layer, expert) in EXPERT_CHOICES.items():
        polarity = "induce" if "induce" in arm else "suppress"
        sign = 1 if polarity == "induce" else -1
        wanted, other = ("refusal", "full_response")[::sign]
        for position, coefficient in product((-1, -2), COEFFICIENTS):
            broken = int(n * np.clip((coefficient - 1) / 2, 0, 1))
            moved = int((n - broken) * np.clip(coefficient, 0, 1))
            counts = {wanted: moved, other: n - broken - moved, "non_response": broken, "unscored": 0}
            judged = position == -1 and coefficient <= 2
            asked = {"scope": "prompt", "set": "harmless" if sign > 0 else "harmful", "n": n, **counts}
            row = {"arm": arm, "polarity": polarity, "layer": layer, "expert": expert, "position": position}
            row |= {"direction_norm": 16.0, "coefficient": sign * coefficient, "kl": coefficient**2}
            row |= {"refusal_score": sign * coefficient, "stage": "judged" if judged else "scored"}
            row |= asked if judged else dict.fromkeys(asked)
            yield row | {"chosen": position == -1 and coefficient == 1.0}
            if coefficient == 1.0:
                # The same dose in a scope that was not chosen.
                yield row | {**asked, wanted: 0, other: n, "scope": "all", "stage": "judged", "chosen": False}
        place = {"layer": layer, "expert": 0, "position": -5}
        yield {"arm": arm, "polarity": polarity, **place, "stage": "estimated", "chosen": False}
