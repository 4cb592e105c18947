"""Where a process of the command line begins: from here on Ctrl-C and SIGTERM end it in one line.

Imports as little as there is: what takes time is imported when the signals are taken care of.
"""

import os
import signal
import sys
import time

TOGETHER = 1.0  # seconds in which signals are one: who stops a process may send several
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_begun: list[int] = []  # the signals that this process takes care of
_ending: list[int] = []
_first: list[float] = []  # when the first one came that was raised


class Terminated(KeyboardInterrupt):
    """SIGTERM; what cleans up after Ctrl-C cleans up after it too."""


def main(command: str | None = None, prog: str = "egg") -> int:
    """Run the command line of this process, and return the exit status.

    command : the command that the arguments are of; None: the first argument says
    prog : how the user called it
    """
    for number in WORDS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell has it for a job in the background
            signal.signal(number, _end_at_once)
            _begun.append(number)
    from egg.cli import main as table

    try:
        return table.run(command, sys.argv[1:], prog=prog) if command else table.main()
    finally:
        for number in _begun:  # all is done, and Python's own end is none of the user's business
            signal.signal(number, signal.SIG_IGN)


def ready() -> None:
    """From now on a signal is an exception, for there is something to clean up; called when all is imported."""
    for number in _begun:
        signal.signal(number, _raise)


def _end_at_once(number: int, frame) -> None:
    """Nothing is begun yet. An exception here would come in the middle of somebody's import, who may swallow it."""
    if _ending:  # a second signal comes between two operations of this handler
        return
    _ending.append(number)
    os.write(2, f"egg: {WORDS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame) -> None:
    training = sys.modules.get("egg.run.signals")  # which has ended on a signal just now
    if training and training.just_heard():
        return
    if not _first:
        _first.append(time.monotonic())
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
    if time.monotonic() - _first[0] > TOGETHER:  # it has not ended yet: it hangs
        _end_at_once(number, frame)
