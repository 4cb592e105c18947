"""The error of bad input, and words of its messages."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class EggError(Exception):
    """Bad input; its message is one line that names what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        # Messages of other libraries, quoted in ours, may hold line breaks.
        super().__init__(" ".join(str(message).split()))


def perhaps(name: str, names: Iterable[str]) -> str:
    """The nearest of the names, as a question's end; empty where none is near."""
    nearest = get_close_matches(name, list(names), 1)
    return f", perhaps {nearest[0]!r}" if nearest else ""


@contextmanager
def telling(what: str, advice: str = "") -> Iterator[None]:
    """Turn an OSError of the body into an EggError: what could not be done, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise EggError(f"{what}: {error.strerror or error}{advice}") from error
