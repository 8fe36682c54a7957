"""Stage `pairing`: what the making of refusal pairs does to the ranking of experts.

SteerMoE (arXiv 2509.09660) contrasts fixed refusals with free text that is several times longer. Here the
same pairs are counted four times: refusals as the set has them or the model's own, and all tokens of a target
or only as many as both sides have.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach
from steer.artifacts.prompts import Prompt, read_prompts
from steer.artifacts.provenance import file_digest, provenance
from steer.config import ModelSettings, PairingSettings
from steer.errors import SteerError
from steer.judges.phrases import PhraseMatching
from steer.judges.verdicts import Exchange
from steer.models.batching import by_length
from steer.models.capture import capture
from steer.models.decoding import generate
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.spans import Marked, mark
from steer.models.study import open_study

COLUMNS = (
    *("refusals", "tokens", "pairs", "tokens_1", "tokens_2"),
    *("rank_correlation", "shared_top", "top", "best", "best_difference"),
)
Pairs = list[tuple[Prompt, Prompt]]
Differences = Float[np.ndarray, " experts"]

log = logging.getLogger(__name__)


def write_pairing(
    facts_path: Path,
    sets: Sequence[Path],
    out: Path,
    model: ModelSettings,
    settings: PairingSettings,
    top: int,
) -> None:
    """Write the table: a row per way of making the pairs.

    Args:
        facts_path: `model.json` of the model.
        sets: the refusing and the complying set of a paired contrast.
        out: the table. `rank_correlation` (Spearman) and `shared_top` compare the experts' risk differences
            with those of the first row; `best` is the expert of the largest one.
        model: its settings.
        settings: how many pairs, and how long the model's own replies may be.
        top: experts that `shared_top` is a share of, by size of the risk difference.

    Raises:
        SteerError: a set can't be used, or a prompt has no partner.
    """
    loaded, facts = open_study(facts_path, model)
    fixed = _pairs([read_prompts(path) for path in sets], settings.prompts)
    own = _own(loaded, fixed, model.batch_size, settings.max_new_tokens)
    log.info("the model refuses %d of %d prompts in its own words", len(own), len(fixed))
    if own:
        # Other prompts would be another difference between the rows.
        kept = {first.pair for first, _ in own}
        fixed = [pair for pair in fixed if pair[0].pair in kept]
    rows = list(_rows(loaded, {"fixed": fixed, "own": own}, model.batch_size, top))
    write_csv(out, rows, COLUMNS)
    inputs = {"model": facts.digest, **{path.stem: file_digest(path) for path in sets}}
    known = {"model": model.model_dump(mode="json"), "pairing": settings.model_dump(), "top": top}
    attach(out, provenance(__name__, known, inputs))


def _pairs(sides: Sequence[Sequence[Prompt]], count: int) -> Pairs:
    second = {prompt.pair: prompt for prompt in sides[1]}
    found = []
    for prompt in sides[0]:
        if prompt.split == "train":
            if prompt.pair not in second:
                cause = "has no partner in the other set"
                raise SteerError(
                    f"pair `{prompt.pair}`", cause, "make both sets of the same source and sizes"
                )
            # Sets may be cut to equal counts already; here both ways are counted.
            found.append((replace(prompt, beside=""), replace(second[prompt.pair], beside="")))
    return found[:count]


def _own(loaded: LoadedModel, pairs: Pairs, batch_size: int, longest: int) -> Pairs:
    """The pairs that the model refuses, each with its own reply in the place of the refusal."""
    found: Pairs = []
    asked = [loaded.encode(first.text, first.before) for first, _ in pairs]
    for indices in _batches(asked, pairs, batch_size):
        prompts = [asked[index] for index in indices]
        replies = generate(loaded, prompts, [Arm("baseline")] * len(prompts), longest)
        verdicts = PhraseMatching().judge([Exchange("", reply.text) for reply in replies])
        for index, reply, judged in zip(indices, replies, verdicts, strict=True):
            if judged.verdict == "refusal" and reply.text.strip():
                first, second = pairs[index]
                found.append((replace(first, target=reply.text.strip()), second))
    return sorted(found, key=lambda pair: pair[0].id)


def _batches(rows: Sequence[Sequence[int]], pairs: Pairs, size: int) -> list[list[int]]:
    return by_length([len(row) for row in rows], [first.id for first, _ in pairs], size)


def _rows(loaded: LoadedModel, made: Mapping[str, Pairs], batch_size: int, top: int) -> Iterator[Row]:
    first: Differences | None = None
    for refusals, pairs in made.items():
        marked = [(mark(loaded, one, 1), mark(loaded, other, 1)) for one, other in pairs]
        for tokens, rows in (("all", marked), ("equal", [_equal(*pair) for pair in marked])):
            sides = [[pair[side] for pair in rows] for side in (0, 1)]
            row: Row = {"refusals": refusals, "tokens": tokens, "pairs": len(rows), "top": top}
            row |= {f"tokens_{side}": sum(one.tokens for one in sides[side - 1]) for side in (1, 2)}
            if rows:
                found = _rates(loaded, sides[0], batch_size) - _rates(loaded, sides[1], batch_size)
                first = found if first is None else first
                row |= _compared(loaded, found, first, top)
            yield row


def _equal(first: Marked, second: Marked) -> tuple[Marked, Marked]:
    """Both targets cut to the length of the shorter one."""
    length = min(first.tokens, second.tokens)
    one, other = (
        replace(side, counted=(side.counted[0], side.counted[0] + length)) for side in (first, second)
    )
    return one, other


def _rates(loaded: LoadedModel, rows: Sequence[Marked], batch_size: int) -> Differences:
    """Share of the counted tokens, pooled over rows, that choose each expert, layer by layer."""
    chosen = np.zeros(len(loaded.sites.moe_layers) * loaded.experts, dtype=np.int64)
    batches = by_length(
        [len(row.ids) for row in rows], [str(index) for index in range(len(rows))], batch_size
    )
    with capture(loaded, 1) as recorder:
        for indices in batches:
            batch = [rows[index] for index in indices]
            recorder.expect(batch)
            loaded.next_token_logits(loaded.batch([row.ids for row in batch]), [row.tail for row in batch])
            chosen += recorder.take().expert_count.sum(dim=0).flatten().numpy()
    return chosen / sum(row.tokens for row in rows)


def _compared(loaded: LoadedModel, found: Differences, first: Differences, top: int) -> Row:
    leaders, others = (np.argsort(-np.abs(one), kind="stable")[:top] for one in (found, first))
    best = int(leaders[0])
    layer, expert = loaded.sites.moe_layers[best // loaded.experts], best % loaded.experts
    return {
        "rank_correlation": float(spearmanr(found, first).statistic),
        "shared_top": len({*leaders.tolist()} & {*others.tolist()}) / len(leaders),
        "best": f"{layer}:{expert}",
        "best_difference": float(found[best]),
    }
