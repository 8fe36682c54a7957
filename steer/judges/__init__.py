"""Judges: a prompt and a reply in, a verdict out."""
