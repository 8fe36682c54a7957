"""Detectors from gradients: one or two passes over the prompts for all experts.

s is a score that is large where the model refuses: the refusal score of a harmful prompt, or, on a pair of
replies to one prompt, the mean log-probability a token of the refusing reply minus that of the complying one.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steer.detection.rows import PerExpert, Rows, Told, batches
from steer.models.contributions import Seen, by_expert, contributions, watch
from steer.models.gates import gate_gradients, target_log_probability
from steer.models.loading import LoadedModel
from steer.models.scoring import refusal_score


def prompt_gradients(
    loaded: LoadedModel, harmful: Rows, refusing: tuple[int, ...], batch_size: int
) -> PerExpert:
    """Mean over harmful prompts of the refusal score's derivative by every gate."""
    total = torch.zeros(len(loaded.sites.moe_layers), loaded.experts, dtype=torch.float64)
    for indices in batches(harmful, batch_size):
        batch = loaded.batch([harmful[index] for index in indices])
        _, gradients = gate_gradients(loaded, batch, lambda logits: refusal_score(logits[:, -1], refusing))
        total += gradients.double().sum(dim=0)
    return total / len(harmful)


def reply_gradients(
    loaded: LoadedModel, refusing: Sequence[Told], complying: Sequence[Told], batch_size: int
) -> PerExpert:
    """Mean over pairs of the derivative, by every gate, of the difference of log-probability a token."""
    total = torch.zeros(len(loaded.sites.moe_layers), loaded.experts, dtype=torch.float64)
    for sign, side in ((1.0, refusing), (-1.0, complying)):
        for indices in batches([told.tokens for told in side], batch_size):
            mine = [side[index] for index in indices]
            batch = loaded.batch([told.tokens for told in mine])
            replies = [told.reply for told in mine]
            _, gradients = gate_gradients(
                loaded,
                batch,
                lambda logits, replies=replies: target_log_probability(logits, replies),  # type: ignore[misc]
                keep=max(len(reply) for reply in replies) + 1,
            )
            total += sign * gradients.double().sum(dim=0) / len(side)
    return total


def _seen(
    loaded: LoadedModel, rows: Rows, positions: int, batch_size: int, refusing: tuple[int, ...] | None
) -> Iterator[list[Seen]]:
    score = None if refusing is None else lambda logits: refusal_score(logits[:, -1], refusing)
    for indices in batches(rows, batch_size):
        yield watch(loaded, loaded.batch([rows[index] for index in indices]), positions, score)


def contrast_gradients(
    loaded: LoadedModel,
    harmful: Rows,
    harmless: Rows,
    refusing: tuple[int, ...],
    positions: int,
    batch_size: int,
) -> PerExpert:
    """First-order loss of refusal on harmful prompts when an expert adds what it adds on harmless ones.

    mean_n sum_p G_np . c_npe - sum_p mean_n(G_np) . mean_m(c_mpe), with c = g_e E_e(u) (zero where e is not
    chosen), G = ds/dy, n over harmful and m over harmless prompts, p over the last P tokens. Two passes
    over the prompts; no vector an expert is held.
    """
    layers = range(len(loaded.sites.moe_layers))
    own = torch.zeros(len(layers), loaded.experts, dtype=torch.float64)
    other = own.clone()
    mean: list[Tensor] = [torch.zeros(positions, loaded.hidden_size, dtype=torch.float64) for _ in layers]
    for batch in _seen(loaded, harmful, positions, batch_size, refusing):
        for layer, seen in enumerate(batch):
            own[layer] += _dots(loaded, layer, seen, seen.gradient[:, :, None]).sum(dim=0)
            mean[layer] += seen.gradient.double().sum(dim=0).cpu() / len(harmful)
    for batch in _seen(loaded, harmless, positions, batch_size, None):
        for layer, seen in enumerate(batch):
            gradient = mean[layer].to(seen.inputs)[None, :, None]
            other[layer] += _dots(loaded, layer, seen, gradient).sum(dim=0)
    return own / len(harmful) - other / len(harmless)


def written(
    loaded: LoadedModel, harmful: Rows, harmless: Rows, direction: Float[Tensor, " d"], batch_size: int
) -> PerExpert:
    """Share of the refusal direction that each expert writes at the last prompt token.

    (mean over harmful - mean over harmless of g_e E_e(u)) . r / |r|^2, with r the direction leaving the last
    layer: together with embedding, attention and what is shared, the shares of all experts add up to one.
    """
    totals = torch.zeros(len(loaded.sites.moe_layers), loaded.experts, dtype=torch.float64)
    r = direction.double() / direction.double().square().sum()
    for sign, rows in ((1.0, harmful), (-1.0, harmless)):
        for batch in _seen(loaded, rows, 1, batch_size, None):
            for layer, seen in enumerate(batch):
                along = r.to(seen.inputs)
                totals[layer] += sign * _dots(loaded, layer, seen, along).sum(dim=0) / len(rows)
    return totals


def _dots(
    loaded: LoadedModel, place: int, seen: Seen, along: Float[Tensor, "..."]
) -> Float[Tensor, "batch experts"]:
    """Products of what each chosen expert adds with a vector, summed over positions."""
    experts = loaded.sites.layers[loaded.sites.moe_layers[place]].experts
    assert experts is not None
    products = (contributions(experts, seen) * along).sum(dim=-1, dtype=torch.float64)
    return by_expert(products, seen.index, loaded.experts).cpu()
