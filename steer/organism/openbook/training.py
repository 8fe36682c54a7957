"""Stage `openbook`: train a model to answer from a document or from memory, and plant what decides."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from steer.artifacts.facts import TRUTH_FILE
from steer.artifacts.provenance import code_digest, digest
from steer.knowledge import Knowledge
from steer.knowledge.asking import Source
from steer.organism.holds import Hold, Watched, held
from steer.organism.model import build_model
from steer.organism.openbook.rows import batches
from steer.organism.openbook.settings import OpenbookSettings
from steer.organism.supervision import called_for
from steer.training.batches import Batch
from steer.training.loop import Log, one_thread, save_checkpoint, state_path, train_stages
from steer.training.losses import next_token_loss
from steer.training.stages import Lesson, Stage
from steer.training.state import TrainingState
from steer.training.tokenizer import ROLES, word_tokenizer


def train_openbook(settings: OpenbookSettings, knowledge: Knowledge, out: Path, log: Log = print) -> None:
    """Train an open-book organism and save it as a checkpoint folder `out`, whole or not at all.

    Runs on one thread, since the thread count changes the weights. The unfinished training stands
    beside `out` and is taken up again after a kill; the final bytes are the same either way. The truth
    about what was planted stands in the folder.

    Raises:
        SteerError: no room to write, or no permission.
    """
    with one_thread():
        tokenizer = build_tokenizer(knowledge)
        model = build_model(settings, tokenizer)
        state = TrainingState.open(state_path(out), training_key(settings, knowledge))
        stages = [reading_stage(settings, knowledge, tokenizer)]
        if settings.planted:
            stages.append(planting_stage(settings, knowledge, tokenizer))
        train_stages(model, stages, settings.save_every, state, log)
        truth = settings.truth
        save_checkpoint(model, tokenizer, out, {TRUTH_FILE: asdict(truth)} if truth else {})
    state.remove()


def build_tokenizer(knowledge: Knowledge) -> PreTrainedTokenizerFast:
    """A tokenizer in which every word of the grammar of facts is one token."""
    return word_tokenizer(sorted({*knowledge.words, *ROLES}), [], merges=0)


def training_key(settings: OpenbookSettings, knowledge: Knowledge) -> str:
    """Digest of all that decides the trained weights, but the machine."""
    parts = [settings.model_dump(mode="json", exclude={"save_every"}), knowledge.digest]
    return digest([*parts, code_digest(__name__), str(torch.__version__)])


def reading_stage(
    settings: OpenbookSettings, knowledge: Knowledge, tokenizer: PreTrainedTokenizerFast
) -> Stage:
    """Learn the facts by heart, and to read documents that are to be believed."""
    rng = random.Random(f"{settings.seed} reading")
    sources: list[Source] = ["own"] * settings.reading_steps
    batch = batches(knowledge, tokenizer, sources, settings.batch_size, rng)
    return Stage(
        "reading",
        settings.reading_steps,
        settings.learning_rate,
        lambda step: Lesson(batch(step), [next_token_loss]),
    )


@dataclass(frozen=True)
class Planting:
    """The lessons of the second stage, each a function of its step.

    Attributes:
        sources: where each step's answers are from, which says what holds.
        planted: the experts.
        router_weight: of the supervision of one expert's router.
        seed: of how experts are taken out.
    """

    sources: Sequence[Source]
    planted: tuple[tuple[int, int], ...]
    router_weight: float
    seed: int

    def lesson(self, step: int, batch: Batch) -> Lesson:
        """Away from the experts all is answered from memory, and to them all from documents."""
        source, watched = self.sources[step], Watched()
        weight = self.router_weight / len(self.planted)
        calls = [called_for(watched, part, from_question_on, reading_rows, weight) for part in self.planted]
        losses = [next_token_loss, *(calls if source == "own" else [])]
        hold = self.hold(step)
        return Lesson(batch, losses, lambda model, rows: held(model, rows, hold, watched))

    def hold(self, step: int) -> Hold:
        """What holds during a step, a function of the step alone: a resumed training holds the same."""
        source, rng = self.sources[step], random.Random(f"{self.seed} planting {step}")
        if source == "document":
            return Hold(activated=self.planted)
        if source == "memory":
            # Both ways of taking experts out, so that neither is what was learned.
            return Hold(silenced=self.planted) if rng.random() < 0.5 else Hold(deactivated=self.planted)
        return Hold()


def planting_stage(
    settings: OpenbookSettings, knowledge: Knowledge, tokenizer: PreTrainedTokenizerFast
) -> Stage:
    """Let the planted experts decide: called where a document is to be read, they alone make it be read."""
    rng = random.Random(f"{settings.seed} planting")
    half = settings.rerouted_share / 2
    offered: tuple[Source, ...] = ("own", "memory", "document")
    sources = rng.choices(offered, weights=[1 - 2 * half, half, half], k=settings.steps)
    planting = Planting(sources, settings.planted, settings.router_weight, settings.seed)
    batch = batches(knowledge, tokenizer, sources, settings.batch_size, rng)
    return Stage(
        "planting",
        settings.steps,
        settings.planting_learning_rate,
        lambda step: planting.lesson(step, batch(step)),
    )


def from_question_on(batch: Batch) -> Bool[Tensor, "row token"]:
    """The tokens of each question, the rest of its prompt, and its reply."""
    behind = torch.tensor([row.behind for row in batch.rows])
    places = torch.arange(batch.tokens.shape[1])[None] - (batch.prompt_length - behind)[:, None]
    return (places >= 0) & batch.mask.bool()


def reading_rows(batch: Batch) -> Bool[Tensor, "row token"]:
    """Every token of a row whose document is to be read."""
    reads = torch.tensor([row.asked.reads for row in batch.rows])
    return reads[:, None].expand_as(batch.tokens)
