"""Activations of requests, kept by each token's place in its sequence, however vLLM cuts and repeats them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import safetensors.torch
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from steer.models.capture import Capture
from steer.models.edits.signals import Place, Routing, Site
from steer.models.loading import LoadedModel
from steer.vllm.rows import Row

# Marks of a request that is captured: length of its prompt, and the places that are counted (first, end).
PROMPT, COUNTED = "prompt", "counted"
# Datasets by the site that they are read at; a router's are apart.
STREAMS: dict[Place, str] = {
    "residual": "residual",
    "attention": "attention_out",
    "mlp": "mlp_out",
    "experts": "moe_input",
}
ROUTED = ("moe_input", "router_logits", "expert_index", "expert_weight")
COUNTS = ("expert_count", "strongest_count")


@dataclass
class Kept:
    """One request.

    Attributes:
        first: place of the first token that is kept.
        seen: by dataset and layer, the kept places.
        counts: by dataset and layer, over the counted places.
    """

    first: int
    seen: dict[tuple[str, int], Shaped[Tensor, "positions _"]] = field(default_factory=dict)
    counts: dict[tuple[str, int], Int[Tensor, " experts"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Span:
    """Some tokens of one request in a pass: rows of the flat batch, and the place of the first."""

    kept: Kept
    start: int
    stop: int
    place: int


class Capturing:
    """Keeps the last P prompt tokens of requests that are marked, and counts their experts.

    Args:
        view: the model.
        positions: P.
    """

    def __init__(self, view: LoadedModel, positions: int) -> None:
        self._view, self._positions = view, positions
        self._device = torch.device(view.model.device)
        self._kept: dict[str, Kept] = {}
        self._places: list[Span] = []
        self._counted: list[Span] = []
        self._index = self._counting = torch.zeros(0, dtype=torch.long)

    def begin(self, rows: Sequence[Row]) -> None:
        """A pass begins; a request whose first token it computes begins anew."""
        self._places, self._counted = [], []
        for row in rows:
            if COUNTED in row.tag:
                first = int(row.tag[PROMPT]) - self._positions
                if row.position == 0:
                    self._kept[row.tag["id"]] = Kept(first)
                kept, counted = self._kept[row.tag["id"]], row.tag[COUNTED].split()
                self._places += _span(row, kept, first, first + self._positions)
                self._counted += _span(row, kept, int(counted[0]), int(counted[1]))
        self._index, self._counting = (_rows(spans, self._device) for spans in (self._places, self._counted))

    def seen(self, site: Site, signal: Float[Tensor, "tokens d"] | Routing) -> None:
        """What flows past a site."""
        place, layer = site
        if isinstance(signal, Routing):
            signal = signal.by_weight()
            self._keep(("router_logits", layer), signal.logits[0].float())
            self._keep(("expert_index", layer), signal.index[0].to(torch.int16))
            self._keep(("expert_weight", layer), signal.weights[0].float())
            self._count(layer, signal.index[0])
        elif place in STREAMS:
            self._keep((STREAMS[place], layer), signal)

    def _keep(self, what: tuple[str, int], flat: Shaped[Tensor, "tokens _"]) -> None:
        if not self._places:
            return
        here, done = flat.index_select(0, self._index).cpu(), 0
        for span in self._places:
            seen, count = span.kept.seen, span.stop - span.start
            if what not in seen:
                seen[what] = torch.zeros(self._positions, flat.shape[1], dtype=flat.dtype)
            at = span.place - span.kept.first
            seen[what][at : at + count] = here[done : done + count]
            done += count

    def _count(self, layer: int, index: Int[Tensor, "tokens chosen"]) -> None:
        if not self._counted:
            return
        here, done = index.index_select(0, self._counting).cpu(), 0
        for span in self._counted:
            chosen = here[done : done + span.stop - span.start]
            for what, picked in zip(COUNTS, (chosen, chosen[:, :1]), strict=True):
                found = torch.bincount(picked.flatten(), minlength=self._view.experts).to(torch.int32)
                span.kept.counts[what, layer] = span.kept.counts.get((what, layer), 0) + found
            done += len(chosen)

    def take(self, requests: Sequence[str]) -> bytes:
        """The datasets of finished requests, stacked in their order, as safetensors; they are forgotten."""
        kept = [self._kept.pop(request) for request in requests]
        layers, moe = range(self._view.layers), self._view.sites.moe_layers
        stacked = {
            "residual": _stacked(kept, "residual", range(self._view.layers + 1)),
            "attention_out": _stacked(kept, "attention_out", layers),
            "mlp_out": _stacked(kept, "mlp_out", layers),
        }
        if moe:
            stacked |= {name: _stacked(kept, name, moe) for name in ROUTED}
            for name in COUNTS:
                stacked[name] = torch.stack([torch.stack([one.counts[name, i] for i in moe]) for one in kept])
        return safetensors.torch.save(stacked)


def unpacked(content: bytes) -> Capture:
    """What `Capturing.take` packed; a dense model has no routing."""
    found = safetensors.torch.load(content)
    empty = found["residual"][:, :0]
    for name in (*ROUTED, *COUNTS):
        shape = empty if name == "moe_input" else empty[..., :0]
        found.setdefault(name, shape[:, :, 0] if name in COUNTS else shape)
    return Capture(
        **{name: found[name] for name in ("residual", "attention_out", "mlp_out", "moe_input")},
        router_logits=found["router_logits"].float(),
        expert_index=found["expert_index"].to(torch.int16),
        expert_weight=found["expert_weight"].float(),
        **{name: found[name].to(torch.int32) for name in COUNTS},
    )


def _span(row: Row, kept: Kept, first: int, last: int) -> list[Span]:
    """The tokens of a row with places from `first` to before `last`, if there are any."""
    start, stop = max(row.position, first), min(row.end, last)
    shift = row.start - row.position
    return [Span(kept, start + shift, stop + shift, start)] if start < stop else []


def _rows(spans: Sequence[Span], device: torch.device) -> Int[Tensor, " rows"]:
    parts = [torch.arange(span.start, span.stop) for span in spans]
    return torch.cat([torch.zeros(0, dtype=torch.long), *parts]).to(device)


def _stacked(
    kept: Sequence[Kept], name: str, layers: Sequence[int]
) -> Shaped[Tensor, "requests layers positions _"]:
    return torch.stack([torch.stack([one.seen[name, layer] for layer in layers]) for one in kept])
