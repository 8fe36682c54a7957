"""Stage `scores`: verdicts into rates with intervals, by category too, and agreement of judges."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from steer import stats
from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.prompts import Prompt, read_prompts
from steer.artifacts.provenance import provenance
from steer.artifacts.replies import JudgedReply, Key, Reply, iter_replies, read_verdicts
from steer.categories import category_columns, category_rows, seen_categories
from steer.claims import CLAIM_COLUMNS, claim, possible
from steer.controls import Compared
from steer.errors import SteerError
from steer.judges.behaviours import Behaviour
from steer.judges.verdicts import UNSCORED, Verdict
from steer.pooling import pooled_columns, pooled_rows
from steer.rates import (
    BASELINE,
    Method,
    adjust,
    adjusted_columns,
    difference_columns,
    differences,
    rate_columns,
    rates,
)
from steer.recovery import RECOVERY_COLUMNS, recovery_rows
from steer.told import Told, by_arm

ALL_ARMS = "*"
"""Stands for all arms together in the table of agreement; no arm can have this name."""

AGREEMENT_COLUMNS = (
    *("reference", "judge", "set", "arm", "n", "unscored"),
    *("accuracy", "accuracy_low", "accuracy_high", "kappa", "ci_low", "ci_high"),
)
MEASURES = (
    *("first_token_kl", "first_token_refusal_score"),
    *("fired_tokens", "fired_relative_norm", "fired_leaked", "fired_blocked"),
)


def score_columns(behaviour: Behaviour) -> tuple[str, ...]:
    """The columns of `scores.csv`."""
    compared = (*difference_columns(behaviour), *adjusted_columns(behaviour))
    return (
        *("arm", "set", "judge", *rate_columns(behaviour), *compared),
        *("restates_rate", "first_token_kl", "first_token_refusal_score"),
        *(
            "fired_tokens",
            "fired_relative_norm",
            "fired_leaked",
            "fired_blocked",
            "coherence",
            *("score", "score_low", "score_high"),
            *CLAIM_COLUMNS,
        ),
    )


@dataclass(frozen=True)
class JudgedSet:
    """The files of one prompt set: its prompts, their replies, and each judge's verdicts on them."""

    name: str
    prompts: Path
    generation: Path
    judging: Mapping[str, Path]


@dataclass(frozen=True)
class Tables:
    """Where the tables are written."""

    scores: Path
    agreement: Path
    categories: Path
    pooled: Path
    recovery: Path

    @property
    def all(self) -> tuple[Path, ...]:
        """Every one of them."""
        return self.scores, self.agreement, self.categories, self.pooled, self.recovery


@dataclass(frozen=True)
class Comparisons:
    """What arms are compared with beside the unsteered model.

    Attributes:
        claims: arms that something is to be said of, with their controls.
        pools: arms that differ in the seed alone, by pool.
        recovered: arms on experts, each with a whole edit that does the same, and their polarity.
    """

    claims: Mapping[str, Compared] = field(default_factory=dict)
    pools: Mapping[str, Sequence[str]] = field(default_factory=dict)
    recovered: Sequence[tuple[str, str, str]] = ()


NOTHING_MORE = Comparisons()


def score(
    sets: Sequence[JudgedSet],
    estimating: Sequence[Path],
    out: Tables,
    method: Method,
    comparisons: Comparisons = NOTHING_MORE,
) -> None:
    """Write `scores.csv`, `agreement.csv`, `categories.csv`, `pooled.csv` and `recovery.csv`.

    Args:
        sets: what was answered and judged.
        estimating: the prompt sets that anything is estimated, detected or chosen on.
        out: the tables.
        method: how intervals are made.
        comparisons: what arms are compared with beside the unsteered model.

    Raises:
        SteerError: a file is missing or malformed, a judging file doesn't match the replies, or the arms
            were not run on the same prompts.
    """
    scores, agreement, categories, pooled, recovery = (list[Row]() for _ in range(5))
    seen = seen_categories(estimating)
    for judged in sets:
        replies = _read_replies(judged.generation)
        verdicts = {judge: read_verdicts(path, replies) for judge, path in judged.judging.items()}
        prompts = list(read_prompts(judged.prompts))
        labels = {prompt.label for prompt in prompts}
        for judge, found in verdicts.items():
            told = by_arm(found)
            rows = list(_score_rows(judged.name, judge, replies, found, told, method))
            adjust(rows, method.behaviour)
            _add_claims(rows, told, prompts, comparisons.claims, method)
            scores += rows
            place, names = {"set": judged.name, "judge": judge}, (judged.name, judge)
            pooled += [place | row for row in pooled_rows(comparisons.pools, told, method, *names)]
            shares = recovery_rows(comparisons.recovered, labels, told, method, *names)
            recovery += [place | row for row in shares]
            categories += category_rows(judged.name, judge, told, judged.prompts, seen, method)
        agreement += _agreement_rows(judged.name, verdicts, method)
    write_csv(out.scores, scores, score_columns(method.behaviour))
    write_csv(out.agreement, agreement, AGREEMENT_COLUMNS)
    write_csv(out.categories, categories, category_columns(method.behaviour))
    write_csv(out.pooled, pooled, pooled_columns(method.behaviour))
    write_csv(out.recovery, recovery, RECOVERY_COLUMNS)
    for path in out.all:
        attach(path, _provenance(sets, estimating, method, comparisons))


def _provenance(
    sets: Sequence[JudgedSet], estimating: Sequence[Path], method: Method, comparisons: Comparisons
) -> Row:
    inputs: dict[str, Sequence[Path]] = {
        "prompts": [judged.prompts for judged in sets],
        "estimating": estimating,
        "replies": [judged.generation for judged in sets],
        "verdicts": [path for judged in sets for path in judged.judging.values()],
    }
    settings = asdict(method) | asdict(comparisons)
    return provenance(__name__, settings, input_digests(inputs), method.seed)


def _read_replies(path: Path) -> dict[Key, Reply]:
    """All replies by arm, prompt and sample; every arm has the baseline's prompts, and as many samples."""
    replies = {reply.key: reply for reply in iter_replies(path)}
    prompts = {key[1:] for key in replies if key.arm == BASELINE}
    if not prompts:
        raise SteerError(str(path), f"has no replies of arm `{BASELINE}`", "generate the set again")
    for arm in _arms(replies):
        odd = sorted({prompt for prompt, _ in prompts ^ {key[1:] for key in replies if key.arm == arm}})
        if odd:
            cause = f"arms `{arm}` and `{BASELINE}` differ in {len(odd)} prompts, such as `{odd[0]}`"
            raise SteerError(str(path), cause, "generate the set again")
    return replies


def _arms(keys: Mapping[Key, Any]) -> list[str]:
    return list(dict.fromkeys(key.arm for key in keys))


def _score_rows(
    set_name: str,
    judge: str,
    replies: Mapping[Key, Reply],
    found: Mapping[Key, JudgedReply],
    told: Mapping[str, Mapping[str, Told]],
    method: Method,
) -> Iterator[Row]:
    for arm in _arms(replies):
        names = (set_name, judge, arm)
        row: Row = {"arm": arm, "set": set_name, "judge": judge}
        row |= rates(list(told[arm].values()), method)
        row["restates_rate"] = _restates_rate(one for key, one in found.items() if key.arm == arm)
        graded = _mean_score({key: one for key, one in found.items() if key.arm == arm}, method, *names)
        # A judge with a score calls weak replies what others call broken ones.
        row |= graded or {"coherence": 1 - row[f"{method.behaviour.broken}_rate"]}
        if arm != BASELINE:
            row |= differences(told[arm], told[BASELINE], method, *names)
        row |= _measures([reply for reply in replies.values() if reply.arm == arm])
        yield row


def _add_claims(
    rows: Sequence[Row],
    told: Mapping[str, Mapping[str, Told]],
    prompts: Sequence[Prompt],
    arms: Mapping[str, Compared],
    method: Method,
) -> None:
    """Say of every arm on prompts of the label that it is for whether it does more than its controls.

    Nothing is said where no prompt could have the verdict that the arm is for.
    """
    labels = {prompt.label for prompt in prompts}
    for row in rows:
        arm = arms.get(row["arm"])
        if arm and method.behaviour.is_for(arm.polarity, labels):
            wanted = method.behaviour.wanted(arm.polarity)
            if not possible(wanted, prompts):
                continue
            gained = row[f"{wanted}_difference_low"]
            row.update(claim(arm, row["arm"], gained, told, method, row["set"], row["judge"]))


def _restates_rate(judged: Any) -> float | None:
    """Share of well-formed compliances that restate the request; None where the judge can't say."""
    compliances = [one.raw["restates"] for one in judged if one.raw.get("well_formed")]
    return sum(compliances) / len(compliances) if compliances else None


def _mean_score(judged: Mapping[Key, JudgedReply], method: Method, *names: str) -> Row:
    """Mean, with its bootstrap interval over prompts, of the score of a rubric that has one."""
    by_prompt: dict[str, list[float]] = {}
    for key, one in judged.items():
        if "score" in one.raw:
            by_prompt.setdefault(key.prompt_id, []).append(one.raw["score"])
    if not by_prompt:
        return {}
    values = np.array([np.mean(scores) for scores in by_prompt.values()])
    rng = method.rng(*names, "score")
    found = stats.paired_difference(values, 0 * values, rng, method.resamples, method.confidence)
    return dict(zip(("score", "score_low", "score_high"), found, strict=True))


def _measures(replies: Sequence[Reply]) -> Row:
    """Means over prompts of what generation measured; empty where it measured nothing."""
    row: Row = {}
    for name in MEASURES:
        values = [value for reply in replies if (value := getattr(reply, name)) is not None]
        row[name] = sum(values) / len(values) if values else None
    return row


def _agreement_rows(
    set_name: str, verdicts: Mapping[str, Mapping[Key, JudgedReply]], method: Method
) -> Iterator[Row]:
    """Every judge against the reference, by arm as well; then the other judges against each other.

    Of sampled replies those of the first sampling seed alone: one a prompt.
    """
    names = sorted(verdicts, key=lambda judge: judge != method.reference)
    for other, judge in combinations(names, 2):
        against = verdicts[other]
        for arm in (ALL_ARMS, *(_arms(against) if other == method.reference else [])):
            keys = [key for key in against if arm in (ALL_ARMS, key.arm) and not key.sample]
            pairs = [(verdicts[judge][key].verdict, against[key].verdict) for key in keys]
            row = {"reference": other, "judge": judge, "set": set_name, "arm": arm}
            seeds = (*(() if other == method.reference else (other,)), set_name, judge, arm, "agreement")
            yield row | _agreement(pairs, method, method.rng(*seeds))


def _agreement(pairs: Sequence[tuple[Verdict, Verdict]], method: Method, rng: np.random.Generator) -> Row:
    scored = [pair for pair in pairs if UNSCORED not in pair]
    one, other = [a for a, _ in scored], [b for _, b in scored]
    equal = stats.accuracy(one, other, method.confidence)
    kappa = stats.cohen_kappa(one, other, rng, method.resamples, method.confidence)
    names = AGREEMENT_COLUMNS[-6:]
    counts = {"n": len(scored), "unscored": len(pairs) - len(scored)}
    return counts | dict(zip(names, (*equal, *kappa), strict=True))
