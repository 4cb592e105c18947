"""The live view of a run on a terminal, redrawn in place, as wide as the window."""

import shutil

from egg.run.status import Status, one_line
from egg.view.figures import count, duration

BLOCKS = "▁▂▃▄▅▆▇█"
MAX_POINTS = 512  # of the curve; beyond them every other point is dropped
SAMPLE_ROWS = 3  # of the sample, the last thing that is shown
LABEL, VALUE, GAP = 18, 13, 2  # columns of a figure's name, of the figure, and after it


class Live:
    """A block of figures below what has been printed; ``note`` prints above it."""

    def __init__(self, stream):
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console(
            file=stream, force_terminal=True, highlight=False, emoji=False, markup=False, soft_wrap=True
        )
        self._live = RichLive(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._unicode = "utf" in (getattr(stream, "encoding", None) or "utf-8").lower()
        self._curve: list[float] = []
        self._every, self._shown = 1, 0  # the curve has one of every so many statuses

    def show(self, status: Status) -> None:
        """Redraw."""
        if self._shown % self._every == 0:
            self._curve.append(status.train)
            if len(self._curve) > MAX_POINTS:
                self._curve, self._every = self._curve[::2], 2 * self._every
        self._shown += 1
        # Some terminals begin a new line in the last column.
        width = shutil.get_terminal_size().columns - 1
        self._console.width = width
        if not self._live.is_started:
            self._live.start()
        self._live.update(self._view(status, width), refresh=True)

    def note(self, line: str) -> None:
        """Print above the figures."""
        self._console.print(line)

    def close(self) -> None:
        """Leave the last figures where they are."""
        if self._live.is_started:
            self._live.stop()

    def _view(self, status: Status, width: int):
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        lines = [self._bar(status, width)]
        figures = _figures(status)
        columns = max(1, min(3, (width + GAP) // (LABEL + VALUE + GAP)))
        grid = Table.grid()
        label = min(LABEL, max(8, width - VALUE - GAP))
        for _ in range(columns):
            grid.add_column(width=label, style="dim", no_wrap=True, overflow="ellipsis")
            grid.add_column(width=VALUE, justify="right", no_wrap=True, overflow="ellipsis")
            grid.add_column(width=GAP)
        for first in range(0, len(figures), columns):
            row = figures[first : first + columns]
            grid.add_row(*(cell for pair in row for cell in (*pair, "")))
        lines.append(grid)
        if self._unicode and len(self._curve) > 1:
            lines.append(Text(_curve(self._curve, width), style="cyan"))
        if status.sample is not None:
            text = one_line(status.sample)
            shown = text if self._unicode else text.encode("ascii", "replace").decode()
            lines += Text(shown, style="dim").wrap(self._console, width, overflow="fold")[:SAMPLE_ROWS]
        return Group(*lines)

    def _bar(self, status: Status, width: int):
        from rich.text import Text

        left = "" if status.seconds_left is None else f"  {duration(status.seconds_left)} left"
        tail = f" {100 * status.done:3.0f} %{left}"
        room = max(4, width - len(tail))
        full, empty = ("━", "─") if self._unicode else ("#", "-")
        done = int(room * min(1.0, status.done))
        return Text.assemble((full * done, "green"), (empty * (room - done), "dim"), (tail, "bold"))


def _figures(status: Status) -> list[tuple[str, str]]:
    """Names and figures, the most important first: a low window cuts off the end."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.2f} %"

    return [
        ("bits/byte, train", f"{status.train:.3f}"),
        (status.measured_on, "-" if status.validation is None else f"{status.validation:.3f}"),
        ("best", "-" if status.best is None else f"{status.best:.3f}"),
        *((name, f"{bits:.3f}") for name, bits in status.parts.items()),
        ("step", f"{status.step:,}"),
        ("tokens", count(status.tokens)),
        ("tokens/s", "-" if status.speed is None else count(status.speed)),
        ("weights changed", percent(status.changed)),
        ("weights at ±127", percent(status.clipped)),
        ("step size", "-" if status.step_size is None else f"{status.step_size:.4f}"),
    ]


def _curve(points: list[float], width: int) -> str:
    """Bits per byte so far, one block a column, the latest at the right; the steep first tenth may be cut off."""
    each = max(1.0, len(points) / max(1, width))
    means = []
    at = 0.0
    while at < len(points) - 1e-9:
        column = points[int(at) : max(int(at) + 1, int(at + each))]
        means.append(sum(column) / len(column))
        at += each
    low, high = min(means), max(means[len(means) // 10 :])
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[min(len(BLOCKS) - 1, round((v - low) * scale))] for v in means[:width])
