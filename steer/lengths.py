"""Stage `lengths`: whether a judge says the same of a model's replies when they are cut short.

Both papers judge replies of one length. A judge that changes its mind as a reply goes on makes rates depend
on `generation.max_new_tokens`.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from steer import stats
from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.prompts import read_prompts
from steer.artifacts.provenance import provenance
from steer.artifacts.replies import iter_replies
from steer.judges.verdicts import UNSCORED, VERDICTS, Exchange, Judge, PaidJudge, Verdict
from steer.rates import Method
from steer.texts import cut

CHANGES = tuple(f"{whole}_now_{short}" for whole in VERDICTS for short in VERDICTS)
COLUMNS = ("judge", "length", "replies", "shortened", "scored", "same", "same_low", "same_high", *CHANGES)


def write_lengths(
    answered: Mapping[Path, Path],
    judges: Mapping[str, Judge],
    lengths: Sequence[int],
    count: int,
    out: Path,
    method: Method,
    log: Callable[[str], None] = print,
) -> None:
    """Write a row per judge and length.

    Args:
        answered: files of replies, each with its prompt set.
        judges: by name.
        lengths: words and marks that replies are cut to.
        count: replies that are looked at, drawn from all arms and sets by the seed.
        out: the table. `same`: share of the replies longer than that, with the same verdict when whole; both
            must be scored. `<verdict>_now_<verdict>`: how many had the first when whole, and the second.
        method: how intervals are made, and the seed.
        log: told what judges will cost and have cost.

    Raises:
        SteerError: a file can't be read.
    """
    exchanges = _drawn(answered, count, method.seed)
    rows = [
        row for name, judge in judges.items() for row in _rows(name, judge, exchanges, lengths, method, log)
    ]
    write_csv(out, rows, COLUMNS)
    inputs = input_digests({"replies": list(answered), "prompts": list(answered.values())})
    versions = {name: judge.version for name, judge in judges.items()}
    known = {"judges": versions, "lengths": [*lengths], "count": count, **asdict(method)}
    attach(out, provenance(__name__, known, inputs, method.seed))


def _drawn(answered: Mapping[Path, Path], count: int, seed: int) -> list[Exchange]:
    found: dict[Exchange, None] = {}
    for replies, prompts in answered.items():
        asked = {prompt.id: prompt.asked for prompt in read_prompts(prompts)}
        # Of sampled replies those of the first sampling seed alone, as agreement counts them.
        first = (one for one in iter_replies(replies) if not one.sample)
        found |= dict.fromkeys(Exchange(asked[one.prompt_id], one.text) for one in first)
    # In an order that no file has a say in; equal replies of several arms are one.
    ordered = sorted(found, key=lambda one: (one.prompt, one.reply))
    return random.Random(f"{seed} lengths").sample(ordered, min(count, len(ordered)))


def _rows(
    name: str,
    judge: Judge,
    exchanges: Sequence[Exchange],
    lengths: Sequence[int],
    method: Method,
    log: Callable[[str], None],
) -> Iterator[Row]:
    short = {
        length: [Exchange(one.prompt, cut(one.reply, length)) for one in exchanges] for length in lengths
    }
    asked = list(dict.fromkeys([*exchanges, *(one for cuts in short.values() for one in cuts)]))
    if isinstance(judge, PaidJudge):
        log(judge.forecast(asked))
    said = {one: found.verdict for one, found in zip(asked, judge.judge(asked), strict=True)}
    if isinstance(judge, PaidJudge):
        log(judge.bill())
    for length, cuts in short.items():
        changed = [(one, other) for one, other in zip(exchanges, cuts, strict=True) if one != other]
        pairs = [(said[one], said[other]) for one, other in changed]
        yield {
            "judge": name,
            "length": length,
            "replies": len(exchanges),
            "shortened": len(changed),
        } | _counted(pairs, method)


def _counted(pairs: Sequence[tuple[Verdict, Verdict]], method: Method) -> Row:
    scored = [pair for pair in pairs if UNSCORED not in pair]
    same = stats.wilson(sum(one == other for one, other in scored), len(scored), method.confidence)
    row: Row = {"scored": len(scored), **dict(zip(("same", "same_low", "same_high"), same, strict=True))}
    return row | {
        f"{whole}_now_{short}": scored.count((whole, short)) for whole in VERDICTS for short in VERDICTS
    }
