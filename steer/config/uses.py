"""What follows from several sections at once: which sets, arms and judges a study makes use of."""

from pathlib import Path

from steer.catalogue import HubModel
from steer.config.arm_base import DrawnArm
from steer.config.arms_experts import RouterArm
from steer.config.arms_fit import is_part, is_whole
from steer.config.arms_stream import BaselineArm, SwapArm
from steer.config.base import Name
from steer.config.sections import Sections
from steer.judges.settings import LikelihoodJudge, is_grading


class Uses(Sections):
    """The sections, and what they name together."""

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

    def is_embedded(self, name: str | None) -> bool:
        """Whether the flow builds a model, or all where none is named, and transformers reads it."""
        models = [self.models[name]] if name in self.models else self.models.values()
        return all((one.organism or one.openbook) and one.engine == "transformers" for one in models)

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
