"""The grammar of facts: what is known by heart, and documents that agree with it, contradict or lack it."""

from steer.knowledge.asking import KINDS, Asked, Kind
from steer.knowledge.knowledge import Knowledge

__all__ = ["KINDS", "Asked", "Kind", "Knowledge"]
