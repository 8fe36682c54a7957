"""The edits of all arms, made while vLLM runs its flat batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steer.errors import SteerError
from steer.models.edits.signals import Edit, Mixture, Routing, Signal, Site, change, norm
from steer.models.firing import BESIDE
from steer.models.hooks import Register, first, with_first
from steer.models.loading import LoadedModel
from steer.vllm.accounts import Accounts
from steer.vllm.passes import Group, Plan, Where, group_rows
from steer.vllm.rows import NO_ARM, Row

Flat = Float[Tensor, "tokens d"]


class Observer(Protocol):
    """What looks at a pass, after the edits."""

    def begin(self, rows: Sequence[Row]) -> None:
        """A pass begins."""

    def seen(self, site: Site, signal: Flat | Routing) -> None:
        """What flows past a site; at the experts, what they see."""


class Steering:
    """Hooks on the sites of a model, and the arms that they apply.

    Args:
        view: the model.
        rows: tells the requests of the pass that is about to run.
        accounts: what is known of the requests; None on ranks that answer for none.

    Attributes:
        plans: what is done under each arm, by its key.
        observers: what looks on.
    """

    def __init__(
        self, view: LoadedModel, rows: Callable[[], list[Row]], accounts: Accounts | None = None
    ) -> None:
        self.plans: dict[str, Plan] = {NO_ARM: Plan({}, None)}
        self.observers: list[Observer] = []
        self._view, self._read_rows, self._accounts = view, rows, accounts
        self._device = torch.device(view.model.device)
        self._rows: list[Row] = []
        self._groups: list[Group] = []
        self._routing: dict[int, tuple[Flat, Routing]] = {}
        self._residual_norm: dict[int, Tensor] = {}
        # Of every token, choices leaked and blocked.
        self._amiss: Int[Tensor, "tokens two"] | None = None

    def hooks(self) -> Iterator[Register]:
        """Hooks for `hooked`; those on routers are of `route`."""
        layers = self._view.sites.layers
        yield self._view.sites.base, "call", self.begin
        yield self._view.sites.embedding, "after", self._embedded
        for index, sites in enumerate(layers):
            yield sites.attention_write, "after", partial(self._written, ("attention", index))
            yield sites.heads, "before", partial(self._edited, ("heads", index))
            yield sites.mlp, "after", partial(self._mixed, index)
            yield sites.layer, "after", partial(self._left, index)
        yield self._view.sites.base, "after", self._end

    def begin(self, _module: nn.Module, _args: Any, _kwargs: Any) -> None:
        """Note whose tokens the coming pass computes; a profiling pass computes nobody's."""
        self._rows = [row for row in self._read_rows() if row.tag]
        self._groups = group_rows(self._rows, self.plans, self._device)
        self._routing.clear()
        self._residual_norm.clear()
        self._amiss = None
        for observer in self.observers:
            observer.begin(self._rows)

    def _embedded(self, _module: nn.Module, _args: Any, output: Flat) -> Flat:
        h = self._edited(("embedding", -1), output)
        return self._entering(0, h)

    def _left(self, index: int, _module: nn.Module, _args: Any, output: tuple[Flat, Flat]) -> Any:
        """A layer was left, so the next one is entered; the stream is the sum of what it returns."""
        if not self.observers and not self._wanted(index + 1):
            return None
        written, stream = output
        h = written + stream
        edited = self._entering(index + 1, h)
        # What is edited stands alone, so that the sum is the edited stream to the bit.
        return None if edited is h else (edited, torch.zeros_like(stream))

    def _wanted(self, layer: int) -> bool:
        """Whether the stream entering a layer is edited, or measured against."""
        places: list[Site] = [("residual", layer)]
        places += [(place, layer) for place in BESIDE]
        return any(site in group.plan.edits for group in self._groups for site in places)

    def _entering(self, layer: int, h: Flat) -> Flat:
        if any(group.measures for group in self._groups):
            self._residual_norm[layer] = norm(h[None])[0]
        return self._edited(("residual", layer), h)

    def _written(self, site: Site, _module: nn.Module, _args: Any, output: Any) -> Any:
        h = first(output)
        edited = self._edited(site, h)
        return None if edited is h else with_first(output, edited)

    def _mixed(self, layer: int, _module: nn.Module, _args: Any, output: Any) -> Any:
        """A MoE block wrote: edits of its experts' sum, then of what is written."""
        h = first(output)
        edited = self._with_experts(layer, h) if layer in self._routing else h
        edited = self._edited(("mlp", layer), edited)
        return None if edited is h else with_first(output, edited)

    def _edited(self, site: Site, h: Flat) -> Flat:
        """Rows of the batch edited at a site; the very tensor that was given, where none are."""
        made = h
        for group, edit, where in self._steps(site):
            part = _taken(h, where)
            edited = edit(part)
            self._note(site, group, where, part, edited)
            made = _put(h, made, where, edited)
        for observer in self.observers:
            observer.seen(site, made)
        return made

    def _steps(self, site: Site) -> Iterator[tuple[Group, Edit, Where]]:
        for group in self._groups:
            for edit, phases in group.steps(site):
                group.applied += 1
                yield group, edit, group.where(phases)

    def route(
        self,
        layer: int,
        tokens: Flat,
        logits: Float[Tensor, "tokens experts"],
        weights: Float[Tensor, "tokens chosen"],
        index: Int[Tensor, "tokens chosen"],
    ) -> tuple[Float[Tensor, "tokens chosen"], Int[Tensor, "tokens chosen"]]:
        """Edit what a router decides; what it sees and decides is kept for the experts' edits."""
        if not self._concerned(layer):
            return weights, index
        whole = Routing.unedited(logits[None], weights[None], index.long()[None])
        made = whole
        for group, edit, where in self._steps(("router", layer)):
            part = _part(whole, where)
            edited = edit(part)
            self._note(("router", layer), group, where, part, edited)
            if edited.leaked is not part.leaked:
                self._count_amiss(len(index), where, edited)
            new_weights = _put(whole.weights[0], made.weights[0], where, edited.weights)
            new_index = _put(whole.index[0], made.index[0], where, edited.index)
            made = replace(made, weights=new_weights[None], index=new_index[None])
        self._routing[layer] = tokens, made
        for observer in self.observers:
            observer.seen(("experts", layer), tokens)
            observer.seen(("router", layer), made)
        return made.weights[0], made.index[0].to(index.dtype)

    def _concerned(self, layer: int) -> bool:
        """Whether anything is done with what a router decides."""
        places: tuple[Site, ...] = (("router", layer), ("experts", layer))
        edited = (site in group.plan.edits for group in self._groups for site in places)
        return bool(self.observers) or any(edited)

    def _with_experts(self, layer: int, y: Flat) -> Flat:
        tokens, routing = self._routing[layer]
        module, made = self._view.sites.layers[layer].experts, y
        for group, edit, where in self._steps(("experts", layer)):
            assert module is not None
            part = Mixture(_taken(y, where), _taken(tokens, where), _part(routing, where), module)
            edited = edit(part)
            self._note(("experts", layer), group, where, part, edited)
            made = _put(y, made, where, edited.output)
        return made

    def _note(self, site: Site, group: Group, where: Where, before: Signal, after: Signal) -> None:
        if where.slots is None or self._accounts is None:
            return
        edit, own = change(before, after)
        if site[0] in BESIDE:
            own = self._residual_norm[site[1]][where.index][None]
        sums = torch.zeros(2, len(group.rows) + 1, device=edit.device)
        sums.index_add_(1, where.slots, torch.cat([edit, own]))
        if site in group.norms:
            sums = sums + group.norms[site]
        if site in group.plan.sites(group.plan.measured or "prompt"):
            group.norms[site] = sums

    def _count_amiss(self, tokens: int, where: Where, routing: Routing) -> None:
        if self._amiss is None:
            self._amiss = torch.zeros(tokens, 2, dtype=torch.long, device=routing.leaked.device)
        self._amiss.index_add_(0, where.index, torch.stack([routing.leaked[0], routing.blocked[0]], dim=-1))

    def _end(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """Check that every edit of the pass was made, and keep what is known of it.

        Raises:
            SteerError: an edit was not made.
        """
        for group in self._groups:
            if group.applied != group.expected():
                cause = f"{group.applied} of {group.expected()} edits were made in a pass"
                raise SteerError("engine `vllm`", cause, "report this: nothing may be steered by halves")
        if self._accounts is None:
            return
        for row in self._rows:
            self._accounts.advance(row)
        for group in self._groups:
            self._accounts.measure(group)
        if self._amiss is not None:
            amiss = self._amiss.cpu()
            for row in self._rows:
                leaked, blocked = amiss[row.start : row.stop].sum(dim=0).tolist()
                self._accounts.count_amiss(row, leaked, blocked)

    def logits(self, logits: Float[Tensor, "requests vocabulary"] | None) -> None:
        """The logits of the last token of every request of the pass came out.

        Raises:
            SteerError: they are not one a request.
        """
        if logits is None or self._accounts is None or not self._rows:
            return
        if len(logits) != len(self._rows):
            cause = f"{len(logits)} rows of logits for {len(self._rows)} requests"
            raise SteerError("engine `vllm`", cause, "switch off speculative decoding and other requests")
        ending = [place for place, row in enumerate(self._rows) if row.end == row.prompt]
        # References first: the others are compared with them.
        for place in sorted(ending, key=lambda at: not self._rows[at].is_reference):
            self._accounts.first_logits(self._rows[place], logits[place])


def _taken(tensor: Tensor, where: Where) -> Tensor:
    """Rows of a flat tensor, as a batch of one."""
    return tensor.index_select(0, where.index)[None]


def _part(routing: Routing, where: Where) -> Routing:
    return Routing.unedited(
        *(_taken(one[0], where) for one in (routing.logits, routing.weights, routing.index))
    )


def _put(before: Tensor, made: Tensor, where: Where, edited: Tensor) -> Tensor:
    """Edited rows put into a copy of `before`, which is made with the first of them."""
    copy = before.clone() if made.data_ptr() == before.data_ptr() else made
    return copy.index_copy_(0, where.index, edited[0])
