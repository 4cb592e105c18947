"""``egg inspect``: the kernels, a model's weights, a text's path through it, and the integer tables."""

import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egg.cli.options import AnyText, BackendName, JsonFlag, ModelPath, parse, say
from egg.errors import EggError, telling
from egg.files import read_file

Picture = Annotated[str | None, Parameter(metavar="[PNG]")]


@dataclass(frozen=True, kw_only=True)
class KernelsArguments:
    """Show the kernels of a backend: signatures, dtypes, shapes, and a line on the purpose of each.

    --audit disassembles everything that the backend calls and counts instructions by class. If one is floating-point
    arithmetic it says where, and exits with 1. What NumPy does between the kernels, on the host, is not counted.

    --backend cupy needs neither a GPU nor CuPy: NVRTC compiles its kernels for sm_90, hidden size 256 and 6 layers.
    --asm and --audit read SASS by nvdisasm or cuobjdump (pip install nvidia-cuda-nvdisasm, or the CUDA toolkit).

    For example:
      egg inspect kernels
      egg inspect kernels --audit
      egg inspect kernels --source norm_rows
      egg inspect kernels --asm forward.product
      egg inspect kernels --backend cupy --llvm forward_pairs
    """

    source: Annotated[str | None, Parameter(metavar="NAME")] = None
    """Print the source of one kernel."""
    llvm: Annotated[str | None, Parameter(metavar="NAME")] = None
    """Print its optimised LLVM code; with backend cupy PTX."""
    asm: Annotated[str | None, Parameter(metavar="NAME")] = None
    """Print its machine code, disassembled; with backend cupy SASS."""
    audit: bool = False
    """Count instructions by class, and fail if one is floating-point arithmetic."""
    json: JsonFlag = False
    backend: BackendName = "auto"
    """Whose kernels."""


@dataclass(frozen=True)
class ModelArguments:
    """Show a model's tensors: shape, bytes, smallest and largest weight, mean magnitude, entropy, share at +-127,
    and share changed since the start.

    For example:
      egg inspect model runs/quickstart-20261121-101500 --plot weights.png
    """

    path: ModelPath
    _: KW_ONLY
    plot: Picture = None
    """Draw a histogram of every tensor in one picture, model.png if no name follows."""
    json: JsonFlag = False


@dataclass(frozen=True)
class TraceArguments:
    """Follow a text through a model, byte by byte and stage by stage, by the reference definition.

    The text is read from state zero as the beginning of a document. Shown for each byte: how surprising it was, what
    was expected in its place, and for every stage of the network minimum, maximum and mean magnitude, share clipped,
    headroom of the accumulator, and how open the gates were.

    For example:
      egg inspect trace pretrained --text "def main():" --html trace.html
    """

    path: ModelPath
    _: KW_ONLY
    text: AnyText = None
    """The text, in UTF-8."""
    text_file: AnyText = None
    """File with the text, byte for byte; - is standard input."""
    byte: int | None = None
    """Show the stages of this byte only, counted from 1; 0 is the NUL before the text; none: all bytes together."""
    html: Annotated[str | None, Parameter(metavar="[HTML]")] = None
    """Write a page that needs no network, trace.html if no name follows: a click on a byte shows its stages."""
    plot: Picture = None
    """Draw surprise, gates and clipping in a picture, trace.png if no name follows."""
    json: JsonFlag = False


@dataclass(frozen=True, kw_only=True)
class ArithmeticArguments:
    """Compare the integer tables with float64: powers and logarithms of two, division by multiplication, and why the
    integer score is about 0.03 bits too low.

    For example:
      egg inspect arithmetic --plot arithmetic.png
    """

    plot: Picture = None
    """Draw them in a picture, arithmetic.png if no name follows."""
    json: JsonFlag = False


SUBCOMMANDS = {
    "kernels": KernelsArguments,
    "model": ModelArguments,
    "trace": TraceArguments,
    "arithmetic": ArithmeticArguments,
}
DESCRIPTION = """\
Show the kernels, a model's weights, a text's path through it, and the integer tables.

For example:
  {prog} kernels --audit
  {prog} trace pretrained --text "def main():" --html trace.html
"""


def main(argv: list[str], prog: str) -> int:
    """Inspect as the arguments say; returns the exit status."""
    defaults = {"plot": f"{argv[0]}.png", "html": f"{argv[0]}.html"} if argv else {}
    argv = _with_file_names(argv, defaults)
    arguments = parse(SUBCOMMANDS, argv, prog=prog, description=DESCRIPTION.format(prog=prog))
    act = {
        KernelsArguments: _kernels,
        ModelArguments: _model,
        TraceArguments: _trace,
        ArithmeticArguments: _arithmetic,
    }[type(arguments)]
    return act(arguments)


def _with_file_names(argv: list[str], defaults: dict[str, str]) -> list[str]:
    """The arguments, with the default name after every --plot and --html that no file name follows."""
    completed = []
    for at, argument in enumerate(argv):
        completed.append(argument)
        name = defaults.get(argument.removeprefix("--")) if argument.startswith("--") else None
        if name:
            following = argv[at + 1] if at + 1 < len(argv) else ""
            if following.startswith("-") or Path(following).suffix.lower() != Path(name).suffix:
                completed.append(name)
    return completed


def _kernels(arguments: KernelsArguments) -> int:
    from egg.inspect.kernels import audit_json, kernels_of, list_kernels, print_audit
    from egg.view.screen import console, print_json

    given = [n for n in ("source", "llvm", "asm", "audit") if getattr(arguments, n)]
    if len(given) > 1:
        raise EggError(f"--{given[0]} and --{given[1]}: give one of them")
    kernels = kernels_of(arguments.backend, notify=say)
    if arguments.audit:
        result = kernels.audit()
        if arguments.json:
            print_json(audit_json(kernels, result))
        else:
            print_audit(kernels, result, console())
        return 0 if result.passed else 1
    for flag, show in (("source", kernels.source), ("llvm", kernels.llvm), ("asm", kernels.assembly)):
        if name := getattr(arguments, flag):
            text = show(name).rstrip("\n")
            print_json({"name": name, flag: text}) if arguments.json else print(text)
            return 0
    descriptions = kernels.descriptions()
    if arguments.json:
        print_json(({"compiled_for": kernels.heading} if kernels.heading else {}) | {"kernels": descriptions})
    else:
        list_kernels(descriptions, kernels.heading, console())
    return 0


def _model(arguments: ModelArguments) -> int:
    from egg.inspect.model import measure_model, model_json, plot_histograms, print_model
    from egg.view.screen import console, print_json

    model = measure_model(arguments.path)
    _write_file(arguments.plot, lambda path: plot_histograms(model, path))
    print_json(model_json(model)) if arguments.json else print_model(model, console())
    return 0


def _trace(arguments: TraceArguments) -> int:
    from egg.inspect.trace import trace, trace_json
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
    _write_file(arguments.html, lambda path: path.write_text(page(traced, name), "utf-8"))
    _write_file(arguments.plot, lambda path: plot_trace(traced, path))
    if arguments.json:
        print_json(trace_json(traced))
    else:
        print_trace(traced, arguments.byte, console())
    return 0


def _text(arguments: TraceArguments) -> bytes:
    from egg.model.sample import text_bytes

    if (arguments.text is None) == (arguments.text_file is None):
        raise EggError("nothing to trace: give either --text or --text-file")
    if arguments.text is not None:
        return text_bytes(arguments.text)
    if arguments.text_file == "-":
        return sys.stdin.buffer.read()
    with telling(f"--text-file {arguments.text_file}", "; give a text file, or - for standard input"):
        return read_file(arguments.text_file)


def _arithmetic(arguments: ArithmeticArguments) -> int:
    from egg.inspect.arithmetic import measure_arithmetic, plot_arithmetic, print_arithmetic
    from egg.view.screen import console, print_json

    results = measure_arithmetic()
    _write_file(arguments.plot, plot_arithmetic)
    print_json(results) if arguments.json else print_arithmetic(results, console())
    return 0


def _write_file(name: str | None, write) -> None:
    """Write a file, if it has a name, and say so on standard error: standard output may be JSON."""
    if name is None:
        return
    with telling(f"cannot write {name}", "; give another name"):
        write(Path(name))
    say(f"wrote {name}")
