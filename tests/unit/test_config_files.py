"""Files of the configuration: how one is laid over another, what it leaves out, and what is read from it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from steer.config import load, merge, parse, pick
from steer.errors import SteerError
from tests.configured import valid
from tests.figure_inputs.study import MODEL, config

JSON = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text("abc", max_size=1), inner),
    max_leaves=8,
)
SECTION = st.dictionaries(st.text("abc", max_size=1), JSON)


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
