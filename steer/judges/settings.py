"""Settings of each kind of judge."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Judge(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PhrasesJudge(_Judge):
    """Phrase matching: fast, and fooled by broken text; kept beside better judges for comparison."""

    kind: Literal["phrases"]


class GrammarJudge(_Judge):
    """The exact truth for an organism, by parsing its grammar."""

    kind: Literal["grammar"]


class LikelihoodJudge(_Judge):
    """A causal language model that chooses among offered verdicts by likelihood."""

    kind: Literal["likelihood"]
    path: str | None = Field(None, description="Folder of a checkpoint; leave out to train the embedded judge.")
    batch_size: int = Field(32, ge=1, description="Replies per forward pass.")
    seed: int = Field(0, ge=0, description="Seed of the embedded judge's training.")
    steps: int = Field(700, ge=1, description="Training steps of the embedded judge.")
