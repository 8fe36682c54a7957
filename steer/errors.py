"""The one error that reaches a user: what failed, why, and what to do next."""


class SteerError(Exception):
    """A failure that the user can act on.

    The command line prints it as three lines and exits with status 1; any other
    exception is a bug and keeps its traceback.

    Args:
        what: the thing that failed, by its name (a file, a key, an arm, a source).
        cause: why it failed, with the value that was found.
        next_step: what the user can do about it.
    """

    def __init__(self, what: str, cause: str, next_step: str) -> None:
        super().__init__(what, cause, next_step)
        self.what = what
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what}: {self.cause}\n  next: {self.next_step}"
