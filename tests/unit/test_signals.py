import torch

from steer.models.edits.signals import Routing


def test_a_choice_by_weight_is_the_same_choice_with_the_largest_weight_first() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, generator=generator)
    index = torch.stack([torch.randperm(6, generator=generator)[:3] for _ in range(10)]).view(2, 5, 3)
    routing = Routing.unedited(logits, torch.rand(2, 5, 3, generator=generator), index)
    ordered = routing.by_weight()
    assert torch.equal(ordered.gates(), routing.gates())
    assert not torch.equal(ordered.index, routing.index)
    assert bool((ordered.weights.diff(dim=-1) <= 0).all())
