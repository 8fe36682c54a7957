"""Replies whose truth is known, and what they are used for."""

from typing import Annotated

from pydantic import Field

from steer.config.base import Name, Settings


class LabelledSettings(Settings):
    """Replies whose truth is known."""

    source: str = Field(
        min_length=1,
        description="`grammar`: drawn from the embedded grammar, which knows the truth; else a .jsonl or "
        ".csv with `prompt`, `reply` and `verdict`.",
    )
    count: int = Field(400, ge=1, description="Replies drawn from the grammar.")


class AgreementSettings(Settings):
    """How judges are held against labelled replies."""

    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (25, 100, 512),
        description="Words and marks, about as many as tokens, that replies are also cut to.",
    )
    own: int = Field(
        150,
        ge=0,
        description="Replies of each model that judges are given whole and cut; 0 for none.",
    )
    own_lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (25, 100, 512), min_length=1, description="Words and marks that these are cut to."
    )
    correct_by: Name | None = Field(
        None,
        description="Labelled set whose measured errors the rates are corrected by; leave out for none. Its "
        "replies must be like those of the models.",
    )
