"""Ctrl-C and SIGTERM between steps: the first lets a step finish, the second ends at once."""

import signal
import threading
from collections.abc import Callable


def catch_signals(heard: Callable[[int], None]) -> Callable[[], None]:
    """Tell ``heard`` the number of the first signal, and let the next do what it did before; returns what undoes this.

    In another thread than the main one, where no signal is heard, nothing is caught.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def finish(number: int, frame) -> None:
        heard(number)
        restore()

    for number in before:
        signal.signal(number, finish)
    return restore
