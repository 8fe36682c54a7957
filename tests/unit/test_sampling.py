"""Sampled replies: from the right distribution, and decided by nothing but what is asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from steer import generation
from steer.artifacts.arms import write_arm
from steer.artifacts.files import Row, read_jsonl
from steer.artifacts.shards import Shard
from steer.config import parse
from steer.generation import gather_replies, generate_replies
from steer.models.decoding import generate
from steer.models.interventions import Arm, Operation
from steer.models.loading import LoadedModel
from steer.models.sampling import Sampling
from tests.figure_inputs.study import config
from tests.oracles import forward
from tests.oracles.sampling import clock, distribution, race
from tests.study import Study, make_study, prompts_of

Tiny = Callable[[str], LoadedModel]
LIMIT = 4
PROMPTS = prompts_of("harmful", 15)
TESTED = sorted((one for one in PROMPTS if one.split == "test"), key=lambda one: one.id)
HOT = Sampling(temperature=0.7, top_p=0.9, samples=2, seed=3)
ARMS = ("baseline", "nothing", "add")
SOME = ("baseline", "add")


def make(folder: Path, loaded: LoadedModel, **settings: Any) -> Study:
    study = make_study(folder, loaded, **{"batch_size": 2, **settings})
    study.write_prompts("harmful", PROMPTS)
    vector = {"v": study.directions.direction[2, -1]}
    arms = [Arm("baseline"), *(Arm(name, (Operation("add", "v", 2, c),), vector) for name, c in EDITS)]
    for arm in arms:
        write_arm(study.path(f"{arm.name}.safetensors"), arm, model="m1", provenance={})
    return study


EDITS = (("nothing", 0.0), ("add", 0.8))


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path) -> Study:
    return make(tmp_path, tiny("olmoe"))


def arguments(study: Study, arms: tuple[str, ...] = ARMS) -> tuple[Path, Path, list[Path]]:
    return (
        study.path("model.json"),
        study.path("harmful.jsonl"),
        [study.path(f"{a}.safetensors") for a in arms],
    )


def answer(study: Study, sampling: Sampling = HOT, arms: tuple[str, ...] = ARMS) -> tuple[int, list[Row]]:
    out = study.path("out.jsonl")
    made = generate_replies(*arguments(study, arms), out, study.settings, LIMIT, sampling)
    return made, read_jsonl(out)


def replies(rows: list[Row]) -> dict[tuple[str, str, int], tuple[str, int]]:
    return {(row["arm"], row["prompt_id"], row["sample"]): (row["text"], row["n_tokens"]) for row in rows}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.3, 0.8), (2.5, 0.4), (0.7, 0.95)])
def test_a_step_takes_the_token_that_wins_the_race_of_a_slow_loop(temperature: float, top_p: float) -> None:
    logits = 3 * torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    names = [f"p{at}" for at in range(40)]
    sampling = Sampling(temperature, top_p, 1, seed=5)
    processors = sampling.processors(names, 2)
    clocks = [clock(5, 2, name) for name in names]
    for step in range(5):
        scores = logits + step
        for processor in processors:
            scores = processor(torch.zeros(40, 1, dtype=torch.long), scores)
        by_hand = [
            race(distribution(row.tolist(), temperature, top_p), rng)
            for row, rng in zip(logits.double(), clocks, strict=True)
        ]
        assert scores.argmax(dim=-1).tolist() == by_hand


def test_first_tokens_of_a_model_are_distributed_as_its_own_softmax(tiny: Tiny) -> None:
    """At most 1 in 10 000 runs of a right sampler has a p-value, or a distance, past these bounds."""
    loaded = tiny("olmoe")
    ids = loaded.encode(TESTED[0].text)
    exact = np.array(
        distribution(forward.logits(loaded, ids, Arm("baseline")).double().tolist(), 0.7, 0.9),
        dtype=np.float64,
    )
    sampling, count = Sampling(0.7, 0.9), 4000
    logits = generate(loaded, [ids], [Arm("baseline")], 1)[0].first_token_logits
    scores = logits.expand(count, -1)
    for processor in sampling.processors([f"p{at}" for at in range(count)], 0):
        scores = processor(torch.zeros(count, 1, dtype=torch.long), scores)
    drawn = np.bincount(scores.argmax(dim=-1).numpy(), minlength=len(exact))
    assert drawn[exact == 0].sum() == 0
    often = exact * count >= 5
    rest = [drawn[~often].sum()], [exact[~often].sum() * count]
    seen, expected = (
        np.append(one[often], other) for one, other in zip((drawn, exact * count), rest, strict=True)
    )
    kept = expected > 0
    assert chisquare(seen[kept], expected[kept] * seen.sum() / expected.sum()).pvalue > 1e-4
    # The mean distance is no larger (Jensen), and seldom exceeded by more (McDiarmid).
    mean = np.sqrt(exact * (1 - exact) / count).sum() / 2
    assert np.abs(drawn / count - exact).sum() / 2 < mean + np.sqrt(np.log(1e4) / (2 * count))


def test_whole_replies_are_those_of_a_slow_loop_of_races_under_every_arm(study: Study) -> None:
    _, rows = answer(study)
    assert [(row["arm"], row["prompt_id"], row["sample"]) for row in rows] == [
        (arm, prompt.id, draw) for arm in ARMS for prompt in TESTED for draw in (0, 1)
    ]
    vector = {"v": study.directions.direction[2, -1]}
    arms = {"baseline": Arm("baseline"), "add": Arm("add", (Operation("add", "v", 2, 0.8),), vector)}
    for (arm, name, draw), (text, length) in replies(rows).items():
        if arm == "nothing":
            continue
        [prompt] = [one for one in TESTED if one.id == name]
        ids, rng = study.loaded.encode(prompt.text), clock(3, draw, name)
        tokens: list[int] = []
        while len(tokens) < LIMIT and (not tokens or tokens[-1] != study.loaded.tokenizer.eos_token_id):
            logits = forward.logits(study.loaded, [*ids, *tokens], arms[arm], len(ids))
            tokens.append(race(distribution(logits.double().tolist(), 0.7, 0.9), rng))
        assert (study.loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip(), len(tokens)) == (
            text.strip(),
            length,
        )


def test_neither_batch_nor_arm_nor_how_many_samples_decide_a_reply(
    study: Study, tiny: Tiny, tmp_path: Path
) -> None:
    _, rows = answer(study)
    known = replies(rows)
    for prompt in TESTED:
        for draw in (0, 1):
            assert known["nothing", prompt.id, draw] == known["baseline", prompt.id, draw]
    assert len({known["baseline", TESTED[0].id, draw] for draw in (0, 1)}) == 2
    alone = make(tmp_path / "alone", tiny("olmoe"), batch_size=5)
    _, rows = answer(alone, Sampling(0.7, 0.9, 1, seed=3), ("add",))
    assert replies(rows) == {key: reply for key, reply in known.items() if key[0] == "add" and key[2] == 0}
    made, _ = answer(study, Sampling(0.7, 0.9, 3, seed=3))
    assert made == len(ARMS) * len(TESTED)
    made, rows = answer(study, Sampling(0.7, 0.9, 2, seed=4))
    assert made == 2 * len(ARMS) * len(TESTED)
    assert replies(rows) != known


def test_shards_and_a_stopped_run_end_with_the_bytes_of_one_job(
    study: Study, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(study, arms=SOME)
    whole = [study.path(name).read_bytes() for name in ("out.jsonl", "out.meta.json")]
    other = make(tmp_path / "other", tiny("olmoe"))
    paths, out = [other.path(f"out/{n}-of-2.jsonl") for n in (2, 1)], other.path("out.jsonl")
    for path in paths:
        shard = Shard.parse(path.stem)
        generate_replies(*arguments(other, SOME), path, other.settings, LIMIT, HOT, shard)
    gather_replies(*arguments(other, SOME), paths, out, other.settings, LIMIT, HOT)
    assert [other.path(name).read_bytes() for name in ("out.jsonl", "out.meta.json")] == whole
    stopped, model, batches = make(tmp_path / "stopped", tiny("olmoe")), generation.generate, []

    def stop_at_the_sixth(*given: Any, **options: Any) -> Any:
        if len(batches) == 5:
            raise KeyboardInterrupt
        batches.append(given)
        return model(*given, **options)

    monkeypatch.setattr(generation, "generate", stop_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        answer(stopped, arms=SOME)
    monkeypatch.undo()
    made, _ = answer(stopped, arms=SOME)
    assert 0 < made < len(SOME) * len(TESTED) * 2
    assert [stopped.path(name).read_bytes() for name in ("out.jsonl", "out.meta.json")] == whole


def test_greedy_replies_name_no_sample(study: Study) -> None:
    _, rows = answer(study, Sampling(seed=9), ("baseline",))
    assert not any("sample" in row for row in rows)
    assert "sampling" not in study.path("out.meta.json").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generation": {"temperature": 0}}, "need a `temperature` above 0"),
        ({"generation": {"temperature": 0, "samples": 1, "top_p": 0.9}}, "need a `temperature` above 0"),
        (
            {"generation": {"temperature": 0.7}, "models": {"big": {"path": "x", "engine": "vllm"}}},
            "model `big` has `engine: vllm`, which would draw other tokens",
        ),
    ],
)
def test_what_can_not_be_sampled_is_refused_before_anything_runs(changes: dict[str, Any], said: str) -> None:
    values = config().model_dump(mode="json")
    with pytest.raises(Exception, match=said):
        parse(
            values
            | {
                name: {**values[name], **some} if name == "generation" else some
                for name, some in changes.items()
            }
        )
