"""Models under study."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from steer.catalogue import (
    Device,
    HubModel,
    Revision,
    architecture,
    expert_count,
    hub_id,
    layers_with_experts,
)
from steer.config.base import Name, Settings
from steer.config.system_prompts import SYSTEM_PROMPTS
from steer.errors import SteerError
from steer.models.chat import Chat
from steer.organism.openbook.settings import OpenbookSettings
from steer.organism.settings import OrganismSettings
from steer.upcycling.settings import TeacherSettings, UpcycleSettings


@dataclass(frozen=True)
class Size:
    """Parts of a model that arms name, as far as can be told before it is loaded.

    Attributes:
        layers: how many.
        moe_layers: those with experts.
        experts: of such a layer; 0 in a dense model.
        top_k: experts that a token is routed to; 0 where it is not known.
    """

    layers: int
    moe_layers: tuple[int, ...]
    experts: int
    top_k: int


class ModelSettings(Settings):
    """A model under study: one that the flow trains, or a checkpoint."""

    organism: OrganismSettings | None = Field(
        None, description="Train the embedded model with these settings; leave out for a checkpoint."
    )
    openbook: OpenbookSettings | None = Field(
        None,
        description="Train a small model that answers from a document or from memory with these settings;"
        " leave out for a checkpoint.",
    )
    upcycle: UpcycleSettings | None = Field(
        None,
        description="Make a small dense chat model into one with experts that refuses; leave out for a"
        " checkpoint.",
    )
    path: str | None = Field(
        None,
        description="Folder of a checkpoint, or the name of a model on the hub (`owner/name`), whose weights"
        " are then fetched; leave out for a model that is trained here.",
    )
    revision: Revision | None = Field(
        None,
        description="Commit of the checkpoint, recorded with every result. Of a model on the hub also a tag"
        " or branch, or nothing: the commit that the first download finds is kept in the file `lock`, and"
        " required from then on.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type that the weights are loaded in and the forward pass runs in."
    )
    device: Device = Field(
        "cpu",
        description="Device that the model is loaded on; `auto` spreads it over all GPUs, and over memory and"
        " disk where they are full.",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What records activations and writes replies; `vllm` is an optional extra.",
    )
    threads: int | None = Field(
        1, ge=1, description="CPU threads of a job; fixed, because another number gives other last bits."
    )
    batch_size: int = Field(32, ge=1, description="Prompts per forward pass; lower it when memory runs out.")
    max_prompt_tokens: int = Field(
        1024, ge=6, description="Longest prompt accepted, in tokens, template included."
    )
    system_prompt: str | None = Field(
        None,
        description="System turn put before every prompt: a text, or `lightweight` (a sentence) or `long` (a"
        " paragraph of rules), whose wording is in steer/config/system_prompts.py.",
    )
    system_source: Name | None = Field(
        None,
        description="Instead of a text, a row of data/sources.tsv whose file holds it, which is fetched: the"
        " wording of a paper.",
    )
    thinking: bool = Field(
        False,
        description="Let a model that can think before it replies do so; its reasoning is kept apart from the"
        " reply, which alone is judged. GPT-OSS has its `final` channel opened without it.",
    )
    reasoning_effort: Literal["low", "medium", "high"] | None = Field(
        None, description="How long GPT-OSS thinks, with `thinking`; null: as its template says."
    )
    refusal_openers: tuple[str, ...] = Field(
        (), description="First words of refusals, for the refusal score; an organism knows its own."
    )

    @property
    def has_experts(self) -> bool:
        """Whether the model has MoE layers, as far as can be told before it is loaded."""
        config = architecture(self.path) if self.path else None
        return config is None or expert_count(config) > 0

    @property
    def size(self) -> Size | None:
        """Its layers and experts; None where its architecture is not known yet."""
        if built := self.organism or self.openbook:
            return Size(built.layers, tuple(range(built.layers)), built.experts, built.experts_per_token)
        config = architecture(self.upcycle.source if self.upcycle else self.path or "")
        if config is None or "num_hidden_layers" not in config:
            return None
        layers = int(config["num_hidden_layers"])
        if self.upcycle:
            made = self.upcycle
            return Size(layers, tuple(made.moe_layers), made.experts, made.experts_per_token)
        top_k = int(config.get("num_experts_per_tok") or 0)
        return Size(layers, layers_with_experts(config, layers), expert_count(config), top_k)

    @property
    def chat(self) -> Chat:
        """How the model is spoken to.

        Raises:
            SteerError: the text of its system turn is not there.
        """
        if self.system_source and self.system_prompt is None:
            cause = "its text has not been fetched"
            cure = "run the flow, or `python -m steer download` into `downloads` of the results"
            raise SteerError(f"system turn `{self.system_source}`", cause, cure)
        system = SYSTEM_PROMPTS.get(self.system_prompt or "", self.system_prompt)
        return Chat(system, self.thinking, self.reasoning_effort)

    @property
    def arithmetic(self) -> list[int | str | None]:
        """What of the machine decides the last bits of a result, for the names of rows that are kept."""
        # Rows of the CPU keep the names that they had before a device was part of them.
        return [self.threads] if self.device.startswith("cpu") else [self.threads, self.device]

    @property
    def hub(self) -> HubModel | None:
        """The model on the hub that is to be fetched; None for a folder or an organism."""
        name = hub_id(self.path)
        return HubModel(name, self.revision) if name else None

    @property
    def training_seed(self) -> int | None:
        """Seed of the training, of a model that the flow trains."""
        made = self.organism or self.openbook or self.upcycle
        return made.seed if made else None

    @property
    def is_planted(self) -> bool:
        """Whether refusal was put into a known part of the model, and its replies are the grammar's."""
        return self.organism is not None and self.organism.plant is not None

    @property
    def is_known(self) -> bool:
        """Whether refusal was put into a known part of the model, whatever its replies are."""
        return self.is_planted or (self.upcycle is not None and self.upcycle.variant == "causal")

    @model_validator(mode="after")
    def _openers_are_words(self) -> "ModelSettings":
        if not all(opener.strip() for opener in self.refusal_openers):
            raise ValueError("`refusal_openers` holds a blank one; name first words of refusals")
        return self

    @model_validator(mode="after")
    def _one_system_turn(self) -> "ModelSettings":
        if self.system_prompt is not None and self.system_source is not None:
            raise ValueError("give `system_prompt` or `system_source`, not both")
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelSettings":
        origins = (self.organism, self.openbook, self.upcycle, self.path)
        if sum(origin is not None for origin in origins) != 1:
            raise ValueError("give exactly one of `organism`, `openbook`, `upcycle` and `path`")
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


def teacher_of(base: str, models: Mapping[str, ModelSettings]) -> TeacherSettings:
    """The settings of the teacher that has the name `base`.

    Raises:
        SteerError: no model is upcycled with it.
    """
    found = {model.upcycle.base: model.upcycle.teacher for model in models.values() if model.upcycle}
    if base not in found:
        known = ", ".join(found) or "none, as no model is upcycled"
        raise SteerError(f"teacher `{base}`", "is unknown", f"known: {known}")
    return found[base]
