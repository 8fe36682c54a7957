"""Stage `capability`: tasks of lm-evaluation-harness, run by the steered model."""
