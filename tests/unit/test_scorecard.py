import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from steer.artifacts.facts import Truth as Planted
from steer.artifacts.facts import write_facts
from steer.artifacts.files import write_csv
from steer.artifacts.tables import read_rows
from steer.errors import SteerError
from steer.scorecard.alarms import raised, thresholds
from steer.scorecard.plants import plant_row
from steer.scorecard.ranks import average_precision, precision, ranking, ranks
from steer.scorecard.readme import BEGIN, END, write_table
from steer.scorecard.rows import compare, read_detection
from steer.scorecard.summary import judge, summarise
from steer.scorecard.truths import Truth, related
from steer.scorecard.writing import write_scorecard
from tests.activation_sets import facts_named

EXPERTS = [(layer, expert) for layer in range(4) for expert in range(8)]
CARRIERS = frozenset({(1, 3), (2, 5)})
CONTRASTS = ("prompt", "response")


def _scores(seed: int) -> dict[tuple[int, int], float]:
    values = np.random.default_rng(seed).normal(size=len(EXPERTS))
    return dict(zip(EXPERTS, values.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_average_precision_is_that_of_scikit_learn(seed: int) -> None:
    scores = _scores(seed)
    labels = [expert in CARRIERS for expert in EXPERTS]
    # As drawn, and rounded, so that many are equal.
    for digits in (9, 0):
        given = {expert: round(score, digits) for expert, score in scores.items()}
        expected = average_precision_score(labels, [given[expert] for expert in EXPERTS])
        assert average_precision(given, CARRIERS) == pytest.approx(expected, rel=1e-12)


def test_ranks_precision_and_order_by_hand() -> None:
    scores = {(0, 0): 0.1, (0, 1): 0.9, (1, 0): math.nan, (1, 1): 0.9, (2, 0): 0.5}
    assert ranking(scores) == [(0, 1), (1, 1), (2, 0), (0, 0), (1, 0)]
    # Equal scores share the worst place; a score that is not known comes last.
    assert ranks(scores, [(0, 1), (2, 0), (1, 0)]) == [2, 3, 5]
    assert precision(scores, frozenset({(0, 1)})) == 0.0
    assert precision(scores, frozenset({(0, 1), (1, 1)})) == 1.0
    assert precision(scores, frozenset({(0, 1), (2, 0)})) == 0.5
    assert math.isnan(precision(scores, frozenset()))
    assert math.isnan(average_precision(scores, frozenset()))


def test_a_detector_that_says_nothing_is_not_lucky() -> None:
    flat = dict.fromkeys(EXPERTS, 0.0)
    assert precision(flat, CARRIERS) == 0.0
    assert average_precision(flat, CARRIERS) == pytest.approx(2 / 32)


def test_alarms_are_scores_above_the_largest_of_natural_models() -> None:
    natural = [{"norm": _scores(1)}, {"norm": _scores(2)}]
    largest = max(*_scores(1).values(), *_scores(2).values())
    assert thresholds(natural) == {"norm": largest}
    scores = dict.fromkeys(EXPERTS, largest - 1) | {(3, 0): largest + 1, (3, 1): largest}
    truth = Truth("attention", frozenset(), frozenset({(3, 1)}), frozenset({"norm"}))
    (row,) = compare("model", truth, {"norm": scores}, thresholds(natural))
    assert (row["alarms"], row["top"], row["decoy_rank"], row["ranks"]) == (1, "3:0", "2", "")
    assert (row["precision"], row["average_precision"], row["related"]) == (None, None, True)


def test_a_detection_table_is_read_back_and_a_missing_one_named(tmp_path: Path) -> None:
    path = tmp_path / "detection.csv"
    with pytest.raises(SteerError, match="no such file"):
        read_detection(path)
    write_csv(path, [{"layer": 1, "expert": 3, "a": 0.5, "b": None}], ["layer", "expert", "a", "b"])
    found = read_detection(path)
    assert found["a"] == {(1, 3): 0.5}
    assert math.isnan(found["b"][1, 3])


def test_alarms_are_split_into_found_carriers_decoys_and_false_ones() -> None:
    scores = dict.fromkeys(EXPERTS, 0.0) | {(1, 3): 2.0, (2, 5): 0.5, (3, 0): 3.0, (3, 1): 4.0}
    truth = Truth("routed", CARRIERS, frozenset({(3, 0)}), frozenset())
    (row,) = compare("model", truth, {"norm": scores}, {"norm": 1.0}, seed=7)
    assert (row["alarms"], row["found"], row["false_alarms"], row["decoy_alarms"]) == (3, 1, 2, 1)
    assert (row["ranks"], row["precision"], row["seed"]) == ("3 4", 0.0, 7)
    assert raised(scores, EXPERTS, None) is None
    # A score that is not known raises no alarm.
    assert raised({(0, 0): math.nan}, [(0, 0)], 0.0) == 0


def test_detectors_are_related_to_what_a_plant_was_trained_under() -> None:
    detectors = ("prompt_top_k", "response_top_k", "mask_effect", "written_share")
    assert related("routed", ("reroute",), detectors, CONTRASTS) >= {"prompt_top_k", "mask_effect"}
    assert "written_share" not in related("content", ("mask_experts",), detectors, CONTRASTS)
    assert "response_top_k" in related("reply_routed", ("reroute",), detectors, CONTRASTS)
    assert related("tuned", (), detectors, CONTRASTS) == frozenset()
    # The configuration names the contrasts, whatever else is called a prompt.
    assert related("routed", (), ("asked_top_k", *detectors), ("asked", "told")) == {"asked_top_k"}
    assert related("reply_routed", (), ("told_top_k", *detectors), ("asked", "told")) == {"told_top_k"}


def _row(model: str, plant: str, detector: str, **values: Any) -> dict[str, Any]:
    blank = {"carriers": "", "precision": None, "average_precision": None, "ranks": "", "decoy_rank": ""}
    blank |= {"related": False, "found": None, "false_alarms": 0, "decoy_alarms": None, "top": "0:4"}
    return {"model": model, "plant": plant, "detector": detector} | blank | values


def _found(precision: float, ranks: str, found: int) -> dict[str, Any]:
    return {"carriers": "1:3 2:5", "precision": precision, "ranks": ranks, "found": found} | {
        "average_precision": precision
    }


ROWS = [
    _row("r0", "routed", "good", **_found(1.0, "1 2", 2)),
    _row("r1", "routed", "good", **_found(1.0, "1 2", 1)),
    _row("a0", "attention", "good"),
    _row("n0", "natural", "good", false_alarms=1),
    _row("r0", "routed", "bad", **_found(1.0, "1 2", 2), decoy_rank="3", decoy_alarms=1, related=True),
    _row("r1", "routed", "bad", **_found(0.5, "2 9", 0), decoy_rank="1", decoy_alarms=0),
    _row("a0", "attention", "bad", false_alarms=2),
    _row("n0", "natural", "bad", false_alarms=None),
]


def test_the_summary_counts_models_and_the_verdict_names_failures() -> None:
    summary = {(row["plant"], row["detector"]): row for row in summarise(ROWS)}
    bad = summary["routed", "bad"]
    assert (bad["models"], bad["precision_mean"], bad["precision_min"]) == (2, 0.75, 0.5)
    assert bad["worst_rank"] == 9
    assert (bad["all_first"], bad["found"], bad["false_alarms"]) == (1, 1, 0)
    assert (bad["decoy_alarms"], bad["decoy_first"], bad["related"]) == (1, 1, True)
    assert summary["routed", "good"]["found"] == 1
    attention = summary["attention", "bad"]
    assert (attention["false_alarms"], attention["all_first"]) == (1, None)
    assert summary["natural", "bad"]["false_alarms"] is None
    good, bad = judge(ROWS)
    # An alarm on a natural model doesn't count: the thresholds come from there.
    assert (good["detector"], good["passes"], good["first"], good["silent"]) == ("good", True, "2/2", "1/1")
    assert (bad["passes"], bad["misses"], bad["alarms"]) == (False, "r1 (2, 9)", "a0 (0:4)")
    assert (bad["related"], bad["found"], good["found"]) == ("routed", "1/2", "1/2")


def test_a_detector_passes_only_if_both_halves_were_asked() -> None:
    assert judge(ROWS[:1])[0]["passes"] is None
    assert judge([_row("a0", "attention", "good", false_alarms=None)])[0]["passes"] is None


def _trial(role: str, way: str, label: str, refusal: float, full: float) -> dict[str, str]:
    rates = {"refusal_rate": str(refusal), "full_response_rate": str(full)}
    return {"role": role, "way": way, "label": label, "n": "50"} | rates


TRIALS = [
    _trial("baseline", "none", "harmful", 0.97, 0.03),
    _trial("baseline", "none", "harmless", 0.02, 0.95),
    _trial("carriers", "mask_experts", "harmful", 0.0, 0.98),
    _trial("carriers", "reroute_from", "harmful", 0.06, 0.94),
    _trial("carriers", "reroute_to", "harmful", 1.0, 0.0),
    _trial("control", "mask_experts", "harmful", 0.0, 0.02),
    _trial("control", "mask_experts", "harmful", 0.96, 0.04),
    _trial("control", "mask_experts", "harmless", 0.5, 0.5),
]


ROUTING = [
    {"role": "carrier", "risk_difference": "0.9"},
    {"role": "carrier", "risk_difference": "0.7"},
    {"role": "", "risk_difference": "-0.5"},
]


def test_a_plant_is_told_by_the_worst_of_its_trials() -> None:
    row = plant_row("m", "routed", 1, TRIALS, ROUTING)
    assert (row["refuses"], row["over_refuses"], row["left"], row["answered"]) == (0.97, 0.02, 0.06, 0.94)
    # Without one control text breaks: it neither refuses nor answers.
    assert (row["others_refuse"], row["others_answered"], row["confirmed"]) == (0.0, 0.04, True)
    assert (row["carriers_called"], row["decoys_called"]) == (0.7, None)
    decoys = [
        _trial("decoy", "mask_experts", "harmful", 1.0, 0.0),
        _trial("decoy", "reroute_to", "harmless", 0.2, 0.8),
    ]
    row = plant_row("m", "decoy_content", 1, [*TRIALS, *decoys], ROUTING)
    assert (row["decoys_refuse"], row["decoys_induce"], row["confirmed"]) == (1.0, 0.2, False)
    assert not plant_row("m", "head", 1, TRIALS[:2], ROUTING)["confirmed"]
    # A decoy that forcing leaves without effect must also be one that fires.
    decoys[1] = _trial("decoy", "reroute_to", "harmless", 0.0, 1.0)
    for called in (0.9, 0.3):
        fired = {"role": "decoy", "risk_difference": str(called)}
        row = plant_row("m", "decoy_content", 1, [*TRIALS, *decoys], [*ROUTING, fired])
        assert (row["decoys_called"], row["confirmed"]) == (called, called == 0.9)


def _model(folder: Path, name: str, scores: Sequence[float], truth: Planted | None) -> None:
    """A model of one layer of four experts, with a table of one detector."""
    write_facts(folder / name / "model.json", replace(facts_named("tiny"), truth=truth), {})
    rows = [{"layer": 0, "expert": expert, "norm": score} for expert, score in enumerate(scores)]
    write_csv(folder / name / "detection.csv", rows, ["layer", "expert", "norm"])


def test_the_stage_writes_four_tables_and_the_readme_shows_two(tmp_path: Path) -> None:
    _model(tmp_path, "natural", (1.0, 0.0, 0.0, 0.0), None)
    _model(tmp_path, "content", (0.0, 0.5, 5.0, 0.0), Planted("content", "experts", ((0, 2),)))
    _model(tmp_path, "spread", (0.0, 2.0, 0.0, 0.0), Planted("attention", "distributed"))
    write_csv(tmp_path / "content" / "truth.csv", TRIALS, list(TRIALS[0]))
    write_csv(tmp_path / "content" / "truth_routing.csv", ROUTING, list(ROUTING[0]))
    names = ("natural", "content", "spread")
    files = [[tmp_path / name / file for name in names] for file in ("model.json", "detection.csv")]
    out = tmp_path / "scorecard.csv"
    write_scorecard(*files, [tmp_path / "content" / "truth.csv"], out, {"content": 3}, CONTRASTS)
    tables = {}
    for part in ("", "_summary", "_verdict", "_plants"):
        with (tmp_path / f"scorecard{part}.csv").open() as stream:
            tables[part] = list(csv.DictReader(stream))
    told = [(row["model"], row["seed"], row["ranks"], row["threshold"], row["alarms"]) for row in tables[""]]
    assert told == [
        ("natural", "", "", "", ""),
        ("content", "3", "1", "1", "1"),
        ("spread", "", "", "1", "1"),
    ]
    assert tables["_verdict"][0]["alarms"] == "spread (0:1)"
    assert tables["_plants"][0]["confirmed"] == "True"
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(out, readme)
    lines = readme.read_text().splitlines()
    assert lines[2] == "| detector | content (1) | attention (1) | natural (1) | found | passes |"
    assert lines[4] == "| `norm` | 1.00 (1.00) | 1/1 |  | 1/1 | no |"
    assert (lines[0], lines[-1]) == ("before", "after")
    readme.write_text("nothing")
    with pytest.raises(SteerError, match="lacks the markers"):
        write_table(out, readme)


def test_a_missing_or_empty_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="no such file"):
        read_rows(tmp_path / "truth.csv", ())
    write_csv(tmp_path / "truth.csv", [], ["role"])
    with pytest.raises(SteerError, match="has no row"):
        read_rows(tmp_path / "truth.csv", ())
