"""Directions out of activation files: of refusal in the residual stream, and of every expert."""
