"""``egg compress`` and ``egg decompress``: lossless compression with a model."""

import time
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from egg.cli.bar import bar
from egg.cli.options import ComputeFlags, ModelPath, parse, say, target_file
from egg.compute import Compute
from egg.errors import telling
from egg.files import read_file, replace_file
from egg.model.compress import HEADER, MAX_TEXT, compress, decompress
from egg.model.network import Network, read_model

OutName = Annotated[str, Parameter(alias="-o", metavar="OUT")]


@dataclass(frozen=True)
class CompressArguments:
    """Compress a file: the model predicts each byte, and the likelier the byte, the less it costs.

    Lossless: with the same model egg decompress restores the file, on every machine.

    For example:
      egg compress notes.txt --model pretrained -o notes.egg
    """

    file: str
    """The file to compress."""
    _: KW_ONLY
    model: ModelPath
    out: OutName
    """The compressed file; an existing file is replaced."""
    max_text: int = MAX_TEXT
    """Most bytes that the file may have: it is held in memory."""
    streams: int | None = None
    """Segments that are read side by side, of 256 KiB or more; none: as many as fit."""
    compute: ComputeFlags = Compute()


@dataclass(frozen=True)
class DecompressArguments:
    """Restore a file that egg compress made, with the same model.

    For example:
      egg decompress notes.egg --model pretrained -o notes.txt
    """

    file: str
    """The compressed file."""
    _: KW_ONLY
    model: str
    """The model it was compressed with, wherever that is now."""
    out: OutName
    """The restored file; an existing file is replaced."""
    max_text: int = MAX_TEXT
    """Most bytes to restore, whatever the compressed file claims: they are held in memory."""
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Compress or decompress, as the program's name says; returns the exit status."""
    compressing = prog.split()[-1] == "compress"
    arguments = parse(CompressArguments if compressing else DecompressArguments, argv, prog=prog)
    source, target = _read(arguments.file, arguments.max_text), target_file(arguments.out, "--out")
    shape, weights, _ = read_model(arguments.model)
    size = len(source) if compressing or len(source) < HEADER.size else HEADER.unpack(source[: HEADER.size])[3]
    network = Network(arguments.compute.make(say, work=size * shape.parameters), shape, weights)
    began = time.perf_counter()
    if compressing:
        with bar(size, "compressing") as read:
            result = compress(network, source, streams=arguments.streams, read=read)
        small, large = len(result), len(source)
    else:
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


def _read(path: str, max_text: int) -> bytes:
    with telling(f"{path}", "; give a file, and --max-text for a large one"):
        return read_file(path, max_text)


def _write(target: Path, content: bytes) -> None:
    with telling(f"cannot write {target}"):
        replace_file(target, content, follow=True)
