"""Published numbers beside ours."""

from pathlib import Path
from typing import Any

from steer.artifacts.files import write_csv
from steer.figures.reproduction import COLUMNS
from tests.figure_inputs.study import HOSTILE, MODEL


def write_reproduction(path: Path) -> None:
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
