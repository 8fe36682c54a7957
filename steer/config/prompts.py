"""Prompt sets, and how public ones are fetched."""

from typing import Literal

from pydantic import Field, model_validator

from steer.config.base import Name, Settings


class SetSettings(Settings):
    """A prompt set."""

    source: str = Field(description="`grammar`, a JSONL file, or the name of a row of data/sources.tsv.")
    label: Literal["harmful", "harmless"] = Field(description="What every prompt of the set is.")
    target: Literal["refusal", "compliance", "reply", "prompt"] | None = Field(
        None,
        description="Makes a paired set, whose tokens are counted on a target: the grammar's `refusal` or"
        " `compliance` behind each prompt, or `target` of each line of a file, which is a `reply` or a part"
        " of the `prompt`.",
    )
    train: int = Field(0, ge=0, description="Prompts for estimating directions.")
    val: int = Field(0, ge=0, description="Prompts for choosing layer, position, strength and scope.")
    test: int = Field(0, ge=0, description="Prompts for reporting; they never choose anything.")

    @model_validator(mode="after")
    def _target_is_of_the_source(self) -> "SetSettings":
        own = ("refusal", "compliance") if self.source == "grammar" else ("reply", "prompt")
        if self.target is not None and self.target not in own:
            cause = f"`target: {self.target}` is not for source `{self.source}`"
            raise ValueError(f"{cause}; use {' or '.join(own)}")
        return self


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


class DownloadSettings(Settings):
    """How public prompt sets are fetched."""

    timeout: float = Field(30.0, gt=0, description="Longest silence of a server, in seconds.")
    attempts: int = Field(4, ge=1, description="Tries of a download that can be helped by trying again.")
    wait: float = Field(2.0, ge=0, description="Wait before the second try, in seconds; doubled each time.")
