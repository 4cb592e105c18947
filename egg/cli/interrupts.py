"""Ctrl-C and SIGTERM end a process of the command line in one line, from its beginning to its end."""

import os
import signal
import time

from egg.run.signals import TOGETHER, just_caught

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_begun: list[int] = []  # the signals that this process takes care of
_ending: list[int] = []
_first: list[float] = []  # when the first one came that was raised


class Terminated(KeyboardInterrupt):
    """SIGTERM; what cleans up after Ctrl-C cleans up after it too."""


def begin() -> None:
    """Take care of the signals, but for one that is ignored, as a shell has it for a job in the background."""
    for number in WORDS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end_at_once)
            _begun.append(number)


def ready() -> None:
    """From now on a signal is an exception, for there is something to clean up; called when all is imported."""
    for number in _begun:
        signal.signal(number, _raise)


def end() -> None:
    """All is done: Python's own end is none of the user's business."""
    for number in _begun:
        signal.signal(number, signal.SIG_IGN)


def _end_at_once(number: int, frame) -> None:
    """Nothing is begun yet. An exception here would come in the middle of somebody's import, who may swallow it."""
    if _ending:  # a second signal comes between two operations of this handler
        return
    _ending.append(number)
    os.write(2, f"egg: {WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame) -> None:
    if just_caught():  # training has ended on a signal just now
        return
    if not _first:
        _first.append(time.monotonic())
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
    if time.monotonic() - _first[0] > TOGETHER:  # it has not ended yet: it hangs
        _end_at_once(number, frame)
