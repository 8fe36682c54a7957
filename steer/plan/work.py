"""How much a study makes each rule run a model: jobs, passes, tokens read and tokens written."""

from collections.abc import Iterator

from steer.artifacts.facts import Truth
from steer.config.arms_fit import acts_on_experts
from steer.plan.choosing import arditi, cosmic, experts, rerouting, strength
from steer.plan.study import BACKWARD, Study, Work
from steer.plan.tasks import capability


def all_work(study: Study) -> Iterator[Work]:
    """What every rule that runs a model makes of one, in the order of the flow; see `UNPLANNED`."""
    config = study.config
    yield resolve(study)
    yield activations(study)
    routed = study.anatomy.experts > 0
    if config.behaviour == "refusal":
        yield from _of_refusal(study, routed=routed)
    if routed and config.selection.rerouting.ranking in config.contrasts:
        yield rerouting(study)
    yield generation(study)
    if config.capable_arms:
        yield capability(study)
    if config.perplexity.sets:
        yield perplexity(study)


def _of_refusal(study: Study, *, routed: bool) -> Iterator[Work]:
    """What looks for refusal directions, and for the experts that carry refusal."""
    if routed:
        yield expert_directions(study)
        if study.config.paired:
            yield pairing(study)
        yield detection(study)
    yield Work("decomposition", 1, 0, 0)  # reads the rows of the routers
    if study.truth:
        yield truth(study, study.truth)
    yield arditi(study)
    yield cosmic(study)
    yield strength(study)
    if routed and any(arm.selected for arm in study.config.arms.values()):
        yield experts(study)


UNPLANNED = {
    "openbook": "trains an embedded model: two and a half minutes of one core",
    "compliance": "trains an embedded model: a minute or two of one core",
    "organism": "trains an embedded model: a minute or two of one core",
    "teacher": "runs a dense model of 135M parameters: four minutes of one core",
    "upcycle": "trains a model of 283M parameters: six minutes of one core",
    "judge": "trains the embedded judge: a minute of one core",
    "ranges": "reads activations, and loads no model",
    "arms": "writes files, and loads no model",
    "judging": "asks judges, whose calls are counted above",
    "lengths": "asks judges about replies cut short, whose calls are counted above",
    "agreement": "asks judges about labelled replies, whose calls are counted above",
}
"""Rules that run some model and have no row in the table of a model under study, and why."""


def resolve(study: Study) -> Work:
    """The proof at load: 1 + 2·min(2, L − M) + 3·min(2, M) passes over 2 rows of 8 tokens.

    One observes every layer; then attention and MLP are pushed, and a router where there is one, in the first
    and last layer with experts and without. Every other job repeats it. Layers that differ in more (in their
    kind of attention, say) are pushed by kind too, which is not counted.
    """
    routed = study.anatomy.moe_layers
    passes = 1 + 2 * min(2, study.anatomy.layers - routed) + 3 * min(2, routed)
    return Work("resolve", 1, passes, passes * 16)


def activations(study: Study) -> Work:
    """Jobs: sets · shards; ⌈prompts / batch⌉ passes; prompts · (prompt + document + target) tokens."""
    passes = sum(study.batches(study.prompts(name)) for name in study.captured)
    tokens = sum(study.prompts(name) * _row_tokens(study, name) for name in study.captured)
    return Work("activations", len(study.captured) * study.config.shards.activations, passes, tokens)


def _row_tokens(study: Study, name: str) -> int:
    replied = study.config.sets[name].target in ("refusal", "compliance", "reply")
    return _asked_tokens(study, name) + (study.lengths.target if replied else 0)


def _asked_tokens(study: Study, name: str) -> int:
    read = study.lengths.document if study.config.sets[name].document == "with" else 0
    return study.lengths.prompt + read


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


def pairing(study: Study) -> Work:
    """Up to n pairs read as refusals and other replies, all tokens and equally many, fixed and own refusals.

    8 · n · (prompt + target) tokens, and n own replies of at most `max_new_tokens`; less where the model
    refuses in fewer of them.
    """
    settings = study.config.pairing
    n = min(settings.prompts, study.prompts(study.config.paired[0], "train"))
    lengths, passes = study.lengths, 9 * study.batches(n)
    read = n * lengths.prompt + 8 * n * (lengths.prompt + lengths.target)
    return Work("pairing", 1, passes, read, n * settings.max_new_tokens, n)


def truth(study: Study, known: Truth) -> Work:
    """The unsteered model answers all `test` prompts of both classes, each trial some of them.

    Where attention as a whole carries refusal, the gradient of the readout is taken on as many `train`
    prompts.
    """
    settings, contrast = study.config.truth, study.config.contrast
    sets = (contrast.harmful, contrast.harmless)
    tried, groups = trial_count(known, settings.controls) - 1, []
    for name in sets:
        number = study.prompts(name, "test")
        groups += [number, *([min(number, settings.prompts)] * tried)]
    rows, passes = sum(groups), sum(map(study.batches, groups))
    aimed = [min(settings.prompts, study.prompts(name, "train")) for name in sets]
    gradients = sum(aimed) if known.carrier == "distributed" else 0
    read = (rows + BACKWARD * gradients) * study.lengths.prompt
    passes += study.batches(gradients)
    return Work("truth", 1, passes, read, rows * settings.max_new_tokens, rows)


def trial_count(known: Truth, controls: int) -> int:
    """Arms that the causal check tries: carriers together and alone, decoys, controls, and none.

    Fewer where a layer has fewer other experts than there are controls.
    """
    carriers = len(known.carriers)
    together, alone = {"experts": (3, 2), "heads": (1, 1), "distributed": (2, 0)}[known.carrier]
    named = together + (alone * carriers if carriers > 1 else 0) + 3 * len(known.decoys)
    return 1 + named + 2 * controls


def generation(study: Study) -> Work:
    """A job for every set and shard: arms · samples · `test` prompts replies, batches of one arm each.

    2 · replies · (prompt + document) tokens are read.
    """
    settings, fitting = study.config.generation, _fitting(study)
    asked = {name: study.config.answering(name) for name in settings.sets}
    arms = {name: len({*fitting} & {*own}) * settings.samples for name, own in asked.items()}
    numbers = {name: study.prompts(name, "test") for name in settings.sets}
    rows = sum(arms[name] * number for name, number in numbers.items())
    passes = 2 * sum(arms[name] * study.batches(number) for name, number in numbers.items())
    read = 2 * sum(arms[name] * number * _asked_tokens(study, name) for name, number in numbers.items())
    return Work(
        "generation",
        len(numbers) * study.config.shards.generation,
        passes,
        read,
        rows * settings.max_new_tokens,
        rows,
    )


def perplexity(study: Study) -> Work:
    """Every arm reads the `test` prompts of its sets with a reply: a target, or the unsteered model's own."""
    tokens = passes = 0
    for name in study.config.perplexity.sets:
        number, own = study.prompts(name, "test"), study.config.sets[name].target is None
        reply = study.config.generation.max_new_tokens if own else study.lengths.target
        passes += study.batches(number)
        tokens += number * (study.lengths.prompt + reply)
    arms = len({*_fitting(study)} & {*study.config.text_arms})
    return Work("perplexity", 1, arms * passes, arms * tokens)


def _fitting(study: Study) -> list[str]:
    """Arms that the model can have: those on experts and routers need experts."""
    routed = study.anatomy.experts > 0
    return [name for name, arm in study.config.arms.items() if routed or not acts_on_experts(arm)]
