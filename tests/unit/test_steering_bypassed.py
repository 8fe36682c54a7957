"""Edits that never fire, since the model goes past what they hook, are errors."""

import copy
from typing import Any

import pytest

from steer.errors import SteerError
from steer.models.interventions import Operation
from steer.models.loading import load_checkpoint
from tests.steering import MIXED, Checkpoint, fired, make, prompts, replies, steered


def test_an_edit_whose_module_is_bypassed_is_an_error(any_family: str, checkpoint: Checkpoint) -> None:
    for part in ("self_attn", "mlp"):
        loaded = load_checkpoint(checkpoint(any_family))
        layer = loaded.model.model.layers[1]
        setattr(layer, part, copy.deepcopy(getattr(layer, part)))
        with pytest.raises(
            SteerError, match=r"of layer 1 \(prompt tokens\): its hook never fired(.|\n)*LAYOUTS"
        ):
            steered(loaded, prompts(2), [make(Operation("ablate", "ablate"))] * 2, replies(2))


@pytest.mark.parametrize("kind", ["add", "affine", "ablate"])
def test_an_edit_at_a_layer_or_embedding_that_was_replaced_is_an_error(
    kind: Any, checkpoint: Checkpoint
) -> None:
    loaded = load_checkpoint(checkpoint("olmoe"))
    base = loaded.model.model
    if kind == "ablate":
        base.embed_tokens = copy.deepcopy(base.embed_tokens)
    else:
        base.layers[2] = copy.deepcopy(base.layers[2])
    arm = make(Operation(kind, kind, None if kind == "ablate" else 2))
    with pytest.raises(SteerError, match="its hook never fired"):
        steered(loaded, prompts(2), [arm] * 2, replies(2))
    with pytest.raises(SteerError, match="its hook never fired"):
        fired(loaded, [arm] * 2)


def test_a_model_that_bypasses_its_own_base_is_an_error(checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("olmoe"))
    loaded.model.model = copy.deepcopy(loaded.model.model)
    with pytest.raises(SteerError, match="its hook never fired"):
        steered(loaded, prompts(2), [MIXED[1]] * 2, replies(2))


def test_a_layer_around_the_same_parts_is_an_error(checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(checkpoint("olmoe"))
    inner = loaded.model.model.layers[2]
    outer = copy.deepcopy(inner)
    outer.self_attn, outer.mlp = inner.self_attn, inner.mlp
    loaded.model.model.layers[2] = outer
    with pytest.raises(SteerError, match=r"layer 2 .*its hook never fired"):
        steered(loaded, prompts(2), [make(Operation("ablate", "ablate"))] * 2, replies(2))
