"""Stage `questions`: questions about held-out facts, each with a document of a kind, as a file of prompts."""

import logging
from pathlib import Path

from steer.artifacts.files import write_jsonl
from steer.artifacts.origin import attach
from steer.artifacts.provenance import provenance
from steer.knowledge import Kind, Knowledge

log = logging.getLogger(__name__)


def write_questions(kind: Kind, seed: int, knowledge: Knowledge, out: Path) -> None:
    """Write rows of `text` (the question), `document`, `category`, `answers` and `memory`.

    Args:
        kind: what the documents are: contradicting memory (`counterfactual`), `agreeing` with it, without
            the answer (`unanswerable`), or contradicting it as `hearsay`.
        seed: decides what the documents say.
        knowledge: the grammar of facts.
        out: the JSONL file.
    """
    rows = list(knowledge.rows(kind, seed))
    write_jsonl(out, rows)
    attach(out, provenance(__name__, {"kind": kind}, {"knowledge": knowledge.digest}, seed))
    log.info("%s: %d questions about %d facts", kind, len(rows), len(knowledge.held_out))
