"""The registry: every figure is drawn from what it declares, wholly and the same each time."""

import hashlib
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined

from steer.artifacts.provenance import modules_behind
from steer.errors import SteerError
from steer.figures import index, registry
from tests.figure_inputs import build
from tests.figure_inputs.study import MODEL, config

ROOT = Path(__file__).parents[2]
CAPTIONS = ROOT / "workflow" / "report"
DRAW_ALL = """
import json, sys
from pathlib import Path
from steer.config import parse
from steer.figures import index, registry
settings = parse(json.loads(sys.argv[1]))
for name in index.FIGURES:
    registry.draw(name, settings, registry.models_of(name, settings)[0])
print("torch" in sys.modules)
"""


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


class Recording(dict[str, Any]):
    """Settings that remember which of them were read."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


@dataclass(frozen=True)
class Drawn:
    """A results folder with every figure drawn, and the settings that each of them read."""

    results: Path
    settings: dict[str, Recording]

    @property
    def figures(self) -> Path:
        return self.results / MODEL / "figures"

    @property
    def digests(self) -> dict[str, str]:
        """Of every file of every figure, those about another model or the whole study too."""
        others = (self.results / subject / "figures" for subject in ("planted", index.STUDY))
        return digests(self.figures) | {name: found for one in others for name, found in digests(one).items()}


def subject(name: str) -> str:
    """What a figure is about here."""
    return registry.models_of(name, config())[0]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    results = tmp_path_factory.mktemp("results")
    known = build(results)
    found = {name: registry.settings_of(name, known, subject(name)) for name in index.FIGURES}
    settings = {name: Recording(values) for name, values in found.items()}
    for name in index.FIGURES:
        paths = registry.paths_of(name, known, subject(name))
        inputs = {key: [Path(path) for path in found] for key, found in paths.items()}
        module = importlib.import_module(registry.module_of(name))
        module.draw(inputs, settings[name], results / subject(name) / "figures" / name)
        registry.sign(name, known, subject(name))
    return Drawn(results, settings)


def test_every_figure_makes_the_files_it_declares_and_no_other(drawn: Drawn) -> None:
    declared = {
        Path(path).name
        for name in index.FIGURES
        for path in registry.outputs_of(name, config(drawn.results), subject(name))
    }
    assert set(drawn.digests) == declared


def test_another_process_draws_the_same_bytes_without_loading_torch(drawn: Drawn) -> None:
    before = drawn.digests
    settings = json.dumps(config(drawn.results).model_dump(mode="json"))
    run = subprocess.run(
        [sys.executable, "-c", DRAW_ALL, settings],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "False"
    assert drawn.digests == before


@pytest.mark.parametrize("name", index.FIGURES)
def test_a_figure_reads_every_input_that_it_declares(name: str, tmp_path: Path) -> None:
    settings = build(tmp_path)
    for paths in registry.paths_of(name, settings, subject(name)).values():
        lost = Path(paths[0])
        kept = lost.rename(lost.with_suffix(".lost"))
        with pytest.raises(SteerError, match="no such file"):
            registry.draw(name, settings, subject(name))
        kept.rename(lost)
    assert not list((tmp_path / MODEL).glob("figures/*.csv"))


def test_figures_read_every_setting_that_they_declare(drawn: Drawn) -> None:
    for name, settings in drawn.settings.items():
        assert settings.read == set(settings), name


@pytest.mark.parametrize("name", index.FIGURES)
def test_the_code_of_one_figure_is_not_behind_another(name: str) -> None:
    behind = modules_behind(registry.module_of(name))
    others = {registry.module_of(other) for other in index.FIGURES if other != name}
    assert not others & set(behind)
    assert "steer.config" not in behind
    assert "steer.figures.registry" not in behind


def test_the_trigger_follows_the_settings_that_a_figure_reads_and_no_others() -> None:
    plain, full = config(), config(report={"replies": "full"})
    changed = {
        name
        for name in index.FIGURES
        if registry.trigger(name, plain, subject(name)) != registry.trigger(name, full, subject(name))
    }
    assert changed == {"samples"}


def test_dose_and_response_is_left_out_when_no_dose_was_tried() -> None:
    arms = {"baseline": {"operation": "none"}, "weak": {"operation": "add", "coefficient": 0.5}}
    assert "dose_response" not in registry.figures_of(config(arms=arms))
    assert registry.figures_of(config()) == list(index.FIGURES)


def test_agreement_is_left_out_when_there_is_one_judge() -> None:
    assert "agreement" not in registry.figures_of(config(judges={"truth": {"kind": "grammar"}}))


def test_only_judges_that_the_flow_trains_have_held_out_text() -> None:
    judges = {"truth": {"kind": "grammar"}, "big": {"kind": "likelihood", "path": "folder"}}
    assert registry.paths_of("agreement", config(judges=judges), MODEL)["held_out"] == []
    paths = registry.paths_of("agreement", config("out"), MODEL)
    assert paths["held_out"] == ["out/judges/small/agreement.json"]


def test_inputs_of_sets_are_listed_once_each() -> None:
    paths = registry.paths_of("projections", config("out"), MODEL)
    assert paths["activations"] == [
        f"out/tiny/activations/{name}.h5" for name in ("harmful", "harmless", "advbench", "everyday")
    ]


@pytest.mark.parametrize(
    ("name", "model", "named"), [("verdict", MODEL, "figure `verdict`"), ("verdicts", "huge", "`huge`")]
)
def test_an_unknown_figure_or_model_is_named(name: str, model: str, named: str) -> None:
    with pytest.raises(SteerError, match=named):
        registry.draw(name, config(), model)


@pytest.mark.parametrize("name", [*index.FIGURES, "workflow"])
@pytest.mark.parametrize("replies", ["withheld", "full"])
def test_captions_name_settings_that_exist(name: str, replies: str) -> None:
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((CAPTIONS / f"{name}.rst").read_text(encoding="utf-8"))
    values = config(report={"replies": replies}).model_dump(mode="json")
    text = template.render(snakemake={"config": values, "wildcards": {"model": MODEL}})
    assert text.count(". ") + text.count(":\n") <= 3 or name == "workflow"


def test_every_caption_belongs_to_a_figure() -> None:
    assert {path.stem for path in CAPTIONS.glob("*.rst")} == {*index.FIGURES, "workflow"}
