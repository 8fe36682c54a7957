"""Measuring what a steered model still can, and how surprised it is by harmless text."""

from typing import Any, Literal

from pydantic import Field, field_validator

from steer.config.base import Name, Settings


class TaskSettings(Settings):
    """How one task of lm-evaluation-harness is run."""

    fewshot: int | None = Field(
        None, ge=0, description="Worked examples before a question; null: as the task says."
    )
    limit: int | None = Field(None, ge=1, description="First questions that are asked; null: all.")


Preset = Literal["none", "expert-aware"]

PRESETS: dict[Preset, dict[str, TaskSettings]] = {
    "none": {},
    # Expert-Aware Refusal Steering measures capability on these (its code, 2606.04160); SteerMoE on none.
    "expert-aware": {
        "mmlu": TaskSettings(fewshot=5),
        "hellaswag": TaskSettings(fewshot=10, limit=1000),
        "arc_easy": TaskSettings(fewshot=25),
        "arc_challenge": TaskSettings(fewshot=25),
        "winogrande": TaskSettings(fewshot=5),
        "gsm8k": TaskSettings(fewshot=5),
        "truthfulqa_mc1": TaskSettings(),
    },
}
"""Tasks by the name of what uses them."""


class PerplexitySettings(Settings):
    """Harmless replies that every arm reads as its own; see `steer.perplexity`."""

    sets: tuple[Name, ...] = Field(
        (),
        description="Sets whose `test` rows are read: with their targets, or with the unsteered model's"
        " replies to them; none measures nothing.",
    )


class CapabilitySettings(Settings):
    """Tasks of lm-evaluation-harness, run by the steered model in its own chat template."""

    tasks: dict[str, TaskSettings] = Field(
        {},
        description="Tasks by their names there, or in `folder`; none measures nothing. Data that is not"
        " local must have been fetched before.",
    )
    preset: Preset = Field("none", description="Tasks of a paper, besides.")
    arms: tuple[Name, ...] = Field(
        (),
        description="Arms that run the tasks, besides `baseline`; none named: all but swaps and further seeds"
        " of a control.",
    )
    folder: str = Field("data/tasks", description="Folder of own task files, in the format of the harness.")
    margin: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Difference to the baseline, either way, below which two scores count as equal.",
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _without_those_left_out(cls, tasks: Any) -> Any:
        """An override leaves out a task by saying `false`, as with sets and arms."""
        if not isinstance(tasks, dict):
            return tasks
        return {name: task for name, task in tasks.items() if task is not False}

    @property
    def wanted(self) -> dict[str, TaskSettings]:
        """All tasks, those of the preset first; a task that is given as well is run as given."""
        return {**PRESETS[self.preset], **self.tasks}
