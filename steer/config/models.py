"""Models under study."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from steer.config.base import Settings
from steer.errors import SteerError
from steer.organism.settings import OrganismSettings


class ModelSettings(Settings):
    """A model under study: either an organism that the flow trains, or a checkpoint."""

    organism: OrganismSettings | None = Field(
        None, description="Train the embedded model with these settings; leave out for a checkpoint."
    )
    path: str | None = Field(None, description="Folder of a checkpoint; leave out for an organism.")
    revision: str | None = Field(None, description="Commit of the checkpoint, recorded with every result.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type that the weights are loaded in and the forward pass runs in."
    )
    device: str = Field("cpu", description="Device that the model is loaded on.")
    threads: int | None = Field(
        1, ge=1, description="CPU threads of a job; fixed, because another number gives other last bits."
    )
    batch_size: int = Field(32, ge=1, description="Prompts per forward pass; lower it when memory runs out.")
    max_prompt_tokens: int = Field(
        1024, ge=6, description="Longest prompt accepted, in tokens, template included."
    )
    system_prompt: str | None = Field(None, description="System turn put before every prompt.")
    refusal_openers: tuple[str, ...] = Field(
        (), description="First words of refusals, for the refusal score; an organism knows its own."
    )

    @property
    def has_experts(self) -> bool:
        """Whether the model has MoE layers, as far as can be told before it is loaded."""
        facts = Path(self.path or "", "config.json")
        if not self.path or not facts.is_file():
            return True
        told = json.loads(facts.read_text(encoding="utf-8"))
        return bool(told.get("num_experts") or told.get("num_local_experts"))

    @property
    def is_planted(self) -> bool:
        """Whether refusal was put into a known part of the model."""
        return self.organism is not None and self.organism.plant is not None

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelSettings":
        if (self.organism is None) == (self.path is None):
            raise ValueError("give exactly one of `organism` and `path`")
        return self


def organism_on(base: str, models: Mapping[str, ModelSettings]) -> OrganismSettings:
    """The settings of the first organism whose stage 1 has the name `base`.

    Raises:
        SteerError: no organism has it.
    """
    organisms = [model.organism for model in models.values() if model.organism]
    found = {organism.base: organism for organism in reversed(organisms)}
    if base not in found:
        known = ", ".join(found) or "none, as no model is an organism"
        raise SteerError(f"base `{base}`", "is unknown", f"known: {known}")
    return found[base]
