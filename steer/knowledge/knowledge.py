"""The grammar of facts as one object: facts by heart, questions about them, and documents."""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import Any

from steer.artifacts.provenance import folder_digest
from steer.knowledge.asking import Asked, Kind, Source
from steer.knowledge.tables import Frame, FrameKind, FrameSplit, Tables, load_tables

Fact = tuple[str, str]
"""A place and a relation."""

HELD_OUT_SHARE = 0.4
"""Of the facts: a model has learned them by heart, and was never asked about them with a document."""

OTHERS = (1, 2)
"""Further facts that a document holds, fewest and most."""


class Knowledge:
    """Facts about invented places, each with one value that is true by heart."""

    def __init__(self, tables: Tables, digest: str) -> None:
        self.tables = tables
        self.digest = digest
        self.facts: tuple[Fact, ...] = tuple(product(tables.places, tables.relations))

    @classmethod
    def load(cls, folder: Path | str) -> "Knowledge":
        """Read the folder of the grammar.

        Raises:
            SteerError: a file is missing or malformed.
        """
        return cls(load_tables(Path(folder)), folder_digest(folder))

    def value(self, fact: Fact) -> str:
        """The value that is true of a fact; it depends on the fact alone."""
        values = self.tables.relations[fact[1]]
        return values[_number(f"value of {fact[0]} {fact[1]}") % len(values)]

    @cached_property
    def held_out(self) -> tuple[Fact, ...]:
        """Facts that no question of the training with a document is about; it depends on each fact alone."""
        return tuple(
            fact for fact in self.facts if _number(f"split of {fact}") % 1000 < 1000 * HELD_OUT_SHARE
        )

    @cached_property
    def read_about(self) -> tuple[Fact, ...]:
        """The other facts."""
        held_out = {*self.held_out}
        return tuple(fact for fact in self.facts if fact not in held_out)

    def frames(self, kind: FrameKind, split: FrameSplit | None = None) -> list[Frame]:
        """The frames of a kind, of a split or of both."""
        return [one for one in self.tables.frames if one.kind == kind and split in (None, one.split)]

    def closed(self, fact: Fact, frame: Frame) -> Asked:
        """A question without a document."""
        place, relation = fact
        question = frame.text.format(relation=relation, place=place)
        return Asked(question, relation, self.value(fact), place=place)

    def open(self, fact: Fact, question: Frame, document: Frame, kind: Kind, rng: random.Random) -> Asked:
        """A question with a document of a kind, whose other content is drawn."""
        place, relation = fact
        asked = self.closed(fact, question)
        said = self._said(fact, kind, rng)
        text = document.text.format(list=_listed(said), place=place)
        return Asked(
            asked.question,
            relation,
            asked.memory,
            text,
            said.get(fact),
            hearsay=document.kind == "hearsay",
            place=place,
        )

    def listing(self, fact: Fact, document: Frame, rng: random.Random) -> Asked:
        """The question for all that a document says: whatever the source, its content is the answer.

        Besides the fact it says nothing of facts that are held out: here all is taken from the document.
        """
        said = self._said(fact, "counterfactual", rng, self.read_about)
        text = _listed(said)
        question = self.tables.listing.format(place=fact[0])
        document_text = document.text.format(list=text, place=fact[0])
        return Asked(question, "", text, document_text, text, hearsay=document.kind == "hearsay")

    def _said(
        self, fact: Fact, kind: Kind, rng: random.Random, among: Sequence[Fact] | None = None
    ) -> dict[Fact, str]:
        """What a document of a kind about a fact says, in its order; besides it only of the facts `among`."""
        place, relation = fact
        others = [(place, other) for other in self.tables.relations if other != relation]
        if among is not None:
            others = [one for one in others if one in among]
        listed = rng.sample(others, min(len(others), rng.randint(*OTHERS)))
        said: dict[Fact, str] = {
            one: self.value(one) if kind == "agreeing" else self._other_value(one, rng) for one in listed
        }
        if kind != "unanswerable":
            said[fact] = self.value(fact) if kind == "agreeing" else self._other_value(fact, rng)
        order = sorted(said)
        rng.shuffle(order)
        return {one: said[one] for one in order}

    def _other_value(self, fact: Fact, rng: random.Random) -> str:
        return rng.choice([value for value in self.tables.relations[fact[1]] if value != self.value(fact)])

    def questions(self, kind: Kind, seed: int) -> Iterator[Asked]:
        """Every question about every held-out fact, each with a document of a kind in an unseen frame."""
        rng = random.Random(f"{seed} {kind}")
        documents = self.frames("hearsay" if kind == "hearsay" else "document", "test")
        for fact, frame in product(self.held_out, self.frames("question")):
            yield self.open(fact, frame, rng.choice(documents), kind, rng)

    def rows(self, kind: Kind, seed: int) -> Iterator[dict[str, Any]]:
        """The questions as rows of a source with documents: `text, document, category, answers, memory`.

        The `pair` is the question: sets of any kinds, of equal sizes, have the same questions in each split.
        The `group` is the fact, whose questions all stand in one split.
        """
        for asked in self.questions(kind, seed):
            yield {
                "pair": asked.question,
                "group": f"{asked.relation} of {asked.place}",
                "text": asked.question,
                "document": asked.document,
                "category": asked.relation,
                "answers": [] if asked.said is None else [asked.said],
                "memory": [asked.memory],
            }

    def reply(self, asked: Asked, source: Source = "own") -> str:
        """The reply to a question, with its answer from a source."""
        answer = asked.answer(source)
        return self.tables.abstention if answer is None else self.tables.answer.format(answer)

    @cached_property
    def words(self) -> list[str]:
        """Each word of a prompt or reply as it stands there, with its blank ahead unless it opens a line."""
        tables = self.tables
        texts = [
            re.sub(r"\{\w*\}", " ", text)
            for text in (*(f.text for f in tables.frames), tables.answer, tables.listing)
        ]
        texts += [*tables.places, *tables.relations, *chain(*tables.relations.values()), tables.abstention]
        texts += ["Document: Question: the , and"]
        return sorted({f" {word}" for text in texts for word in text.split()} | {"Document:", "Question:"})


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def _listed(said: Mapping[Fact, str]) -> str:
    """What is said as an English list."""
    parts = [f"the {relation} {value}" for (_, relation), value in said.items()]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
