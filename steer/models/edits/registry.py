"""Every kind of operation: where it acts, what it needs, and how its edit is made. A new kind is a row."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from steer.models.edits import choice, experts, heads, residual, router
from steer.models.edits.context import Context, Rows
from steer.models.edits.signals import Edit, Phase, Site
from steer.models.interventions import Kind, Operation
from steer.models.loading import LoadedModel

# Which layers an operation names: every one (none is named), one, one with experts, or either of the two.
Layers = Literal["every", "one", "moe", "moe or every"]
# Fields that count with every kind.
COMMON = ("operation", "layer", "coefficient", "scope")


def _residual(operation: Operation, _loaded: LoadedModel) -> Iterable[Site]:
    yield "residual", int(operation.layer or 0)


def _writes(operation: Operation, loaded: LoadedModel) -> Iterable[Site]:
    every = operation.component == "residual"
    if every:
        yield "embedding", -1
    for layer in range(loaded.layers):
        if every or operation.component == "attention":
            yield "attention", layer
        if every or operation.component == "mlp":
            yield "mlp", layer


def _component(operation: Operation, _loaded: LoadedModel) -> Iterable[Site]:
    yield operation.component, int(operation.layer or 0)


def _heads(operation: Operation, _loaded: LoadedModel) -> Iterable[Site]:
    yield "heads", int(operation.layer or 0)


def _experts(operation: Operation, _loaded: LoadedModel) -> Iterable[Site]:
    yield "experts", int(operation.layer or 0)


def _routers(operation: Operation, loaded: LoadedModel) -> Iterable[Site]:
    for layer in loaded.sites.moe_layers if operation.layer is None else (operation.layer,):
        yield "router", layer


@dataclass(frozen=True)
class Entry:
    """What is known of a kind.

    Attributes:
        sites: where an operation acts in a model.
        make: makes the edit of all rows at one site; kinds of one `make` are one edit.
        layers: which layers it names.
        uses: fields that count with it, beside the `COMMON` ones.
        tensor: shape of its tensor in words; None where it has none.
        optional: whether it can do without its tensor.
        merges: whether several may meet at one site of one arm.
    """

    sites: Callable[[Operation, LoadedModel], Iterable[Site]]
    make: Callable[[Context, Rows], Edit]
    layers: Layers = "one"
    uses: tuple[str, ...] = ()
    tensor: Literal["[d]", "[k, d]", "[2, d]", "[n, d]", "[E, d]", "[p, d]"] | None = None
    optional: bool = False
    merges: bool = True


# At a router and at the experts, edits follow each other in this order; elsewhere in the order of the arm.
ENTRIES: dict[Kind, Entry] = {
    "add": Entry(_residual, residual.make_add, tensor="[d]", merges=False),
    "ablate": Entry(_writes, residual.make_ablate, "every", ("component",), "[k, d]", merges=False),
    "affine": Entry(_residual, residual.make_affine, tensor="[2, d]", merges=False),
    "swap": Entry(
        _component, residual.make_swap, uses=("component", "positions"), tensor="[p, d]", optional=True
    ),
    "mask_heads": Entry(_heads, heads.make_mask_heads, uses=("heads",)),
    "expert_add": Entry(_experts, experts.make_add, "moe", ("experts", "weighting"), "[n, d]"),
    "experts_add": Entry(_experts, experts.make_add, "moe", ("weighting",), "[E, d]"),
    "expert_ablate": Entry(_experts, experts.make_ablate, "moe", ("experts",), "[n, d]"),
    "bias_router": Entry(_routers, choice.make_choice, "moe", ("activate", "deactivate")),
    "reroute": Entry(_routers, choice.make_choice, "moe", ("activate", "deactivate")),
    "mask_experts": Entry(_routers, choice.make_choice, "moe", ("experts",)),
    "scale_experts": Entry(_routers, router.make_scale, "moe", ("experts",)),
    "replay_routing": Entry(_routers, router.make_replay, "moe or every"),
}
RANK = {kind: rank for rank, kind in enumerate(ENTRIES)}


def sites_of(operation: Operation, loaded: LoadedModel) -> tuple[Site, ...]:
    """The sites that an operation edits in a model."""
    return tuple(ENTRIES[operation.operation].sites(operation, loaded))


def touches(operation: Operation, phase: Phase) -> bool:
    """Whether an operation's scope takes in the tokens of a phase."""
    return operation.scope in ("all", phase)
