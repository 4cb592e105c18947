"""``egg inspect``: the kernels, a model's weights, a text's way through it, and the integer tables."""

import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Union

import tyro

from egg.cli.options import BackendName, JsonFlag, parse, say
from egg.errors import EggError, telling
from egg.files import read_file

Picture = Annotated[str | None, tyro.conf.arg(metavar="[PNG]")]


@dataclass(frozen=True)
class KernelsArguments:
    """Show the kernels of a backend: signatures, dtypes, shapes, and one line of purpose each.

    --audit disassembles all that the backend calls and counts instructions by class. It exits with 1 if one of them is
    floating-point arithmetic, and says where. What NumPy does between the kernels, on the host, is not in it.

    --backend cupy needs neither a GPU nor CuPy: NVRTC compiles its kernels for sm_90, hidden size 256 and 6 layers.
    --asm and --audit read SASS by nvdisasm or cuobjdump (pip install nvidia-cuda-nvdisasm, or the CUDA toolkit).

    For example:
      egg inspect kernels
      egg inspect kernels --audit
      egg inspect kernels --source norm_rows
      egg inspect kernels --asm forward.product
      egg inspect kernels --backend cupy --llvm forward_pairs
    """

    source: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Print one kernel as it is written."""
    llvm: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Print its optimised LLVM code; of backend cupy PTX."""
    asm: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Print its machine code, disassembled; of backend cupy SASS."""
    audit: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Count instructions by class, and fail if one is floating-point arithmetic."""
    json: JsonFlag = False
    backend: BackendName = "auto"
    """Whose kernels."""


@dataclass(frozen=True)
class ModelArguments:
    """Show a model's tensors: shape, bytes, least and largest weight, mean magnitude, entropy, share at +-127,
    and share changed since the start.

    For example:
      egg inspect model runs/quickstart-20261121-101500 --plot weights.png
    """

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """A run (its newest checkpoint), RUN/best, a checkpoint, or a folder with a model in it."""
    plot: Picture = None
    """Draw a histogram of every tensor into one picture, model.png if no name follows."""
    json: JsonFlag = False


@dataclass(frozen=True)
class TraceArguments:
    """Follow a text through a model, byte by byte and stage by stage, by the reference definition.

    The text is read from state zero as the beginning of a document. What it shows of a byte: how surprising it was,
    what was expected in its place, and for every stage of the network least, largest and mean magnitude, share
    clipped, room left in the accumulator, and how open the gates were.

    For example:
      egg inspect trace runs/quickstart-20261121-101500 --text "def main():" --html trace.html
    """

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")]
    """A run (its newest checkpoint), RUN/best, a checkpoint, or a folder with a model in it."""
    text: str | None = None
    """The text, in UTF-8."""
    text_file: str | None = None
    """The text from a file, as it is; - is standard input."""
    byte: int | None = None
    """Show the stages of this byte alone, counted from 1; 0 is the NUL before the text. None: of all together."""
    html: Annotated[str | None, tyro.conf.arg(metavar="[HTML]")] = None
    """Write a page that needs no network, trace.html if no name follows: a click on a byte shows its stages."""
    plot: Picture = None
    """Draw surprise, gates and clipping into a picture, trace.png if no name follows."""
    json: JsonFlag = False


@dataclass(frozen=True)
class ArithmeticArguments:
    """Show the integer tables beside float64: powers and logarithms of two, division by multiplication, and why
    the integer score reads about 0.03 bits too good.

    For example:
      egg inspect arithmetic --plot arithmetic.png
    """

    plot: Picture = None
    """Draw them into a picture, arithmetic.png if no name follows."""
    json: JsonFlag = False


SUBCOMMANDS = {
    "kernels": (KernelsArguments, "the kernels of a backend, their code, and its audit"),
    "model": (ModelArguments, "a model's tensors"),
    "trace": (TraceArguments, "a text's way through a model"),
    "arithmetic": (ArithmeticArguments, "the integer tables and their errors"),
}


InspectArguments = make_dataclass(
    "InspectArguments",
    [
        (
            "what",
            Union[  # noqa: UP007, there is no other way to write it
                tuple(
                    Annotated[kind, tyro.conf.subcommand(name, description=line, prefix_name=False)]
                    for name, (kind, line) in SUBCOMMANDS.items()
                )
            ],
        )
    ],
    frozen=True,
)
"""All of ``egg inspect``, for completion."""


def main(argv: list[str], prog: str) -> int:
    """Inspect as the arguments say; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(prog))
        return 0
    name, *rest = argv
    if name not in SUBCOMMANDS:
        raise EggError(f"inspect {name}: choose {', '.join(SUBCOMMANDS)} ({prog} --help)")
    defaults = {"plot": f"{name}.png", "html": f"{name}.html"}
    arguments = parse(SUBCOMMANDS[name][0], _named(rest, defaults), prog=f"{prog} {name}")
    act = {"kernels": _kernels, "model": _model, "trace": _trace, "arithmetic": _arithmetic}[name]
    return act(arguments)


def _help(prog: str) -> str:
    width = max(map(len, SUBCOMMANDS))
    return "\n".join(
        [
            f"usage: {prog} WHAT [OPTIONS]",
            "",
            "Look inside: no claim of this project has to be believed.",
            "",
            *(f"  {name:{width}}  {line}" for name, (_, line) in SUBCOMMANDS.items()),
            "",
            "For example:",
            f"  {prog} kernels --audit",
            f'  {prog} trace runs/quickstart-20261121-101500 --text "def main():" --html trace.html',
            "",
            f"{prog} WHAT --help tells more.",
        ]
    )


def _named(argv: list[str], defaults: dict[str, str]) -> list[str]:
    """The arguments, with a name after every --plot and --html: the default's unless a file's name follows."""
    named = []
    for at, argument in enumerate(argv):
        named.append(argument)
        name = defaults.get(argument.removeprefix("--")) if argument.startswith("--") else None
        if name:
            follows = argv[at + 1] if at + 1 < len(argv) else ""
            if follows.startswith("-") or Path(follows).suffix.lower() != Path(name).suffix:
                named.append(name)
    return named


def _kernels(arguments: KernelsArguments) -> int:
    from egg.inspect.kernels import audit_facts, kernels_of, list_kernels, print_audit
    from egg.view.screen import console, print_json

    asked = [n for n in ("source", "llvm", "asm", "audit") if getattr(arguments, n)]
    if len(asked) > 1:
        raise EggError(f"--{asked[0]} and --{asked[1]}: give one of them")
    shown = kernels_of(arguments.backend, notify=say)
    if arguments.audit:
        result = shown.audit()
        if arguments.json:
            print_json(audit_facts(shown, result))
        else:
            print_audit(shown, result, console())
        return 0 if result.passed else 1
    for flag, show in (("source", shown.source), ("llvm", shown.llvm), ("asm", shown.assembly)):
        if name := getattr(arguments, flag):
            text = show(name).rstrip("\n")
            print_json({"name": name, flag: text}) if arguments.json else print(text)
            return 0
    facts = shown.facts()
    if arguments.json:
        print_json(({"compiled_for": shown.heading} if shown.heading else {}) | {"kernels": facts})
    else:
        list_kernels(facts, shown.heading, console())
    return 0


def _model(arguments: ModelArguments) -> int:
    from egg.inspect.model import facts, measure, plot_histograms, print_model
    from egg.view.screen import console, print_json

    model = measure(arguments.path)
    _wrote(arguments.plot, lambda path: plot_histograms(model, path))
    print_json(facts(model)) if arguments.json else print_model(model, console())
    return 0


def _trace(arguments: TraceArguments) -> int:
    from egg.inspect.trace import facts, trace
    from egg.inspect.trace_page import page
    from egg.inspect.trace_plot import plot_trace
    from egg.inspect.trace_screen import print_trace
    from egg.model.network import read_model
    from egg.view.screen import console, print_json

    shape, weights, _ = read_model(arguments.path)
    text = _text(arguments)
    if arguments.byte is not None and not 0 <= arguments.byte <= len(text):
        raise EggError(f"--byte {arguments.byte}: the text has bytes 1 to {len(text)}")
    traced, name = trace(shape, weights, text), Path(arguments.path).resolve().name
    _wrote(arguments.html, lambda path: path.write_text(page(traced, name), "utf-8"))
    _wrote(arguments.plot, lambda path: plot_trace(traced, path))
    if arguments.json:
        print_json(facts(traced))
    else:
        print_trace(traced, arguments.byte, console())
    return 0


def _text(arguments: TraceArguments) -> bytes:
    from egg.model.sample import prompt_bytes

    if (arguments.text is None) == (arguments.text_file is None):
        raise EggError("trace of what? Give --text or --text-file, one of them")
    if arguments.text is not None:
        return prompt_bytes(arguments.text)
    if arguments.text_file == "-":
        return sys.stdin.buffer.read()
    with telling(f"--text-file {arguments.text_file}", "; give a text file, or - for standard input"):
        return read_file(arguments.text_file)


def _arithmetic(arguments: ArithmeticArguments) -> int:
    from egg.inspect.arithmetic import facts, plot_arithmetic, print_arithmetic
    from egg.view.screen import console, print_json

    found = facts()
    _wrote(arguments.plot, plot_arithmetic)
    print_json(found) if arguments.json else print_arithmetic(found, console())
    return 0


def _wrote(name: str | None, write) -> None:
    """Write a file, and say so on standard error: standard output may be JSON."""
    if name is None:
        return
    with telling(f"cannot write {name}", "; give another name"):
        write(Path(name))
    say(f"wrote {name}")
