"""A progress bar on standard error, if that is a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator

MIN_BYTES = 1 << 18  # fewer are read before a bar could show


@contextlib.contextmanager
def steps_bar(total: int, what: str, unit: str, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """A bar for ``total`` steps; it yields a function that adds steps, and does nothing without a terminal.

    unit : of the total, in a word
    quiet : show none
    yields : ``advance(steps, more=0, what=None)``; ``more`` steps are added to the total, ``what`` replaces the title
    """
    with contextlib.nullcontext() if quiet else _bar(total, what, f" {unit}", total > 999) as shown:

        def advance(steps: int, more: int = 0, what: str | None = None) -> None:
            if shown is not None:
                shown.total += more
                if what:
                    shown.set_description(what, refresh=False)
                shown.update(steps)

        yield advance


@contextlib.contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[int], None] | None]:
    """A bar for bytes; it yields a function that adds bytes.

    total : bytes
    what : the work, in a word or two
    yields : None without a terminal, or for fewer than MIN_BYTES
    """
    with _bar(total, what, "B", True) if total >= MIN_BYTES else contextlib.nullcontext() as shown:
        yield None if shown is None else shown.update


@contextlib.contextmanager
def _bar(total: int, what: str, unit: str, scaled: bool):
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, unit_scale=scaled, leave=False, dynamic_ncols=True) as shown:
        yield shown
