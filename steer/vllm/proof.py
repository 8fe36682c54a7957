"""Prove, on the engine's own model, that the sites are what the edits take them for.

The counterpart of `steer.models.proof`: the engine's first request is one of a few tokens without an arm.
Every hook has to fire on it, in its turn and once a pass; what attention and MLP write has to be what the
residual stream gains; and the family's rule has to give vLLM's own weights and choices from the logits.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steer.errors import SteerError
from steer.models.edits.signals import Routing, Site
from steer.models.loading import LoadedModel
from steer.models.proof import TOLERANCE
from steer.vllm.rows import Row

# Logits this near, relative to the largest, may be ranked otherwise by another kernel.
TIE = 1e-4


class Proof:
    """Looks at passes, and judges the first one that computes a request."""

    def __init__(self, view: LoadedModel) -> None:
        self._view = view
        self._seen: dict[Site, Float[Tensor, "tokens d"] | Routing] = {}
        self._recording, self.passes = False, 0

    def begin(self, rows: Sequence[Row]) -> None:
        """A pass begins."""
        self._recording = bool(rows) and self.passes == 0
        self.passes += bool(rows)

    def seen(self, site: Site, signal: Float[Tensor, "tokens d"] | Routing) -> None:
        """Keep what flows past a site."""
        if self._recording and site in self._seen:
            raise self._fail(f"{site[0]} of layer {site[1]}", "its hook fires twice in a pass")
        if self._recording:
            kept = signal if isinstance(signal, Routing) else signal.clone()
            self._seen[site] = kept

    def check(self) -> None:
        """Check every claim.

        Raises:
            SteerError: a claim does not hold; the site is named.
        """
        expected: list[Site] = [("embedding", -1), ("residual", self._view.layers)]
        for index, sites in enumerate(self._view.sites.layers):
            places = ("residual", "heads", "attention", "mlp", *(("router",) if sites.router else ()))
            expected += [(place, index) for place in places]
        if missing := [site for site in expected if site not in self._seen]:
            where = ", ".join(f"{place} of layer {layer}" for place, layer in missing[:4])
            raise self._fail(where, f"its hook never fired ({len(missing)} of {len(expected)} did not)")
        for layer in self._view.sites.moe_layers:
            self._check_width(layer)
        self._check_stream()
        for layer in self._view.sites.moe_layers:
            self._check_rule(layer)

    def _check_width(self, layer: int) -> None:
        """Check that experts see tokens as wide as the stream: some kernels pad packed weights, and them."""
        tokens, stream = self._seen["experts", layer], self._seen["residual", layer]
        assert isinstance(tokens, Tensor)
        assert isinstance(stream, Tensor)
        if tokens.shape[-1] != stream.shape[-1]:
            cause = f"they see {tokens.shape[-1]} numbers of a token, and the stream has {stream.shape[-1]}"
            raise self._fail(f"layer {layer}, experts", f"{cause}: their weights are padded")

    def _check_stream(self) -> None:
        self._check_close("embedding", self._seen["embedding", -1], self._seen["residual", 0])
        for layer in range(self._view.layers):
            parts = [self._seen[place, layer] for place in ("residual", "attention", "mlp")]
            gained = torch.stack([part for part in parts if isinstance(part, Tensor)]).sum(dim=0)
            self._check_close(f"layer {layer}", gained, self._seen["residual", layer + 1])

    def _check_close(self, where: str, found: object, expected: object) -> None:
        assert isinstance(found, Tensor)
        assert isinstance(expected, Tensor)
        error, scale = (found - expected).abs().max(), expected.abs().max()
        # Said so that NaN fails.
        if not bool(error <= TOLERANCE[expected.dtype] * scale):
            raise self._fail(where, f"what is written is not what the residual stream gains ({error:.2g})")

    def _check_rule(self, layer: int) -> None:
        rule, routing = self._view.sites.layers[layer].rule, self._seen["router", layer]
        assert rule is not None
        assert isinstance(routing, Routing)
        weights, index = rule.route(routing.logits.float())
        found = torch.zeros_like(routing.logits, dtype=torch.float32).scatter(-1, index, weights.float())
        error = (found - routing.gates().float()).abs().amax(dim=-1)
        ranked = routing.logits.float().sort(dim=-1, descending=True).values
        gap = ranked[..., rule.top_k - 1] - ranked[..., min(rule.top_k, ranked.shape[-1] - 1)]
        # Where every expert is chosen, no tie decides.
        tied = (gap < TIE * ranked.abs().amax(dim=-1)) & (rule.top_k < ranked.shape[-1])
        if not bool((error[~tied] <= TOLERANCE[torch.float32]).all()):
            cause = f"the family's rule gives other weights than vLLM's router (by {float(error.max()):.2g})"
            raise self._fail(f"layer {layer}, router", cause)

    def _fail(self, where: str, claim: str) -> SteerError:
        return SteerError(
            f"engine `vllm`, {self._view.name}, {where}",
            f"the proof failed: {claim}",
            "run the model with `engine: transformers`; with this vLLM its replies would be steered wrongly",
        )
