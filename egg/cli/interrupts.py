"""Ctrl-C and SIGTERM: a process of the command line prints one line and ends, at any moment of its life."""

import os
import signal
import time

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_handled: list[int] = []  # signals that this process handles
_ending: list[int] = []  # the signal that ends the process
_raised_at: list[float] = []  # when the first signal was raised


class Terminated(KeyboardInterrupt):
    """SIGTERM; a subclass, so that clean-up after Ctrl-C applies to it too."""


def begin() -> None:
    """Handle the signals, except ignored ones: a shell ignores Ctrl-C for a job in the background."""
    for number in WORDS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end_at_once)
            _handled.append(number)


def ready() -> None:
    """From now on a signal raises an exception, so that work is cleaned up; called after the imports."""
    import egg.run.signals  # noqa: F401, which the handler needs

    for number in _handled:
        signal.signal(number, _raise)


def end() -> None:
    """Ignore the signals while Python exits: the work is done."""
    for number in _handled:
        signal.signal(number, signal.SIG_IGN)


def _end_at_once(number: int, frame) -> None:
    """End before any work has begun: an exception could be swallowed by the import that it interrupts."""
    if _ending:  # a second signal interrupts this handler
        return
    _ending.append(number)
    os.write(2, f"egg: {WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame) -> None:
    from egg.run.signals import TOGETHER, just_caught

    if just_caught():  # training has ended on a signal just now
        return
    if not _raised_at:
        _raised_at.append(time.monotonic())
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
    if time.monotonic() - _raised_at[0] > TOGETHER:  # the clean-up hangs
        _end_at_once(number, frame)
