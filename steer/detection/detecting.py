"""Stage `detection`: every detector's score for every expert, in `results/<model>/detection.csv`.

A larger score always says: this expert looks more like one that carries refusal.

| column | detector |
|---|---|
| `<contrast>_top_k`, `_top_1` | difference of selection rates between the sides of a routing contrast |
| `<contrast>_log_odds` | log-odds ratio of being chosen |
| `<contrast>_stability` | signed share of resamples in which it is among the strongest (SAFEx) |
| `direction_norm` | norm of the expert's direction at the last prompt token |
| `written_share` | share of the refusal direction leaving the last layer that it writes there |
| `gate_gradient` | first-order loss of refusal score when it is scaled to zero |
| `contrast_gradient` | first-order loss when it writes what it writes on harmless prompts |
| `mask_effect` | loss of refusal score when the router can't choose it; with its interval over prompts |
| `reply_gradient`, `reply_effect` | the same two of refusing against complying replies |

Empty cells: masking was not tried (only the experts with the largest gradients are), or no reply pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.facts import ModelFacts
from steer.artifacts.files import Row, read_json, write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.prompts import Prompt, read_prompts
from steer.artifacts.provenance import provenance
from steer.artifacts.routing import read_routing
from steer.artifacts.tensors import read_tensors
from steer.config import DetectionSettings, ModelSettings
from steer.detection.gradients import contrast_gradients, prompt_gradients, reply_gradients, written
from steer.detection.masking import masks, prompt_effects, reply_effects
from steer.detection.rows import PerExpert, Rows, Told
from steer.errors import SteerError
from steer.models.loading import LoadedModel
from steer.models.spans import mark
from steer.models.study import open_study
from steer.stats import paired_difference

Table = dict[str, Float[Tensor, "moe_layers experts"]]
CONTRASTS = {"top_k": "risk_difference", "top_1": "top1_difference", "log_odds": "log_odds_ratio"}


@dataclass(frozen=True)
class Inputs:
    """Files that detectors read.

    Attributes:
        facts: `model.json`.
        harmful, harmless: the contrast's prompt sets.
        record: `refusal.json`, which names the training prompts that the model treats as labelled.
        refusal, experts: the tensor files of directions.
        routing: tables of routing contrasts.
        pairs: paired sets of refusing and of complying replies; none to leave out detectors on replies.
    """

    facts: Path
    harmful: Path
    harmless: Path
    record: Path
    refusal: Path
    experts: Path
    routing: tuple[Path, ...]
    pairs: tuple[Path, ...] = ()


def detect(
    inputs: Inputs,
    out: Path,
    model: ModelSettings,
    settings: DetectionSettings,
    positions: int,
    seed: int,
) -> None:
    """Score every expert by every detector and write `out`.

    Args:
        inputs: the files that are read.
        out: the table.
        model: settings that the model is opened with.
        settings: how many prompts and experts.
        positions: P.
        seed: of the bootstrap.

    Raises:
        SteerError: an input can't be used, or the model has no MoE layers.
    """
    loaded, facts = open_study(inputs.facts, model)
    harmful, harmless = (
        _prompts(loaded, path, read_json(inputs.record)[label], settings.prompts)
        for label, path in (("harmful", inputs.harmful), ("harmless", inputs.harmless))
    )
    table: Table = {}
    for path in inputs.routing:
        table |= _contrast(facts, path)
    table |= _directions(loaded, facts, inputs, harmful, harmless, positions, model.batch_size)
    tokens, size = facts.refusal_token_ids, model.batch_size
    table["gate_gradient"] = prompt_gradients(loaded, harmful, tokens, size)
    table["contrast_gradient"] = contrast_gradients(loaded, harmful, harmless, tokens, positions, size)
    chosen = strongest(table, settings.exact)
    arms = masks(loaded, chosen)
    effects = prompt_effects(loaded, arms, harmful, tokens, size)
    table |= _effects("mask_effect", effects, chosen, table["gate_gradient"].shape, seed)
    if inputs.pairs:
        refusing, complying = inputs.pairs
        pairs = _pairs(loaded, refusing, complying, settings.prompts)
        table["reply_gradient"] = reply_gradients(loaded, *pairs, size)
        on_replies = reply_effects(loaded, arms, *pairs, size)
        table |= _effects("reply_effect", on_replies, chosen, table["gate_gradient"].shape, seed)
    write_csv(out, list(_rows(facts, table)), ("layer", "expert", *table))
    record = {"model": model.model_dump(mode="json"), "detection": settings.model_dump(mode="json")}
    attach(out, provenance("steer.detection.detecting", record, input_digests(vars(inputs)), seed))


def _prompts(loaded: LoadedModel, path: Path, kept: Sequence[str], limit: int) -> Rows:
    """The first of the kept training prompts, by id, encoded."""
    wanted = {*sorted(kept)[:limit]}
    found = [prompt for prompt in read_prompts(path) if prompt.id in wanted]
    return [loaded.encode(prompt.text, prompt.before) for prompt in found]


def _pairs(loaded: LoadedModel, refusing: Path, complying: Path, limit: int) -> tuple[list[Told], list[Told]]:
    """Training pairs of both sets, the first by the pair's name.

    Raises:
        SteerError: the sets have no training pair in common.
    """
    sides = [
        {prompt.pair: prompt for prompt in read_prompts(path) if prompt.split == "train"}
        for path in (refusing, complying)
    ]
    shared = sorted(sides[0].keys() & sides[1].keys())[:limit]
    if not shared:
        raise SteerError(
            f"{refusing} and {complying}",
            "have no training pair in common, so replies can't be compared",
            "name a paired contrast in `detection.pairs`, or leave it out",
        )

    def told(prompt: Prompt) -> Told:
        marked = mark(loaded, prompt, 1)
        return Told(list(marked.ids), marked.tail)

    return [told(sides[0][pair]) for pair in shared], [told(sides[1][pair]) for pair in shared]


def _contrast(facts: ModelFacts, path: Path) -> Table:
    """Detectors of one routing table.

    Raises:
        SteerError: it is not of this model's layers and experts.
    """
    columns = read_routing(path)
    places = {layer: place for place, layer in enumerate(facts.moe_layers)}
    shape = (len(places), facts.experts)
    known = set(columns["layer"].tolist()) <= places.keys()
    if not known or len(columns["layer"]) != shape[0] * shape[1]:
        rows = len(columns["layer"])
        cause = f"has {rows} rows, but the model has {shape[0]} MoE layers of {shape[1]} experts"
        raise SteerError(str(path), cause, "remove it and run the routing stage again")
    at = ([places[layer] for layer in columns["layer"].tolist()], columns["expert"].tolist())

    def grid(values: Float[np.ndarray, " rows"]) -> PerExpert:
        found = torch.full(shape, torch.nan, dtype=torch.float64)
        found[at] = torch.from_numpy(values)
        return found

    table = {f"{path.stem}_{name}": grid(columns[column]) for name, column in CONTRASTS.items()}
    # Plus zero, since a negative zero would be printed with its sign.
    signed = np.sign(columns["risk_difference"]) * columns["prompt_stability"] + 0.0
    return table | {f"{path.stem}_stability": grid(signed)}


def _directions(
    loaded: LoadedModel,
    facts: ModelFacts,
    inputs: Inputs,
    harmful: Rows,
    harmless: Rows,
    positions: int,
    batch_size: int,
) -> Table:
    wide = (positions, facts.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {"forced.direction": (len(facts.moe_layers), facts.experts, *wide)}
    forced = read_tensors(inputs.experts, model=facts.digest, shapes=shapes).tensors["forced.direction"]
    shapes = {"residual.direction": (facts.layers + 1, *wide)}
    residual = read_tensors(inputs.refusal, model=facts.digest, shapes=shapes).tensors["residual.direction"]
    return {
        "direction_norm": forced[:, :, -1].double().norm(dim=-1),
        "written_share": written(loaded, harmful, harmless, residual[-1, -1], batch_size),
    }


def strongest(table: Mapping[str, PerExpert], limit: int) -> list[tuple[int, int]]:
    """(place among MoE layers, expert) of the experts with the largest gradients, by falling size."""
    size = torch.maximum(table["gate_gradient"].abs(), table["contrast_gradient"].abs())
    order = size.flatten().argsort(descending=True, stable=True)[:limit].tolist()
    return [divmod(index, size.shape[1]) for index in order]


def _effects(
    name: str,
    effects: Float[Tensor, "chosen prompts"],
    chosen: Sequence[tuple[int, int]],
    shape: tuple[int, ...],
    seed: int,
) -> Table:
    """Mean of each effect with its bootstrap interval over prompts, NaN where none was measured."""
    names = (name, f"{name}_low", f"{name}_high")
    table = {each: torch.full(tuple(shape), torch.nan, dtype=torch.float64) for each in names}
    for row, place in zip(effects.numpy(), chosen, strict=True):
        # The same resamples for every expert: their intervals can be compared.
        rng = np.random.default_rng(seed)
        for each, value in zip(names, paired_difference(row, np.zeros_like(row), rng), strict=True):
            table[each][place] = value
    return table


def _rows(facts: ModelFacts, table: Table) -> list[Row]:
    return [
        {"layer": facts.moe_layers[at[0]], "expert": at[1]}
        | {name: float(grid[at]) for name, grid in table.items()}
        for at in product(range(len(facts.moe_layers)), range(facts.experts))
    ]
