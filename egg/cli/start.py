"""Where a process of the command line begins.

Imports as little as there is: what takes time is imported when the signals are taken care of.
"""

import sys

from egg.cli import interrupts


def main(command: str | None = None, prog: str = "egg") -> int:
    """Run the command line of this process, and return the exit status.

    command : the command that the arguments are of; None: the first argument says
    prog : how the user called it
    """
    interrupts.begin()
    from egg.cli import main as table

    try:
        return table.run(command, sys.argv[1:], prog=prog) if command else table.main()
    finally:
        interrupts.end()
