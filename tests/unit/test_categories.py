"""Rates by category against counts by hand, and what counts as seen."""

from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from steer.categories import ALL_CATEGORIES, category_columns
from steer.judges.behaviours import REFUSAL
from steer.stats import wilson
from tests.scored import CATEGORIES, VERDICTS, F, Files, R

SEEN = {"drugs", "fraud"}
GROUPS = [("drugs", True), ("fraud", True), ("hate", False), ("theft", False)]
GROUPS += [(ALL_CATEGORIES, True), (ALL_CATEGORIES, False)]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def members(category: str, seen: bool) -> list[int]:
    """Places of the prompts of a row, by hand: the last prompt has no category and is in no row."""
    return [
        place
        for place, name in enumerate(CATEGORIES)
        if name and (name == category if category != ALL_CATEGORIES else (name in SEEN) == seen)
    ]


def test_every_arm_judge_and_category_has_a_row_and_so_have_all_seen_and_all_unseen(files: Files) -> None:
    rows = files.categories()
    assert tuple(rows[0]) == category_columns(REFUSAL)
    assert {row["set"] for row in rows} == {"harmful"}
    assert [(row["judge"], row["arm"], row["category"], row["seen"]) for row in rows] == [
        (judge, arm, category, str(seen))
        for judge, arms in VERDICTS.items()
        for arm in arms
        for category, seen in GROUPS
    ]


def test_counts_and_intervals_are_those_of_the_prompts_of_the_category(files: Files) -> None:
    for row in files.categories():
        places = members(row["category"], row["seen"] == "True")
        verdicts = [VERDICTS[row["judge"]][row["arm"]][place] for place in places]
        scored = [verdict for verdict in verdicts if verdict != "unscored"]
        assert int(row["n"]) == len(places)
        assert int(row["unscored"]) == len(verdicts) - len(scored)
        for verdict in ("refusal", "full_response", "non_response"):
            assert int(row[verdict]) == scored.count(verdict)
            found = [float(row[f"{verdict}_{part}"]) for part in ("rate", "low", "high")]
            assert found == pytest.approx(wilson(scored.count(verdict), len(scored)))


def test_unseen_categories_are_held_against_seen_ones(files: Files) -> None:
    rows = files.categories()
    for judge, arm in {(row["judge"], row["arm"]) for row in rows}:
        whole = [row for row in rows if (row["judge"], row["arm"], row["category"]) == (judge, arm, "*")]
        [seen], [unseen] = ([row for row in whole if row["seen"] == word] for word in ("True", "False"))
        for verdict in ("refusal", "full_response"):
            counts = [(int(row[verdict]), int(row["n"]) - int(row["unscored"])) for row in (unseen, seen)]
            (a, n), (b, m) = counts
            low, high = confint_proportions_2indep(a, n, b, m, method="newcomb", compare="diff")
            name = f"{verdict}_unseen_less_seen"
            found = [float(unseen[f"{name}{end}"]) for end in ("", "_low", "_high")]
            assert found == pytest.approx([a / n - b / m, low, high], abs=1e-6)
            assert seen[name] == ""


def test_differences_are_to_the_baseline_on_the_same_prompts(files: Files) -> None:
    for row in files.categories():
        verdicts = VERDICTS[row["judge"]]
        pairs = [
            (verdicts[row["arm"]][place], verdicts["baseline"][place])
            for place in members(row["category"], row["seen"] == "True")
        ]
        if row["arm"] == "baseline":
            assert {row[column] for column in category_columns(REFUSAL) if "difference" in column} == {""}
            continue
        for name, verdict in (("refusal", R), ("full_response", F)):
            change = np.mean([(a == verdict) - (b == verdict) for a, b in pairs if a != "unscored"])
            low, middle, high = (float(row[f"{name}_difference{part}"]) for part in ("_low", "", "_high"))
            assert middle == pytest.approx(change)
            assert low <= middle <= high


def test_a_category_is_seen_in_train_and_val_and_not_in_test(files: Files) -> None:
    def seen() -> set[str]:
        return {row["category"] for row in files.categories() if row["seen"] == "True"}

    assert seen() == {"drugs", "fraud", ALL_CATEGORIES}
    files.estimating = [{**row, "split": "test"} for row in files.estimating]
    assert seen() == set()
    files.estimating = [{**row, "split": "val"} for row in files.estimating]
    assert seen() == {"drugs", "fraud", "hate", ALL_CATEGORIES}


def test_prompts_without_categories_make_no_row(files: Files) -> None:
    files.prompts = [{**row, "category": ""} for row in files.prompts]
    assert files.categories() == []


def test_the_rows_of_a_category_do_not_depend_on_the_others(files: Files) -> None:
    def of_fraud() -> list[dict[str, str]]:
        return [row for row in files.categories() if row["category"] == "fraud"]

    before = of_fraud()
    for row in files.prompts:
        row["category"] = row["category"].replace("drugs", "theft")
    assert of_fraud() == before
