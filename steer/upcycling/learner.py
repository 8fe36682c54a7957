"""The part of an upcycled model that learns: low-rank changes of experts that share one base.

All experts start as the dense layer's feed-forward network, so in training its products are computed once a
token and not once an expert: expert e is W + B_e A_e in each of its three matrices. Folding makes them
ordinary experts.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from steer.models.architectures import FeedForward, feed_forward, keep_layers, replace_feed_forward
from steer.models.routing import Rule
from steer.models.sites import resolve
from steer.upcycling.settings import UpcycleSettings


class LowRank(nn.Module):
    """Low-rank changes of one matrix, each learnt by one expert or by several; zero at first.

    Args:
        changes: how many.
        into: what the matrix is multiplied with.
        out: what it gives.
        rank: rank of a change.
        generator: of the first factors.
    """

    def __init__(self, changes: int, into: int, out: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(changes, into, rank, generator=generator) / into**0.5)
        self.second = nn.Parameter(torch.zeros(changes, rank, out))

    def forward(self, tokens: Float[Tensor, "token into"], change: int) -> Float[Tensor, "token out"]:
        """What one change adds."""
        return tokens @ self.first[change] @ self.second[change]

    def matrix(self, change: int) -> Float[Tensor, "out into"]:
        """The change, as it is added to a weight."""
        return (self.first[change] @ self.second[change]).T


class LowRankExperts(nn.Module):
    """A MoE block whose experts are one frozen network and low-rank changes of it.

    Attributes:
        logits: router logits of the last forward pass.
        index: the experts that the rule chose by them.
    """

    def __init__(
        self, base: FeedForward, rule: Rule, settings: UpcycleSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        inner, width = base.gate.shape
        self._base, self._rule, self._scale = base, rule, settings.router_scale
        self._start = torch.zeros(settings.experts, width)
        # In units of the experts' step size, so that one optimiser serves both.
        self.router = nn.Parameter(torch.zeros(settings.experts, width))
        self._groups = [torch.tensor(group) for group in settings.learners]
        changes, rank = len(self._groups), settings.rank
        self.gate = LowRank(changes, width, inner, rank, generator)
        self.up = LowRank(changes, width, inner, rank, generator)
        self.down = LowRank(changes, inner, width, rank, generator)
        self.logits, self.index = torch.empty(0), torch.empty(0)

    def start_router(self, rows: Float[Tensor, "expert d"]) -> None:
        """Set what the router is before it has learnt anything."""
        self._start = rows

    @property
    def router_rows(self) -> Float[Tensor, "expert d"]:
        """The router's weights as they are now."""
        return self._start + self._scale * self.router

    def forward(self, inputs: Float[Tensor, "row token d"]) -> Float[Tensor, "row token d"]:
        """The weighted sum of the chosen experts' outputs, as the folded block gives it."""
        tokens = inputs.flatten(0, 1)
        logits = tokens @ self.router_rows.T
        weights, index = self._rule.route(logits)
        self.logits, self.index = logits.view(*inputs.shape[:2], -1), index.view(*inputs.shape[:2], -1)
        gate, up = tokens @ self._base.gate.T, tokens @ self._base.up.T
        shares = [(weights * torch.isin(index, group)).sum(dim=-1) for group in self._groups]
        # What the weights leave goes to experts that are still the base.
        rest = weights.sum(dim=-1) - torch.stack(shares).sum(dim=0)
        inner = rest[:, None] * nn.functional.silu(gate) * up
        changed = torch.zeros_like(tokens)
        for change, share in enumerate(shares):
            rows = share.nonzero()[:, 0]
            own = nn.functional.silu(gate[rows] + self.gate(tokens[rows], change))
            own = own * (up[rows] + self.up(tokens[rows], change)) * share[rows, None]
            inner = inner.index_add(0, rows, own)
            changed = changed.index_add(0, rows, self.down(own, change))
        return (inner @ self._base.down.T + changed).view_as(inputs)

    @torch.no_grad()
    def folded(self) -> Iterator[tuple[int, FeedForward]]:
        """The weights of every expert that learnt."""
        base = self._base
        for change, group in enumerate(self._groups):
            gate, up, down = (part.matrix(change) for part in (self.gate, self.up, self.down))
            for expert in group.tolist():
                yield expert, FeedForward(base.gate + gate, base.up + up, base.down + down)


class Learner(PreTrainedModel):
    """A dense model from its first layer with experts on; what of it learns is all that it holds.

    The frozen model is no submodule, so that parameters and saved states are those of the experts alone.
    It reads the states that enter its first layer in the place of token embeddings.
    """

    # The dense model's own attention runs, whatever it is.
    _supports_sdpa = _supports_flash_attn = True

    def __init__(self, dense: Any, rule: Rule, settings: UpcycleSettings) -> None:
        super().__init__(dense.config)
        keep_layers(dense, slice(settings.first_layer, None))
        generator = torch.Generator().manual_seed(settings.seed)
        sites = resolve(dense).layers[: settings.layers]
        weights = [feed_forward(site.mlp) for site in sites]
        self._parts = [LowRankExperts(one, rule, settings, generator) for one in weights]
        self.learning = nn.ModuleList(self._parts)
        for layer, block in enumerate(self._parts):
            replace_feed_forward(dense, layer, block)
        self._dense = [dense]

    @property
    def blocks(self) -> Sequence[LowRankExperts]:
        """The MoE blocks, by layer."""
        return self._parts

    def get_decoder(self) -> Any:
        """The decoder layers, as the training loop runs them."""
        return self._dense[0].get_decoder()

    def get_output_embeddings(self) -> Any:
        """The output layer."""
        return self._dense[0].get_output_embeddings()
