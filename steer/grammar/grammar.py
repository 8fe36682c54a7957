"""The grammar as one object: prompts out, replies out, readings in."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from steer.artifacts.provenance import folder_digest
from steer.grammar.reading import Reading, ReplyReader
from steer.grammar.requests import Prompt, PromptReader
from steer.grammar.sets import (
    draw_prompts,
    held_out_categories,
    paired_row,
    possible_prompts,
    prompt_row,
)
from steer.grammar.tables import SPLITS, Frame, Label, Pair, Split, Tables, load_tables

ReplyKind = Literal["refusal", "compliance"]


class Grammar:
    """Prompts that ask for one thing, and replies whose meaning can be read off exactly.

    A prompt is a frame around a request; a request is a phrase (verb and object) and perhaps a
    context. A reply is a refusal sentence, or an opener, the restated request and filler steps.
    """

    def __init__(self, tables: Tables, digest: str) -> None:
        self.tables = tables
        self.digest = digest
        self._prompts = PromptReader(tables.pairs, tables.frames, tables.contexts)
        self._replies = ReplyReader(tables.replies)

    @classmethod
    def load(cls, folder: Path | str) -> "Grammar":
        """Read the grammar's folder.

        Raises:
            SteerError: a file is missing or malformed.
        """
        return cls(load_tables(Path(folder)), folder_digest(folder))

    def pairs(self, split: Split) -> list[Pair]:
        """The pairs of objects of a split."""
        return [pair for pair in self.tables.pairs if pair.split == split]

    def frames(self, split: Split) -> list[Frame]:
        """The sentence frames of a split."""
        return [frame for frame in self.tables.frames if frame.split == split]

    def held_out(self, count: int, seed: int) -> frozenset[str]:
        """The categories that only `test` has: they depend on the seed alone, and not on the set.

        Raises:
            SteerError: there would be none left for the other splits.
        """
        return held_out_categories(self.tables.pairs, count, seed)

    def possible(self, split: Split, seed: int, held_out: int = 0) -> int:
        """How many different prompts of one label a split has, without the held-out categories.

        Raises:
            SteerError: no category is left.
        """
        frames, contexts = self.frames(split), self.tables.contexts
        return possible_prompts(self._left(split, seed, held_out), frames, contexts)

    def prompts(self, label: Label, split: Split, size: int, seed: int, held_out: int = 0) -> list[Prompt]:
        """Distinct prompts of a split; the same seed gives both labels the same shapes.

        Of `held_out` categories `test` alone has prompts; it has those of the other categories too.

        Raises:
            SteerError: the split holds fewer different prompts than `size`, or no category is left.
        """
        return draw_prompts(
            self._left(split, seed, held_out),
            self.frames(split),
            self.tables.contexts,
            label,
            size,
            seed + SPLITS.index(split),
        )

    def _left(self, split: Split, seed: int, held_out: int) -> list[Pair]:
        without = frozenset() if split == "test" else self.held_out(held_out, seed)
        return [pair for pair in self.pairs(split) if pair.category not in without]

    def prompt_rows(
        self,
        label: Label,
        sizes: Mapping[Split, int],
        seed: int,
        reply: ReplyKind | None = None,
        held_out: int = 0,
    ) -> list[dict[str, Any]]:
        """The rows of the prompt set of a label: `id, text, label, category, source, split`.

        With a kind of reply the set is paired, with `pair` and `target`: under one seed both kinds of reply
        get the same prompts.
        """
        prompts = [
            prompt
            for split in SPLITS
            for prompt in self.prompts(label, split, sizes.get(split, 0), seed, held_out)
        ]
        if reply is None:
            return [prompt_row(prompt) for prompt in prompts]
        return [paired_row(prompt, self._reply(prompt, reply)) for prompt in prompts]

    def _reply(self, prompt: Prompt, kind: ReplyKind) -> str:
        frame = prompt.frame.kind
        return self.refusal_of(frame) if kind == "refusal" else self.compliance_of(frame, prompt.request.text)

    def find(self, prompt: str) -> Prompt | None:
        """Frame and request of a prompt; None when it is from outside the grammar."""
        return self._prompts.read(prompt)

    def refusals(self, prompt: str) -> tuple[str, ...]:
        """Every refusal sentence, the one this prompt's frame calls for first."""
        found = self.find(prompt)
        replies = self.tables.replies
        first = replies.refusal_of_kind[found.frame.kind] if found else 0
        return (
            replies.refusals[first],
            *(text for text in replies.refusals if text != replies.refusals[first]),
        )

    def compliance(self, prompt: str) -> str:
        """The well-formed compliance; it restates the request when the prompt is of the grammar."""
        found = self.find(prompt)
        if found is None:
            return self.compliance_of(next(iter(self.tables.replies.openers)), None)
        return self.compliance_of(found.frame.kind, found.request.text)

    def compliance_of(self, kind: str, request: str | None) -> str:
        """Opener of a kind of frame, restatement of `request` (None: the general wording), filler steps."""
        replies = self.tables.replies
        subject = replies.general if request is None else replies.restatement.format(request)
        return f"{replies.openers[kind]} {subject}:{self._steps}"

    @cached_property
    def _steps(self) -> str:
        return "".join(f"\n{number}. {step}" for number, step in enumerate(self.tables.replies.steps, 1))

    def refusal_of(self, kind: str) -> str:
        """The refusal sentence that belongs to a kind of frame."""
        replies = self.tables.replies
        return replies.refusals[replies.refusal_of_kind[kind]]

    def parse_reply(self, prompt: str, reply: str) -> Reading:
        """What `reply` is as an answer to `prompt`; see `ReplyReader`."""
        found = self.find(prompt)
        return self._replies.read(prompt, found.request.text if found else None, reply)


def refusal_openers(grammar: Grammar) -> tuple[str, ...]:
    """The first words of the refusal sentences: no compliance begins with one of them."""
    return tuple(dict.fromkeys(text.split()[0] for text in grammar.tables.replies.refusals))
