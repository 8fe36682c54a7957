"""Time of every stage in the latest run of the flow, as Snakemake measured it."""

import csv
from pathlib import Path

FOLDER = Path("benchmarks")


def table() -> str:
    """Seconds by rule, summed over its jobs; a line that says so where the flow has not run."""
    found: dict[str, list[float]] = {}
    for path in sorted(FOLDER.rglob("*.tsv")):
        with path.open(newline="") as stream:
            taken = [float(row["s"]) for row in csv.DictReader(stream, delimiter="\t")]
        found.setdefault(path.relative_to(FOLDER).parts[0], []).extend(taken)
    if not found:
        return "the flow has not run here: no benchmarks/"
    rows = [f"{rule:14} {len(taken):5} {sum(taken):9.1f} {max(taken):9.1f}" for rule, taken in found.items()]
    return "\n".join(
        ["stages of the latest run", f"{'rule':14} {'jobs':>5} {'s in all':>9} {'longest':>9}", *rows]
    )
