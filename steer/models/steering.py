"""Apply interventions to a model: another one in every row of a batch, by scope, with or without cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steer.errors import SteerError
from steer.models.checks import check_arm
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
            arm touches, averaged over the sites that it edits in that pass; 0 where nothing was edited.
    """

    tokens: int
    sites: int
    relative_norm: float


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
        self._segments: list[tuple[Phase, slice]] = []
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
        border = min(max(self._prompt_width - start, 0), width)
        cut: list[tuple[Phase, slice]] = [("prompt", slice(0, border)), ("generated", slice(border, width))]
        self._segments = [(phase, columns) for phase, columns in cut if columns.start < columns.stop]
        for phase, _ in self._segments:
            self._passes[phase] += 1

    def note_residual(self, layer: int, h: Float[Tensor, "batch tokens d"]) -> None:
        """Keep the norm of the residual entering a layer, in the pass that is measured."""
        if any(self._passes[phase] == 1 for phase, _ in self._segments):
            self._residual_norm[layer] = _norm(h)

    def apply(self, site: Site, h: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch tokens d"]:
        """Edit what passes a site."""
        if len(self._segments) == 1:
            return self._apply_phase(site, *self._segments[0], h)
        parts = [self._apply_phase(site, phase, columns, h[:, columns]) for phase, columns in self._segments]
        return torch.cat(parts, dim=1)

    def _apply_phase(self, site: Site, phase: Phase, columns: slice, h: Tensor) -> Tensor:
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
        if place in ("embedding", "residual"):
            norm = _norm(h)
        elif layer in self._residual_norm:
            norm = self._residual_norm[layer][:, columns]
        else:
            raise _bypassed(("residual", layer), phase)
        mask = self._prompt_mask if phase == "prompt" else torch.ones_like(norm)
        change = (_norm(edited - h) * mask).sum(dim=1)
        total = (norm * mask).sum(dim=1).clamp(min=torch.finfo(norm.dtype).tiny)
        self._ratios[phase].append((change / total).cpu())

    def check_fired(self) -> None:
        """Check that every edit was reached in every phase that ran, and that one ran.

        Raises:
            SteerError: an edit was never reached, so the arm did not do what it says.
        """
        for site, phases in self.edits.items():
            for phase in phases:
                ran = self._passes[phase] or not any(self._passes.values())
                if ran and (site, phase) not in self._called:
                    raise _bypassed(site, phase)

    def fired(self, generated_tokens: Sequence[int]) -> list[Fired]:
        """What every row's arm did, given how many reply tokens of the row were fed back.

        Raises:
            SteerError: an edit was never reached.
        """
        self.check_fired()
        norms = {phase: sum(values) for phase, values in self._ratios.items() if values}
        return [self._fired_row(row, fed, norms) for row, fed in enumerate(generated_tokens)]

    def _fired_row(self, row: int, fed: int, norms: dict[Phase, Any]) -> Fired:
        operations = self._arms[row].operations
        tokens, sites, ratios = 0, set[Site](), []
        counts: dict[Phase, int] = {"prompt": int(self._prompt_mask[row].sum()), "generated": fed}
        for phase, count in counts.items():
            active = [operation for operation in operations if touches(operation, phase)]
            touched = {site for op in active for site in sites_of(op, self._loaded.layers)}
            if touched and self._passes[phase] and count:
                tokens, sites = tokens + count, sites | touched
                ratios.append(float(norms[phase][row]) / len(touched))
        return Fired(tokens, len(sites), ratios[0] if ratios else 0.0)


def _bypassed(site: Site, phase: Phase) -> SteerError:
    return SteerError(
        f"edit at {site[0]} of layer {site[1]} ({phase} tokens)",
        "its hook never fired, so the reply is not steered",
        "this transformers version bypasses the module; mend the family's row in LAYOUTS",
    )


def _norm(h: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch tokens"]:
    # In float32, since sums of norms leave the range of half precision.
    norm: Tensor = torch.linalg.vector_norm(h, dim=-1, dtype=torch.float32)
    return norm


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
        ValueError: there are more or fewer arms than rows.
    """
    if len(arms) != len(prompt_mask):
        raise ValueError(f"{len(arms)} arms for {len(prompt_mask)} rows")
    for arm in {id(arm): arm for arm in arms}.values():
        check_arm(loaded, arm)
    steering = Steering(loaded, arms, prompt_mask)
    with hooked(list(_hooks(loaded, steering))):
        yield steering
    steering.check_fired()
