"""The error of bad input."""

from collections.abc import Iterator
from contextlib import contextmanager


class EggError(Exception):
    """Bad input; its message is one line that names what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        # Messages of other libraries, quoted in ours, may hold line breaks.
        super().__init__(" ".join(str(message).split()))


@contextmanager
def telling(what: str, advice: str = "") -> Iterator[None]:
    """Turn an OSError of the body into an EggError: what could not be done, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise EggError(f"{what}: {error.strerror or error}{advice}") from error
