"""Record what flows through a model at the last prompt tokens, and count its routing over a span."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from steer.models.edits.signals import falling
from steer.models.hooks import Register, first, hooked
from steer.models.loading import LoadedModel
from steer.models.sites import LayerSites
from steer.models.spans import Marked


@dataclass(frozen=True)
class Capture:
    """One batch, at the last P tokens of every prompt (index −1 last); contract section 3.

    Attributes:
        residual: entering each layer; index L leaves the last one.
        attention_out: what each layer's attention adds to the residual stream.
        mlp_out: what each layer's MLP or MoE block adds to it.
        moe_input: what router and experts of a MoE layer see.
        router_logits: the router's own logits, float32.
        expert_index: chosen experts, by falling weight.
        expert_weight: their weights as the model uses them, float32.
        expert_count: how often each expert was chosen over the counted tokens.
        strongest_count: how often each one was the strongest of a counted token.
    """

    residual: Float[Tensor, "batch layers_1 positions d"]
    attention_out: Float[Tensor, "batch layers positions d"]
    mlp_out: Float[Tensor, "batch layers positions d"]
    moe_input: Float[Tensor, "batch moe_layers positions d"]
    router_logits: Float[Tensor, "batch moe_layers positions experts"]
    expert_index: Int[Tensor, "batch moe_layers positions chosen"]
    expert_weight: Float[Tensor, "batch moe_layers positions chosen"]
    expert_count: Int[Tensor, "batch moe_layers experts"]
    strongest_count: Int[Tensor, "batch moe_layers experts"]


def count_experts(
    index: Int[Tensor, "batch tokens chosen"], counted: Bool[Tensor, "batch tokens"], experts: int
) -> Int[Tensor, "batch experts"]:
    """How often each expert occurs among those that the counted tokens chose."""
    counts = torch.zeros(len(index), experts, dtype=torch.int32, device=index.device)
    ones = counted[..., None].expand(index.shape).flatten(1).to(torch.int32)
    return counts.scatter_add_(1, index.flatten(1).to(torch.int64), ones)


class Recorder:
    """Holds what the hooks saw in the latest forward pass."""

    def __init__(self, loaded: LoadedModel, positions: int) -> None:
        self._loaded = loaded
        self._positions = positions
        self._marked: Sequence[Marked] | None = None
        self._seen: dict[tuple[str, int], Tensor] = {}

    def expect(self, marked: Sequence[Marked]) -> None:
        """Say what the rows of the next forward passes are; without it they are prompts alone."""
        self._marked = marked

    def keep(self, what: str, index: int, tensor: Shaped[Tensor, "batch tokens _"]) -> None:
        """Copy the last prompt positions of a tensor, so that the batch itself can be freed."""
        self._seen[what, index] = self._last(tensor).detach().to("cpu", copy=True)

    def _last(self, tensor: Shaped[Tensor, "batch tokens _"]) -> Shaped[Tensor, "batch positions _"]:
        if self._marked is None or not any(row.tail for row in self._marked):
            return tensor[:, -self._positions :]
        ends = torch.tensor([tensor.shape[1] - row.tail for row in self._marked], device=tensor.device)
        columns = ends[:, None] + torch.arange(-self._positions, 0, device=tensor.device)
        return tensor[torch.arange(len(tensor), device=tensor.device)[:, None], columns]

    def count(self, index: int, chosen: Int[Tensor, "batch tokens chosen"]) -> None:
        """Count the experts of one layer over the counted tokens of every row."""
        counted = self._counted(*chosen.shape[:2]).to(chosen.device)
        experts = self._loaded.experts
        for what, picked in (("count", chosen), ("strongest", chosen[..., :1])):
            self._seen[what, index] = count_experts(picked, counted, experts).cpu()

    def _counted(self, batch: int, width: int) -> Bool[Tensor, "batch tokens"]:
        counted = torch.zeros(batch, width, dtype=torch.bool)
        if self._marked is None:
            counted[:, -self._positions :] = True
            return counted
        for number, row in enumerate(self._marked):
            padding = width - len(row.ids)
            counted[number, padding + row.counted[0] : padding + row.counted[1]] = True
        return counted

    def keep_first(self, what: str, index: int, output: Any) -> None:
        """Copy the last positions of what a module returns, alone or as the first of a tuple."""
        self.keep(what, index, first(output))

    def keep_write(self, what: str, index: int, output: Any) -> None:
        """Copy the last positions of a write, as large as it is when it is added to the residual stream."""
        scale = self._loaded.sites.write_scale
        self.keep(what, index, first(output) if scale == 1 else first(output) * scale)

    def _stack(self, what: str, indices: range | tuple[int, ...]) -> Tensor:
        return torch.stack([self._seen[what, index] for index in indices], dim=1)

    def take(self) -> Capture:
        """The latest forward pass; forgotten afterwards.

        Raises:
            KeyError: no forward pass ran since the last call.
        """
        layers, moe = range(self._loaded.layers), self._loaded.sites.moe_layers
        residual = self._stack("residual", range(self._loaded.layers + 1))
        empty = residual[:, :0]
        routed = {
            what: self._stack(what, moe) if moe else empty[..., :width]
            for what, width in (("moe_input", None), ("logits", 0), ("index", 0), ("weight", 0))
        }
        counts = {
            what: self._stack(what, moe) if moe else empty[:, :, 0, :0].to(torch.int32)
            for what in ("count", "strongest")
        }
        capture = Capture(
            residual=residual,
            attention_out=self._stack("attention", layers),
            mlp_out=self._stack("mlp", layers),
            moe_input=routed["moe_input"],
            router_logits=routed["logits"].float(),
            expert_index=routed["index"].to(torch.int16),
            expert_weight=routed["weight"].float(),
            expert_count=counts["count"],
            strongest_count=counts["strongest"],
        )
        self._seen.clear()
        return capture


def _after(keep: Callable[[Any], None]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        keep(output)

    return hook


def _hooks(loaded: LoadedModel, recorder: Recorder) -> Iterator[Register]:
    for index, sites in enumerate(loaded.sites.layers):
        yield sites.layer, "before", partial(recorder.keep, "residual", index)
        yield sites.attention_write, "after", _after(partial(recorder.keep_write, "attention", index))
        yield sites.mlp_write, "after", _after(partial(recorder.keep_write, "mlp", index))
        if sites.router is not None:
            yield from _router_hooks(sites, index, recorder)
    last = loaded.layers
    yield loaded.sites.layers[-1].layer, "after", _after(partial(recorder.keep_first, "residual", last))


def _router_hooks(sites: LayerSites, index: int, recorder: Recorder) -> Iterator[Register]:
    shape: list[int] = []

    def enter(tokens: Tensor) -> None:
        # The router sees flattened tokens: the block's input tells how to fold them back.
        shape[:] = tokens.shape[:2]
        recorder.keep("moe_input", index, tokens)

    def leave(output: tuple[Tensor, ...]) -> None:
        logits, weights, chosen = sites.routed(output)
        weights, chosen = falling(weights, chosen)
        routed = {"logits": logits, "weight": weights, "index": chosen}
        for what, tensor in routed.items():
            recorder.keep(what, index, tensor.unflatten(0, tuple(shape)))
        recorder.count(index, routed["index"].unflatten(0, tuple(shape)))

    assert sites.router is not None
    yield sites.mlp, "before", enter
    yield sites.router, "after", _after(leave)


@contextmanager
def capture(loaded: LoadedModel, positions: int) -> Iterator[Recorder]:
    """Record residuals, component outputs and routing while the block runs forward passes.

    Rows must be left-padded (`LoadedModel.batch`) and have at least `positions` tokens.
    """
    recorder = Recorder(loaded, positions)
    with hooked(list(_hooks(loaded, recorder))):
        yield recorder
