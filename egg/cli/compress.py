"""``egg compress`` and ``egg decompress``: a file made small by a model, and back."""

import time
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egg.cli.bar import bar
from egg.cli.options import ComputeFlags, parse, say, target_file
from egg.compute import Compute
from egg.errors import telling
from egg.files import read_file, replace_file
from egg.model.compress import HEADER, MAX_TEXT, compress, decompress
from egg.model.network import Network, read_model

OutName = Annotated[str, Parameter(alias="-o", metavar="OUT")]


@dataclass(frozen=True)
class CompressArguments:
    """Make a file small: the model guesses each byte, and what it is sure of costs little.

    Lossless; the same model brings the file back, with egg decompress, on every machine.

    For example:
      egg compress notes.txt --model runs/quickstart-20261121-101500 -o notes.egg
    """

    file: str
    """What to compress."""
    _: KW_ONLY
    model: str
    """A run (its newest checkpoint), RUN/best, a checkpoint, a folder with a model, or OWNER/NAME on the Hub."""
    out: OutName
    """The compressed file; it replaces what has that name."""
    max_text: int = MAX_TEXT
    """Bytes of the file at the most: it is held in memory."""
    streams: int | None = None
    """Segments that are read side by side, of 256 KiB or more; none: as many as there can be."""
    compute: ComputeFlags = Compute()


@dataclass(frozen=True)
class DecompressArguments:
    """Bring back a file that egg compress made small, with the same model.

    For example:
      egg decompress notes.egg --model runs/quickstart-20261121-101500 -o notes.txt
    """

    file: str
    """What egg compress wrote."""
    _: KW_ONLY
    model: str
    """The model it was compressed with, wherever it is now."""
    out: OutName
    """The file that comes back; it replaces what has that name."""
    max_text: int = MAX_TEXT
    """Bytes of the text at the most, whatever the compressed file claims: it is held in memory."""
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Compress or decompress, as the program's name says; returns the exit status."""
    packing = prog.split()[-1] == "compress"
    arguments = parse(CompressArguments if packing else DecompressArguments, argv, prog=prog)
    source, target = _read(arguments.file, arguments.max_text), target_file(arguments.out, "--out")
    shape, weights, _ = read_model(arguments.model)
    network = Network(arguments.compute.make(say), shape, weights)
    began = time.perf_counter()
    if packing:
        with bar(len(source), "compressing") as read:
            result = compress(network, source, streams=arguments.streams, read=read)
        small, large = len(result), len(source)
    else:
        size = HEADER.unpack(source[: HEADER.size])[3] if len(source) >= HEADER.size else 0
        with bar(size, "decompressing") as read:
            result = decompress(
                network, source, name=arguments.file, model_name=arguments.model, max_text=arguments.max_text, read=read
            )
        small, large = len(source), len(result)
    _write(target, result)
    seconds = time.perf_counter() - began
    share = f", {8 * small / large:.4f} bits per byte" if large else ""
    print(f"{target}: {len(source):,} bytes -> {len(result):,} bytes{share}; {seconds:.1f} s")
    return 0


def _read(path: str, most: int) -> bytes:
    with telling(f"{path}", "; give a file, and --max-text for a large one"):
        return read_file(path, most)


def _write(target: Path, content: bytes) -> None:
    with telling(f"cannot write {target}"):
        replace_file(target, content, follow=True)
