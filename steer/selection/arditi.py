"""Choice of layer and position after Arditi et al. (arXiv 2406.11717, appendix C)."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.facts import ModelFacts
from steer.artifacts.files import Row
from steer.artifacts.provenance import provenance
from steer.config import ArditiSettings, ModelSettings
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.scoring import kl_divergence, refusal_score
from steer.models.study import open_study
from steer.selection.candidates import (
    Directions,
    Question,
    ablation,
    addition,
    digests,
    next_token_values,
    read_directions,
    val_prompts,
)
from steer.selection.ranking import publish, rank, within


def select(
    facts_path: Path,
    directions_path: Path,
    harmful_path: Path,
    harmless_path: Path,
    out: Path,
    model: ModelSettings,
    settings: ArditiSettings,
    positions: int,
) -> None:
    """Score every candidate on `val` and write `<out>.csv` and `<out>.json`.

    Bypass score: mean refusal score of harmful prompts under ablation. Induce score: that of harmless
    prompts under addition, coefficient 1. KL: of ablation on harmless prompts, nats. The lowest bypass
    score wins among those with KL and induce score within their thresholds, last layers pruned.

    Raises:
        SteerError: every candidate is filtered out (the table is kept), or an input can't be used.
    """
    loaded, facts = open_study(facts_path, model)
    directions = read_directions(directions_path, facts, positions)
    harmful, harmless = val_prompts(loaded, harmful_path), val_prompts(loaded, harmless_path)
    places = [place for place in directions.candidates() if not directions.is_zero(*place)]
    scored = _score(loaded, facts, directions, places, harmful, harmless, model.batch_size)
    rows = [
        _row(directions, place, scored.get(place), facts.layers, settings)
        for place in directions.candidates()
    ]
    kept = rank(rows, "bypass_score", largest=False)
    inputs = digests(facts, directions=directions_path, harmful=harmful_path, harmless=harmless_path)
    why = f"lowest bypass score of {len(kept)} candidates within KL {settings.kl_threshold} nats"
    origin = provenance("steer.selection.arditi", settings.model_dump(mode="json"), inputs)
    publish(out, rows, kept, why, _nearest(rows), origin)


def _score(
    loaded: LoadedModel,
    facts: ModelFacts,
    directions: Directions,
    places: Sequence[tuple[int, int]],
    harmful: Sequence[Question],
    harmless: Sequence[Question],
    batch_size: int,
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """(bypass, induce, KL) of every candidate; ablations and additions of all of them share batches."""

    def refusal(logits: Float[Tensor, "b v"], _: Sequence[int]) -> Float[Tensor, " b"]:
        return refusal_score(logits, facts.refusal_token_ids)

    ablations = [ablation(directions, *place) for place in places]
    additions = [addition(directions, *place) for place in places]
    bypass = next_token_values(loaded, [(arm, q) for arm in ablations for q in harmful], batch_size, refusal)
    induce = next_token_values(loaded, [(arm, q) for arm in additions for q in harmless], batch_size, refusal)
    kl = _ablation_kl(loaded, ablations, harmless, batch_size)
    means = [
        values.view(len(places), len(asked)).mean(dim=1).tolist()
        for values, asked in ((bypass, harmful), (induce, harmless), (kl, harmless))
    ]
    return {place: (b, i, k) for place, b, i, k in zip(places, *means, strict=True)}


def _ablation_kl(
    loaded: LoadedModel, ablations: Sequence[Arm], harmless: Sequence[Question], batch_size: int
) -> Float[Tensor, " jobs"]:
    """KL of each (ablation, prompt); one prompt's unsteered logits are held at a time."""
    found = torch.empty(len(ablations), len(harmless), dtype=torch.float64)
    for column, question in enumerate(harmless):
        baseline = loaded.next_token_logits(loaded.batch([question.tokens]))

        def divergence(
            logits: Float[Tensor, "b v"], _: Sequence[int], baseline: Float[Tensor, "1 v"] = baseline
        ) -> Float[Tensor, " b"]:
            return kl_divergence(baseline.expand_as(logits), logits)

        found[:, column] = next_token_values(
            loaded, [(arm, question) for arm in ablations], batch_size, divergence
        )
    return found.flatten()


def _row(
    directions: Directions,
    place: tuple[int, int],
    scores: tuple[float, float, float] | None,
    layers: int,
    settings: ArditiSettings,
) -> Row:
    bypass, induce, kl = scores or (None, None, None)
    return {
        "layer": place[0],
        "position": place[1],
        "bypass_score": bypass,
        "induce_score": induce,
        "kl": kl,
        "direction_norm": float(directions.at(*place).double().norm()),
        "status": _status(place[0], scores, layers, settings),
        "rank": None,
    }


def _status(
    layer: int, scores: tuple[float, float, float] | None, layers: int, settings: ArditiSettings
) -> str:
    if scores is None:
        return "zero direction"
    _, induce, kl = scores
    if not within(layer, layers, settings.prune_layers):
        return "pruned layer"
    if not all(map(math.isfinite, scores)):
        return "not finite"
    if kl > settings.kl_threshold:
        return "KL too large"
    return "induces no refusal" if induce < settings.induce_threshold else "kept"


def _nearest(rows: Sequence[Row]) -> list[str]:
    scored = sorted((row for row in rows if row["kl"] is not None), key=lambda row: row["bypass_score"])
    return [
        f"layer {row['layer']} position {row['position']} ({row['status']}: bypass {row['bypass_score']:.2f},"
        f" induce {row['induce_score']:.2f}, KL {row['kl']:.3f})"
        for row in scored
    ]
