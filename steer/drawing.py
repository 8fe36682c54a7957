"""Sets from files of others: each prompt once, splits drawn by the seed, test prompts in no other split."""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steer.artifacts.files import Row, iter_jsonl
from steer.config import OverlapSettings, SetSettings
from steer.errors import SteerError
from steer.grammar import SPLITS, Split
from steer.grammar.sets import content_of, prompt_id
from steer.overlap import duplicates, normalised
from steer.pairs import built, flattened, refusals_of
from steer.texts import check_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """A set and the file that it is made of."""

    name: str
    settings: SetSettings
    raw: Path


@dataclass(frozen=True)
class Drawing:
    """How sets are drawn.

    Attributes:
        seed: decides which prompts are drawn.
        sources: table of public prompt sets.
        overlap: what counts as the same prompt; None compares nothing.
        known: prompts, normalised, that the set's attack knows; None for one that takes any.
    """

    seed: int
    sources: Path
    overlap: OverlapSettings | None = None
    known: frozenset[str] | None = None


def drawn(given: Given, others: Sequence[Given], how: Drawing) -> tuple[list[Row], dict[str, int]]:
    """The rows of a set with their splits, and how many were left out for a test prompt of each set.

    `test` is drawn whatever other sets hold; from `train` and `val` what says the same as a test prompt of
    the set or of another is left out, and other prompts take its place.

    Raises:
        SteerError: the file can't be used, or holds too few prompts.
    """
    rows = list(_distinct(given.name, given.settings, given.raw, how.sources))
    if how.known is not None:
        rows = [row for row in rows if normalised(row["text"]) in how.known]
    first = _split(given.name, rows, given.settings.sizes, how.seed)
    if how.overlap is None or not (given.settings.train or given.settings.val):
        return first, {}
    tests = {given.name: [_asked(row, given.settings) for row in first if row["split"] == "test"]}
    tests |= {other.name: list(_test_texts(other, how)) for other in others}
    return _without(given, rows, first, tests, how.seed, how.overlap)


def every(given: Given, how: Drawing) -> Iterator[Row]:
    """All rows that a set could be drawn from.

    Raises:
        SteerError: the file can't be used.
    """
    return _distinct(given.name, given.settings, given.raw, how.sources)


def _test_texts(given: Given, how: Drawing) -> Iterator[str]:
    from steer.sources import find_source

    rows = list(_distinct(given.name, given.settings, given.raw, how.sources))
    attack = given.settings.attack
    if attack and find_source(attack, how.sources).kind == "rewritten":
        # Which prompts such an attack knows stands in a file that is not given here: any may be tested.
        yield from (row["text"] for row in rows)
        return
    for row in _split(given.name, rows, given.settings.sizes, how.seed):
        if row["split"] == "test":
            yield _asked(row, given.settings)


def _asked(row: Row, settings: SetSettings) -> str:
    """What prompts are compared by: a question with or without a document by the question, on both sides."""
    return str(row["target"] if settings.document else row["text"])


def _without(
    given: Given,
    rows: list[Row],
    first: list[Row],
    tests: Mapping[str, Sequence[str]],
    seed: int,
    overlap: OverlapSettings,
) -> tuple[list[Row], dict[str, int]]:
    """The drawn rows with other rows in the place of those of train and val that a test prompt repeats."""
    held = {row[key] for row in first if row["split"] == "test" for key in ("id", "group") if key in row}
    free = [row for row in rows if not {row["id"], row.get("group")} & held]
    texts = [_asked(row, given.settings) for row in free]
    same: dict[str, set[str]] = {}
    for name, other in tests.items():
        found = duplicates(texts, other, overlap.ngram, overlap.threshold)
        same[name] = {str(free[one.text]["id"]) for one in found}
    barred = set().union(*same.values())
    taken = {row["id"] for row in first}
    spare = _shuffled(given.name, [row for row in free if row["id"] not in taken | barred], seed)
    groups = {row["group"]: row["split"] for row in first if "group" in row}
    kept: list[Row] = []
    for row in first:
        if row["split"] == "test" or row["id"] not in barred:
            kept.append(row)
        elif (other_row := _taken(spare, row["split"], groups)) is not None:
            kept.append({**other_row, "split": row["split"]})
        else:
            cause = f"{len(barred)} of its prompts say the same as test prompts, and too few others are left"
            raise SteerError(f"set `{given.name}`", cause, "lower its train or val, or remove a set")
    left_out = {name: len(ids & taken) for name, ids in same.items() if ids & taken}
    if left_out:
        log.info("%s: left out of train and val for test prompts of %s", given.name, left_out)
    return kept, left_out


def _taken(spare: list[Row], split: Split, groups: dict[str, Split]) -> Row | None:
    """Take out the first row whose group, if any, is in no split or in this one; it then is in this."""
    fitting = (at for at, row in enumerate(spare) if groups.get(row.get("group", ""), split) == split)
    if (at := next(fitting, None)) is None:
        return None
    row = spare.pop(at)
    if "group" in row:
        groups[row["group"]] = split
    return row


def _distinct(name: str, settings: SetSettings, raw: Path, sources: Path) -> Iterator[Row]:
    """The rows of a file of others, each text once: a repeated prompt would count twice in every rate.

    In a published set repetitions are dropped and counted; in a file of the user's they are an error.
    """
    seen: dict[str, int] = {}
    repeated = 0
    refusals = refusals_of(Path(settings.refused_by)) if settings.refused_by else None
    for number, record in enumerate(_read(settings, raw, sources), 1):
        where = f"{raw}, prompt {number}"
        row = built(_checked(record, where), settings, refusals, where)
        if row is None:
            continue
        text = row["text"]
        paired = _paired(row, settings, where)
        before = row.get("before") or []
        content = content_of(text, paired.get("target"), before)
        # A question that a source answers several times, or over several documents, makes one pair.
        once = str(paired["target"]) if settings.document else content if refusals is None else text
        if seen.setdefault(once, number) != number:
            _check_published(settings, raw, number, seen[once])
            repeated += 1
            continue
        label = row.get("label", settings.label)
        if label != settings.label:
            raise SteerError(
                where,
                f"is labelled {label!r}, the set `{name}` is {settings.label!r}",
                "keep harmful and harmless prompts in sets of their own",
            )
        yield {
            "id": prompt_id(content),
            "text": text,
            "label": settings.label,
            "category": row.get("category") or "",
            "source": settings.source,
            # Without its document, what a document says is no answer.
            **{key: row[key] for key in ("answers", "memory") if key in row and _answers_hold(settings)},
            **paired,
            **({"group": str(row["group"])} if row.get("group") not in (None, "") else {}),
            **({"before": before} if before else {}),
        }
    log.info("%s: %d different prompts, %d repetitions dropped", raw.name, len(seen), repeated)


def _answers_hold(settings: SetSettings) -> bool:
    return settings.document is not None or bool(Path(settings.source).suffix)


def _checked(record: Row, where: str) -> Row:
    """A row with a text that can be used."""
    row = flattened(record, where)
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise SteerError(where, "has no text", "remove it, or give it one")
    for said in (*(row.get("before") or []), text):
        check_text(said, where)
    return row


def _paired(row: Row, settings: SetSettings, where: str) -> Row:
    """What only a paired set has: the target to count on, where it is, and the pair's name."""
    if settings.target is None:
        return {}
    found = {key: row.get(key) for key in ("pair", "target")}
    for key, value in found.items():
        if not isinstance(value, str) or not value.strip():
            raise SteerError(where, f"has no `{key}`", "give every line of a paired set its pair and target")
    if settings.target == "prompt" and found["target"] not in row["text"]:
        raise SteerError(
            f"{where} (pair `{found['pair']}`)", "its target is not in its text", "mend one of the two"
        )
    check_text(str(found["target"]), where)
    return {**found, "target_in": row.get("target_in", settings.target)}


def _check_published(settings: SetSettings, raw: Path, number: int, first: int) -> None:
    if _is_file(settings):
        raise SteerError(
            f"{raw}, prompt {number}",
            f"repeats prompt {first}",
            "remove one of the two: it would count twice",
        )


def _is_file(settings: SetSettings) -> bool:
    """Whether a set comes from a file of the user's, and not from a row of the table of sources."""
    return bool(Path(settings.source).suffix)


def _read(settings: SetSettings, raw: Path, sources: Path) -> Iterator[Row]:
    if _is_file(settings):
        yield from iter_jsonl(raw)
        return
    # Readers of public formats are needed only where a public set is.
    from steer.sources import find_source, read_source

    yield from read_source(raw, find_source(settings.source, sources))


def _split(name: str, rows: list[Row], sizes: Mapping[Split, int], seed: int) -> list[Row]:
    """Draw the splits; the order of the file does not matter, and rows of a `group` are of one split."""
    wanted = sum(sizes.values())
    if len(rows) < wanted or not rows:
        raise SteerError(
            f"set `{name}`",
            f"its source holds {len(rows)} different prompts, {wanted} are asked for",
            "lower train, val or test of the set",
        )
    if any("group" in row for row in rows):
        return _split_groups(name, rows, sizes, seed)
    splits = [split for split in SPLITS for _ in range(sizes[split])]
    chosen = _generator(name, rows, seed).sample(_ordered(rows), wanted)
    return [{**row, "split": split} for row, split in zip(chosen, splits, strict=True)]


def _split_groups(name: str, rows: list[Row], sizes: Mapping[Split, int], seed: int) -> list[Row]:
    """Whole groups fill a split after the other; what a split's last group holds too much is left out."""
    groups: dict[str, list[Row]] = {}
    for row in _shuffled(name, rows, seed):
        groups.setdefault(str(row.get("group", row["id"])), []).append(row)
    left, found = iter(groups.values()), list[Row]()
    for split in SPLITS:
        own: list[Row] = []
        while len(own) < sizes[split] and (group := next(left, None)) is not None:
            own += [{**row, "split": split} for row in group]
        if len(own) < sizes[split]:
            cause = f"whole groups of its rows fill {len(own)} prompts of `{split}`, of {sizes[split]}"
            raise SteerError(f"set `{name}`", cause, "lower train, val or test of the set")
        found += own[: sizes[split]]
    return found


def _ordered(rows: list[Row]) -> list[Row]:
    key = "pair" if "pair" in rows[0] else "id"
    return sorted(rows, key=lambda row: (str(row[key]), str(row["id"])))


def _generator(name: str, rows: list[Row], seed: int) -> random.Random:
    """Both sides of a contrast must draw the same pairs, whatever their sets are called."""
    return random.Random(f"{seed} {'pairs' if 'pair' in rows[0] else name}")


def _shuffled(name: str, rows: list[Row], seed: int) -> list[Row]:
    return _generator(name, rows, seed).sample(_ordered(rows), len(rows)) if rows else []
