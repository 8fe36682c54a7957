"""Settings of each kind of judge."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Judge(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PhrasesJudge(_Judge):
    """Phrase matching: fast, and fooled by broken text; kept beside better judges for comparison."""

    kind: Literal["phrases"]
    match: Literal["at_start", "anywhere"] = Field(
        "anywhere", description="Where a phrase makes a refusal; the matches at both are kept either way."
    )


class GrammarJudge(_Judge):
    """The exact truth for an organism, by parsing its grammar."""

    kind: Literal["grammar"]


class LikelihoodJudge(_Judge):
    """A causal language model that chooses among offered verdicts by likelihood."""

    kind: Literal["likelihood"]
    path: str | None = Field(
        None, description="Folder of a checkpoint; leave out to train the embedded judge."
    )
    rubric: Literal["three_way", "embedded"] = Field(
        "three_way", description="What a checkpoint is asked; the embedded judge has its own rubric."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type that the weights are loaded in."
    )
    device: str = Field("cpu", description="Device that the judge is loaded on.")
    batch_size: int = Field(32, ge=1, description="Replies per forward pass.")
    max_tokens: int = Field(
        2048, ge=16, description="Longest question to the judge, in tokens; beyond it a reply is unscored."
    )
    seed: int = Field(0, ge=0, description="Seed of the embedded judge's training.")
    steps: int = Field(700, ge=1, description="Training steps of the embedded judge.")


JudgeSettings = Annotated[PhrasesJudge | GrammarJudge | LikelihoodJudge, Field(discriminator="kind")]
