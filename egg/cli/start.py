"""The start of a process of the command line.

Imports little: slow imports come after the signals are handled.
"""

import sys

from egg.cli import interrupts


def main(command: str | None = None, prog: str = "egg") -> int:
    """Run the command line of this process, and return the exit status.

    command : the command; None: the first argument names it
    prog : the program's name, as the user called it
    """
    interrupts.begin()
    from egg.cli import main as commands

    try:
        return commands.run(command, sys.argv[1:], prog=prog) if command else commands.main()
    finally:
        interrupts.end()
