"""Reading and steering transformers models, whatever family they belong to."""
