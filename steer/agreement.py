"""Stage `agreement`: what a judge says about replies whose truth is known, whole and cut short."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from steer import stats
from steer.artifacts.files import Row, write_csv
from steer.artifacts.labelled import Labelled, read_labelled
from steer.artifacts.origin import attach
from steer.artifacts.provenance import digest, provenance
from steer.grammar import Grammar
from steer.judges.examples import ExampleSource
from steer.judges.verdicts import UNSCORED, VERDICTS, Exchange, Judge, PaidJudge, Verdict
from steer.rates import Method
from steer.texts import cut

WHOLE = "whole"
CONFUSION = tuple(f"{true}_as_{judged}" for true in VERDICTS for judged in VERDICTS)
AGREEMENT = ("accuracy", "accuracy_low", "accuracy_high", "kappa", "kappa_low", "kappa_high")
COLUMNS = (
    *("labelled", "judge", "length", "shortened", "n", "unscored", *AGREEMENT),
    *("same_as_whole", "same_low", "same_high", *CONFUSION),
)


def draw_labelled(grammar: Grammar, count: int, seed: int) -> list[Labelled]:
    """Exchanges of the embedded grammar, whole and broken, with words and frames that nothing learned."""
    source = ExampleSource(grammar, "test", random.Random(f"{seed} agreement"))
    return [Labelled(example.exchange, example.verdict) for example in source.draw(count)]


def read_set(source: str, grammar: Path, count: int, seed: int) -> list[Labelled]:
    """The labelled set that a configuration means: of the grammar, or of a file."""
    if source == "grammar":
        return draw_labelled(Grammar.load(grammar), count, seed)
    return read_labelled(source)


def write_agreement(
    labelled: Mapping[str, Sequence[Labelled]],
    judge_name: str,
    judge: Judge,
    lengths: Sequence[int],
    method: Method,
    out: Path,
    log: Callable[[str], None] = print,
) -> None:
    """Write, for each labelled set, a row for the whole replies and one for each length that they are cut to.

    Args:
        labelled: by name of a set, replies with their true verdicts, which are those of the whole replies.
        judge_name: the judge's name in the configuration.
        judge: gives the verdicts.
        lengths: words and marks that replies are cut to.
        method: how intervals are made.
        out: the table: agreement with the labels, and how often the verdict is that on the whole reply.
        log: told what the judge will cost and has cost.
    """
    asked = [exchange for rows in labelled.values() for exchange in _asked(rows, lengths)]
    said = _judge(list(dict.fromkeys(asked)), judge, log)
    rows = [
        {"labelled": name, "judge": judge_name, **row}
        for name, known in labelled.items()
        for row in _rows(known, lengths, said, method, name, judge_name)
    ]
    write_csv(out, rows, COLUMNS)
    settings = {"judge": judge.version, "lengths": [*lengths], **asdict(method)}
    inputs = {
        name: digest([[one.exchange.prompt, one.exchange.reply, one.verdict] for one in known])
        for name, known in labelled.items()
    }
    attach(out, provenance(__name__, settings, inputs, method.seed))


def _asked(labelled: Sequence[Labelled], lengths: Sequence[int]) -> Iterator[Exchange]:
    for one in labelled:
        yield one.exchange
        yield from (_shortened(one.exchange, length) for length in lengths)


def _judge(
    exchanges: Sequence[Exchange], judge: Judge, log: Callable[[str], None]
) -> dict[Exchange, Verdict]:
    if isinstance(judge, PaidJudge):
        log(judge.forecast(exchanges))
    found = judge.judge(exchanges)
    if isinstance(judge, PaidJudge):
        log(judge.bill())
    return {exchange: one.verdict for exchange, one in zip(exchanges, found, strict=True)}


def _rows(
    labelled: Sequence[Labelled],
    lengths: Sequence[int],
    said: Mapping[Exchange, Verdict],
    method: Method,
    *names: str,
) -> Iterator[Row]:
    whole = [one.exchange for one in labelled]
    short = {str(length): [_shortened(one, length) for one in whole] for length in lengths}
    for length, exchanges in {WHOLE: whole, **short}.items():
        row: Row = {"length": length}
        row["shortened"] = sum(one != other for one, other in zip(exchanges, whole, strict=True))
        row |= _agreement(exchanges, labelled, said, method, length, *names)
        yield row | _same(exchanges, whole, said, method)


def _shortened(exchange: Exchange, length: int) -> Exchange:
    return Exchange(exchange.prompt, cut(exchange.reply, length))


def _agreement(
    exchanges: Sequence[Exchange],
    labelled: Sequence[Labelled],
    said: Mapping[Exchange, Verdict],
    method: Method,
    *names: str,
) -> Row:
    pairs = [
        (said[exchange], one.verdict)
        for exchange, one in zip(exchanges, labelled, strict=True)
        if said[exchange] != UNSCORED
    ]
    judged, truth = [verdict for verdict, _ in pairs], [verdict for _, verdict in pairs]
    equal = stats.accuracy(judged, truth, method.confidence)
    rng = method.rng("agreement", *names)
    kappa = stats.cohen_kappa(judged, truth, rng, method.resamples, method.confidence)
    table = stats.confusion(judged, truth, VERDICTS)
    row: Row = {"n": len(pairs), "unscored": len(labelled) - len(pairs)}
    row |= dict(zip(AGREEMENT, (*equal, *kappa), strict=True))
    return row | dict(zip(CONFUSION, table.ravel().tolist(), strict=True))


def _same(
    exchanges: Sequence[Exchange], whole: Sequence[Exchange], said: Mapping[Exchange, Verdict], method: Method
) -> Row:
    pairs = [(said[one], said[other]) for one, other in zip(exchanges, whole, strict=True)]
    scored = [pair for pair in pairs if UNSCORED not in pair]
    equal = stats.wilson(sum(one == other for one, other in scored), len(scored), method.confidence)
    return dict(zip(("same_as_whole", "same_low", "same_high"), equal, strict=True))
