"""Tasks of lm-evaluation-harness: found by name, and run without a network unless their data is fetched."""

import random
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from steer.artifacts.files import Row
from steer.capability.harness import SteeredLM
from steer.config.capability import TaskSettings
from steer.errors import SteerError

SEED = 1234
"""Of the worked examples that a task draws; the harness's own default."""


def known_tasks(names: Collection[str], folder: Path) -> TaskManager:
    """What finds tasks by name, and knows these.

    Own tasks come first. The thousands that the harness brings are looked through only for other names.

    Raises:
        SteerError: a name is unknown.
    """
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    if not {*names} <= {*manager.all_tasks}:
        manager = TaskManager(include_path=str(folder))
    for name in names:
        if name not in manager.all_tasks:
            cause = f"is neither in {folder} nor known to lm-evaluation-harness"
            raise SteerError(f"task `{name}`", cause, "`lm-eval ls tasks` lists what it knows")
    return manager


def find_tasks(names: Mapping[str, TaskSettings], folder: Path) -> dict[str, Any]:
    """Tasks by name: what the harness loads for each, with its data.

    Raises:
        SteerError: a name is unknown, or the data of a task is not there.
    """
    manager = known_tasks(names, folder)
    return {name: _load(manager, name, settings) for name, settings in names.items()}


def _load(manager: Any, name: str, settings: TaskSettings) -> Any:
    try:
        found = manager.load([name])
    except (OSError, ValueError, RuntimeError) as error:
        cause = f"its data can't be read ({error})"
        advice = "fetch it once, where there is a network: HF_HUB_OFFLINE=0 in front of the command"
        raise SteerError(f"task `{name}`", cause, advice) from error
    for task in found["tasks"].values():
        given = task.get_config("num_fewshot")
        if settings.fewshot is not None and given != 0:
            task.set_config(key="num_fewshot", value=settings.fewshot)
        elif given is None:
            task.set_config(key="num_fewshot", value=0)
    return found


def run_task(model: SteeredLM, task: Any, limit: int | None) -> tuple[Row, list[Row]]:
    """Run what `find_tasks` found; returns the harness's own scores by subtask, and a row per question.

    Every model is asked the same questions with the same worked examples.
    """
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - tasks draw from the global one
    torch.manual_seed(SEED)
    for one in task["tasks"].values():
        one.set_fewshot_seed(seed=SEED)
    found = evaluate(
        lm=model,
        task_dict=task,
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        log_samples=True,
    )
    scores = {
        name: {key: value for key, value in row.items() if isinstance(value, float)}
        for name, row in found["results"].items()
    }
    return scores, list(_questions(found["samples"]))


def _questions(samples: Mapping[str, list[Row]]) -> Iterator[Row]:
    for subtask, asked in samples.items():
        for one in sorted(asked, key=lambda row: (row["filter"], row["doc_id"])):
            values = {name: _value(one[name]) for name in one["metrics"]}
            yield {
                "subtask": subtask,
                "question": one["doc_id"],
                "filter": one["filter"],
                "values": {name: value for name, value in values.items() if value is not None},
                "asked": f"{one['doc_hash'][:16]} {one['prompt_hash'][:16]}",
            }


def _value(value: Any) -> float | None:
    """The score of one question; None for metrics that are no mean over questions."""
    return float(value) if isinstance(value, bool | int | float | np.number | np.bool_) else None
