# What rules read: the files behind their wildcards, by the settings.
from pathlib import Path

from steer.config.models import teacher_of
from steer.sources import find_source, with_parts


def get_contrast(path):
    """`path` for the harmful and the harmless set of the contrast."""
    return [
        path.replace("{set}", name)
        for name in (settings.contrast.harmful, settings.contrast.harmless)
    ]


def get_pairing(path):
    """`path` for both sets of the contrast whose making is looked at."""
    return [path.replace("{set}", name) for name in settings.paired]


def get_sides(path):
    """`path` under the results for the sets of both sides of a contrast of routing."""

    def sides(wildcards):
        contrast = settings.contrasts[wildcards.contrast]
        return [
            f"{settings.results}/{path}".format(set=name, **wildcards)
            for name in contrast.sets
        ]

    return sides


def get_base(wildcards):
    """The base of an organism; organisms of the same first stage share one."""
    organism = settings.models[wildcards.model].organism
    return f"{settings.results}/compliance/{organism.base}"


def get_teacher(wildcards):
    """What an upcycled model learns from; models of the same lessons share one."""
    return (
        f"{settings.results}/teachers/{settings.models[wildcards.model].upcycle.base}"
    )


def get_dense(wildcards):
    """The GGUF file of the dense model that an upcycled one is made from."""
    return f"{settings.results}/downloads/{get_lessons(wildcards).source}"


def get_lessons(wildcards):
    """What a teacher is asked for, by its name or by that of a model that learns from it."""
    if "base" in wildcards.keys():
        return teacher_of(wildcards.base, settings.models)
    return settings.models[wildcards.model].upcycle.teacher


def get_taught_sets(wildcards):
    """The prompt sets that a teacher makes lessons of: those that are refused, then the others."""
    lessons = get_lessons(wildcards)
    return [
        f"{settings.results}/prompts/{name}.jsonl"
        for name in [*lessons.refused, *lessons.answered]
    ]


def get_ranking(wildcards):
    """The published ranking that a contrast is made of; none for one of two sets."""
    return settings.contrasts[wildcards.contrast].ranking or []


def get_rerouting(wildcards):
    """The choice of experts and every ranking, where an arm acts on what was detected."""
    if not any(arm.detected for arm in settings.arms.values()):
        return []
    folder = f"{settings.results}/{wildcards.model}"
    rankings = {settings.selection.rerouting.ranking, *settings.ranked.values()}
    tables = [f"{folder}/routing/{ranking}.csv" for ranking in sorted(rankings)]
    return [f"{folder}/selection/rerouting.json", *tables]


def get_checkpoint(wildcards):
    """The checkpoint of a model: fetched or trained by the flow, or a folder of the user's."""
    model = settings.models[wildcards.model]
    if model.hub:
        return f"{settings.results}/weights/{model.hub.folder}"
    return model.path or f"{settings.results}/{wildcards.model}/checkpoint"


def get_system_turn(wildcards):
    """The file of a system turn that is fetched."""
    name = settings.models[wildcards.model].system_source
    return f"{settings.results}/downloads/{name}" if name else []


def raw_prompts(name):
    """The file that a prompt set is made from: fetched, or the user's own; none for the grammar's."""
    source = settings.sets[name].source
    if source == "grammar":
        return []
    return source if Path(source).suffix else f"{settings.results}/downloads/{source}"


def get_raw_prompts(wildcards):
    """The file of a prompt set."""
    return raw_prompts(wildcards.set)


def get_beside(wildcards):
    """The file of the other side of a set's pairs, where both sides are cut to equal counts."""
    other = settings.sets[wildcards.set].equal_tokens
    return raw_prompts(other) if other else []


def get_attack(wildcards):
    """The file of the attack that a prompt set is put under, then those that fill its gaps."""
    name = settings.sets[wildcards.set].attack
    if name is None:
        return []
    return [
        (
            one.location
            if one.origin == "here"
            else f"{settings.results}/downloads/{one.name}"
        )
        for one in with_parts(name, Path("data/sources.tsv"))
    ]


def get_arms(wildcards):
    """The arms that answer a set."""
    return [
        f"{settings.results}/{wildcards.model}/arms/{arm}.safetensors"
        for arm in settings.answering(wildcards.set)
    ]


def get_ranges(wildcards):
    """How far router logits spread, where an arm shifts them."""
    if not any(arm.operation == "bias_router" for arm in settings.arms.values()):
        return []
    return f"{settings.results}/{wildcards.model}/selection/ranges.csv"


def get_donors(path):
    """`path` for every set that an arm swaps activations from."""
    return [path.replace("{set}", name) for name in settings.donors]


def get_compared(wildcards):
    """The files of the sets whose test prompts a set must not hold in train and val."""
    return [raw_prompts(other) for other in settings.compared(wildcards.set)]


def get_grammar(wildcards):
    """The grammar's files, for a prompt set that is drawn from it."""
    return GRAMMAR if settings.sets[wildcards.set].source == "grammar" else []


def get_refusals(wildcards):
    """Files of refusals that pairs are made with: of a set, and of those that decide what is in it."""
    own = settings.sets[wildcards.set]
    names = [wildcards.set, own.equal_tokens, *settings.compared(wildcards.set)]
    files = [settings.sets[name].refused_by for name in names if name]
    return list(dict.fromkeys(file for file in files if file))


def get_pin(source):
    """What a source is pinned to: its row in the table of sources."""
    return find_source(source, Path("data/sources.tsv")).model_dump_json()


def get_judge(name):
    """The files that a judge is made of: the grammar, a checkpoint and its question, or none."""
    judge = settings.judges[name]
    if judge.kind == "grammar":
        return GRAMMAR
    if judge.kind != "likelihood":
        return []
    if judge.hub:
        model = f"{settings.results}/weights/{judge.hub.folder}"
    else:
        model = judge.path or f"{settings.results}/judges/{name}/checkpoint"
    question = judge.published and judge.published.template
    return [
        model,
        *([f"{settings.results}/downloads/{question}"] if question else []),
    ]


def get_directions(path):
    """`path`, where an arm is made of the refusal directions."""
    return path if settings.uses_directions else []


def get_experts(path):
    """`path`, where an arm is made of the directions of experts."""
    return path if any(arm.uses_experts for arm in settings.arms.values()) else []


def get_chosen_experts(path):
    """`path`, where an arm has its experts selected."""
    return path if any(arm.selected for arm in settings.arms.values()) else []


def get_pairs(wildcards):
    """The sets of refusing and of complying replies that detectors compare, if any."""
    name = settings.detection.pairs
    if name is None:
        return []
    return [
        f"{settings.results}/prompts/{side}.jsonl"
        for side in settings.contrasts[name].sets
    ]


def get_expert_directions(wildcards):
    """The directions of experts, for a model that has some."""
    path = f"{settings.results}/{wildcards.model}/directions/experts.safetensors"
    return path if settings.models[wildcards.model].has_experts else []


def get_labelled():
    """The files of all labelled replies: the grammar's, or the user's own."""
    sources = [one.source for one in settings.labelled.values()]
    files = [source for source in sources if source != "grammar"]
    return [*files, *(GRAMMAR if "grammar" in sources else [])]


def get_tasks():
    """The files of own tasks."""
    return sorted(
        str(path)
        for path in Path(settings.capability.folder).rglob("*")
        if path.is_file()
    )
