"""Dose and response: which trials are drawn, on which axis, with which interval."""

from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame
from statsmodels.stats.proportion import proportion_confint

from steer.artifacts.files import Row, write_csv
from steer.errors import SteerError
from steer.figures import dose_response, registry, style
from tests.figure_inputs.choices import strength_rows
from tests.figure_inputs.study import CHOICE, COEFFICIENTS, MODEL, config


def table(rows: list[Row], folder: Path) -> DataFrame:
    write_csv(folder / "strength.csv", rows, list(strength_rows(1).__iter__().__next__()))
    settings = registry.settings_of("dose_response", config(), MODEL)
    return dose_response.table({"strength": [folder / "strength.csv"]}, settings)


def test_only_the_place_that_an_arm_ended_at_is_drawn(tmp_path: Path) -> None:
    rows = table(list(strength_rows()), tmp_path)
    assert len(rows) == 2 * 3 * len(COEFFICIENTS)
    assert set(rows["layer"]) == {CHOICE["layer"]}
    assert rows.groupby("arm")["chosen"].sum().tolist() == [1, 1]


def test_both_polarities_share_a_scale_of_strength_and_dose(tmp_path: Path) -> None:
    rows = table(list(strength_rows()), tmp_path)
    assert (rows["strength"] == rows["coefficient"].abs()).all()
    assert rows["dose"].to_numpy() == pytest.approx((rows["strength"] * rows["direction_norm"]).to_numpy())
    assert set(rows["coefficient"] < 0) == {True, False}


def test_the_interval_is_that_of_the_wanted_verdict_over_scored_replies(tmp_path: Path) -> None:
    trials = [row | {"unscored": 2, "n": row["n"] + 2} for row in strength_rows()]
    for _, row in table(trials, tmp_path).iterrows():
        wanted = "full_response" if row["polarity"] == "suppress" else "refusal"
        low, high = proportion_confint(row[wanted], row["n"] - 2, method="wilson")
        assert (row["success_low"], row["success_high"]) == pytest.approx((low, high), abs=1e-9)


def test_curves_show_shares_and_the_line_marks_the_choice(tmp_path: Path) -> None:
    rows = table(list(strength_rows()), tmp_path)
    with style.applied():
        figure = dose_response.plot(rows, registry.settings_of("dose_response", config(), MODEL))
    verdicts, divergence = figure.axes[:2]
    first = rows[(rows["arm"] == "add-induce") & (rows["scope"] == "all")]
    for line, name in zip(verdicts.lines, dose_response.VERDICTS, strict=False):
        assert list(line.get_xdata()) == list(COEFFICIENTS)
        assert line.get_ydata() == pytest.approx((first[name] / first["scored"]).to_numpy())
    assert list(np.ravel(verdicts.lines[-1].get_xdata())) == [1.0, 1.0]
    assert divergence.lines[0].get_ydata() == pytest.approx(first["kl"].to_numpy())


@pytest.mark.parametrize("change", [{"operation": "affine"}, {"arm": "unheard-of"}])
def test_no_trial_of_addition_is_an_error(change: Row, tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="no trial of `add`"):
        table([row | change for row in strength_rows()], tmp_path)
