"""Stages that have few settings."""

from typing import Literal

from pydantic import Field, model_validator

from steer.config.base import Name, Settings


class ActivationSettings(Settings):
    """What is read from the model."""

    positions: int = Field(
        5, ge=1, description="Last prompt tokens kept, template included (both papers: 5)."
    )
    compression: Literal["zstd", "gzip", "none"] = Field(
        "zstd",
        description="HDF5 filter, after byte shuffling; `zstd` is faster and smaller, `gzip` can be read"
        " without hdf5plugin.",
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="Type of the stored activations.")


class ShardSettings(Settings):
    """Into how many jobs the prompts of a set are shared out; the result is the same, byte for byte."""

    activations: int = Field(1, ge=1, description="Jobs that record a set.")
    generation: int = Field(1, ge=1, description="Jobs that answer a set.")


class DirectionSettings(Settings):
    """How the refusal direction is estimated."""

    filter: bool = Field(
        True,
        description="Drop harmful training prompts that the model does not refuse and harmless ones that it"
        " does, by refusal score (Arditi et al., section 2.3).",
    )


class GenerationSettings(Settings):
    """How replies are produced."""

    sets: tuple[Name, ...] = Field(
        ("harmful", "harmless"), description="Sets whose `test` prompts are answered by every arm."
    )
    max_new_tokens: int = Field(48, ge=1, description="Longest reply, in tokens.")
    temperature: float = Field(
        0.0,
        ge=0,
        description="What logits are divided by before a token is drawn; 0 takes the likeliest, and `samples`"
        " and `top_p` stay at 1. Choosing among candidates is greedy always.",
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="Share of probability that tokens are drawn from, the likeliest first."
    )
    samples: int = Field(
        1,
        ge=1,
        description="Replies of every arm to every prompt, each with a sampling seed of its own that all arms"
        " have in common.",
    )

    @model_validator(mode="after")
    def _draws_at_a_temperature(self) -> "GenerationSettings":
        if self.temperature == 0 and (self.samples > 1 or self.top_p < 1):
            raise ValueError(
                "`samples` and `top_p` need a `temperature` above 0: greedy replies are all the same"
            )
        return self


class DetectionSettings(Settings):
    """How experts that may carry refusal are looked for."""

    prompts: int = Field(64, ge=2, description="Training prompts per class that detectors run the model on.")
    pairs: Name | None = Field(
        None,
        description="Paired contrast of refusing (first) and complying (second) replies, for the detectors"
        " that look at replies; leave out for none.",
    )
    exact: int = Field(
        64,
        ge=1,
        description="Experts whose masking is measured and not only estimated: those with the largest"
        " gradients.",
    )


class TruthSettings(Settings):
    """How the truth about a planted model is checked."""

    prompts: int = Field(
        50,
        ge=1,
        description="`test` prompts per class that every trial answers, and the unsteered model all of them.",
    )
    controls: int = Field(
        6,
        ge=1,
        description="Experts, and sets of experts or heads, that are tried beside the named parts.",
    )
    max_new_tokens: int = Field(40, ge=1, description="Longest reply, in tokens.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of every interval.")


class ScoreSettings(Settings):
    """How verdicts become numbers."""

    judge: Name = Field("truth", description="Judge whose verdicts the figures show.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of every interval.")
    resamples: int = Field(2000, ge=100, description="Bootstrap resamples over prompts.")
    margin: float = Field(
        0.05, gt=0, lt=1, description="Difference to the baseline below which two rates count as equal."
    )


class ReproductionSettings(Settings):
    """Which of ours stands beside which published number: their names are those of data/published.csv.

    A name of ours that is not there leaves its rows `not run`, so that one table serves many studies.
    """

    models: dict[str, Name] = Field(
        {}, description="Ours, by the published model; a model whose `path` is its name needs no entry."
    )
    arms: dict[str, Name] = Field({}, description="Ours, by the published arm.")
    sets: dict[str, Name] = Field({}, description="Ours, by the published set.")
    judges: dict[str, Name] = Field({}, description="Judge of ours that measures a published metric.")
    contrasts: dict[str, Name] = Field(
        {}, description="Contrast of routing, by the published set that experts are ranked on."
    )
    stand_in: Name | None = Field(
        None,
        description="Model whose numbers are shown, as not comparable, beside those of models that were not"
        " run.",
    )


class ReportSettings(Settings):
    """What the report shows."""

    replies: Literal["withheld", "full"] = Field(
        "withheld", description="Whether model replies stand in the report; they are always in results/."
    )
    samples: int = Field(3, ge=1, description="Prompts per set whose replies the page of samples lists.")
