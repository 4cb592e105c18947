"""Tables and colours on a terminal, through rich; the same text without colours elsewhere."""

import json
import os
import shutil
import sys
from typing import Any


def console(stream=None, width: int | None = None):
    """A rich console that never wraps what goes into a pipe or a file.

    stream : standard output by default
    """
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    if width is None and not stream.isatty() and "COLUMNS" not in os.environ:
        width = 200  # nobody's window: lines stay whole
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

    columns : headings
    rows : cells as text; a cell may be a rich Text
    styles : style of each row, none: plain
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", expand=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for number, name in enumerate(columns):
        made.add_column(
            name, justify="left" if number < left else "right", overflow="fold", no_wrap=not number
        )
    for number, row in enumerate(rows):
        made.add_row(*row, style=styles[number] if styles else None)
    return Group(Text(title, style="bold"), made)  # a table would fold its title to its own width


def print_json(content: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(content))
