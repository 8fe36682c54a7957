"""The embedded model: a small Mixture-of-Experts chat model that refuses, trained from scratch."""

from steer.organism.settings import OrganismSettings

__all__ = ["OrganismSettings"]
