"""How much a study makes each rule run a model: jobs, passes, tokens read and tokens written.

A pass is one forward pass over a batch of prompts, without the steps of decoding that follow it. Tokens read
are those of all passes; where gradients are taken, they count three times (a backward pass costs two
forward ones: Kaplan et al., arXiv 2001.08361, section 2.1). Tokens written are an upper bound: every reply
is taken to be as long as it may be.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steer.config import Config, ExpertDirectionArm, ModelSettings, RerouteArm, ResidualArm
from steer.plan.anatomy import Anatomy

BACKWARD = 3
"""Tokens that a token counts as, whose gradient is taken."""


@dataclass(frozen=True)
class Lengths:
    """Tokens, as assumed.

    Attributes:
        prompt: of a prompt, chat template and system turn included.
        target: of the reply or part that a paired set counts.
    """

    prompt: int = 64
    target: int = 96


@dataclass(frozen=True)
class Work:
    """What a rule makes of one model.

    Attributes:
        rule: its name.
        jobs: how often it runs, each time loading the model.
        passes: forward passes over batches.
        read: prompt tokens of all passes.
        written: reply tokens, at most.
        replies: how many replies are written.
    """

    rule: str
    jobs: int
    passes: int
    read: int
    written: int = 0
    replies: int = 0


@dataclass(frozen=True)
class Study:
    """What the rules' formulas are made of: a configuration, one of its models, and the lengths."""

    config: Config
    model: ModelSettings
    anatomy: Anatomy
    lengths: Lengths

    @property
    def captured(self) -> list[str]:
        """Sets whose activations are recorded: of the contrasts, and those that arms answer."""
        return list(dict.fromkeys([*self.config.estimating, *self.config.generation.sets]))

    def prompts(self, name: str, *splits: str) -> int:
        """Prompts of a set, of some splits or of all."""
        return sum(getattr(self.config.sets[name], split) for split in splits or ("train", "val", "test"))

    def val(self, limit: int | None = None) -> tuple[int, int]:
        """`val` prompts that are chosen by: harmful and harmless, at most `limit` each."""
        both = [
            self.prompts(getattr(self.config.contrast, label), "val") for label in ("harmful", "harmless")
        ]
        harmful, harmless = [number if limit is None else min(number, limit) for number in both]
        return harmful, harmless

    def asked(self, arm: Any, limit: int) -> int:
        """`val` prompts that a trial of an arm answers: harmful ones to suppress refusal on, or harmless."""
        return self.val(limit)[0 if arm.polarity == "suppress" else 1]

    def batches(self, rows: int) -> int:
        """⌈rows / batch size⌉."""
        return math.ceil(rows / self.model.batch_size)

    def answers(self, rule: str, groups: Sequence[int], limit: int) -> Work:
        """Work of groups of replies, each in batches of its own.

        Each prompt is read twice, unsteered and steered, and `limit` tokens are written.
        """
        rows, passes = sum(groups), 2 * sum(map(self.batches, groups))
        return Work(rule, 1, passes, 2 * rows * self.lengths.prompt, rows * limit, rows)


def all_work(study: Study) -> Iterator[Work]:
    """What every rule that runs a model makes of one, in the order of the flow."""
    yield resolve(study)
    yield activations(study)
    routed = study.anatomy.experts > 0
    if routed:
        yield expert_directions(study)
        yield detection(study)
    yield arditi(study)
    yield cosmic(study)
    yield strength(study)
    if routed and any(arm.selected for arm in study.config.arms.values()):
        yield experts(study)
    if routed and study.config.selection.rerouting.ranking in study.config.contrasts:
        yield rerouting(study)
    yield generation(study)


def resolve(study: Study) -> Work:
    """The proof at load: 3 + 2L + 2M passes over 2 rows of 8 tokens. Every other job repeats it."""
    passes = 3 + 2 * study.anatomy.layers + 2 * study.anatomy.moe_layers
    return Work("resolve", 1, passes, passes * 16)


def activations(study: Study) -> Work:
    """A job for every set and shard, ⌈prompts / batch⌉ passes, and prompts · (prompt + target) tokens."""
    passes = sum(study.batches(study.prompts(name)) for name in study.captured)
    tokens = sum(study.prompts(name) * _row_tokens(study, name) for name in study.captured)
    return Work("activations", len(study.captured) * study.config.shards.activations, passes, tokens)


def _row_tokens(study: Study, name: str) -> int:
    replied = study.config.sets[name].target in ("refusal", "compliance", "reply")
    return study.lengths.prompt + (study.lengths.target if replied else 0)


def expert_directions(study: Study) -> Work:
    """No pass: every expert is applied to P block inputs of each training prompt of the contrast.

    That is as if prompts · P · E/K tokens were read, since a token of a pass goes through K experts, not E.
    """
    contrast, anatomy = study.config.contrast, study.anatomy
    prompts = study.prompts(contrast.harmful, "train") + study.prompts(contrast.harmless, "train")
    inputs = prompts * study.config.activations.positions
    return Work("expert_directions", 1, 0, round(inputs * anatomy.experts / anatomy.top_k))


def detection(study: Study) -> Work:
    """Gradients of n harmful prompts twice, 3 plain passes over n of a class, X + 1 over the harmful ones.

    n · prompt · (2·3 + 1 + 2 + X + 1) tokens, X the experts that are masked one at a time; with reply pairs
    as well 2 · n · (prompt + target) · (3 + X + 1).
    """
    settings = study.config.detection
    contrast = study.config.contrast
    n = min(
        settings.prompts, *(study.prompts(name, "train") for name in (contrast.harmful, contrast.harmless))
    )
    exact = min(settings.exact, study.anatomy.experts * study.anatomy.moe_layers)
    tokens = n * study.lengths.prompt * (2 * BACKWARD + 3 + exact + 1)
    passes = study.batches(n) * 5 + study.batches(n * (exact + 1))
    if settings.pairs:
        row = study.lengths.prompt + study.lengths.target
        tokens += 2 * n * row * (BACKWARD + exact + 1)
        passes += 2 * (study.batches(n) + study.batches(n * (exact + 1)))
    return Work("detection", 1, passes, tokens)


def _places(study: Study) -> int:
    return study.anatomy.layers * study.config.activations.positions


def arditi(study: Study) -> Work:
    """L · P candidates, each ablated on harmful and harmless `val` prompts and added on harmless ones.

    L·P · (harmful + 2 · harmless) + harmless prompts are read. Candidates share batches, but KL goes prompt
    by prompt, in harmless · (1 + ⌈L·P / batch⌉) passes. Where both classes are alike, as the template's
    tokens are before the first layer, there is no candidate, so that somewhat less is done.
    """
    places, (harmful, harmless) = _places(study), study.val()
    rows = places * (harmful + 2 * harmless) + harmless
    passes = study.batches(places * harmful) + study.batches(places * harmless)
    passes += harmless * (1 + study.batches(places))
    return Work("selection (arditi)", 1, passes, rows * study.lengths.prompt)


def cosmic(study: Study) -> Work:
    """(L · P + 1) · (harmful + harmless) `val` prompts are read, a candidate at a time."""
    places, (harmful, harmless) = _places(study), study.val()
    passes = (places + 1) * (study.batches(harmful) + study.batches(harmless))
    return Work("selection (cosmic)", 1, passes, (places + 1) * (harmful + harmless) * study.lengths.prompt)


def _doses(study: Study, arm: ResidualArm) -> int:
    """Candidates · coefficients · scopes of a tuned arm; an ablation has neither of the last two."""
    grid = study.config.selection.strength
    fixed = arm.layer is not None or arm.position is not None
    places = 1 if fixed else min(grid.candidates, _places(study))
    if arm.operation == "ablate":
        return places
    extra = int(arm.operation == "affine" and arm.polarity == "suppress")
    coefficients = 1 if arm.coefficient is not None else len({*grid.coefficients}) + extra
    return places * coefficients * (1 if arm.scope else len({*grid.scopes}))


def strength(study: Study) -> Work:
    """Every dose of every tuned arm answers the `val` prompts that it is for."""
    grid = study.config.selection.strength
    tuned = [arm for arm in study.config.arms.values() if isinstance(arm, ResidualArm) and arm.dosed]
    rows = [_doses(study, arm) * study.asked(arm, grid.prompts) for arm in tuned]
    return study.answers("selection (strength)", rows, grid.max_new_tokens)


def experts(study: Study) -> Work:
    """Gradients once a class and weighting; exact scores; judged replies.

    Of each selected arm, with S = (estimated + spread) · coefficients candidates: S · (harmful + harmless)
    prompts are read from the edited layer up, at most the whole model, and
    max(judged, ⌈share · S⌉) + scopes · coefficients + 2 · refinements doses, at most, answer the prompts that
    the arm is for; the finer ones are scored first.
    """
    settings = study.config.selection.experts
    arms = [arm for arm in study.config.arms.values() if isinstance(arm, ExpertDirectionArm) and arm.selected]
    harmful, harmless = study.val(settings.prompts)
    coefficients = len({*settings.coefficients})
    scored = (settings.estimated + settings.spread) * coefficients
    finer = 2 * settings.refinements
    judged = min(scored, max(settings.judged, math.ceil(settings.share * scored)))
    judged += len({*settings.scopes}) * coefficients + finer
    gradients = {(arm.polarity, arm.weighting) for arm in arms}
    estimated = sum(harmful if polarity == "suppress" else harmless for polarity, _ in gradients)
    rows = len(arms) * (scored + finer) * (harmful + harmless)
    answers = study.answers(
        "selection (experts)",
        [judged * study.asked(arm, settings.prompts) for arm in arms],
        settings.max_new_tokens,
    )
    read = answers.read + (BACKWARD * estimated + rows) * study.lengths.prompt
    passes = answers.passes + study.batches(estimated) + study.batches(rows)
    return Work(answers.rule, 1, passes, read, answers.written, answers.replies)


def rerouting(study: Study) -> Work:
    """A grid of activated × deactivated numbers, zero included, in both polarities.

    Each trial answers the `val` prompts that it is for, and reads the harmless ones twice for its KL.
    """
    settings = study.config.selection.rerouting
    grid = len({0, *settings.activated}) * len({0, *settings.deactivated})
    harmful, harmless = study.val(settings.prompts)
    rows = grid * (harmful + harmless)
    kl = 2 * grid * 2 * harmless
    passes = 2 * grid * 2 * study.batches(harmless) + grid * (
        study.batches(harmful) + study.batches(harmless)
    )
    tokens = (rows + kl) * study.lengths.prompt
    return Work("rerouting", 1, passes, tokens, rows * settings.max_new_tokens, rows)


def generation(study: Study) -> Work:
    """A job for every set and shard: arms · `test` prompts replies, batches of one arm each."""
    settings, fitting = study.config.generation, _fitting(study)
    asked = {name: study.config.sets[name].arms or fitting for name in settings.sets}
    arms = {name: len({*fitting} & {*own}) for name, own in asked.items()}
    numbers = {name: study.prompts(name, "test") for name in settings.sets}
    rows = sum(arms[name] * number for name, number in numbers.items())
    passes = 2 * sum(arms[name] * study.batches(number) for name, number in numbers.items())
    read = 2 * rows * study.lengths.prompt
    return Work(
        "generation",
        len(numbers) * study.config.shards.generation,
        passes,
        read,
        rows * settings.max_new_tokens,
        rows,
    )


def _fitting(study: Study) -> list[str]:
    """Arms that the model can have: those on experts and routers need experts."""
    routed = study.anatomy.experts > 0
    return [
        name
        for name, arm in study.config.arms.items()
        if routed or not (arm.uses_experts or isinstance(arm, RerouteArm))
    ]
