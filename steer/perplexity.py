"""Stage `perplexity`: how surprised the steered model is by harmless replies.

The text is the same for every arm, read as the model's own reply to its prompt (teacher forcing): the targets
of a set that has some, else what the unsteered model answered. An arm can keep the distribution of the first
token, which KL looks at, and still lose its thread later; perplexity sees every token of the reply.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from steer import stats
from steer.artifacts.arms import arm_digest, read_arm
from steer.artifacts.files import Row, write_csv, write_jsonl
from steer.artifacts.origin import attach
from steer.artifacts.prompts import Prompt, read_prompts
from steer.artifacts.provenance import file_digest, provenance
from steer.artifacts.replies import iter_replies
from steer.config import ModelSettings
from steer.errors import SteerError
from steer.models.loading import LoadedModel
from steer.models.spans import mark
from steer.models.study import open_study
from steer.models.teacher_forcing import Forced, likelihoods
from steer.rates import BASELINE, Method

COLUMNS = (
    *("arm", "set", "n", "tokens", "perplexity", "perplexity_low", "perplexity_high"),
    *("ratio", "ratio_low", "ratio_high"),
)


def measure(
    facts_path: Path,
    sets: Mapping[str, Path],
    replies: Mapping[str, Path],
    arm_paths: Sequence[Path],
    out: Path,
    texts: Path,
    settings: ModelSettings,
    method: Method,
) -> None:
    """Write a row per arm and set, and a line per arm and text with its log-likelihood.

    Args:
        facts_path: the model.
        sets: prompt sets, by name.
        replies: generation files of those of them that have no targets.
        arm_paths: its arms, `baseline` among them.
        out: the table: perplexity over all tokens of the replies, exp(−Σ log p / Σ tokens), and its ratio to
            the baseline's, both with bootstrap intervals over texts, the ratio's paired.
        texts: the lines.
        settings: of the model; this runs on transformers, whatever its engine.
        method: how intervals are made.

    Raises:
        SteerError: a set has no `test` row with a reply, or an arm can't fire on this model.
    """
    loaded, facts = open_study(facts_path, settings)
    arms = [read_arm(path, model=facts.digest) for path in arm_paths]
    lines: list[Row] = []
    for name, path in sets.items():
        prompts = [prompt for prompt in read_prompts(path) if prompt.split == "test"]
        if name in replies:
            prompts = _answered(prompts, replies[name])
        rows = _rows(loaded, name, prompts, settings.max_prompt_tokens)
        for arm in arms:
            for row, one in zip(rows, likelihoods(loaded, arm, rows, settings.batch_size), strict=True):
                known = {"arm": arm.name, "set": name, "prompt_id": row.name, "n_tokens": len(row.reply)}
                lines.append({**known, "log_likelihood": one.total})
    write_jsonl(texts, lines)
    write_csv(out, table(lines, method), COLUMNS)
    inputs = {
        "model": facts.digest,
        "arms": {arm.name: arm_digest(arm) for arm in arms},
        "sets": {name: file_digest(path) for name, path in sets.items()},
        "replies": {name: file_digest(path) for name, path in replies.items()},
    }
    read = {"model": settings.model_dump(mode="json"), "method": asdict(method)}
    for path in (out, texts):
        attach(path, provenance(__name__, read, inputs, method.seed))


def _answered(prompts: Sequence[Prompt], generation: Path) -> list[Prompt]:
    """The prompts with the unsteered model's replies as targets; those with an empty one are left out."""
    replies = iter_replies(generation)
    texts = {one.prompt_id: one.text for one in replies if one.arm == BASELINE and not one.key.sample}
    return [
        replace(prompt, target=texts[prompt.id], target_in="reply")
        for prompt in prompts
        if texts.get(prompt.id, "").strip()
    ]


def _rows(loaded: LoadedModel, name: str, prompts: Sequence[Prompt], longest: int) -> list[Forced]:
    rows = []
    for prompt in prompts:
        if prompt.target and prompt.target_in == "reply":
            marked = mark(loaded, prompt, 1)
            if marked.prompt > longest:
                cause = f"has {marked.prompt} tokens, and `max_prompt_tokens` is {longest}"
                raise SteerError(f"prompt `{prompt.id}`", cause, "shorten it, or raise the limit")
            rows.append(Forced(marked.ids[: marked.prompt], marked.ids[marked.prompt :], prompt.id))
    if not rows:
        cause = "has no `test` rows with a reply to read"
        raise SteerError(
            f"set `{name}`", cause, "give it `test` rows and a `target`, or another in its place"
        )
    return rows


def table(lines: Sequence[Row], method: Method) -> list[Row]:
    """A row per arm and set, from the lines of its texts."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for line in lines:
        found.setdefault((line["arm"], line["set"]), {})[line["prompt_id"]] = line
    rows = []
    for (arm, name), texts in found.items():
        names = sorted(texts)
        tokens = np.array([texts[one]["n_tokens"] for one in names], dtype=np.float64)
        surprise = np.array([-texts[one]["log_likelihood"] for one in names])
        row: Row = {"arm": arm, "set": name, "n": len(names), "tokens": int(tokens.sum())}
        row |= _exponential("perplexity", surprise, tokens, method, arm, name)
        if arm != BASELINE and (BASELINE, name) in found:
            before = np.array([-found[BASELINE, name][one]["log_likelihood"] for one in names])
            row |= _exponential("ratio", surprise - before, tokens, method, arm, name)
        rows.append(row)
    return rows


def _exponential(
    column: str,
    totals: Float[np.ndarray, " text"],
    tokens: Float[np.ndarray, " text"],
    method: Method,
    *names: str,
) -> Row:
    """Exp of the mean over all tokens, with its interval."""
    rng = method.rng("perplexity", column, *names)
    mean = stats.pooled_mean(totals, tokens, rng, method.resamples, method.confidence)
    return {
        f"{column}{part}": math.exp(value) for part, value in zip(("", "_low", "_high"), mean, strict=True)
    }
