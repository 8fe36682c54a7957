"""What writes the direction, and prompts along it: exact sums and projections."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from steer.artifacts.activations import ActivationFile
from steer.artifacts.files import write_json
from steer.config import Config
from steer.errors import SteerError
from steer.figures import direction_writes, projections, registry, style
from steer.figures.direction import Direction, chosen_direction
from tests.figure_inputs import build
from tests.figure_inputs.states import write_directions
from tests.figure_inputs.study import CHOICE, LABELS, LAYERS, MODEL, POSITIONS, config


def choice(folder: Path, layer: int, position: int) -> Path:
    path = folder / "choice.json"
    write_json(path, {"choice": {"layer": layer, "position": position}})
    return path


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6), layer=st.integers(1, LAYERS), position=st.integers(-POSITIONS, -1))
def test_shares_are_projections_and_add_up_to_one(
    seed: int, layer: int, position: int, tmp_path: Path
) -> None:
    path = tmp_path / "refusal.safetensors"
    write_directions(path, np.random.default_rng(seed))
    rows = direction_writes.table(chosen_direction(path, choice(tmp_path, layer, position)))
    assert direction_writes.residue(rows) == pytest.approx(0, abs=1e-5)
    assert rows["cumulative"].iloc[-1] == pytest.approx(1, abs=1e-5)

    tensors = load_file(path)
    r = tensors["residual.direction"][layer, position].astype(float)
    for row in rows[rows["layer"] >= 0].itertuples():
        name = {"attention": "attention_out", "mlp": "mlp_out"}[row.component]
        write = tensors[f"{name}.direction"][row.layer, position].astype(float)
        assert row.share == pytest.approx(sum(w * x for w, x in zip(write, r, strict=True)) / sum(r * r))


def test_layers_that_come_later_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "refusal.safetensors"
    write_directions(path, np.random.default_rng(0))
    rows = direction_writes.table(chosen_direction(path, choice(tmp_path, 2, -1)))
    assert list(zip(rows["layer"], rows["component"], strict=True)) == [
        *((-1, "embedding"), (0, "attention"), (0, "mlp"), (1, "attention"), (1, "mlp"))
    ]


@pytest.mark.parametrize(("dtype", "fits"), [("float32", False), ("bfloat16", True)])
def test_shares_that_do_not_add_up_are_refused_unless_the_type_explains_it(
    dtype: str, fits: bool, tmp_path: Path
) -> None:
    settings = build(tmp_path)
    write_directions(tmp_path / MODEL / "directions/refusal.safetensors", np.random.default_rng(0), slip=0.01)
    settings = config(tmp_path, models={MODEL: {"path": "checkpoint", "dtype": dtype}})
    if fits:
        registry.draw("direction_writes", settings, MODEL)
        return
    with pytest.raises(SteerError, match="of the direction unexplained"):
        registry.draw("direction_writes", settings, MODEL)
    assert not (tmp_path / MODEL / "figures").exists()


@pytest.mark.parametrize("place", [(LAYERS + 1, -1), (1, -POSITIONS - 1)])
def test_a_choice_outside_the_directions_is_an_error(place: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "refusal.safetensors"
    write_directions(path, np.random.default_rng(0))
    with pytest.raises(SteerError, match="holds no direction at layer"):
        chosen_direction(path, choice(tmp_path, *place))


def test_a_direction_of_length_zero_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "refusal.safetensors"
    write_directions(path, np.random.default_rng(0))
    with pytest.raises(SteerError, match="is zero"):
        chosen_direction(path, choice(tmp_path, 0, -1))


def test_directions_cut_short_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "refusal.safetensors"
    write_directions(path, np.random.default_rng(0))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SteerError, match="holds no direction"):
        chosen_direction(path, choice(tmp_path, 1, -1))


@pytest.fixture
def results(tmp_path: Path) -> tuple[Config, Direction, list[Path]]:
    settings = build(tmp_path)
    paths = registry.paths_of("projections", settings, MODEL)
    direction = chosen_direction(Path(paths["directions"][0]), Path(paths["arditi_choice"][0]))
    return settings, direction, [Path(path) for path in paths["activations"]]


def test_a_projection_is_the_product_with_the_unit_direction(
    results: tuple[Config, Direction, list[Path]],
) -> None:
    _, direction, paths = results
    rows = projections.table(paths, direction)
    unit = direction.vector / np.sqrt((direction.vector**2).sum())
    for path in paths:
        with ActivationFile(path) as file:
            (states,) = file.blocks("residual", size=1000)
            mine = rows[rows["set"] == path.stem]
            assert list(mine["prompt_id"]) == file.prompt_ids
        expected = [float(state[CHOICE["layer"], CHOICE["position"]] @ unit) for state in states]
        assert mine["projection"].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_the_scale_is_zero_at_the_harmless_and_one_at_the_harmful_mean(
    results: tuple[Config, Direction, list[Path]],
) -> None:
    _, direction, paths = results
    rows = projections.table(paths, direction)
    slope = np.polyfit(rows["projection"], rows["scaled"], 1)
    for mean, scaled in ((direction.harmless_mean, 0.0), (direction.harmless_mean + direction.vector, 1.0)):
        projected = mean @ direction.vector / direction.norm
        assert np.polyval(slope, projected) == pytest.approx(scaled, abs=1e-9)


def test_the_contrast_is_drawn_first_split_by_split(results: tuple[Config, Direction, list[Path]]) -> None:
    _, direction, paths = results
    parts = projections.summary(projections.table(paths, direction), ["harmful", "harmless"])
    assert list(zip(parts["set"], parts["split"], strict=True)) == [
        *(("harmful", "train"), ("harmless", "train"), ("harmful", "val"), ("harmless", "val")),
        *(("harmful", "test"), ("harmless", "test"), ("advbench", "test"), ("everyday", "test")),
    ]
    assert parts["n"].sum() == len(LABELS) * 90
    assert (parts[parts["label"] == "harmful"]["beyond"] > 0.9).all()
    assert (parts[parts["label"] == "harmless"]["beyond"] < 0.1).all()


def test_every_prompt_is_a_point(results: tuple[Config, Direction, list[Path]]) -> None:
    settings, direction, paths = results
    rows = projections.table(paths, direction)
    with style.applied():
        figure = projections.plot(rows, direction, registry.settings_of("projections", settings, MODEL))
    points = sum(len(np.asarray(strip.get_offsets())) for strip in figure.axes[0].collections)
    assert points == len(rows)


def test_activations_of_another_model_are_refused(results: tuple[Config, Direction, list[Path]]) -> None:
    _, direction, paths = results
    with pytest.raises(SteerError, match="another model"):
        projections.table(paths, direction._replace(model="fedcba9876543210"))


def test_activations_cut_short_are_refused_and_nothing_is_written(
    results: tuple[Config, Direction, list[Path]], tmp_path: Path
) -> None:
    settings, _, paths = results
    whole = paths[2].read_bytes()
    paths[2].write_bytes(whole[: len(whole) // 2])
    shutil.rmtree(tmp_path / MODEL / "figures", ignore_errors=True)
    with pytest.raises(SteerError, match=paths[2].name):
        registry.draw("projections", settings, MODEL)
    assert not (tmp_path / MODEL / "figures").exists()
