"""Stage: the refusal direction as a difference of means, out of activation files."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from steer.artifacts.activations import ActivationFile, Array
from steer.artifacts.files import write_json
from steer.artifacts.prompts import Label
from steer.artifacts.provenance import digest, provenance
from steer.artifacts.tensors import write_tensors
from steer.config import DirectionSettings
from steer.errors import SteerError

SITES = ("residual", "attention_out", "mlp_out")
LABELS: tuple[Label, Label] = ("harmful", "harmless")
NEAREST = 5
"""Dropped prompts that the message names when none is left."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """Training prompts of one label, before and after filtering.

    Attributes:
        label: what the prompts are.
        rows: of each activation file, the rows that are used.
        ids: of the prompts that are used.
        scores: refusal score of each prompt that is used, nats.
        dropped: refusal score of each prompt that is not, by id, nats.
    """

    label: Label
    rows: tuple[tuple[int, ...], ...]
    ids: tuple[str, ...]
    scores: tuple[float, ...]
    dropped: dict[str, float]


def estimate_directions(activations: Sequence[Path], out: Path, settings: DirectionSettings) -> None:
    """Write the directions, and beside them (`.json`) the prompts that they come from.

    Args:
        activations: files of one model that hold both labels between them.
        out: a safetensors file with `residual.harmful_mean`, `residual.harmless_mean`,
            `residual.direction` `[L+1, P, d]` and `attention_out.direction`, `mlp_out.direction`
            `[L, P, d]`, float32; position −P first.
        settings: whether to filter.

    Raises:
        SteerError: a file can't be used, the files are of different models or positions or share a
            prompt, a label has no training prompts, or none is left after filtering (with the scores).
    """
    with ExitStack() as stack:
        files = [stack.enter_context(ActivationFile(path)) for path in activations]
        check_alike(files)
        samples = {label: sample(files, label, filtered=settings.filter) for label in LABELS}
        _check_left(samples)
        tensors = directions(files, samples["harmful"], samples["harmless"])
        model = files[0].model
        inputs = {file.path.stem: digest(file.provenance) for file in files}
    origin = provenance("steer.directions.refusal", settings.model_dump(), inputs)
    write_json(out.with_suffix(".json"), record(samples, settings, origin))
    write_tensors(out, tensors, model=model, provenance=origin)


def check_alike(files: Sequence[ActivationFile]) -> None:
    """Check that files are of one model and of the same positions, and share no prompt.

    Raises:
        SteerError: they are not, or do.
    """
    seen: set[str] = set()
    for file in files:
        for what in ("model", "revision", "positions"):
            _check_same(file, files[0], what)
        twice = seen.intersection(file.prompt_ids)
        if twice:
            raise SteerError(
                str(file.path), f"prompt `{min(twice)}` is in another of the sets too", "remove it from one"
            )
        seen.update(file.prompt_ids)


def _check_same(file: ActivationFile, first: ActivationFile, what: str) -> None:
    found, expected = getattr(file, what), getattr(first, what)
    if found != expected:
        raise SteerError(
            str(file.path),
            f"is of {what} `{found}`, but {first.path} of `{expected}`",
            "read both sets with the same model and settings",
        )


def sample(files: Sequence[ActivationFile], label: Label, *, filtered: bool) -> Sample:
    """Training prompts of a label; with `filtered` only those that the model treats as their label says.

    Source: Arditi et al. (arXiv 2406.11717), section 2.3 and appendix A: harmful prompts are kept where
    the refusal score is above 0, harmless ones where it is below.

    Raises:
        SteerError: no file has a training prompt of that label.
    """
    sign = 1 if label == "harmful" else -1
    rows: list[tuple[int, ...]] = []
    kept: dict[str, float] = {}
    dropped: dict[str, float] = {}
    for file in files:
        candidates = file.rows(split="train", label=label)
        scores = file.values("refusal_score", candidates)
        used = (sign * scores > 0) | (not filtered)
        rows.append(tuple(row for row, keep in zip(candidates, used, strict=True) if keep))
        for row, score, keep in zip(candidates, scores.tolist(), used, strict=True):
            (kept if keep else dropped)[file.prompt_ids[row]] = score
    if not kept and not dropped:
        raise SteerError(
            ", ".join(str(file.path) for file in files),
            f"no {label} prompts in the split `train`; a direction needs both labels",
            f"give the {label} set of the contrast prompts to train on (`sets.<set>.train`)",
        )
    return Sample(label, tuple(rows), tuple(kept), tuple(kept.values()), dropped)


def _check_left(samples: dict[Label, Sample]) -> None:
    for found in samples.values():
        log.info("%s", summary(found))
    if all(found.ids for found in samples.values()):
        return
    empty = [found for found in samples.values() if not found.ids]
    raise SteerError(
        "directions",
        "; ".join(_why_empty(found) for found in empty) + "\n" + "\n".join(map(summary, samples.values())),
        "check `refusal_openers` of the model and the labels of the set, or use every training prompt"
        " with `directions.filter: false`",
    )


def _why_empty(found: Sample) -> str:
    wanted = "refuses" if found.label == "harmful" else "answers"
    side = "> 0" if found.label == "harmful" else "< 0"
    nearest = sorted(found.dropped.items(), key=lambda item: (abs(item[1]), item[0]))[:NEAREST]
    names = ", ".join(f"{name} ({score:+.2f})" for name, score in nearest)
    return (
        f"none of {len(found.dropped)} {found.label} training prompts is one that the model {wanted}"
        f" (refusal score {side}); nearest: {names}"
    )


def summary(found: Sample) -> str:
    """One line on the refusal scores of a label: how many are kept, and quartiles."""
    scores = np.array([*found.scores, *found.dropped.values()])
    quartiles = " ".join(f"{value:+.2f}" for value in np.quantile(scores, [0, 0.25, 0.5, 0.75, 1]))
    return f"{found.label}: kept {len(found.ids)} of {len(scores)}; refusal scores, quartiles: {quartiles}"


def directions(files: Sequence[ActivationFile], harmful: Sample, harmless: Sample) -> dict[str, Tensor]:
    """Difference of means (harmful − harmless) of each site, and the means of the residual stream.

    Source: Arditi et al. (arXiv 2406.11717), equations 1 and 2; accumulated in float64.
    """
    tensors: dict[str, Tensor] = {}
    for site in SITES:
        means = [mean(_entries(files, site, side.rows), files[0].shape(site)) for side in (harmful, harmless)]
        tensors[f"{site}.direction"] = (means[0] - means[1]).float()
        if site == "residual":
            tensors["residual.harmful_mean"], tensors["residual.harmless_mean"] = (m.float() for m in means)
    return tensors


def _entries(
    files: Sequence[ActivationFile], site: str, rows: Sequence[Sequence[int]]
) -> Iterator[Float[Array, "block layers positions d"]]:
    for file, chosen in zip(files, rows, strict=True):
        yield from file.blocks(site, chosen)


def mean(
    blocks: Iterator[Float[Array, "block layers positions d"]], shape: tuple[int, ...]
) -> Float[Tensor, "layers positions d"]:
    """Mean over all entries of all blocks, in float64, with one block in memory."""
    total = np.zeros(shape, dtype=np.float64)
    count = 0
    for block in blocks:
        total += block.sum(axis=0, dtype=np.float64)
        count += len(block)
    return torch.from_numpy(total / count)


def record(
    samples: dict[Label, Sample], settings: DirectionSettings, origin: dict[str, Any]
) -> dict[str, Any]:
    """What `refusal.json` holds: the ids used for each class, and what the filter did."""
    return {
        **{label: list(found.ids) for label, found in samples.items()},
        "filter": {
            "applied": settings.filter,
            "rule": "harmful kept where the refusal score is above 0, harmless where it is below",
            **{label: _filter_record(found) for label, found in samples.items()},
        },
        "provenance": origin,
    }


def _filter_record(found: Sample) -> dict[str, Any]:
    return {
        "candidates": len(found.ids) + len(found.dropped),
        "kept": len(found.ids),
        "scores": dict(zip(found.ids, found.scores, strict=True)),
        "dropped": found.dropped,
    }
