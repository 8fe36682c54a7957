"""Verdicts by category of the prompts: of those that something was estimated or chosen on, and of others."""

from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

from steer import stats
from steer.artifacts.files import Row
from steer.artifacts.prompts import read_prompts
from steer.errors import SteerError
from steer.judges.behaviours import Behaviour
from steer.rates import (
    BASELINE,
    Method,
    difference_columns,
    differences,
    rate_columns,
    rates,
)
from steer.told import Told

ALL_CATEGORIES = "*"
"""Stands for all seen, or all unseen, categories of a set together; no category has this name."""


def category_columns(behaviour: Behaviour) -> tuple[str, ...]:
    """The columns of `categories.csv`."""
    ends = ("", "_low", "_high")
    return (
        *("arm", "set", "judge", "category", "seen"),
        *(*rate_columns(behaviour), *difference_columns(behaviour)),
        *(f"{verdict}_unseen_less_seen{end}" for verdict in behaviour.compared for end in ends),
    )


def seen_categories(estimating: Iterable[Path]) -> frozenset[str]:
    """The categories that prompts of `train` or `val` are of, in any of the sets.

    Raises:
        SteerError: a set is missing or malformed.
    """
    return frozenset(
        prompt.category for path in estimating for prompt in read_prompts(path) if prompt.split != "test"
    )


def category_rows(
    set_name: str,
    judge: str,
    verdicts: Mapping[str, Mapping[str, Told]],
    prompts: Path,
    seen: Set[str],
    method: Method,
) -> Iterator[Row]:
    """A row per arm and category, and per arm for all seen and for all unseen categories together.

    A prompt without a category is in no row. The row of all unseen categories also says how much larger
    their rates are than those of all seen ones; these are other prompts, so that intervals are Newcombe's.

    Args:
        set_name: the prompt set.
        judge: whose verdicts they are.
        verdicts: what it said, by arm and prompt.
        prompts: the file of the prompt set.
        seen: categories that something was estimated, detected or chosen on.
        method: how intervals are made.

    Raises:
        SteerError: a judged prompt is not in the set.
    """
    groups = _groups(verdicts[BASELINE], prompts, seen)
    for arm, mine in verdicts.items():
        seen_row: Row | None = None
        for (category, is_seen), members in groups.items():
            treated = {prompt: mine[prompt] for prompt in members}
            row: Row = {"arm": arm, "set": set_name, "judge": judge, "category": category, "seen": is_seen}
            row |= rates(list(treated.values()), method)
            if arm != BASELINE:
                control = {prompt: verdicts[BASELINE][prompt] for prompt in members}
                names = (set_name, judge, arm, category, str(is_seen))
                row |= differences(treated, control, method, *names)
            if category == ALL_CATEGORIES:
                row |= _unseen_less_seen(row, seen_row, method.behaviour)
                seen_row = row
            yield row


def _unseen_less_seen(row: Row, seen: Row | None, behaviour: Behaviour) -> Row:
    """Differences of the compared verdicts' rates; nothing for seen categories, which come first."""
    if seen is None:
        return {}
    found: Row = {}
    for verdict in behaviour.compared:
        mine, known = (
            stats.Interval(*(one[f"{verdict}_{part}"] for part in ("rate", "low", "high")))
            for one in (row, seen)
        )
        name = f"{verdict}_unseen_less_seen"
        difference = stats.difference_of_shares(mine, known)
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), difference, strict=True))
    return found


def _groups(judged: Iterable[str], prompts: Path, seen: Set[str]) -> dict[tuple[str, bool], list[str]]:
    """Prompts by category and whether it was seen: by name, then all seen and all unseen ones."""
    categories = {prompt.id: prompt.category for prompt in read_prompts(prompts)}
    groups: dict[tuple[str, bool], list[str]] = {}
    for prompt in judged:
        if prompt not in categories:
            cause = f"does not hold prompt `{prompt}`, which was judged"
            raise SteerError(str(prompts), cause, "generate again from the present prompt set")
        category = categories[prompt]
        if category:
            for name in (category, ALL_CATEGORIES):
                groups.setdefault((name, category in seen), []).append(prompt)
    return dict(
        sorted(groups.items(), key=lambda item: (item[0][0] == ALL_CATEGORIES, not item[0][1], item[0]))
    )
