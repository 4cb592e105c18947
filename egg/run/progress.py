"""The display of a running run: a live view on a terminal, a line now and then elsewhere."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from egg.run.status import Status, one_line
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
        self._sample = None  # that was shown last
        self._working = False  # whether its line stands there

    def due(self) -> bool:
        """Whether it is time to show a status."""
        return time.monotonic() >= self._next

    def show(self, status: Status) -> None:
        """Redraw the view, or print a line."""
        self._next = time.monotonic() + (REDRAW_SECONDS if self.moving else LINE_SECONDS)
        with self._losing():
            self._clear()
            if not self.moving:
                print(" | ".join(_parts(status)), file=self.stream, flush=True)
                if status.sample is not None and status.sample != self._sample:
                    self._sample = status.sample
                    print(f"sample: {one_line(status.sample)}", file=self.stream, flush=True)
                return
            if self._live is None:
                from egg.run.live import Live

                self._live = Live(self.stream)
            self._live.show(status)

    def working(self, line: str) -> None:
        """Show what goes on before the first status, in the place of the line before; elsewhere only now and then."""
        if not self.moving and not self.due():
            return
        self._next = time.monotonic() + LINE_SECONDS
        with self._losing():
            if self.moving:
                width = shutil.get_terminal_size().columns - 1
                print(f"\r{line[:width]}\x1b[K", end="", file=self.stream, flush=True)
            else:
                print(line, file=self.stream, flush=True)
        self._working = True

    def _clear(self) -> None:
        """Remove the line of ``working``."""
        if self._working:
            self._working, self._next = False, 0.0
            if self.moving:
                print("\r\x1b[K", end="", file=self.stream, flush=True)

    def note(self, line: str) -> None:
        """Print a line without disturbing the view."""
        with self._losing():
            self._clear()
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

    def result(self, line: str) -> None:
        """Print how a run ended: a line that stays where others are left out."""
        self.note(line)

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
    """Shows nothing, or the result alone.

    results : print results
    """

    def __init__(self, stream=None, *, results: bool = False):
        super().__init__(stream)
        self._results = results

    def due(self) -> bool:
        """Never."""
        return False

    def show(self, status: Status) -> None:
        """Show nothing."""

    def working(self, line: str) -> None:
        """Show nothing."""

    def note(self, line: str) -> None:
        """Print nothing."""

    def result(self, line: str) -> None:
        """Print the line, if results are printed."""
        if self._results:
            super().note(line)


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
