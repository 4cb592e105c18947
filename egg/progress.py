"""What a person sees while a run goes on: one moving line on a terminal, a line now and then elsewhere."""

import shutil
import sys
import time
from dataclasses import dataclass

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0
FRAME = len("100%|###| ") + 1  # of the moving line, about its figures


@dataclass(frozen=True)
class Status:
    """Where a run stands."""

    step: int
    member_tokens: int
    train: float  # integer bits per byte, smoothed
    validation: float | None  # bits per byte, as last measured
    best: float | None
    speed: float | None  # member-tokens a second, None while it is unknown
    done: float  # share of the way to the stop, 0 to 1
    seconds_left: float | None


class Progress:
    """Shows statuses; cheap to call at every step."""

    def __init__(self, stream=None):
        self.stream = sys.stdout if stream is None else stream
        self.moving = self.stream.isatty()
        self._next = 0.0
        self._bar = None

    def due(self) -> bool:
        """Whether it is time to show a status."""
        return time.monotonic() >= self._next

    def show(self, status: Status) -> None:
        """Redraw the line, or print one."""
        self._next = time.monotonic() + (REDRAW_SECONDS if self.moving else LINE_SECONDS)
        if not self.moving:
            print(" | ".join(_parts(status, long=True)), file=self.stream, flush=True)
            return
        width = shutil.get_terminal_size().columns
        if self._bar is None:
            from tqdm import tqdm

            layout = "{percentage:3.0f}%|{bar}| {desc}"
            self._bar = tqdm(total=1000, file=self.stream, bar_format=layout, mininterval=0)
        parts = _parts(status, long=width >= 110)
        while len(parts) > 1 and len(" ".join(parts)) > width - FRAME:
            parts.pop(1)  # a narrow terminal keeps the step, and the end of the line
        self._bar.ncols = width - 1  # in the last column some terminals begin a new line
        self._bar.n = round(1000 * status.done)
        self._bar.set_description_str(" ".join(parts), refresh=False)
        self._bar.refresh()

    def note(self, line: str) -> None:
        """Print a line without disturbing the moving one."""
        if self._bar is None:
            print(line, file=self.stream, flush=True)
        else:
            self._bar.write(line, file=self.stream)

    def close(self) -> None:
        """End the moving line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _parts(status: Status, *, long: bool) -> list[str]:
    parts = [
        f"step {status.step:,}" if long else f"{status.step:,}",
        f"{count(status.member_tokens)} member-tokens" if long else count(status.member_tokens),
        f"train {status.train:.3f}" if long else f"train {status.train:.2f}",
    ]
    if status.validation is not None:
        measured = f"{status.validation:.3f} (best {status.best:.3f})"
        parts.append(f"validation {measured}" if long else f"val {measured}")
    if status.speed is not None:
        parts.append(f"{count(status.speed)}/s")
    if status.seconds_left is not None:
        left = duration(status.seconds_left)
        parts.append(f"{left} left" if long else left)
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
