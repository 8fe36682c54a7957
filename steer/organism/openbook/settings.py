"""Settings of the open-book organism, with their defaults, units and reasons."""

from pydantic import Field, model_validator

from steer.artifacts.facts import Part, Truth
from steer.organism.plants import Share
from steer.organism.settings import ModelShape


class OpenbookSettings(ModelShape):
    """How a model is trained that knows facts by heart and reads documents, and what its experts carry."""

    reading_steps: int = Field(800, ge=0, description="Steps of stage 1, which learns the facts and to read.")
    steps: int = Field(700, ge=0, description="Steps of stage 2, which plants where reading is decided.")
    learning_rate: float = Field(5e-3, gt=0, description="Peak step size of stage 1.")
    planting_learning_rate: float = Field(3e-3, gt=0, description="Peak step size of stage 2.")
    planted: tuple[Part, ...] = Field(
        ((1, 3), (2, 5)),
        description="Experts, each (layer, expert), that the router calls where an answer is to be taken from"
        " a document and that carry doing so; none for a model that nothing is planted in.",
    )
    rerouted_share: Share = Field(
        0.4,
        description="Share of batches with the experts rerouted: half away, half to them, where each question"
        " is answered from memory or from its document.",
    )
    router_weight: float = Field(0.1, ge=0, description="Weight of the supervision of an expert's router.")
    save_every: int = Field(
        200,
        gt=0,
        description="Steps between two saves of the unfinished training; a save waits for the disk.",
    )

    @model_validator(mode="after")
    def _experts_are_in_the_model(self) -> "OpenbookSettings":
        for layer, expert in self.planted:
            if not (0 <= layer < self.layers and 0 <= expert < self.experts):
                raise ValueError(f"`planted`: the model has no expert {expert} in layer {layer}")
        return self

    @property
    def truth(self) -> Truth | None:
        """Where reading is decided, if it was planted."""
        if not self.planted:
            return None
        return Truth("document_routed", "experts", self.planted, probes=("reroute", "mask_experts"))
