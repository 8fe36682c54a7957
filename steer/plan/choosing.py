"""How much choosing costs: layer and position, strength and scope, experts, and how many are rerouted."""

import math

from steer.config import ExpertDirectionArm, ResidualArm
from steer.plan.study import BACKWARD, Study, Work


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
    return study.answers("strength", rows, grid.max_new_tokens)


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
        "experts",
        [judged * study.asked(arm, settings.prompts) for arm in arms],
        settings.max_new_tokens,
    )
    read = answers.read + (BACKWARD * estimated + rows) * study.lengths.prompt
    passes = answers.passes + study.batches(estimated) + study.batches(rows)
    return Work(answers.rule, 1, passes, read, answers.written, answers.replies)


def rerouting(study: Study) -> Work:
    """A grid of activated × deactivated numbers, zero included, in both polarities.

    Each trial answers the `val` prompts that it is for, and reads those to be left alone twice for its KL.
    """
    settings = study.config.selection.rerouting
    grid = len({0, *settings.activated}) * len({0, *settings.deactivated})
    asked = {
        use: min(settings.prompts, study.prompts(name, "val")) for use, name in study.config.tried.items()
    }
    rows = grid * (asked["suppress"] + asked["induce"])
    # Without a control, each polarity is to leave the other's prompts alone.
    left_alone = [asked.get("control", asked[use]) for use in ("suppress", "induce")]
    kl = grid * 2 * sum(left_alone)
    passes = grid * 2 * sum(map(study.batches, left_alone)) + grid * (
        study.batches(asked["suppress"]) + study.batches(asked["induce"])
    )
    tokens = (rows + kl) * study.lengths.prompt
    return Work("rerouting", 1, passes, tokens, rows * settings.max_new_tokens, rows)
