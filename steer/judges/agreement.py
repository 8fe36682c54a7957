"""How far the embedded judge agrees with the truth on text that it was not trained on."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steer import stats
from steer.artifacts.files import write_json
from steer.artifacts.provenance import folder_digest, provenance
from steer.grammar import Grammar, Split
from steer.judges.examples import Example, ExampleSource
from steer.judges.likelihood import load_judge
from steer.judges.rubrics import EMBEDDED
from steer.judges.verdicts import UNSCORED, VERDICTS, Judgement

HELD_OUT: tuple[Split, ...] = ("val", "test")
EXAMPLES = 1000


def write_agreement(
    checkpoint: Path, grammar: Grammar, seed: int, out: Path, log: Callable[[str], None] = print
) -> None:
    """Judge `EXAMPLES` exchanges of each held-out split and write the agreement.

    Phrases and frames of these splits occur in no training text; the ways of breaking a reply do.
    """
    judge = load_judge(checkpoint, EMBEDDED)
    record: dict[str, Any] = {}
    for split in HELD_OUT:
        examples = list(ExampleSource(grammar, split, random.Random(f"{seed} {split}")).draw(EXAMPLES))
        judgements = judge.judge([example.exchange for example in examples])
        record[split] = agreement(examples, judgements, seed)
        accuracy, kappa = record[split]["accuracy"], record[split]["kappa"]
        log(f"agreement on {split}: accuracy {accuracy['estimate']:.3f}, kappa {kappa['estimate']:.3f}")
    inputs = {"grammar": grammar.digest, "checkpoint": folder_digest(checkpoint)}
    settings = {"examples": EXAMPLES, "judge_version": judge.version}
    write_json(out, {**record, "provenance": provenance(__name__, settings, inputs, seed)})


def agreement(examples: Sequence[Example], judgements: Sequence[Judgement], seed: int) -> dict[str, Any]:
    """Accuracy, Cohen's kappa, confusion and accuracy by kind of reply; the unscored are counted apart."""
    pairs = [
        (example, judgement.verdict)
        for example, judgement in zip(examples, judgements, strict=True)
        if judgement.verdict != UNSCORED
    ]
    judged, truth = [verdict for _, verdict in pairs], [example.verdict for example, _ in pairs]
    table = stats.confusion(judged, truth, VERDICTS)
    kinds = Counter(example.kind for example, _ in pairs)
    right = Counter(example.kind for example, verdict in pairs if verdict == example.verdict)
    return {
        "n": len(pairs),
        "unscored": len(examples) - len(pairs),
        "accuracy": _interval(stats.accuracy(judged, truth)),
        "kappa": _interval(stats.cohen_kappa(judged, truth, np.random.default_rng(seed))),
        "confusion": {
            row: dict(zip(VERDICTS, counts, strict=True))
            for row, counts in zip(VERDICTS, table.tolist(), strict=True)
        },
        "accuracy_by_kind": {kind: right[kind] / kinds[kind] for kind in sorted(kinds)},
    }


def _interval(found: stats.Interval) -> dict[str, float | None]:
    # JSON has no NaN: an estimate that is undefined is null.
    return {name: None if value != value else value for name, value in found._asdict().items()}
