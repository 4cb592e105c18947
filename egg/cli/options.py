"""Command lines from dataclasses, by tyro: how numbers are written, and one line for what is wrong."""

import contextlib
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from egg.errors import EggError, telling
from egg.kernels import BACKENDS
from egg.view.figures import UNITS, number, number_or, whole_number

T = TypeVar("T")
NONE = "none"
FULL = "full"
ALIASES = {"member-tokens": "tokens"}  # what a flag was called in older versions
COLORS = r"\x1b\[[0-9;]*m"
_MARKS = tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def parse(kind: type[T], argv: list[str], *, prog: str, default: T | None = None, description: str | None = None) -> T:
    """An instance of a dataclass from a command line; a later equal flag wins.

    default : what the flags override; its values are what ``--help`` shows
    description : what ``--help`` begins with; None is the dataclass's docstring
    Raises EggError, one line, for arguments that cannot be; SystemExit(0) after ``--help``.
    """
    complaint, shown = io.StringIO(), _Shown()
    environment = {}
    if os.environ.get("NO_COLOR"):
        environment["TERM"] = "dumb"  # tyro knows no NO_COLOR, but this
    if not {"-h", "--help"} & set(argv):
        environment["COLUMNS"] = "10000"  # a complaint in one line can be taken apart
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(complaint), _environment(environment):
            return tyro.cli(
                _MARKS(kind), args=_without_aliases(argv), prog=prog, description="", registry=_registry(), **options
            )
    except SystemExit as stop:
        if not stop.code:
            print(_help(shown.getvalue(), description or kind.__doc__), end="")
            raise
        text = complaint.getvalue()
        # tyro stops at a flag it does not know, and misses the positional argument that comes after it.
        if re.search(r"Missing value for argument '[^-]", text):
            for word in argv:
                flag = re.match(r"--?[a-zA-Z][\w-]*", word)
                if flag and flag[0].replace("_", "-") not in _flags(kind):
                    raise EggError(f"unknown argument {flag[0]} ({prog} --help)") from None
        raise EggError(_one_line(text, prog)) from None


def _flags(kind: type) -> set[str]:
    """The flags of a dataclass of arguments, as its help lists them."""
    shown = io.StringIO()
    with (
        contextlib.suppress(SystemExit),
        contextlib.redirect_stdout(shown),
        _environment({"COLUMNS": "200"}),  # a narrow terminal breaks words
    ):
        tyro.cli(_MARKS(kind), args=["--help"], registry=_registry())
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", re.sub(COLORS, "", shown.getvalue())))


def complete(kind, argv: list[str]) -> None:
    """Print or write the script that completes a command line of this kind in a shell."""
    try:
        tyro.cli(_MARKS(kind), args=argv, prog="egg", registry=_registry())
    except SystemExit as stop:
        if stop.code:
            raise
    except (AssertionError, ImportError) as error:
        raise EggError(f"this version of tyro has no completion for {argv[1]}") from error


class _Shown(io.StringIO):
    """What tyro prints, as it would on standard output itself."""

    encoding = property(lambda self: getattr(sys.__stdout__, "encoding", None))

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def _help(shown: str, introduction: str) -> str:
    """tyro's help, with an introduction after the usage: tyro would not fit it to the terminal.

    introduction : paragraphs; a line that begins with a space stays a line of its own
    """
    width = max(40, shutil.get_terminal_size().columns - 1)
    lines = []
    for paragraph in re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.cleandoc(introduction)).split("\n"):
        hanging = "    " if paragraph.startswith(" ") else ""
        lines += textwrap.wrap(paragraph, width, subsequent_indent=hanging) or [""]
    usage, _, boxes = shown.partition("\n\n")
    if len(re.sub(COLORS, "", usage)) > width:
        usage = textwrap.fill(usage, width, subsequent_indent="    ", break_long_words=False)
    return "\n".join([usage, "", *lines, "", boxes])


def one_of(*names: str) -> PrimitiveConstructorSpec:
    """Annotation of a text, or of an optional one, that must be one of these; shells complete it."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(names) + "}",
        instance_from_str=lambda args: None if args[0] == NONE else args[0],
        is_instance=lambda value: True,  # a default may be another version's
        str_from_instance=lambda value: [_written(value)],
        choices=names,
    )


# Flags that several commands have.
BackendName = Annotated[str, one_of(*BACKENDS)]
BackendFlag = Annotated[BackendName, tyro.conf.arg(help="What computes; changes the speed, not the result.")]
ThreadsFlag = Annotated[
    int | None, tyro.conf.arg(help="Threads of a CPU backend; none: as many as the process may use.")
]
DeviceFlag = Annotated[int | None, tyro.conf.arg(help="Number of the GPU of backend cupy; none: the first.")]
ColumnFlag = Annotated[
    str | None, tyro.conf.arg(help="Column of tables that holds the text; none: as in training, or text.")
]
JsonFlag = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(help="Print one JSON object on standard output, and nothing else there."),
]


def _without_aliases(argv: list[str]) -> list[str]:
    """The same with every flag under its present name."""
    names = "|".join(alias.replace("-", "[-_]") for alias in ALIASES)
    return [
        re.sub(f"^--({names})(?==|$)", lambda found: "--" + ALIASES[found[1].replace("_", "-")], argument)
        for argument in argv
    ]


def given(argv: list[str], name: str) -> list[str]:
    """The values that a command line gives a flag, in their order; spelled as tyro reads it.

    name : the field's, ``seq_len`` for ``--seq-len`` or ``--seq_len``
    """
    values = []
    argv = _without_aliases(argv)
    for at, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            values += [value] if equals else argv[at + 1 : at + 2]
    return values


def _registry() -> ConstructorRegistry:
    """How flags are read, for each type that a field can have."""
    registry = ConstructorRegistry()
    readers = {
        int: ("INT", whole_number),
        float: ("NUMBER", number),
        str: ("TEXT", str),
        int | Literal["all"]: ("INT|all", partial(number_or, "all")),
        int | Literal["time"]: ("INT|time", partial(number_or, "time")),
    }

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        for kind, (metavar, read) in readers.items():
            if info.type in (kind, kind | None):
                # Without a None among the types, "none" is text like any other.
                optional = info.type != kind
                return PrimitiveConstructorSpec(
                    nargs=1,
                    metavar=metavar,
                    instance_from_str=lambda args, read=read, optional=optional: (
                        None if optional and args[0].lower() == NONE else read(args[0])
                    ),
                    is_instance=lambda value: True,
                    str_from_instance=lambda value: [_written(value)],
                )
        return None

    return registry


def _written(value) -> str:
    """A default as the help shows it."""
    if value is None:
        return NONE
    if isinstance(value, int) and value >= 10**6:
        for letter in "TGM":
            if value % UNITS[letter] == 0:
                return f"{value // UNITS[letter]}{letter}"
    return str(value)


def _one_line(complaint: str, prog: str) -> str:
    """What tyro says in a box, in one line: its first paragraph, in our words where we know it."""
    text = re.sub(COLORS, "", complaint)
    rows = [row.strip(" │|") for row in text.splitlines()[1:]]  # without the title
    rows = ["" if set(row) <= set("─-+╰╯") else row for row in rows]
    while rows and not rows[0]:
        rows.pop(0)
    line = " ".join(rows[: rows.index("")] if "" in rows else rows)
    for pattern, ours in (
        (r"Error parsing (\S+): ", r"\1: "),
        (r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*?),?\).*", r"\2 \1: choose \3"),
        (r"Missing value for argument '(\S+)'.*", r"\1: a value is missing"),
        (r"Missing from .*?: (\S+) .*", r"\1 is missing"),
        (r"Unrecognized options: (\S+?)(,? .*)?$", r"unknown argument \1"),
    ):
        line = re.sub(f"^{pattern}", ours, line)
    line = line.replace("'", "") if ": choose " in line else line
    if "Perhaps you meant:" in rows[:-1]:
        line += f", perhaps {rows[rows.index('Perhaps you meant:') + 1].split()[0]}?"
    return f"{line or 'these arguments make no sense'} ({prog} --help)"


@contextlib.contextmanager
def _environment(changes: dict[str, str]):
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
