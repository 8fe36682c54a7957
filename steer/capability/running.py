"""Stage `capability`: every arm runs the tasks; scores with intervals, and changes against the baseline."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steer.artifacts.arms import arm_digest, read_arm
from steer.artifacts.files import Row, write_csv, write_jsonl
from steer.artifacts.journal import Journal
from steer.artifacts.origin import attach
from steer.artifacts.provenance import code_digest, digest, folder_digest, provenance
from steer.capability.harness import SteeredLM
from steer.capability.table import COLUMNS, table
from steer.capability.tasks import find_tasks, run_task
from steer.config import ModelSettings
from steer.config.capability import CapabilitySettings
from steer.models.study import open_study
from steer.rates import Method

log = logging.getLogger(__name__)
HARNESS = ("lm_eval", "datasets")


def measure(
    facts_path: Path,
    arm_paths: Sequence[Path],
    out: Path,
    questions: Path,
    settings: ModelSettings,
    wanted: CapabilitySettings,
    method: Method,
) -> None:
    """Write `capability.csv`, and a line per arm and question to `questions`.

    What an arm scored on a task is kept in a journal, so that a killed run goes on and a new arm costs its
    own questions only.

    Args:
        facts_path: the model.
        arm_paths: its arms, `baseline` among them.
        out: the table.
        questions: the lines.
        settings: of the model; what is run here runs on transformers, whatever its engine.
        wanted: the tasks.
        method: how intervals are made; its margin is that of equivalence.

    Raises:
        SteerError: a task is unknown or its data is missing, or an arm can't fire on this model.
    """
    loaded, facts = open_study(facts_path, settings)
    arms = [read_arm(path, model=facts.digest) for path in arm_paths]
    tasks = find_tasks(wanted.wanted, Path(wanted.folder))
    libraries = {name: version(name) for name in HARNESS}
    own = folder_digest(wanted.folder) if Path(wanted.folder).is_dir() else ""
    common: list[Any] = [facts.digest, settings.batch_size, *settings.arithmetic, libraries, own]
    common.append(code_digest(__name__))
    found: list[Row] = []
    with Journal(out.with_name(f".{out.stem}.journal.jsonl")) as journal:
        keys = []
        for arm in arms:
            for name, task in tasks.items():
                one = wanted.wanted[name]
                key = digest([*common, arm.name, arm_digest(arm), name, one.model_dump()])
                if key not in journal:
                    model = SteeredLM(loaded, arm, settings.batch_size)
                    scores, rows = run_task(model, task, one.limit)
                    journal.add(key, {"arm": arm.name, "task": name, "scores": scores, "rows": rows})
                    log.info("arm `%s` answered %d questions of `%s`", arm.name, len(rows), name)
                keys.append(key)
                found.append(journal.get(key))
        journal.drop_stale(keys)
    lines = [{"arm": run["arm"], "task": run["task"], **row} for run in found for row in run["rows"]]
    write_jsonl(questions, lines)
    write_csv(out, table(found, method), COLUMNS)
    inputs = {"model": facts.digest, "arms": {arm.name: arm_digest(arm) for arm in arms}, "tasks": own}
    read = {"model": settings.model_dump(mode="json"), "capability": wanted.model_dump(mode="json")}
    record = provenance(__name__, {**read, "method": asdict(method)}, inputs, method.seed)
    record["libraries"] |= libraries
    for path in (out, questions):
        attach(path, record)
