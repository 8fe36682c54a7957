"""Stage `correction`: rates as a judge's measured errors leave them, beside the raw ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from steer.artifacts.files import Row, write_csv
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.provenance import provenance
from steer.artifacts.tables import read_rows
from steer.errors import SteerError
from steer.judges.verdicts import VERDICTS
from steer.misclassification import corrected
from steer.rates import Method

WHOLE = "whole"
RATES = tuple(f"{verdict}{part}" for verdict in VERDICTS for part in ("_raw", "", "_low", "_high"))
COLUMNS = ("arm", "set", "judge", "labelled", "labels", "n", *RATES, "resamples", "note")


def write_corrected(
    scores: Path, measured: Mapping[str, Path], labelled: str, out: Path, method: Method
) -> None:
    """Write, for every row of `scores.csv` by a measured judge, its rates corrected for that judge's errors.

    Args:
        scores: the table of raw counts.
        measured: by judge, its agreement with the labelled set.
        labelled: name of that set.
        out: the table. A judge errs on other replies as it does on the labelled ones: as far as that is not
            so, the correction is wrong.
        method: how intervals are made.

    Raises:
        SteerError: a table is missing or malformed.
    """
    tables = {judge: _confusion(path, labelled) for judge, path in measured.items()}
    rows = [
        _row(row, tables[row["judge"]], labelled, method)
        for row in read_rows(scores, ("arm", "set", "judge", *VERDICTS))
        if row["judge"] in tables
    ]
    write_csv(out, rows, COLUMNS)
    inputs: dict[str, Sequence[Path]] = {"scores": [scores], "agreement": list(measured.values())}
    attach(out, provenance(__name__, asdict(method), input_digests(inputs), method.seed))


def _confusion(path: Path, labelled: str) -> Int[np.ndarray, "label label"]:
    columns = [f"{true}_as_{judged}" for true in VERDICTS for judged in VERDICTS]
    rows = read_rows(path, ("labelled", "length", *columns))
    whole = next((row for row in rows if (row["labelled"], row["length"]) == (labelled, WHOLE)), None)
    if whole is None:
        raise SteerError(str(path), f"has no row of `{labelled}`", "run the stage `agreement` again")
    return np.array([int(whole[name]) for name in columns]).reshape(len(VERDICTS), len(VERDICTS))


def _row(row: Row, table: Int[np.ndarray, "label label"], labelled: str, method: Method) -> Row:
    counts = np.array([float(row[verdict]) for verdict in VERDICTS])
    names = (row["arm"], row["set"], row["judge"])
    rng = method.rng("correction", *names)
    found = corrected(counts, table, rng, method.resamples, method.confidence)
    kept: Row = dict(zip(("arm", "set", "judge"), names, strict=True))
    kept |= {"labelled": labelled, "labels": int(table.sum()), "n": round(float(counts.sum()), 6)}
    for verdict, count, share in zip(VERDICTS, counts.tolist(), found.shares, strict=True):
        raw = count / counts.sum() if counts.sum() else None
        kept |= {f"{verdict}_raw": raw, verdict: share.estimate}
        kept |= {f"{verdict}_low": share.low, f"{verdict}_high": share.high}
    return kept | {"resamples": found.resamples, "note": "; ".join(_notes(counts, table, found.resamples))}


def _notes(
    counts: Float[np.ndarray, " label"], table: Int[np.ndarray, "label label"], resamples: int
) -> Iterator[str]:
    """Why there is no correction."""
    if resamples:
        return
    if not counts.sum():
        yield "nothing was judged"
    for verdict, labels in zip(VERDICTS, table.sum(axis=1).tolist(), strict=True):
        if not labels:
            yield f"no labelled reply is a {verdict}"
    for verdict, given in zip(VERDICTS, table.sum(axis=0).tolist(), strict=True):
        if not given:
            yield f"the judge never says {verdict}, so its errors can't be undone"
