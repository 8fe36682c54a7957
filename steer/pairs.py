"""Pairs out of the rows of a source: the same prompt refused and answered, or with and without its document.

Source: SteerMoE (arXiv 2509.09660, section 3): detection counts tokens of a target on both sides of a pair.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

from steer.artifacts.files import Row, iter_jsonl
from steer.config import SetSettings
from steer.errors import SteerError
from steer.formats import records
from steer.grammar.sets import prompt_id
from steer.texts import check_text

Refusals = Callable[[str], str | None]
PHRASES = "steer.judges.phrases"
TURNS = ("user", "assistant")


def refusals_of(path: Path) -> Refusals:
    """The refusal of a prompt, by its text: None for one that has none.

    From a text file, one of its sentences, chosen by the prompt's id. From a file of replies
    (`generation/<set>.jsonl`), the model's own reply without an arm, where it is a refusal by its phrases.

    Raises:
        SteerError: the file is missing, holds no refusal, or is no file of replies.
    """
    if not path.is_file():
        raise SteerError(str(path), "no such file", "name a text file of sentences, or one of replies")
    if path.suffix == ".jsonl":
        own = _own(path)
        return lambda text: own.get(prompt_id(text))
    sentences = [row[""].strip() for row in records(path, "txt")]
    if not sentences:
        raise SteerError(str(path), "holds no sentence", "give it one a line")
    return lambda text: sentences[int(prompt_id(text), 16) % len(sentences)]


def _own(path: Path) -> dict[str, str]:
    # Named, not imported: sets without own refusals must not depend on the list of phrases.
    phrases = importlib.import_module(PHRASES)
    # Of sampled replies the first alone, so that which one stands is no matter of their order.
    rows = [row for row in iter_jsonl(path) if row.get("arm") == "baseline" and not row.get("sample")]
    verdicts = phrases.PhraseMatching().judge([phrases.Exchange("", str(row["text"])) for row in rows])
    found = {
        str(row["prompt_id"]): str(row["text"]).strip()
        for row, judged in zip(rows, verdicts, strict=True)
        if judged.verdict == "refusal" and str(row["text"]).strip()
    }
    if not found:
        raise SteerError(str(path), "holds no refusal of the arm `baseline`", "use fixed sentences")
    return found


def built(row: Row, settings: SetSettings, refusals: Refusals | None, where: str) -> Row | None:
    """The row with its `text`, `target`, `target_in` and `pair`; None for one that makes no pair.

    Both sides of a contrast keep the same prompts: what has no refusal, or no reply, is on neither.

    Raises:
        SteerError: the source has no column for what the pair is made of.
    """
    if settings.document is not None:
        return _with_document(row, settings, where)
    if settings.target not in ("refusal", "compliance") or refusals is None:
        return row
    refusal, reply = refusals(row["text"]), row.get("reply")
    if not isinstance(reply, str):
        raise SteerError(where, "has no `reply` to pair a refusal with", "use a source with replies")
    if refusal is None or not reply.strip():
        return None
    target = refusal if settings.target == "refusal" else reply.strip()
    return {**row, "pair": prompt_id(row["text"]), "target": target, "target_in": "reply"}


def _with_document(row: Row, settings: SetSettings, where: str) -> Row:
    question, document = row["text"], row.get("document")
    if not isinstance(document, str) or not document.strip():
        raise SteerError(where, "has no `document`", "use a source with documents")
    if Path(settings.source).suffix:
        check_text(f"{document}\n{question}", where)
    asked = "\n".join(filter(None, [f"Question: {question}", settings.instruction]))
    with_it = settings.document == "with"
    return {
        **row,
        "text": f"Document: {document}\n{asked}" if with_it else asked,
        "pair": row.get("pair") or prompt_id(f"{document}\n{question}"),
        "target": question,
        "target_in": "prompt",
        **_answers(row, with_it=with_it),
    }


def _answers(row: Row, *, with_it: bool) -> Row:
    """What its document says is no answer to the question alone, unless it is known without it as well."""
    if "answers" not in row and "memory" not in row:
        return {}
    return {"answers": row.get("answers", []) if with_it else [], "memory": row.get("memory", [])}


def flattened(row: Row, where: str) -> Row:
    """A row of messages as one of text and target: the user's last turn, and the reply to it as the target.

    Turns ahead of these are kept under `before`.

    Raises:
        SteerError: the messages are other than turns of the user and the assistant, one after the other.
    """
    messages = row.get("messages")
    if messages is None:
        return row
    shaped = isinstance(messages, list) and all(isinstance(one, dict) for one in messages)
    roles = [one.get("role") for one in messages] if shaped else []
    if not roles or roles != [TURNS[place % 2] for place in range(len(roles))]:
        cause = f"has messages of {', '.join(map(str, roles)) or 'no role'}"
        fix = "give turns of `user` and `assistant` by turns; system turns are settings of the model"
        raise SteerError(where, cause, fix)
    said = [str(one.get("content") or "") for one in messages]
    reply = {"target": said.pop()} if len(said) % 2 == 0 else {}
    text, before = said[-1], said[:-1]
    for number, turn in enumerate(before, 1):
        if not turn.strip():
            raise SteerError(where, f"has no text in message {number}", "give it one, or remove it")
    earlier = {"before": before} if before else {}
    return {"pair": prompt_id("\n".join(said)), **reply, **row, "text": text, **earlier}
