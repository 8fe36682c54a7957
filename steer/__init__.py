"""Find where refusal lives in a Mixture-of-Experts chat model, and steer it."""

__version__ = "0.1.0"
