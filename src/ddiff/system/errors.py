"""Errors that a user can cause. The command line prints only the message, in one line."""


class DdiffError(Exception):
    """Something in the user's world went wrong: a missing file, a full disk. Exit status 1."""

    exit_status = 1


class ConfigError(DdiffError):
    """The command or the config asks for something that cannot be. Exit status 2."""

    exit_status = 2


class Stopped(DdiffError):
    """A signal ended the work, with everything saved. A sweep ends too."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + signum


class KernelError(DdiffError):
    """A native kernel cannot be built or run here: a compiler or a GPU is missing, or fails."""


LONGEST = 400  # letters of a list of choices in a message


def nearest(word: str, choices: list[str]) -> str:
    """'; did you mean X?' where a choice is close, else the choices where they are few."""
    import difflib

    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    every = ", ".join(sorted(choices))
    if len(every) > LONGEST:
        return "; --help lists them all"
    return f"; choose from {every}" if choices else ""
