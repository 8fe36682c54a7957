"""The report as a reader opens it: whole in one file, every figure shows, and no reply can act."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from steer.figures import index, registry
from tests.figure_inputs import build
from tests.figure_inputs.study import HOSTILE, LABELS, MODEL, config
from tests.report.browser import Page, browser, find

ROOT = Path(__file__).parents[2]
SNAKEFILE = f"""
from steer.config import parse as parse_settings

configfile: "config.yaml"
settings = parse_settings(config)
config.update(settings.model_dump(mode="json"))
pathvars:
    results=settings.results,
include: "{ROOT}/workflow/rules/common.smk"
include: "{ROOT}/workflow/rules/targets.smk"
include: "{ROOT}/workflow/rules/figures.smk"
report: "{ROOT}/workflow/report/workflow.rst"
rule all:
    default_target: True
    input:
        # Of the planted model of the configuration the check of its truth alone was built.
        [path for path in get_figures(None) if "/planted/" not in path or "/truth." in path],
"""


SPLITS = {"train": 8, "val": 8, "test": 50}
PAIRS = {
    name: {"source": "grammar", "label": "harmful", "train": 8, "target": target}
    for name, target in {"refusing": "refusal", "complying": "compliance"}.items()
}
# What a study needs to be planned, beside what figures read.
WHOLE: dict[str, Any] = {
    "report": {"replies": "full"},
    "sets": {
        **{name: {"source": "grammar", "label": label, **SPLITS} for name, label in LABELS.items()},
        **PAIRS,
    },
    "contrasts": {"prompt": {"first": "refusing", "second": "complying", "paired": True}},
}


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report, with replies in full, made by Snakemake from the figures' own rules."""
    folder = tmp_path_factory.mktemp("report")
    build(folder / "results")
    (folder / "data").symlink_to(ROOT / "data")
    for name in PAIRS:
        (folder / f"results/prompts/{name}.jsonl").symlink_to(folder / "results/prompts/harmful.jsonl")
    # The model's own folder, which the settings name; no figure reads it.
    (folder / "checkpoint").mkdir()
    settings = config("results", **WHOLE).model_dump(mode="json", exclude_unset=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "Snakefile").write_text(SNAKEFILE)
    for arguments in (["--cores", "1"], ["--report", "report.html"]):
        run = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
    return folder / "report.html"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Page]]:
    program = find()
    if program is None:
        pytest.skip("no Chromium or Chrome is installed (Debian: apt-get install chromium)")
    with browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_a_finished_report_plans_nothing(report: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n"],
        cwd=report.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Nothing to be done" in run.stdout + run.stderr


@pytest.mark.browser
def test_the_report_opens_with_its_purpose_and_asks_no_other_host(
    report: Path, tab: Callable[[], Page]
) -> None:
    page = tab()
    page.open(report.as_uri())
    page.wait("document.body.innerText.includes('What it is for')")
    assert "Auditing and hardening" in page.evaluate("document.body.innerText")
    assert page.console_errors() == []
    outside = [url for url in page.requested() if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []


@pytest.mark.browser
@pytest.mark.parametrize("name", index.FIGURES)
def test_every_figure_shows_with_its_caption(name: str, report: Path, tab: Callable[[], Page]) -> None:
    page = tab()
    page.open(report.as_uri())
    figure = index.FIGURES[name]
    model = registry.models_of(name, config())[0]
    path = registry.outputs_of(name, config(), model)[0]
    page.click(figure.category)
    page.wait(f"document.body.innerText.includes({figure.title!r})")
    page.evaluate(f"new ToggleViewManager(app).handleSelectedResult({path!r})")
    if path.endswith(".svg"):
        page.wait("[...document.querySelectorAll('img')].some(i => i.naturalWidth > 500 && i.complete)")
    else:
        page.wait("!!document.querySelector('iframe')")
    page.evaluate(f"app.showResultInfo({path!r})")
    caption = (
        f"new DOMParser().parseFromString(results[{path!r}].caption, 'text/html').body.textContent.trim()"
    )
    assert len(page.evaluate(caption)) > 100
    page.wait(f"document.body.textContent.includes({caption}.slice(0, 60))")
    assert page.console_errors() == []


@pytest.fixture
def pages(report: Path, tmp_path: Path) -> dict[str, Path]:
    """The page of samples as it is, without its policy, and a page that escapes nothing."""
    shown = (report.parent / "results" / MODEL / "figures" / "samples.html").read_text(encoding="utf-8")
    bare = shown.replace('http-equiv="Content-Security-Policy"', 'name="nothing"')
    assert bare != shown
    texts = {"shown": shown, "bare": bare, "raw": f"<title>raw</title><body>{HOSTILE}</body>"}
    paths = {name: tmp_path / f"{name}.html" for name in texts}
    for name, path in paths.items():
        path.write_text(texts[name], encoding="utf-8")
    return paths


@pytest.mark.browser
@pytest.mark.parametrize("name", ["shown", "bare"])
def test_a_hostile_reply_is_text_in_the_page(
    name: str, pages: dict[str, Path], tab: Callable[[], Page]
) -> None:
    page = tab()
    page.open(pages[name].as_uri())
    assert page.evaluate("document.title") == f"{MODEL}: sample replies"
    assert page.evaluate("document.querySelectorAll('script, img, b').length") == 0
    assert page.evaluate("document.body.textContent").count(HOSTILE) > 0


@pytest.mark.browser
def test_the_same_reply_acts_where_it_is_not_escaped(pages: dict[str, Path], tab: Callable[[], Page]) -> None:
    page = tab()
    page.open(pages["raw"].as_uri())
    page.wait("document.title === 'owned'")
