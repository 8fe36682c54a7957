from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steer.config import ResidualArm
from steer.errors import SteerError
from steer.models.interventions import Operation
from steer.selection.candidates import Directions
from steer.selection.making import Dose, make_arm, signed
from tests.study import POSITIONS, random_directions
from tests.tiny import HIDDEN, LAYERS

DIRECTIONS = random_directions()
DOSE = Dose(2, -2, 1.5, "prompt")
PLACES = [(1, -1), (2, -2), (3, -3), (0, -2), (1, -2), (2, -1)]


def _settings(operation: str, **changes: Any) -> ResidualArm:
    return ResidualArm(operation=operation, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("polarity", "sign"), [("induce", 1), ("suppress", -1)])
def test_addition_moves_by_the_direction_and_suppressing_subtracts_it(polarity: str, sign: int) -> None:
    arm = make_arm("a", _settings("add", polarity=polarity), DIRECTIONS, DOSE)
    assert arm.operations == (Operation("add", "direction", 2, sign * 1.5, "prompt"),)
    torch.testing.assert_close(arm.tensors["direction"], DIRECTIONS.direction[2, -2], rtol=0, atol=0)


def test_an_affine_edit_carries_the_direction_and_the_harmless_mean_of_its_place() -> None:
    arm = make_arm("a", _settings("affine", polarity="induce"), DIRECTIONS, DOSE)
    assert arm.operations == (Operation("affine", "direction_and_mean", 2, 1.5, "prompt"),)
    expected = torch.stack([DIRECTIONS.direction[2, -2], DIRECTIONS.harmless_mean[2, -2]])
    torch.testing.assert_close(arm.tensors["direction_and_mean"], expected, rtol=0, atol=0)


def test_an_ablation_acts_in_every_layer_and_its_strength_has_no_sign() -> None:
    arm = make_arm("a", _settings("ablate"), DIRECTIONS, Dose(2, -2))
    assert arm.operations == (Operation("ablate", "basis", None, 1.0, "all"),)
    direction = DIRECTIONS.direction[2, -2]
    torch.testing.assert_close(arm.tensors["basis"], (direction / direction.norm())[None])


def test_a_strength_of_zero_has_no_sign() -> None:
    assert str(signed(_settings("affine"), 0.0)) == "0.0"


@pytest.mark.parametrize("direction", ["refusal", "random"])
@pytest.mark.parametrize("place", [(2, -2), (0, -3)])
def test_an_ablation_of_several_directions_removes_them_all_and_nothing_else(
    direction: str, place: tuple[int, int]
) -> None:
    settings = _settings("ablate", rank=4, direction=direction)
    basis = make_arm("a", settings, DIRECTIONS, Dose(*place), PLACES).tensors["basis"].double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)
    if direction == "refusal":
        removed = [place, *(other for other in PLACES if other != place)][:4]
        for vector in (DIRECTIONS.direction[one].double() for one in removed):
            assert (vector - basis.T @ (basis @ vector)).norm() < 1e-5 * vector.norm()
        assert basis[0] @ DIRECTIONS.direction[place].double() > 0


@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
def test_a_random_direction_has_the_norm_of_the_one_it_controls_for_and_another_way(
    seed: int, scale: float
) -> None:
    directions = random_directions(scale)
    settings = _settings("add", polarity="induce", direction="random", seed=seed)
    found = make_arm("a", settings, directions, DOSE).tensors["direction"].double()
    refusal = directions.direction[2, -2].double()
    assert float(found.norm()) == pytest.approx(float(refusal.norm()), rel=1e-6)
    assert abs(float(torch.cosine_similarity(found, refusal, dim=0))) < 0.9


def test_a_random_direction_depends_on_its_seed_alone() -> None:
    def draw(seed: int) -> torch.Tensor:
        settings = _settings("add", direction="random", seed=seed)
        return make_arm("a", settings, DIRECTIONS, DOSE).tensors["direction"]

    state = torch.random.get_rng_state()
    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_fewer_independent_directions_than_the_rank_are_an_error() -> None:
    with pytest.raises(SteerError, match=r"arm `five`: is of rank 5, but its selection offers 3 independent"):
        make_arm("five", _settings("ablate", rank=5), DIRECTIONS, Dose(1, -1), PLACES[:3])
    parallel = DIRECTIONS.direction.clone()
    # Also where rounding alone keeps the two from being parallel.
    for factor in (2, 3):
        parallel[2, -2] = factor * parallel[1, -1]
        alike = Directions(parallel, DIRECTIONS.harmless_mean)
        with pytest.raises(SteerError, match="offers 1 independent"):
            make_arm("two", _settings("ablate", rank=2), alike, Dose(1, -1), PLACES[:2])


@pytest.mark.parametrize("place", [(LAYERS, -1), (-1, -1), (0, 0), (0, -POSITIONS - 1)])
def test_a_place_without_a_direction_is_an_error(place: tuple[int, int]) -> None:
    with pytest.raises(SteerError, match=f"layer {place[0]}, position {place[1]}: no direction was"):
        make_arm("a", _settings("add"), DIRECTIONS, Dose(*place))


def test_candidates_are_all_places_whose_input_can_be_edited() -> None:
    assert DIRECTIONS.direction.shape == (LAYERS + 1, POSITIONS, HIDDEN)
    expected = {(layer, position) for layer in range(LAYERS) for position in range(-POSITIONS, 0)}
    assert set(DIRECTIONS.candidates()) == expected
    assert [place for place in DIRECTIONS.candidates() if DIRECTIONS.is_zero(*place)] == [(0, -1)]
