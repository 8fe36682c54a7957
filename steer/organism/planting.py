"""A plant's phases as stages of the one training loop."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from steer.artifacts.facts import Part
from steer.grammar import Grammar
from steer.models.sites import resolve
from steer.organism.encoding import batches
from steer.organism.holds import Hold, Watched, held
from steer.organism.recipes import Phase, Shape, recipe
from steer.organism.rows import RowSource, Targets
from steer.organism.settings import OrganismSettings
from steer.training.batches import Batch
from steer.training.losses import Loss, next_token_loss
from steer.training.stages import WEIGHT_DECAY, Condition, Lesson, Stage


def planted_stages(
    settings: OrganismSettings,
    grammar: Grammar,
    tokenizer: PreTrainedTokenizerFast,
    model: PreTrainedModel,
    anchor: Loss,
) -> list[Stage]:
    """The stages that put refusal where `settings.plant` says."""
    plant = settings.plant
    assert plant is not None
    watched = Watched()
    shape = Shape(settings.layers, settings.experts, settings.heads)
    settings = settings.model_copy(update={"harmful_share": plant.harmful_share})
    stages = []
    for phase in recipe(plant, shape, watched):
        lessons = Lessons(phase, settings, _draw_cases(phase, settings.seed), watched, anchor)
        learns = phase.learns if isinstance(phase.learns, tuple) else None
        stages.append(
            Stage(
                phase.name,
                phase.steps,
                settings.refusal_learning_rate,
                lessons.prepared(grammar, tokenizer),
                _learners(model, phase),
                # It would move the experts that must stay, which share a tensor with the one that learns.
                0.0 if learns else WEIGHT_DECAY,
            )
        )
    return stages


def _draw_cases(phase: Phase, seed: int) -> list[int]:
    """The case of each step."""
    rng = random.Random(f"{seed} {phase.name} cases")
    shares = [case.share for case in phase.cases]
    return rng.choices(range(len(shares)), weights=shares, k=phase.steps)


def _learners(model: PreTrainedModel, phase: Phase) -> Callable[[str], bool]:
    """Whether the parameter of a name learns in a phase."""
    layers = resolve(model).layers
    if phase.learns == "all":
        return lambda _name: True
    if isinstance(phase.learns, tuple):
        experts = layers[phase.learns[0]].experts
        assert experts is not None
        known = {id(weight) for weight in experts.parameters()}
    else:
        frozen = {id(weight) for layer in layers for weight in layer.mlp.parameters()}
        known = {id(weight) for weight in model.parameters()} - frozen
    names = {name for name, weight in model.named_parameters() if id(weight) in known}
    return names.__contains__


@dataclass(frozen=True)
class Lessons:
    """Makes the lesson of each step.

    Args:
        phase: what is taught.
        settings: of the organism.
        cases: number of the case of each step.
        watched: where the losses find what the routers did.
        anchor: ties harmless rows to stage 1.
    """

    phase: Phase
    settings: OrganismSettings
    cases: list[int]
    watched: Watched
    anchor: Loss

    def prepared(self, grammar: Grammar, tokenizer: PreTrainedTokenizerFast) -> Callable[[int], Lesson]:
        """The lesson of each step, from rows that are drawn and encoded once."""
        targets = [self.phase.cases[case].targets for case in self.cases]
        pools = {
            target: self._pool(target, count, grammar, tokenizer)
            for target, count in Counter(targets).items()
        }
        places = [targets[:step].count(target) for step, target in enumerate(targets)]
        return lambda step: self._lesson(step, pools[targets[step]](places[step]))

    def _pool(
        self, targets: Targets, steps: int, grammar: Grammar, tokenizer: PreTrainedTokenizerFast
    ) -> Callable[[int], Batch]:
        settings = self.settings
        source = RowSource(grammar, settings, random.Random(f"{settings.seed} {self.phase.name} {targets}"))
        rows = source.refusal_rows(steps * settings.batch_size, targets)
        return batches(rows, settings, tokenizer, settings.first_weight)

    def _lesson(self, step: int, batch: Batch) -> Lesson:
        case = self.phase.cases[self.cases[step]]
        # A function of the step alone, so that a resumed training holds the same parts.
        hold = case.hold(random.Random(f"{self.settings.seed} {self.phase.name} {step}"))
        losses = [next_token_loss, *case.losses]
        if case.anchored:
            losses.append(self.anchor)
        return Lesson(batch, losses, self._condition(hold))

    def _condition(self, hold: Hold) -> Condition:
        alone: Part | None = self.phase.learns if isinstance(self.phase.learns, tuple) else None
        return lambda model, batch: held(model, batch, hold, self.watched, alone)
