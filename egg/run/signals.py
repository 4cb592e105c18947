"""Ctrl-C and SIGTERM between steps: the first lets a step finish, the second ends at once."""

import os
import signal
import threading
import time
from collections.abc import Callable

TOGETHER = 1.0  # seconds in which SIGINT and SIGTERM are one: who stops a job may send both

_heard: list[float] = []  # when the first signal came to what is done since


def just_heard() -> bool:
    """Whether a signal has been caught within a second: another belongs to it, also when what caught it is done."""
    return bool(_heard) and time.monotonic() - _heard[-1] < TOGETHER


def catch_signals(heard: Callable[[int], None]) -> Callable[[], None]:
    """Tell ``heard`` the number of the first signal, and let the next do what it did before; returns what undoes this.

    A signal of the other kind within a second of the first belongs to it. In another thread than the main one, where
    no signal is heard, nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    first: list[tuple[int, float]] = []

    def restore() -> None:
        _heard.extend(moment for _, moment in first)
        for number, handler in before.items():
            signal.signal(number, handler)

    # The handlers stay until ``restore``: Python complains of a signal that comes while its handler is taken away.
    def finish(number: int, frame) -> None:
        if not first:
            first.append((number, time.monotonic()))
            heard(number)
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
