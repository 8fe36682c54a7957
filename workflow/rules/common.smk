from pathlib import Path

import yaml

from steer import stages
from steer.artifacts.files import write_bytes
from steer.capability.known import check_tasks
from steer.download import missing
from steer.errors import SteerError
from steer.figures import index, registry
from steer.knowledge import KINDS
from steer.preflight import check_keys, check_study
from steer.sources import with_parts

# The configuration with all overrides, for the commands that the rules run. Its place is no input: rules
# depend on the settings they read, by `trigger`, and not on the whole of it.
SETTINGS = Path(settings.results) / "config.yaml"

# Files, not the folder: a folder's time does not change when a file in it does.
GRAMMAR = sorted(str(path) for path in Path("data/grammar").iterdir())
KNOWLEDGE = sorted(str(path) for path in Path("data/knowledge").iterdir())

# While planning, so that a dry run tells it.
check_study(settings, Path("data/grammar"), Path("data/sources.tsv"))


onstart:
    # Said before hours of work, and not when their end needs the file.
    if lacking := missing(
        [
            source
            for name in settings.public_sources
            for source in with_parts(name, Path("data/sources.tsv"))
        ],
        Path(settings.results) / "downloads",
    ):
        raise SteerError("sources", "; ".join(lacking), "or remove their sets")
    check_keys(settings, judges_at_work())
    if any(job.rule.name == "capability" for job in workflow.dag.needrun_jobs()):
        check_tasks(settings)
    # Not while planning: a dry run must not change the settings of a flow that runs meanwhile.
    write_bytes(
        SETTINGS,
        yaml.safe_dump(dict(config), allow_unicode=True, sort_keys=False).encode(),
    )


def judges_at_work():
    """Judges of the jobs that will run: a study that is judged can be drawn again without their keys."""
    chosen = {
        "strength": settings.selection.strength.judge,
        "experts": settings.selection.strength.judge,
        "rerouting": settings.selection.rerouting.judge,
    }
    found = set()
    for job in workflow.dag.needrun_jobs():
        if "judge" in job.wildcards.keys():
            found.add(job.wildcards.judge)
        elif job.rule.name == "lengths":
            found.update(settings.measured_judges)
        elif job.rule.name in chosen:
            found.add(chosen[job.rule.name])
    return found


wildcard_constraints:
    model="|".join([*settings.models, index.STUDY]),
    set="|".join(settings.sets),
    judge="|".join(settings.judges),
    contrast="|".join(settings.contrasts) or "none",
    base="[0-9a-f]{16}",
    method="arditi|cosmic",
    figure="|".join(index.FIGURES),
    hub="[^/]+",
    kind="|".join(KINDS),


def trained_by(stage):
    """A constraint of `{model}`: models that the flow trains by a stage."""
    return (
        "|".join(
            name for name, model in settings.models.items() if getattr(model, stage)
        )
        or "none"
    )


def trigger(stage, *names):
    """What reruns a rule: a digest of the code and settings of its stage."""

    def digest(wildcards):
        return stages.trigger(
            stage, settings, **{name: wildcards[name] for name in names}
        )

    return digest
