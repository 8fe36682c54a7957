"""Where public files come from; each origin is a function that writes the file to a path."""

import logging

PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a server that another try may better."""

NOISY = ("httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub")
"""Loggers whose lines hold signed addresses, and what servers echo of a request."""


def hush() -> None:
    """Keep signed addresses, and what servers echo, out of the log."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


class OriginError(Exception):
    """An origin did not give the file, and another try won't change that."""


class PassingError(OriginError):
    """An origin did not give the file, and may do so when tried again."""


class WrongBytesError(PassingError):
    """A whole file came, and it is not the pinned one."""
