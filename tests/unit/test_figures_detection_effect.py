"""Detection against effect: the panels of routing are those of the contrasts that the configuration names."""

from dataclasses import replace
from pathlib import Path

from steer.artifacts.facts import Truth, write_facts
from steer.artifacts.files import write_csv
from steer.figures import style
from steer.figures.detection_effect import plot, table
from tests.activation_sets import facts_named


def test_contrasts_are_found_by_their_names(tmp_path: Path) -> None:
    scores = {"asked_top_k": 0.5, "told_top_k": -0.25, "prompt_top_k": 1.0, "gate_gradient": 2.0}
    rows = [{"layer": 0, "expert": at, "mask_effect": at / 8, **scores} for at in range(4)]
    write_csv(tmp_path / "detection.csv", rows, list(rows[0]))
    truth = Truth("routed", "experts", ((0, 2),))
    write_facts(tmp_path / "model.json", replace(facts_named("tiny"), truth=truth), {})
    inputs = {"detection": [tmp_path / "detection.csv"], "facts": [tmp_path / "model.json"]}
    named = {"routing.recognise": "asked", "routing.control": "told"}
    found = table(inputs, named)
    assert [*dict.fromkeys(found["detector"])] == ["asked_top_k", "told_top_k", "gate_gradient"]
    assert set(found["role"]) == {"carrier", "other"}
    with style.applied():
        figure = plot(found, {**named, "scores.confidence": 0.95, "model": "tiny"})
    titles = [axes.get_title("left").split(":")[0] for axes in figure.axes if axes.get_visible()]
    assert titles[:2] == ["routing on prompts", "routing on replies"]
