"""Prompt sets, and how public ones are fetched."""

from typing import Literal

from pydantic import Field, model_validator

from steer.config.base import Name, Settings, Split


class SetSettings(Settings):
    """A prompt set."""

    source: str = Field(description="`grammar`, a JSONL file, or the name of a row of data/sources.tsv.")
    label: Literal["harmful", "harmless"] = Field(description="What every prompt of the set is.")
    target: Literal["refusal", "compliance", "reply", "prompt"] | None = Field(
        None,
        description="Makes a paired set, whose tokens are counted on a target: a `refusal` or a `compliance`"
        " behind each prompt, of the grammar or of a source with replies; or `target` of each line of a file,"
        " which is a `reply` or a part of the `prompt`.",
    )
    refusals: str = Field(
        "data/prompts/refusals.txt",
        description="Refusals of pairs from a source: a text file with a sentence a line, or a model's own"
        " out of `results/<model>/generation/<set>.jsonl` (prompts that it does not refuse make no pair).",
    )
    document: Literal["with", "without"] | None = Field(
        None,
        description="Makes a paired set of questions `with` or `without` their document, counted on the"
        " question; for a source with documents, and `target: prompt`.",
    )
    instruction: str = Field(
        "",
        description="Behind each question of such a set: what to say where its document has no answer.",
    )
    equal_tokens: Name | None = Field(
        None,
        description="Set of the other side of its pairs: of each target only as many of its first tokens are"
        " counted as the shorter of the two replies has. Both sides must say so.",
    )
    attack: Name | None = Field(
        None,
        description="Attack that its prompts are put under: the name of a row of data/sources.tsv that is no"
        " set of prompts.",
    )
    arms: tuple[Name, ...] = Field(
        (), description="Arms that answer it, `baseline` among them; every arm when empty."
    )
    train: int = Field(0, ge=0, description="Prompts for estimating directions.")
    val: int = Field(0, ge=0, description="Prompts for choosing layer, position, strength and scope.")
    test: int = Field(0, ge=0, description="Prompts for reporting; they never choose anything.")

    @property
    def sizes(self) -> dict[Split, int]:
        """Prompts of each split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def is_given(self) -> bool:
        """Whether it comes from a file, and not from the grammar."""
        return self.source != "grammar"

    @model_validator(mode="after")
    def _target_is_of_the_source(self) -> "SetSettings":
        if self.arms and "baseline" not in self.arms:
            raise ValueError("`arms` need `baseline`, which the others are compared with")
        if self.target in ("reply", "prompt") and not self.is_given:
            cause = f"`target: {self.target}` is not for source `{self.source}`"
            raise ValueError(f"{cause}; use refusal or compliance")
        if self.equal_tokens and self.target in (None, "prompt"):
            raise ValueError("`equal_tokens` is for sets that are counted on replies")
        if self.instruction and not self.document:
            raise ValueError("`instruction` is for sets with a `document`")
        if self.document and (not self.is_given or self.target != "prompt"):
            raise ValueError("`document` is for a source with documents, and needs `target: prompt`")
        return self

    @property
    def refused_by(self) -> str | None:
        """The file of refusals that pairs are made with."""
        return self.refusals if self.is_given and self.target in ("refusal", "compliance") else None


class GrammarSettings(Settings):
    """What all sets of `source: grammar` share."""

    held_out: int = Field(
        0,
        ge=0,
        description="Categories of harm that only `test` has, drawn by the seed and the same for every set:"
        " nothing that is estimated, detected or chosen has seen them. Embedded models are trained on all.",
    )


class ContrastSettings(Settings):
    """The two sets whose difference of means is the refusal direction."""

    harmful: Name = Field("harmful", description="Set of prompts that should be refused.")
    harmless: Name = Field("harmless", description="Set of prompts that should be answered.")


class OverlapSettings(Settings):
    """Which prompts say the same: of given sets, they are not in train or val where a set has one in test."""

    ngram: int = Field(5, ge=2, description="Characters of the pieces that two prompts are compared by.")
    threshold: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of their pieces that two prompts must have in common; 1 for equal texts alone.",
    )


class DownloadSettings(Settings):
    """How public prompt sets are fetched."""

    timeout: float = Field(30.0, gt=0, description="Longest silence of a server, in seconds.")
    attempts: int = Field(4, ge=1, description="Tries of a download that can be helped by trying again.")
    wait: float = Field(2.0, ge=0, description="Wait before the second try, in seconds; doubled each time.")
