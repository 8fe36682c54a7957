"""The map of the selection: every candidate, the choice, and what was left out."""

from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame, read_csv

from steer.artifacts.files import write_csv, write_json
from steer.errors import SteerError
from steer.figures import registry, selection_map, style
from steer.figures.candidates import table
from tests.figure_inputs import build
from tests.figure_inputs.study import CHOICE, LAYERS, MODEL, POSITIONS, config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(tmp_path)
    return tmp_path


def candidates(results: Path) -> DataFrame:
    paths = registry.paths_of("selection_map", config(results), MODEL)
    inputs = {key: [Path(path) for path in found] for key, found in paths.items()}
    return table(inputs, registry.settings_of("selection_map", config(), MODEL))


def test_each_score_has_every_candidate_once_and_one_choice(folder: Path) -> None:
    rows = candidates(folder)
    assert not rows.duplicated(["method", "score", "layer", "position"]).any()
    counts = rows.groupby(["method", "score"]).agg(n=("value", "size"), chosen=("chosen", "sum"))
    assert (counts["n"] == LAYERS * POSITIONS).all()
    assert (counts["chosen"] == 1).all()
    chosen = rows[rows["chosen"]]
    assert set(zip(chosen["layer"], chosen["position"], strict=True)) == {tuple(CHOICE.values())}


def test_arms_are_named_where_judged_trials_put_them(folder: Path) -> None:
    rows = candidates(folder)
    placed = rows[(rows["score"] == "kl") & (rows["arms"] != "")]
    places = {
        arms: (layer, position) for layer, position, arms in placed[["layer", "position", "arms"]].to_numpy()
    }
    assert places == {"add-suppress add-induce": (3, -1), "ablate": (2, -2)}
    # No arm of this configuration selects by COSMIC.
    assert set(rows[rows["method"] == "cosmic"]["arms"]) == {""}


def test_a_cell_shows_the_score_of_its_layer_and_position(folder: Path) -> None:
    rows = candidates(folder)
    with style.applied():
        figure = selection_map.plot(rows, {"model": MODEL})
    source = read_csv(folder / MODEL / "selection" / "arditi.csv")
    image = figure.axes[0].images[0].get_array()
    assert image is not None
    for row in source.itertuples():
        assert image[POSITIONS + row.position, row.layer] == pytest.approx(row.bypass_score)


@pytest.mark.parametrize("layers", [3, 30])
def test_missing_scores_and_tiny_divergences_can_be_drawn_at_any_depth(layers: int, folder: Path) -> None:
    selection = folder / MODEL / "selection"
    for name, columns in (("arditi", ("bypass_score", "induce_score", "kl")), ("cosmic", ("score",))):
        rows = [
            {"layer": layer, "position": position, "status": "zero direction" if layer == 0 else "kept"}
            | dict.fromkeys(columns, None if layer == 0 else 0.0)
            for layer in range(layers)
            for position in (-2, -1)
        ]
        write_csv(selection / f"{name}.csv", rows, list(rows[0]))
        write_json(selection / f"{name}.json", {"choice": {"layer": 1, "position": -1}})
    with style.applied():
        figure = selection_map.plot(candidates(folder), {"model": MODEL})
        figure.savefig(folder / "map.png")
    image = figure.axes[0].images[0].get_array()
    assert image is not None
    assert np.ma.count(np.ma.masked_invalid(image)) == 2 * (layers - 1)
    assert (folder / "map.png").stat().st_size > 0


def test_a_choice_without_a_place_is_an_error(folder: Path) -> None:
    write_json(folder / MODEL / "selection" / "cosmic.json", {"candidates": []})
    with pytest.raises(SteerError, match="names no choice"):
        candidates(folder)
