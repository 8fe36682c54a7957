"""What a study asks for and can't have is said while it is planned, by its key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from steer.capability.known import check_tasks
from steer.config import merge, parse
from steer.errors import SteerError
from steer.preflight import check_keys, check_study

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))
ANSWERED = {"generation": {"sets": ["harmful"]}}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "one set on both sides": (
        {"contrasts": {"prompt": {"second": "harmful"}}},
        "`contrasts.prompt`: set `harmful` is on both sides",
    ),
    "an empty side": (
        {"sets": {"complying": {"train": 0}}},
        "`contrasts.response.second`: set `complying` has no `train` prompts, and one side",
    ),
    "sides that are counted differently": (
        {"contrasts": {"prompt": {"first": "refusing"}}},
        "`contrasts.prompt`: tokens are counted of `refusing` on the reply and of `harmless` on the last",
    ),
    "pairs that are none": (
        {"contrasts": {"prompt": {"paired": True}}},
        "`contrasts.prompt`: is `paired`, and the sets `harmful` and `harmless` are no pairs",
    ),
    "replies of a contrast of prompts": (
        {"detection": {"pairs": "prompt"}},
        "`detection.pairs`: contrast `prompt` is not of two sets of pairs with replies",
    ),
    "nothing to choose by": (
        {"sets": {"harmful": {"val": 0}}},
        "`contrast.harmful`: set `harmful` has no `val` prompts, and layer, position and strength",
    ),
    "nothing to answer": (
        {"sets": {"everyday": {"test": 0}}},
        "`generation.sets.3`: set `everyday` has no `test` prompts",
    ),
    "nothing to read": (
        {"perplexity": {"sets": ["everyday"]}, "sets": {"everyday": {"test": 0, "arms": []}}, **ANSWERED},
        "`perplexity.sets.0`: set `everyday` has no `test` prompts, and those are read",
    ),
    "nothing to check a planted model on": (
        {"sets": {"harmful": {"test": 0}}},
        "`contrast.harmful`: set `harmful` has no `test` prompts, and what is planted is checked",
    ),
    "nothing to answer at all": ({"generation": {"sets": []}}, "`generation.sets`: is empty"),
    "no category left": (
        {"grammar": {"held_out": 40}},
        "`grammar.held_out`: 40 categories are to be held out",
    ),
    "more prompts than the grammar has": (
        {"sets": {"harmful": {"val": 30000}}},
        "`sets.harmful.val`: 30000 different prompts, and the grammar has 15",
    ),
    "more prompts than the file has": (
        {"sets": {"everyday": {"test": 101}}},
        "`sets.everyday`: data/prompts/everyday.jsonl holds 100 prompts, and 101 are asked for",
    ),
    "no file of prompts": (
        {"sets": {"everyday": {"source": "mine.jsonl"}}},
        "`sets.everyday.source`: no such file: mine.jsonl",
    ),
    "no file of a ranking": (
        {"contrasts": {"published": {"ranking": "theirs.csv"}}},
        "`contrasts.published.ranking`: no such file: theirs.csv",
    ),
    "a source that is misspelt": (
        {"sets": {"advbench": {"source": "advbnch"}}},
        "`sets.advbench.source`: unknown source `advbnch`\n  next: did you mean `advbench`?",
    ),
    "an attack that is none": (
        {"sets": {"role_play": {"attack": "advbench"}}},
        "`sets.role_play.attack`: source `advbench` is of kind `prompts`, not template",
    ),
    "no folder of a model": (
        {"models": {"mine": {"path": "nowhere"}}},
        "`models.mine.path`: there is no folder nowhere",
    ),
}


def check(*over: dict[str, Any]) -> None:
    values = DEFAULT
    for one in over:
        values = merge(values, one)
    check_study(parse(values), ROOT / "data" / "grammar", ROOT / "data" / "sources.tsv")


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_study_can_not_have_is_named_by_its_key(fault: str) -> None:
    over, said = FAULTS[fault]
    with pytest.raises(SteerError) as caught:
        check(over)
    assert said in str(caught.value)


def test_all_that_is_amiss_is_said_at_once() -> None:
    with pytest.raises(SteerError) as caught:
        check(FAULTS["one set on both sides"][0], {"generation": {"sets": []}})
    assert str(caught.value) == (
        "the study: 2 things are amiss\n"
        "- `contrasts.prompt`: set `harmful` is on both sides, which could not differ; "
        "name another set as `first` or `second`\n"
        "- `generation.sets`: is empty, so that nothing is answered; name a set\n"
        "  next: correct all of them"
    )


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_nothing_is_amiss_with_a_study(study: Path) -> None:
    check(yaml.safe_load(study.read_text()))


def test_rerouting_to_memory_is_chosen_where_its_answers_are_known() -> None:
    study = yaml.safe_load((ROOT / "workflow" / "studies" / "steermoe-faithfulness.yaml").read_text())
    with pytest.raises(SteerError, match=r"suppress_on`: source `faitheval-counterfactual` .* no `memory`"):
        check(study, {"selection": {"rerouting": {"suppress_on": "counterfactual"}}})


def test_a_file_that_the_flow_makes_need_not_be_there_yet() -> None:
    check({"sets": {"everyday": {"source": f"{DEFAULT.get('results', 'results')}/questions/fine.jsonl"}}})


def test_what_an_earlier_run_made_is_not_counted(tmp_path: Path) -> None:
    made = tmp_path / "results" / "questions" / "fine.jsonl"
    made.parent.mkdir(parents=True)
    made.write_text("{}\n")
    everyday = {"sets": {"everyday": {"source": str(made)}}}
    check(everyday, {"results": str(tmp_path / "results")})
    with pytest.raises(SteerError, match="holds 1 prompts"):
        check(everyday)


def test_the_key_of_a_judge_is_missed_before_anything_is_made_to_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = {"kind": "server", "base_url": "https://nowhere.example/v1", "model": "m", "key": "NO_SUCH_KEY"}
    settings = parse(merge(DEFAULT, {"judges": {"far": server}}))
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(SteerError, match="judge `far`: the variable NO_SUCH_KEY"):
        check_keys(settings, {"far", "phrases"})
    check_keys(settings, {"phrases"})
    monkeypatch.setenv("NO_SUCH_KEY", "sk-here")
    check_keys(settings, {"far"})


def test_tasks_that_nobody_knows_are_missed_before_anything_is_made_to_run_them() -> None:
    def asked(name: str) -> None:
        check_tasks(parse(merge(DEFAULT, {"capability": {"tasks": {name: {}}}})))

    asked("restates")
    asked("arc_easy")
    with pytest.raises(SteerError, match="task `arc_esay`: is neither in data/tasks nor known"):
        asked("arc_esay")
