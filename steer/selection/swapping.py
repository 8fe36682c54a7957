"""Arms that put what was recorded of a paired prompt in place (Activation Surgery, arXiv 2603.14278)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.activations import ActivationFile
from steer.artifacts.facts import ModelFacts
from steer.artifacts.prompts import read_prompts
from steer.config import SwapArm
from steer.errors import SteerError
from steer.models.interventions import Arm, Donors, Operation

RECORDED = {"residual": "residual", "attention": "attention_out", "mlp": "mlp_out"}


@dataclass(frozen=True)
class Recorded:
    """The files of a set that gives activations: its prompts, and what was recorded on them."""

    prompts: Path
    activations: Path


def swap_arm(
    name: str,
    settings: SwapArm,
    facts: ModelFacts,
    sources: Mapping[str, Recorded],
    layer: int,
    positions: int,
) -> Arm:
    """Build an arm that swaps: with the activations of every donor, of which each prompt gets its own.

    Args:
        name: its name.
        settings: what is swapped, where, and from which set.
        facts: the model.
        sources: files of the sets that donors are of, by the set's name.
        layer: the layer, where the settings name none.
        positions: prompt positions that are recorded, all of which are swapped where the settings name none.

    Raises:
        SteerError: the set's files are not given or of another model, it has no prompt of the split, or a
            layer or position is not there.
    """
    if settings.donor not in sources:
        cause = f"swaps from set `{settings.donor}`, whose files are not given"
        raise SteerError(f"arm `{name}`", cause, "give them with --prompt-sets and --activations")
    source = sources[settings.donor]
    prompts = {prompt.id: prompt for prompt in read_prompts(source.prompts)}
    layers, places = settings.layers or (layer,), settings.positions or tuple(range(-positions, 0))
    if wrong := [one for one in layers if one >= facts.layers]:
        cause = f"layers {wrong} are not among the {facts.layers} of {facts.path}"
        raise SteerError(f"arm `{name}`", cause, f"name layers from 0 to {facts.layers - 1}")
    with ActivationFile(source.activations, model=facts.digest, prompt_ids=list(prompts)) as file:
        if min(places) < -file.positions:
            cause = f"swaps position {min(places)}, and the last {file.positions} are recorded"
            raise SteerError(f"arm `{name}`", cause, "swap later positions, or record more")
        rows = file.rows(split=settings.split)
        if not rows:
            cause = f"has no `{settings.split}` prompts for arm `{name}` to swap from"
            raise SteerError(str(source.prompts), cause, "name another split, or give the set some")
        values = _values(file, RECORDED[settings.component], rows, layers, places)
        ids = [file.prompt_ids[row] for row in rows]
    operations = tuple(
        Operation(
            "swap",
            tensor=f"donors_{one}",
            layer=one,
            coefficient=settings.strength,
            scope="prompt",
            component=settings.component,
            positions=places,
        )
        for one in layers
    )
    tensors = {f"donors_{one}": values[:, at].contiguous() for at, one in enumerate(layers)}
    donors = Donors(settings.pairing, tuple(ids), tuple(prompts[one].text for one in ids))
    return Arm(name, operations, tensors, donors=donors)


def _values(
    file: ActivationFile, dataset: str, rows: list[int], layers: tuple[int, ...], places: tuple[int, ...]
) -> Float[Tensor, "donors layers places d"]:
    """What was recorded at some layers and positions; one block of prompts is held beside it."""
    at = [file.positions + place for place in places]
    blocks = [block[:, list(layers)][:, :, at] for block in file.blocks(dataset, rows)]
    return torch.from_numpy(np.concatenate(blocks)).float()
