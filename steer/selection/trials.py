"""Judged trial generations: which arm brings about the wanted verdict, on prompts of `val`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steer.artifacts.arms import arm_digest
from steer.artifacts.files import Row
from steer.artifacts.journal import Journal
from steer.artifacts.provenance import code_digest, digest
from steer.judges.verdicts import Exchange, Judge
from steer.models.batching import by_length
from steer.models.decoding import generate
from steer.models.interventions import Arm
from steer.models.loading import LoadedModel
from steer.models.scoring import check_finite, kl_divergence
from steer.selection.candidates import Question

# Suppressing is tried on harmful prompts, inducing on harmless ones; the verdict it is to bring about.
ASKED = {"suppress": "harmful", "induce": "harmless"}
WANTED = {"suppress": "full_response", "induce": "refusal"}
COUNTED = ("refusal", "full_response", "non_response", "unscored")


@dataclass(frozen=True)
class Trial:
    """One candidate for an arm of the configuration, to be tried on the prompts that its polarity is for."""

    name: str
    polarity: Literal["suppress", "induce"]
    arm: Arm

    @property
    def asked(self) -> str:
        """Label of the prompts."""
        return ASKED[self.polarity]


@dataclass(frozen=True)
class Budget:
    """What a trial costs, and what else decides its replies: the model and its arithmetic."""

    max_new_tokens: int
    batch_size: int
    model: tuple[Any, ...]


class Tester:
    """Answers and judges the trials' prompts, trials of one arm mixed within a batch.

    Finished trials are kept in a journal, so that a new arm costs its own only.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        questions: Mapping[str, Sequence[Question]],
        judge: Judge,
        budget: Budget,
        journal: Journal,
    ) -> None:
        self._loaded, self._questions, self._judge = loaded, questions, judge
        self._budget, self._journal = budget, journal
        self._common = [*budget.model, judge.version, budget.max_new_tokens, budget.batch_size]
        self.keys: list[str] = []

    def counts(self, trials: Sequence[Trial]) -> list[Row]:
        """For each trial, how often each verdict was given, of how many (`n`), and the mean `kl` in nats."""
        found: dict[int, Row] = {}
        for name in dict.fromkeys(trial.name for trial in trials):
            mine = [index for index, trial in enumerate(trials) if trial.name == name]
            found.update(zip(mine, self._of_one_arm([trials[index] for index in mine]), strict=True))
        return [found[index] for index in range(len(trials))]

    def _of_one_arm(self, trials: Sequence[Trial]) -> list[Row]:
        keys = self._keys(trials)
        self.keys += keys
        if not all(key in self._journal for key in keys):
            rows = self._run(trials)
            self._journal.add_many(
                (key, row) for key, row in zip(keys, rows, strict=True) if key not in self._journal
            )
        return [self._journal.get(key) for key in keys]

    def _keys(self, trials: Sequence[Trial]) -> list[str]:
        # All trials of an arm share batches, so all of them are in the key of each.
        arms = [arm_digest(trial.arm) for trial in trials]
        texts = [[question.id, question.text] for question in self._questions[trials[0].asked]]
        group = digest([self._common, code_digest(__name__), arms, texts])
        return [digest([group, arm]) for arm in arms]

    def _run(self, trials: Sequence[Trial]) -> list[Row]:
        questions = self._questions[trials[0].asked]
        jobs = [(trial.arm, question) for trial in trials for question in questions]
        verdicts: list[str] = [""] * len(jobs)
        divergences = [0.0] * len(jobs)
        names = [f"{question.id} {index:09d}" for index, (_, question) in enumerate(jobs)]
        for indices in by_length([len(q.tokens) for _, q in jobs], names, self._budget.batch_size):
            for index, (verdict, kl) in zip(indices, self._judged([jobs[i] for i in indices]), strict=True):
                verdicts[index], divergences[index] = verdict, kl
        n = len(questions)
        return [
            {**_counts(verdicts[i * n : (i + 1) * n]), "kl": sum(divergences[i * n : (i + 1) * n]) / n}
            for i in range(len(trials))
        ]

    def _judged(self, jobs: Sequence[tuple[Arm, Question]]) -> list[tuple[str, float]]:
        tokens = [question.tokens for _, question in jobs]
        before = self._loaded.next_token_logits(self._loaded.batch(tokens))
        replies = generate(self._loaded, tokens, [arm for arm, _ in jobs], self._budget.max_new_tokens)
        exchanges = [Exchange(q.text, reply.text) for (_, q), reply in zip(jobs, replies, strict=True)]
        divergences = []
        for (arm, question), reply, plain in zip(jobs, replies, before, strict=True):
            kl = float(kl_divergence(plain[None], reply.first_token_logits[None]))
            check_finite(arm.name, question.id, self._loaded.model.dtype, kl)
            divergences.append(kl)
        judgements = self._judge.judge(exchanges)
        return [(judgement.verdict, kl) for judgement, kl in zip(judgements, divergences, strict=True)]


def _counts(verdicts: Sequence[str]) -> dict[str, int]:
    return {"n": len(verdicts), **{name: sum(verdict == name for verdict in verdicts) for name in COUNTED}}
