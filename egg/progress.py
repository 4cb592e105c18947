"""What a person sees while a run goes on: a live view on a terminal, a line now and then elsewhere."""

import os
import sys
import time
from dataclasses import dataclass

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0


@dataclass(frozen=True)
class Status:
    """Where a run stands."""

    step: int
    tokens: int
    train: float  # integer bits per byte, smoothed
    validation: float | None  # bits per byte, as last measured
    best: float | None
    speed: float | None  # tokens a second, None while it is unknown
    done: float  # share of the way to the stop, 0 to 1
    seconds_left: float | None
    changed: float | None = None  # share of the weights that the last step changed
    clipped: float | None = None  # share of the weights at +-127
    step_size: float | None = None  # in int8 steps (recipe egg)


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
        if not self.moving:
            print(" | ".join(_parts(status)), file=self.stream, flush=True)
            return
        if self._live is None:
            from egg.live import Live

            self._live = Live(self.stream)
        self._live.show(status)

    def note(self, line: str) -> None:
        """Print a line without disturbing the view."""
        if self._live is None:
            print(line, file=self.stream, flush=True)
        else:
            self._live.note(line)

    def close(self) -> None:
        """End the view; its last figures stay."""
        if self._live is not None:
            self._live.close()
            self._live = None


def _parts(status: Status) -> list[str]:
    parts = [f"step {status.step:,}", f"{count(status.tokens)} tokens", f"train {status.train:.3f}"]
    if status.validation is not None:
        parts.append(f"validation {status.validation:.3f} (best {status.best:.3f})")
    if status.speed is not None:
        parts.append(f"{count(status.speed)}/s")
    if status.seconds_left is not None:
        parts.append(f"{duration(status.seconds_left)} left")
    return parts


def count(number: float) -> str:
    """A number in three digits and a letter: 45.3M."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        value = number / unit
        if value >= 0.9995:
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{letter}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """A time in minutes and seconds, or hours, or days: 1:07, 2:03:04, 3d 04h."""
    if not 0 <= seconds < 1e9:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
