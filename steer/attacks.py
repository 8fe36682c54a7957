"""Attacks as transformations of prompts: published data that is fetched, none written or optimised here.

| kind | what its file holds | what becomes of a prompt |
|---|---|---|
| `template` | one text with gaps, `{{ prompt }}` or those in `gaps` | the text with the gaps filled |
| `suffix` | a suffix a line | the prompt, a space, and one of them, by its id |
| `rewritten` | prompts, and what they were rewritten into | that; those nobody rewrote are left out |

What goes into a gap: `prompt`; `masked`, the prompt with a mask in the place of its longest word, and
`length`, the letters of that word; or the name of a row, of the kind

| kind | what its file holds | what goes into the gap |
|---|---|---|
| `filling` | texts | one of them, by the id of the prompt |
| `letters` | the letters A to Z as pictures of equally many lines | the longest word, drawn with them |

Sources: a word drawn in letters behind a mask is ArtPrompt's (Jiang et al., arXiv 2402.11753, section 4),
which masks each word in turn; the longest stands for all here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steer.artifacts.files import Row
from steer.artifacts.provenance import file_digest
from steer.errors import SteerError
from steer.grammar.sets import content_of, prompt_id
from steer.overlap import normalised
from steer.sources import Source, read_records, read_source, with_parts
from steer.templates import read_template

MASK = "[MASK]"
"""What the published text calls the hidden word."""

INK, BETWEEN = "*", "|"
"""What letters are drawn with, which becomes the letter itself, and what stands between two of them."""

_WORD = re.compile(r"(?<![\w'’-])[A-Za-z]{2,}(?![\w'’-])")
Transform = Callable[[Row], str | None]
Gap = Callable[[Row], str]
Parts = Mapping[str, tuple[Source, Path]]
NO_PARTS: Parts = {}


def parts_of(source: Source, path: Path, table: Path) -> Parts:
    """The rows that fill gaps of an attack, and their files, which lie beside its own.

    Raises:
        SteerError: the table has no such row, or it fills no gap.
    """
    found = {part.name: part for part in with_parts(source.name, table)[1:]}
    for name, part in found.items():
        if part.kind not in ("filling", "letters"):
            raise SteerError(f"source `{name}`", f"fills no gap of `{source.name}`", "correct its `gaps`")
    here = {name for name, part in found.items() if part.origin == "here"}
    return {
        name: (part, Path(part.location) if name in here else path.with_name(name))
        for name, part in found.items()
    }


def attacked(rows: Sequence[Row], source: Source, path: Path, parts: Parts = NO_PARTS) -> Iterator[Row]:
    """The rows under an attack: their new text and id, `goal`, which is the old text, and `attack`.

    `attack` says what was done: name, kind, address, revision and SHA-256 of the file, and the id of the
    prompt before.

    Args:
        rows: rows of a prompt set, with `id` and `text`.
        source: the row of the attack in the table of sources.
        path: its file.
        parts: what fills its other gaps; see `parts_of`.

    Raises:
        SteerError: the file is not of the attack's kind, or a part of a prompt that is counted is not in
            the text any more.
    """
    transform = _transform(source, path, parts)
    known: Row = {"name": source.name, "kind": source.kind, "address": source.address}
    known |= {"revision": source.revision, "sha256": file_digest(path)}
    if parts:
        known["parts"] = {name: file_digest(file) for name, (_, file) in parts.items()}
    for row in rows:
        text = transform(row)
        if text is None:
            continue
        if row.get("target_in") == "prompt" and row["target"] not in text:
            cause = f"its target is not in its text under the attack `{source.name}`"
            raise SteerError(f"prompt `{row['id']}`", cause, "attack a set without targets")
        content = content_of(text, row.get("target"), row.get("before"))
        yield {
            **row,
            "id": prompt_id(content),
            "text": text,
            "goal": row["text"],
            "attack": {**known, "of": row["id"]},
        }


def rewritten(source: Source, path: Path) -> frozenset[str] | None:
    """The prompts, normalised, that an attack knows; None for one that takes any prompt."""
    return frozenset(_table(source, path)) if source.kind == "rewritten" else None


def _transform(source: Source, path: Path, parts: Parts) -> Transform:
    if source.kind == "template":
        return _template(source, path, parts)
    made: dict[str, Callable[[Source, Path], Transform]] = {"suffix": _suffix, "rewritten": _rewriting}
    if source.kind not in made:
        cause = f"is no attack: its kind is {source.kind}"
        raise SteerError(f"source `{source.name}`", cause, "`attack` is a template, suffix or rewritten")
    return made[source.kind](source, path)


def _texts(source: Source, path: Path) -> list[str]:
    return [row["text"] for row in read_source(path, source)]


def _template(source: Source, path: Path, parts: Parts) -> Transform:
    template = read_template(source, path)
    gaps = {gap: _gap(what, parts) for gap, what in (source.filled or {"prompt": "prompt"}).items()}
    hides = {"masked", "length"} & {*source.filled.values()}

    def transform(row: Row) -> str | None:
        if hides and hidden(row["text"]) is None:
            return None
        return template.filled({gap: value(row) for gap, value in gaps.items()})

    return transform


def _gap(what: str, parts: Parts) -> Gap:
    own: dict[str, Gap] = {
        "prompt": lambda row: str(row["text"]),
        "masked": lambda row: str(hidden(row["text"], MASK)),
        "length": lambda row: str(len(str(hidden(row["text"])))),
    }
    if what in own:
        return own[what]
    source, path = parts[what]
    if source.kind == "letters":
        alphabet = _alphabet(source, path)
        return lambda row: _drawn(str(hidden(row["text"])), alphabet)
    texts = _texts(source, path)
    if not texts:
        raise SteerError(str(path), "holds no text", f"correct the row `{source.name}`")
    return lambda row: texts[int(row["id"], 16) % len(texts)]


def hidden(prompt: str, mask: str | None = None) -> str | None:
    """The longest word of a prompt, the first of several; with a `mask`, the prompt with that in its place.

    None where no word is made of the letters A to Z alone.
    """
    words = list(_WORD.finditer(prompt))
    if not words:
        return None
    word = max(words, key=lambda found: len(found[0]))
    return word[0] if mask is None else prompt[: word.start()] + mask + prompt[word.end() :]


def _alphabet(source: Source, path: Path) -> dict[str, list[str]]:
    found = {str(row["name"]): row["value"] for row in read_records(path, source)}
    heights = {len(lines) if isinstance(lines, list) else 0 for lines in found.values()}
    lost = sorted({chr(code) for code in range(ord("A"), ord("Z") + 1)} - {*found})
    if lost or len(heights) != 1:
        cause = f"has no letter {lost[0]}" if lost else "holds letters of different heights"
        raise SteerError(str(path), cause, f"correct the row `{source.name}`")
    return found


def _drawn(word: str, alphabet: Mapping[str, list[str]]) -> str:
    letters = [[line.replace(INK, letter) for line in alphabet[letter.upper()]] for letter in word]
    return "\n".join(BETWEEN.join(lines) for lines in zip(*letters, strict=True))


def _suffix(source: Source, path: Path) -> Transform:
    texts = _texts(source, path)
    if not texts:
        raise SteerError(str(path), "holds no suffix", f"correct the row `{source.name}`")
    return lambda row: f"{row['text']} {texts[int(row['id'], 16) % len(texts)]}"


def _rewriting(source: Source, path: Path) -> Transform:
    table = _table(source, path)
    return lambda row: table.get(normalised(row["text"]))


def _table(source: Source, path: Path) -> dict[str, Any]:
    """What each prompt was rewritten into; an attack that gave up on a prompt holds no text for it."""
    rows = read_source(path, source, empty=True)
    return {normalised(row["goal"]): row["text"] for row in rows if row["text"]}
