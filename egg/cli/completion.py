"""``egg completion``: the script that completes ``egg`` in a shell."""

import importlib
from dataclasses import dataclass
from typing import Literal

from egg.cli.options import ArgumentTypes, application, parse


@dataclass(frozen=True)
class CompletionArguments:
    """Print the script that completes commands, flags and their values in a shell.

    For example:
      eval "$(egg completion bash)"          in ~/.bashrc
      egg completion zsh > FOLDER/_egg       with FOLDER in fpath
      egg completion fish | source           in config.fish
    """

    shell: Literal["bash", "zsh", "fish"]
    """The shell."""


def main(argv: list[str], prog: str) -> int:
    """Print the script for the shell that the arguments name; returns the exit status."""
    from egg.cli.main import COMMANDS

    arguments = parse(CompletionArguments, argv, prog=prog)
    egg = application({}, "egg", "The egg command.")
    for name, (module, _) in COMMANDS.items():
        egg.command(application(_argument_types(importlib.import_module(module), name), name))
    print(egg.generate_completion(shell=arguments.shell))
    return 0


def _argument_types(module, name: str) -> ArgumentTypes:
    return getattr(module, "SUBCOMMANDS", None) or getattr(module, f"{name.title().replace('-', '')}Arguments")
