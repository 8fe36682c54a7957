"""Contrasts of routing, and how they are judged."""

from pydantic import Field

from steer.config.base import Name, Settings, Share


class RoutingContrast(Settings):
    """Two sets whose routing is compared."""

    first: Name = Field(description="Set of side 1; a positive risk difference means more of its tokens.")
    second: Name = Field(description="Set of side 2.")
    paired: bool = Field(
        False, description="Whether each prompt of one set belongs to one of the other (by `pair`)."
    )


class RoutingSettings(Settings):
    """How contrasts of routing are judged."""

    resamples: int = Field(2000, ge=100, description="Resamples of prompts, and relabellings for p-values.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of every interval.")
    top: int = Field(
        5,
        ge=1,
        description="Stability of an expert is the share of resamples in which it is among so many"
        " of the largest risk differences.",
    )
    q_value: Share = Field(0.05, description="Largest q-value of an expert that a contrast tells apart.")
    stability: Share = Field(0.9, description="Smallest stability of an expert that a contrast tells apart.")
