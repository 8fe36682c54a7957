from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from steer.claims import UNCONTROLLED
from steer.controls import Compared
from steer.errors import SteerError
from steer.judges.behaviours import FAITHFULNESS, REFUSAL
from steer.rates import Method
from steer.scores import (
    AGREEMENT_COLUMNS,
    ALL_ARMS,
    Comparisons,
    score_columns,
)
from steer.stats import cohen_kappa, wilson
from tests.scored import PROMPTS, TABLES, VERDICTS, F, Files, N, R, U, read


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


def test_a_table_never_holds_the_word_nan(files: Files) -> None:
    for judged in files.judging["phrases"]:
        judged["verdict"] = U
    files.score(comparisons=Comparisons(pools={"random": ["random", "ablate"]}))
    for name in TABLES:
        assert "nan" not in (files.folder / f"{name}.csv").read_text().lower()


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
