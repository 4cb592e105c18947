"""Completion of the whole ``egg`` command line in a shell, by tyro.

bash    eval "$(egg --tyro-print-completion bash)", in ~/.bashrc
zsh     egg --tyro-write-completion zsh FOLDER/_egg, with FOLDER in fpath
fish    egg --tyro-print-completion fish | source, in config.fish
"""

import importlib
from typing import Annotated, Union

import tyro

from egg.cli.options import complete
from egg.errors import EggError

PRINT, WRITE = "--tyro-print-completion", "--tyro-write-completion"
SHELLS = ("bash", "zsh", "fish")


def asked(argv: list[str]) -> list[str]:
    """The part of a command line that asks for a completion script, whatever command it names."""
    for at, argument in enumerate(argv[:2]):
        if argument in (PRINT, WRITE):
            return argv[at:]
    return []


def main(argv: list[str], commands: dict[str, tuple[str, str]]) -> int:
    """Print the script that completes ``egg`` in a shell, or write it to a file.

    argv : --tyro-print-completion SHELL, or --tyro-write-completion SHELL FILE
    commands : name -> its module, whose arguments are the class Completed or NameArguments, and its help
    """
    if len(argv) < 2 or argv[1] not in SHELLS:
        raise EggError(f"{' '.join(argv[:2])}: choose {', '.join(SHELLS)}")
    if len(argv) != (2 if argv[0] == PRINT else 3):
        raise EggError(f"{argv[0]}: give a shell{'' if argv[0] == PRINT else ' and a file'}")
    kinds = [
        Annotated[_arguments(importlib.import_module(module), name), tyro.conf.subcommand(name, description=line)]
        for name, (module, line) in commands.items()
    ]
    complete(Union[tuple(kinds)], argv)  # noqa: UP007, there is no other way to write it
    return 0


def _arguments(module, name: str) -> type:
    return getattr(module, "Completed", None) or getattr(module, f"{name.title().replace('-', '')}Arguments")
