"""A copy of the checkout, in which the flow runs for real and files can be changed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from steer.config import merge

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
COPIED = ("Snakefile", "config.yaml", "data", "envs", "steer", "workflow")
TINY = Path("config.tiny.yaml")
# What is left of the default, each kind of arm once: more of a kind run the same rules again.
KEPT = {
    "models": ("organism",),
    "sets": ("harmful", "harmless", "everyday", "refusing", "complying"),
    "contrasts": ("prompt", "response"),
    "arms": (
        "baseline",
        "add",
        "add_random",
        "ablate",
        "ablate_cosmic",
        "expert",
        "expert_matched",
        "reroute",
        "reroute_random",
        "bias_router",
        "swap",
        "ablate_edits",
        "ablate_routing",
    ),
}
# Of a loaded machine of two cores; no test waits for its end.
LONGEST = 1500


def kept() -> dict[str, Any]:
    """The default configuration without what the tiny flow leaves out; laid-over values can't remove any."""
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    return values | {key: {name: values[key][name] for name in names} for key, names in KEPT.items()}


def rules() -> Iterator[tuple[str, str]]:
    """Place and text of every rule, those that a loop makes included."""
    for path in RULES:
        parts = re.split(r"^( *)rule ?(\w*):\n", path.read_text(), flags=re.MULTILINE)
        for indent, name, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            body = re.split(rf"^{indent}\S", text, maxsplit=1, flags=re.MULTILINE)[0]
            yield f"{path.name}: {name or 'made in a loop'}", body


class Project:
    """The copy.

    Attributes:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_the_checkout(cls, folder: Path) -> "Project":
        """What the repository holds, with the tiny configuration, and no results."""
        folder.mkdir(parents=True)
        unwanted = shutil.ignore_patterns("__pycache__", "by_hand")
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=unwanted)
            else:
                shutil.copy2(source, folder / name)
        shutil.copy2(ROOT / "tests" / "workflow" / TINY.name, folder / TINY)
        return cls(folder)

    @classmethod
    def tiny(cls, folder: Path) -> "Project":
        """One whose default configuration keeps little."""
        project = cls.of_the_checkout(folder)
        project.path("config.yaml").write_text(yaml.safe_dump(kept(), sort_keys=False))
        return project

    def copy(self, folder: Path) -> "Project":
        """A copy with all results, and with the times by which Snakemake knows them."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def path(self, name: str) -> Path:
        """A file of the copy."""
        return self.folder / name

    def command(self, *arguments: str) -> list[str]:
        """A call of Snakemake on the tiny configuration."""
        return [sys.executable, "-m", "snakemake", "--configfile", str(TINY), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The code of the copy comes before an installed one, the interpreter of the tests before others."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PYTHONPATH": str(self.folder), "PATH": path, "OMP_NUM_THREADS": "1"}

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run Snakemake; returns what it says.

        Raises:
            AssertionError: it fails, though `check` says that it must not.
        """
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        assert not (check and done.returncode), done.stdout + self.logs()
        return done.stdout

    def run(self, *targets: str, check: bool = True) -> str:
        """Run the flow as `make` does, or as much of it as the targets need."""
        profile = ("--workflow-profile", "workflow/profiles/default")
        return self.snakemake(*profile, "--cores", "2", *targets, check=check)

    def plan(self, *arguments: str) -> dict[str, int]:
        """How many jobs of each rule would run."""
        said = self.snakemake("--dry-run", *arguments)
        if "Nothing to be done" in said:
            return {}
        jobs = dict(re.findall(r"^(\w+) +(\d+)$", said, flags=re.MULTILINE))
        assert int(jobs.pop("total")) == sum(map(int, jobs.values())), said
        return {rule: int(count) for rule, count in jobs.items() if rule != "all"}

    def configure(self, changes: dict[str, object]) -> None:
        """Lay changes over the tiny configuration, in its file."""
        values = yaml.safe_load(self.path(str(TINY)).read_text())
        self.path(str(TINY)).write_text(yaml.safe_dump(merge(values, changes)))

    @contextmanager
    def extended(self, name: str, text: str) -> Iterator[None]:
        """A file with a text at its end, for the length of a block."""
        path = self.path(name)
        before, stat = path.read_bytes(), path.stat()
        path.write_bytes(before + text.encode())
        try:
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def results(self, pattern: str = "**/*") -> dict[str, bytes]:
        """Result files by name, without marks of Snakemake and the report, which names its day."""
        root = self.path("results")
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.glob(pattern))
            if path.is_file() and path.name not in (".snakemake_timestamp", "report.html")
        }

    def logs(self) -> str:
        """What the jobs said, for the message of a test that fails."""
        return "\n".join(
            f"== {path}\n{path.read_text()}" for path in sorted(self.path("logs").rglob("*.log"))
        )
