"""Stage `decomposition`: what writes the refusal direction, and how the directions lie to each other.

Three tables under `results/<model>/decomposition/`:

    writes.csv    share of the direction entering a layer that the embedding and each attention and MLP (or
                  MoE block) below it write, at every position; shares to one layer and position add up to 1
    experts.csv   for each expert: norm of its direction, and its cosine with the directions around it and
                  with its own router row
    cosines.csv   cosine of every pair among the directions of the residual stream, of attention, of MLP
                  or MoE blocks, of the experts with the longest directions, and of their router rows
"""

from collections.abc import Iterator, Mapping
from itertools import combinations_with_replacement
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.facts import ModelFacts
from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach
from steer.artifacts.provenance import file_digest, provenance
from steer.artifacts.tensors import read_tensors
from steer.config import ModelSettings
from steer.models.architectures import router_rows
from steer.models.loading import LoadedModel
from steer.models.study import open_study

WRITES = ("to_layer", "position", "layer", "component", "share", "norm")
EXPERTS = (
    *("layer", "expert", "position", "norm"),
    *("residual", "attention", "mlp", "router_row", "router_row_residual"),
)
COSINES = ("position", "first", "second", "cosine")
NAMED_EXPERTS = 12
"""Experts, those with the longest directions, that the table of all pairs names."""


def decompose(
    facts_path: Path, refusal: Path, experts: Path | None, out: Path, model: ModelSettings, positions: int
) -> None:
    """Write the tables into the folder `out`; that of experts is empty for a dense model.

    Args:
        facts_path: `model.json`.
        refusal: `refusal.safetensors`.
        experts: `experts.safetensors`, None for a dense model.
        out: the folder.
        model: settings that the model is opened with.
        positions: P.

    Raises:
        SteerError: an input can't be used.
    """
    loaded, facts = open_study(facts_path, model)
    found = read_refusal(refusal, facts, positions)
    forced = None if experts is None else read_forced(experts, facts, positions)
    named = dict(named_directions(loaded, found, forced))
    tables = {
        "writes": (list(writes(found)), WRITES),
        "experts": ([] if forced is None else list(alignments(loaded, found, forced)), EXPERTS),
        "cosines": (list(cosines(named)), COSINES),
    }
    inputs = {"model": facts.digest, "refusal": file_digest(refusal)}
    inputs |= {} if experts is None else {"experts": file_digest(experts)}
    origin = provenance("steer.decomposition", model.model_dump(mode="json"), inputs)
    for name, (rows, columns) in tables.items():
        write_csv(out / f"{name}.csv", rows, columns)
        attach(out / f"{name}.csv", origin)


Found = Mapping[str, Float[Tensor, "layers positions d"]]
Forced = Float[Tensor, "moe_layers experts positions d"]


def read_refusal(path: Path, facts: ModelFacts, positions: int) -> Found:
    """Directions of the residual stream `[L+1, P, d]`, of attention and of the MLP `[L, P, d]`, float64."""
    sizes = {"residual": facts.layers + 1, "attention_out": facts.layers, "mlp_out": facts.layers}
    shapes = {f"{site}.direction": (size, positions, facts.hidden_size) for site, size in sizes.items()}
    tensors = read_tensors(path, model=facts.digest, shapes=shapes).tensors
    return {site: tensors[f"{site}.direction"].double() for site in sizes}


def read_forced(
    path: Path, facts: ModelFacts, positions: int
) -> Float[Tensor, "moe_layers experts positions d"]:
    """The direction of every expert, float32."""
    shape = (len(facts.moe_layers), facts.experts, positions, facts.hidden_size)
    return read_tensors(path, model=facts.digest, shapes={"forced.direction": shape}).tensors[
        "forced.direction"
    ]


def writes(found: Found) -> Iterator[Row]:
    """Shares of the direction entering every layer, and leaving the last, at every position.

    The residual stream is a sum and a difference of means is linear, so a direction is the sum of what the
    embedding and all attention and MLP below it write: share = <write, r> / |r|^2.
    """
    residual = found["residual"]
    for to_layer in range(len(residual)):
        for at in range(residual.shape[1]):
            r = residual[to_layer, at]
            if not bool((r != 0).any()):
                continue
            place: Row = {"to_layer": to_layer, "position": at - residual.shape[1]}
            yield place | _write(-1, "embedding", residual[0, at], r)
            for layer in range(to_layer):
                yield place | _write(layer, "attention", found["attention_out"][layer, at], r)
                yield place | _write(layer, "mlp", found["mlp_out"][layer, at], r)


def _write(layer: int, component: str, write: Float[Tensor, " d"], r: Float[Tensor, " d"]) -> Row:
    share = float(write @ r / (r @ r))
    return {"layer": layer, "component": component, "share": share, "norm": float(write.norm())}


def alignments(loaded: LoadedModel, found: Found, forced: Forced) -> Iterator[Row]:
    """Cosines of every expert's direction with the directions around it, and with its own router row.

    Around it are those of the residual stream leaving its layer, and of attention and the block in it.
    The router row is compared with the direction entering the layer as well.
    """
    positions = forced.shape[2]
    for place, layer in enumerate(loaded.sites.moe_layers):
        rows = _router(loaded, layer)
        for at in range(positions):
            mine = forced[place, :, at].double()
            entering, leaving = found["residual"][layer, at], found["residual"][layer + 1, at]
            columns = {
                "norm": mine.norm(dim=-1),
                "residual": _cosine(mine, leaving),
                "attention": _cosine(mine, found["attention_out"][layer, at]),
                "mlp": _cosine(mine, found["mlp_out"][layer, at]),
                "router_row": _cosine(mine, rows),
                "router_row_residual": _cosine(rows, entering),
            }
            for expert in range(len(mine)):
                values = {name: float(column[expert]) for name, column in columns.items()}
                yield {"layer": layer, "expert": expert, "position": at - positions, **values}


def named_directions(
    loaded: LoadedModel, found: Found, forced: Forced | None
) -> Iterator[tuple[str, Float[Tensor, " d"]]]:
    """The directions whose cosines are tabled, by name, at the last prompt token."""
    for site, name in (("residual", "residual"), ("attention_out", "attention"), ("mlp_out", "mlp")):
        yield from ((f"{name} {layer}", vector) for layer, vector in enumerate(found[site][:, -1]))
    if forced is None:
        return
    last = forced[:, :, -1].double()
    longest = last.norm(dim=-1).flatten().topk(min(NAMED_EXPERTS, last.shape[0] * last.shape[1])).indices
    chosen = sorted(divmod(int(index), last.shape[1]) for index in longest)
    for place, expert in chosen:
        yield f"expert {loaded.sites.moe_layers[place]}:{expert}", last[place, expert]
    for place, expert in chosen:
        layer = loaded.sites.moe_layers[place]
        yield f"router {layer}:{expert}", _router(loaded, layer)[expert]


def cosines(named: Mapping[str, Float[Tensor, " d"]]) -> Iterator[Row]:
    """Every pair once, a direction with itself included; an empty cell where one of them is zero."""
    for (first, one), (second, other) in combinations_with_replacement(named.items(), 2):
        yield {"position": -1, "first": first, "second": second, "cosine": float(_cosine(one, other))}


def _router(loaded: LoadedModel, layer: int) -> Float[Tensor, "experts d"]:
    router = loaded.sites.layers[layer].router
    assert router is not None
    return router_rows(router).cpu().double()


def _cosine(one: Float[Tensor, "... d"], other: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
    """Cosine along the last axis, NaN where one side is zero."""
    product = (one * other).sum(dim=-1)
    return torch.as_tensor(product / (one.norm(dim=-1) * other.norm(dim=-1)))
