"""The grammar of the embedded model: its prompts, its replies, and the exact reading of a reply."""

from steer.grammar.grammar import Grammar
from steer.grammar.reading import Reading
from steer.grammar.tables import SPLITS, Label, Split

__all__ = ["SPLITS", "Grammar", "Label", "Reading", "Split"]
