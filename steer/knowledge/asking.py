"""Questions about a fact, with and without documents, and the answers that each source of truth gives."""

from dataclasses import dataclass
from typing import Literal, get_args

from steer.artifacts.answers import Answers

Kind = Literal["counterfactual", "agreeing", "unanswerable", "hearsay"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Source = Literal["own", "memory", "document"]
"""Where an answer is from: from what the document calls for, always memory, or always the document."""


@dataclass(frozen=True)
class Asked:
    """A question about one fact, perhaps with a document.

    Attributes:
        question: its text.
        relation: what is asked about.
        memory: the answer that is known by heart.
        document: text of the document; None where there is none.
        said: what the document says about it; None where it says nothing.
        hearsay: the document is one that is not to be believed.
        place: what it is asked of.
    """

    question: str
    relation: str
    memory: str
    document: str | None = None
    said: str | None = None
    hearsay: bool = False
    place: str = ""

    @property
    def prompt(self) -> str:
        """The user's turn, in the form that questions of public sets with documents are given, too."""
        asked = f"Question: {self.question}"
        return asked if self.document is None else f"Document: {self.document}\n{asked}"

    @property
    def reads(self) -> bool:
        """Whether the answer is to be taken from the document, or is to be that it has none."""
        return self.document is not None and not self.hearsay

    @property
    def answers(self) -> Answers:
        """The accepted answers, for scoring."""
        said = () if self.said is None else (self.said,)
        return Answers(said, (self.memory,))

    def answer(self, source: Source = "own") -> str | None:
        """The answer from a source; None for none.

        From the document a question without one has no answer, too.
        """
        return self.said if source == "document" or (source == "own" and self.reads) else self.memory
