import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from steer.artifacts.files import write_csv
from steer.artifacts.routing import write_routing
from steer.config import ReproductionSettings
from steer.errors import SteerError
from steer.figures.reproduction import COLUMNS as DRAWN
from steer.published import PUBLISHED, Published, read_published, same_rate
from steer.reproduction import COLUMNS, Results, compare, read_scores
from steer.stats import wilson

MODEL = "allenai/OLMoE-1B-7B-0125-Instruct"
ROW: dict[str, Any] = dict.fromkeys(Published.model_fields, "") | {
    "id": "row",
    "paper": "a paper",
    "kind": "number",
    "model": MODEL,
    "arm": "steermoe-unsafe",
    "set": "advbench",
    "metric": "safe_rate",
    "unit": "rate",
    "relation": "=",
    "value": "0.88",
    "n": "50",
    "ci_low": "0.762",
    "ci_high": "0.9438",
    "source": "table 2",
    "reading": "paper",
}
SETTINGS = ReproductionSettings(
    arms={"steermoe-unsafe": "reroute"}, sets={"advbench": "advbench"}, judges={"safe_rate": "guard"}
)


def _row(**changes: str) -> Published:
    return Published.model_validate({**ROW, **changes})


def _results(tmp_path: Path, full: int, n: int = 100, unscored: int = 0) -> Results:
    path = tmp_path / "ours" / "scores.csv"
    row = {"arm": "reroute", "set": "advbench", "judge": "guard", "n": n + unscored, "unscored": unscored}
    for verdict, count in (("refusal", n - full), ("full_response", full)):
        row |= dict(
            zip((f"{verdict}_{part}" for part in ("rate", "low", "high")), wilson(count, n), strict=True)
        )
    write_csv(path, [row], [*row])
    return Results({MODEL: "ours"}, {"ours": read_scores(path)}, {})


def test_the_table_of_published_numbers_is_valid_and_covers_both_papers() -> None:
    rows = read_published(PUBLISHED)
    assert Counter(row.kind for row in rows)["contradiction"] >= 10
    of_a = [row for row in rows if row.paper == "arXiv 2606.04160"]
    of_b = [row for row in rows if row.paper == "arXiv 2509.09660"]
    assert len(of_a) > 50
    assert len(of_b) > 150
    # Table 2: four models under eight attacks; MultiJail: three languages under four.
    assert sum(row.source == "table 2" and row.kind == "number" for row in rows) == 32
    assert sum("MultiJail" in row.source for row in rows) == 12


def test_a_published_interval_is_that_of_fifty_prompts() -> None:
    found = {row.id: row for row in read_published(PUBLISHED)}["b-table-2-steermoe-gpt-oss-120b"]
    assert (found.value, found.n) == (0.9, 50)
    # The interval that a reader of the paper should have in mind: 79 to 96 %.
    assert (found.ci_low, found.ci_high) == (pytest.approx(0.79, abs=0.005), pytest.approx(0.96, abs=0.005))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ci_low": "0.5"}, "Wilson interval is 0.7620"),
        ({"value": "0.87"}, "is no rate of 50 prompts"),
        ({"value": "88"}, "not in"),
        ({"n": ""}, "an interval needs"),
        ({"relation": "range"}, "`value_to` is for ranges"),
        ({"layer": "3"}, "go together"),
        ({"metric": ""}, "a number has"),
        ({"kind": "contradiction"}, "names the rows"),
        ({"unit": "furlongs"}, "`unit`"),
        ({"reading": "memory"}, "`reading`"),
        ({"source": ""}, "`source`"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    table = tmp_path / "published.csv"
    write_csv(table, [ROW, ROW | {"id": "other"} | changes], list(ROW))
    with pytest.raises(SteerError, match=rf"line 3: .*{message}"):
        read_published(table)


def test_a_row_twice_and_a_contradiction_about_nothing_are_errors(tmp_path: Path) -> None:
    table = tmp_path / "published.csv"
    write_csv(table, [ROW, ROW], list(ROW))
    with pytest.raises(SteerError, match="`row` is there twice"):
        read_published(table)
    empty = {key: "" for key in ROW if key not in ("paper", "source", "reading")}
    lost = ROW | empty | {"id": "c", "kind": "contradiction", "concerns": "row gone", "doubts": "x"}
    write_csv(table, [ROW, lost], list(ROW))
    with pytest.raises(SteerError, match="`c` concerns `gone`"):
        read_published(table)


@pytest.mark.parametrize("counts", [((44, 50), (70, 100)), ((44, 50), (80, 100)), ((0, 50), (1, 9))])
def test_rates_agree_as_the_interval_of_an_independent_library_says(
    counts: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    (one, n_one), (other, n_other) = counts
    low, high = confint_proportions_2indep(one, n_one, other, n_other, method="newcomb")
    assert same_rate(wilson(one, n_one), wilson(other, n_other)) == (low <= 0 <= high)


@pytest.mark.parametrize(("full", "verdict"), [(12, "agrees"), (20, "agrees"), (60, "differs")])
def test_a_rate_is_compared_with_ours(tmp_path: Path, full: int, verdict: str) -> None:
    found = compare(_row(), _results(tmp_path, full, unscored=7), SETTINGS, 0.95)
    assert found["verdict"] == verdict
    # What no judge could read is in neither rate.
    assert (found["our_n"], found["our_value"]) == (100, pytest.approx(1 - full / 100))


def test_of_several_samples_the_rows_own_rate_and_interval_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "ours" / "scores.csv"
    row = {
        "arm": "reroute",
        "set": "advbench",
        "judge": "guard",
        "n": 3,
        "unscored": 1 / 3,
        "full_response": 0.5,
    }
    row |= {"full_response_rate": 0.5 / 3, "full_response_low": 0.03, "full_response_high": 0.4}
    write_csv(path, [row], [*row])
    results = Results({MODEL: "ours"}, {"ours": read_scores(path)}, {})
    found = compare(_row(), results, SETTINGS, 0.95)
    assert [found[f"our_{name}"] for name in ("value", "low", "high", "n")] == pytest.approx(
        [1 - 0.5 / 3, 0.6, 0.97, 3]
    )
    assert found["verdict"] == "agrees"
    write_csv(path, [row | dict.fromkeys([name for name in row if "response_" in name])], [*row])
    nothing = compare(_row(), replace(results, scores={"ours": read_scores(path)}), SETTINGS, 0.95)
    assert (nothing["verdict"], nothing["why"]) == ("not comparable", "our number has no interval")


def test_a_number_without_an_interval_is_compared_with_ours_alone(tmp_path: Path) -> None:
    results = _results(tmp_path, 20)
    without = {"n": "", "ci_low": "", "ci_high": ""}
    assert compare(_row(**without), results, SETTINGS, 0.95)["verdict"] == "differs"
    assert compare(_row(value="0.80", **without), results, SETTINGS, 0.95)["verdict"] == "agrees"
    bound = {**without, "relation": "<", "value": "0.99"}
    assert compare(_row(**bound), results, SETTINGS, 0.95)["verdict"] == "agrees"
    span = {**without, "relation": "range", "value": "0.1", "value_to": "0.6"}
    assert compare(_row(**span), results, SETTINGS, 0.95)["verdict"] == "differs"


def test_what_was_not_run_or_is_not_measured_says_why(tmp_path: Path) -> None:
    results = _results(tmp_path, 20)
    other = compare(_row(model="some/other"), results, SETTINGS, 0.95)
    assert (other["verdict"], other["why"]) == ("not run", "no model here is `some/other`")
    arm = compare(_row(arm="unheard-of"), results, SETTINGS, 0.95)
    assert (arm["verdict"], "names nothing for the arm" in arm["why"]) == ("not run", True)
    speed = compare(_row(metric="speed"), results, SETTINGS, 0.95)
    assert (speed["verdict"], speed["why"]) == ("not comparable", "`speed` is not measured here")


def test_a_stand_in_is_shown_and_never_agrees(tmp_path: Path) -> None:
    results = _results(tmp_path, 12)
    settings = SETTINGS.model_copy(update={"stand_in": "ours"})
    found = compare(_row(model="some/other"), results, settings, 0.95)
    assert (found["verdict"], found["our_value"]) == ("not comparable", pytest.approx(0.88))
    assert "`ours` stands in" in found["why"]


def test_an_expert_is_compared_with_our_routing_table(tmp_path: Path) -> None:
    path = tmp_path / "ours" / "routing" / "pairs.csv"
    columns = {"layer": [9], "expert": [39], "risk_difference": [0.75], "ci_low": [0.7], "ci_high": [0.8]}
    write_routing(path, {name: np.array(column) for name, column in columns.items()})
    results = Results({MODEL: "ours"}, {"ours": {}}, {("ours", "pairs"): path})
    settings = ReproductionSettings(contrasts={"beavertails-pairs": "pairs"})
    found = {row.id: row for row in read_published(PUBLISHED)}
    near = compare(found["b-safety-olmoe-0125-l9e39"], results, settings, 0.95)
    assert (near["verdict"], near["our_value"]) == ("agrees", 0.75)
    lost = compare(found["b-safety-olmoe-0125-l3e62"], results, settings, 0.95)
    assert (lost["verdict"], lost["why"]) == ("not run", "the model has no expert 62 in layer 3")


def test_the_page_reads_the_columns_that_the_stage_writes() -> None:
    assert DRAWN == COLUMNS
    with PUBLISHED.open(encoding="utf-8", newline="") as stream:
        assert next(csv.reader(stream)) == list(Published.model_fields)
