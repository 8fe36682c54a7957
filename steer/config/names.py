"""The name that a misspelt one was meant to be."""

import difflib


def nearest(key: str, known: list[str]) -> str:
    """A hint: the known name nearest to `key`, or all of them."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(f'`{name}`' for name in known)}"
