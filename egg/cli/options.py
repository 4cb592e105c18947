"""Command lines from dataclasses, by cyclopts: how numbers are written, and one line for what is wrong."""

import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import cyclopts
from cyclopts import (
    App,
    ArgumentCollection,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    Token,
    UnusedCliTokensError,
)

from egg.compute import Compute
from egg.errors import EggError, telling
from egg.kernels import BACKENDS
from egg.view.figures import UNITS, number, whole_number

NONE = "none"
FULL = "full"
FLAT = Parameter(name="*")
"""Annotation of a dataclass among the fields of another: its fields are flags like the others."""

Kinds = type | dict[str, type]
"""What a command is told: a dataclass, or one for each of its subcommands, ``""`` for the command without one."""


def parse(
    kinds: Kinds,
    argv: list[str],
    *,
    prog: str,
    description: str | None = None,
    source: Callable[[ArgumentCollection], None] | None = None,
) -> Any:
    """An instance of a dataclass from a command line; a later equal flag wins.

    description : what ``--help`` begins with; None is the dataclass's docstring
    source : gives values, as tokens, to arguments that the command line leaves without one; ``--help`` shows them
    Raises EggError, one line, for arguments that cannot be; SystemExit(0) after ``--help``.
    """
    app, read = application(kinds, prog, description), ArgumentCollection()

    def fill(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        if source:
            source(arguments)
        for argument in arguments:
            if type(None) in get_args(argument.hint):
                argument.tokens = [_none(token) for token in argument.tokens]
        read.extend(arguments)

    app.config = fill
    try:
        command, bound, _ = app.parse_args(argv, exit_on_error=False, print_error=False)
        if command != app.help_print:
            return command(*bound.args, **bound.kwargs)
        if source:
            app.parse_known_args(bound.arguments["tokens"])
    except CycloptsError as error:
        raise EggError(f"{_told(error)} ({' '.join([prog, *(error.command_chain or ())])} --help)") from None
    _show_help(app, bound.arguments["tokens"], {a.name: _written(a.value) for a in read if a.tokens})
    raise SystemExit(0)


def application(kinds: Kinds, name: str, description: str | None = None) -> App:
    """The command line of a command, which returns the arguments it is given.

    name : as ``--help`` shows it
    description : paragraphs; a line that begins with a space stays a line of its own
    """
    kinds = kinds if isinstance(kinds, dict) else {"": kinds}
    introduction = inspect.cleandoc(description or kinds[next(iter(kinds))].__doc__)
    app = App(
        name=name,
        help=re.sub(r"(?<=\S)\n(?=\S)", " ", introduction),
        help_format="plaintext",
        version_flags=(),
        default_parameter=Parameter(allow_repeating=True, converter=_read, negative=(), show_default=_written),
    )
    app["--help"].show = False
    for subcommand, kind in kinds.items():
        if subcommand:
            app.command(application(kind, subcommand))
        else:
            app.default(_returning(kind))
    return app


def _returning(kind: type) -> Callable:
    def given(arguments):
        return arguments

    given.__annotations__ = {"arguments": Annotated[kind, FLAT]}
    if all(field.default is not MISSING for field in fields(kind)):
        given.__defaults__ = (kind(),)
    return given


def _told(error: CycloptsError) -> str:
    """What is wrong, in one line."""
    error.verbose = False
    match error:
        case UnusedCliTokensError():
            return f"unknown argument {error.unused_tokens[0]}"
        case MissingArgumentError(keyword=None):
            name, choices = error.argument.name, error.argument.get_choices()
            name = name if error.argument.index is None else name.lstrip("-").upper()
            return f"{name} is missing" + (f": choose {', '.join(choices)}" if choices else "")
    return str(error)


def _show_help(app: App, tokens: list[str], values: dict[str, str]) -> None:
    """Print the help.

    values : flag -> what it is if the command line does not say
    """
    from cyclopts.help import DefaultFormatter
    from rich.console import Console

    class Formatter(DefaultFormatter):
        def __call__(self, console, options, panel):
            for entry in panel.entries:
                entry.description = " ".join(str(entry.description.primary_renderable).split())
                entry.positive_names = entry.positive_names[:1]  # without what older versions call it
                entry.default = values.get("".join(entry.names), entry.default)
            super().__call__(console, options, panel)

    app.help_formatter = Formatter()
    app.help_print(
        tokens, console=Console(highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    )


def _none(token: Token) -> Token:
    return token.evolve(implicit_value=None) if token.value.lower() == NONE else token


def one_of(*names: str) -> Parameter:
    """Annotation of a text, or of an optional one, that must be one of these; shells complete it."""
    return Parameter(choices=names)


# Flags that several commands have.
BackendName = Annotated[str, one_of(*BACKENDS)]
ComputeFlags = Annotated[Compute, FLAT]
ColumnFlag = Annotated[
    str | None, Parameter(help="Column of tables that holds the text; none: as in training, or text.")
]
AnyText = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
"""A text that may begin with a hyphen, or the name of a file, - being standard input."""
JsonFlag = Annotated[bool, Parameter(help="Print one JSON object on standard output, and nothing else there.")]


def _read(kind: Any, tokens: tuple[Token, ...]) -> Any:
    """The value of a flag; integers may have a word in their place, as in ``int | Literal["all"]``."""
    kinds = get_args(kind) or (kind,)
    if float in kinds:
        return number(tokens[0].value)
    if int not in kinds:
        return cyclopts.convert(kind, tokens)
    words = [word for literal in kinds if get_origin(literal) is Literal for word in get_args(literal)]
    if tokens[0].value.strip().lower() in words:
        return tokens[0].value.strip().lower()
    try:
        return whole_number(tokens[0].value)
    except ValueError as error:
        raise ValueError(", or ".join([str(error), *words])) from None


def _written(value: Any) -> str:
    """A default as the help shows it."""
    if value is None:
        return NONE
    if isinstance(value, int) and value >= 10**6:
        for letter in "TGM":
            if value % UNITS[letter] == 0:
                return f"{value // UNITS[letter]}{letter}"
    return str(value)


def say(line: str) -> None:
    """A notice: on standard error, so that standard output is the result alone."""
    print(line, file=sys.stderr, flush=True)


def target_file(path: str, flag: str) -> Path:
    """Where to write; refused before the work, not after it."""
    target = Path(path)
    if target.is_dir() or not target.absolute().parent.is_dir():
        why = "is a folder" if target.is_dir() else f"{target.absolute().parent} is no folder"
        raise EggError(f"{flag} {path}: {why}; give a file to write")
    return target


def made_folder(out: str | Path) -> Path:
    """The folder of ``--out``, made before the work, not after it.

    Raises EggError if it cannot be.
    """
    out = Path(out)
    with telling(f"--out {out}", "; give another folder"):
        out.mkdir(parents=True, exist_ok=True)
    return out


def rank_of(text: str) -> int:
    """The rank that is asked for; raises EggError for what is no integer."""
    try:
        return int(text)
    except ValueError:
        raise EggError(f"--rank {text}: give an integer, or {FULL}") from None
