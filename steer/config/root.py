"""The whole configuration, and what its sections must agree on."""

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from steer.config.arms_experts import RouterArm
from steer.config.arms_fit import check_arms, like_of
from steer.config.arms_stream import SwapArm
from steer.config.names import known_names
from steer.config.seeds import expanded
from steer.config.uses import Uses
from steer.judges.settings import behaviour_of


class Config(Uses):
    """The whole configuration."""

    @model_validator(mode="before")
    @classmethod
    def _draws_all_seeds(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("arms"), Mapping):
            return values
        return {**values, "arms": expanded(values["arms"])}

    @model_validator(mode="after")
    def _names_exist(self) -> "Config":
        sets = {f"contrast.{label}": getattr(self.contrast, label) for label in ("harmful", "harmless")}
        sets |= {f"generation.sets.{number}": name for number, name in enumerate(self.generation.sets)}
        for name, contrast in self.contrasts.items():
            sets |= {f"contrasts.{name}.{side}": held for side, held in contrast.sides().items()}
        sets |= {f"sets.{name}.equal_tokens": held.equal_tokens for name, held in self.sets.items()}
        sets |= {
            f"arms.{name}.donor": arm.donor for name, arm in self.arms.items() if isinstance(arm, SwapArm)
        }
        sets |= {f"selection.rerouting, to {use}": name for use, name in self.tried.items()}
        known_names("set", sets, self.sets)
        known_names("contrast", {"detection.pairs": self.detection.pairs}, self.contrasts)
        theirs = {
            f"reproduction.contrasts.{name}": ours for name, ours in self.reproduction.contrasts.items()
        }
        known_names("contrast", theirs, self.contrasts)
        known_names(
            "contrast", {f"arms.{name}.ranking": arm for name, arm in self.ranked.items()}, self.contrasts
        )
        rerouting = self.selection.rerouting
        judges = {
            "scores.judge": self.scores.judge,
            "selection.strength.judge": self.selection.strength.judge,
        }
        if rerouting.ranking in self.contrasts:
            judges["selection.rerouting.judge"] = rerouting.judge
        known_names("judge", judges, self.judges)
        known_names("labelled set", {"agreement.correct_by": self.agreement.correct_by}, self.labelled)
        for key, name in judges.items():
            if name in self.grading_judges:
                raise ValueError(f"`{key}`: judge `{name}` grades fluency and gives no verdicts")
        known_names("arm", {f"arms.{name}.like": like_of(arm) for name, arm in self.arms.items()}, self.arms)
        answered = {
            f"sets.{name}.arms.{at}": arm
            for name, held in self.sets.items()
            for at, arm in enumerate(held.arms)
        }
        answered |= {f"capability.arms.{at}": arm for at, arm in enumerate(self.capability.arms)}
        known_names("arm", answered, self.arms)
        if "baseline" not in self.arms:
            raise ValueError("`arms`: missing `baseline: {operation: none}`, which arms are compared with")
        for name, model in self.models.items():
            if model.upcycle:
                taught = enumerate((*model.upcycle.refused, *model.upcycle.answered))
                known_names("set", {f"models.{name}.upcycle, set {at}": one for at, one in taught}, self.sets)
        return self

    @model_validator(mode="after")
    def _ranking_is_there(self) -> "Config":
        if any(arm.detected for arm in self.arms.values()):
            ranking = {"selection.rerouting.ranking": self.selection.rerouting.ranking}
            known_names("contrast", ranking, self.contrasts)
        return self

    @model_validator(mode="after")
    def _samples_where_it_can(self) -> "Config":
        engines = [name for name, model in self.models.items() if model.engine == "vllm"]
        if self.generation.temperature > 0 and engines:
            cause = (
                f"model `{engines[0]}` has `engine: vllm`, which would draw other tokens than transformers"
            )
            raise ValueError(
                f"`generation.temperature`: {cause}; set `engine: transformers`, or temperature 0"
            )
        return self

    @model_validator(mode="after")
    def _rankings_are_counted(self) -> "Config":
        for name, ranking in self.ranked.items():
            arm = self.arms[name]
            assert isinstance(arm, RouterArm)
            for model, settings in self.models.items():
                if settings.has_experts and not arm.counts_for(model):
                    cause = (
                        f"numbers are chosen for `{self.selection.rerouting.ranking}`, not for `{ranking}`"
                    )
                    raise ValueError(
                        f"`arms.{name}.ranking`: {cause}; give `activated` and `deactivated`, or `numbers` of"
                        f" `{model}`"
                    )
        return self

    @model_validator(mode="after")
    def _sides_are_counted_alike(self) -> "Config":
        for name, held in self.sets.items():
            if held.equal_tokens and self.sets[held.equal_tokens].equal_tokens != name:
                raise ValueError(
                    f"`sets.{held.equal_tokens}.equal_tokens` must be `{name}`: the two are sides"
                )
        return self

    @model_validator(mode="after")
    def _text_is_there(self) -> "Config":
        read = {f"perplexity.sets.{at}": name for at, name in enumerate(self.perplexity.sets)}
        known_names("set", read, self.sets)
        return self

    @model_validator(mode="after")
    def _judges_fit(self) -> "Config":
        for name in self.verdict_judges:
            told = behaviour_of(self.judges[name])
            if told != self.behaviour:
                cause = f"tells {told}, and the `behaviour` of the study is {self.behaviour}"
                raise ValueError(f"`judges.{name}`: {cause}; remove it, or change one of the two")
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> "Config":
        reserved = {
            "compliance",
            "downloads",
            "judges",
            "prompts",
            "questions",
            "study",
            "teachers",
            "weights",
        }.intersection(self.models)
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
        for name in self.capability.arms:
            if isinstance(self.arms[getattr(self.arms[name], "of", name)], SwapArm):
                raise ValueError(f"`capability.arms`: `{name}` needs a pair to each prompt; leave it out")
        check_arms(self.arms, self.models, self.activations.positions)
        return self
