"""``egg sample``: text from a model, shown while it is generated."""

import codecs
import sys
import time
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, TextIO

from cyclopts import Parameter

from egg.cli.options import FLAT, AnyText, ComputeFlags, ModelPath, parse, say
from egg.compute import Compute
from egg.errors import EggError, telling
from egg.files import read_file
from egg.model.adapter import read_adapter
from egg.model.network import Network, read_model
from egg.model.sample import Sampling, in_order, stream, text_bytes
from egg.view.screen import CONTROLS


@dataclass(frozen=True)
class SampleArguments:
    """Generate text: the prompt, and the model's continuation, byte by byte.

    Text is printed as UTF-8, with the replacement character for invalid bytes. A sample ends at its length, or where
    the model ends the document with a NUL byte.

    For example:
      egg sample pretrained --prompt "def "
      egg sample runs/quickstart-20261121-101500 --prompt "def main" --temperature 0.7
    """

    path: ModelPath
    _: KW_ONLY
    sampling: Annotated[Sampling, FLAT] = Sampling()
    adapter: Annotated[str | None, Parameter(metavar="FILE")] = None
    """Adapter to use with the model: adapter.safetensors of egg adapt, or its folder."""
    prompt: AnyText = None
    """Beginning of the document; none: the model begins it."""
    prompt_file: AnyText = None
    """File with the prompt, byte for byte; - is standard input."""
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Sample as the arguments say; returns the exit status."""
    arguments = parse(SampleArguments, argv, prog=prog)
    prompt = _prompt(arguments)
    shape, weights, _ = read_model(arguments.path)
    adapter = read_adapter(arguments.adapter, shape, weights) if arguments.adapter else None
    network = Network(arguments.compute.make(say, tiered=True), shape, weights, adapter)
    sampling = arguments.sampling
    began = time.perf_counter()
    pieces = in_order(stream(network, prompt, sampling), sampling)
    sizes = _show(pieces, prompt, sampling.count, Screen(sys.stdout))
    seconds = time.perf_counter() - began
    ended = sum(size < sampling.length for size in sizes)
    samples = "1 sample" if sampling.count == 1 else f"{sampling.count:,} samples"
    say(f"{sum(sizes):,} bytes in {samples}, {ended:,} ended by the model; {seconds:.1f} s")
    return 0


def _prompt(arguments: SampleArguments) -> bytes:
    if arguments.prompt_file is None:
        return text_bytes(arguments.prompt or "")
    if arguments.prompt is not None:
        raise EggError("--prompt and --prompt-file: give one of them")
    if arguments.prompt_file == "-":
        if sys.stdin.isatty():
            say("reading the prompt from the terminal, to the end of input")
        return sys.stdin.buffer.read()
    with telling(f"--prompt-file {arguments.prompt_file}", "; give a text file, or - for standard input"):
        return read_file(arguments.prompt_file)


class Screen:
    """Writes bytes as UTF-8 text, each character once it is complete."""

    def __init__(self, out: TextIO):
        out.reconfigure(encoding="utf-8")  # whatever the locale: the model's text is UTF-8
        self._out, self._replace_controls = out, out.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._last = "\n"

    def write(self, data: bytes, *, final: bool = False) -> None:
        """Write bytes, except the beginning of a character, which waits for its end unless ``final``."""
        text = self._decoder.decode(data, final)
        if self._replace_controls:
            text = text.translate(CONTROLS)
        if text:
            self._out.write(text)
            self._out.flush()
            self._last = text[-1]

    def end(self) -> None:
        """End a text, and its line."""
        self.write(b"", final=True)
        if self._last != "\n":
            self.write(b"\n")


def _show(pieces, prompt: bytes, count: int, screen: Screen) -> list[int]:
    """Print samples one after another, with headers if there are several; returns their sizes."""
    sizes = []
    try:
        for number, piece in pieces:
            if number == len(sizes):
                screen.end()
                sizes.append(0)
                if count > 1:
                    screen.write(f"--- {number + 1} of {count} ---\n".encode())
                screen.write(prompt)
            text = piece.removesuffix(b"\0")
            screen.write(text)
            sizes[-1] += len(text)
        screen.end()
    except KeyboardInterrupt:
        screen.end()  # the message that follows begins a line
        raise
    return sizes
