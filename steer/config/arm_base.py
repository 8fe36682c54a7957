"""What arms have in common: polarity, seeds, and a dose that can be copied."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from steer.config.base import Name, Scope, Settings

Polarity = Literal["suppress", "induce"]
Index = Annotated[int, Field(ge=0)]
Expert = Annotated[tuple[Index, ...], Field(min_length=2, max_length=2)]
Place = Annotated[int, Field(le=-1)]

# Experts that are picked at random.
DRAWN = ("matched", "random")
# Experts of a layer, the nearest in how often they are called, that the seeds of `matched` go through.
POOL = 4
_DOSE = ("layer", "position", "coefficient", "scope")


class AnyArm(Settings):
    """What is asked of every arm."""

    @property
    def uses_experts(self) -> bool:
        """Whether it is made out of what was found out about experts."""
        return False

    @property
    def dosed(self) -> bool:
        """Whether judged generation chooses its place, coefficient and scope, which are not copied."""
        return False

    @property
    def selected(self) -> bool:
        """Whether its experts, or its layer, position and coefficient, are to be chosen among all experts."""
        return False

    @property
    def detected(self) -> bool:
        """Whether its experts come from a ranking of how they are routed."""
        return False


class AimedArm(AnyArm):
    """An arm that switches refusal off or on."""

    polarity: Polarity = Field(
        "suppress", description="Whether refusal is to be switched off or on; the sign of a coefficient."
    )


class DrawnArm(AimedArm):
    """An arm that may have something drawn at random."""

    seed: int = Field(
        0,
        ge=0,
        description="Seed of a random direction, or of random experts; which of the nearest is matched.",
    )
    seeds: int = Field(
        1,
        ge=1,
        description="Arms that are made of this one, with `seed` and those that follow it; the further ones"
        " answer one set of each label alone, and all are scored together too (`pooled.csv`).",
    )
    pool: Name | None = Field(
        None, description="Arms that are scored together too: those of one `pool`, which `seeds` sets."
    )

    @property
    def drawn(self) -> bool:
        """Whether anything is drawn at random for it."""
        return getattr(self, "direction", None) == "random" or getattr(self, "experts", None) in DRAWN

    @model_validator(mode="after")
    def _draws_what_has_seeds(self) -> "DrawnArm":
        if self.pool and not self.drawn:
            raise ValueError("`seeds` and `pool` are for arms with random directions or experts")
        return self


class CopyingArm(DrawnArm):
    """An arm that can copy its dose from another one."""

    like: Name | None = Field(
        None,
        description="Arm whose experts or layer, position, coefficient and scope are copied, for controls.",
    )
    scope: Scope | None = Field(None, description="Tokens that are edited, when not selected.")

    @model_validator(mode="after")
    def _copies_or_has_its_own(self) -> "CopyingArm":
        own = [name for name in _DOSE if getattr(self, name, None) is not None]
        if self.like and own:
            raise ValueError(f"`like` copies the dose of another arm; leave out {', '.join(own)}")
        return self


class DirectedArm(CopyingArm):
    """An arm along a direction, at a layer and a position."""

    layer: int | None = Field(None, ge=0, description="Layer, when it is not to be selected.")
    position: int | None = Field(None, le=-1, description="Token position from the end, when not selected.")
    coefficient: float | None = Field(None, ge=0, description="Multiple of the direction, when not selected.")
