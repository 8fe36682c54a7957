"""Arms on the output of experts and on the routers that choose them."""

from typing import Literal, TypeVar

from pydantic import Field, model_validator

from steer.config.arm_base import CopyingArm, DirectedArm, DrawnArm, Expert
from steer.config.base import Name


class ExpertDirectionArm(DirectedArm):
    """An edit along the directions of experts: one, several, or all of a layer."""

    operation: Literal["expert_add", "experts_add", "expert_ablate"] = Field(
        description="What is done (README, interventions)."
    )
    direction: Literal["expert", "random"] = Field(
        "expert", description="The estimated direction, or a random one of equal norm as a control."
    )
    estimator: Literal["forced", "routed"] = Field(
        "forced",
        description="Expert directions over all prompts, or over those that the router sent to the expert.",
    )
    weighting: Literal["routed", "full", "one"] = Field(
        "routed",
        description="What multiplies an expert's direction: its routing weight (0 where not chosen), its"
        " share of the softmax over all experts, or one.",
    )
    experts: tuple[Expert, ...] | Literal["matched", "bottom"] | None = Field(
        None,
        description="`[layer, expert]` pairs, when not selected. For controls, with `like`: as many experts"
        " of the same layers, `matched` on how often the prompts that the effect is told on (harmful ones to"
        " suppress, harmless ones to induce) call them, or the `bottom` of the ranking.",
    )

    @property
    def uses_experts(self) -> bool:  # noqa: D102 - as its class says
        return True

    @property
    def selected(self) -> bool:  # noqa: D102 - as its class says
        return self.like is None and self.experts is None and self.layer is None

    @model_validator(mode="after")
    def _says_what_it_does(self) -> "ExpertDirectionArm":
        one = self.operation != "experts_add"
        if one and self.layer is not None:
            raise ValueError("`layer` is for `experts_add`; name `experts` as [layer, expert] pairs")
        if not one and self.experts is not None:
            raise ValueError("`experts_add` edits every expert of a layer; name a `layer`, not `experts`")
        if self.operation == "expert_ablate" and self.polarity == "induce":
            raise ValueError("`expert_ablate` can only suppress refusal; use `expert_add` to induce it")
        if self.operation == "expert_ablate" and self.selected:
            raise ValueError("`expert_ablate` needs `experts`, or an arm that it is `like`")
        if self.selected and (self.position is not None or self.coefficient is not None):
            raise ValueError("`position` and `coefficient` are selected together with the experts")
        _check_picks(self)
        return self


class ExpertGateArm(CopyingArm):
    """An edit of how much the output of experts counts, or of whether they can be chosen."""

    operation: Literal["scale_experts", "mask_experts"] = Field(
        description="What is done (README, interventions)."
    )
    experts: tuple[Expert, ...] | Literal["matched", "bottom"] | None = Field(
        None, description="`[layer, expert]` pairs; leave out to take those of the arm that it is `like`."
    )
    factor: float = Field(0.0, ge=0, description="What `scale_experts` multiplies routing weights by.")

    @property
    def uses_experts(self) -> bool:  # noqa: D102 - as its class says
        return True

    @model_validator(mode="after")
    def _says_what_it_does(self) -> "ExpertGateArm":
        if self.operation == "mask_experts" and self.factor != 0:
            raise ValueError("`factor` is for `scale_experts`")
        if self.like is None and self.experts is None:
            raise ValueError(f"`{self.operation}` needs `experts`, or an arm that it is `like`")
        _check_picks(self)
        return self


_Own = TypeVar("_Own", bound="RouterArm")


class RouterArm(DrawnArm):
    """A push of experts towards a router's choice, or out of it."""

    experts: Literal["detected", "random", "bottom"] = Field(
        "detected",
        description="Experts that `reroute` and `bias_router` act on: the ends of the ranking, or as controls"
        " random ones that the side that the effect is told on calls as often, or those at its bottom.",
    )
    ranking: Name | None = Field(
        None,
        description="Contrast that ranks the experts; that of `selection.rerouting` when left out. With any"
        " other one the arm says how many it takes: numbers are chosen for that ranking alone.",
    )
    activated: int | None = Field(None, ge=0, description="Experts to activate, when not selected.")
    deactivated: int | None = Field(None, ge=0, description="Experts to deactivate, when not selected.")
    numbers: dict[Name, tuple[int, int]] = Field(
        {},
        description="`[activated, deactivated]` for models by name, where one number does not fit all.",
    )
    activate: tuple[Expert, ...] = Field(
        (), description="`[layer, expert]` pairs to activate, whatever was detected."
    )
    deactivate: tuple[Expert, ...] = Field(
        (), description="`[layer, expert]` pairs to deactivate, whatever was detected."
    )

    def of_model(self: _Own, model: str) -> _Own:
        """The arm as one model has it: with the numbers that are given for that model, if any are."""
        if model not in self.numbers:
            return self
        activated, deactivated = self.numbers[model]
        return self.model_copy(update={"activated": activated, "deactivated": deactivated})

    @property
    def detected(self) -> bool:  # noqa: D102 - as its class says
        return not (self.activate or self.deactivate)

    def counts_for(self, model: str) -> bool:
        """Whether it says for a model how many experts it takes."""
        one = self.of_model(model)
        return one.activated is not None and one.deactivated is not None

    @model_validator(mode="after")
    def _says_what_it_does(self) -> "RouterArm":
        given = (self.activated, self.deactivated) != (None, None) or bool(self.numbers)
        counted = self.experts != "detected" or given or self.ranking is not None
        if counted and not self.detected:
            raise ValueError(
                "`activate` and `deactivate` name the experts; leave out what counts or picks them"
            )
        return self


class RerouteArm(RouterArm):
    """A push of experts to the top or to the bottom of the router's ranking."""

    operation: Literal["reroute"] = Field(description="What is done (README, interventions).")


class BiasArm(RouterArm):
    """A shift of experts' router logits, as far as logits differ on real prompts."""

    operation: Literal["bias_router"] = Field(description="What is done (README, interventions).")
    strength: float = Field(
        1.0,
        gt=0,
        description="Shift of the logits, in units of their range on `train` and `val` prompts in the layer:"
        " from 1 on nothing else decides at tokens within it.",
    )


ExpertArm = ExpertDirectionArm | ExpertGateArm


def _check_picks(arm: ExpertArm) -> None:
    if arm.experts in ("matched", "bottom") and arm.like is None:
        raise ValueError(f"`experts: {arm.experts}` is a control: name the arm that it is `like`")
    if arm.experts == ():
        raise ValueError("`experts` is empty; name [layer, expert] pairs, or leave it out")
