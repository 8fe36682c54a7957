"""Rates by arm, set and judge, and the same by category."""

from itertools import product
from typing import Any

from steer.stats import wilson
from tests.figure_inputs.study import ARMS, LABELS, VERDICTS

CATEGORY_KEYS = ("arm", "set", "judge", "n", "unscored", *VERDICTS)
CATEGORY_KEYS += tuple(f"{verdict}_{part}" for verdict in VERDICTS for part in ("rate", "low", "high"))
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
# Categories of each set, whether they were seen, and how many prompts they have.
CATEGORIES = {
    "harmful": (("drugs", True, 14), ("fraud", True, 13), ("hate", False, 12)),
    "harmless": (("matched_drugs", True, 14), ("matched_fraud", True, 13), ("matched_hate", False, 12)),
    "advbench": (("Physical", False, 51), ("Human Rights and Civil Liberties", False, 15)),
    "everyday": (("cooking", False, 10),),
}


def scores_rows(n: int = 100) -> list[dict[str, Any]]:
    return [
        _scores_row(arm, name, judge, n) for arm in ARMS for name in LABELS for judge in ("truth", "phrases")
    ]


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
