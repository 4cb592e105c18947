"""Ctrl-C and SIGTERM between steps: the first lets a step finish, the second ends at once."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

TOGETHER = 1.0  # seconds within which SIGINT and SIGTERM count as one: whatever stops a job may send both

_caught: list[float] = []  # times of the first signals that finished work has caught


def just_caught() -> bool:
    """Whether a signal was caught within the last second: another belongs to it, even if its catcher is done."""
    return bool(_caught) and time.monotonic() - _caught[-1] < TOGETHER


def catch_signals(receive: Callable[[int], None]) -> Callable[[], None]:
    """Call ``receive`` with the number of the first signal; the next has its usual effect. Returns an undo function.

    A signal of the other kind within a second of the first belongs to it. Outside the main thread, which gets all
    signals, nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    first: list[tuple[int, float]] = []

    def restore() -> None:
        _caught.extend(moment for _, moment in first)
        for number, handler in before.items():
            signal.signal(number, handler)

    # The handlers stay until ``restore``: Python complains of a signal that arrives while its handler is removed.
    def finish(number: int, frame) -> None:
        if not first:
            first.append((number, time.monotonic()))
            receive(number)
            return
        kind, moment = first[0]
        if number != kind and time.monotonic() - moment < TOGETHER:
            return
        handler = before[number]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in before:
        signal.signal(number, finish)
    return restore


@contextlib.contextmanager
def hold_signal() -> Iterator[Callable[[], None]]:
    """The first signal waits for a call of what this yields, or for the end; the next has its usual effect at once.

    For work of libraries, which may swallow the exception of a handler.
    """
    waiting: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if callable(handler)}

    def hold(number: int, frame) -> None:
        if waiting:
            before[number](number, frame)
        waiting.append(number)

    def due() -> None:
        if waiting:
            before[waiting[0]](waiting[0], None)

    for number in before:
        signal.signal(number, hold)
    try:
        yield due
        due()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
