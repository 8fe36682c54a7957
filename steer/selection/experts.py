"""Choice of experts, position and coefficient after arXiv 2606.04160: estimated, scored, judged, on `val`.

(a) A first-order estimate of what every direction of every expert does to the refusal score. (b) The
exact refusal score and KL of the best by it, over the coefficients. (c) Judged short replies of the best of
those, then of the best of these under other scopes and at finer coefficients. The first token depends on
the prompt alone, so that (b) holds for every scope that takes in the prompt. Every candidate stands in
one table, with the stage that it came to; `dose` are other coefficients of the chosen place, judged after
the choice, which they have no say in.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steer.artifacts.facts import ModelFacts
from steer.artifacts.files import Row, write_csv, write_json
from steer.artifacts.journal import Journal
from steer.artifacts.provenance import provenance
from steer.config import ArmSettings, ExpertDirectionArm, ExpertSelectionSettings, ModelSettings
from steer.errors import SteerError
from steer.judges.verdicts import Judge
from steer.models.interventions import Weighting
from steer.models.loading import LoadedModel
from steer.models.study import open_study
from steer.selection.candidates import Question, digests, next_token_scores, val_prompts
from steer.selection.experts_directions import ExpertDirections, read_expert_directions
from steer.selection.experts_estimate import estimates, gradients
from steer.selection.experts_exact import exact_scores
from steer.selection.experts_making import ExpertDose, make_expert_arm
from steer.selection.experts_table import (
    COLUMNS,
    Ranked,
    around,
    best_of,
    blank_row,
    bottom_of,
    correlations,
    kept,
    ranked,
    to_score,
    untried,
)
from steer.selection.making import sign_of
from steer.selection.trials import ASKED, WANTED, Budget, Tester, Trial

OTHER = {"harmful": "harmless", "harmless": "harmful"}
log = logging.getLogger(__name__)


def select(
    facts_path: Path,
    experts_path: Path,
    harmful_path: Path,
    harmless_path: Path,
    out: Path,
    model: ModelSettings,
    settings: ExpertSelectionSettings,
    arms: Mapping[str, ArmSettings],
    judge: Judge,
    positions: int,
) -> None:
    """Choose for every arm whose experts are to be selected; write `<out>.csv` and `<out>.json`.

    The candidate with the largest share of the wanted verdict wins; ties go to the smallest coefficient ×
    norm, then to the smaller KL of the trial.

    Raises:
        SteerError: the model is dense, an input can't be used, or an arm can't fire.
    """
    wanted = {name: arm for name, arm in arms.items() if isinstance(arm, ExpertDirectionArm) and arm.selected}
    loaded, facts = open_study(facts_path, model)
    directions = read_expert_directions(experts_path, facts, positions)
    paths = {"harmful": harmful_path, "harmless": harmless_path}
    questions = {label: val_prompts(loaded, path, settings.prompts) for label, path in paths.items()}
    with Journal(out.with_name(f".{out.name}.journal.jsonl")) as journal:
        budget = Budget(settings.max_new_tokens, model.batch_size, (facts.digest, *model.arithmetic))
        tester = Tester(loaded, questions, judge, budget, journal)
        chooser = Chooser(loaded, facts, directions, questions, settings, model.batch_size, tester)
        rows: list[Row] = []
        choices = {name: chooser.choose(name, arm, rows) for name, arm in wanted.items()}
        inputs = digests(facts, experts=experts_path, harmful=harmful_path, harmless=harmless_path)
        inputs["judge"] = judge.version
        origin = provenance("steer.selection.experts", settings.model_dump(mode="json"), inputs)
        write_csv(out.with_suffix(".csv"), rows, list(COLUMNS))
        write_json(out.with_suffix(".json"), {"choices": choices, "provenance": origin})
        journal.drop_stale(tester.keys)


class Chooser:
    """The three stages, for one arm after the other; what arms share is computed once."""

    def __init__(
        self,
        loaded: LoadedModel,
        facts: ModelFacts,
        directions: ExpertDirections,
        questions: Mapping[str, Sequence[Question]],
        settings: ExpertSelectionSettings,
        batch_size: int,
        tester: Tester,
    ) -> None:
        self._loaded, self._facts, self._directions = loaded, facts, directions
        self._questions, self._settings, self._tester = questions, settings, tester
        self._batch_size = batch_size
        self._gradients = cache(self._gradients_of)
        self._baseline = cache(self._baseline_of)

    def choose(self, name: str, arm: ExpertDirectionArm, rows: list[Row]) -> dict[str, Any]:
        """The choice for one arm, with its reasons; its candidates are added to `rows`."""
        asked = ASKED[arm.polarity]
        found = estimates(self._gradients(asked, arm.weighting), self._directions.of(arm.estimator))
        places = ranked(arm, self._directions, found)
        if not places:
            cause = f"no expert has a direction other than zero by estimator `{arm.estimator}`"
            step = "use the estimator `forced`, or a set whose prompts the router gives to more experts"
            raise SteerError(f"arm `{name}`", cause, step)
        mine = [blank_row(name, arm, one, rank) for rank, one in enumerate(places, 1)]
        grid = self._score(arm, places, mine, self._grid(arm, len(places)))
        scored = [*grid, *self._judged(name, arm, grid)]
        for _ in range(self._settings.refinements):
            best = best_of(scored)
            near, finer = around(best, scored)
            near += self._score(arm, places, mine, [(best["estimate_rank"] - 1, dose) for dose in finer])
            within = [row for row in near if row["kl"] <= self._settings.kl_threshold]
            self._judge(name, arm, within, "judged", best["scope"])
            scored += [row for row in near if not any(row is one for one in scored)]
        best = best_of(scored)
        best["chosen"] = True
        rest = untried(best, scored)
        self._judge(name, arm, rest, "dose", best["scope"])
        scored += [row for row in rest if not any(row is one for one in scored)]
        reached = {row["estimate_rank"] for row in scored}
        rows += [*scored, *(row for row in mine if row["estimate_rank"] not in reached)]
        return self._record(name, arm, best, grid, places)

    def _judged(self, name: str, arm: ExpertDirectionArm, grid: Sequence[Row]) -> list[Row]:
        """Judge what is most promising in one scope, and the best place of it in the others: new rows."""
        first, *others = [arm.scope] if arm.scope else dict.fromkeys(self._settings.scopes)
        judged = kept(grid, self._settings)
        self._judge(name, arm, judged, "judged", first)
        place = [row for row in judged if row["estimate_rank"] == best_of(judged)["estimate_rank"]]
        more = [{**row, "scope": other} for other in others for row in place]
        self._judge(name, arm, more, "judged")
        return more

    def _gradients_of(self, asked: str, weighting: Weighting) -> Float[Tensor, "moe_layers experts d"]:
        refusing, asks = self._facts.refusal_token_ids, self._questions[asked]
        return gradients(self._loaded, asks, refusing, weighting, self._batch_size)

    def _baseline_of(self, asked: str) -> float:
        refusing, asks = self._facts.refusal_token_ids, self._questions[asked]
        return float(next_token_scores(self._loaded, asks, refusing, self._batch_size).mean())

    def _grid(self, arm: ExpertDirectionArm, places: int) -> list[tuple[int, float]]:
        """Ranks that are scored exactly, each with every coefficient."""
        return [
            (rank, sign_of(arm.polarity) * coefficient)
            for rank in to_score(places, self._settings)
            for coefficient in dict.fromkeys(self._settings.coefficients)
        ]

    def _score(
        self,
        arm: ExpertDirectionArm,
        places: Sequence[Ranked],
        rows: Sequence[Row],
        doses: Sequence[tuple[int, float]],
    ) -> list[Row]:
        """Stage (b): a row for every dose, given as rank and coefficient."""
        if not doses:
            return []
        asked = ASKED[arm.polarity]
        candidates = [places[rank].candidate(coefficient) for rank, coefficient in doses]
        means = []
        for label, which in ((asked, 0), (OTHER[asked], 1)):
            both = exact_scores(
                self._loaded,
                self._questions[label],
                candidates,
                self._facts.refusal_token_ids,
                arm.weighting,
                self._batch_size,
            )
            means.append(both[which].mean(dim=1).tolist())
        return [
            {**rows[rank], "coefficient": coefficient, "refusal_score": score, "kl": kl, "stage": "scored"}
            for (rank, coefficient), score, kl in zip(doses, *means, strict=True)
        ]

    def _judge(
        self, name: str, arm: ExpertDirectionArm, rows: Sequence[Row], stage: str, scope: str | None = None
    ) -> None:
        """The verdicts of short replies, into the rows, which come to `stage`; `scope` replaces theirs."""
        trials = []
        for row in rows:
            row["scope"] = scope or row["scope"]
            pairs = () if row["expert"] is None else ((row["layer"], row["expert"]),)
            layer = row["layer"] if row["expert"] is None else None
            dose = ExpertDose(pairs, layer, row["position"], abs(row["coefficient"]), row["scope"])
            trials.append(Trial(name, arm.polarity, make_expert_arm(name, arm, self._directions, dose)))
        for row, trial, counts in zip(rows, trials, self._tester.counts(trials), strict=True):
            verdicts = {key: value for key, value in counts.items() if key != "kl"}
            row.update(verdicts, stage=stage, set=trial.asked)

    def _record(
        self,
        name: str,
        arm: ExpertDirectionArm,
        best: Row,
        grid: Sequence[Row],
        places: Sequence[Ranked],
    ) -> dict[str, Any]:
        wanted, place = WANTED[arm.polarity], places[best["estimate_rank"] - 1].place
        baseline = self._baseline(ASKED[arm.polarity])
        why = (
            f"{best[wanted]} of {best['n']} {wanted} on val;"
            f" refusal score {best['refusal_score']:+.2f} (unsteered {baseline:+.2f}), KL {best['kl']:.3f}"
        )
        log.info(
            "%s: layer %d, expert %s, position %d, coefficient %g, scope %s, rank %d by estimate: %s",
            *(name, place.layer, "all" if place.expert is None else place.expert, place.position),
            *(best["coefficient"], best["scope"], best["estimate_rank"], why),
        )
        return {
            "layer": place.layer,
            "experts": [] if place.expert is None else [[place.layer, place.expert]],
            "position": place.position,
            "coefficient": abs(best["coefficient"]),
            "scope": best["scope"],
            "bottom": bottom_of(place, places),
            "baseline_refusal_score": baseline,
            "rank_correlation": correlations(grid, baseline),
            "why": why,
        }
