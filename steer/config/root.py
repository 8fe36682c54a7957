"""The whole configuration, and what its sections must agree on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from steer.catalogue import HubModel
from steer.config.agreement import AgreementSettings, LabelledSettings
from steer.config.arm_base import DrawnArm
from steer.config.arms import ArmSettings
from steer.config.arms_experts import RouterArm
from steer.config.arms_fit import check_arms, is_part, is_whole, like_of
from steer.config.arms_stream import BaselineArm, SwapArm
from steer.config.base import Name, Settings
from steer.config.capability import CapabilitySettings, PerplexitySettings
from steer.config.models import ModelSettings
from steer.config.names import known_names
from steer.config.prompts import (
    ContrastSettings,
    DownloadSettings,
    GrammarSettings,
    OverlapSettings,
    SetSettings,
)
from steer.config.routing import PairingSettings, RoutingContrast, RoutingSettings
from steer.config.seeds import expanded
from steer.config.selection import SelectionSettings
from steer.config.stages import (
    ActivationSettings,
    DetectionSettings,
    DirectionSettings,
    GenerationSettings,
    ReportSettings,
    ReproductionSettings,
    ScoreSettings,
    ShardSettings,
    TruthSettings,
)
from steer.judges.behaviours import BehaviourName
from steer.judges.settings import JudgeSettings, LikelihoodJudge, behaviour_of, is_grading


class Config(Settings):
    """The whole configuration."""

    seed: int = Field(0, ge=0, description="Seed of everything drawn at random outside training.")
    behaviour: BehaviourName = Field(
        "refusal",
        description="What is looked for and steered: refusal, or `faithfulness` to documents.",
    )
    results: str = Field("results", description="Folder that every result is written to.")
    lock: str = Field(
        "models.lock.json",
        description="File that keeps the commits and digests of fetched models; commit it with the study.",
    )
    models: dict[Name, ModelSettings] = Field(min_length=1, description="Models under study, by name.")
    sets: dict[Name, SetSettings] = Field(min_length=1, description="Prompt sets, by name.")
    grammar: GrammarSettings = Field(GrammarSettings(), description="Drawing sets from the grammar.")
    contrast: ContrastSettings = Field(ContrastSettings(), description="Sets that define refusal.")
    download: DownloadSettings = Field(DownloadSettings(), description="Fetching public prompt sets.")
    overlap: OverlapSettings = Field(OverlapSettings(), description="Prompts that say the same.")
    activations: ActivationSettings = Field(ActivationSettings(), description="Reading the model.")
    shards: ShardSettings = Field(
        ShardSettings(), description="Sharing out large sets among jobs, for clusters; each loads the model."
    )
    directions: DirectionSettings = Field(DirectionSettings(), description="Estimating directions.")
    contrasts: dict[Name, RoutingContrast] = Field(
        {},
        description="Pairs of sets whose routing is compared, by name; each makes `routing/<name>.csv`.",
    )
    routing: RoutingSettings = Field(RoutingSettings(), description="Judging those contrasts.")
    pairing: PairingSettings = Field(PairingSettings(), description="What the making of pairs does.")
    detection: DetectionSettings = Field(DetectionSettings(), description="Looking for carriers.")
    selection: SelectionSettings = Field(SelectionSettings(), description="Choosing interventions.")
    arms: dict[Name, ArmSettings] = Field(min_length=1, description="Interventions, by name.")
    generation: GenerationSettings = Field(GenerationSettings(), description="Producing replies.")
    judges: dict[Name, JudgeSettings] = Field(min_length=1, description="Judges of replies, by name.")
    labelled: dict[Name, LabelledSettings] = Field({}, description="Replies whose truth is known, by name.")
    agreement: AgreementSettings = Field(AgreementSettings(), description="Measuring judges on them.")
    scores: ScoreSettings = Field(ScoreSettings(), description="Statistics.")
    perplexity: PerplexitySettings = Field(
        PerplexitySettings(), description="What steering does to the reading of harmless text."
    )
    capability: CapabilitySettings = Field(
        CapabilitySettings(), description="What the steered model can still do."
    )
    truth: TruthSettings = Field(TruthSettings(), description="Checking planted models.")
    reproduction: ReproductionSettings = Field(
        ReproductionSettings(), description="Laying results beside published ones."
    )
    report: ReportSettings = Field(ReportSettings(), description="The report.")

    @property
    def estimating(self) -> list[str]:
        """Names of the sets whose `train` and `val` prompts anything is estimated, detected or chosen on."""
        sides = [name for contrast in self.contrasts.values() for name in contrast.sets]
        # A study of something else makes no refusal direction.
        refusal = [self.contrast.harmful, self.contrast.harmless] if self.behaviour == "refusal" else []
        return list(dict.fromkeys([*refusal, *sides, *self.tried.values()]))

    @property
    def tried(self) -> dict[str, Name]:
        """The sets that rerouting is chosen on, by what they are for."""
        settings, inducing = self.selection.rerouting, self.selection.rerouting.induce_on
        induce = inducing or self.contrast.harmless
        suppress = settings.suppress_on or self.contrast.harmful
        control = {"control": settings.control} if settings.control else {}
        return {"suppress": suppress, "induce": induce, **control}

    @property
    def ranked(self) -> dict[Name, Name]:
        """The contrasts that arms on routers take experts from, where it is not that of the selection."""
        arms = ((name, arm) for name, arm in self.arms.items() if isinstance(arm, RouterArm))
        chosen = self.selection.rerouting.ranking
        return {name: arm.ranking for name, arm in arms if arm.ranking not in (None, chosen)}

    @property
    def contrasts_of_classes(self) -> set[Name]:
        """The contrasts whose sides are harmful and harmless prompts, in this order."""
        labels = {name: [self.sets[held].label for held in one.sets] for name, one in self.contrasts.items()}
        return {name for name, sides in labels.items() if sides == ["harmful", "harmless"]}

    @property
    def uses_directions(self) -> bool:
        """Whether an arm is made of the refusal directions, or of what was chosen along with them."""
        return not all(
            isinstance(arm, BaselineArm | RouterArm) or (isinstance(arm, SwapArm) and arm.layers)
            for arm in self.arms.values()
        )

    @property
    def verdict_judges(self) -> list[str]:
        """Names of the judges that tell refusals from responses."""
        return [name for name, judge in self.judges.items() if not is_grading(judge)]

    @property
    def grading_judges(self) -> list[str]:
        """Names of the judges that grade fluency."""
        return [name for name, judge in self.judges.items() if is_grading(judge)]

    @property
    def hub_models(self) -> dict[str, HubModel]:
        """Models on the hub that are studied or judge, by the name of the folder of their weights."""
        judges = [judge.hub for judge in self.judges.values() if isinstance(judge, LikelihoodJudge)]
        found = [*(model.hub for model in self.models.values()), *judges]
        return {model.folder: model for model in found if model}

    def compared(self, name: str) -> list[str]:
        """Sets from files whose test prompts must be in neither train nor val of the set `name`."""
        own = self.sets[name]
        if not own.is_given or not (own.train or own.val):
            return []
        used = {other: self.sets[other] for other in self.used_sets if other != name}
        return [other for other, held in used.items() if held.is_given and held.test]

    @property
    def paired(self) -> list[str]:
        """Both sets of the contrast whose making is looked at; none where a study has no such contrast."""
        name = self.pairing.contrast
        return self.contrasts[name].sets if name in self.contrasts else []

    @property
    def used_sets(self) -> list[str]:
        """Names of the sets that anything is made of; a study may leave others of the default unused."""
        upcycled = [model.upcycle for model in self.models.values() if model.upcycle]
        taught = [name for upcycle in upcycled for name in (*upcycle.refused, *upcycle.answered)]
        asked = [*self.generation.sets, *self.perplexity.sets]
        return list(dict.fromkeys([*self.estimating, *asked, *taught, *self.donors]))

    def answering(self, name: str) -> list[str]:
        """Names of the arms that answer a set: those that it lists, or all.

        The further seeds of a control are for its spread alone: they answer one set of each label, that of
        `contrast` where it is answered.
        """
        if self.sets[name].arms:
            return list(self.sets[name].arms)
        if name in self._spread_on:
            return list(self.arms)
        return self._leading

    @property
    def _spread_on(self) -> list[str]:
        """Of each label the contrast's set where it is answered, else the first of that label that is."""
        asked = self.generation.sets
        found: list[str] = []
        for label in ("harmful", "harmless"):
            own = getattr(self.contrast, label)
            others = [name for name in asked if self.sets[name].label == label and not self.sets[name].arms]
            found += [own] if own in asked else others[:1]
        return found

    @property
    def text_arms(self) -> list[str]:
        """Names of the arms that any text can be read under: without swaps, which need a pair to each.

        One seed of a control is enough for that.
        """
        swaps = [name for name, arm in self.arms.items() if isinstance(arm, SwapArm)]
        return [name for name in self._leading if not {name, getattr(self.arms[name], "of", name)} & {*swaps}]

    @property
    def _leading(self) -> list[str]:
        """Names of all arms but the further seeds of a control."""
        further = {arm for members in self.pools.values() for arm in members[1:]}
        return [arm for arm in self.arms if arm not in further]

    @property
    def pools(self) -> dict[str, list[str]]:
        """Names of the arms of every pool of several."""
        found: dict[str, list[str]] = {}
        for name, arm in self.arms.items():
            if isinstance(arm, DrawnArm) and arm.pool:
                found.setdefault(arm.pool, []).append(name)
        return {pool: members for pool, members in found.items() if len(members) > 1}

    @property
    def recovered(self) -> list[tuple[str, str, str]]:
        """Arms of selected experts, each with every whole edit of the residual stream of its polarity."""
        parts = {name: arm.polarity for name, arm in self.arms.items() if is_part(arm)}
        wholes = {name: arm.polarity for name, arm in self.arms.items() if is_whole(arm)}
        return [
            (part, whole, polarity)
            for part, polarity in parts.items()
            for whole, other in wholes.items()
            if polarity == other
        ]

    @property
    def donors(self) -> list[str]:
        """Names of the sets that arms swap activations from."""
        swaps = (arm for arm in self.arms.values() if isinstance(arm, SwapArm))
        return list(dict.fromkeys(arm.donor for arm in swaps))

    @property
    def public_sources(self) -> list[str]:
        """Names of the rows of the table of sources that sets, models, attacks and judges need."""
        used = [self.sets[name] for name in self.used_sets]
        drawn = [one.source for one in used if one.source != "grammar" and not Path(one.source).suffix]
        dense = [model.upcycle.source for model in self.models.values() if model.upcycle]
        judges = [one.published for one in self.judges.values() if isinstance(one, LikelihoodJudge)]
        questions = [one.template for one in judges if one and one.template]
        turns = [model.system_source for model in self.models.values() if model.system_source]
        attacks = [one.attack for one in used if one.attack]
        return list(dict.fromkeys([*drawn, *dense, *turns, *attacks, *questions]))

    @property
    def read_back(self) -> list[str]:
        """Names of the sets whose replies by the unsteered model are read under every arm."""
        return [name for name in self.perplexity.sets if self.sets[name].target is None]

    @property
    def capable_arms(self) -> list[str]:
        """Names of the arms that run the tasks of capability; none where there are no tasks."""
        wanted = self.capability.arms or tuple(self.text_arms)
        return list(dict.fromkeys(["baseline", *wanted])) if self.capability.wanted else []

    @property
    def measured_judges(self) -> list[str]:
        """Names of the judges that are held against labelled replies: all but those that can't err."""
        return [name for name in self.verdict_judges if self.judges[name].kind not in ("grammar", "exact")]

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
