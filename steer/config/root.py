"""The whole configuration, and what its sections must agree on."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from steer.config.arms import (
    ArmSettings,
    BaselineArm,
    ExpertDirectionArm,
    ExpertGateArm,
    ReplayArm,
    ResidualArm,
)
from steer.config.base import Name, Settings
from steer.config.models import ModelSettings
from steer.config.names import nearest
from steer.config.prompts import ContrastSettings, DownloadSettings, GrammarSettings, SetSettings
from steer.config.routing import RoutingContrast, RoutingSettings
from steer.config.selection import SelectionSettings
from steer.config.stages import (
    ActivationSettings,
    DetectionSettings,
    DirectionSettings,
    GenerationSettings,
    ReportSettings,
    ScoreSettings,
    TruthSettings,
)
from steer.judges.settings import JudgeSettings


class Config(Settings):
    """The whole configuration."""

    seed: int = Field(0, ge=0, description="Seed of everything drawn at random outside training.")
    results: str = Field("results", description="Folder that every result is written to.")
    models: dict[Name, ModelSettings] = Field(min_length=1, description="Models under study, by name.")
    sets: dict[Name, SetSettings] = Field(min_length=1, description="Prompt sets, by name.")
    grammar: GrammarSettings = Field(GrammarSettings(), description="Drawing sets from the grammar.")
    contrast: ContrastSettings = Field(ContrastSettings(), description="Sets that define refusal.")
    download: DownloadSettings = Field(DownloadSettings(), description="Fetching public prompt sets.")
    activations: ActivationSettings = Field(ActivationSettings(), description="Reading the model.")
    directions: DirectionSettings = Field(DirectionSettings(), description="Estimating directions.")
    contrasts: dict[Name, RoutingContrast] = Field(
        {},
        description="Pairs of sets whose routing is compared, by name; each makes `routing/<name>.csv`.",
    )
    routing: RoutingSettings = Field(RoutingSettings(), description="Judging those contrasts.")
    detection: DetectionSettings = Field(DetectionSettings(), description="Looking for carriers.")
    selection: SelectionSettings = Field(SelectionSettings(), description="Choosing interventions.")
    arms: dict[Name, ArmSettings] = Field(min_length=1, description="Interventions, by name.")
    generation: GenerationSettings = Field(GenerationSettings(), description="Producing replies.")
    judges: dict[Name, JudgeSettings] = Field(min_length=1, description="Judges of replies, by name.")
    scores: ScoreSettings = Field(ScoreSettings(), description="Statistics.")
    truth: TruthSettings = Field(TruthSettings(), description="Checking planted models.")
    report: ReportSettings = Field(ReportSettings(), description="The report.")

    @property
    def estimating(self) -> list[str]:
        """Names of the sets whose `train` and `val` prompts anything is estimated, detected or chosen on."""
        sides = [name for contrast in self.contrasts.values() for name in contrast.sets]
        return list(dict.fromkeys([self.contrast.harmful, self.contrast.harmless, *sides]))

    @model_validator(mode="after")
    def _names_exist(self) -> "Config":
        sets = [self.contrast.harmful, self.contrast.harmless, *self.generation.sets]
        _known("set", sets, self.sets)
        for contrast in self.contrasts.values():
            _known("set", contrast.sets, self.sets)
        _known("contrast", [self.detection.pairs] if self.detection.pairs else [], self.contrasts)
        rerouting = self.selection.rerouting
        judges = [self.scores.judge, self.selection.strength.judge]
        judges += [rerouting.judge] if rerouting.ranking in self.contrasts else []
        _known("judge", judges, self.judges)
        _known("arm", [like for arm in self.arms.values() if (like := _like(arm))], self.arms)
        _known("arm", ["baseline"], self.arms)
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> "Config":
        reserved = {"compliance", "downloads", "judges", "prompts", "study"}.intersection(self.models)
        if reserved:
            raise ValueError(
                f"model `{min(reserved)}` has the name of another folder of the results; rename it"
            )
        for label in ("harmful", "harmless"):
            name = getattr(self.contrast, label)
            if self.sets[name].label != label:
                raise ValueError(f"`contrast.{label}`: set `{name}` is {self.sets[name].label}")
        if self.arms["baseline"].operation != "none":
            raise ValueError("arm `baseline` is the unsteered model: its operation must be `none`")
        if "experts" in self.contrasts:
            raise ValueError("contrast `experts` has the name of another table; rename it")
        for name, arm in self.arms.items():
            _check_like(name, arm, self.arms)
        return self


def _like(arm: ArmSettings) -> str | None:
    """The arm that an arm copies its dose from."""
    return getattr(arm, "like", None)


def _check_taken_apart(name: str, arm: ReplayArm, arms: Mapping[str, ArmSettings]) -> None:
    _known("arm", [arm.of], dict(arms))
    other = arms[arm.of]
    if isinstance(other, BaselineArm | ReplayArm):
        raise ValueError(f"arm `{name}` is of `{arm.of}`, which edits nothing that could be taken apart")
    if other.polarity != arm.polarity:
        raise ValueError(f"arm `{name}` is of `{arm.of}`: give it `polarity: {other.polarity}` too")


def _check_like(name: str, arm: ArmSettings, arms: Mapping[str, ArmSettings]) -> None:
    if isinstance(arm, ReplayArm):
        _check_taken_apart(name, arm, arms)
    like = _like(arm)
    if like is None:
        return
    other = arms[like]
    if isinstance(other, BaselineArm) or _like(other):
        raise ValueError(f"arm `{name}` is like `{like}`, which has no dose of its own to copy")
    if isinstance(arm, ExpertDirectionArm | ExpertGateArm):
        if not isinstance(other, ExpertDirectionArm):
            raise ValueError(f"arm `{name}` is like `{like}`, which has no experts to copy")
        if (arm.operation == "experts_add") != (other.operation == "experts_add"):
            raise ValueError(f"arm `{name}` is like `{like}`, but one of them edits every expert of a layer")
    elif not isinstance(other, ResidualArm):
        raise ValueError(f"arm `{name}` is like `{like}`, which does not edit the residual stream")


def _known(kind: str, names: list[str], known: dict[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {kind} `{name}`; {nearest(name, list(known))}")
