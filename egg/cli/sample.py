"""``egg sample``: text from a model, shown while it is generated."""

import codecs
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, TextIO

from cyclopts import Parameter

from egg.cli.options import FLAT, AnyText, ComputeFlags, ModelPath, parse, say
from egg.compute import Compute
from egg.errors import EggError, telling
from egg.files import read_file
from egg.model.adapter import read_adapter
from egg.model.network import Network, read_model
from egg.model.sample import Conversation, Sampling, in_order, stream, text_bytes
from egg.view.screen import CONTROLS


@dataclass(frozen=True)
class SampleArguments:
    """Generate text: the prompt, and the model's continuation, byte by byte.

    Text is printed as UTF-8, with the replacement character for invalid bytes. A sample ends at its length, or where
    the model ends the document with a NUL byte.

    For example:
      egg sample pretrained --prompt "def "
      egg sample runs/quickstart-20261121-101500 --prompt "def main" --temperature 0.7 --top-p 0.9
      egg sample pretrained --interactive --temperature 0.7 --stop $'\\n\\n'
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
    interactive: bool = False
    """Read lines from standard input, and continue each from where the last continuation ended; Ctrl-D ends."""
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Sample as the arguments say; returns the exit status."""
    arguments = parse(SampleArguments, argv, prog=prog)
    if arguments.interactive and arguments.prompt_file == "-":
        raise EggError("--interactive reads lines from standard input: give --prompt-file a file, or leave it out")
    if sys.stdin is None and (arguments.interactive or arguments.prompt_file == "-"):
        raise EggError("standard input is closed: open it, or give --prompt or --prompt-file FILE alone")
    if arguments.interactive and arguments.sampling.count != 1:
        raise EggError("--interactive writes one text: leave out --count")
    prompt = _prompt(arguments)
    shape, weights, _ = read_model(arguments.path)
    adapter = read_adapter(arguments.adapter, shape, weights) if arguments.adapter else None
    network = Network(arguments.compute.make(say, tiered=True), shape, weights, adapter)
    sampling = arguments.sampling
    if arguments.interactive:
        _converse(Conversation(network, sampling), prompt)
        return 0
    began = time.perf_counter()
    pieces = in_order(stream(network, prompt, sampling), sampling)
    sizes = _show(pieces, prompt, sampling.count, Screen(sys.stdout))
    seconds = time.perf_counter() - began
    ended = sum(size < sampling.length for size in sizes)
    samples = "1 sample" if sampling.count == 1 else f"{sampling.count:,} samples"
    by = "by the model or a stop" if sampling.stop else "by the model"
    say(f"{sum(sizes):,} bytes in {samples}, {ended:,} ended {by}; {seconds:.1f} s")
    return 0


def _converse(conversation: Conversation, prompt: bytes) -> None:
    """Continue the prompt, if there is one, and then each line of standard input, to its end.

    A line begins on a line of its own: a newline is read before it unless the document has just begun, or ended with
    one. An empty line continues the document as it is.
    """
    screen, terminal = Screen(sys.stdout), sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401, input() edits lines with it
        say("A line is continued, an empty one continues the text; Ctrl-D ends.")
    last = b""  # byte of the document
    try:
        for line in _lines(prompt, "> " if terminal else ""):
            begin = b"\n" if line and last not in (b"", b"\n") else b""
            screen.write(line if terminal else begin + line)
            text = begin + line
            for piece in conversation.turn(text):
                screen.write(piece.removesuffix(b"\0"))
                text += piece
            if terminal:
                screen.end()
            last = text[-1:] or last
            if last == b"\0":
                say("the model has ended the document: the next line begins another")
                last = b""
    finally:
        screen.end()


def _lines(prompt: bytes, question: str) -> Iterator[bytes]:
    """The prompt, if there is one, and the lines of standard input, without their newlines."""
    if prompt:
        yield prompt
    sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        try:
            line = input(question)
        except EOFError:
            if question:
                print()
            return
        yield text_bytes(line, "line")


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
