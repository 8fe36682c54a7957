import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steer.models.interventions import (
    Operation,
    ablate,
    add,
    affine,
    orthonormal_basis,
    unit,
)
from tests.oracles import decoder

TOKENS = 5
seeds = st.integers(0, 2**32)
widths = st.integers(2, 24)
few = settings(max_examples=40, deadline=None)


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def draw(seed: int, d: int, k: int) -> tuple[Tensor, Tensor]:
    """Residuals of some tokens, and k directions of very different lengths."""
    lengths = torch.logspace(-3, 3, k, dtype=torch.float64)[:, None]
    return random(TOKENS, d, seed=seed), random(k, d, seed=seed + 1) * lengths


@few
@given(seed=seeds, d=widths, data=st.data())
def test_after_ablation_nothing_is_left_along_any_of_the_directions(
    seed: int, d: int, data: st.DataObject
) -> None:
    h, directions = draw(seed, d, data.draw(st.integers(1, d)))
    left = ablate(h, orthonormal_basis(directions)) @ unit(directions).T
    assert left.abs().max() <= 1e-8 * h.norm()


@few
@given(seed=seeds, d=widths, data=st.data())
def test_ablation_leaves_what_is_orthogonal_alone_and_does_nothing_twice(
    seed: int, d: int, data: st.DataObject
) -> None:
    h, directions = draw(seed, d, data.draw(st.integers(1, d - 1)))
    basis = orthonormal_basis(directions)
    once = ablate(h, basis)
    assert torch.allclose(ablate(once, basis), once, atol=1e-9)
    assert torch.allclose(h - once, (h - once) @ basis.T @ basis, atol=1e-9)


@few
@given(seed=seeds, d=widths, strength=st.floats(-2, 2))
def test_an_ablation_of_some_strength_leaves_the_rest_of_the_component(
    seed: int, d: int, strength: float
) -> None:
    h, directions = draw(seed, d, 1)
    basis = orthonormal_basis(directions)
    assert torch.allclose(ablate(h, basis, strength) @ basis.T, (1 - strength) * h @ basis.T, atol=1e-9)


@few
@given(seed=seeds, d=widths, target=st.floats(-100, 100))
def test_affine_sets_the_component_to_the_target_and_nothing_else(seed: int, d: int, target: float) -> None:
    h, directions = draw(seed, d, 1)
    direction = unit(directions[0])
    edited = affine(h, direction, torch.tensor([target], dtype=torch.float64))
    assert torch.allclose(edited @ direction, torch.full((TOKENS,), target, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(ablate(edited, direction[None]), ablate(h, direction[None]), atol=1e-8)


@few
@given(seed=seeds, d=widths)
def test_adding_moves_every_token_by_the_vector(seed: int, d: int) -> None:
    h, directions = draw(seed, d, 1)
    assert torch.allclose(add(h, directions[0]) - h, directions.expand(TOKENS, d), atol=1e-9)


@few
@given(seed=seeds, d=widths)
def test_parameters_of_zero_leave_the_input_as_it_is_to_the_bit(seed: int, d: int) -> None:
    h, zero = random(2, TOKENS, d, seed=seed, dtype=torch.float32), torch.zeros(2, 1, d)
    basis = orthonormal_basis(random(2, d, seed=seed + 1, dtype=torch.float32))
    edited = [
        add(h, zero),
        ablate(h, zero),
        ablate(h, zero[0]),
        ablate(h, basis, 0.0),
        ablate(h, basis.expand(2, -1, -1), torch.zeros(2, 1, 1)),
        affine(h, zero, torch.zeros(2, 1, 1)),
    ]
    assert all(torch.equal(h.view(torch.int32), same.view(torch.int32)) for same in edited)


@few
@given(seed=seeds, d=widths, coefficient=st.floats(-3, 3))
def test_edits_are_the_formulas_of_the_design(seed: int, d: int, coefficient: float) -> None:
    h, directions = draw(seed, d, 2)
    r, mean = directions.flip(0)
    basis = orthonormal_basis(directions)
    target = unit(r) @ mean + coefficient * r.norm()
    cases = {
        "add": (add(h, coefficient * r), r),
        "ablate": (ablate(h, basis, coefficient), directions),
        "affine": (affine(h, unit(r), target[None]), torch.stack([r, mean])),
    }
    for kind, (found, tensor) in cases.items():
        operation = Operation(kind, "", coefficient=coefficient)  # type: ignore[arg-type]
        expected = np.stack([decoder.edited(token, operation, tensor.numpy()) for token in h.numpy()])
        assert found.numpy() == pytest.approx(expected, rel=1e-7, abs=1e-7 * float(directions.norm()))


def test_rows_of_a_batch_are_edited_each_by_its_own_parameters() -> None:
    h = random(3, TOKENS, 8, seed=0)
    bases = torch.stack([orthonormal_basis(random(2, 8, seed=seed)) for seed in (1, 2, 3)])
    strength = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)[:, None, None]
    directions, targets = bases[:, :1], strength * 3
    for row in range(3):
        alone = ablate(h[row], bases[row], float(strength[row]))
        assert torch.allclose(ablate(h, bases, strength)[row], alone)
        alone = affine(h[row], directions[row, 0], targets[row, 0])
        assert torch.allclose(affine(h, directions, targets)[row], alone)


@few
@given(seed=seeds, d=widths, data=st.data())
def test_a_basis_is_orthonormal_spans_its_directions_and_starts_along_the_first(
    seed: int, d: int, data: st.DataObject
) -> None:
    _, directions = draw(seed, d, data.draw(st.integers(1, d)))
    basis = orthonormal_basis(directions)
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis), dtype=torch.float64), atol=1e-9)
    assert torch.allclose(unit(directions) @ basis.T @ basis, unit(directions), atol=1e-6)
    assert torch.allclose(basis[0], unit(directions[0]), atol=1e-9)


@few
@given(seed=seeds, rank=st.integers(1, 4), extra=st.integers(0, 4))
def test_a_basis_has_as_many_rows_as_its_directions_have_dimensions(seed: int, rank: int, extra: int) -> None:
    independent = random(rank, 12, seed=seed, dtype=torch.float32)
    mixed = random(extra, rank, seed=seed + 1, dtype=torch.float32) @ independent
    basis = orthonormal_basis(torch.cat([independent, mixed, torch.zeros(1, 12)]))
    assert len(basis) == rank
    assert torch.allclose(independent @ basis.T @ basis, independent, atol=1e-4)


def test_no_direction_but_zero_gives_an_empty_basis() -> None:
    assert orthonormal_basis(torch.zeros(3, 4)).shape == (0, 4)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_a_unit_direction_has_length_one_however_long_it_was(scale: float) -> None:
    direction = random(4, 16, seed=0, dtype=torch.float32) * scale
    assert torch.allclose(unit(direction).norm(dim=-1), torch.ones(4))
