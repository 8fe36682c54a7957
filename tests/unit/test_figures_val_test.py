"""What a choice promised on val beside what it holds on test."""

from pathlib import Path

import pytest

from steer.artifacts.files import write_csv
from steer.errors import SteerError
from steer.figures import registry, val_test
from steer.stats import wilson
from tests.figure_inputs import build
from tests.figure_inputs.scores import scores_rows
from tests.figure_inputs.study import MODEL

COUNTS = {"unscored": 0, "non_response": 0}


def test_a_chosen_arm_has_the_rates_of_both_splits_and_their_difference(tmp_path: Path) -> None:
    candidate = {"arm": "ablate", "polarity": "suppress", "set": "harmful", "n": 20, **COUNTS}
    rows = [
        {**candidate, "refusal": 2, "full_response": 18, "chosen": True},
        {**candidate, "refusal": 5, "full_response": 15, "chosen": False},
        # A candidate that nobody judged.
        {**candidate, "n": None, "refusal": None, "full_response": None, "chosen": False},
        # Chosen on a set that it was not run on.
        {**candidate, "set": "other", "arm": "add", "refusal": 0, "full_response": 20, "chosen": True},
    ]
    write_csv(tmp_path / "strength.csv", rows, list(rows[0]))
    tested = {"arm": "ablate", "set": "harmful", "judge": "truth", "n": 100, **COUNTS}
    # Sampled: counts are fractions, and intervals are of as many replies as the samples are worth.
    tested |= {"refusal": 30 + 1 / 3, "full_response": 69, "unscored": 2 / 3}
    tested |= {"refusal_rate": 0.3, "refusal_low": 0.2, "refusal_high": 0.4}
    tested |= {"full_response_rate": 0.69, "full_response_low": 0.6, "full_response_high": 0.75}
    write_csv(tmp_path / "scores.csv", [tested], list(tested))
    inputs = {"scores": [tmp_path / "scores.csv"], "chosen": [tmp_path / "strength.csv"]}
    settings = {"scores": {"confidence": 0.95}, "selection.strength.judge": "truth"}
    settings |= {"contrast": {"harmful": "harmful", "harmless": "harmless"}}
    (row,) = val_test.table(inputs, settings).to_dict(orient="records")
    assert (row["arm"], row["candidates"], row["val_n"], row["test_n"]) == ("ablate", 2, 20, 99)
    assert (row["val_rate"], row["val_low"], row["val_high"]) == pytest.approx(tuple(wilson(18, 20)))
    assert (row["test_rate"], row["test_low"], row["test_high"]) == (0.69, 0.6, 0.75)
    assert row["promised_more"] == pytest.approx(18 / 20 - 0.69)
    assert row["promised_more_low"] < 18 / 20 - 0.69 < row["promised_more_high"]


def test_arms_of_both_polarities_are_held_against_what_they_are_for(tmp_path: Path) -> None:
    config = build(tmp_path)
    paths = registry.paths_of("val_test", config, MODEL)
    inputs = {key: [Path(path) for path in found] for key, found in paths.items()}
    rows = val_test.table(inputs, registry.settings_of("val_test", config, MODEL))
    assert dict(zip(rows["arm"], rows["verdict"], strict=True)) == {
        "add-suppress": "full_response",
        "add-induce": "refusal",
    }
    write_csv(inputs["scores"][0], scores_rows()[:1], list(scores_rows()[0]))
    with pytest.raises(SteerError, match=r"no arm on the set that it was chosen on"):
        val_test.table(inputs, registry.settings_of("val_test", config, MODEL))
