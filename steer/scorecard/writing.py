"""Stage `scorecard`: the tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.provenance import provenance
from steer.artifacts.tables import read_rows
from steer.scorecard import plants, rows, summary
from steer.scorecard.alarms import thresholds
from steer.scorecard.truths import NATURAL, truth_of


def write_scorecard(
    models: Sequence[Path],
    detections: Sequence[Path],
    truths: Sequence[Path],
    out: Path,
    seeds: Mapping[str, int],
    contrasts: tuple[str, str],
) -> None:
    """Compare every detector of every model with the truth.

    Writes `out`, a row per model and detector, and beside it `<stem>_summary.csv`, a row per kind of plant
    and detector; `<stem>_verdict.csv`, a row per detector; and `<stem>_plants.csv`, a row per causal
    check.

    Args:
        models: `model.json` of each model, in a folder with its name.
        detections: `detection.csv` of each, in the same order.
        truths: `truth.csv` of planted models, in folders with their names, each beside a `truth_routing.csv`.
        out: the table.
        seeds: of the training of models, by name.
        contrasts: names of the contrasts of routing on prompts and on replies.

    Raises:
        SteerError: an input can't be used.
        ValueError: there are more or fewer tables than models.
    """
    names = [path.parent.name for path in models]
    tables = dict(zip(names, map(rows.read_detection, detections), strict=True))
    known = {name: truth_of(path, tables[name], contrasts) for name, path in zip(names, models, strict=True)}
    natural = [name for name in names if known[name].plant == NATURAL]
    found: list[Row] = []
    for name in names:
        # A natural model is compared with the others of its kind, not with itself.
        limits = thresholds([tables[other] for other in natural if other != name])
        found += rows.compare(name, known[name], tables[name], limits, seeds.get(name))
    checked = [_checked(path, known[path.parent.name].plant, seeds) for path in truths]
    written = {
        out: (found, rows.COLUMNS),
        _beside(out, "summary"): (summary.summarise(found), summary.SUMMARY_COLUMNS),
        _beside(out, "verdict"): (summary.judge(found), summary.VERDICT_COLUMNS),
        _beside(out, "plants"): (checked, plants.COLUMNS),
    }
    inputs = input_digests({"models": models, "detections": detections, "truths": truths})
    origin = provenance("steer.scorecard.writing", {"seeds": dict(seeds), "contrasts": contrasts}, inputs)
    for path, (table, columns) in written.items():
        write_csv(path, table, columns)
        attach(path, origin)


def _checked(path: Path, plant: str, seeds: Mapping[str, int]) -> Row:
    name = path.parent.name
    trials = read_rows(path, plants.TRIAL_COLUMNS)
    routing = read_rows(path.with_name(f"{path.stem}_routing.csv"), plants.ROUTING_COLUMNS)
    return plants.plant_row(name, plant, seeds.get(name), trials, routing)


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}_{name}.csv")
