"""Stage `generation`: every arm's replies to the test prompts of a set, resumable by row."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import merge
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

from steer.artifacts.arms import arm_digest, read_arm
from steer.artifacts.facts import ModelFacts, read_facts
from steer.artifacts.files import Row, iter_jsonl, write_jsonl
from steer.artifacts.generated import reply_row
from steer.artifacts.journal import Journal
from steer.artifacts.origin import attach, read_provenance
from steer.artifacts.prompts import Prompt, read_prompts
from steer.artifacts.provenance import code_digest, digest, file_digest, provenance
from steer.artifacts.shards import Shard, check_shards, other_run
from steer.config import ModelSettings
from steer.errors import SteerError
from steer.models.batching import by_length
from steer.models.decoding import Reply, generate
from steer.models.donors import paired, with_donors
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.sampling import GREEDY, Sampling
from steer.models.scoring import check_finite, kl_divergence, refusal_score
from steer.models.study import open_outline, open_study
from steer.vllm.replies import Wanted, check_engine
from steer.vllm.replies import answer as answer_with_vllm

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One reply to make: a prompt under an arm, its sampling seed if any, and the key of its row."""

    arm: Arm
    prompt: Prompt
    tokens: list[int]
    draw: int | None
    key: str


def generate_replies(
    facts_path: Path,
    prompts_path: Path,
    arm_paths: Sequence[Path],
    out: Path,
    settings: ModelSettings,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    shard: Shard | None = None,
) -> int:
    """Answer the `test` prompts of a set, or of a shard, under every arm; returns how many were made anew.

    Finished rows are kept in a journal beside `out`, keyed by all that decides them, so that a killed
    run goes on where it stopped and a new arm costs its own rows only.

    Raises:
        SteerError: an arm is of another model or can't fire, a prompt is too long, or there is no prompt.
    """
    on_vllm = settings.engine == "vllm"
    loaded, facts = (open_outline if on_vllm else open_study)(facts_path, settings)
    arms = [read_arm(path, model=facts.digest) for path in arm_paths]
    plan = _plan(loaded, facts, read_prompts(prompts_path), arms, settings, max_new_tokens, sampling)
    if shard is not None:
        # The batches of every arm are the same prompts: a shard has all arms on its prompts.
        each = len(plan) // (len(arms) * len(sampling.draws))
        plan = [batch for number, batch in enumerate(plan) if shard.takes(number % each)]
    with Journal(out.with_name(f".{out.stem}.journal.jsonl")) as journal:
        made = 0
        if on_vllm:
            paths = {arm.name: path for arm, path in zip(arms, arm_paths, strict=True)}
            batches = _answer_with_vllm(loaded, facts, settings, plan, journal, paths, max_new_tokens)
        else:
            batches = _answer_batches(loaded, facts, plan, journal, max_new_tokens, sampling)
        for rows in batches:
            journal.add_many((key, row) for key, row in rows if key not in journal)
            made += len(rows)
        keys = [task.key for task in _in_order(plan)]
        if shard is None:
            _check_fired(arms, (journal.get(key) for key in keys))
        write_jsonl(out, (journal.get(key) for key in keys))
        journal.drop_stale(keys)
    log.info("%d replies made, %d kept from before", made, len(keys) - made)
    origin = _origin(facts, prompts_path, arms, settings, max_new_tokens, sampling)
    attach(out, origin if shard is None else {**origin, "shard": str(shard)})
    return made


def gather_replies(
    facts_path: Path,
    prompts_path: Path,
    arm_paths: Sequence[Path],
    shards: Sequence[Path],
    out: Path,
    settings: ModelSettings,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
) -> None:
    """Put the replies of all shards together: the file that one job would have made, byte for byte.

    Raises:
        SteerError: a shard never finished, or is of another run; an arm touched no token of any reply.
    """
    facts = read_facts(facts_path)
    arms = [read_arm(path, model=facts.digest) for path in arm_paths]
    origin = _origin(facts, prompts_path, arms, settings, max_new_tokens, sampling)
    paths = check_shards(shards)
    for path in paths:
        if read_provenance(path) != {**origin, "shard": path.stem}:
            raise other_run(path)
    tested = sorted(prompt.id for prompt in read_prompts(prompts_path) if prompt.split == "test")
    wanted = [(arm.name, name, draw or 0) for arm in arms for name in tested for draw in sampling.draws]
    _check_fired(arms, _merged(paths, arms))
    write_jsonl(out, _checked(_merged(paths, arms), wanted, paths))
    attach(out, origin)


def _merged(paths: Sequence[Path], arms: Sequence[Arm]) -> Iterator[Row]:
    """The rows of all shards, arm by arm and prompts by id, as each has its own; one row a shard is held."""
    place = {arm.name: number for number, arm in enumerate(arms)}
    shards = [iter_jsonl(path) for path in paths]
    yield from merge(*shards, key=lambda row: (place[row["arm"]], row["prompt_id"], row.get("sample", 0)))


def _checked(
    rows: Iterable[Row], wanted: Sequence[tuple[str, str, int]], paths: Sequence[Path]
) -> Iterator[Row]:
    for row, key in zip_longest(rows, wanted):
        if row is None or key != (row["arm"], row["prompt_id"], row.get("sample", 0)):
            raise other_run(paths[0].parent)
        yield row


def _origin(
    facts: ModelFacts,
    prompts_path: Path,
    arms: Sequence[Arm],
    settings: ModelSettings,
    max_new_tokens: int,
    sampling: Sampling,
) -> dict[str, Any]:
    inputs = {
        "model": facts.digest,
        "prompts": file_digest(prompts_path),
        "arms": {arm.name: arm_digest(arm) for arm in arms},
    }
    stage_settings = {"model": settings.model_dump(mode="json"), "max_new_tokens": max_new_tokens}
    if sampling.greedy:
        return provenance("steer.generation", stage_settings, inputs)
    return provenance(
        "steer.generation", {**stage_settings, "sampling": asdict(sampling)}, inputs, sampling.seed
    )


def _plan(
    loaded: LoadedModel,
    facts: ModelFacts,
    prompts: Sequence[Prompt],
    arms: Sequence[Arm],
    settings: ModelSettings,
    max_new_tokens: int,
    sampling: Sampling,
) -> list[list[Task]]:
    """Batches of one arm and sampling seed each: so they run fastest, and another arm changes no batch.

    For vLLM, which packs requests as it goes, every prompt is a batch of its own.
    """
    tested = [prompt for prompt in prompts if prompt.split == "test"]
    if not tested:
        raise SteerError(
            "generation", "the set has no `test` prompts", "give it some in `sets`, or leave it out"
        )
    encoded = [_encode(loaded, prompt, settings.max_prompt_tokens) for prompt in tested]
    common = [facts.digest, settings.batch_size, *settings.arithmetic, max_new_tokens]
    common.append(code_digest(__name__))
    packed = settings.engine == "vllm"
    if packed:
        common = ["vllm", check_engine(loaded, arms, settings), *common]
        batches = [[index] for index in range(len(tested))]
    else:
        lengths, names = [len(ids) for ids in encoded], [prompt.id for prompt in tested]
        batches = by_length(lengths, names, settings.batch_size)
    plan = []
    for arm in arms:
        arm_part = [arm.name, arm_digest(arm)]
        donors = paired(arm.donors, [prompt.text for prompt in tested]) if arm.donors else []
        own = with_donors(arm, donors) if donors else [arm] * len(tested)
        for draw, indices in product(sampling.draws, batches):
            # The whole batch is in each key: its other rows decide the last bits of this one.
            texts = [[tested[index].id, tested[index].text] for index in indices]
            pairs = [[donors[index] for index in indices]] if donors else []
            batch = digest([*common, *arm_part, texts, *pairs, *sampling.decides(draw)])
            plan.append(
                [Task(own[i], tested[i], encoded[i], draw, digest([batch, tested[i].id])) for i in indices]
            )
    return plan


def _answer_batches(
    loaded: LoadedModel,
    facts: ModelFacts,
    plan: Sequence[Sequence[Task]],
    journal: Journal,
    max_new_tokens: int,
    sampling: Sampling,
) -> Iterator[list[tuple[str, Row]]]:
    for batch in plan:
        if not all(task.key in journal for task in batch):
            yield _answer(loaded, facts, batch, max_new_tokens, sampling)


def _answer_with_vllm(
    loaded: LoadedModel,
    facts: ModelFacts,
    settings: ModelSettings,
    plan: Sequence[Sequence[Task]],
    journal: Journal,
    arm_paths: dict[str, Path],
    max_new_tokens: int,
) -> Iterator[list[tuple[str, Row]]]:
    """Missing rows, those of one prompt together and the unsteered one first."""
    missing = [task for batch in plan for task in batch if task.key not in journal]
    missing.sort(key=lambda task: (task.prompt.id, bool(task.arm.operations)))
    wanted = [Wanted(task.key, task.arm, task.prompt.id, task.tokens) for task in missing]
    if wanted:
        yield from answer_with_vllm(loaded, facts, settings, wanted, arm_paths, max_new_tokens)


def _in_order(plan: Sequence[Sequence[Task]]) -> Iterator[Task]:
    """Tasks arm by arm, prompts by id, then by sampling seed."""
    arms = list(dict.fromkeys(task.arm.name for batch in plan for task in batch))
    tasks = [task for batch in plan for task in batch]
    yield from sorted(tasks, key=lambda task: (arms.index(task.arm.name), task.prompt.id, task.draw or 0))


def _check_fired(arms: Sequence[Arm], rows: Iterable[Row]) -> None:
    """Check that every arm that edits anything edited a token of one reply at least; warn of leaks."""
    tokens, leaked, blocked = (Counter({arm.name: 0 for arm in arms if arm.operations}) for _ in range(3))
    for row in rows:
        if row["arm"] in tokens:
            tokens[row["arm"]] += row["fired"]["tokens"]
            leaked[row["arm"]] += row["fired"]["leaked"]
            blocked[row["arm"]] += row["fired"]["blocked"]
    for name, count in tokens.items():
        if not count:
            raise SteerError(
                f"arm `{name}`",
                "touched no token of any reply",
                "its scope is `generated` and every reply ends at once, or its coefficient has no effect",
            )
        if leaked[name]:
            log.warning("arm `%s`: experts that it avoids were chosen %d times", name, leaked[name])
        if blocked[name]:
            log.warning("arm `%s`: experts that it activates were not chosen %d times", name, blocked[name])


def _encode(loaded: LoadedModel, prompt: Prompt, longest: int) -> list[int]:
    ids = loaded.encode(prompt.text, prompt.before)
    if len(ids) > longest:
        raise SteerError(
            f"prompt `{prompt.id}`",
            f"has {len(ids)} tokens, more than the {longest} of `max_prompt_tokens`",
            "shorten or remove it, or raise the limit if the model's context allows",
        )
    return ids


def _answer(
    loaded: LoadedModel, facts: ModelFacts, batch: Sequence[Task], max_new_tokens: int, sampling: Sampling
) -> list[tuple[str, Row]]:
    tokens = [task.tokens for task in batch]
    baseline = loaded.next_token_logits(loaded.batch(tokens))
    choosing = sampling.processors([task.prompt.id for task in batch], batch[0].draw)
    replies = generate(loaded, tokens, [task.arm for task in batch], max_new_tokens, choosing=choosing)
    first = [reply.first_token_logits for reply in replies]
    rows = []
    for task, reply, before, after in zip(batch, replies, baseline, first, strict=True):
        score = float(refusal_score(after[None], facts.refusal_token_ids))
        # The same logits to the bit unless the arm changed them: rounding must not look like an effect.
        kl = float(kl_divergence(before[None], after[None])) if task.arm.operations else 0.0
        effect = reply.fired.relative_norm
        check_finite(task.arm.name, task.prompt.id, loaded.model.dtype, score, kl, effect)
        rows.append((task.key, _row(task, reply, score, kl)))
    return rows


def _row(task: Task, reply: Reply, score: float, kl: float) -> Row:
    return reply_row(
        arm=task.arm.name,
        prompt_id=task.prompt.id,
        sample=task.draw,
        text=reply.text,
        reasoning=reply.reasoning,
        n_tokens=reply.n_tokens,
        finish=reply.finish,
        score=score,
        kl=kl,
        fired=asdict(reply.fired),
    )
