"""The documentation of the settings agrees with their types; `pytest --fix` mends it."""

import difflib
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from steer.config import Config, load, merge, parse
from steer.documentation import BEGIN, END, README, SCHEMA, drifted, readme, settings, write_documentation
from steer.errors import SteerError
from tests.figure_inputs.study import config

ROOT = Path(__file__).parents[1]


def test_schema_and_readme_say_what_the_types_say(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--fix"):
        write_documentation(check=False, root=ROOT)
    difference = [
        line
        for path, wanted in drifted(ROOT).items()
        for line in difflib.unified_diff(
            (ROOT / path).read_text(encoding="utf-8").splitlines() if (ROOT / path).is_file() else [],
            wanted.splitlines(),
            str(path),
            "what the types say",
            lineterm="",
            n=0,
        )
    ]
    assert not difference, "\n".join([*difference, "mend it with `python -m steer config --fix`"])


def test_the_default_configuration_is_valid() -> None:
    assert load(ROOT / "config.yaml").models


@pytest.mark.parametrize(
    "study", sorted((ROOT / "workflow" / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_study_is_a_valid_override(study: Path) -> None:
    assert load(ROOT / "config.yaml", study).models


def test_the_configuration_comments_say_when_to_change_a_value() -> None:
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    assert sum(line.lstrip().startswith("#") for line in text.splitlines()) >= 5


def test_every_setting_says_what_it_is() -> None:
    blank = [row.key for row in settings() if not row.text or not row.values]
    assert not blank


def test_every_leaf_of_a_configuration_stands_in_the_table() -> None:
    keys = {row.key for row in settings()}
    named = {"models", "sets", "contrasts", "arms", "judges", "labelled"}

    def leaves(section: object, prefix: str, names: bool) -> set[str]:
        if not isinstance(section, dict):
            return {prefix}
        names = names or prefix == "capability.tasks"
        inner = {f"{prefix}.<name>" if names else f"{prefix}.{key}": value for key, value in section.items()}
        return set().union(*(leaves(value, key, False) for key, value in inner.items()))

    values = config().model_dump(mode="json")
    found = set().union(*(leaves(value, key, key in named) for key, value in values.items()))
    assert not found - keys
    assert "scores.judge" in found


def test_the_schema_accepts_what_the_types_accept_and_rejects_an_unknown_key() -> None:
    validator = jsonschema.Draft202012Validator(json.loads((ROOT / SCHEMA).read_text(encoding="utf-8")))
    values = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    assert not list(validator.iter_errors(values))
    assert list(validator.iter_errors(merge(values, {"scores": {"juge": "truth"}})))
    assert list(validator.iter_errors(merge(values, {"seed": "zero"})))


def test_a_setting_of_several_operations_says_what_it_is_for_each_of_them() -> None:
    rows = {row.key: row for row in settings()}
    strength, experts = rows["arms.<name>.strength"].text, rows["arms.<name>.experts"].text
    assert strength.startswith("`bias_router`: Shift of the logits")
    assert strength.endswith(" `swap`: Share that is replaced.")
    assert experts.count("the ends of the ranking") == 1
    assert " `reroute`, `bias_router`: Experts that" in experts
    assert rows["arms.<name>.direction"].default == '`"refusal"` or `"expert"`'
    assert rows["arms.<name>.operation"].text == "What is done (README, interventions)."
    assert rows["arms.<name>.factor"].text.startswith("What `scale_experts` multiplies")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder whose documentation is up to date."""
    (tmp_path / README).write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe end.\n", encoding="utf-8")
    write_documentation(check=False, root=tmp_path)
    return tmp_path


def test_what_drifted_is_named_and_mended_and_nothing_else_is_touched(project: Path) -> None:
    assert not drifted(project)
    (project / SCHEMA).write_text("{}", encoding="utf-8")
    text = (project / README).read_text(encoding="utf-8")
    (project / README).write_text(text.replace("| `seed` |", "| `sed` |"), encoding="utf-8")
    with pytest.raises(SteerError, match=r"config\.schema\.json, README\.md.*differs"):
        write_documentation(check=True, root=project)
    write_documentation(check=False, root=project)
    assert not drifted(project)
    mended = (project / README).read_text(encoding="utf-8")
    assert mended.startswith("# Title\n")
    assert mended.endswith("\nThe end.\n")


@pytest.mark.parametrize(
    "text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}", f"{BEGIN} {END} {END}"]
)
def test_a_readme_without_the_two_markers_is_an_error(text: str) -> None:
    with pytest.raises(SteerError, match="lacks the markers"):
        readme(text)


def test_an_empty_override_changes_nothing() -> None:
    values = config().model_dump(mode="json", exclude_unset=True)
    assert parse(merge(values, {})) == Config.model_validate(values)
