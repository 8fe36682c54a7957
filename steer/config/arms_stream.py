"""Arms on the residual stream and on what is written to it, and arms taken apart."""

from typing import Literal

from pydantic import Field, model_validator

from steer.config.arm_base import AimedArm, AnyArm, DirectedArm, Index, Place
from steer.config.base import Name, Split


class BaselineArm(AnyArm):
    """The unsteered model."""

    operation: Literal["none"] = Field(description="What is done (README, interventions).")


class ResidualArm(DirectedArm):
    """An edit of the residual stream along the refusal direction."""

    operation: Literal["ablate", "add", "affine"] = Field(description="What is done (README, interventions).")
    direction: Literal["refusal", "random"] = Field(
        "refusal", description="The estimated direction, or a random one of equal norm as a control."
    )
    selection: Literal["arditi", "cosmic"] = Field(
        "arditi", description="Method that chose layer and position."
    )
    rank: int = Field(
        1,
        ge=1,
        description="Directions removed together by `ablate`: the best of the selection, orthonormalised.",
    )
    tuned: bool = Field(
        True, description="Let judged generation choose among the best candidates, coefficients and scopes."
    )

    @property
    def dosed(self) -> bool:  # noqa: D102 - as its class says
        return self.tuned and self.like is None

    @model_validator(mode="after")
    def _says_what_it_does(self) -> "ResidualArm":
        if self.operation != "ablate" and self.rank > 1:
            raise ValueError(f"`rank` is for `ablate`, not for `{self.operation}`")
        if self.operation == "ablate" and self.polarity == "induce":
            raise ValueError("`ablate` can only suppress refusal; use `add` or `affine` to induce it")
        return self


class SwapArm(AimedArm):
    """What flows past a place replaced by what a paired prompt has there."""

    operation: Literal["swap"] = Field(description="What is done (README, interventions).")
    donor: Name = Field(description="Set whose prompts give what `swap` puts in place.")
    split: Split = Field("test", description="Split of that set whose prompts do.")
    pairing: Literal["order", "topic"] = Field(
        "order",
        description="Which of them is a prompt's pair: the one of the same number (over again from the"
        " first), or the one whose wording is nearest, by the pieces of `overlap`.",
    )
    component: Literal["residual", "attention", "mlp"] = Field(
        "residual",
        description="What is replaced: the residual stream entering a layer, or what the layer's attention"
        " or its MLP or MoE block writes.",
    )
    layers: tuple[Index, ...] | None = Field(
        None, min_length=1, description="Layers where; the one that `selection` chose when left out."
    )
    positions: tuple[Place, ...] | None = Field(
        None, min_length=1, description="Prompt tokens, from the end; all recorded ones when left out."
    )
    selection: Literal["arditi", "cosmic"] = Field("arditi", description="Method that chose the layer.")
    strength: float = Field(1.0, gt=0, le=1, description="Share that is replaced.")

    @model_validator(mode="after")
    def _names_each_once(self) -> "SwapArm":
        for key in ("layers", "positions"):
            named = getattr(self, key) or ()
            if len({*named}) < len(named):
                raise ValueError(f"`{key}` names one twice")
        return self


class ReplayArm(AimedArm):
    """One half of another arm's effect: its edits with routing held, or the routing that it brings about."""

    operation: Literal["replay_routing"] = Field(description="What is done (README, interventions).")
    of: Name = Field(description="Arm whose effect is taken apart.")
    part: Literal["edits", "routing"] = Field(
        description="`edits`: what that arm does, with every token routed as in the unsteered model;"
        " `routing`: every token routed as under that arm, and nothing else done."
    )
