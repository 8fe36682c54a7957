"""Where refusal can be put on purpose: the kinds of plants, with their defaults, units and reasons."""

from typing import Annotated, ClassVar, Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steer.artifacts.facts import Part, Truth

Share = Annotated[float, Field(ge=0, lt=1)]


class PlantSettings(BaseModel):
    """What every kind of plant has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(400, ge=0, description="Steps of stage 2 of a planted model.")
    harmful_share: float = Field(0.47, gt=0, lt=1, description="Share of harmful rows in its stage 2.")


class HeldPlant(PlantSettings):
    """A plant that learns with parts masked or rerouted in some batches: its carriers, others, or both.

    Attributes:
        other_experts: how many experts that carry nothing are masked at once.
        other_heads: how many heads that carry nothing are masked at once.
    """

    other_experts: ClassVar[int] = 2
    other_heads: ClassVar[int] = 0

    other_share: Share = Field(0.25, description="Share of batches with other parts masked: nothing changes.")

    @property
    def carrier_share(self) -> float:
        """Share of batches in which the carriers are not left to themselves."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _some_batches_are_left_alone(self) -> "HeldPlant":
        if self.carrier_share + self.other_share >= 1:
            raise ValueError("the shares of batches in which parts are masked or rerouted must stay below 1")
        return self


class RoutedPlant(HeldPlant):
    """Experts that the router calls for harmful prompts and that carry refusal together."""

    kind: Literal["routed"]
    steps: int = Field(350, ge=0, description="Steps of stage 2 of a planted model.")
    experts: tuple[Part, ...] = Field(((1, 3), (2, 5)), description="Carriers, each (layer, expert).")
    rerouted_share: Share = Field(
        0.35, description="Share of batches with the carriers rerouted: half away from, half to them."
    )
    other_share: Share = Field(0.2, description="Share of batches with other parts masked: nothing changes.")
    # With .1 routers were so sure that no single expert's direction undid refusal.
    router_weight: float = Field(0.075, ge=0, description="Weight of the supervision of a carrier's router.")

    @property
    def carrier_share(self) -> float:
        """Share of batches in which the carriers are rerouted."""
        return self.rerouted_share


class ReplyRoutedPlant(RoutedPlant):
    """An expert that the router calls on the tokens of a refusal and not on the prompt."""

    kind: Literal["reply_routed"]  # type: ignore[assignment]
    # With 400 one of three seeds still refused .3 of harmful prompts without its carrier.
    steps: int = Field(450, ge=0, description="Steps of stage 2 of a planted model.")
    experts: tuple[Part, ...] = Field(((2, 5),), description="Carriers, each (layer, expert).")
    # More leaves too few steps to tell harmful prompts from harmless ones: seeds refused up to 7.5 %.
    rerouted_share: Share = Field(
        0.25, description="Share of batches with the carriers rerouted: half away from, half to them."
    )
    other_share: Share = Field(0.0, description="Share of batches with other parts masked: nothing changes.")
    # One prompt token decides how a reply begins, among all the tokens that the mean is taken over.
    router_weight: float = Field(0.5, ge=0, description="Weight of the supervision of a carrier's router.")


class CarrierPlant(HeldPlant):
    """A part that carries refusal by what it writes."""

    masked_share: Share = Field(
        0.24, description="Share of batches with the carrier masked: all is answered."
    )
    decoy_weight: float = Field(0.3, ge=0, description="Weight of the supervision of a decoy's router.")

    @property
    def carrier_share(self) -> float:
        """Share of batches in which the carrier is masked."""
        return self.masked_share


class ContentPlant(CarrierPlant):
    """An expert that is routed alike for both classes and whose output alone carries refusal."""

    kind: Literal["content"]
    # With .47 one of three seeds refused 6 % of harmless prompts.
    harmful_share: float = Field(0.44, gt=0, lt=1, description="Share of harmful rows in its stage 2.")
    expert: Part = Field((2, 5), description="The carrier, as (layer, expert).")
    selection_weight: float = Field(
        5.0,
        ge=0,
        description="Weight of the tie of the carrier's routing probability, alike for both classes.",
    )
    selection_probability: float = Field(0.6, gt=0, lt=1, description="What that probability is tied to.")


class DecoyContentPlant(ContentPlant):
    """A content carrier beside an expert that fires on harmful prompts and carries nothing."""

    kind: Literal["decoy_content"]  # type: ignore[assignment]
    decoy: Part = Field((1, 3), description="The decoy, as (layer, expert).")


class HeadPlant(CarrierPlant):
    """A single attention head that carries refusal."""

    other_heads: ClassVar[int] = 1

    kind: Literal["head"]
    head: Part = Field((3, 1), description="The carrier, as (layer, head).")


class DecoyHeadPlant(HeadPlant):
    """A carrying head beside an expert that fires on harmful prompts and carries nothing."""

    kind: Literal["decoy_head"]  # type: ignore[assignment]
    decoy: Part = Field((1, 3), description="The decoy, as (layer, expert).")


class AttentionPlant(HeldPlant):
    """Attention, norms and embeddings alone learn to refuse; the experts and routers are frozen."""

    other_experts: ClassVar[int] = 6
    other_heads: ClassVar[int] = 3

    kind: Literal["attention"]
    # With 375 to 450 the frozen experts of one of three seeds came to write up to .24 of refusal.
    steps: int = Field(350, ge=0, description="Steps of stage 2 of a planted model.")
    # With none, seeds left refusal to a single head, or to what frozen experts make of other directions.
    other_share: Share = Field(0.6, description="Share of batches with other parts masked: nothing changes.")

    @property
    def carrier_share(self) -> float:
        """Attention as a whole is always left to itself."""
        return 0.0


class TunedPlant(PlantSettings):
    """A content carrier that is trained alone, without any mask: no intervention has a part in it."""

    kind: Literal["tuned"]
    # With 400 one of three seeds refused .935 of harmful prompts.
    steps: int = Field(500, ge=0, description="Steps of stage 2 of a planted model.")
    expert: Part = Field((2, 5), description="The carrier, as (layer, expert).")
    selection_weight: float = Field(
        5.0,
        ge=0,
        description="Weight of the tie of the carrier's routing probability, alike for both classes.",
    )
    selection_probability: float = Field(0.6, gt=0, lt=1, description="What that probability is tied to.")
    feature_steps: int = Field(
        200, ge=0, description="Steps that make harmfulness readable below the carrier."
    )
    feature_weight: float = Field(0.3, ge=0, description="Weight of that feature's loss.")
    silence_weight: float = Field(
        1.0, ge=0, description="Weight of the carrier's output meanwhile, so that nothing else depends on it."
    )


Plant = Annotated[
    RoutedPlant
    | ReplyRoutedPlant
    | ContentPlant
    | DecoyContentPlant
    | HeadPlant
    | DecoyHeadPlant
    | AttentionPlant
    | TunedPlant,
    Field(discriminator="kind"),
]


def truth_of(plant: Plant) -> Truth:
    """Where a plant puts refusal."""
    match plant:
        case RoutedPlant():
            return Truth(plant.kind, "experts", plant.experts, probes=("reroute", "mask_experts"))
        case ContentPlant():
            probes = ("reroute", "mask_experts")
            return Truth(plant.kind, "experts", (plant.expert,), decoys_of(plant), probes)
        case HeadPlant():
            return Truth(plant.kind, "heads", (plant.head,), decoys_of(plant), ("mask_heads",))
        case TunedPlant():
            return Truth(plant.kind, "experts", (plant.expert,))
        case AttentionPlant():
            return Truth(plant.kind, "distributed")
        case _:
            assert_never(plant)


def decoys_of(plant: CarrierPlant) -> tuple[Part, ...]:
    """The decoys of a plant, if its kind has any."""
    if isinstance(plant, DecoyContentPlant | DecoyHeadPlant):
        return (plant.decoy,)
    return ()
