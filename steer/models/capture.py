"""Record what flows through a model at the last prompt tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from steer.models.hooks import Register, first, hooked
from steer.models.loading import LoadedModel


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
    """

    residual: Float[Tensor, "batch layers_1 positions d"]
    attention_out: Float[Tensor, "batch layers positions d"]
    mlp_out: Float[Tensor, "batch layers positions d"]
    moe_input: Float[Tensor, "batch moe_layers positions d"]
    router_logits: Float[Tensor, "batch moe_layers positions experts"]
    expert_index: Int[Tensor, "batch moe_layers positions chosen"]
    expert_weight: Float[Tensor, "batch moe_layers positions chosen"]

    def expert_count(self, experts: int) -> Int[Tensor, "batch moe_layers experts"]:
        """How often each expert was chosen at the positions of each prompt."""
        batch, moe_layers = self.expert_index.shape[:2]
        counts = torch.zeros(batch, moe_layers, experts, dtype=torch.int64)
        index = self.expert_index.flatten(2).to(torch.int64)
        return counts.scatter_add_(2, index, torch.ones_like(index))


class Recorder:
    """Holds what the hooks saw in the latest forward pass."""

    def __init__(self, loaded: LoadedModel, positions: int) -> None:
        self._loaded = loaded
        self._positions = positions
        self._seen: dict[tuple[str, int], Tensor] = {}

    def keep(self, what: str, index: int, tensor: Shaped[Tensor, "batch tokens _"]) -> None:
        """Copy the last positions of a tensor, so that the batch itself can be freed."""
        self._seen[what, index] = tensor[:, -self._positions :].detach().to("cpu", copy=True)

    def keep_first(self, what: str, index: int, output: Any) -> None:
        """Copy the last positions of what a module returns, alone or as the first of a tuple."""
        self.keep(what, index, first(output))

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
        capture = Capture(
            residual=residual,
            attention_out=self._stack("attention", layers),
            mlp_out=self._stack("mlp", layers),
            moe_input=routed["moe_input"],
            router_logits=routed["logits"].float(),
            expert_index=routed["index"].to(torch.int16),
            expert_weight=routed["weight"].float(),
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
        yield sites.attention_write, "after", _after(partial(recorder.keep_first, "attention", index))
        yield sites.mlp_write, "after", _after(partial(recorder.keep_first, "mlp", index))
        if sites.router is not None:
            yield from _router_hooks(sites.mlp, sites.router, index, recorder)
    last = loaded.layers
    yield loaded.sites.layers[-1].layer, "after", _after(partial(recorder.keep_first, "residual", last))


def _router_hooks(block: nn.Module, router: nn.Module, index: int, recorder: Recorder) -> Iterator[Register]:
    shape: list[int] = []

    def enter(tokens: Tensor) -> None:
        # The router sees flattened tokens: the block's input tells how to fold them back.
        shape[:] = tokens.shape[:2]
        recorder.keep("moe_input", index, tokens)

    def leave(output: tuple[Tensor, Tensor, Tensor]) -> None:
        for what, tensor in zip(("logits", "weight", "index"), output, strict=True):
            recorder.keep(what, index, tensor.unflatten(0, tuple(shape)) if tensor.dim() == 2 else tensor)

    yield block, "before", enter
    yield router, "after", _after(leave)


@contextmanager
def capture(loaded: LoadedModel, positions: int) -> Iterator[Recorder]:
    """Record residuals, component outputs and routing while the block runs forward passes.

    Rows must be left-padded (`LoadedModel.batch`) and have at least `positions` tokens.
    """
    recorder = Recorder(loaded, positions)
    with hooked(list(_hooks(loaded, recorder))):
        yield recorder
