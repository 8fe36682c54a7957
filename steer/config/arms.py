"""Interventions to compare with the unsteered model."""

from typing import Literal

from pydantic import Field, model_validator

from steer.config.base import Name, Scope, Settings


class ArmSettings(Settings):
    """An intervention to compare with the unsteered model."""

    operation: Literal["none", "ablate", "add", "affine", "reroute"] = Field(
        description="What is done to the residual stream or to the routers (README, interventions)."
    )
    polarity: Literal["suppress", "induce"] = Field(
        "suppress", description="Whether refusal is to be switched off or on; the sign of the coefficient."
    )
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
    like: Name | None = Field(
        None, description="Arm whose layer, position, coefficient and scope are copied, for controls."
    )
    layer: int | None = Field(None, ge=0, description="Layer, when it is not to be selected.")
    position: int | None = Field(None, le=-1, description="Token position from the end, when not selected.")
    coefficient: float | None = Field(None, ge=0, description="Multiple of the direction, when not selected.")
    scope: Scope | None = Field(None, description="Tokens that are edited, when not selected.")
    experts: Literal["detected", "random", "bottom"] = Field(
        "detected",
        description="Experts that `reroute` acts on: the ends of the ranking, or as controls random ones"
        " routed as often, or those at its bottom.",
    )
    activated: int | None = Field(None, ge=0, description="Experts to activate, when not selected.")
    deactivated: int | None = Field(None, ge=0, description="Experts to deactivate, when not selected.")
    seed: int = Field(0, ge=0, description="Seed of a random direction, or of random experts.")

    @model_validator(mode="after")
    def _says_what_it_does(self) -> "ArmSettings":
        if self.operation != "ablate" and self.rank > 1:
            raise ValueError(f"`rank` is for `ablate`, not for `{self.operation}`")
        if self.operation == "ablate" and self.polarity == "induce":
            raise ValueError("`ablate` can only suppress refusal; use `add` or `affine` to induce it")
        own = [
            name for name in ("layer", "position", "coefficient", "scope") if getattr(self, name) is not None
        ]
        counted = self.experts != "detected" or (self.activated, self.deactivated) != (None, None)
        if self.operation != "reroute" and counted:
            raise ValueError("`experts`, `activated` and `deactivated` are for `reroute`")
        if self.operation == "reroute" and (self.like or own):
            raise ValueError(f"`reroute` has no {', '.join(own) or 'like'}; its controls are `experts`")
        if self.like and own:
            raise ValueError(f"`like` copies the dose of another arm; leave out {', '.join(own)}")
        return self
