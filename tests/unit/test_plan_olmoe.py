"""The plan of OLMoE by hand: its sizes, the work of the study steermoe, its tasks and the judge's calls."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from steer.catalogue import known_models
from steer.config import ActivationSettings, load, parse_arm
from steer.plan.anatomy import Anatomy, anatomy_of
from steer.plan.report import Rates, plan
from steer.plan.sizes import activation_bytes, cache_bytes, gpus_needed, weight_bytes
from steer.plan.study import Lengths, Study
from steer.plan.tasks import capability
from steer.plan.work import generation as planned_generation

ROOT = Path(__file__).parents[2]
OLMOE = "allenai/OLMoE-1B-7B-0924-Instruct"


@pytest.fixture(scope="module")
def olmoe() -> Anatomy:
    return anatomy_of(known_models()[OLMOE].config, "olmoe")


def test_olmoe_by_hand(olmoe: Anatomy) -> None:
    d, L, E, K, width, V = 2048, 16, 64, 8, 1024, 50304
    attention, norms, router = 4 * d * d, 4 * d, E * d
    expert = 3 * d * width
    assert olmoe.routed == L * E * expert == 6_442_450_944
    assert olmoe.parameters == 2 * V * d + L * (attention + norms + router + E * expert) + d == 6_919_161_856
    assert olmoe.active == V * d + L * (attention + norms + router + K * expert) + d
    assert (olmoe.layers, olmoe.moe_layers, olmoe.experts, olmoe.top_k) == (L, L, E, K)
    assert weight_bytes(olmoe, "bfloat16") == 13_838_323_712
    assert cache_bytes(olmoe, 1, "bfloat16") == L * 2 * d * 2
    settings = ActivationSettings(positions=5)
    floats = 5 * d * (L + 1 + 2 * L + L) + L * 5 * (E + K) + 2 * L * E
    assert activation_bytes(olmoe, settings) == 4 * floats + 2 * L * 5 * K
    assert gpus_needed(weight_bytes(olmoe, "float32"), 0, 24e9) == 2


STEERMOE_ROWS = {
    # rule: jobs, passes, tokens read, tokens written
    "resolve": (1, 1 + 3 * 2, (1 + 3 * 2) * 16, 0),
    # 160 harmful, 260 harmless, four sets of 100, 100, 500 and 60, in batches of 8; a thousand pairs with a
    # reply on both sides, and a thousand with a document on one.
    "activations": (
        10,
        20 + 33 + 13 + 13 + 63 + 8 + 4 * 125,
        (160 + 260 + 760) * 64 + 2000 * (64 + 96) + 1000 * (64 + 160) + 1000 * 64,
        0,
    ),
    # 5 positions of 256 prompts, by 64 experts where a token of a pass has 8.
    "expert_directions": (1, 0, 256 * 5 * 64 // 8, 0),
    # 64 pairs: own replies of 48, and both sides twice over, fixed and own.
    "pairing": (1, 9 * 8, 64 * 64 + 8 * 64 * (64 + 96), 64 * 48),
    # 64 prompts a class: 2 gradients (of 3), 3 passes, 64 experts masked and none; replies on both sides: a
    # gradient, 64 experts masked and none.
    "detection": (
        1,
        5 * 8 + 65 * 8 + 2 * (8 + 65 * 8),
        64 * 64 * (2 * 3 + 3 + 64 + 1) + 2 * 64 * (64 + 96) * (3 + 64 + 1),
        0,
    ),
    "decomposition": (1, 0, 0, 0),
    # 16 layers x 5 positions on 32 and 2 x 32 prompts; KL prompt by prompt.
    "selection (arditi)": (1, 2 * 80 * 32 // 8 + 32 * (1 + 10), (80 * 3 * 32 + 32) * 64, 0),
    "selection (cosmic)": (1, 81 * 8, 81 * 64 * 64, 0),
    # add, affine, subtract: 3 places x 8 coefficients x 3 scopes; affine_suppress: a coefficient more;
    # ablate: 3 places.
    "strength": (1, 2 * 300 * 4, 2 * 300 * 32 * 64, 300 * 32 * 40),
    # 4 x 4 numbers on 32 prompts of each class, and KL on the harmless ones: two polarities, two passes each.
    "rerouting": (1, 16 * 8 + 2 * 16 * 2 * 4, (16 * 64 + 2 * 16 * 2 * 32) * 64, 16 * 64 * 40),
    # 18 arms on 100, 100, 500, 60 and 100 prompts, and two more seeds of the random one on the first and last
    # 100: each read steered and unsteered; replies of 512.
    "generation": (
        5,
        2 * (18 * (13 + 13 + 63 + 8 + 13) + 2 * 26),
        2 * (18 * 860 + 400) * 64,
        (18 * 860 + 400) * 512,
    ),
    # 18 arms read the harmless prompts with the replies of the unsteered model.
    "perplexity": (1, 18 * 13, 18 * 100 * (64 + 512), 0),
}


def test_the_plan_of_steermoe_for_olmoe_by_hand(olmoe: Anatomy) -> None:
    whole = load(ROOT / "config.yaml", ROOT / "workflow" / "studies" / "steermoe.yaml")
    config = whole.model_copy(update={"models": {"olmoe": whole.models["olmoe-0125"]}})
    said = plan(config, {"olmoe": olmoe}, Rates())
    d, L, E, K, width, V = 2048, 16, 64, 8, 1024, 50304
    everything = 2 * V * d + L * (4 * d * d + 4 * d + E * d + E * 3 * d * width) + d
    active = V * d + L * (4 * d * d + 4 * d + E * d + K * 3 * d * width) + d
    assert f"parameters: {everything:,}, {active:,} of them for a token" in said
    assert "13.8 GB to fetch (bfloat16); loaded: float32 27.7 GB, bfloat16 and float16 13.8 GB" in said
    # 13.8 GB, and 8 rows of 576 tokens: keys and values of 16 layers, logits, 16 widths of working memory.
    batch = 8 * (576 * 16 * 2 * d * 2 + 4 * V + 576 * 16 * d * 2)
    assert f"GPUs: 1 of a100-80gb (13.8 GB weights + {batch / 1e6:.1f} MB for a batch of 8 x 576" in said
    found = {
        rule.strip(): (int(jobs), *(int(cell.replace(",", "")) for cell in cells), float(minutes))
        for rule, jobs, *cells, minutes in re.findall(
            r"^  (\w+(?: \(\w+\))?) +(\d+) +([\d,]+) +([\d,]+) +([\d,]+) +([\d.]+)$", said, re.MULTILINE
        )
    }
    total = found.pop("total")
    assert {rule: row[:4] for rule, row in found.items()} == STEERMOE_ROWS
    assert total[:4] == tuple(map(sum, zip(*STEERMOE_ROWS.values(), strict=True)))
    # Five jobs load 13.8 GB at 2 GB/s; a step of 8 rows reads all but 0.875^8 of the experts at half of
    # 2.039 TB/s and waits 0.4 ms a layer; so do the passes of the proof and over prompts, unless arithmetic
    # is slower.
    bandwidth, latency = 0.5 * 2.039e12, L * 4e-4
    dense = 2 * (everything - V * d - L * E * 3 * d * width)
    experts = 2 * L * E * 3 * d * width
    step = latency + (dense + experts * (1 - 0.875**8)) / bandwidth
    rows = 18 * 860 + 400
    proof = 7 * (latency + (dense + experts * (1 - 0.875**16)) / bandwidth)
    passes = 2 * (18 * 110 + 2 * 13)
    arithmetic = 2 * active * 2 * rows * 64 / (0.35 * 312e12)
    moved = passes * (dense + experts * (1 - 0.875**501)) / bandwidth
    seconds = 5 * (13_838_323_712 / 2e9 + proof) + rows * 512 / 8 * step
    seconds += passes * latency + max(arithmetic, moved)
    assert found["generation"][4] == pytest.approx(seconds / 60, abs=0.1)


def test_a_dense_model_is_planned_without_arms_on_experts_or_on_their_routing(olmoe: Anatomy) -> None:
    whole = load(ROOT / "config.yaml")
    arms = {name: whole.arms[name] for name in ("baseline", "add")}
    replay = parse_arm({"operation": "replay_routing", "of": "add", "part": "edits"})
    written = []
    for experts, more in ((0, {}), (0, {"held": replay}), (8, {"held": replay})):
        config = whole.model_copy(update={"arms": arms | more})
        study = Study(config, config.models["organism"], replace(olmoe, experts=experts), Lengths(64))
        written.append(planned_generation(study).written)
    assert written[0] == written[1] < written[2]


def test_tasks_are_planned_by_their_published_sizes(olmoe: Anatomy) -> None:
    config = load(ROOT / "config.yaml", ROOT / "workflow" / "studies" / "expert-aware.yaml")
    found = capability(Study(config, config.models["olmoe-0924"], olmoe, Lengths(64)))
    # Five arms; questions x offers x examples, and answers of gsm8k.
    questions = 14042 * 4 * 6 + 1000 * 4 * 11 + (2376 + 1172) * 4 * 26 + 1267 * 2 * 6 + 1319 * 6 + 817 * 5
    assert found.read == 5 * questions * 64
    assert found.written == 5 * 1319 * 256
    own = load(ROOT / "config.yaml")
    small = capability(Study(own, own.models["organism"], olmoe, Lengths(64)))
    assert (small.jobs, small.read) == (1, len(own.capable_arms) * 60 * 4 * 64)


def test_labelled_replies_are_judged_and_paid_for(olmoe: Anatomy) -> None:
    whole = load(ROOT / "config.yaml", ROOT / "workflow" / "studies" / "steermoe.yaml")
    config = whole.model_copy(update={"models": {"olmoe": whole.models["olmoe-0125"]}})
    said = plan(config, {"olmoe": olmoe}, Rates())
    gold = len((ROOT / "data" / "judge_gold" / "general.jsonl").read_text().splitlines())
    # Replies of generation and of both choices, labelled ones whole and cut to three lengths, own ones cut.
    calls = 18 * 860 + 400 + 300 * 32 + 16 * 64 + 4 * (400 + gold) + 3 * 150
    assert re.search(rf"^  gpt-4o +server +{calls:,} ", said, re.MULTILINE)
