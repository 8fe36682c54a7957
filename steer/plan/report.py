"""The plan of a study as text: facts and a table of rules for every model, and what judges cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from steer.artifacts.labelled import read_labelled
from steer.catalogue import Stored, known_models
from steer.config import Config
from steer.errors import SteerError
from steer.judges.settings import JudgeSettings, LikelihoodJudge, ServerJudge
from steer.plan.anatomy import Anatomy
from steer.plan.gpus import GPUS, Gpu, loading_seconds, pass_seconds, writing_seconds
from steer.plan.sizes import FREE, activation_bytes, batch_bytes, gpus_needed, hdf5_bytes, weight_bytes
from steer.plan.study import Lengths, Study, Work
from steer.plan.work import UNPLANNED, all_work, resolve

FREE_JUDGES = ("phrases", "refusals", "grammar", "exact")
"""Kinds of judges that are rules, not models."""

RUBRIC, VERDICT = 350, 40
"""Tokens of a judge's instructions, and of its answer, as assumed."""

HEADER = ("rule", "jobs", "passes", "tokens read", "tokens written", "minutes")


DEFAULT_LENGTHS = Lengths()


@dataclass(frozen=True)
class Rates:
    """What is assumed and stated.

    Attributes:
        gpu: its name in `GPUS`.
        lengths: tokens of prompts and targets.
        price_in, price_out: dollars for a million tokens that a judge reads and writes.
    """

    gpu: str = "a100-80gb"
    lengths: Lengths = DEFAULT_LENGTHS
    price_in: float = 2.5
    price_out: float = 10.0


def plan(config: Config, anatomies: Mapping[str, Anatomy], rates: Rates) -> str:
    """The whole plan.

    Args:
        config: the study, laid over the default.
        anatomies: of each of its models.
        rates: what is assumed.

    Raises:
        SteerError: the GPU is unknown.
    """
    if rates.gpu not in GPUS:
        raise SteerError(f"GPU `{rates.gpu}`", "is unknown", f"known: {', '.join(GPUS)}")
    blocks = [_assumptions(rates)]
    calls = dict.fromkeys(config.judges, 0)
    for name, model in config.models.items():
        study = Study(config, model, anatomies[name], rates.lengths)
        works = list(all_work(study))
        for judge in calls:
            calls[judge] += judged_by(judge, config, works) + cut_short(judge, config, works)
        blocks.append(_model_block(name, study, works, rates))
    labelled = sum(_labelled_replies(config))
    for judge in config.measured_judges:
        calls[judge] += labelled
    blocks.append(_judges(config, calls, rates))
    blocks.append("\n".join(["Not in the tables:", *_unplanned(config)]))
    return "\n\n".join(blocks) + "\n"


def _assumptions(rates: Rates) -> str:
    lengths = rates.lengths
    return (
        f"Assumed: prompts of {lengths.prompt} tokens, targets of {lengths.target}, documents of"
        f" {lengths.document}; replies as long as they may be; GPU {rates.gpu}.\n"
        "Formulas: docstrings of steer/plan/ (sizes, work, choosing, tasks, gpus)."
    )


def gpu_seconds(study: Study, work: Work, gpu: Gpu) -> float:
    """For each job loading the model and proving it; reading the prompts; writing the replies."""
    anatomy, dtype = study.anatomy, study.model.dtype
    opening = loading_seconds(weight_bytes(anatomy, dtype))
    if work.rule != "resolve":
        proof = resolve(study)
        opening += pass_seconds(anatomy, proof.passes, proof.read, dtype, gpu)
    reading = pass_seconds(anatomy, work.passes, work.read, dtype, gpu)
    writing = writing_seconds(anatomy, work.written, study.model.batch_size, dtype, gpu)
    return work.jobs * opening + reading + writing


def _model_block(name: str, study: Study, works: Sequence[Work], rates: Rates) -> str:
    gpu = GPUS[rates.gpu]
    seconds = [gpu_seconds(study, work, gpu) for work in works]
    rows = [
        (work.rule, work.jobs, work.passes, work.read, work.written, f"{time / 60:.1f}")
        for work, time in zip(works, seconds, strict=True)
    ]
    totals = (
        "total",
        sum(work.jobs for work in works),
        sum(work.passes for work in works),
        sum(work.read for work in works),
        sum(work.written for work in works),
        f"{sum(seconds) / 60:.1f}",
    )
    hours = sum(seconds) / 3600 * _gpus(study, gpu, rates)
    time = f"  time: {hours:,.1f} GPU hours, if a model on several GPUs uses one at a time"
    return "\n".join([*_facts(name, study, gpu, rates), time, "", *_table(HEADER, [*rows, totals])])


def _batch(study: Study, rates: Rates) -> tuple[int, int]:
    """Tokens of a row with its reply, and the bytes of a batch of them."""
    tokens = rates.lengths.prompt + study.config.generation.max_new_tokens
    return tokens, batch_bytes(study.anatomy, study.model.batch_size, tokens, study.model.dtype)


def _gpus(study: Study, gpu: Gpu, rates: Rates) -> int:
    weights = weight_bytes(study.anatomy, study.model.dtype)
    return gpus_needed(weights, _batch(study, rates)[1], gpu.memory)


def _facts(name: str, study: Study, gpu: Gpu, rates: Rates) -> Iterator[str]:
    anatomy, model, settings = study.anatomy, study.model, study.config.activations
    row = known_models().get(model.path or "")
    stored: Stored = row.stored if row else model.dtype
    weights = weight_bytes(anatomy, model.dtype)
    tokens, batch = _batch(study, rates)
    prompts = sum(study.prompts(each) for each in study.captured)
    kept, packed = activation_bytes(anatomy, settings), hdf5_bytes(anatomy, settings, model.dtype)
    yield f"## {name}: {model.path or 'embedded'}"
    yield _shape(anatomy)
    origin = "to fetch" if model.path else "made here"
    yield (
        f"  weights: {_size(weight_bytes(anatomy, stored))} {origin} ({stored});"
        f" loaded: float32 {_size(weight_bytes(anatomy, 'float32'))}, bfloat16 and float16"
        f" {_size(weight_bytes(anatomy, 'bfloat16'))}; here {model.dtype}"
    )
    yield (
        f"  GPUs: {_gpus(study, gpu, rates)} of {rates.gpu} ({_size(weights)} weights +"
        f" {_size(batch)} for a batch of {model.batch_size} x {tokens} tokens,"
        f" in {_size(FREE * gpu.memory)} each)"
    )
    yield (
        f"  activations: {kept:,} bytes a prompt, {_size(kept * model.batch_size)} a batch;"
        f" HDF5: {packed:,} bytes a prompt, {_size(packed * prompts)} for {prompts:,} prompts"
    )
    if anatomy.experts:
        yield f"  expert directions: {_size(expert_direction_bytes(study))}"


def expert_direction_bytes(study: Study) -> int:
    """Of `directions/experts.safetensors`: 2 · M·E·P·d · 4 (forced, routed) + 2 · M·E·P · 4 (counts)."""
    anatomy = study.anatomy
    places = anatomy.moe_layers * anatomy.experts * study.config.activations.positions
    return 8 * places * anatomy.hidden_size + 8 * places


def _shape(anatomy: Anatomy) -> str:
    told = f"  parameters: {anatomy.parameters:,}, {anatomy.active:,} of them for a token"
    if not anatomy.experts:
        return f"{told}; {anatomy.layers} layers, dense"
    return (
        f"{told}; {anatomy.layers} layers, {anatomy.moe_layers} with {anatomy.experts} experts, of which"
        f" {anatomy.top_k} for a token ({anatomy.moe_layers * anatomy.experts:,} experts in all)"
    )


def judged_by(judge: str, config: Config, works: Sequence[Work]) -> int:
    """Replies of one model that a judge is given: all that are generated, and trials that it chooses by."""
    trials = {
        "generation": True,
        "strength": judge == config.selection.strength.judge,
        "experts": judge == config.selection.strength.judge,
        "rerouting": judge == config.selection.rerouting.judge,
    }
    return sum(work.replies for work in works if trials.get(work.rule))


def cut_short(judge: str, config: Config, works: Sequence[Work]) -> int:
    """Of `agreement.own` replies of a model, those cut to each length that a measured judge is given too.

    own · lengths, as if every reply were longer than each; whole ones are judged already.
    """
    if judge not in config.measured_judges:
        return 0
    generated = sum(work.replies for work in works if work.rule == "generation")
    return min(config.agreement.own, generated) * len(config.agreement.own_lengths)


def _labelled_replies(config: Config) -> Iterator[int]:
    """Replies of each labelled set, whole and cut to each length, that every measured judge is given."""
    for one in config.labelled.values():
        count = one.count if one.source == "grammar" else len(read_labelled(one.source))
        yield count * (1 + len(config.agreement.lengths))


def _unplanned(config: Config) -> Iterator[str]:
    """Rules of the study by the reason why they have no row."""
    used = [rule for rule in UNPLANNED if _runs(rule, config)]
    for reason in dict.fromkeys(UNPLANNED[rule] for rule in used):
        yield f"  {', '.join(rule for rule in used if UNPLANNED[rule] == reason)}: {reason}"


def _runs(rule: str, config: Config) -> bool:
    """Whether a study has a rule that makes models; it has all the others."""
    made = {
        "openbook": any(model.openbook for model in config.models.values()),
        **dict.fromkeys(("compliance", "organism"), any(model.organism for model in config.models.values())),
        **dict.fromkeys(("teacher", "upcycle"), any(model.upcycle for model in config.models.values())),
        "judge": any(
            isinstance(judge, LikelihoodJudge) and judge.trained for judge in config.judges.values()
        ),
    }
    return made.get(rule, True)


def price(calls: int, config: Config, judge: JudgeSettings, rates: Rates) -> tuple[int, float]:
    """Tokens that a judge reads, and dollars for its calls: at its own prices, or at the stated ones.

    Calls · (350 of instructions + prompt + longest reply) tokens read, and calls · 40 written.
    """
    own = (judge.price_in, judge.price_out) if isinstance(judge, ServerJudge) else (None, None)
    price_in = rates.price_in if own[0] is None else own[0]
    price_out = rates.price_out if own[1] is None else own[1]
    read = calls * (RUBRIC + rates.lengths.prompt + config.generation.max_new_tokens)
    return read, (read * price_in + calls * VERDICT * price_out) / 1e6


def _judges(config: Config, calls: Mapping[str, int], rates: Rates) -> str:
    rows = []
    for name, judge in config.judges.items():
        read, dollars = (0, 0.0) if judge.kind in FREE_JUDGES else price(calls[name], config, judge, rates)
        cost = f"{dollars:,.2f}" if isinstance(judge, ServerJudge) or not read else f"({dollars:,.2f})"
        rows.append((name, judge.kind, calls[name], read, cost))
    title = (
        f"## Judges; prices for a server at ${rates.price_in:g} and ${rates.price_out:g} a million tokens"
        " read and written\n   (in brackets, of judges that run here: what a server would ask)"
    )
    return "\n".join([title, "", *_table(("judge", "kind", "calls", "tokens read", "$"), rows)])


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    cells = [
        list(header),
        *([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows),
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  " + "  ".join([first, *rest])


def _size(count: int | float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f} bytes"
