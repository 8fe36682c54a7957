"""How large the tasks of lm-evaluation-harness are, and what running them under arms costs."""

from dataclasses import dataclass
from pathlib import Path

from steer.config.capability import TaskSettings
from steer.plan.study import Study, Work


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        questions: of its test split.
        offers: answers whose likelihood is read for a question; 1 where the answer is written.
        written: longest answer that is written, in tokens.
    """

    questions: int
    offers: int
    written: int = 0


TASKS = {
    "mmlu": Task(14042, 4),
    "hellaswag": Task(10042, 4),
    "arc_easy": Task(2376, 4),
    "arc_challenge": Task(1172, 4),
    "winogrande": Task(1267, 2),
    "gsm8k": Task(1319, 1, 256),
    "truthfulqa_mc1": Task(817, 5),
}
"""Sizes as published: MMLU (arXiv 2009.03300), HellaSwag (1905.07830, validation), ARC (1803.05457),
WinoGrande (1907.10641, validation), GSM8K (2110.14168), TruthfulQA (2109.07958, the mean of its offers)."""

OWN_OFFERS = 4


def capability(study: Study) -> Work:
    """Arms · Σ questions · offers · (worked examples + 1) · prompt tokens; an example is as long as a prompt.

    Own tasks have a question a line of their data and four offers; tasks of neither kind count as nothing.
    """
    settings = study.config.capability
    arms, rows, read, written = len(study.config.capable_arms), 0, 0, 0
    for name, asked in settings.wanted.items():
        task = TASKS.get(name) or _own(Path(settings.folder) / f"{name}.jsonl")
        requests = _questions(task, asked) * task.offers
        rows += requests
        read += requests * (1 + (asked.fewshot or 0)) * study.lengths.prompt
        written += _questions(task, asked) * task.written
    return Work("capability", 1, arms * study.batches(rows), arms * read, arms * written)


def _questions(task: Task, asked: TaskSettings) -> int:
    return task.questions if asked.limit is None else min(task.questions, asked.limit)


def _own(data: Path) -> Task:
    if not data.is_file():
        return Task(0, 1)
    with data.open(encoding="utf-8") as stream:
        return Task(sum(1 for _ in stream), OWN_OFFERS)
