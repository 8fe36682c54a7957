"""Apply interventions to a model: another one in every row of a batch, by scope, with or without cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steer.errors import SteerError
from steer.models import interventions as edits
from steer.models.compiling import PHASES, Compiler, Edit, Phase, Site, sites_of, touches
from steer.models.hooks import Register, first, hooked, with_first
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel


@dataclass(frozen=True)
class Fired:
    """What an arm did to one row.

    Attributes:
        tokens: tokens edited at one site at least.
        sites: places of the model where the row was edited.
        relative_norm: Σ‖edit‖ / Σ‖residual entering the layer‖ over the tokens of the first pass that the
            arm touches, averaged over its sites; 0 where nothing was edited.
    """

    tokens: int
    sites: int
    relative_norm: float


def check_arm(loaded: LoadedModel, arm: Arm) -> None:
    """Check that an arm can fire on a model.

    Raises:
        SteerError: an unknown operation, a layer out of range, a tensor that is missing, of another width,
            not finite or zero.
    """
    for operation in arm.operations:
        where = f"arm `{arm.name}`, operation `{operation.operation}`"
        if operation.operation not in edits.KINDS or operation.scope not in edits.SCOPES:
            known = f"operations {', '.join(edits.KINDS)}; scopes {', '.join(edits.SCOPES)}"
            raise SteerError(where, f"unknown operation or scope `{operation.scope}`", f"known: {known}")
        if operation.operation != "ablate" and operation.layer not in range(loaded.layers):
            raise SteerError(
                where,
                f"layer {operation.layer} is not one of the {loaded.layers} layers of {loaded.name}",
                f"choose a layer from 0 to {loaded.layers - 1}",
            )
        _check_tensor(loaded, where, operation.tensor, arm.tensors.get(operation.tensor))


def _check_tensor(loaded: LoadedModel, where: str, name: str, tensor: Tensor | None) -> None:
    if tensor is None:
        raise SteerError(where, f"has no tensor `{name}`", "build the arm again")
    if tensor.shape[-1] != loaded.hidden_size:
        cause = f"tensor `{name}` has width {tensor.shape[-1]}, {loaded.name} has {loaded.hidden_size}"
        raise SteerError(where, cause, "use directions that were estimated on this model")
    if not bool(torch.isfinite(tensor).all()) or not bool((tensor != 0).any()):
        raise SteerError(
            where,
            f"tensor `{name}` is zero or not finite, so the arm can't fire",
            "choose another layer and position (the input of layer 0 is the same for both classes)",
        )


class Steering:
    """The edits in force, and the record of what they did."""

    def __init__(
        self, loaded: LoadedModel, arms: Sequence[Arm], prompt_mask: Int[Tensor, "batch prompt_tokens"]
    ) -> None:
        self._loaded = loaded
        self._arms = arms
        # The mask of the prompt is given, since `generate` hands the model another kind of mask.
        self._prompt_mask = prompt_mask
        self._prompt_width = prompt_mask.shape[1]
        self._columns = (0, 0)
        self._residual_norm: dict[int, Tensor] = {}
        self._passes: dict[Phase, int] = {"prompt": 0, "generated": 0}
        self._called: set[tuple[Site, Phase]] = set()
        self._ratios: dict[Phase, list[Tensor]] = {"prompt": [], "generated": []}
        self.edits = self._compile()

    def _compile(self) -> dict[Site, dict[Phase, Edit]]:
        compiler = Compiler(self._loaded, self._arms)
        sites = sorted(
            {
                site
                for arm in self._arms
                for op in arm.operations
                for site in sites_of(op, self._loaded.layers)
            }
        )
        found = {site: {phase: compiler.edit(site, phase) for phase in PHASES} for site in sites}
        return {site: {p: e for p, e in phases.items() if e is not None} for site, phases in found.items()}

    def enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note which columns of the sequence the coming forward pass computes."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        embeds = kwargs.get("inputs_embeds")
        width = (ids if ids is not None else embeds).shape[1]  # type: ignore[union-attr]
        cache = kwargs.get("past_key_values")
        start = int(cache.get_seq_length()) if cache is not None else 0
        self._columns = (start, start + width)
        for phase, _ in self.segments():
            self._passes[phase] += 1

    def segments(self) -> Iterator[tuple[Phase, slice]]:
        """The phases that the current pass computes, each with its columns."""
        start, stop = self._columns
        border = min(max(self._prompt_width - start, 0), stop - start)
        if border:
            yield "prompt", slice(0, border)
        if border < stop - start:
            yield "generated", slice(border, stop - start)

    def note_residual(self, layer: int, h: Float[Tensor, "batch tokens d"]) -> None:
        """Keep the norm of the residual entering a layer, in the pass that is measured."""
        if any(self._passes[phase] == 1 for phase, _ in self.segments()):
            self._residual_norm[layer] = h.norm(dim=-1)

    def apply(self, site: Site, h: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch tokens d"]:
        """Edit what passes a site."""
        segments = list(self.segments())
        parts = [self._apply_phase(site, phase, h[:, columns], columns) for phase, columns in segments]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _apply_phase(self, site: Site, phase: Phase, h: Tensor, columns: slice) -> Tensor:
        edit = self.edits[site].get(phase)
        if edit is None:
            return h
        self._called.add((site, phase))
        edited = edit(h)
        if self._passes[phase] == 1:
            self._measure(site, phase, h, edited, columns)
        return edited

    def _measure(self, site: Site, phase: Phase, h: Tensor, edited: Tensor, columns: slice) -> None:
        place, layer = site
        norm = (
            h.norm(dim=-1) if place in ("embedding", "residual") else self._residual_norm[layer][:, columns]
        )
        mask = self._prompt_mask if phase == "prompt" else torch.ones_like(norm)
        change = ((edited - h).norm(dim=-1) * mask).sum(dim=1)
        total = (norm * mask).sum(dim=1).clamp(min=torch.finfo(norm.dtype).tiny)
        self._ratios[phase].append((change / total).float().cpu())

    def check_fired(self) -> None:
        """Check that every edit was reached in every phase that ran.

        Raises:
            SteerError: an edit was never reached, so the arm did not do what it says.
        """
        for site, phases in self.edits.items():
            for phase in phases:
                if self._passes[phase] and (site, phase) not in self._called:
                    raise SteerError(
                        f"edit at {site[0]} of layer {site[1]} ({phase} tokens)",
                        "its hook never fired, so the reply is not steered",
                        "this transformers version bypasses the module; mend the family's row in LAYOUTS",
                    )

    def fired(self, generated_tokens: Sequence[int]) -> list[Fired]:
        """What every row's arm did, given how many reply tokens of the row were fed back."""
        norms = {phase: sum(values) for phase, values in self._ratios.items() if values}
        return [self._fired_row(row, fed, norms) for row, fed in enumerate(generated_tokens)]

    def _fired_row(self, row: int, fed: int, norms: dict[Phase, Any]) -> Fired:
        operations = self._arms[row].operations
        sites = {site for op in operations for site in sites_of(op, self._loaded.layers)}
        tokens, ratios = 0, []
        for phase, count in (("prompt", int(self._prompt_mask[row].sum())), ("generated", fed)):
            touched = any(touches(op, phase) for op in operations)  # type: ignore[arg-type]
            if touched and self._passes[phase] and count:  # type: ignore[index]
                tokens += count
                ratios.append(float(norms[phase][row]) / len(sites))  # type: ignore[index]
        return Fired(tokens, len(sites), ratios[0] if ratios else 0.0)


def _hooks(loaded: LoadedModel, steering: Steering) -> Iterator[Register]:
    yield loaded.sites.base, "call", steering.enter
    measured = {layer for place, layer in steering.edits if place in ("attention", "mlp")}
    for index, sites in enumerate(loaded.sites.layers):
        if index in measured:
            yield sites.layer, "before", lambda h, i=index: steering.note_residual(i, h)
        if ("residual", index) in steering.edits:
            yield sites.layer, "before", lambda h, i=index: steering.apply(("residual", i), h)
        for place, module in (("attention", sites.attention_write), ("mlp", sites.mlp_write)):
            if (place, index) in steering.edits:
                yield module, "after", _writer(steering, (place, index))  # type: ignore[arg-type]
    if ("embedding", -1) in steering.edits:
        yield loaded.sites.embedding, "after", _writer(steering, ("embedding", -1))


def _writer(steering: Steering, site: Site) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        return with_first(output, steering.apply(site, first(output)))

    return hook


@contextmanager
def steer(
    loaded: LoadedModel, arms: Sequence[Arm], prompt_mask: Int[Tensor, "batch prompt_tokens"]
) -> Iterator[Steering]:
    """Edit every forward pass in the block: row i of the batch gets `arms[i]`.

    Args:
        loaded: the model.
        arms: an arm for each row; rows that share one object and nothing else run at full speed.
        prompt_mask: attention mask of the left-padded prompts; later columns count as generated.

    Raises:
        SteerError: an arm can't fire on this model (before anything runs), or an edit was never reached.
    """
    for arm in dict.fromkeys(map(id, arms)):
        check_arm(loaded, next(candidate for candidate in arms if id(candidate) == arm))
    steering = Steering(loaded, arms, prompt_mask)
    with hooked(list(_hooks(loaded, steering))):
        yield steering
    steering.check_fired()
