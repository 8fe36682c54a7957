import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steer import pairing
from steer.artifacts.prompts import read_prompts
from steer.config import PairingSettings
from steer.errors import SteerError
from steer.models.loading import LoadedModel
from tests.study import make_pairs, make_study

Tiny = Callable[[str], LoadedModel]
OWN = "I'm sorry, but I can't do that, and I would rather talk about the weather of the week."


def _rows(folder: Path, loaded: LoadedModel, **settings: Any) -> list[dict[str, str]]:
    study = make_study(folder / "study", loaded)
    out = folder / "pairing.csv"
    chosen = PairingSettings(contrast="response", max_new_tokens=3, **settings)
    pairing.write_pairing(study.path("model.json"), make_pairs(folder, 6), out, study.settings, chosen, top=3)
    with out.open() as stream:
        return list(csv.DictReader(stream))


def _plain_rates(loaded: LoadedModel, prompts: list[Any]) -> np.ndarray:
    """Shares by one prompt at a time, out of what the routers' own modules return."""
    layers, counts, tokens = loaded.sites.moe_layers, 0, 0
    for prompt in prompts:
        ids, reply = (
            loaded.encode(prompt.text),
            loaded.tokenizer.encode(prompt.target, add_special_tokens=False),
        )
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([[*ids, *reply]]), output_router_logits=True).router_logits
        chosen = [one.topk(loaded.model.config.num_experts_per_tok).indices[len(ids) :] for one in logits]
        assert len(chosen) == len(layers)
        counts = counts + np.array(
            [[(one == e).sum().item() for e in range(loaded.experts)] for one in chosen]
        )
        tokens += len(reply)
    return np.ravel(counts) / tokens


def test_the_first_row_is_the_contrast_as_its_sets_make_it(tiny: Tiny, tmp_path: Path) -> None:
    loaded = tiny("olmoe")
    fixed, equal, own, own_equal = _rows(tmp_path, loaded)
    first, second = (_plain_rates(loaded, read_prompts(path)) for path in make_pairs(tmp_path, 6))
    difference = first - second
    best = int(np.abs(difference).argmax())
    assert fixed["best"] == f"{loaded.sites.moe_layers[best // loaded.experts]}:{best % loaded.experts}"
    assert float(fixed["best_difference"]) == pytest.approx(difference[best])
    assert (float(fixed["rank_correlation"]), float(fixed["shared_top"])) == (1.0, 1.0)
    assert int(fixed["tokens_1"]) < int(fixed["tokens_2"])
    assert equal["tokens_1"] == equal["tokens_2"] == fixed["tokens_1"]
    assert -1 <= float(equal["rank_correlation"]) <= 1
    # An untrained model refuses nothing: a row without numbers, and no invented ones.
    for row in (own, own_equal):
        assert (row["refusals"], row["pairs"], row["best"], row["rank_correlation"]) == ("own", "0", "", "")


def test_own_refusals_take_the_place_of_the_fixed_ones_on_the_same_prompts(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny("olmoe")

    def refuse_half(_: LoadedModel, prompts: list[Any], *__: Any) -> list[Any]:
        return [SimpleNamespace(text=OWN if number % 2 else "Here is how") for number in range(len(prompts))]

    monkeypatch.setattr(pairing, "generate", refuse_half)
    rows = _rows(tmp_path, loaded)
    assert [row["pairs"] for row in rows] == ["3"] * 4
    length = len(loaded.tokenizer.encode(OWN, add_special_tokens=False))
    assert int(rows[2]["tokens_1"]) == 3 * length
    assert rows[0]["tokens_2"] == rows[2]["tokens_2"]
    assert rows[3]["tokens_1"] == rows[3]["tokens_2"]


def test_only_so_many_pairs_are_counted_and_every_one_has_both_sides(tiny: Tiny, tmp_path: Path) -> None:
    assert [row["pairs"] for row in _rows(tmp_path, tiny("olmoe"), prompts=2)[:2]] == ["2", "2"]
    refusing, complying = (read_prompts(path) for path in make_pairs(tmp_path, 6))
    with pytest.raises(SteerError, match="has no partner in the other set"):
        pairing._pairs([refusing, complying[1:]], 10)
