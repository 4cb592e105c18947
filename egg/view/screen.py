"""Tables and colours on a terminal, with rich; the same text without colours elsewhere."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from typing import Any

CONTROLS = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}
"""Control characters, which could move a terminal's cursor or worse, and their replacement."""


def console(stream=None, width: int | None = None):
    """A rich console that never wraps lines in a pipe or a file.

    stream : standard output by default
    """
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    if width is None and not stream.isatty() and "COLUMNS" not in os.environ:
        width = 200  # no terminal: lines stay whole
    return Console(
        file=stream,
        width=width or shutil.get_terminal_size().columns,
        highlight=False,
        emoji=False,
        markup=False,
        soft_wrap=False,
    )


def table(title: str, columns: list[str], rows: list[list], *, left: int = 1, styles=None):
    """A title and a table whose first ``left`` columns are text and the others numbers.

    No cell is folded: columns that do not fit move closer together, and then into several parts one below another,
    each with the first column.

    columns : headings
    rows : cells as text; a cell may be a rich Text
    styles : style of each row; None: plain
    """
    from rich.console import Group
    from rich.text import Text

    # Outside the table, which would fold its title to its own width.
    return Group(Text(title, style="bold"), _Table(columns, rows, left, styles))


@dataclass
class _Table:
    """The columns and rows of ``table``, printed in as many parts as the width needs."""

    columns: list[str]
    rows: list[list]
    left: int
    styles: list | None

    def __rich_console__(self, console, options):
        shown = list(range(len(self.columns)))
        for gap in (1, 0):
            whole = self._part(shown, gap)
            if _width(whole, console, options) <= options.max_width:
                yield whole
                return
        first, *others = shown
        while others:
            fitting = 1
            while fitting < len(others) and (
                _width(self._part([first, *others[: fitting + 1]], 1), console, options) <= options.max_width
            ):
                fitting += 1
            yield self._part([first, *others[:fitting]], 1)
            others = others[fitting:]

    def _part(self, shown: list[int], gap: int):
        from rich import box
        from rich.table import Table

        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", expand=False, padding=(0, gap, 0, 0))
        for number in shown:
            side = "left" if number < self.left else "right"
            made.add_column(self.columns[number], justify=side, overflow="ellipsis", no_wrap=True)
        for number, row in enumerate(self.rows):
            style = self.styles[number] if self.styles else None
            made.add_row(*(row[n] for n in shown), style=style)
        return made


def _width(made, console, options) -> int:
    """The width that a table needs."""
    return made.__rich_measure__(console, options.update(max_width=10_000)).maximum


def print_json(content: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(content))
