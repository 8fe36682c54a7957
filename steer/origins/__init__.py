"""Where public files come from; each origin is a function that writes the file to a path."""


class OriginError(Exception):
    """An origin did not give the file, and another try won't change that."""


class PassingError(OriginError):
    """An origin did not give the file, and may do so when tried again."""


class WrongBytesError(PassingError):
    """A whole file came, and it is not the pinned one."""
