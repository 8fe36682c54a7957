"""Stage `teacher`: what the dense model says to harmless prompts, and what it makes of every lesson.

Layers below the first with experts stay as they are, so what enters that layer is computed once for all
training steps and all variants; so is what leaves the last layer, which the replies are tied to.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steer.artifacts.files import atomic_path, write_jsonl
from steer.artifacts.tensors import write_tensors
from steer.grammar import Grammar
from steer.models.architectures import keep_layers
from steer.models.batching import by_length
from steer.models.hooks import first, hooked
from steer.models.sites import resolve
from steer.training.batches import Encoded, collate
from steer.training.loop import Log, one_thread
from steer.training.tokenizer import END, chat_text
from steer.upcycling.dense import check_layers, load_dense
from steer.upcycling.lessons import Lesson, draw_lessons
from steer.upcycling.settings import TeacherSettings
from steer.upcycling.taught import LESSONS, STATES

BATCH = 24


def teach(
    settings: TeacherSettings,
    file: Path,
    sets: Sequence[Path],
    grammar: Grammar,
    out: Path,
    record: Mapping[str, Any],
    log: Log = print,
) -> None:
    """Write the folder `out`: the lessons, and the states of the dense model on each.

    Args:
        settings: what the lessons are drawn from.
        file: the GGUF file of the dense model.
        sets: the files of the refused sets and then of the answered ones.
        grammar: wordings of refusals, questions and topics.
        out: the folder.
        record: its provenance.
        log: what is told.

    Raises:
        SteerError: an input is missing or of another kind, or the disk is full.
    """
    with one_thread(), torch.inference_mode():
        model, tokenizer = load_dense(file)
        check_layers(model, settings.first_layer, file)
        lessons = draw_lessons(settings, sets, grammar)
        log(f"answering {sum(not lesson.harmful for lesson in lessons)} harmless prompts")
        rows = _encoded(model, tokenizer, lessons, settings.reply_tokens)
        log(f"reading {len(rows)} lessons of {sum(len(row.tokens) for row in rows)} tokens")
        states = _states(model, rows, settings.first_layer)
        with atomic_path(out) as partial:
            partial.mkdir()
            write_jsonl(partial / LESSONS, map(_row, rows))
            write_tensors(partial / STATES, states, model=settings.base, provenance=record)


def _row(row: Encoded) -> dict[str, Any]:
    kept = {"harmful": row.harmful, "prompt_length": row.prompt_length, "tokens": row.tokens}
    return {"prompt": row.row.prompt, "reply": row.row.reply, **kept}


def _encoded(model: Any, tokenizer: Any, lessons: Sequence[Lesson], limit: int) -> list[Encoded]:
    """Token ids of every lesson, a harmless one with the model's own reply, of at most `limit` tokens."""
    prompts = [tokenizer.encode(chat_text(lesson.prompt), add_special_tokens=False) for lesson in lessons]
    replies = [
        tokenizer.encode(lesson.reply + END, add_special_tokens=False) if lesson.harmful else []
        for lesson in lessons
    ]
    open_rows = [at for at, lesson in enumerate(lessons) if not lesson.harmful]
    for batch in by_length([len(prompts[at]) for at in open_rows], [""] * len(open_rows), BATCH):
        rows = [open_rows[at] for at in batch]
        for at, reply in zip(
            rows, _answers(model, tokenizer, [prompts[at] for at in rows], limit), strict=True
        ):
            replies[at] = reply
    return [
        Encoded(
            Lesson(lesson.prompt, lesson.harmful, tokenizer.decode(reply, skip_special_tokens=True)),
            prompt + reply,
            [0.0] * len(prompt) + [1.0] * len(reply),
            len(prompt),
            lesson.harmful,
        )
        for lesson, prompt, reply in zip(lessons, prompts, replies, strict=True)
    ]


def _answers(model: Any, tokenizer: Any, prompts: Sequence[list[int]], limit: int) -> list[list[int]]:
    """Greedy replies, each with the token that ends it if it came to that."""
    inputs = tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
    made = model.generate(
        **inputs, max_new_tokens=limit, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    width, end = inputs["input_ids"].shape[1], int(tokenizer.eos_token_id)
    replies = [row[width:].tolist() for row in made]
    return [reply[: reply.index(end) + 1] if end in reply else reply for reply in replies]


def _states(model: Any, rows: Sequence[Encoded], first_layer: int) -> dict[str, Tensor]:
    """What enters `first_layer` at every token, and leaves the last one where a reply is kept."""
    entering: list[Tensor] = [torch.empty(0)] * len(rows)
    leaving: dict[int, Tensor] = {}
    layer = resolve(model).layers[first_layer - 1].layer
    kept = [at for at, row in enumerate(rows) if not row.harmful]
    for batch, entered, left in _runs(model, layer, rows, kept):
        for place, at in enumerate(batch):
            entering[at] = entered[place, : len(rows[at].tokens)]
            leaving[at] = left[place, rows[at].prompt_length - 1 : len(rows[at].tokens) - 1]
    # Of a refusal nothing is kept, so the layers above need not run.
    keep_layers(model, slice(first_layer))
    for batch, entered, _ in _runs(model, layer, rows, [at for at, row in enumerate(rows) if row.harmful]):
        for place, at in enumerate(batch):
            entering[at] = entered[place, : len(rows[at].tokens)]
    return {"entering": torch.cat(entering), "leaving": torch.cat([leaving[at] for at in kept])}


def _runs(
    model: Any, layer: nn.Module, rows: Sequence[Encoded], chosen: Sequence[int]
) -> Iterator[tuple[list[int], Float[Tensor, "row token d"], Float[Tensor, "row token d"]]]:
    """Rows in batches, with what leaves `layer` and what leaves the model."""
    seen: list[Tensor] = []
    lengths = [len(rows[at].tokens) for at in chosen]
    for batch in by_length(lengths, [""] * len(chosen), BATCH):
        numbers = [chosen[at] for at in batch]
        tokens = collate([rows[at] for at in numbers], pad=0).tokens
        # Padding stands behind the rows, where no token of theirs can see it.
        with hooked([(layer, "after", lambda _module, _args, output: seen.append(first(output)))]):
            left = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        yield numbers, seen.pop(), left
