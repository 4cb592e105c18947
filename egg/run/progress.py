"""The display of a running run: a live view on a terminal, a line now and then elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from egg.run.status import Status
from egg.view.figures import count, duration

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0


class Progress:
    """Shows statuses; cheap to call at every step."""

    def __init__(self, stream=None):
        self.stream = sys.stdout if stream is None else stream
        self.moving = self.stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self._next = 0.0
        self._live = None

    def due(self) -> bool:
        """Whether it is time to show a status."""
        return time.monotonic() >= self._next

    def show(self, status: Status) -> None:
        """Redraw the view, or print a line."""
        self._next = time.monotonic() + (REDRAW_SECONDS if self.moving else LINE_SECONDS)
        with self._losing():
            if not self.moving:
                print(" | ".join(_parts(status)), file=self.stream, flush=True)
                return
            if self._live is None:
                from egg.run.live import Live

                self._live = Live(self.stream)
            self._live.show(status)

    def note(self, line: str) -> None:
        """Print a line without disturbing the view."""
        with self._losing():
            try:
                self._note(line)
            except UnicodeEncodeError:  # a name that the stream's encoding has not
                encoding = getattr(self.stream, "encoding", None) or "utf-8"
                self._note(line.encode(encoding, "backslashreplace").decode(encoding))

    def _note(self, line: str) -> None:
        if self._live is None:
            print(line, file=self.stream, flush=True)
        else:
            self._live.note(line)

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Lose what cannot be shown: a closed pipe or a full disk is no reason to end a run."""
        try:
            yield
        except OSError:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, it stays open
            if self.stream is sys.stdout:  # which the interpreter flushes when it exits
                os.dup2(nowhere.fileno(), sys.__stdout__.fileno())
            self.stream, self.moving, self._live = nowhere, False, None

    def close(self) -> None:
        """End the view; its last figures stay."""
        if self._live is not None:
            with self._losing():
                self._live.close()
            self._live = None


class Quiet(Progress):
    """Shows nothing."""

    def due(self) -> bool:
        """Never."""
        return False

    def show(self, status: Status) -> None:
        """Show nothing."""

    def note(self, line: str) -> None:
        """Print nothing."""


def _parts(status: Status) -> list[str]:
    parts = [f"step {status.step:,}", f"{count(status.tokens)} tokens", f"train {status.train:.3f}"]
    if status.validation is not None:
        of_parts = "".join(f", {name} {bits:.3f}" for name, bits in status.parts.items())
        parts.append(f"{status.measured_on} {status.validation:.3f} (best {status.best:.3f}{of_parts})")
    if status.speed is not None:
        parts.append(f"{count(status.speed)}/s")
    if status.seconds_left is not None:
        parts.append(f"{duration(status.seconds_left)} left")
    return parts
