import os
import re
from pathlib import Path

from tests.setup.conftest import ROOT, Project


def _calls(project: Project) -> list[str]:
    calls = project.root / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return lines


def _finish_flow(project: Project) -> None:
    """Leave the files behind that a flow reads and makes, none newer than the report."""
    _calls(project)
    for name in ("config.yaml", "Snakefile", "workflow/report/a.rst", "results/a.csv"):
        path = project.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1, 1))


def test_every_target_is_explained_by_make_help(project: Project) -> None:
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    done = project.make("help")
    assert re.findall(r"^make ([a-z]+) +\S", done.stdout, re.MULTILINE) == targets
    assert {"run", "test", "bench", "report", "clean", "unlock"} <= set(targets)


def test_make_alone_runs_the_flow_and_then_builds_the_report(project: Project) -> None:
    _finish_flow(project)
    done = project.make("CORES=1")
    assert done.returncode == 0, done.stderr
    flow = "--workflow-profile workflow/profiles/default --cores 1"
    # The first run after the set-up fetches public prompts besides.
    calls = [call for call in _calls(project) if call != "prefetch"]
    assert calls == [flow, f"{flow} --report results/report.html"]


def test_the_report_is_built_again_only_if_something_is_newer(project: Project) -> None:
    _finish_flow(project)
    project.make("report")
    _calls(project)
    project.make("run")
    assert [call for call in _calls(project) if "--report" in call] == []
    (project.root / "workflow" / "report" / "a.rst").touch()
    project.make("run")
    assert len([call for call in _calls(project) if "--report" in call]) == 1


def test_make_clean_removes_results_and_nothing_else(project: Project) -> None:
    _finish_flow(project)
    project.make("clean")
    assert not (project.root / "results").exists()
    assert (project.venv / "complete.json").exists()
    assert (project.root / "config.yaml").exists()


def test_a_failed_flow_fails_make_and_builds_no_report(project: Project) -> None:
    _finish_flow(project)
    done = project.make("run", "SNAKEMAKE_ARGS=; false")
    assert done.returncode != 0
    assert not (project.root / "results" / "report.html").exists()


def test_a_python_that_is_missing_or_too_old_is_named_by_make(fresh: Project, old_python: Path) -> None:
    missing = fresh.make("setup", "PYTHON=no-such-python")
    assert missing.returncode != 0
    assert "no-such-python: no such command" in missing.stderr
    old = fresh.make("setup", f"PYTHON={old_python}")
    assert old.returncode != 0
    assert "is Python 3.9.1" in old.stderr
