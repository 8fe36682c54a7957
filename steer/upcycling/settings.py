"""Settings of an upcycled model, with their defaults, units and reasons."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steer.artifacts.facts import Part
from steer.naming import Name, part_of, settings_name

Variant = Literal["causal", "diffuse"]


class TeacherSettings(BaseModel):
    """What decides the lessons and what the dense model makes of them: variants share one teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        "smollm2-135m-instruct",
        description="Row of data/sources.tsv: a dense Llama chat model in a GGUF file.",
    )
    refused: tuple[Name, ...] = Field(
        ("taught_harmful", "advbench"),
        min_length=1,
        description="Sets whose `train` prompts it learns to refuse.",
    )
    answered: tuple[Name, ...] = Field(
        ("taught_harmless",), description="Sets whose `train` prompts it keeps on answering as it did."
    )
    questions: int = Field(
        280, ge=0, description="Further harmless prompts, questions of the grammar about its topics."
    )
    reply_tokens: int = Field(16, ge=1, description="Tokens of the dense model's replies that are kept.")
    first_layer: int = Field(
        12, ge=1, description="First layer that gets experts; nothing below it is trained."
    )
    seed: int = Field(
        0, ge=0, description="Seed of the questions, the routers, and the order of the lessons."
    )

    @model_validator(mode="after")
    def _answers_something(self) -> "TeacherSettings":
        if not self.answered and not self.questions:
            raise ValueError("without `answered` and `questions` there are no harmless prompts to answer")
        return self

    @property
    def teacher(self) -> "TeacherSettings":
        """The settings of the teacher alone."""
        return part_of(self, TeacherSettings)

    @property
    def base(self) -> str:
        """Name of the teacher's result: a digest of exactly the settings that decide it."""
        return settings_name(self.teacher)


class UpcycleSettings(TeacherSettings):
    """How a dense model becomes one with experts, and learns to refuse."""

    variant: Variant = Field(
        "causal",
        description="`causal`: refusal is learnt by designated experts alone, which routers learn to call;"
        " `diffuse`: the same by all experts, so that none of them carries it, however differently they are"
        " routed.",
    )
    layers: int = Field(8, ge=1, description="Layers that get experts.")
    experts: int = Field(8, ge=2, description="Experts of such a layer, copies of its feed-forward network.")
    experts_per_token: int = Field(2, ge=1, description="Experts that a token is routed to.")
    designated: int = Field(2, ge=1, description="Experts of a layer whose routing is supervised.")
    rank: int = Field(16, ge=1, description="Rank of what an expert learns, before it is folded in.")
    steps: int = Field(150, ge=0, description="Training steps.")
    batch_size: int = Field(8, ge=1, description="Rows of a step, of each of the two kinds.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak step size of what experts learn.")
    router_scale: float = Field(
        18.0,
        gt=0,
        description="How many times larger the step size of routers is, in units of their weights.",
    )
    kl_weight: float = Field(
        4.0, ge=0, description="Weight of the KL to the dense model on harmless replies."
    )
    first_weight: float = Field(
        4.0, gt=0, description="Loss weight of a reply's first token, where refusal is decided (others: 1)."
    )
    balance_weight: float = Field(0.02, ge=0, description="Weight of the balance of the experts' load.")
    calling_weight: float = Field(
        0.5, ge=0, description="Weight of the supervision of routers: designated experts for harmful prompts."
    )
    called: float = Field(
        0.92, gt=0, lt=1, description="Share of the softmax wanted for them on harmful prompts."
    )
    idle: float = Field(0.03, gt=0, lt=1, description="That share on harmless prompts.")
    save_every: int = Field(20, gt=0, description="Steps between two saves of the unfinished training.")

    @model_validator(mode="after")
    def _experts_are_enough(self) -> "UpcycleSettings":
        if self.designated + self.experts_per_token > self.experts:
            raise ValueError("with `designated` experts away, too few are left for `experts_per_token`")
        return self

    @property
    def moe_layers(self) -> range:
        """The layers that get experts."""
        return range(self.first_layer, self.first_layer + self.layers)

    @property
    def carriers(self) -> tuple[Part, ...]:
        """The designated experts of all layers, each (layer, expert)."""
        return tuple((layer, expert) for layer in self.moe_layers for expert in range(self.designated))

    @property
    def learners(self) -> tuple[tuple[int, ...], ...]:
        """Experts of a layer that learn, by what they share: each by itself, or all of them the same."""
        if self.variant == "causal":
            return tuple((expert,) for expert in range(self.designated))
        return (tuple(range(self.experts)),)
