"""The error of bad input, and words of its messages."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

ELSEWHERE = {
    "lr": ("step_size",),
    "learning_rate": ("step_size",),
    "batch_size": ("streams",),
    "context_length": ("seq_len",),
    "block_size": ("seq_len",),
    "epochs": ("tokens",),
    "max_steps": ("steps",),
    "n_layers": ("num_layers",),
    "layers": ("num_layers",),
    "d_model": ("hidden_size",),
    "dim": ("hidden_size",),
    "max_new_tokens": ("length",),
    "max_tokens": ("length", "tokens"),
    "n": ("length", "count"),
    "num_samples": ("count",),
    "nucleus": ("top_p",),
    "corpus": ("data",),
    "dataset": ("data",),
    "output": ("out",),
    "workers": ("threads",),
    "num_threads": ("threads",),
    "population": ("population_size",),
    "lora": ("adapter",),
}
"""What other programs call a setting -> its names here, of which a command has one."""


class EggError(Exception):
    """Bad input; its message is one line that names what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        # Messages of other libraries, quoted in ours, may hold line breaks.
        super().__init__(" ".join(str(message).split()))


def perhaps(name: str, names: Iterable[str]) -> str:
    """The nearest of the names, as a question's end, or what other programs call so; empty where none is near."""
    names = list(names)
    nearest = [usual] if (usual := known_elsewhere(name, names)) else get_close_matches(name, names, 1)
    return f", perhaps {nearest[0]!r}" if nearest else ""


def known_elsewhere(name: str, names: Iterable[str]) -> str | None:
    """The one of the names that other programs call so; None if there is none.

    name : with hyphens or underscores, as a flag or not; so are the names
    """
    plain = {each.lstrip("-").replace("-", "_"): each for each in names}
    others = ELSEWHERE.get(name.lstrip("-").replace("-", "_").lower(), ())
    return next((plain[other] for other in others if other in plain), None)


@contextmanager
def telling(what: str, advice: str = "") -> Iterator[None]:
    """Turn an OSError of the body into an EggError: what could not be done, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise EggError(f"{what}: {error.strerror or error}{advice}") from error
