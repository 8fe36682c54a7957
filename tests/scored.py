"""Replies to twelve prompts under three arms, judged by two judges, as files of the stage `scores`."""

import csv
from pathlib import Path
from typing import Any

from steer.artifacts.files import write_jsonl
from steer.rates import Method
from steer.scores import NOTHING_MORE, Comparisons, JudgedSet, Tables, score

PROMPTS = [f"p{index}" for index in range(12)]
R, F, N, U = "refusal", "full_response", "non_response", "unscored"

# Verdicts of each arm on the twelve prompts, by two judges.
VERDICTS = {
    "truth": {"baseline": [R] * 10 + [F, N], "ablate": [F] * 8 + [N, N, R, U], "random": [R] * 10 + [F, N]},
    "phrases": {"baseline": [R] * 10 + [F, F], "ablate": [F] * 12, "random": [R] * 12},
}
METHOD = Method(resamples=500)
TABLES = ("scores", "agreement", "categories", "pooled", "recovery")
# Of hate only `test` has a prompt, and theft is what harmless prompts are matched to: both are unseen.
CATEGORIES = ["drugs"] * 3 + ["fraud"] * 4 + ["hate"] * 2 + ["theft"] * 2 + [""]
ESTIMATING = [("drugs", "train"), ("fraud", "val"), ("hate", "test"), ("matched_theft", "train")]


class Files:
    """The files that the stage reads, written row by row, and the tables that it makes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.generation = [
            {
                "arm": arm,
                "prompt_id": prompt,
                "text": "text",
                "first_token_refusal_score": float(place),
                "first_token_kl": 0.5 if arm == "ablate" else 0.0,
                "fired": {
                    "tokens": 20 + place if arm == "ablate" else 0,
                    "sites": 9,
                    "relative_norm": 0.25,
                    "leaked": 2 * place,
                    "blocked": 3 * place,
                    "dropped": 0,
                },
            }
            for arm in ("baseline", "ablate", "random")
            for place, prompt in enumerate(PROMPTS)
        ]
        self.judging = {
            judge: [
                {
                    "arm": arm,
                    "prompt_id": prompt,
                    "verdict": verdict,
                    "reason": "",
                    "raw": raw_of(judge, verdict),
                }
                for arm, verdicts in arms.items()
                for prompt, verdict in zip(PROMPTS, verdicts, strict=True)
            ]
            for judge, arms in VERDICTS.items()
        }
        self.prompts = [
            prompt_row(prompt, category, "test") for prompt, category in zip(PROMPTS, CATEGORIES, strict=True)
        ]
        self.estimating = [
            prompt_row(f"e{place}", category, split) for place, (category, split) in enumerate(ESTIMATING)
        ]

    def score(
        self, method: Method = METHOD, comparisons: Comparisons = NOTHING_MORE
    ) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        generation = self.folder / "harmful.jsonl"
        write_jsonl(generation, self.generation)
        paths = {judge: self.folder / f"harmful.{judge}.jsonl" for judge in self.judging}
        for judge, path in paths.items():
            write_jsonl(path, self.judging[judge])
        prompts, estimating = self.folder / "prompts.jsonl", self.folder / "estimating.jsonl"
        write_jsonl(prompts, self.prompts)
        write_jsonl(estimating, self.estimating)
        tables = Tables(*(self.folder / f"{name}.csv" for name in TABLES))
        score([JudgedSet("harmful", prompts, generation, paths)], [estimating], tables, method, comparisons)
        return read(tables.scores), read(tables.agreement)

    def categories(self) -> list[dict[str, str]]:
        self.score()
        return read(self.folder / "categories.csv")

    def row(self, arm: str, judge: str = "truth") -> dict[str, str]:
        rows, _ = self.score()
        return next(row for row in rows if (row["arm"], row["judge"]) == (arm, judge))


def prompt_row(name: str, category: str, split: str) -> dict[str, Any]:
    return {"id": name, "text": "text", "label": "harmful", "category": category, "split": split}


def raw_of(judge: str, verdict: str) -> dict[str, Any]:
    return {"well_formed": verdict != R, "restates": verdict == F} if judge == "truth" else {}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
