"""Stage `prompts`: draw a set from the grammar, or convert the prompts of others, and split it."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from steer.artifacts.files import Row, write_jsonl
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.provenance import provenance
from steer.config import OverlapSettings, SetSettings
from steer.drawing import Drawing, Given, drawn, every
from steer.errors import SteerError
from steer.grammar import SPLITS, Grammar
from steer.grammar.grammar import ReplyKind

Beside = tuple[SetSettings, Path | None]

log = logging.getLogger(__name__)


def write_prompts(
    name: str,
    settings: SetSettings,
    seed: int,
    grammar_folder: Path,
    sources: Path,
    raw: Path | None,
    out: Path,
    held_out: int = 0,
    others: Sequence[Given] = (),
    overlap: OverlapSettings | None = None,
    attack: Path | None = None,
    beside: Beside | None = None,
) -> None:
    """Write the prompt set `name`.

    Args:
        name: its name in the configuration.
        settings: origin, label and sizes of its splits.
        seed: decides which prompts are drawn.
        grammar_folder: the grammar's tables.
        sources: table of public prompt sets.
        raw: the file of a set that is not of the grammar.
        out: the JSONL file.
        held_out: categories of the grammar that only `test` has.
        others: sets whose test prompts are in neither `train` nor `val` of this one.
        overlap: what counts as the same prompt; None compares nothing.
        attack: the file of the attack that `settings` name.
        beside: the set of the other side of its pairs, which `settings` name in `equal_tokens`.

    Raises:
        SteerError: the origin holds too few prompts, or malformed ones.
    """
    left_out: dict[str, int] = {}
    if not sum(settings.sizes.values()):
        raise SteerError(
            f"set `{name}`", "has no prompts: train, val and test are 0", "give one of them a size"
        )
    if settings.source == "grammar":
        rows = Grammar.load(grammar_folder).prompt_rows(
            settings.label, settings.sizes, seed, cast(ReplyKind | None, settings.target), held_out
        )
    else:
        if raw is None:
            raise SteerError(f"set `{name}`", "its file is not given", "name it with --raw")
        how = Drawing(seed, sources, overlap, _known(settings, sources, attack))
        rows, left_out = drawn(Given(name, settings, raw), others, how)
    if settings.equal_tokens:
        rows = _beside(
            name, settings.equal_tokens, rows, beside, Drawing(seed, sources), grammar_folder, held_out
        )
    if settings.attack:
        rows = _attacked(name, settings.attack, rows, sources, attack)
    write_jsonl(out, rows)
    read = {"grammar": grammar_folder} if raw is None else {"raw": raw}
    read |= {"attack": attack} if attack else {}
    read |= {"beside": beside[1]} if beside and beside[1] else {}
    inputs = input_digests({**read, **{f"other {other.name}": other.raw for other in others}})
    known = {"set": name, "held_out": held_out, **settings.model_dump(mode="json")}
    attach(out, {**provenance(__name__, known, inputs, seed), "left_out": left_out})
    counts = Counter(row["split"] for row in rows)
    log.info("%s: %d prompts, %s", name, len(rows), ", ".join(f"{split} {counts[split]}" for split in SPLITS))


def _beside(
    name: str,
    other: str,
    rows: list[Row],
    beside: Beside | None,
    how: Drawing,
    grammar: Path,
    held_out: int,
) -> list[Row]:
    """The rows with the target of the other side of their pairs."""
    if beside is None:
        cause = f"the file of `{other}`, the other side of its pairs, is not given"
        raise SteerError(f"set `{name}`", cause, "name it with --beside")
    settings, raw = beside
    if raw is None:
        kind = cast(ReplyKind | None, settings.target)
        others = Grammar.load(grammar).prompt_rows(settings.label, settings.sizes, how.seed, kind, held_out)
    else:
        others = list(every(Given(other, settings, raw), how))
    targets = {row["pair"]: row["target"] for row in others}
    for row in rows:
        if row["pair"] not in targets:
            fix = "make both sets of the same source and sizes"
            raise SteerError(f"set `{name}`, pair `{row['pair']}`", f"is not in `{other}`", fix)
    return [{**row, "beside": targets[row["pair"]]} for row in rows]


def _attacked(name: str, attack: str, rows: list[Row], sources: Path, path: Path | None) -> list[Row]:
    if path is None:
        raise SteerError(f"set `{name}`", f"the file of `{attack}` is not given", "name it with --attack")
    # Needed only where a set is attacked.
    from steer.attacks import attacked, parts_of
    from steer.sources import find_source

    source = find_source(attack, sources)
    found = list(attacked(rows, source, path, parts_of(source, path, sources)))
    if len(found) < len(rows):
        cause = f"the attack `{attack}` knows {len(found)} of the {len(rows)} prompts that were drawn"
        raise SteerError(f"set `{name}`", cause, "ask for fewer, or use an attack that takes any prompt")
    return found


def _known(settings: SetSettings, sources: Path, path: Path | None) -> frozenset[str] | None:
    """The prompts that the set's attack knows; None for any."""
    if settings.attack is None or path is None:
        return None
    from steer.attacks import rewritten
    from steer.sources import find_source

    return rewritten(find_source(settings.attack, sources), path)
