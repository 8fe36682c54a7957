"""Perplexity of harmless replies under arms, on a tiny model, against exp of the mean loss by hand."""

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steer.artifacts.arms import write_arm
from steer.artifacts.files import write_jsonl
from steer.errors import SteerError
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel
from steer.perplexity import COLUMNS, measure, table
from steer.rates import Method
from tests.study import Study, make_study, prompts_of
from tests.tiny import HIDDEN

METHOD = Method(resamples=200)
REPLIES = ("yes", "here it is: one", "no")


def _arm(coefficient: float) -> Arm:
    operation = Operation("add", "v", 1, coefficient)
    return Arm(f"add {coefficient:g}", (operation,), {"v": torch.linspace(-4, 4, HIDDEN)})


@pytest.fixture
def study(tiny: Callable[[str], LoadedModel], tmp_path: Path) -> Study:
    made = make_study(tmp_path, tiny("olmoe"), 3)
    prompts = prompts_of("harmless", 4, ["test", "test", "test", "train"])
    targets = (*REPLIES, "unread")
    rows = [replace(one, pair=one.id, target=text) for one, text in zip(prompts, targets, strict=True)]
    made.write_prompts("harmless", rows)
    made.write_prompts("harmful", prompts_of("harmful", 3, ["test"]))
    for arm in (Arm("baseline"), _arm(0.0), _arm(3.0)):
        write_arm(made.path(f"{arm.name}.safetensors"), arm, model=made.facts.digest, provenance={})
    return made


def _measured(study: Study, name: str = "harmless", replies: Path | None = None) -> dict[str, dict[str, str]]:
    arms = [study.path(f"{arm}.safetensors") for arm in ("baseline", "add 0", "add 3")]
    out = study.path("perplexity.csv")
    texts = study.path("perplexity.jsonl")
    sets, given = {name: study.path(f"{name}.jsonl")}, {name: replies} if replies else {}
    measure(study.path("model.json"), sets, given, arms, out, texts, study.settings, METHOD)
    with out.open() as stream:
        return {row["arm"]: row for row in csv.DictReader(stream)}


def test_perplexity_is_over_all_tokens_of_all_replies(study: Study) -> None:
    found = _measured(study)
    losses = []
    for prompt, text in zip(prompts_of("harmless", 3), REPLIES, strict=True):
        ids, reply = study.loaded.encode(prompt.text), study.loaded.tokenizer.encode(text)
        with torch.inference_mode():
            logits = study.loaded.model(torch.tensor([[*ids, *reply]])).logits[0].double()
        wanted = torch.tensor(reply)
        losses += torch.nn.functional.cross_entropy(
            logits[len(ids) - 1 : -1], wanted, reduction="none"
        ).tolist()
    base = found["baseline"]
    assert (base["n"], base["tokens"]) == ("3", str(len(losses)))
    assert float(base["perplexity"]) == pytest.approx(math.exp(float(np.mean(losses))), rel=1e-4)
    assert base["ratio"] == ""


def test_strength_zero_changes_nothing_and_a_strong_edit_does(study: Study) -> None:
    found = _measured(study)
    assert found["add 0"]["perplexity"] == found["baseline"]["perplexity"]
    assert [found["add 0"][name] for name in ("ratio", "ratio_low", "ratio_high")] == ["1", "1", "1"]
    strong = found["add 3"]
    quotient = float(strong["perplexity"]) / float(found["baseline"]["perplexity"])
    assert float(strong["ratio"]) == pytest.approx(quotient, rel=1e-6)
    assert abs(quotient - 1) > 0.01


def test_a_set_without_targets_is_read_with_the_unsteered_replies(study: Study) -> None:
    names = [one.id for one in prompts_of("harmful", 3)]
    rows = [
        {"arm": arm, "prompt_id": name, "text": text if arm == "baseline" else "other"}
        for arm in ("baseline", "add 3")
        for name, text in zip(names, ("one", "   ", "two three"), strict=True)
    ]
    write_jsonl(study.path("generation.jsonl"), rows)
    found = _measured(study, "harmful", study.path("generation.jsonl"))
    # Nothing was written to one of the prompts.
    assert (found["baseline"]["n"], found["baseline"]["tokens"]) == ("2", str(len("one" + "two three")))


def test_a_set_with_nothing_to_read_is_an_error(study: Study) -> None:
    with pytest.raises(SteerError, match=r"set `harmful`: has no `test` rows with a reply"):
        _measured(study, "harmful")


def _lines(arm: str, totals: list[float]) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "set": "s", "prompt_id": f"{at}", "n_tokens": 2 + at, "log_likelihood": -total}
        for at, total in enumerate(totals)
    ]


def test_the_ratio_is_paired_by_text() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(5, 50, size=60)
    # A tenth of a nat a token more in every text, however much texts differ.
    more = base + 0.1 * (2 + np.arange(60))
    rows = table([*_lines("baseline", base.tolist()), *_lines("worse", more.tolist())[::-1]], METHOD)
    worse = rows[1]
    assert set(worse) <= set(COLUMNS)
    for name in ("ratio", "ratio_low", "ratio_high"):
        assert worse[name] == pytest.approx(math.exp(0.1))
    assert worse["perplexity_high"] - worse["perplexity_low"] > 0.01
