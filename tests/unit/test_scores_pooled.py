"""Scores of several replies to a prompt, of several seeds of an arm, and of rubrics with a score."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from steer.errors import SteerError
from steer.scores import Comparisons
from tests.scored import METHOD, PROMPTS, F, Files, N, R, U, read


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_seeds_of_a_control_are_scored_together_and_each_for_itself(files: Files) -> None:
    files.score(comparisons=Comparisons(pools={"random": ["random", "ablate"], "alone": ["random"]}))
    [row, _] = read(files.folder / "pooled.csv")
    assert (row["arm"], row["set"], row["judge"], row["seeds"], row["n"]) == (
        *("random", "harmful", "truth", "2", "11"),
    )
    # Of the eleven prompts that ablate was judged on: 1 and 10 refusals, 10 unsteered; 8 and 1 responses, 1.
    assert (row["over"], row["refusal_rate_each"]) == ("seeds", "0.909091 0.0909091")
    number = {
        name: float(value)
        for name, value in row.items()
        if name.startswith(("refusal", "full")) and not name.endswith("_each")
    }
    assert number["refusal_rate_sd"] == pytest.approx(abs(10 / 11 - 1 / 11) / 2**0.5)
    assert number["refusal_rate"] == pytest.approx(11 / 22)
    assert (number["refusal_rate_smallest"], number["refusal_rate_largest"]) == pytest.approx(
        (1 / 11, 10 / 11)
    )
    assert number["full_response_difference"] == pytest.approx(7 / 22)
    assert (number["full_response_difference_smallest"], number["full_response_difference_largest"]) == (
        pytest.approx((0, 7 / 11))
    )
    each = (np.array([F] * 8 + [N, N, R]) == F).astype(float) / 2 + (np.array([R] * 10 + [F]) == F) / 2
    picks = np.random.default_rng(0).integers(0, 11, (4000, 11))
    by_hand = np.quantile(each[picks].mean(axis=1), [0.025, 0.975])
    found = [number[f"full_response_rate_{end}"] for end in ("low", "high")]
    assert found == pytest.approx(by_hand, abs=0.06)


@pytest.fixture
def sampled(files: Files) -> dict[str, np.ndarray]:
    """Three samples of every prompt, and by arm which of them respond: `[prompt, sample]`."""
    rng = np.random.default_rng(1)
    shares = {"baseline": rng.random(12) / 3, "ablate": rng.beta(2, 1, 12), "random": rng.random(12) / 2}
    said = {arm: rng.random((12, 3)) < share[:, None] for arm, share in shares.items()}
    drawn = [(row, draw) for row in files.generation for draw in range(3)]
    files.generation = [{**row, "sample": draw} for row, draw in drawn]
    files.judging["truth"] = [
        {
            **{key: row[key] for key in ("arm", "prompt_id", "sample")},
            "verdict": F if said[row["arm"]][PROMPTS.index(row["prompt_id"]), row["sample"]] else R,
            "raw": {},
        }
        for row in files.generation
    ]
    files.judging["phrases"] = list(files.judging["truth"])
    return said


def test_samples_of_a_prompt_are_averaged_and_stay_together_in_resamples(
    files: Files, sampled: dict[str, np.ndarray]
) -> None:
    files.score(method=replace(METHOD, resamples=4000))
    rows = {row["arm"]: row for row in read(files.folder / "scores.csv") if row["judge"] == "truth"}
    picks = np.random.default_rng(0).integers(0, 12, (4000, 12))
    for arm, said in sampled.items():
        row, each = rows[arm], said.mean(axis=1)
        assert (row["n"], row["unscored"]) == ("12", "0")
        assert float(row[F]) == pytest.approx(each.sum())
        assert float(row[f"{F}_rate"]) == pytest.approx(said.mean())
        # The effective number of replies, from jackknifed means; its Wilson interval by another library.
        left_out = [np.delete(each, at).mean() for at in range(12)]
        error = 11 / 12 * np.sum((np.array(left_out) - each.mean()) ** 2)
        # Student's quantiles for 35 and 11 degrees of freedom, from a printed table.
        effective = min(36, max(12, said.mean() * (1 - said.mean()) / error * (2.030108 / 2.200985) ** 2))
        by_hand = proportion_confint(said.mean() * effective, effective, method="wilson")
        assert [float(row[f"{F}_{end}"]) for end in ("low", "high")] == pytest.approx(by_hand)
        if arm == "baseline":
            continue
        more = each - sampled["baseline"].mean(axis=1)
        by_hand = [more[pick].mean() for pick in picks]
        found = [float(row[f"{F}_difference_{end}"]) for end in ("low", "high")]
        assert found == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.03)
        flips = np.array(list(product((-1, 1), repeat=12))) @ np.rint(3 * more)
        exact = np.mean(np.abs(flips) >= abs(np.rint(3 * more).sum()))
        assert float(row[f"{F}_difference_p"]) == pytest.approx(exact)


def test_sampled_arms_are_pooled_against_the_unsteered_replies_of_the_same_seed(
    files: Files, sampled: dict[str, np.ndarray]
) -> None:
    method = replace(METHOD, resamples=4000)
    files.score(method, Comparisons(pools={"random": ["random", "ablate"]}))
    rows = [row for row in read(files.folder / "pooled.csv") if row["judge"] == "truth"]
    assert [(row["arm"], row["over"], row["seeds"], row["n"]) for row in rows] == [
        ("random", "seeds", "2", "12"),
        *((arm, "samples", "3", "12") for arm in sampled),
    ]
    whole = sampled["random"].mean() / 2 + sampled["ablate"].mean() / 2
    assert float(rows[0][f"{F}_rate"]) == pytest.approx(whole)
    assert rows[1][f"{F}_difference"] == ""
    picks = np.random.default_rng(0).integers(0, 12, (4000, 12))
    for row in rows[2:]:
        said, control = sampled[row["arm"]], sampled["baseline"]
        for name, each in (("rate", said.mean(axis=0)), ("difference", (said.mean(0) - control.mean(0)))):
            assert [float(one) for one in row[f"{F}_{name}_each"].split()] == pytest.approx(each, abs=1e-5)
            assert float(row[f"{F}_{name}_sd"]) == pytest.approx(np.std(each, ddof=1))
            assert float(row[f"{F}_{name}"]) == pytest.approx(each.mean())
            values = said.mean(axis=1) - (control.mean(axis=1) if name == "difference" else 0)
            by_hand = np.quantile([values[pick].mean() for pick in picks], [0.025, 0.975])
            found = [float(row[f"{F}_{name}_{end}"]) for end in ("low", "high")]
            assert found == pytest.approx(by_hand, abs=0.03)


def test_a_sample_that_was_not_scored_takes_its_share_of_a_prompt_away(
    files: Files, sampled: dict[str, np.ndarray]
) -> None:
    place = [row["arm"] for row in files.judging["truth"]].index("ablate")
    files.judging["truth"][place]["verdict"] = U
    for row in files.judging["truth"][place + 3 : place + 6]:
        row["verdict"] = U
    files.score()
    [row] = [
        row for row in read(files.folder / "scores.csv") if (row["judge"], row["arm"]) == ("truth", "ablate")
    ]
    left = sampled["ablate"].astype(float)
    left[0, 0], left[1] = np.nan, np.nan
    assert float(row["unscored"]) == pytest.approx(4 / 3)
    assert float(row[f"{F}_rate"]) == pytest.approx(np.nanmean(left))
    several = np.nanmean(np.delete(left, 1, axis=0), axis=1) - np.delete(sampled["baseline"], 1, axis=0).mean(
        1
    )
    assert float(row[f"{F}_difference"]) == pytest.approx(several.mean())


def test_a_prompt_that_lacks_a_sample_is_an_error(files: Files, sampled: dict[str, np.ndarray]) -> None:
    assert sampled
    # One prompt, whichever number of samples it lacks.
    files.generation.pop()
    files.generation.pop()
    with pytest.raises(SteerError, match="arms `random` and `baseline` differ in 1 prompts, such as `p11`"):
        files.score()


def test_a_judge_with_a_score_says_nothing_of_coherence(files: Files) -> None:
    assert float(files.row("ablate")["coherence"]) == pytest.approx(9 / 11)
    for row in files.judging["truth"]:
        row["raw"] = {"score": 0.5}
    row = files.row("ablate")
    assert (row["coherence"], row["score"]) == ("", "0.5")


def test_a_score_is_averaged_over_prompts_with_an_interval_that_resamples_them(
    files: Files, sampled: dict[str, np.ndarray]
) -> None:
    rng = np.random.default_rng(2)
    given = {arm: rng.random((12, 3)).round(3) for arm in sampled}
    for row in files.judging["truth"]:
        row["raw"] = {"score": given[row["arm"]][PROMPTS.index(row["prompt_id"]), row["sample"]]}
    files.judging["phrases"] = [{**row, "raw": {}} for row in files.judging["truth"]]
    # One without a score, as a reply that was not judged: the others of its prompt stand for it.
    first = next(row for row in files.judging["truth"] if row["arm"] == "ablate")
    first |= {"verdict": U, "raw": {}}
    rows, _ = files.score(replace(METHOD, resamples=4000))
    picks = np.random.default_rng(0).integers(0, 12, (4000, 12))
    for row in rows:
        if row["judge"] == "phrases":
            assert row["score"] == row["score_low"] == row["score_high"] == ""
            continue
        each = given[row["arm"]].mean(axis=1)
        if row["arm"] == "ablate":
            each[0] = given["ablate"][0, 1:].mean()
        assert float(row["score"]) == pytest.approx(each.mean())
        by_hand = np.quantile([each[pick].mean() for pick in picks], [0.025, 0.975])
        assert [float(row[f"score_{end}"]) for end in ("low", "high")] == pytest.approx(by_hand, abs=0.02)
