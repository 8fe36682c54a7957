"""What is known of every expert, and of planted ones."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from steer.artifacts.facts import Truth, write_facts
from steer.artifacts.files import write_csv
from steer.stats import wilson
from tests.activation_sets import facts_named
from tests.figure_inputs.study import LAYERS, VERDICTS


def write_experts(folder: Path, rng: np.random.Generator) -> None:
    """What is known of every expert: facts with a truth, routing, detectors, and cosines."""
    truth = Truth("routed", "experts", carriers=((1, 3),), decoys=((2, 5),))
    write_facts(folder / "model.json", replace(facts_named("tiny"), truth=truth), {})
    routing, detectors = [], []
    for layer, expert in product(range(LAYERS), range(8)):
        place, strong = {"layer": layer, "expert": expert}, (layer, expert) == (1, 3)
        difference = 0.95 if strong else float(rng.normal(0, 0.05))
        ends = {"ci_low": difference - 0.04, "ci_high": difference + 0.04}
        q_value, stability = 1e-9 if abs(difference) > 0.08 else 0.6, 1.0 if strong else 0.2
        judged = {"q_value": q_value, "prompt_stability": stability}
        routing.append(place | {"risk_difference": difference} | ends | judged)
        scores = {name: float(rng.normal()) for name in ("direction_norm", "gate_gradient")}
        effect = 8.0 if strong else float(rng.normal(0, 0.3))
        measured = {"mask_effect": effect if layer else None}
        detectors.append(place | {"prompt_top_k": difference} | scores | measured)
    write_csv(folder / "routing" / "prompt.csv", routing, list(routing[0]))
    write_csv(folder / "detection.csv", detectors, list(detectors[0]))
    names = ["residual 0", "residual 1", "attention 0", "mlp 0", "expert 1:3", "router 1:3"]
    pairs = [
        {"position": -1, "first": one, "second": other, "cosine": float(rng.uniform(-1, 1))}
        for at, one in enumerate(names)
        for other in names[at:]
    ]
    write_csv(folder / "decomposition" / "cosines.csv", pairs, list(pairs[0]))


def write_truth(path: Path) -> None:
    """Two carriers, without which harmful prompts are answered, and others that change nothing."""
    tried = [("baseline", "", "none"), ("carriers", "1:3 2:5", "reroute_from")]
    tried += [("carrier", "1:3", "mask_experts"), ("control", "0:1", "mask_experts")]
    rows = []
    for label, (role, parts, way) in product(("harmful", "harmless"), tried):
        n = 200 if role == "baseline" else 50
        refused = n - 1 if label == "harmful" and role in ("baseline", "control") else 0
        row: dict[str, Any] = {"role": role, "parts": parts, "way": way, "label": label, "n": n}
        for verdict, count in zip(VERDICTS, (refused, 1, n - 1 - refused), strict=True):
            row[verdict] = count
            ends = (f"{verdict}_{part}" for part in ("rate", "low", "high"))
            row |= dict(zip(ends, wilson(count, n), strict=True))
        rows.append(row)
    write_csv(path, rows, list(rows[0]))


def write_scorecard(path: Path, rng: np.random.Generator) -> None:
    rows = []
    plants = {"natural": None, "routed": "1:3 2:5", "decoy_content": "2:5", "head": None}
    for (plant, carriers), model, detector in product(
        plants.items(), (0, 1), ("prompt_top_k", "mask_effect")
    ):
        related = (plant, detector) == ("decoy_content", "mask_effect")
        found = {"model": f"{plant}-{model}", "plant": plant, "detector": detector, "related": related}
        found |= {"carriers": carriers, "precision": 1.0 if carriers else None}
        found |= {"average_precision": float(rng.uniform(0.5, 1)) if carriers else None}
        found |= {"ranks": "1" if carriers else "", "decoy_rank": "1" if "decoy" in plant else ""}
        rows.append(found | {"false_alarms": int(rng.integers(0, 2))})
    write_csv(path, rows, list(rows[0]))
