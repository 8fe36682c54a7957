"""Settings of each kind of judge."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from steer.catalogue import Device, HubModel, Revision, hub_id
from steer.judges.behaviours import BehaviourName
from steer.judges.presets import Preset, presets

_RUBRIC = (
    "What a model is asked: for a verdict, for a grade of fluency from 1 to 5, or for the three grades of "
    "StrongREJECT, whose score stands in `score` of `scores.csv`. The embedded judge has its own."
)


class _Judge(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PhrasesJudge(_Judge):
    """Phrase matching: fast, and fooled by broken text; kept beside better judges for comparison."""

    kind: Literal["phrases"]
    match: Literal["at_start", "anywhere"] = Field(
        "anywhere", description="Where a phrase makes a refusal; the matches at both are kept either way."
    )


class RefusalsJudge(_Judge):
    """Strict matching of English refusals: a formula opens the reply, and it declines to help."""

    kind: Literal["refusals"]


class GrammarJudge(_Judge):
    """The exact truth for an organism, by parsing its grammar."""

    kind: Literal["grammar"]


class ExactJudge(_Judge):
    """Exact match of a reply with the answer of the document and with the one known without it."""

    kind: Literal["exact"]
    match: Literal["exact", "contains"] = Field(
        "exact",
        description="Whether the whole reply is to be the answer, both normalised as for SQuAD, or is to hold"
        " it, as long replies of real models do.",
    )


class LikelihoodJudge(_Judge):
    """A causal language model that chooses among offered verdicts by likelihood."""

    kind: Literal["likelihood"]
    path: str | None = Field(
        None,
        description="Folder of a checkpoint, or the name of a model on the hub; leave out to train the"
        " embedded judge.",
    )
    revision: Revision | None = Field(
        None, description="Commit, tag or branch of a model on the hub; see `lock`."
    )
    preset: str | None = Field(
        None,
        description="A published judge, asked as its authors ask it: a row of data/judges.yaml. `path` may"
        " then name a folder of its checkpoint.",
    )
    rubric: Literal["three_way", "fluency", "strongreject", "embedded"] = Field(
        "three_way", description=_RUBRIC
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type that the weights are loaded in."
    )
    device: Device = Field("cpu", description="Device that the judge is loaded on.")
    batch_size: int = Field(32, ge=1, description="Replies per forward pass.")
    max_tokens: int = Field(
        2048, ge=16, description="Longest question to the judge, in tokens; beyond it a reply is unscored."
    )
    seed: int = Field(0, ge=0, description="Seed of the embedded judge's training.")
    steps: int = Field(850, ge=1, description="Training steps of the embedded judge.")

    @model_validator(mode="after")
    def _preset_is_known(self) -> "LikelihoodJudge":
        if self.preset is None:
            return self
        if self.preset not in presets():
            raise ValueError(f"unknown preset `{self.preset}`; known: {', '.join(presets())}")
        if "rubric" in self.model_fields_set:
            raise ValueError("a `preset` has a question of its own: leave out `rubric`")
        return self

    @model_validator(mode="after")
    def _embedded_has_its_own_question(self) -> "LikelihoodJudge":
        if self.trained and self.rubric in ("fluency", "strongreject"):
            needs = f"`rubric: {self.rubric}` needs the `path` of a model"
            raise ValueError(f"{needs}: the embedded judge has a question of its own")
        return self

    @property
    def published(self) -> Preset | None:
        """The row of the published judge that it is."""
        return presets()[self.preset] if self.preset else None

    @property
    def trained(self) -> bool:
        """Whether the flow trains it: the embedded judge."""
        return self.path is None and self.preset is None

    @property
    def hub(self) -> HubModel | None:
        """The model on the hub that is to be fetched; None for a folder or the embedded judge."""
        if self.published and self.path is None:
            return HubModel(self.published.model, self.revision or self.published.revision)
        name = hub_id(self.path)
        return HubModel(name, self.revision) if name else None


class ServerJudge(_Judge):
    """A model behind any OpenAI-compatible server; what it answers is kept and never asked for twice."""

    kind: Literal["server"]
    base_url: str = Field(pattern=r"^https?://", description="Address of the server, up to and with `/v1`.")
    model: str = Field(min_length=1, description="The server's name of the model.")
    key: str | None = Field(
        None,
        pattern=r"^[A-Z_][A-Z0-9_]*$",
        description="Environment variable that holds the key, never the key itself; leave out for a server "
        "without keys.",
    )
    rubric: Literal["three_way", "fluency", "strongreject"] = Field("three_way", description=_RUBRIC)
    structured: bool = Field(
        True, description="Ask for JSON by a schema; off for a server that knows no schemas."
    )
    max_new_tokens: int | None = Field(
        1024, ge=1, description="Longest answer, reasoning included, in tokens; null: as the server likes."
    )
    temperature: float | None = Field(0, ge=0, description="Of the answer; null: as the server likes.")
    extra: dict[str, JsonValue] = Field(
        {}, description="Further fields of each request, such as `reasoning_effort`."
    )
    max_characters: int = Field(
        40_000, ge=100, description="Longest prompt and reply together; beyond it a reply is unscored."
    )
    concurrency: int = Field(8, ge=1, description="Questions at once.")
    attempts: int = Field(6, ge=1, description="Times that a question is asked until it is answered.")
    timeout: float = Field(60, gt=0, description="Seconds to wait for an answer.")
    give_up: int = Field(25, ge=1, description="Questions in a row without a verdict that end the run.")
    price_in: float | None = Field(None, ge=0, description="US dollars per million tokens read.")
    price_out: float | None = Field(None, ge=0, description="US dollars per million tokens written.")


JudgeSettings = Annotated[
    PhrasesJudge | RefusalsJudge | GrammarJudge | ExactJudge | LikelihoodJudge | ServerJudge,
    Field(discriminator="kind"),
]


def behaviour_of(settings: JudgeSettings) -> BehaviourName:
    """What a judge's verdicts tell."""
    return "faithfulness" if isinstance(settings, ExactJudge) else "refusal"


def is_grading(settings: JudgeSettings) -> bool:
    """Whether a judge grades fluency, where the others give verdicts."""
    return isinstance(settings, LikelihoodJudge | ServerJudge) and settings.rubric == "fluency"
