"""The figure of what stands and falls with a planted part."""

from pathlib import Path
from typing import Any

import pytest

from steer.artifacts.files import write_csv
from steer.config import parse
from steer.errors import SteerError
from steer.figures import registry, style, truth
from steer.figures.inputs import read_table, records
from steer.truth.checking import COLUMNS
from steer.truth.trials import Role, Way
from tests.figure_inputs import build
from tests.figure_inputs.study import config

PLANTED = "planted"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    build(results)
    return results / PLANTED / "truth.csv"


def settings() -> dict[str, Any]:
    return registry.settings_of("truth", config(), PLANTED)


def test_every_trial_shows_its_shares_and_intervals_on_both_classes(path: Path) -> None:
    rows = truth.table({"truth": [path]})
    with style.applied():
        panels = truth.plot(rows, settings()).axes
    assert [axes.get_title("left") or axes.get_title() for axes in panels] == [
        "harmful prompts\nn = 50, unsteered 200",
        "harmless prompts\nn = 50, unsteered 200",
    ]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == [
        "unsteered",
        "all carriers 1:3 2:5, rerouted away from",
        "one of the carriers 1:3, experts masked",
        "no carrier 0:1, experts masked",
    ]
    for axes, label in zip(panels, ("harmful", "harmless"), strict=True):
        known = records(rows[rows["label"] == label])
        for verdict, drawn in zip(style.VERDICTS, axes.containers, strict=True):
            assert list(drawn[0].get_xdata()) == [row[f"{verdict}_rate"] for row in known]
            heights = [float(y) for y in drawn[0].get_ydata()]
            assert [round(-y) for y in heights] == [0, 1, 2, 3]
            [bars] = drawn[2]
            ends = [float(x) for segment in bars.get_segments() for x in segment[:, 0]]
            assert ends == pytest.approx(
                [row[f"{verdict}_{end}"] for row in known for end in ("low", "high")]
            )


def test_every_role_and_way_of_a_trial_has_words() -> None:
    assert set(Role.__args__) == {*truth.ROLES}  # type: ignore[attr-defined]
    assert set(Way.__args__) == {*truth.WAYS}  # type: ignore[attr-defined]
    assert {*truth.COLUMNS} <= {*COLUMNS}


def test_it_is_drawn_for_planted_models_alone() -> None:
    assert registry.models_of("truth", config()) == [PLANTED]
    natural = config().model_dump(mode="json")
    del natural["models"][PLANTED]
    assert "truth" not in registry.figures_of(parse(natural))


def test_a_table_without_intervals_is_an_error(path: Path, tmp_path: Path) -> None:
    rows = read_table(path, ()).drop(columns="refusal_low")
    write_csv(tmp_path / "truth.csv", records(rows), [str(column) for column in rows.columns])
    with pytest.raises(SteerError, match="refusal_low"):
        truth.table({"truth": [tmp_path / "truth.csv"]})
