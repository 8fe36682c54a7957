import csv
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from steer.artifacts.files import write_jsonl
from steer.claims import UNCONTROLLED
from steer.controls import Compared
from steer.errors import SteerError
from steer.judges.behaviours import FAITHFULNESS, REFUSAL
from steer.rates import Method
from steer.scores import (
    AGREEMENT_COLUMNS,
    ALL_ARMS,
    NOTHING_MORE,
    Comparisons,
    JudgedSet,
    Tables,
    score,
    score_columns,
)
from steer.stats import cohen_kappa, wilson

PROMPTS = [f"p{index}" for index in range(12)]
R, F, N, U = "refusal", "full_response", "non_response", "unscored"

# Verdicts of each arm on the twelve prompts, by two judges.
VERDICTS = {
    "truth": {"baseline": [R] * 10 + [F, N], "ablate": [F] * 8 + [N, N, R, U], "random": [R] * 10 + [F, N]},
    "phrases": {"baseline": [R] * 10 + [F, F], "ablate": [F] * 12, "random": [R] * 12},
}
METHOD = Method(resamples=500)
TABLES = ("scores", "agreement", "categories", "pooled", "recovery")
# Of hate only `test` has a prompt, and theft is what harmless prompts are matched to: both are unseen.
CATEGORIES = ["drugs"] * 3 + ["fraud"] * 4 + ["hate"] * 2 + ["theft"] * 2 + [""]
ESTIMATING = [("drugs", "train"), ("fraud", "val"), ("hate", "test"), ("matched_theft", "train")]


class Files:
    """The files that the stage reads, written row by row, and the tables that it makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.generation = [
            {
                "arm": arm,
                "prompt_id": prompt,
                "text": "text",
                "first_token_refusal_score": float(place),
                "first_token_kl": 0.5 if arm == "ablate" else 0.0,
                "fired": {
                    "tokens": 20 + place if arm == "ablate" else 0,
                    "sites": 9,
                    "relative_norm": 0.25,
                    "leaked": 2 * place,
                    "blocked": 3 * place,
                    "dropped": 0,
                },
            }
            for arm in ("baseline", "ablate", "random")
            for place, prompt in enumerate(PROMPTS)
        ]
        self.judging = {
            judge: [
                {
                    "arm": arm,
                    "prompt_id": prompt,
                    "verdict": verdict,
                    "reason": "",
                    "raw": raw_of(judge, verdict),
                }
                for arm, verdicts in arms.items()
                for prompt, verdict in zip(PROMPTS, verdicts, strict=True)
            ]
            for judge, arms in VERDICTS.items()
        }
        self.prompts = [
            prompt_row(prompt, category, "test") for prompt, category in zip(PROMPTS, CATEGORIES, strict=True)
        ]
        self.estimating = [
            prompt_row(f"e{place}", category, split) for place, (category, split) in enumerate(ESTIMATING)
        ]

    def score(
        self, method: Method = METHOD, comparisons: Comparisons = NOTHING_MORE
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        generation = self.folder / "harmful.jsonl"
        write_jsonl(generation, self.generation)
        paths = {judge: self.folder / f"harmful.{judge}.jsonl" for judge in self.judging}
        for judge, path in paths.items():
            write_jsonl(path, self.judging[judge])
        prompts, estimating = self.folder / "prompts.jsonl", self.folder / "estimating.jsonl"
        write_jsonl(prompts, self.prompts)
        write_jsonl(estimating, self.estimating)
        tables = Tables(*(self.folder / f"{name}.csv" for name in TABLES))
        score([JudgedSet("harmful", prompts, generation, paths)], [estimating], tables, method, comparisons)
        return read(tables.scores), read(tables.agreement)

    def categories(self) -> list[dict[str, str]]:
        self.score()
        return read(self.folder / "categories.csv")

    def row(self, arm: str, judge: str = "truth") -> dict[str, str]:
        rows, _ = self.score()
        return next(row for row in rows if (row["arm"], row["judge"]) == (arm, judge))


def prompt_row(name: str, category: str, split: str) -> dict[str, Any]:
    return {"id": name, "text": "text", "label": "harmful", "category": category, "split": split}


def raw_of(judge: str, verdict: str) -> dict[str, Any]:
    return {"well_formed": verdict != R, "restates": verdict == F} if judge == "truth" else {}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_every_arm_and_judge_has_a_row_with_the_columns_of_the_contract(files: Files) -> None:
    rows, agreement = files.score()
    assert [(row["judge"], row["arm"]) for row in rows] == [
        (judge, arm) for judge in VERDICTS for arm in VERDICTS[judge]
    ]
    assert tuple(rows[0]) == score_columns(REFUSAL)
    assert tuple(agreement[0]) == AGREEMENT_COLUMNS


def test_unscored_replies_are_counted_and_left_out_of_the_rates(files: Files) -> None:
    row = files.row("ablate")
    assert (row["n"], row["unscored"], row["refusal"], row["full_response"], row["non_response"]) == (
        *("12", "1", "1", "8", "2"),
    )
    assert float(row["full_response_rate"]) == pytest.approx(8 / 11)
    rates = [float(row[f"{verdict}_rate"]) for verdict in (R, F, N)]
    assert sum(rates) == pytest.approx(1)
    assert float(row["coherence"]) == pytest.approx(1 - 2 / 11)


def test_the_intervals_of_rates_are_wilsons(files: Files) -> None:
    row = files.row("ablate")
    found = [float(row[f"refusal_{part}"]) for part in ("rate", "low", "high")]
    assert found == pytest.approx(wilson(1, 11))


def test_differences_pair_the_prompts_that_both_arms_have_scored(files: Files) -> None:
    row = files.row("ablate")
    baseline, treated = VERDICTS["truth"]["baseline"][:11], VERDICTS["truth"]["ablate"][:11]
    differences = [(a == R) - (b == R) for a, b in zip(treated, baseline, strict=True)]
    assert float(row["refusal_difference"]) == pytest.approx(np.mean(differences))
    assert (
        float(row["refusal_difference_low"]) <= np.mean(differences) <= float(row["refusal_difference_high"])
    )
    # Ten prompts lose their refusal, one gains one: twice the binomial tail of 1 among 11.
    assert float(row["refusal_difference_p"]) == pytest.approx(2 * (1 + 11) / 2**11)


def test_an_arm_that_changes_nothing_differs_by_nothing(files: Files) -> None:
    row = files.row("random")
    assert [float(row[f"refusal_difference{part}"]) for part in ("", "_low", "_high", "_p")] == [0, 0, 0, 1]


def test_the_baseline_has_no_difference_to_itself(files: Files) -> None:
    row = files.row("baseline")
    assert {row[column] for column in score_columns(REFUSAL) if "difference" in column} == {""}


def test_restatement_is_a_share_of_the_compliances_that_the_truth_calls_well_formed(files: Files) -> None:
    assert float(files.row("ablate")["restates_rate"]) == pytest.approx(8 / 11)
    assert files.row("ablate", "phrases")["restates_rate"] == ""


def test_what_generation_measured_is_averaged_over_prompts(files: Files) -> None:
    row = files.row("ablate")
    assert float(row["first_token_kl"]) == 0.5
    assert float(row["first_token_refusal_score"]) == pytest.approx(5.5)
    assert float(row["fired_tokens"]) == pytest.approx(25.5)
    assert float(row["fired_relative_norm"]) == 0.25
    assert float(row["fired_leaked"]) == pytest.approx(11)
    assert float(row["fired_blocked"]) == pytest.approx(16.5)


def test_what_generation_did_not_measure_stays_empty(files: Files) -> None:
    for row in files.generation:
        row["first_token_kl"] = None
        del row["fired"]
    row = files.row("ablate")
    assert row["first_token_kl"] == row["fired_tokens"] == ""


def test_an_arm_without_a_single_verdict_has_empty_rates_not_zeros(files: Files) -> None:
    for judged in files.judging["truth"]:
        if judged["arm"] == "ablate":
            judged["verdict"] = U
    row = files.row("ablate")
    assert row["unscored"] == "12"
    empty = ("refusal_rate", "refusal_low", "coherence", "refusal_difference", "refusal_difference_p")
    assert {row[column] for column in empty} == {""}


def test_agreement_compares_each_judge_with_the_reference_by_arm_and_over_all(files: Files) -> None:
    _, rows = files.score()
    assert [row["arm"] for row in rows] == [ALL_ARMS, "baseline", "ablate", "random"]
    assert {(row["reference"], row["judge"], row["set"]) for row in rows} == {("truth", "phrases", "harmful")}
    whole = rows[0]
    assert (whole["n"], whole["unscored"]) == ("35", "1")
    pairs = [
        (other, one)
        for arm in VERDICTS["truth"]
        for one, other in zip(VERDICTS["truth"][arm], VERDICTS["phrases"][arm], strict=True)
        if one != U
    ]
    assert float(whole["accuracy"]) == pytest.approx(sum(a == b for a, b in pairs) / 35)
    judged, truth = [a for a, _ in pairs], [b for _, b in pairs]
    kappa = cohen_kappa(judged, truth, np.random.default_rng(0), 500)
    assert float(whole["kappa"]) == pytest.approx(kappa.estimate)
    assert float(whole["ci_low"]) == pytest.approx(kappa.low, abs=0.1)


def test_judges_other_than_the_reference_are_compared_over_all_arms(files: Files) -> None:
    _, known = files.score()
    _, rows = files.score(Method(resamples=500, reference="nobody"))
    (row,) = rows
    assert ({row["reference"], row["judge"]}, row["arm"]) == ({"truth", "phrases"}, ALL_ARMS)
    assert (row["n"], row["kappa"]) == (known[0]["n"], known[0]["kappa"])


def test_the_numbers_of_an_arm_do_not_depend_on_the_other_arms(files: Files) -> None:
    before = files.row("ablate")
    files.generation = [row for row in files.generation if row["arm"] != "random"]
    for judge in files.judging:
        files.judging[judge] = [row for row in files.judging[judge] if row["arm"] != "random"]
    after = files.row("ablate")
    # But what holds over all arms: one arm less is one claim less.
    over_all = [name for name in before if name.endswith("_p_holm")]
    assert over_all
    assert all(0 < float(after.pop(name)) < float(before.pop(name)) for name in over_all)
    assert after == before


def test_nothing_is_claimed_where_no_prompt_has_an_answer_of_the_kind_that_an_arm_is_for(
    files: Files,
) -> None:
    said = {R: "from_memory", F: "from_document", N: "other", U: U}
    for row in files.judging["truth"]:
        row["verdict"] = said[row["verdict"]]
    del files.judging["phrases"]
    files.prompts = [row | {"answers": ["Velm"], "memory": []} for row in files.prompts]
    method = Method(resamples=100, behaviour=FAITHFULNESS)
    for polarity, claimed in (("induce", UNCONTROLLED), ("suppress", "")):
        arm = Compared("induce" if polarity == "induce" else "suppress", (), experts=True, locates=True)
        rows, _ = files.score(method, Comparisons({"ablate": arm}))
        assert {row["arm"]: row["claim"] for row in rows} == {"baseline": "", "ablate": claimed, "random": ""}


def test_the_same_files_give_the_same_bytes(files: Files) -> None:
    files.score()
    before = [(files.folder / f"{name}.csv").read_bytes() for name in TABLES]
    files.score()
    assert before == [(files.folder / f"{name}.csv").read_bytes() for name in TABLES]


def spoil_verdict(files: Files) -> None:
    files.judging["truth"][4]["verdict"] = "jailbroken"


def spoil_missing(files: Files) -> None:
    del files.judging["truth"][4]


def spoil_double(files: Files) -> None:
    files.judging["truth"].append(files.judging["truth"][4])


def spoil_extra(files: Files) -> None:
    files.judging["truth"].append({**files.judging["truth"][4], "prompt_id": "stranger"})


def spoil_generation(files: Files) -> None:
    files.generation.append(files.generation[4])


def spoil_pairing(files: Files) -> None:
    del files.generation[-1]
    for judge in files.judging:
        del files.judging[judge][-1]


def spoil_baseline(files: Files) -> None:
    for row in [*files.generation, *files.judging["truth"], *files.judging["phrases"]]:
        row["arm"] = row["arm"].replace("baseline", "plain")


def spoil_prompt(files: Files) -> None:
    files.prompts[4]["id"] = "stranger"


def spoil_measure(files: Files) -> None:
    files.generation[4]["first_token_kl"] = "small"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_verdict, r"harmful.truth.jsonl, line 5: verdict 'jailbroken' is unknown"),
        (spoil_missing, r"harmful.truth.jsonl: .*`baseline` to prompt `p4` is not judged"),
        (spoil_double, r"harmful.truth.jsonl, line 37: .*`p4` is judged twice"),
        (spoil_extra, r"harmful.truth.jsonl, line 37: .*`stranger` is not among the generated ones"),
        (spoil_generation, r"harmful.jsonl, line 37: .*`p4` is there twice"),
        (spoil_pairing, r"arms `random` and `baseline` differ in 1 prompts, such as `p11`"),
        (spoil_baseline, r"has no replies of arm `baseline`"),
        (spoil_prompt, r"prompts.jsonl: does not hold prompt `p4`, which was judged"),
        (spoil_measure, r"line 5: `first_token_kl` is 'small', not a number"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_files_that_do_not_match_are_named_with_the_row(
    files: Files, spoil: Callable[[Files], None], message: str
) -> None:
    spoil(files)
    with pytest.raises(SteerError, match=message):
        files.score()
    assert not (files.folder / "scores.csv").exists()


def test_a_judge_with_a_score_says_nothing_of_coherence(files: Files) -> None:
    assert float(files.row("ablate")["coherence"]) == pytest.approx(9 / 11)
    for row in files.judging["truth"]:
        row["raw"] = {"score": 0.5}
    row = files.row("ablate")
    assert (row["coherence"], row["score"]) == ("", "0.5")


def test_a_table_never_holds_the_word_nan(files: Files) -> None:
    for judged in files.judging["phrases"]:
        judged["verdict"] = U
    files.score(comparisons=Comparisons(pools={"random": ["random", "ablate"]}))
    for name in TABLES:
        assert "nan" not in (files.folder / f"{name}.csv").read_text().lower()


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


def test_the_share_of_the_whole_effect_is_of_the_prompts_that_all_were_judged_on(files: Files) -> None:
    files.judging["truth"] = [
        {**row, "verdict": F} if (row["arm"], row["prompt_id"]) in PARTLY else row
        for row in files.judging["truth"]
    ]
    files.score(comparisons=Comparisons(recovered=[("random", "ablate", "suppress")]))
    truth, phrases = read(files.folder / "recovery.csv")
    assert (truth["arm"], truth["whole"], truth["verdict"], truth["n"]) == ("random", "ablate", F, "11")
    effects = [float(truth[name]) for name in ("effect", "whole_effect", "share")]
    assert effects == pytest.approx([4 / 11, 7 / 11, 4 / 7])
    assert float(truth["share_low"]) < 4 / 7 < float(truth["share_high"])
    assert float(phrases["share"]) < 0
    # What strengthens is not meant for harmful prompts.
    files.score(comparisons=Comparisons(recovered=[("random", "ablate", "induce")]))
    assert read(files.folder / "recovery.csv") == []


PARTLY = {("random", prompt) for prompt in PROMPTS[:4]}
