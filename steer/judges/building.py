"""A judge from its settings."""

from pathlib import Path
from typing import TYPE_CHECKING

from steer.catalogue import HubModel
from steer.errors import SteerError
from steer.grammar import Grammar
from steer.judges.exact import ExactMatching
from steer.judges.phrases import PhraseMatching
from steer.judges.refusals import StrictRefusals
from steer.judges.settings import (
    ExactJudge,
    GrammarJudge,
    JudgeSettings,
    LikelihoodJudge,
    PhrasesJudge,
    RefusalsJudge,
    ServerJudge,
)
from steer.judges.truth import GrammarTruth
from steer.judges.verdicts import Judge

if TYPE_CHECKING:
    from steer.judges.rubrics import Rubric


def checkpoint_path(results: Path, name: str) -> Path:
    """Where the embedded judge `name` is saved by its training."""
    return results / "judges" / name / "checkpoint"


def weights_path(results: Path, model: HubModel) -> Path:
    """Where the weights of a model on the hub are fetched to."""
    return results / "weights" / model.folder


def build(name: str, settings: JudgeSettings, results: Path, grammar: Path = Path("data/grammar")) -> Judge:
    """The judge that the configuration calls `name`.

    Args:
        name: its name in the configuration.
        settings: its settings.
        results: folder of the results, where an embedded judge was saved.
        grammar: folder of the grammar, for the truth.

    Raises:
        SteerError: the grammar, the judge's checkpoint or its key is missing or can't be used.
    """
    if isinstance(settings, PhrasesJudge):
        return PhraseMatching(settings.match)
    if isinstance(settings, RefusalsJudge):
        return StrictRefusals()
    if isinstance(settings, GrammarJudge):
        return GrammarTruth(Grammar.load(grammar))
    if isinstance(settings, ExactJudge):
        return ExactMatching(settings.match)
    if isinstance(settings, ServerJudge):
        from steer.judges.server import ServerJudging, answers_path, read_key

        return ServerJudging(name, settings, answers_path(results, name), read_key(name, settings))
    # Here, so that judging by phrases or by the grammar need not load torch.
    from steer.judges.likelihood import load_judge

    folder = Path(settings.path) if settings.path else checkpoint_path(results, name)
    if settings.hub:
        folder = weights_path(results, settings.hub)
    if not folder.is_dir():
        raise SteerError(
            f"judge `{name}`", f"no checkpoint at {folder}", "train it first, or mend its `path`"
        )
    return load_judge(
        folder,
        rubric_of(settings, results),
        settings.batch_size,
        settings.max_tokens,
        settings.dtype,
        settings.device,
    )


def rubric_of(settings: LikelihoodJudge, results: Path, table: Path = Path("data/sources.tsv")) -> "Rubric":
    """What a judge is asked: its rubric, or the published question, fetched from where that stands.

    Raises:
        SteerError: the fetched file is missing, or does not hold the question.
    """
    from steer.judges.rubrics import RUBRICS, Rubric, given, published

    row = settings.published
    if row is None:
        return RUBRICS["embedded" if settings.trained else settings.rubric]
    if row.template is None:
        return Rubric(template="", offers=given(row.offers), fences=())
    # Readers of public formats are needed only where a public question is.
    from steer.sources import find_source
    from steer.templates import read_template

    source = find_source(row.template, table)
    template = read_template(source, results / "downloads" / source.name)
    return published(template.text, source.filled, row.offers)
