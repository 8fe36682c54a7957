import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from steer.artifacts.arms import arm_digest
from steer.artifacts.journal import Journal
from steer.config import ResidualArm, StrengthSettings, parse_arm
from steer.errors import SteerError
from steer.judges.verdicts import Exchange, Judge, Judgement, Verdict
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.selection.making import Dose, make_arm
from steer.selection.strength import select
from tests.oracles import forward
from tests.study import POSITIONS, Study, make_study, prompts_of

Tiny = Callable[[str], LoadedModel]
Rows = list[dict[str, str]]
GRID = StrengthSettings(
    coefficients=(0.5, 1.0), scopes=("all", "prompt"), candidates=2, prompts=3, max_new_tokens=4, judge="x"
)
ARMS: dict[str, dict[str, Any]] = {
    "baseline": {"operation": "none"},
    "add": {"operation": "add", "polarity": "induce"},
    "ablate": {"operation": "ablate"},
    "affine": {"operation": "affine", "scope": "generated"},
    "copied": {"operation": "add", "direction": "random", "like": "add"},
    "given": {"operation": "ablate", "selection": "cosmic", "tuned": False},
}
NAMES: tuple[Verdict, ...] = ("refusal", "full_response", "non_response", "unscored")


class Bytes:
    """A judge of random text: its bytes decide, so that every verdict occurs."""

    version = "bytes-1"

    def __init__(self) -> None:
        self.asked: list[Exchange] = []

    def verdict(self, exchange: Exchange) -> Verdict:
        return NAMES[sum((exchange.prompt + exchange.reply).encode()) % len(NAMES)]

    def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
        self.asked += exchanges
        return [Judgement(self.verdict(exchange), "", self.version) for exchange in exchanges]


class Always(Bytes):
    """A judge that says the same of everything, so that only ties are left."""

    def __init__(self, said: Verdict) -> None:
        super().__init__()
        self.said = said

    def verdict(self, exchange: Exchange) -> Verdict:
        del exchange
        return self.said


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path) -> Study:
    study = make_study(tmp_path, tiny("olmoe"))
    study.write_choice("arditi", [(2, -1), (1, -3), (3, -2)])
    study.write_choice("cosmic", [(1, -2)])
    return study


def _select(
    study: Study, judge: Judge, arms: Mapping[str, Mapping[str, Any]] = ARMS, grid: StrengthSettings = GRID
) -> tuple[Rows, dict[str, Any]]:
    settings = {name: parse_arm(values) for name, values in arms.items()}
    select(*study.inputs, study.path("strength"), study.settings, grid, settings, judge, POSITIONS)
    with study.path("strength.csv").open() as stream:
        return list(csv.DictReader(stream)), json.loads(study.path("strength.json").read_text())["choices"]


def _trial(study: Study, row: Mapping[str, str]) -> dict[str, float]:
    """Counts and KL of one dose, from one prompt at a time and hooks set by hand."""
    dose = Dose(int(row["layer"]), int(row["position"]), abs(float(row["coefficient"])), row["scope"])  # type: ignore[arg-type]
    arm = make_arm("", parse_arm(ARMS[row["arm"]]), study.directions, dose)
    prompts = sorted(
        (prompt for prompt in prompts_of(row["set"], 12) if prompt.split == "val"),  # type: ignore[arg-type]
        key=lambda prompt: prompt.id,
    )
    verdicts, divergences = [], []
    for prompt in prompts[: GRID.prompts]:
        ids = study.loaded.encode(prompt.text)
        reply = forward.greedy(study.loaded, ids, arm, GRID.max_new_tokens)
        text = study.loaded.tokenizer.decode(reply, skip_special_tokens=True)
        verdicts.append(Bytes().verdict(Exchange(prompt.text, text)))
        # The first reply token comes before anything was generated.
        logits = (forward.logits(study.loaded, ids, one, len(ids)) for one in (Arm(""), arm))
        divergences.append(forward.kl(*logits))
    return {**{name: verdicts.count(name) for name in NAMES}, "n": len(verdicts), "kl": mean(divergences)}


def test_counts_are_those_of_one_prompt_and_one_dose_at_a_time(study: Study) -> None:
    rows, _ = _select(study, Bytes())
    for row in rows:
        expected = _trial(study, row)
        assert {name: float(row[name]) for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    # The check means something only if verdicts differ.
    assert len({tuple(row[name] for name in NAMES) for row in rows}) > 3


def test_every_dose_of_every_tuned_arm_is_tried_once_on_the_prompts_it_is_for(study: Study) -> None:
    rows, choices = _select(study, Bytes())
    found = {name: [row for row in rows if row["arm"] == name] for name in ARMS}
    places = [("2", "-1"), ("1", "-3")]
    doses = {
        name: [(row["layer"], row["position"], row["coefficient"], row["scope"]) for row in mine]
        for name, mine in found.items()
    }
    assert doses == {
        "baseline": [],
        "copied": [],
        "given": [],
        "add": [(*place, c, scope) for place in places for c in ("0.5", "1") for scope in GRID.scopes],
        "ablate": [(*place, "1", "all") for place in places],
        "affine": [(*place, c, "generated") for place in places for c in ("0", "-0.5", "-1")],
    }
    assert choices.keys() == {"add", "ablate", "affine"}
    assert {row["set"] for row in found["add"]} == {"harmless"}
    assert {row["set"] for name in ("ablate", "affine") for row in found[name]} == {"harmful"}
    norms = {place: float(study.directions.at(int(place[0]), int(place[1])).norm()) for place in places}
    for row in rows:
        assert float(row["direction_norm"]) == pytest.approx(norms[row["layer"], row["position"]])


@pytest.mark.parametrize("name", ["add", "ablate", "affine"])
def test_the_dose_with_the_most_wanted_verdicts_is_chosen(study: Study, name: str) -> None:
    rows, choices = _select(study, Bytes())
    mine = [row for row in rows if row["arm"] == name]
    wanted = "refusal" if name == "add" else "full_response"
    [chosen] = [row for row in mine if row["chosen"] == "True"]
    assert int(chosen[wanted]) == max(int(row[wanted]) for row in mine)
    assert choices[name] == {
        "layer": int(chosen["layer"]),
        "position": int(chosen["position"]),
        "scope": chosen["scope"],
        "coefficient": abs(float(chosen["coefficient"])),
        "why": f"{chosen[wanted]} of 3 {wanted} on val",
    }


def test_a_tie_goes_to_the_gentlest_dose(study: Study) -> None:
    rows, _ = _select(study, Always("non_response"))
    chosen = {row["arm"]: row for row in rows if row["chosen"] == "True"}
    for name in ("add", "affine", "ablate"):
        mine = [row for row in rows if row["arm"] == name]
        added = {True: 0.0, False: 1.0}[name == "ablate"]
        sizes = [abs(float(row["coefficient"])) * float(row["direction_norm"]) * added for row in mine]
        gentle = [row for row, size in zip(mine, sizes, strict=True) if size == min(sizes)]
        assert chosen[name] == min(gentle, key=lambda row: float(row["kl"]))
    assert len({row["kl"] for row in rows if row["arm"] == "ablate"}) == 2


def test_a_new_arm_costs_its_own_trials_only(study: Study) -> None:
    first, again, more = Bytes(), Bytes(), Bytes()
    rows, choices = _select(study, first)
    assert len(first.asked) == len(rows) * GRID.prompts
    content = study.path("strength.csv").read_bytes()
    _select(study, again)
    assert again.asked == []
    assert study.path("strength.csv").read_bytes() == content
    extended, others = _select(study, more, {**ARMS, "subtract": {"operation": "add"}})
    assert [row for row in extended if row["arm"] != "subtract"] == rows
    assert len(more.asked) == sum(row["arm"] == "subtract" for row in extended) * GRID.prompts > 0
    assert {name: others[name] for name in choices} == choices


def test_trials_of_settings_that_are_gone_do_not_pile_up(study: Study) -> None:
    for limit in (3, 4, 5):
        _select(study, Bytes(), {"ablate": ARMS["ablate"]}, GRID.model_copy(update={"max_new_tokens": limit}))
    with Journal(study.path(".strength.journal.jsonl")) as journal:
        assert len(journal) == len(_select(study, Bytes(), {"ablate": ARMS["ablate"]})[0])


def test_trials_of_finished_arms_survive_a_stop(study: Study, tiny: Tiny, tmp_path: Path) -> None:
    class Stopping(Bytes):
        def judge(self, exchanges: Sequence[Exchange]) -> list[Judgement]:
            if any(exchange.prompt.startswith("harmful") for exchange in exchanges):
                raise KeyboardInterrupt
            return super().judge(exchanges)

    with pytest.raises(KeyboardInterrupt):
        _select(study, Stopping())
    assert not study.path("strength.csv").exists()
    rest = Bytes()
    rows, _ = _select(study, rest)
    assert {exchange.prompt.split()[0] for exchange in rest.asked} == {"harmful"}
    whole = make_study(tmp_path / "whole", tiny("olmoe"))
    for name in ("arditi.json", "cosmic.json"):
        whole.path(name).write_bytes(study.path(name).read_bytes())
    assert _select(whole, Bytes())[0] == rows
    assert whole.path("strength.json").read_bytes() == study.path("strength.json").read_bytes()


@pytest.mark.parametrize("changed", ["judge", "prompt", "directions", "length", "device"])
def test_anything_that_decides_a_trial_makes_it_anew(study: Study, changed: str) -> None:
    _select(study, Bytes())
    judge, grid = Bytes(), GRID
    if changed == "judge":
        judge.version = "bytes-2"
    elif changed == "prompt":
        harmless = prompts_of("harmless", 12)
        study.write_prompts("harmless", [*harmless[1:], *prompts_of("harmless", 13)[12:]])
    elif changed == "directions":
        study.write_directions(
            type(study.directions)(study.directions.direction * 1.5, study.directions.harmless_mean)
        )
    elif changed == "device":
        study = study.on("auto")
    else:
        grid = GRID.model_copy(update={"max_new_tokens": 5})
    _select(study, judge, grid=grid)
    labels = {exchange.prompt.split()[0] for exchange in judge.asked}
    assert labels == ({"harmless"} if changed == "prompt" else {"harmless", "harmful"})


def test_a_coefficient_that_is_listed_twice_is_tried_once(study: Study) -> None:
    grid = GRID.model_copy(update={"coefficients": (0.0, 1.0, 1.0), "candidates": 1, "scopes": ("all",)})
    rows, _ = _select(study, Bytes(), {"affine": {"operation": "affine"}}, grid)
    assert [row["coefficient"] for row in rows] == ["0", "-1"]


def test_a_fixed_layer_and_coefficient_are_not_varied(study: Study) -> None:
    arm = {"operation": "add", "layer": 0, "position": -2, "coefficient": 0.25}
    rows, choices = _select(study, Bytes(), {"fixed": arm})
    assert {(row["layer"], row["position"], row["coefficient"]) for row in rows} == {("0", "-2", "-0.25")}
    assert [row["scope"] for row in rows] == list(GRID.scopes)
    assert choices["fixed"]["coefficient"] == 0.25


def test_a_rank_tries_the_same_span_from_different_places(study: Study) -> None:
    rows, _ = _select(study, Bytes(), {"two": {"operation": "ablate", "rank": 2}})
    settings = ResidualArm(operation="ablate", rank=2)
    best = [(2, -1), (1, -3), (3, -2)]
    arms = [make_arm("", settings, study.directions, Dose(*place), best) for place in best[:2]]
    assert len({arm_digest(arm) for arm in arms}) == 2
    assert float(rows[0]["kl"]) == pytest.approx(float(rows[1]["kl"]), rel=1e-4)


def test_a_dose_that_makes_numbers_overflow_is_an_error(study: Study) -> None:
    with pytest.raises(SteerError, match=r"arm `add`, prompt `harmf\d+`: gives logits that are infinite"):
        _select(study, Bytes(), {"add": {"operation": "add", "coefficient": 1e39}})


def test_prompts_and_places_that_are_missing_are_named(study: Study) -> None:
    with pytest.raises(SteerError, match="layer 9, position -1: no direction was estimated"):
        _select(study, Bytes(), {"far": {"operation": "add", "layer": 9}})
    study.path("arditi.json").unlink()
    with pytest.raises(SteerError, match=r"arditi\.json: no such file"):
        _select(study, Bytes(), {"add": {"operation": "add"}})
    study.write_prompts("harmful", prompts_of("harmful", 6, ("test",)))
    with pytest.raises(SteerError, match=r"harmful\.jsonl: has no `val` prompts"):
        _select(study, Bytes())
    assert not study.path("strength.json").exists()
