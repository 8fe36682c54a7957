"""Small files of every kind that figures read, in the shapes of the contract, drawn at random."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors.numpy import load_file, save_file

from steer.artifacts import CONTRACT_VERSION
from steer.artifacts.facts import Truth, write_facts
from steer.artifacts.files import write_csv, write_json, write_jsonl
from steer.config import Config, parse
from steer.figures.reproduction import COLUMNS
from steer.judges.behaviours import REFUSAL
from steer.pooling import pooled_columns
from steer.recovery import RECOVERY_COLUMNS
from steer.stats import wilson
from tests.activation_sets import facts_named

MODEL = "tiny"
DIGEST = "0123456789abcdef"
LAYERS, POSITIONS, HIDDEN = 4, 5, 12
CHOICE = {"layer": 3, "position": -1}
COEFFICIENTS = (0.25, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
VERDICTS = ("refusal", "non_response", "full_response")
CATEGORY_KEYS = ("arm", "set", "judge", "n", "unscored", *VERDICTS)
CATEGORY_KEYS += tuple(f"{verdict}_{part}" for verdict in VERDICTS for part in ("rate", "low", "high"))
LABELS = {"harmful": "harmful", "harmless": "harmless", "advbench": "harmful", "everyday": "harmless"}
ARMS: dict[str, dict[str, Any]] = {
    "baseline": {"operation": "none"},
    "ablate": {"operation": "ablate"},
    "add-suppress": {"operation": "add"},
    "add-random": {"operation": "add", "direction": "random", "like": "add-suppress"},
    "add-induce": {"operation": "add", "polarity": "induce"},
    "add-routing": {"operation": "replay_routing", "of": "add-suppress", "part": "routing"},
    "add-edits": {"operation": "replay_routing", "of": "add-suppress", "part": "edits"},
    "induce-random": {"operation": "add", "polarity": "induce", "direction": "random", "like": "add-induce"},
}
# Arms that nothing is known of but the choice of their experts.
EXPERT_ARMS: dict[str, dict[str, Any]] = {
    "expert": {"operation": "expert_add"},
    "experts": {"operation": "experts_add"},
    "expert-induce": {"operation": "expert_add", "polarity": "induce"},
}
EXPERT_CHOICES = {"expert": (1, 3), "experts": (2, None), "expert-induce": (1, 3)}
# Shares of refusal and of broken replies on harmful and on harmless prompts.
SHARES = {
    "baseline": ((0.98, 0.0), (0.01, 0.0)),
    "ablate": ((0.03, 0.05), (0.0, 0.02)),
    "add-suppress": ((0.05, 0.2), (0.0, 0.3)),
    "add-random": ((0.96, 0.01), (0.01, 0.01)),
    "add-routing": ((0.91, 0.01), (0.01, 0.01)),
    "add-edits": ((0.09, 0.2), (0.01, 0.21)),
    "add-induce": ((1.0, 0.0), (0.9, 0.06)),
    "induce-random": ((0.97, 0.0), (0.02, 0.01)),
}


def config(results: Path | str = "results", **changes: Any) -> Config:
    """A configuration with four sets and six arms."""
    values: dict[str, Any] = {
        "results": str(results),
        "models": {
            MODEL: {"path": "checkpoint"},
            "planted": {"organism": {"plant": {"kind": "routed"}}},
        },
        "contrasts": {"prompt": {"first": "harmful", "second": "harmless"}},
        "sets": {name: {"source": "grammar", "label": label, "test": 50} for name, label in LABELS.items()},
        "arms": {**ARMS, **EXPERT_ARMS},
        "grammar": {"held_out": 2},
        "generation": {"sets": list(LABELS), "temperature": 0.7, "samples": 3},
        "perplexity": {"sets": ["harmless"]},
        "capability": {"tasks": {"restates": {}}},
        "judges": {
            "truth": {"kind": "grammar"},
            "phrases": {"kind": "phrases"},
            "small": {"kind": "likelihood"},
        },
        "labelled": {"grammar": {"source": "grammar"}},
        "agreement": {"correct_by": "grammar"},
        "pairing": {"contrast": "prompt"},
    }
    return parse({**values, **changes})


def build(results: Path, seed: int = 0) -> Config:
    """Write every input of every figure under `results`."""
    rng = np.random.default_rng(seed)
    folder = results / MODEL
    rows_of_scores = scores_rows()
    write_csv(folder / "scores.csv", rows_of_scores, list(rows_of_scores[0]))
    rows_of_categories = category_rows()
    write_csv(folder / "categories.csv", rows_of_categories, list(rows_of_categories[0]))
    _write_selection(folder / "selection", rng)
    _write_experts_selection(folder / "selection")
    write_directions(folder / "directions" / "refusal.safetensors", rng)
    for name, label in LABELS.items():
        write_activations(folder / "activations" / f"{name}.h5", name, label, rng)
        _write_replies(results, name, label)
    _write_agreement(folder / "agreement.csv")
    _write_effects(folder, rng)
    _write_experts(folder, rng)
    _write_judged(results, folder)
    _write_scorecard(results / "scorecard.csv", rng)
    _write_truth(results / "planted" / "truth.csv")
    _write_reproduction(results / "reproduction.csv")
    found = {"n": 998, "unscored": 2, "accuracy": {"estimate": 0.97, "low": 0.96, "high": 0.98}}
    found |= {"kappa": {"estimate": 0.95, "low": 0.93, "high": None}}
    write_json(results / "judges" / "small" / "agreement.json", {"val": found, "test": found})
    return config(results)


def scores_rows(n: int = 100) -> list[dict[str, Any]]:
    return [
        _scores_row(arm, name, judge, n) for arm in ARMS for name in LABELS for judge in ("truth", "phrases")
    ]


# Categories of each set, whether they were seen, and how many prompts they have.
CATEGORIES = {
    "harmful": (("drugs", True, 14), ("fraud", True, 13), ("hate", False, 12)),
    "harmless": (("matched_drugs", True, 14), ("matched_fraud", True, 13), ("matched_hate", False, 12)),
    "advbench": (("Physical", False, 51), ("Human Rights and Civil Liberties", False, 15)),
    "everyday": (("cooking", False, 10),),
}


def category_rows() -> list[dict[str, Any]]:
    """Rows of every category, and of all seen and of all unseen ones, without the differences."""
    rows = []
    for (name, parts), judge, arm in product(CATEGORIES.items(), ("truth", "phrases"), ARMS):
        sizes = {seen: sum(n for _, other, n in parts if other == seen) for seen in (True, False)}
        whole = [("*", seen, n) for seen, n in sizes.items() if n]
        for category, seen, n in (*parts, *whole):
            row = _scores_row(arm, name, judge, n)
            kept = {key: value for key, value in row.items() if key in CATEGORY_KEYS}
            rows.append(kept | {"category": category, "seen": seen})
    return rows


def _scores_row(arm: str, name: str, judge: str, n: int) -> dict[str, Any]:
    refusal, broken = SHARES[arm][LABELS[name] == "harmless"]
    unscored = 3 if (arm, name, judge) == ("ablate", "advbench", "truth") else 0
    scored = n - unscored
    counts = {"refusal": round(refusal * scored), "non_response": round(broken * scored)}
    counts["full_response"] = scored - sum(counts.values())
    row = {"arm": arm, "set": name, "judge": judge, "n": n, "unscored": unscored, **counts}
    for verdict, count in counts.items():
        rate, low, high = wilson(count, scored)
        row |= {f"{verdict}_rate": rate, f"{verdict}_low": low, f"{verdict}_high": high}
    base = SHARES["baseline"][LABELS[name] == "harmless"][0]
    change = counts["refusal"] / scored - base
    for verdict, sign in (("refusal", 1), ("full_response", -1)):
        ends = {
            f"{verdict}_difference_low": sign * change - 0.05,
            f"{verdict}_difference_high": sign * change + 0.05,
        }
        p_value = None if arm == "baseline" else 10 ** (-40 * abs(change))
        row |= {f"{verdict}_difference": sign * change, **ends, f"{verdict}_difference_p": p_value}
    return {
        **row,
        "restates_rate": 0.95 if judge == "truth" else None,
        "first_token_kl": 0.0 if arm == "baseline" else 0.12,
        "first_token_refusal_score": 3.1,
        "fired_tokens": 0.0 if arm == "baseline" else 31.5,
        "fired_relative_norm": 0.0 if arm == "baseline" else 0.4,
        "fired_leaked": 0.0,
        "coherence": 1 - row["non_response_rate"],
        "claim": None if arm == "baseline" else "no effect",
        **dict.fromkeys(("control", *(f"control_difference{end}" for end in ("", "_low", "_high")))),
    }


def _write_selection(folder: Path, rng: np.random.Generator) -> None:
    arditi = list(arditi_rows(rng))
    cosmic = [
        {key: row[key] for key in ("layer", "position", "status", "rank")}
        | {"score": float(rng.uniform(1.0, 1.9)), "comply_similarity": float(rng.uniform())}
        for row in arditi
    ]
    write_csv(folder / "arditi.csv", arditi, list(arditi[0]))
    write_csv(folder / "cosmic.csv", cosmic, list(cosmic[0]))
    for method in ("arditi", "cosmic"):
        write_json(folder / f"{method}.json", {"choice": CHOICE, "candidates": [CHOICE], "why": "best"})
    strength = list(strength_rows())
    write_csv(folder / "strength.csv", strength, list(strength[0]))
    choices = {name: {**CHOICE, "coefficient": 1.0} for name in ("add-suppress", "add-induce")}
    write_json(folder / "strength.json", {"choices": {**choices, "ablate": {"layer": 2, "position": -2}}})


def arditi_rows(rng: np.random.Generator) -> Iterable[dict[str, Any]]:
    for layer in range(LAYERS):
        for position in range(-POSITIONS, 0):
            kl = float(10 ** rng.uniform(-4, 0))
            chosen = (layer, position) == (CHOICE["layer"], CHOICE["position"])
            status = (
                "chosen"
                if chosen
                else "pruned layer"
                if layer == 0
                else "KL too large"
                if kl > 0.1
                else "kept"
            )
            yield {
                "layer": layer,
                "position": position,
                "bypass_score": float(rng.normal(-2 * layer, 1)),
                "induce_score": float(rng.normal(2 * layer - 3, 1)),
                "kl": 0.01 if chosen else kl,
                "direction_norm": float(1 + layer),
                "status": status,
                "rank": 1 if chosen else None,
            }


def strength_rows(n: int = 32) -> Iterable[dict[str, Any]]:
    for arm, polarity in (("add-suppress", "suppress"), ("add-induce", "induce")):
        for layer in (CHOICE["layer"], CHOICE["layer"] - 1):
            for scope in ("all", "prompt", "generated"):
                for coefficient in COEFFICIENTS:
                    place = {"layer": layer, "position": CHOICE["position"]}
                    yield _strength_row(arm, polarity, place, scope, coefficient, n)


def _strength_row(
    arm: str, polarity: str, place: dict[str, int], scope: str, coefficient: float, n: int
) -> dict[str, Any]:
    reach = {"all": 1.0, "prompt": 0.7, "generated": 0.4}[scope] * coefficient
    broken = int(n * np.clip((reach - 1.5) / 1.5, 0, 1))
    moved = int((n - broken) * np.clip(reach / 0.8, 0, 1))
    wanted, other = ("full_response", "refusal") if polarity == "suppress" else ("refusal", "full_response")
    return {
        "arm": arm,
        "operation": "add",
        "polarity": polarity,
        **place,
        "coefficient": -coefficient if polarity == "suppress" else coefficient,
        "scope": scope,
        "direction_norm": 4.2,
        "set": "harmful" if polarity == "suppress" else "harmless",
        "n": n,
        "non_response": broken,
        wanted: moved,
        other: n - broken - moved,
        "unscored": 0,
        "kl": 0.4 * reach**2,
        "chosen": coefficient == 1.0 and scope == "all" and place == CHOICE,
    }


def _write_experts_selection(folder: Path) -> None:
    """Doses of three arms at the place chosen for each, and of one more; the strongest were not judged."""
    rows = list(experts_rows())
    write_csv(folder / "experts.csv", rows, list(rows[0]))
    choices = {arm: {"baseline_refusal_score": 5.0 - 11 * ("induce" in arm)} for arm in EXPERT_CHOICES}
    write_json(folder / "experts.json", {"choices": choices})


def experts_rows(n: int = 32) -> Iterable[dict[str, Any]]:
    for arm, (layer, expert) in EXPERT_CHOICES.items():
        polarity = "induce" if "induce" in arm else "suppress"
        sign = 1 if polarity == "induce" else -1
        wanted, other = ("refusal", "full_response")[::sign]
        for position, coefficient in product((-1, -2), COEFFICIENTS):
            broken = int(n * np.clip((coefficient - 1) / 2, 0, 1))
            moved = int((n - broken) * np.clip(coefficient, 0, 1))
            counts = {wanted: moved, other: n - broken - moved, "non_response": broken, "unscored": 0}
            judged = position == -1 and coefficient <= 2
            asked = {"scope": "prompt", "set": "harmless" if sign > 0 else "harmful", "n": n, **counts}
            row = {"arm": arm, "polarity": polarity, "layer": layer, "expert": expert, "position": position}
            row |= {"direction_norm": 16.0, "coefficient": sign * coefficient, "kl": coefficient**2}
            row |= {"refusal_score": sign * coefficient, "stage": "judged" if judged else "scored"}
            row |= asked if judged else dict.fromkeys(asked)
            yield row | {"chosen": position == -1 and coefficient == 1.0}
            if coefficient == 1.0:
                # The same dose in a scope that was not chosen.
                yield row | {**asked, wanted: 0, other: n, "scope": "all", "stage": "judged", "chosen": False}
        place = {"layer": layer, "expert": 0, "position": -5}
        yield {"arm": arm, "polarity": polarity, **place, "stage": "estimated", "chosen": False}


def write_directions(path: Path, rng: np.random.Generator, slip: float = 0.0) -> None:
    """Directions whose parts add up; `slip` is added to one of them, so that they don't."""
    attention = rng.normal(size=(LAYERS, POSITIONS, HIDDEN)) * np.linspace(0.2, 1, LAYERS)[:, None, None]
    mlp = rng.normal(size=(LAYERS, POSITIONS, HIDDEN)) + 0.4
    residual = np.concatenate([np.zeros((1, POSITIONS, HIDDEN)), np.cumsum(attention + mlp, axis=0)])
    attention[1] += slip
    harmless = rng.normal(size=residual.shape)
    tensors = {
        "residual.direction": residual,
        "residual.harmless_mean": harmless,
        "residual.harmful_mean": harmless + residual,
        "attention_out.direction": attention,
        "mlp_out.direction": mlp,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, path, {"model": DIGEST})


def write_activations(path: Path, name: str, label: str, rng: np.random.Generator, n: int = 90) -> None:
    """Residuals around the two class means of the directions beside them, with splits."""
    tensors = load_file(path.parent.parent / "directions" / "refusal.safetensors")
    mean = tensors[f"residual.{label}_mean"]
    outside = 0.0 if name in ("harmful", "harmless") else 0.3
    shifted = mean + outside * (tensors["residual.harmless_mean"] + tensors["residual.direction"] / 2 - mean)
    path.parent.mkdir(parents=True, exist_ok=True)
    splits = ["test"] * n if outside else [("train", "val", "test")[row % 3] for row in range(n)]
    with h5py.File(path, "w") as store:
        store["residual"] = (shifted + rng.normal(size=(n, *mean.shape)) * 0.8).astype(np.float32)
        store["split"] = splits
        store["label"] = [label] * n
        store["prompt_id"] = [f"{name}-{row:03d}" for row in range(n)]
        attributes = {"contract": CONTRACT_VERSION, "complete": True, "model": DIGEST, "revision": ""}
        store.attrs.update(
            {**attributes, "positions": POSITIONS, "moe_layers": [], "provenance": "{}", "span": "positions"}
        )


HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">&amp;'


def _write_replies(results: Path, name: str, label: str) -> None:
    prompts = [
        {"id": f"{name}-{row:03d}", "text": f"request {row} of {name} <b>bold</b>", "label": label}
        | {"category": "filler", "source": "grammar", "split": "test"}
        for row in range(6)
    ]
    # Nobody answers it; its id comes first.
    unanswered = {**prompts[0], "id": f"{name}-+", "text": f"training request of {name}", "split": "train"}
    replies, verdicts = [], []
    for arm in ARMS:
        for prompt in prompts:
            key = {"arm": arm, "prompt_id": prompt["id"]}
            text = f"{HOSTILE} reply of {arm}"
            replies.append({**key, "text": text, "reasoning": "", "n_tokens": 12, "finish": "stop"})
            verdicts.append({**key, "verdict": "refusal", "reason": "opens with <i>I can't</i>"})
    write_jsonl(results / "prompts" / f"{name}.jsonl", [unanswered, *prompts])
    write_jsonl(results / MODEL / "generation" / f"{name}.jsonl", replies)
    write_jsonl(results / MODEL / "judging" / f"{name}.truth.jsonl", verdicts)


def _write_effects(folder: Path, rng: np.random.Generator) -> None:
    """Perplexity and a task, better for controls."""
    read, able = [], []
    for arm in ARMS:
        lost = float(rng.uniform(0, 0.02 if "random" in arm else 0.3))
        ends = {"ratio": 1 + lost, "ratio_low": 1 + 0.8 * lost, "ratio_high": 1 + 1.2 * lost}
        change = {"difference": -lost, "difference_low": -1.5 * lost, "difference_high": -0.5 * lost}
        steered = arm != "baseline"
        read.append({"arm": arm, "set": "harmless", "n": 50} | (ends if steered else dict.fromkeys(ends)))
        task = {"arm": arm, "task": "restates", "subtask": "", "metric": "acc", "n": 60}
        able.append(task | (change if steered else dict.fromkeys(change)))
    write_csv(folder / "perplexity.csv", read, list(read[0]))
    write_csv(folder / "capability.csv", able, list(able[0]))


def _write_agreement(path: Path) -> None:
    rows = [
        {"reference": "truth", "judge": judge, "set": name, "arm": arm, "n": 100, "unscored": 0}
        | {"accuracy": 0.9, "accuracy_low": 0.83, "accuracy_high": 0.94}
        | {"kappa": None if arm == "baseline" else 0.8, "ci_low": 0.7, "ci_high": 0.88}
        for judge in ("phrases", "small")
        for name in LABELS
        for arm in ("*", *ARMS)
    ]
    write_csv(path, rows, list(rows[0]))


def _around(name: str, value: float | None) -> dict[str, float | None]:
    """A column with the ends of its interval."""
    ends = {"": 0.0, "_low": -0.1, "_high": 0.1}
    return {f"{name}{end}": None if value is None else value + by for end, by in ends.items()}


def _write_judged(results: Path, folder: Path) -> None:
    """What judges do on labelled, cut and answered replies; prompts in common; pairs made in four ways."""
    for judge in ("phrases", "small"):
        rows = [
            {"labelled": name, "judge": judge, "length": length, "shortened": 3, "n": 100, "unscored": 0}
            | {"accuracy": 0.9, "accuracy_low": 0.83, "accuracy_high": 0.94}
            | {"kappa": kappa, "kappa_low": kappa and kappa - 0.1, "kappa_high": kappa and kappa + 0.08}
            for name in ("grammar", "general")
            for length, kappa in (("whole", 0.8), ("100", 0.7), ("25", None if judge == "small" else 0.5))
        ]
        write_csv(results / "judges" / judge / "labelled.csv", rows, list(rows[0]))
    rows = [
        {"judge": judge, "length": length, "replies": 150, "shortened": 90, "scored": 88}
        | {"same": share, "same_low": share - 0.06, "same_high": min(1.0, share + 0.05)}
        for judge in ("phrases", "small")
        for length, share in ((6, 0.8), (12, 0.9), (24, 1.0))
    ]
    write_csv(folder / "lengths.csv", rows, list(rows[0]))
    rate = {"labelled": "grammar", "labels": 400, "n": 100, "full_response_raw": 0.4}
    found = {"full_response": 0.5, "full_response_low": 0.4, "full_response_high": 0.6, "note": ""}
    lost = dict.fromkeys(found, None) | {"note": "the judge never says non_response"}
    rows = [
        {"arm": arm, "set": name, "judge": judge, **rate, **(lost if judge == "phrases" else found)}
        for judge in ("phrases", "small")
        for name in LABELS
        for arm in ARMS
    ]
    write_csv(folder / "corrected.csv", rows, list(rows[0]))
    rows = [
        {"arm": arm, "whole": whole, "polarity": polarity, "set": name, "judge": "truth", "verdict": verdict}
        | {"n": 50, **_around("share", share), **_around("effect", 0.4), **_around("whole_effect", 0.6)}
        for arm, whole, polarity, name, verdict, share in (
            ("expert", "ablate", "suppress", "harmful", "full_response", 0.7),
            ("expert_induce", "add", "induce", "harmless", "refusal", None),
        )
    ]
    write_csv(folder / "recovery.csv", rows, RECOVERY_COLUMNS)
    rate = {"": 0.8, "_low": 0.7, "_high": 0.86, "_sd": 0.04, "_each": "0.76 0.8 0.84"}
    other = {"": 0.1, "_low": 0.05, "_high": 0.2, "_sd": 0.01, "_each": "0.09 0.1 0.11"}
    rows = [
        {"arm": arm, "over": over, "set": name, "judge": "truth", "seeds": 3, "n": 50}
        | {f"refusal_rate{part}": value for part, value in rate.items()}
        | {f"full_response_rate{part}": value for part, value in other.items()}
        for arm, over in (("add-random", "seeds"), ("baseline", "samples"))
        for name in ("harmful", "harmless")
    ]
    write_csv(folder / "pooled.csv", rows, pooled_columns(REFUSAL))
    rows = [
        {"set": name, "split": split, "prompts": 50, "other": other, "other_prompts": 50}
        | {"exact": 50 * (split == "train") * (name != other), "near": 2 * (split == "val"), "left_out": None}
        for name, split, other in product(LABELS, ("train", "val", "test"), LABELS)
        if split != "test" or other != name
    ]
    write_csv(results / "overlap.csv", rows, list(rows[0]))
    rows = [
        {"refusals": refusals, "tokens": tokens, "pairs": 8 * (refusals == "fixed"), "top": 5}
        | {
            "tokens_1": 60,
            "tokens_2": 60 if tokens == "equal" else 150,
            "best": "1:3",
            "best_difference": 0.5,
        }
        | {"rank_correlation": None if refusals == "own" else -0.2 if tokens == "equal" else 1.0}
        | {"shared_top": None if refusals == "own" else 0.6}
        for refusals, tokens in product(("fixed", "own"), ("all", "equal"))
    ]
    write_csv(folder / "routing" / "pairing.csv", rows, list(rows[0]))


def _write_experts(folder: Path, rng: np.random.Generator) -> None:
    """What is known of every expert: facts with a truth, routing, detectors, and cosines."""
    truth = Truth("routed", "experts", carriers=((1, 3),), decoys=((2, 5),))
    write_facts(folder / "model.json", replace(facts_named("tiny"), truth=truth), {})
    routing, detectors = [], []
    for layer, expert in product(range(LAYERS), range(8)):
        place, strong = {"layer": layer, "expert": expert}, (layer, expert) == (1, 3)
        difference = 0.95 if strong else float(rng.normal(0, 0.05))
        ends = {"ci_low": difference - 0.04, "ci_high": difference + 0.04}
        q_value, stability = 1e-9 if abs(difference) > 0.08 else 0.6, 1.0 if strong else 0.2
        judged = {"q_value": q_value, "prompt_stability": stability}
        routing.append(place | {"risk_difference": difference} | ends | judged)
        scores = {name: float(rng.normal()) for name in ("direction_norm", "gate_gradient")}
        effect = 8.0 if strong else float(rng.normal(0, 0.3))
        measured = {"mask_effect": effect if layer else None}
        detectors.append(place | {"prompt_top_k": difference} | scores | measured)
    write_csv(folder / "routing" / "prompt.csv", routing, list(routing[0]))
    write_csv(folder / "detection.csv", detectors, list(detectors[0]))
    names = ["residual 0", "residual 1", "attention 0", "mlp 0", "expert 1:3", "router 1:3"]
    pairs = [
        {"position": -1, "first": one, "second": other, "cosine": float(rng.uniform(-1, 1))}
        for at, one in enumerate(names)
        for other in names[at:]
    ]
    write_csv(folder / "decomposition" / "cosines.csv", pairs, list(pairs[0]))


def _write_truth(path: Path) -> None:
    """Two carriers, without which harmful prompts are answered, and others that change nothing."""
    tried = [("baseline", "", "none"), ("carriers", "1:3 2:5", "reroute_from")]
    tried += [("carrier", "1:3", "mask_experts"), ("control", "0:1", "mask_experts")]
    rows = []
    for label, (role, parts, way) in product(("harmful", "harmless"), tried):
        n = 200 if role == "baseline" else 50
        refused = n - 1 if label == "harmful" and role in ("baseline", "control") else 0
        row: dict[str, Any] = {"role": role, "parts": parts, "way": way, "label": label, "n": n}
        for verdict, count in zip(VERDICTS, (refused, 1, n - 1 - refused), strict=True):
            row[verdict] = count
            ends = (f"{verdict}_{part}" for part in ("rate", "low", "high"))
            row |= dict(zip(ends, wilson(count, n), strict=True))
        rows.append(row)
    write_csv(path, rows, list(rows[0]))


def _write_scorecard(path: Path, rng: np.random.Generator) -> None:
    rows = []
    plants = {"natural": None, "routed": "1:3 2:5", "decoy_content": "2:5", "head": None}
    for (plant, carriers), model, detector in product(
        plants.items(), (0, 1), ("prompt_top_k", "mask_effect")
    ):
        related = (plant, detector) == ("decoy_content", "mask_effect")
        found = {"model": f"{plant}-{model}", "plant": plant, "detector": detector, "related": related}
        found |= {"carriers": carriers, "precision": 1.0 if carriers else None}
        found |= {"average_precision": float(rng.uniform(0.5, 1)) if carriers else None}
        found |= {"ranks": "1" if carriers else "", "decoy_rank": "1" if "decoy" in plant else ""}
        rows.append(found | {"false_alarms": int(rng.integers(0, 2))})
    write_csv(path, rows, list(rows[0]))


def _write_reproduction(path: Path) -> None:
    """A published row of each kind and verdict, with and without a number of ours."""
    known: dict[str, Any] = {"source": "table 1", "reading": "paper", "kind": "number", "metric": "safe_rate"}
    rate = {"unit": "rate", "relation": "=", "value": 0.9, "n": 50, "ci_low": 0.79, "ci_high": 0.96}
    ours = {"our_model": MODEL, "our_value": 0.88, "our_low": 0.8, "our_high": 0.93, "our_n": 100}
    place = {"layer": 1, "expert": 3, "unit": "difference", "relation": "=", "value": -0.3}
    rows = [
        {"id": "one", "paper": "first", **rate, **ours, "verdict": "agrees", "doubts": HOSTILE},
        {"id": "two", "paper": "first", **rate, **ours, "verdict": "not comparable", "why": "another model"},
        {"id": "three", "paper": "other", **place, "verdict": "not run", "model": "some/model"},
        {
            "id": "range",
            "paper": "other",
            **place,
            "relation": "range",
            "value_to": 0.1,
            "verdict": "differs",
        },
        {
            "id": "four",
            "paper": "first",
            "kind": "contradiction",
            "concerns": "one two",
            "verdict": "not run",
        },
    ]
    write_csv(path, [known | row for row in rows], COLUMNS)
