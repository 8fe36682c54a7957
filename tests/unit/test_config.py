"""The typed configuration: what is wrong is named, with the nearest name that is right."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from steer.config import load, merge, parse, pick
from steer.errors import SteerError
from tests.figure_inputs.study import MODEL, config

NONE = {"operation": "none"}
# What is laid over a valid configuration, and what the error must say.
PAIR = {"source": "grammar", "label": "harmful", "train": 1}
CONTROL = {"operation": "add", "direction": "random", "like": "ablate"}
BAD = {
    "a judge of something else": (
        {"behaviour": "faithfulness"},
        "tells refusal, and the `behaviour` of the study is faithfulness",
    ),
    "a set to reroute on that is not there": (
        {"selection": {"rerouting": {"induce_on": "nowhere"}}},
        "unknown set `nowhere`",
    ),
    "a ranking to reroute by that is not there": (
        {"arms": {"more": {"operation": "reroute", "ranking": "nowhere", "activated": 1, "deactivated": 0}}},
        "unknown contrast `nowhere`",
    ),
    "a ranking that no numbers are chosen for": (
        {
            "contrasts": {"other": {"first": "harmless", "second": "harmful"}},
            "selection": {"rerouting": {"ranking": "other"}},
            "arms": {"more": {"operation": "reroute", "ranking": "prompt", "activated": 1}},
        },
        "numbers are chosen for `other`, not for `prompt`; give `activated` and `deactivated`",
    ),
    "a ranking of all detected arms that is not there": (
        {"arms": {"more": {"operation": "reroute"}}, "selection": {"rerouting": {"ranking": "promt"}}},
        "`selection.rerouting.ranking`: unknown contrast `promt`; did you mean `prompt`?",
    ),
    "too few others for random experts": (
        {"arms": {"more": {"operation": "reroute", "experts": "random", "activated": 9, "deactivated": 8}}},
        "`arms.more`: wants 17 others than the 17 that it stands for, and model `planted` has 32",
    ),
    "a control of the other polarity": (
        {"arms": {"new": {**CONTROL, "polarity": "induce"}}},
        "`arms.new.polarity`: is induce, and `ablate`, whose dose it copies, is suppress",
    ),
    "brackets in a key of the user's": (
        {"scores": {"confidence[0]": 1}},
        "unknown key `scores.confidence[0]`; did you mean `confidence`?",
    ),
    "a device of a judge that is none": (
        {"judges": {"new": {"kind": "likelihood", "path": "folder", "device": "gpu"}}},
        "`judges.new.device`: is 'gpu'; which is not of the form",
    ),
    "unknown key at the top": ({"sed": 1}, "unknown key `sed`; did you mean `seed`?"),
    "unknown key in a section": (
        {"scores": {"juge": "truth"}},
        "unknown key `scores.juge`; did you mean `judge`?",
    ),
    "unknown key two sections down": (
        {"selection": {"arditi": {"kl_treshold": 1}}},
        "unknown key `selection.arditi.kl_treshold`; did you mean `kl_threshold`?",
    ),
    "unknown key of a named thing": (
        {"arms": {"ablate": {"polarty": "suppress"}}},
        "unknown key `arms.ablate.polarty`; did you mean `polarity`?",
    ),
    "unknown key of an organism": (
        {"models": {"small": {"organism": {"hiden_size": 8}}}},
        "unknown key `models.small.organism.hiden_size`; did you mean `hidden_size`?",
    ),
    "unknown key of one kind of judge": (
        {"judges": {"phrases": {"mtach": "anywhere"}}},
        "unknown key `judges.phrases.mtach`; did you mean `match`?",
    ),
    "key of another kind of judge": (
        {"judges": {"truth": {"match": "anywhere"}}},
        "unknown key `judges.truth.match`; known: `kind`",
    ),
    "key like no other": ({"zzz": 1}, "unknown key `zzz`; known: `activations`"),
    "missing key": ({"sets": {"new": {"label": "harmful"}}}, "missing key `sets.new.source`"),
    "missing key of an arm": ({"arms": {"new": {}}}, "missing key `arms.new.operation`"),
    "a side of pairs that the other side knows nothing of": (
        {
            "sets": {
                "refusing": {**PAIR, "target": "refusal", "equal_tokens": "complying"},
                "complying": {**PAIR, "target": "compliance"},
            }
        },
        "`sets.complying.equal_tokens` must be `refusing`: the two are sides",
    ),
    "equal counts of prompts": (
        {"sets": {"harmful": {"equal_tokens": "harmless"}}},
        "`equal_tokens` is for sets that are counted on replies",
    ),
    "missing kind": ({"judges": {"new": {}}}, "missing key `judges.new.kind`"),
    "unknown kind": (
        {"judges": {"new": {"kind": "gramar"}}},
        "`judges.new.kind`: unknown `gramar`; did you mean `grammar`?",
    ),
    "unknown operation": (
        {"arms": {"new": {"operation": "ad"}}},
        "`arms.new.operation`: unknown `ad`; did you mean `add`?",
    ),
    "unknown set to answer": (
        {"generation": {"sets": ["harmfull"]}},
        "`generation.sets.0`: unknown set `harmfull`; did you mean `harmful`?",
    ),
    "unknown set of the contrast": (
        {"contrast": {"harmless": "nice"}},
        "unknown set `nice`; known: `harmful`",
    ),
    "unknown judge": ({"scores": {"judge": "thruth"}}, "unknown judge `thruth`; did you mean `truth`?"),
    "unknown judge of trials": (
        {"selection": {"strength": {"judge": "phrase"}}},
        "unknown judge `phrase`; did you mean `phrases`?",
    ),
    "unknown arm": (
        {"arms": {"new": {"operation": "add", "like": "ablat"}}},
        "`arms.new.like`: unknown arm `ablat`; did you mean `ablate`?",
    ),
    "bad name": ({"arms": {"Bad Name": NONE}}, "`arms.Bad Name`: a name has lower-case letters"),
    "an arm without settings": ({"arms": {"new": None}}, "`arms.new`: wants settings of its own"),
    "an expert that an embedded model has not": (
        {"arms": {"new": {"operation": "mask_experts", "experts": [[0, 1], [9, 3]]}}},
        "`arms.new.experts`: [9, 3], but model `planted` has layers 0 to 3 with experts 0 to 7",
    ),
    "a layer that an embedded model has not": (
        {"arms": {"new": {"operation": "add", "layer": 4}}},
        "`arms.new.layer`: 4, but model `planted` has layers 0 to 3",
    ),
    "a position that is not recorded": (
        {"arms": {"new": {"operation": "add", "position": -6}}},
        "`arms.new.position`: -6, but the last 5 prompt tokens are recorded",
    ),
    "number out of range": (
        {"scores": {"confidence": 95}},
        "`scores.confidence`: is 95; must be less than 1",
    ),
    "experts that are no pairs": (
        {"arms": {"new": {"operation": "mask_experts", "experts": [1, 2]}}},
        "`arms.new.experts`: fits none of its forms. `[layer, expert]` pairs",
    ),
    "an address that is none": (
        {"judges": {"new": {"kind": "server", "base_url": "nowhere", "model": "some"}}},
        "`judges.new.base_url`: is 'nowhere'; which is not of the form ^https?://",
    ),
    "a word that is not offered": (
        {"sets": {"new": {"source": "grammar", "label": "evil"}}},
        "`sets.new.label`: is 'evil'; use 'harmful' or 'harmless'",
    ),
    "more experts masked than a token can do without": (
        {"arms": {"new": {"operation": "mask_experts", "experts": [[1, expert] for expert in range(7)]}}},
        "`arms.new.experts`: 7 of 8 experts of layer 1 are avoided, and every token of `planted` needs 2",
    ),
    "more experts rerouted from than a token can do without": (
        {"arms": {"new": {"operation": "reroute", "deactivate": [[1, expert] for expert in range(7)]}}},
        "`arms.new.deactivate`: 7 of 8 experts of layer 1 are avoided",
    ),
    "more experts than there are": (
        {"arms": {"new": {"operation": "reroute", "activated": 30, "deactivated": 3}}},
        "`arms.new`: reroutes 33 experts, and model `planted` has 32",
    ),
    "an arm like one without experts": (
        {"arms": {"new": {"operation": "expert_add", "experts": "matched", "like": "ablate"}}},
        "`arms.new.like`: `ablate` has no experts to copy",
    ),
    "a device that is none": (
        {"models": {"other": {"path": "some/model", "device": "gpu"}}},
        "`models.other.device`: is 'gpu'; which is not of the form",
    ),
    "a blank refusal opener": (
        {"models": {"other": {"path": "some/model", "refusal_openers": ["I", " "]}}},
        "`models.other`: `refusal_openers` holds a blank one",
    ),
    "negative seed": ({"seed": -1}, "`seed`: is -1; must be at least 0"),
    "not a number": ({"seed": "zero"}, "`seed`: is 'zero', not a whole number"),
    "not a section": ({"models": 3}, "`models`: wants settings of its own"),
    "two origins of a model": (
        {"models": {"both": {"path": "folder", "organism": {}}}},
        "`models.both`: give exactly one of `organism`, `openbook`, `upcycle` and `path`",
    ),
    "no origin of a model": (
        {"models": {"neither": {}}},
        "`models.neither`: give exactly one of `organism`, `openbook`, `upcycle` and `path`",
    ),
    "position from the start": (
        {"arms": {"new": {"operation": "add", "position": 2}}},
        "`arms.new.position`: is 2; must be at most -1",
    ),
}
JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text("abc", max_size=1), inner),
    max_leaves=8,
)
SECTION = st.dictionaries(st.text("abc", max_size=1), JSON)


def valid() -> dict[str, Any]:
    values: dict[str, Any] = config().model_dump(mode="json", exclude_unset=True)
    return values


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str) -> None:
    change, said = BAD[case]
    with pytest.raises(SteerError) as caught:
        parse(merge(valid(), change), "study.yaml")
    assert said in caught.value.cause
    assert caught.value.what == "study.yaml"


SECRET = "sk-0123456789"
SERVER = {"kind": "server", "base_url": "https://nowhere.example/v1", "model": "some"}


@pytest.mark.parametrize(
    "wrong",
    [{"key": SECRET}, {"key": [SECRET]}, {"extra": SECRET}, {"extra": {"token": {SECRET}}}],
    ids=["key", "key in a list", "extra", "in extra"],
)
def test_what_may_be_a_key_is_never_shown(wrong: dict[str, Any]) -> None:
    with pytest.raises(SteerError) as caught:
        parse(merge(valid(), {"judges": {"far": {**SERVER, **wrong}}}))
    assert f"`judges.far.{next(iter(wrong))}" in caught.value.cause
    assert SECRET not in str(caught.value)


def test_a_device_may_have_a_number() -> None:
    judge = {"kind": "likelihood", "path": "folder", "device": "cuda:1", "revision": "refs/pr/3"}
    model = {"path": "some/model", "device": "cpu:0"}
    found = parse(merge(valid(), {"judges": {"new": judge}, "models": {"other": model}}))
    assert found.models["other"].device == "cpu:0"


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", [2]), ("cpu:0", [2]), ("cuda", [2, "cuda"]), ("auto", [2, "auto"])]
)
def test_rows_of_the_cpu_are_named_by_threads_and_others_by_their_device_too(
    device: str, expected: list[object]
) -> None:
    found = parse(merge(valid(), {"models": {"other": {"path": "m", "device": device, "threads": 2}}}))
    assert found.models["other"].arithmetic == expected


TAUGHT = {"refused": ["harmful"], "answered": ["harmless"]}
OTHERS: dict[str, Any] = {
    "a layer of a model of 16": (
        {"path": "allenai/OLMoE-1B-7B-0924-Instruct"},
        {"operation": "add", "layer": 20},
        "`arms.new.layer`: 20, but model `other` has layers 0 to 15 with experts 0 to 63",
    ),
    "a dense layer of a model with experts": (
        {"upcycle": TAUGHT},
        {"operation": "mask_experts", "experts": [[12, 7], [20, 0]]},
        "[20, 0], but model `other` has layers 0 to 29, with experts 0 to 7 in layers 12, 13, 14, 15, 16",
    ),
    "experts of a dense model": (
        {"path": "Qwen/Qwen3-8B"},
        {"operation": "reroute"},
        "`arms.new`: acts on experts or their routing, and model `other` is dense; remove one of the two",
    ),
    "an expert of an upcycled model": (
        {"upcycle": TAUGHT},
        {"operation": "mask_experts", "experts": [[12, 8]]},
        "`arms.new.experts`: [12, 8], but",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_parts_that_a_model_of_known_architecture_lacks_are_named(case: str) -> None:
    model, arm, said = OTHERS[case]
    with pytest.raises(SteerError) as caught:
        parse({**valid(), "models": {"other": model}, "arms": {"baseline": NONE, "new": arm}})
    assert said in caught.value.cause


@pytest.mark.parametrize("wrong", [{"num_experts": "eight"}, {"num_hidden_layers": 2.5}])
def test_a_model_whose_configuration_counts_in_words_is_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 2, **wrong}))
    with pytest.raises(SteerError, match="no whole number") as caught:
        parse({**valid(), "models": {"other": {"path": str(tmp_path)}}, "arms": {"baseline": NONE}})
    assert caught.value.what == str(tmp_path / "config.json")


@pytest.mark.parametrize("wrong", [3, ["one"]])
def test_dense_layers_that_are_no_list_are_named(wrong: Any, tmp_path: Path) -> None:
    told = {"num_hidden_layers": 2, "num_experts": 4, "mlp_only_layers": wrong}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(SteerError, match="no list of layers"):
        parse({**valid(), "models": {"other": {"path": str(tmp_path)}}, "arms": {"baseline": NONE}})


def test_parts_of_a_model_that_is_not_known_yet_are_left_to_the_run() -> None:
    arms = {"baseline": NONE, "new": {"operation": "add", "layer": 20}}
    assert parse({**valid(), "models": {"other": {"path": "some/model"}}, "arms": arms})


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(SteerError, match=r"`scores\.juge`.*`sed`"):
        parse(merge(valid(), {"sed": 1, "scores": {"juge": "truth"}}))


def test_no_baseline_is_an_error() -> None:
    with pytest.raises(SteerError, match="missing `baseline"):
        parse({**valid(), "arms": {"new": {"operation": "ablate"}}})


def test_no_model_is_an_error() -> None:
    with pytest.raises(SteerError, match="`models`: has 0 entries and needs at least 1"):
        parse({**valid(), "models": {}})


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "no such file"),
        ("a: [1", "is not YAML"),
        ("- 1\n", "is not a mapping"),
        ("", "is not a mapping"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(content: str | None, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SteerError, match=cause) as caught:
        load(path)
    assert caught.value.what == str(path)


def test_later_files_are_laid_over_earlier_ones(tmp_path: Path) -> None:
    base, over = tmp_path / "base.yaml", tmp_path / "over.yaml"
    base.write_text(yaml.safe_dump(valid()))
    over.write_text(yaml.safe_dump({"scores": {"judge": "phrases"}, "arms": {"ablate": {"rank": 3}}}))
    merged = load(base, over)
    assert (merged.scores.judge, merged.arms["ablate"].rank) == ("phrases", 3)
    assert merged.arms["ablate"].operation == "ablate"
    assert set(merged.arms) == set(load(base).arms)


def test_a_control_of_experts_that_are_masked_can_be_matched_to_them() -> None:
    arms = {
        "named": {"operation": "mask_experts", "experts": [[1, 3]]},
        "others": {"operation": "mask_experts", "experts": "matched", "like": "named"},
    }
    assert "others" in parse(merge(config().model_dump(mode="json"), {"arms": arms})).arms


@given(SECTION)
def test_an_empty_mapping_merges_as_nothing_from_either_side(values: dict[str, Any]) -> None:
    assert merge(values, {}) == values
    assert merge({}, values) == values
    assert merge(values, values) == values


def leaves(section: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(section, dict) or not section:
        return {path: section}
    return {at: value for key, inner in section.items() for at, value in leaves(inner, (*path, key)).items()}


@given(SECTION, SECTION)
def test_what_is_laid_over_wins_and_all_else_stays(base: dict[str, Any], over: dict[str, Any]) -> None:
    before = repr((base, over))
    merged, below, above = leaves(merge(base, over)), leaves(base), leaves(over)
    assert repr((base, over)) == before
    for path, value in above.items():
        assert value == {} or merged[path] == value
    for path, value in below.items():
        touched = any(path[: len(other)] == other or other[: len(path)] == path for other in above)
        assert touched or merged[path] == value


def test_settings_are_picked_by_dotted_key_with_names_filled_in() -> None:
    picked = pick(config(), ("seed", "models.{model}.dtype"), {"model": MODEL})
    assert picked == {"seed": 0, "models.{model}.dtype": "float32"}


def test_a_configuration_can_not_be_changed_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().seed = 3


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"of": "baseline"}, "edits nothing that could be taken apart"),
        ({"of": "half"}, "edits nothing that could be taken apart"),
        ({"of": "induced"}, "give it `polarity: induce` too"),
        ({"of": "halff"}, "unknown arm `halff`; did you mean `half`"),
    ],
)
def test_an_arm_that_can_not_be_taken_apart_is_refused(arm: dict[str, Any], said: str) -> None:
    half = {"operation": "replay_routing", "of": "whole", "part": "edits"}
    induced = {"operation": "add", "polarity": "induce"}
    arms = {"whole": {"operation": "ablate"}, "half": half, "induced": induced}
    with pytest.raises(SteerError, match=said):
        config(arms={"baseline": NONE, **arms, "other": {**half, **arm}})


def test_an_override_can_leave_out_only_what_is_there(tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("sets: {advbnch: false}")
    with pytest.raises(
        SteerError, match=r"`sets.advbnch: false` leaves out what is not there\n.*did you mean `advbench`"
    ):
        load(Path(__file__).parents[2] / "config.yaml", over)


def test_an_override_leaves_out_what_it_calls_false() -> None:
    values = config().model_dump(mode="json", exclude_unset=True)
    left = parse(merge(values, {"arms": {"add-random": False}, "models": {"none": False}}))
    assert {*left.arms} == {*values["arms"]} - {"add-random"}
    with pytest.raises(SteerError, match="models"):
        parse(merge(values, {"models": dict.fromkeys(values["models"], False)}))


DRAWN = {"operation": "add", "direction": "random", "like": "add"}
PLAIN = {"baseline": NONE, "add": {"operation": "add"}}


def test_an_arm_of_several_seeds_is_one_for_each() -> None:
    found = config(arms={**PLAIN, "random": {**DRAWN, "seed": 4, "seeds": 3}})
    assert [*found.arms] == ["baseline", "add", "random", "random-5", "random-6"]
    assert [found.arms[name].seed for name in found.pools["random"]] == [4, 5, 6]  # type: ignore[union-attr]
    for name in ("harmful", "harmless"):
        assert found.answering(name) == [*found.arms]
    assert found.answering("everyday") == ["baseline", "add", "random"]
    assert parse(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"random": {**DRAWN, "seeds": 2}, "random-1": DRAWN}, "makes an arm `random-1`, and there is one"),
        ({"plain": {"operation": "add", "seeds": 2}}, "are for arms with random directions or experts"),
        ({"others": {**DRAWN, "experts": "matched", "seeds": 5}}, "is 5, and `matched` goes through the 4"),
        ({"random": {**DRAWN, "seeds": 0}}, "is 0; must be at least 1"),
        ({"random": {**DRAWN, "seeds": "two"}}, "is 'two', not a whole number"),
    ],
)
def test_seeds_that_make_no_sense_are_errors(arms: dict[str, Any], said: str) -> None:
    with pytest.raises(SteerError, match=said):
        config(arms={**PLAIN, **arms})
