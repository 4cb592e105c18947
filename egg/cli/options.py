"""Command lines from dataclasses, with cyclopts: number formats, and errors in one line."""

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
    UnknownOptionError,
    UnusedCliTokensError,
)

from egg.compute import Compute
from egg.errors import EggError, known_elsewhere, telling
from egg.kernels import BACKENDS
from egg.view.figures import UNITS, number, whole_number

NONE = "none"
FULL = "full"
FLAT = Parameter(name="*")
"""Annotation of a field that is a dataclass: its fields become flags like the others."""

ArgumentTypes = type | dict[str, type]
"""Dataclass of a command's arguments; or subcommand -> dataclass, with ``""`` for no subcommand."""


def parse(
    types: ArgumentTypes,
    argv: list[str],
    *,
    prog: str,
    description: str | None = None,
    source: Callable[[ArgumentCollection], None] | None = None,
) -> Any:
    """An instance of a dataclass from a command line; the last of equal flags wins.

    description : introduction of ``--help``; None: the dataclass's docstring
    source : gives values, as tokens, to arguments that the command line omits; ``--help`` shows them as defaults
    Raises EggError, one line, for invalid arguments; SystemExit(0) after ``--help``.
    """
    app, read = application(types, prog, description), ArgumentCollection()

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
        raise EggError(f"{_message(error)} ({' '.join([prog, *(error.command_chain or ())])} --help)") from None
    _show_help(app, bound.arguments["tokens"], {a.name: _formatted(a.value) for a in read if a.tokens})
    raise SystemExit(0)


def application(types: ArgumentTypes, name: str, description: str | None = None) -> App:
    """The command line of a command; calling it returns the arguments.

    name : as in ``--help``
    description : paragraphs; a line that begins with a space is not joined to the one before
    """
    types = types if isinstance(types, dict) else {"": types}
    introduction = inspect.cleandoc(description or types[next(iter(types))].__doc__)
    app = App(
        name=name,
        help=re.sub(r"(?<=\S)\n(?=\S)", " ", introduction),
        help_format="plaintext",
        version_flags=(),
        default_parameter=Parameter(allow_repeating=True, converter=_convert, negative=(), show_default=_formatted),
    )
    app["--help"].show = False
    for subcommand, kind in types.items():
        if subcommand:
            app.command(application(kind, subcommand))
        else:
            app.default(_returning(kind))
    return app


def _returning(kind: type) -> Callable:
    def identity(arguments):
        return arguments

    identity.__annotations__ = {"arguments": Annotated[kind, FLAT]}
    if all(field.default is not MISSING for field in fields(kind)):
        identity.__defaults__ = (kind(),)
    return identity


def _message(error: CycloptsError) -> str:
    """The error in one line."""
    error.verbose = False
    match error:
        case UnknownOptionError():
            given = (error.token.keyword or error.token.value).partition("=")[0]
            if flag := known_elsewhere(given, (argument.name for argument in error.argument_collection)):
                return f"unknown option {given}: here it is {flag}"
        case UnusedCliTokensError():
            return f"unknown argument {error.unused_tokens[0]}"
        case MissingArgumentError(keyword=None):
            name, choices = error.argument.name, error.argument.get_choices()
            name = name if error.argument.index is None else name.lstrip("-").upper()
            return f"{name} is missing" + (f": choose {', '.join(choices)}" if choices else "")
    return str(error)


def _show_help(app: App, tokens: list[str], values: dict[str, str]) -> None:
    """Print the help.

    values : flag -> its default
    """
    from cyclopts.help import DefaultFormatter
    from rich.console import Console

    class Formatter(DefaultFormatter):
        def __call__(self, console, options, panel):
            for entry in panel.entries:
                entry.description = " ".join(str(entry.description.primary_renderable).split())
                entry.positive_names = entry.positive_names[:1]  # without names from older versions
                entry.default = values.get("".join(entry.names), entry.default)
            super().__call__(console, options, panel)

    app.help_formatter = Formatter()
    app.help_print(
        tokens, console=Console(highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    )


def _none(token: Token) -> Token:
    return token.evolve(implicit_value=None) if token.value.lower() == NONE else token


def one_of(*names: str) -> Parameter:
    """Annotation of a text, or an optional text, that must be one of these names; shells complete it."""
    return Parameter(choices=names)


# Flags of several commands.
BackendName = Annotated[str, one_of(*BACKENDS)]
ComputeFlags = Annotated[Compute, FLAT]
ModelPath = Annotated[
    Literal["pretrained"] | str,
    Parameter(
        help="pretrained, which comes with egg; a run (its newest checkpoint), RUN/best, a checkpoint, a folder with a "
        "model, or OWNER/NAME on the Hub.",
        show_choices=False,
    ),
]
"""Whatever names a model; shells complete the one name that every machine knows."""
ColumnFlag = Annotated[
    str | None, Parameter(help="Column of tables that holds the text; none: as in training, or text.")
]
ShareFlag = Annotated[
    float,
    Parameter(
        help="Share of a text without validation split that is held out for measuring, 0 to 0.5, also as 5%; 0: the "
        "model is measured on its training text."
    ),
]
ForceFlag = Annotated[
    bool, Parameter(help="Read files that look like binary data, UTF-16, CSV or a JSON array too, as they are.")
]
AnyText = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
"""A text that may begin with a hyphen, or a file's name, where - is standard input."""
JsonFlag = Annotated[bool, Parameter(help="Print one JSON object, and nothing else, on standard output.")]


def _convert(kind: Any, tokens: tuple[Token, ...]) -> Any:
    """The value of a flag; ``int | Literal["all"]`` is an integer or the word."""
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


def _formatted(value: Any) -> str:
    """A default, as in the help."""
    if value in (None, ()):
        return NONE
    if isinstance(value, int) and value >= 10**6:
        for letter in "TGM":
            if value % UNITS[letter] == 0:
                return f"{value // UNITS[letter]}{letter}"
    return str(value)


def say(line: str) -> None:
    """Print a notice on standard error: standard output is only for results."""
    print(line, file=sys.stderr, flush=True)


def target_file(path: str, flag: str) -> Path:
    """The file to write; raises EggError before the work if it cannot be written."""
    target = Path(path)
    if target.is_dir() or not target.absolute().parent.is_dir():
        reason = "is a folder" if target.is_dir() else f"{target.absolute().parent} is no folder"
        raise EggError(f"{flag} {path}: {reason}; give a file to write")
    return target


def made_folder(out: str | Path) -> Path:
    """Make the folder of ``--out``, before the work; raises EggError if that fails."""
    out = Path(out)
    with telling(f"--out {out}", "; give another folder"):
        out.mkdir(parents=True, exist_ok=True)
    return out


def rank_of(text: str) -> int:
    """The rank of ``--rank``; raises EggError if it is no integer."""
    try:
        return int(text)
    except ValueError:
        raise EggError(f"--rank {text}: give an integer, or {FULL}") from None
