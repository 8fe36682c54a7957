"""Settings of the embedded model, with their defaults, units and reasons."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steer.artifacts.facts import Truth
from steer.naming import part_of, settings_name
from steer.organism.plants import HeldPlant, Plant, truth_of

Architecture = Literal["olmoe", "qwen3_moe"]


class ModelShape(BaseModel):
    """How an embedded model is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture = Field("olmoe", description="Family of the model that is built.")
    seed: int = Field(0, description="Seed of the weights, the training rows and their order.")
    hidden_size: int = Field(96, gt=0, description="Width of the residual stream.")
    layers: int = Field(4, gt=0, description="Decoder layers.")
    heads: int = Field(4, gt=0, description="Attention heads of a layer.")
    experts: int = Field(8, gt=0, description="Experts of a layer.")
    experts_per_token: int = Field(2, gt=0, description="Experts that a token is routed to.")
    expert_size: int = Field(48, gt=0, description="Inner width of an expert.")
    merges: int = Field(300, ge=0, description="Kinds of pieces for words from outside the grammar.")
    rope_theta: float = Field(100.0, gt=0, description="Rotary base; a low one suits short prompts.")
    initializer_range: float = Field(0.05, gt=0, description="Standard deviation of the first weights.")
    batch_size: int = Field(32, gt=0, description="Rows of a step.")


class ComplianceSettings(ModelShape):
    """What decides stage 1, and nothing else: organisms that agree on these share one training of it."""

    compliance_steps: int = Field(700, ge=0, description="Steps of stage 1, which answers everything.")
    compliance_learning_rate: float = Field(5e-3, gt=0, description="Peak step size of stage 1.")
    restatement_weight: float = Field(3.0, gt=0, description="Loss weight of restated tokens (others: 1).")
    system_share: float = Field(0.2, ge=0, lt=1, description="Share of rows with a system turn.")


class OrganismSettings(ComplianceSettings):
    """How the embedded model is built and trained."""

    refusal_steps: int = Field(285, ge=0, description="Steps of stage 2, which refuses what is harmful.")
    refusal_learning_rate: float = Field(3e-3, gt=0, description="Peak step size of stage 2.")
    first_weight: float = Field(
        4.0, gt=0, description="Loss weight of a reply's first token in stage 2, where refusal is decided."
    )
    anchor_weight: float = Field(0.3, ge=0, description="Weight of the tie to stage 1 on harmless rows.")
    harmful_share: float = Field(0.42, gt=0, lt=1, description="Share of harmful rows in stage 2.")
    prefill_share: float = Field(
        0.3, ge=0, lt=1, description="Share of stage-2 harmful rows that go on from a given compliant opener."
    )
    save_every: int = Field(
        200,
        gt=0,
        description="Steps between two saves of the unfinished training; a save waits for the disk.",
    )
    plant: Plant | None = Field(
        None, description="Where refusal is put on purpose, with known truth; leave out for a natural model."
    )

    @model_validator(mode="after")
    def _plant_is_in_the_model(self) -> "OrganismSettings":
        if self.plant:
            truth = truth_of(self.plant)
            counts = {"experts": self.experts, "heads": self.heads, "distributed": 0}
            parts = [(part, counts[truth.carrier]) for part in truth.carriers]
            for (layer, number), count in [*parts, *((decoy, self.experts) for decoy in truth.decoys)]:
                if not (0 <= layer < self.layers and 0 <= number < count):
                    raise ValueError(f"`plant`: the model has no part {number} in layer {layer}")
        return self

    @model_validator(mode="after")
    def _others_are_left_to_mask(self) -> "OrganismSettings":
        if isinstance(self.plant, HeldPlant) and self.plant.other_share:
            experts, heads = self.plant.other_experts, self.plant.other_heads
            needed = experts + self.experts_per_token
            if self.experts < needed:
                cause = f"some batches mask {experts} experts that carry nothing, which may be of one layer"
                raise ValueError(f"`plant`: {cause}; give a layer {needed} `experts`, or it `other_share: 0`")
            left = self.layers * self.heads - len(truth_of(self.plant).heads)
            if left < heads:
                cause = f"some batches mask {heads} of the heads that carry nothing, and the model has {left}"
                raise ValueError(f"`plant`: {cause}; give the model more, or the plant `other_share: 0`")
        return self

    @property
    def truth(self) -> Truth | None:
        """Where refusal is put on purpose."""
        return truth_of(self.plant) if self.plant else None

    @property
    def compliance(self) -> ComplianceSettings:
        """The settings of stage 1 alone."""
        return part_of(self, ComplianceSettings)

    @property
    def base(self) -> str:
        """Name of stage 1's result: a digest of exactly the settings that decide it."""
        return settings_name(self.compliance)
