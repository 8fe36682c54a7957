"""Texts with gaps, as others publish them, and what is put into the gaps."""

import re
from collections.abc import Mapping
from pathlib import Path

from steer.errors import SteerError
from steer.sources import Source, read_records, read_source

PROMPT_GAP = re.compile(r"\{\{\s*(prompt)\s*\}\}")


class Template:
    """A text with gaps.

    Args:
        text: the text.
        names: names of its gaps, which stand in it as `{name}`; none for `{{ prompt }}`.

    Raises:
        ValueError: a gap is not in the text.
    """

    def __init__(self, text: str, names: list[str]) -> None:
        self.text = text
        escaped = "|".join(map(re.escape, names))
        self._gap = re.compile(rf"\{{({escaped})\}}") if names else PROMPT_GAP
        lost = {*(names or ["prompt"])} - {*self._gap.findall(text)}
        if lost:
            raise ValueError(f"has no gap `{min(lost)}`")

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with a value in each gap; what a value looks like means nothing."""
        # A function, so that no backslash of a value is read as a reference.
        return self._gap.sub(lambda gap: values[gap[1]], self.text)


def read_template(source: Source, path: Path) -> Template:
    """The one template of a file.

    Raises:
        SteerError: the file holds none, several, or one without a gap that is to be filled.
    """
    texts = [row["text"] for row in read_source(path, source)]
    if source.kind == "judge":
        # To the character: a model that was trained behind a line feed expects one.
        texts = [str(row[source.text]) for row in read_records(path, source)]
    fix = f"correct the row `{source.name}`"
    if len(texts) != 1:
        raise SteerError(str(path), f"holds {len(texts)} templates instead of one", fix)
    try:
        return Template(texts[0], [*source.filled])
    except ValueError as error:
        raise SteerError(str(path), f"is not one template: it {error}", fix) from error
