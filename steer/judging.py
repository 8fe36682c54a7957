"""Stage `judging`: a verdict for every reply of a prompt set, by one judge."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from steer.artifacts.files import Row, iter_jsonl, write_jsonl
from steer.artifacts.journal import Journal
from steer.artifacts.origin import attach, input_digests
from steer.artifacts.prompts import Prompt, read_prompts
from steer.artifacts.provenance import digest, provenance
from steer.artifacts.replies import Reply, iter_replies
from steer.errors import SteerError
from steer.judges.verdicts import UNSCORED, Exchange, Judge, Judgement, PaidJudge

CHUNK = 256
"""Replies judged between two writes to disk; what a kill can cost."""


def journal_path(out: Path) -> Path:
    """Where the judgements behind the file `out` are kept, by what was judged."""
    return out.with_name(f".{out.name}.journal")


def judge_replies(
    generation: Path, prompts: Path, judge: Judge, out: Path, log: Callable[[str], None] = print
) -> None:
    """Judge the replies of `generation` and write their verdicts, in its order.

    A judgement is kept under the digest of judge version, prompt, its answers, and reply. So equal replies of
    several arms are judged once, a killed run goes on where it stopped, and a new arm costs its own
    rows only. What is not final, such as an error, is written as `unscored` but not kept: the next run
    asks again.

    Args:
        generation: rows with `arm`, `prompt_id` and `text`.
        prompts: the prompt set that was answered.
        judge: gives the verdicts.
        out: rows `arm, prompt_id, verdict, reason, raw, judge_version`; `sample` too of sampled replies.
        log: told how many replies were judged and how many could not be, and why.

    Raises:
        SteerError: a file is missing or malformed, or a reply's prompt is not in `prompts`.
    """
    asked = {prompt.id: prompt for prompt in read_prompts(prompts)}
    with Journal(journal_path(out)) as journal:
        known = len(journal)
        passing: dict[str, Row] = {}
        if isinstance(judge, PaidJudge):
            log(judge.forecast(exchange for _, exchange in _exchanges(generation, asked)))
        try:
            for chunk in _chunks(_exchanges(generation, asked)):
                passing |= _judge_new(chunk, judge, journal, passing)
        finally:
            if isinstance(judge, PaidJudge):
                log(judge.bill())
        rows = (
            {**reply.place, **(passing.get(key) or journal.get(key))}
            for reply, exchange in _exchanges(generation, asked)
            if (key := _key(judge, exchange))
        )
        write_jsonl(out, rows)
        new = len(journal) - known + len(passing)
        journal.drop_stale({_key(judge, exchange) for _, exchange in _exchanges(generation, asked)})
    inputs = input_digests({"replies": generation, "prompts": prompts})
    # The version stands for the judge's settings, code and weights.
    attach(out, provenance(__name__, {"judge": judge.version}, inputs))
    _report(out, new, log)


def _exchanges(generation: Path, asked: dict[str, Prompt]) -> Iterator[tuple[Reply, Exchange]]:
    for reply in iter_replies(generation):
        if reply.prompt_id not in asked:
            cause = f"prompt `{reply.prompt_id}` of arm `{reply.arm}` is not in the prompt set"
            raise SteerError(str(generation), cause, "generate again from the present prompt set")
        prompt = asked[reply.prompt_id]
        yield reply, Exchange(prompt.asked, reply.text, prompt.answers)


def _chunks(rows: Iterator[tuple[Reply, Exchange]]) -> Iterator[list[Exchange]]:
    while chunk := [exchange for _, exchange in islice(rows, CHUNK)]:
        yield chunk


def _key(judge: Judge, exchange: Exchange) -> str:
    answers = [asdict(exchange.answers)] if exchange.answers else []
    return digest([judge.version, exchange.prompt, exchange.reply, *answers])


def _judge_new(
    exchanges: list[Exchange], judge: Judge, journal: Journal, passing: Mapping[str, Row]
) -> dict[str, Row]:
    """Judge what is new; keep what is final, and return the rest."""
    asked = {_key(judge, exchange): exchange for exchange in exchanges}
    new = {key: exchange for key, exchange in asked.items() if key not in journal and key not in passing}
    judgements = dict(zip(new, judge.judge(list(new.values())), strict=True))
    journal.add_many((key, _row(found)) for key, found in judgements.items() if found.final)
    return {key: _row(found) for key, found in judgements.items() if not found.final}


def _row(found: Judgement) -> Row:
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "raw": found.raw,
        "judge_version": found.version,
    }


def _report(out: Path, new: int, log: Callable[[str], None]) -> None:
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in iter_jsonl(out):
        verdicts[row["verdict"]] += 1
        reasons.update([row["reason"]] if row["verdict"] == UNSCORED else [])
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    log(f"{out.name}: {verdicts.total()} replies, {new} judged now: {counts}")
    for reason, count in sorted(reasons.items()):
        log(f"{out.name}: {count} unscored because {reason}")
