"""Small files of every kind that figures read, in the shapes of the contract, drawn at random."""

from pathlib import Path

import numpy as np

from steer.artifacts.files import write_csv, write_json
from steer.config import Config
from tests.figure_inputs.choices import write_experts_selection, write_selection
from tests.figure_inputs.experts import write_experts, write_scorecard, write_truth
from tests.figure_inputs.published import write_reproduction
from tests.figure_inputs.replies import write_agreement, write_effects, write_judged, write_replies
from tests.figure_inputs.scores import category_rows, scores_rows
from tests.figure_inputs.states import write_activations, write_directions
from tests.figure_inputs.study import LABELS, MODEL, config


def build(results: Path, seed: int = 0) -> Config:
    """Write every input of every figure under `results`."""
    rng = np.random.default_rng(seed)
    folder = results / MODEL
    rows_of_scores = scores_rows()
    write_csv(folder / "scores.csv", rows_of_scores, list(rows_of_scores[0]))
    rows_of_categories = category_rows()
    write_csv(folder / "categories.csv", rows_of_categories, list(rows_of_categories[0]))
    write_selection(folder / "selection", rng)
    write_experts_selection(folder / "selection")
    write_directions(folder / "directions" / "refusal.safetensors", rng)
    for name, label in LABELS.items():
        write_activations(folder / "activations" / f"{name}.h5", name, label, rng)
        write_replies(results, name, label)
    write_agreement(folder / "agreement.csv")
    write_effects(folder, rng)
    write_experts(folder, rng)
    write_judged(results, folder)
    write_scorecard(results / "scorecard.csv", rng)
    write_truth(results / "planted" / "truth.csv")
    write_reproduction(results / "reproduction.csv")
    found = {"n": 998, "unscored": 2, "accuracy": {"estimate": 0.97, "low": 0.96, "high": 0.98}}
    found |= {"kappa": {"estimate": 0.95, "low": 0.93, "high": None}}
    write_json(results / "judges" / "small" / "agreement.json", {"val": found, "test": found})
    return config(results)
