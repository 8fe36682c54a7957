"""What a study asks for and can't have, said while it is planned and not in the middle of its run.

The configuration itself is checked where it is typed (`steer.config`); here it is held against the files it
names: the grammar, the table of public sources, prompts and models of the user's own.
"""

from collections.abc import Iterator, Set
from itertools import islice
from pathlib import Path

from steer.catalogue import hub_id
from steer.config import Config, RoutingContrast, SetSettings
from steer.config.names import nearest
from steer.errors import SteerError
from steer.grammar import SPLITS, Grammar
from steer.judges.settings import ServerJudge
from steer.sources import read_sources

ATTACKS = ("template", "suffix", "rewritten")
"""Kinds of sources that do something with prompts."""


def check_study(config: Config, grammar: Path, sources: Path) -> None:
    """Check that the sets hold what the stages want of them, and that there is what the settings name.

    Args:
        config: the study.
        grammar: folder of the grammar's tables.
        sources: table of public sources.

    Raises:
        SteerError: all that is amiss, by its keys.
    """
    faults = list(_faults(config, grammar, sources))
    if len(faults) == 1:
        raise faults[0]
    if faults:
        said = "".join(f"\n- {fault.what}: {fault.cause}; {fault.next_step}" for fault in faults)
        raise SteerError("the study", f"{len(faults)} things are amiss{said}", "correct all of them")


def _faults(config: Config, grammar: Path, sources: Path) -> Iterator[SteerError]:
    yield from _faults_of_models(config)
    yield from _faults_of_sources(config, sources)
    yield from _faults_of_memory(config, sources)
    yield from _faults_of_contrasts(config)
    if not config.generation.sets:
        yield SteerError("`generation.sets`", "is empty, so that nothing is answered", "name a set")
    for key, name, split, use in _wanted(config):
        if not getattr(config.sets[name], split):
            cause = f"set `{name}` has no `{split}` prompts, and {use}"
            yield SteerError(f"`{key}`", cause, f"give it some (`sets.{name}.{split}`), or name another set")
    yield from _faults_of_grammar(config, grammar)
    for name in config.used_sets:
        if not Path(config.sets[name].source).is_relative_to(config.results):
            yield from _faults_of_size(name, config.sets[name])
    for key, path in _named_files(config):
        if not path.is_relative_to(config.results) and not path.is_file():
            yield SteerError(f"`{key}`", f"no such file: {path}", "correct the path of the file")


def check_keys(config: Config, asked: Set[str]) -> None:
    """Check that the keys of judges on servers are in the environment, before anything is made to judge.

    Args:
        config: the study.
        asked: names of the judges that will be asked.

    Raises:
        SteerError: one is missing, or can't be a key. None is ever shown.
    """
    judges = {name: one for name, one in config.judges.items() if name in asked}
    servers = {name: one for name, one in judges.items() if isinstance(one, ServerJudge)}
    if servers:
        # Its client is slow to import, and few studies need it.
        from steer.judges.server import read_key

        for name, judge in servers.items():
            read_key(name, judge)


def _wanted(config: Config) -> Iterator[tuple[str, str, str, str]]:
    """Key, set, split, and what the split is for."""
    if config.behaviour == "refusal":
        for label in ("harmful", "harmless"):
            held = getattr(config.contrast, label)
            yield f"contrast.{label}", held, "train", "the refusal direction is estimated on them"
            yield f"contrast.{label}", held, "val", "layer, position and strength are chosen on them"
    if any(model.has_experts for model in config.models.values()):
        yield from _wanted_by_routing(config)
    if any(model.is_planted for model in config.models.values()):
        for label in ("harmful", "harmless"):
            held = getattr(config.contrast, label)
            yield f"contrast.{label}", held, "test", "what is planted is checked on them"
    for at, held in enumerate(config.generation.sets):
        yield f"generation.sets.{at}", held, "test", "those are answered"
    for at, held in enumerate(config.perplexity.sets):
        yield f"perplexity.sets.{at}", held, "test", "those are read"


def _wanted_by_routing(config: Config) -> Iterator[tuple[str, str, str, str]]:
    for name, contrast in config.contrasts.items():
        for side, held in contrast.sides().items():
            if held:
                yield f"contrasts.{name}.{side}", held, "train", "one side of the contrast would be empty"
    if config.selection.rerouting.ranking in config.contrasts:
        for use, held in config.tried.items():
            yield f"selection.rerouting, to {use}", held, "val", "how many experts is chosen on them"


def _faults_of_contrasts(config: Config) -> Iterator[SteerError]:
    for name, contrast in config.contrasts.items():
        if contrast.ranking is None:
            yield from _faults_of_sides(
                f"contrasts.{name}", contrast, *(config.sets[held] for held in contrast.sets)
            )
    pairs = {"detection.pairs": config.detection.pairs, "pairing.contrast": config.pairing.contrast}
    for key, named in pairs.items():
        if named in config.contrasts and not _is_of_replies(config, config.contrasts[named]):
            cause = f"contrast `{named}` is not of two sets of pairs with replies"
            yield SteerError(f"`{key}`", cause, "name one whose sets have `target: refusal` and others")


def _faults_of_sides(
    key: str, contrast: RoutingContrast, first: SetSettings, second: SetSettings
) -> Iterator[SteerError]:
    if contrast.first == contrast.second:
        cause = f"set `{contrast.first}` is on both sides, which could not differ"
        yield SteerError(f"`{key}`", cause, "name another set as `first` or `second`")
    spans = [_span(side) for side in (first, second)]
    if spans[0] != spans[1]:
        counted = [f"`{name}` on the {span}" for name, span in zip(contrast.sets, spans, strict=True)]
        cause = f"tokens are counted of {' and of '.join(counted)}"
        yield SteerError(f"`{key}`", cause, "give both sets a `target`, or neither")
    if contrast.paired and first.target is None:
        cause = f"is `paired`, and the sets `{contrast.first}` and `{contrast.second}` are no pairs"
        yield SteerError(f"`{key}`", cause, "give both sets a `target`, or leave out `paired`")


def _span(settings: SetSettings) -> str:
    if settings.target is None:
        return "last prompt tokens"
    return "part of the prompt" if settings.target == "prompt" else "reply"


def _is_of_replies(config: Config, contrast: RoutingContrast) -> bool:
    return bool(contrast.sets) and all(_span(config.sets[name]) == "reply" for name in contrast.sets)


def _faults_of_grammar(config: Config, folder: Path) -> Iterator[SteerError]:
    used = {name: config.sets[name] for name in config.used_sets}
    drawn = {name: held for name, held in used.items() if not held.is_given}
    if not drawn:
        return
    grammar = Grammar.load(folder)
    for split in SPLITS:
        try:
            possible = grammar.possible(split, config.seed, config.grammar.held_out)
        except SteerError as fault:
            yield fault
            return
        for name, held in drawn.items():
            if held.sizes[split] > possible:
                cause = f"{held.sizes[split]} different prompts, and the grammar has {possible}"
                yield SteerError(
                    f"`sets.{name}.{split}`", cause, "ask for fewer, or lower `grammar.held_out`"
                )


def _faults_of_size(name: str, settings: SetSettings) -> Iterator[SteerError]:
    """A file of the user's holds at least the prompts asked for; one that the flow makes is made anew."""
    path, asked = Path(settings.source), sum(settings.sizes.values())
    if not path.suffix or not path.is_file():
        return
    with path.open("rb") as stream:
        lines = sum(1 for _ in islice((line for line in stream if line.strip()), asked))
    if lines < asked:
        cause = f"{path} holds {lines} prompts, and {asked} are asked for"
        yield SteerError(f"`sets.{name}`", cause, "lower train, val or test of the set")


def _named_files(config: Config) -> Iterator[tuple[str, Path]]:
    """Files of the user's, some of which the flow may make itself."""
    for name in config.used_sets:
        held = config.sets[name]
        if Path(held.source).suffix:
            yield f"sets.{name}.source", Path(held.source)
        if held.refused_by:
            yield f"sets.{name}.refusals", Path(held.refused_by)
    for name, contrast in config.contrasts.items():
        if contrast.ranking:
            yield f"contrasts.{name}.ranking", Path(contrast.ranking)
    for name, labelled in config.labelled.items():
        if Path(labelled.source).suffix:
            yield f"labelled.{name}.source", Path(labelled.source)


def _faults_of_sources(config: Config, table: Path) -> Iterator[SteerError]:
    kinds = {name: source.kind for name, source in read_sources(table).items()}
    for key, named, wanted in _named_sources(config):
        if named not in kinds:
            offered = [name for name, kind in kinds.items() if kind in wanted]
            yield SteerError(f"`{key}`", f"unknown source `{named}`", nearest(named, offered))
        elif kinds[named] not in wanted:
            cause = f"source `{named}` is of kind `{kinds[named]}`, not {' or '.join(wanted)}"
            yield SteerError(f"`{key}`", cause, f"see {table} for what there is of that kind")


def _faults_of_memory(config: Config, table: Path) -> Iterator[SteerError]:
    """Where rerouting to memory is chosen, answers of memory are known: none could be given otherwise."""
    name = config.selection.rerouting.suppress_on
    if config.behaviour != "faithfulness" or name is None:
        return
    source = read_sources(table).get(config.sets[name].source)
    if source and not source.memory:
        cause = f"source `{source.name}` of set `{name}` has no `memory`, answers known without its documents"
        yield SteerError("`selection.rerouting.suppress_on`", cause, "name a set with some, as of `mquake`")


def _named_sources(config: Config) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Key, name in the table, and what kinds it may be of."""
    for name in config.used_sets:
        held = config.sets[name]
        if held.is_given and not Path(held.source).suffix:
            yield f"sets.{name}.source", held.source, ("prompts",)
        if held.attack:
            yield f"sets.{name}.attack", held.attack, ATTACKS
    for name, model in config.models.items():
        if model.system_source:
            yield f"models.{name}.system_source", model.system_source, ("system",)


def _faults_of_models(config: Config) -> Iterator[SteerError]:
    for name, model in config.models.items():
        made = model.path is not None and Path(model.path).is_relative_to(config.results)
        if model.path is None or made or hub_id(model.path) or Path(model.path).is_dir():
            continue
        cause = f"there is no folder {model.path}, and a model on the hub is named `owner/name`"
        yield SteerError(f"`models.{name}.path`", cause, "correct the path, or name a model on the hub")
