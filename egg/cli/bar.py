"""A bar on standard error for work that takes a while, where a person looks at it."""

import contextlib
import sys
from collections.abc import Callable, Iterator

LONG = 1 << 18  # bytes: less is read before a bar could be


@contextlib.contextmanager
def steps_bar(total: int, what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """A bar that goes up by as many of ``total`` as its value is called with; silent where nobody looks.

    unit : of the total, in a word
    """
    with _bar(total, what, f" {unit}", total > 999) as shown:
        yield shown or (lambda done: None)


@contextlib.contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[int], None] | None]:
    """A bar that goes up by as many bytes as its value is called with.

    total : bytes of the whole
    what : is being done, in a word or two
    yields : None where nobody looks, or where there is little to do
    """
    with _bar(total, what, "B", True) if total >= LONG else contextlib.nullcontext() as shown:
        yield shown


@contextlib.contextmanager
def _bar(total: int, what: str, unit: str, scaled: bool) -> Iterator[Callable[[int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, unit_scale=scaled, leave=False, dynamic_ncols=True) as shown:
        yield shown.update
