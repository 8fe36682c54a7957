"""Replies with their verdicts, and what is told of judges, arms and pairs by such replies."""

from itertools import product
from pathlib import Path

import numpy as np

from steer.artifacts.files import write_csv, write_jsonl
from steer.judges.behaviours import REFUSAL
from steer.pooling import pooled_columns
from steer.recovery import RECOVERY_COLUMNS
from tests.figure_inputs.study import ARMS, HOSTILE, LABELS, MODEL


def write_replies(results: Path, name: str, label: str) -> None:
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


def write_effects(folder: Path, rng: np.random.Generator) -> None:
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


def write_agreement(path: Path) -> None:
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


def write_judged(results: Path, folder: Path) -> None:
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
