"""The figure of arms that were drawn several times."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from steer.artifacts.files import write_csv
from steer.errors import SteerError
from steer.figures import pooled, registry, style
from steer.figures.inputs import read_table
from tests.figure_inputs import build
from tests.figure_inputs.study import ARMS, MODEL, config


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    build(results)
    return results / MODEL / "pooled.csv"


def settings() -> dict[str, Any]:
    return registry.settings_of("pooled", config(), MODEL)


def test_every_seed_is_a_point_beside_the_mean_of_all(path: Path) -> None:
    rows = pooled.table({"pooled": [path]}, settings())
    assert list(zip(rows["arm"], rows["over"], rows["set"], strict=True)) == [
        *(("add-random", "seeds", name) for name in ("harmful", "harmless")),
        *(("baseline", "samples", name) for name in ("harmful", "harmless")),
    ]
    with style.applied():
        [axes] = pooled.plot(rows, settings()).axes
    ticks = [marks for marks in axes.collections if isinstance(marks, PathCollection)]
    seeds = [x for marks in ticks for x, _ in np.asarray(marks.get_offsets()).tolist()]
    assert sorted({round(float(x), 6) for x in seeds}) == [0.09, 0.1, 0.11, 0.76, 0.8, 0.84]
    means = {round(float(x), 6) for line in axes.containers for x in line[0].get_xdata()}
    assert means == {0.1, 0.8}
    assert [label.get_text() for label in axes.get_yticklabels()][:1] == [
        "add-random, harmful  (3 seeds of the control)"
    ]


def test_a_model_that_has_none_of_the_controls_has_a_figure_that_says_so(path: Path, tmp_path: Path) -> None:
    columns = read_table(path, ()).columns
    write_csv(tmp_path / "pooled.csv", [], [str(column) for column in columns])
    pooled.draw({"pooled": [tmp_path / "pooled.csv"]}, settings(), tmp_path / "figure")
    assert (tmp_path / "figure.svg").stat().st_size > 1000


def test_another_judge_has_no_rows(path: Path) -> None:
    known = settings()
    known["scores"]["judge"] = "phrases"
    with pytest.raises(SteerError, match="has no row by judge `phrases`"):
        pooled.table({"pooled": [path]}, known)


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({}, True),
        ({"generation": {"sets": ["harmful"], "temperature": 1.0}}, False),
        (
            {
                "generation": {"sets": ["harmful"]},
                "arms": {**ARMS, "add-random": {**ARMS["add-random"], "seeds": 2}},
            },
            True,
        ),
        ({"generation": {"sets": ["advbench"]}}, False),
    ],
)
def test_it_is_drawn_where_anything_was_drawn_several_times(changes: dict[str, Any], drawn: bool) -> None:
    assert ("pooled" in registry.figures_of(config(**changes))) == drawn
