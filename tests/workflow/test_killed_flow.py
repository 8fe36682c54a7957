import os
import signal
import subprocess
import time
from pathlib import Path

from tests.workflow.project import LONGEST, Project

TARGET = "results/organism/directions/refusal.safetensors"
MADE = ("prompts/harm*", "organism/checkpoint/*", "organism/model.json", "organism/activations/harm*")


def _kill_when(project: Project, made: Path) -> None:
    """Run the flow and kill Snakemake and its jobs, as a power cut would, once a file is there."""
    with subprocess.Popen(
        project.command("--cores", "2", TARGET),
        cwd=project.folder,
        env=project.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as flow:
        deadline = time.monotonic() + LONGEST
        while not made.exists():
            assert flow.poll() is None, project.logs()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(flow.pid, signal.SIGKILL)
    assert flow.returncode == -signal.SIGKILL


def test_a_killed_flow_is_unlocked_and_ends_with_the_files_of_one_that_was_not(
    finished: Project, tmp_path: Path
) -> None:
    project = Project.tiny(tmp_path / "killed")
    _kill_when(project, project.path("results/organism/model.json"))
    assert not project.path(TARGET).exists()
    assert "--unlock" in project.run(TARGET, check=False)
    project.snakemake("--unlock")
    # What was finished is not made again: the plan starts behind it.
    project.run(TARGET)
    assert "organism" not in _rules_since_the_kill(project)
    for pattern in (*MADE, "organism/directions/refusal*"):
        found = project.results(pattern)
        assert found
        assert found == finished.results(pattern)


def _rules_since_the_kill(project: Project) -> set[str]:
    """Rules with a benchmark that is younger than the facts of the model."""
    border = project.path("results/organism/model.json").stat().st_mtime
    root = project.path("benchmarks")
    young = [path for path in root.rglob("*.tsv") if path.stat().st_mtime > border]
    return {path.relative_to(root).parts[0] for path in young}
