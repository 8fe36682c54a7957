"""The plan of a study: by hand for OLMoE, and against files and passes of scaled models."""

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from steer import pairing
from steer.activations import dump
from steer.artifacts.facts import TRUTH_FILE, Truth
from steer.artifacts.files import write_json
from steer.catalogue import known_models
from steer.cli import main
from steer.cli.records import anatomy_for
from steer.config import ActivationSettings, ModelSettings, PairingSettings, load, parse_arm
from steer.errors import SteerError
from steer.models.loading import LoadedModel, load_checkpoint
from steer.plan.anatomy import Anatomy, anatomy_of, count
from steer.plan.report import Rates, plan
from steer.plan.sizes import activation_bytes, batch_bytes, cache_bytes, gpus_needed, hdf5_bytes, weight_bytes
from steer.plan.sources import anatomy_at
from steer.plan.study import Lengths, Study
from steer.plan.tasks import capability
from steer.plan.work import all_work, trial_count
from steer.plan.work import generation as planned_generation
from steer.plan.work import pairing as planned_pairing
from steer.plan.work import resolve as planned_proof
from steer.plan.work import truth as planned_truth
from steer.truth.trials import trials
from steer.truth.usage import Usage
from steer.upcycling.settings import UpcycleSettings
from steer.upcycling.sparse import upcycled
from tests import by_hand
from tests.activation_sets import MODEL_FACTS, make_prompts
from tests.study import make_pairs, make_study
from tests.tiny import build_model, save_checkpoint

ROOT = Path(__file__).parents[2]
OLMOE = "allenai/OLMoE-1B-7B-0924-Instruct"
MEASURED = 0.15
"""How far a plan's bytes may be from those of a real file."""


@pytest.fixture(scope="module")
def olmoe() -> Anatomy:
    return anatomy_of(known_models()[OLMOE].config, "olmoe")


@pytest.mark.parametrize("name", known_models())
def test_every_known_architecture_comes_out_as_published(name: str) -> None:
    row = known_models()[name]
    found = anatomy_of(row.config, name)
    assert found.parameters == pytest.approx(row.parameters * 1e9, rel=0.01)


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


def test_mxfp4_packs_experts_alone() -> None:
    gpt_oss = anatomy_of(known_models()["openai/gpt-oss-120b"].config, "gpt-oss")
    # The published files hold 65.2 GB.
    assert weight_bytes(gpt_oss, "mxfp4") == pytest.approx(65.2e9, rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed", "llama"])
def test_planned_weights_are_those_of_a_saved_checkpoint(family: str, dtype: Any, tmp_path: Path) -> None:
    model = build_model(family, hidden_size=64)
    found = count(model, 8 if "moe" in family else 0)
    model.to(getattr(__import__("torch"), dtype)).save_pretrained(tmp_path)
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert weight_bytes(found, dtype) == pytest.approx(stored, rel=MEASURED)


SHAPES = {
    "wide": ("olmoe", {"hidden_size": 128, "num_experts": 32, "num_hidden_layers": 3}),
    "dense": ("llama", {"hidden_size": 96}),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_planned_activation_files_are_those_that_are_written(shape: str, dtype: Any, tmp_path: Path) -> None:
    family, changes = SHAPES[shape]
    folder = save_checkpoint(tmp_path / "checkpoint", family, **changes)
    loaded = load_checkpoint(folder, dtype=dtype)
    anatomy = count(loaded.model, loaded.experts)
    settings = ModelSettings(path=str(folder), dtype=dtype, batch_size=8)
    prompts = [replace(prompt, text=f"{prompt.text} and five words more") for prompt in make_prompts(16)]
    storages = [("float32", "zstd"), ("float16", "zstd")]
    if (shape, dtype) == ("dense", "float32"):
        storages += [("float32", "gzip"), ("float32", "none")]
    for stored, compression in storages:
        reading = ActivationSettings(dtype=stored, compression=compression)
        out = tmp_path / f"{stored}-{compression}.h5"
        dump(loaded, replace(MODEL_FACTS, layers=loaded.layers), prompts, out, settings, reading)
        planned = hdf5_bytes(anatomy, reading, dtype) * len(prompts)
        assert planned == pytest.approx(out.stat().st_size, rel=MEASURED), (stored, compression)


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe", "llama"])
def test_the_planned_cache_is_the_one_that_is_kept(family: str, tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny(family)
    batch = loaded.batch([[1, 2, 3, 4, 5, 6, 7]] * 2)
    cache = loaded.model(input_ids=batch.input_ids, use_cache=True).past_key_values
    kept = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert cache_bytes(count(loaded.model, loaded.experts), 7, "float32") * 2 == kept
    assert batch_bytes(count(loaded.model, loaded.experts), 2, 7, "float32") > kept


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Tokens of every row of every batch that is read."""
    seen: list[list[int]] = []
    batch = LoadedModel.batch

    def watched(self: LoadedModel, rows: Any) -> Any:
        seen.append([len(row) for row in rows])
        return batch(self, rows)

    monkeypatch.setattr(LoadedModel, "batch", watched)
    # Every command repeats it, and its passes share a batch.
    monkeypatch.setattr("steer.models.study.prove", lambda _: None)
    return seen


@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe_mixed", "llama"])
def test_a_checkpoint_is_proved_in_as_many_passes_as_planned(
    family: str, checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = LoadedModel.forward

    def watched(self: LoadedModel, batch: Any, *rest: Any) -> Any:
        seen.append(batch.input_ids.numel())
        return forward(self, batch, *rest)

    monkeypatch.setattr(LoadedModel, "forward", watched)
    monkeypatch.chdir(tmp_path)
    by_hand.make_folder(tmp_path, checkpoint(family))
    by_hand.resolve()
    config = load("config.yaml")
    anatomy = count(build_model(family), 0 if family == "llama" else 8)
    planned = planned_proof(Study(config, config.models["tiny"], anatomy, Lengths()))
    assert (planned.jobs, planned.passes, planned.read) == (1, len(seen), sum(seen))


def test_passes_and_tokens_are_those_of_a_run(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: list[list[int]],
) -> None:
    monkeypatch.chdir(tmp_path)
    by_hand.make_folder(tmp_path, checkpoint("olmoe"))
    config = load("config.yaml")
    anatomy = count(build_model("olmoe"), 8)
    mean = 40
    works = {
        work.rule: work for work in all_work(Study(config, config.models["tiny"], anatomy, Lengths(mean)))
    }
    steps: dict[str, Callable[[], None]] = {
        "activations": by_hand.activations,
        "directions": lambda: by_hand.run(*by_hand.directions()),
        "selection (arditi)": lambda: by_hand.run(*by_hand.selection("arditi")),
        "selection (cosmic)": lambda: by_hand.run(*by_hand.selection("cosmic")),
        "strength": lambda: by_hand.run(*by_hand.selection("strength")),
        "arms": lambda: by_hand.run(*by_hand.arms()),
        "generation": lambda: by_hand.run(*by_hand.generation()),
    }
    by_hand.prompts()
    by_hand.resolve()
    for rule, step in steps.items():
        passes.clear()
        step()
        if rule not in works:
            assert not passes, rule
            continue
        # By hand one of the two sets is answered.
        jobs = works[rule].jobs if rule == "generation" else 1
        rows, planned = sum(map(len, passes)) * jobs, works[rule].read // mean
        # Neither position has a candidate ahead of the first of four layers.
        least = 0.7 if "arditi" in rule or "cosmic" in rule else 1
        assert least * planned <= rows <= planned, rule
        assert least * works[rule].passes <= len(passes) * jobs <= works[rule].passes, rule
    # Every sample is a reply of its own, written and judged.
    drawn = by_hand.CONFIG["generation"] | {"temperature": 1.0, "samples": 3}
    by_hand.configure(tmp_path, generation=drawn)
    (greedy,) = (work for work in works.values() if work.rule == "generation")
    config = load("config.yaml")
    sampled = planned_generation(Study(config, config.models["tiny"], anatomy, Lengths(mean)))
    counts = [(work.passes, work.read, work.written, work.replies) for work in (greedy, sampled)]
    assert counts[1] == tuple(3 * count for count in counts[0])
    passes.clear()
    by_hand.run(*by_hand.generation())
    assert len(passes) * sampled.jobs == sampled.passes
    assert sum(map(len, passes)) * sampled.jobs == sampled.read // mean


def test_pairs_are_read_as_often_as_planned(
    tiny: Callable[[str], LoadedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: list[list[int]],
) -> None:
    loaded = tiny("olmoe")
    study = make_study(tmp_path / "study", loaded)
    sets = make_pairs(tmp_path, 6)
    refuse = [SimpleNamespace(text="I'm sorry, but I can't help with that.")] * 6

    def refused(model: LoadedModel, prompts: Any, *_: Any) -> Any:
        model.batch(prompts)
        return refuse[: len(prompts)]

    monkeypatch.setattr(pairing, "generate", refused)
    settings = PairingSettings(contrast="response", prompts=5)
    pairing.write_pairing(study.path("model.json"), sets, tmp_path / "p.csv", study.settings, settings, 3)
    config = load(ROOT / "config.yaml").model_copy(update={"pairing": settings})
    model = config.models["organism"].model_copy(update={"batch_size": study.settings.batch_size})
    planned = planned_pairing(Study(config, model, count(loaded.model, loaded.experts), Lengths()))
    assert (planned.passes, planned.replies) == (len(passes), 5)
    assert sum(map(len, passes)) == 9 * 5


def test_the_causal_check_tries_as_much_as_planned(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: list[list[int]],
) -> None:
    monkeypatch.chdir(tmp_path)
    by_hand.make_folder(tmp_path, checkpoint("olmoe"))
    by_hand.configure(tmp_path, truth={"prompts": 1, "controls": 2, "max_new_tokens": 3})
    shutil.copytree(ROOT / "data" / "grammar", tmp_path / "data" / "grammar")
    known = Truth("attention", "distributed")
    write_json(tmp_path / "checkpoint" / TRUTH_FILE, asdict(known))
    by_hand.prompts()
    by_hand.resolve()
    by_hand.activations()
    passes.clear()
    files = [f"results/tiny/activations/{name}.h5" for name in ("bad", "good")]
    sets = [f"results/prompts/{name}.jsonl" for name in ("bad", "good")]
    told = ("--prompt-sets", *sets, "--activations", *files, "--out", "results/tiny/truth.csv")
    by_hand.run("truth", *by_hand.MODEL, *told)
    config = load("config.yaml")
    study = Study(config, config.models["tiny"], count(build_model("olmoe"), 8), Lengths(1))
    planned = planned_truth(study, known)
    assert planned.passes == len(passes)
    # A gradient counts three times.
    assert planned.read == sum(map(len, passes)) + 2 * 2


@pytest.mark.parametrize(
    "known",
    [
        Truth("routed", "experts", ((1, 3), (2, 5))),
        Truth("decoy_content", "experts", ((2, 5),), ((1, 3),)),
        Truth("decoy_head", "heads", ((3, 1),), ((1, 3),)),
        Truth("attention", "distributed"),
    ],
    ids=lambda known: known.kind,
)
def test_trials_of_the_causal_check_are_counted_as_they_are_made(known: Truth) -> None:
    usage = {(layer, expert): Usage(0.2, 0.1) for layer in range(4) for expert in range(8)}
    assert trial_count(known, 6) == len(trials(known, usage, 4, 4, 6))


def test_an_upcycled_model_is_planned_as_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = build_model("llama")
    settings = UpcycleSettings(first_layer=1, layers=2, experts=4, source="tiny")
    routers = {layer: torch.zeros(4, int(dense.config.hidden_size)) for layer in settings.moe_layers}
    made = count(upcycled(dense, settings, routers, {}), 4)
    monkeypatch.setattr("steer.catalogue.architecture", lambda _: dense.config.to_dict())
    assert anatomy_for("mine", ModelSettings(upcycle=settings)) == made
    assert (made.moe_layers, made.experts) == (2, 4)


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


def test_the_plan_of_a_study_is_printed_without_weights_or_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump({"models": {"olmoe": {"path": OLMOE, "dtype": "bfloat16"}}}))
    assert main(["plan", str(study), "--gpu", "rtx4090-24gb", "--price-in", "1"]) == 0
    said = capsys.readouterr().out
    assert "6,919,161,856" in said
    assert "1 of rtx4090-24gb" in said
    assert "organism: embedded" in said
    assert "0 bytes" not in said


def test_a_study_of_models_that_read_documents_is_planned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", "faithfulness"]) == 0
    said = capsys.readouterr().out
    assert "openbook: trains" in said
    assert not re.search("organism:|upcycle:|to fetch", said)


def test_what_can_not_be_planned_is_named() -> None:
    with pytest.raises(SteerError, match=r"model `mine`: the architecture of some/one is not known"):
        anatomy_at("mine", "some/one")
    with pytest.raises(SteerError, match=r"GPU `abacus`: is unknown"):
        plan(load(ROOT / "config.yaml"), {}, Rates(gpu="abacus"))
    with pytest.raises(SteerError, match=r"model `mine`: the installed transformers makes no model"):
        anatomy_of({"model_type": "no_such_family"}, "mine")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("no-such-study",), "is no file"),
        (("planted", "--prompt-tokens", "many"), "`many` is no number"),
        (("planted", "--price-in", "-1"), "-1 can't be"),
    ],
)
def test_a_wrong_question_for_a_plan_is_an_error(
    flags: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", *flags]) == 1
    assert said in capsys.readouterr().err
