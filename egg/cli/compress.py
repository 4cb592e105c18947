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
from egg.model.adapter import read_adapter
from egg.model.compress import MAX_TEXT, OVERHEAD, compress, decompress, default_step_size, read_packed
from egg.model.network import Network, read_model
from egg.optimizer import STEP_BITS

AdapterFile = Annotated[str | None, Parameter(metavar="FILE")]
OutName = Annotated[str, Parameter(alias="-o", metavar="OUT")]


@dataclass(frozen=True)
class CompressArguments:
    """Compress a file: the model predicts each byte, and the likelier the byte, the less it costs.

    In a file of 16 KiB or more the model learns each chunk when it has read it, by evolution, as in training; egg
    decompress repeats every step. Lossless: with the same model egg decompress restores the file, on every machine. A
    file that would not become smaller is stored: it grows by 40 bytes, and needs no model to be restored.

    For example:
      egg compress notes.txt --model pretrained -o notes.egg
      egg compress notes.txt --model pretrained --adapter runs/letters -o notes.egg
    """

    file: str
    """The file to compress."""
    _: KW_ONLY
    model: ModelPath
    adapter: AdapterFile = None
    """Adapter to use with the model: adapter.safetensors of egg adapt, or its folder; where the model learns, it is
    merged into the weights. egg decompress needs it too."""
    out: OutName
    """The compressed file; an existing file is replaced."""
    max_text: int = MAX_TEXT
    """Most bytes that the file may have: it is held in memory."""
    step_size: float | None = None
    """Size of a weight's moves as the model learns the file, in int8 steps; 0: it does not learn, which is faster, and
    much larger if the file is long; none: 0.045, and 0 for a file of less than 16 KiB."""
    streams: int | None = None
    """Segments that are read side by side: the more, the faster, and the larger; none: one for each 32 KiB, 8 at the
    most; if the model does not learn one for each 256 KiB, 1,024 at the most."""
    compute: ComputeFlags = Compute()


@dataclass(frozen=True)
class DecompressArguments:
    """Restore a file that egg compress made, with the same model; a stored one needs none.

    For example:
      egg decompress notes.egg --model pretrained -o notes.txt
    """

    file: str
    """The compressed file."""
    _: KW_ONLY
    model: str | None = None
    """The model it was compressed with, wherever that is now; none: the file must be a stored one."""
    adapter: AdapterFile = None
    """The adapter it was compressed with, if there was one."""
    out: OutName
    """The restored file; an existing file is replaced."""
    max_text: int = MAX_TEXT
    """Most bytes to restore, whatever the compressed file claims: they are held in memory."""
    compute: ComputeFlags = Compute()


def main(argv: list[str], prog: str) -> int:
    """Compress or decompress, as the program's name says; returns the exit status."""
    compressing = prog.split()[-1] == "compress"
    arguments = parse(CompressArguments if compressing else DecompressArguments, argv, prog=prog)
    target = target_file(arguments.out, "--out")
    before, after, seconds = (_compress if compressing else _decompress)(arguments, target)
    text, packed = (before, after) if compressing else (after, before)
    share = f", {8 * packed / text:.4f} bits per byte" if text else ""
    note = ", stored: its code would not be shorter" if compressing and packed == text + OVERHEAD else ""
    print(f"{target}: {before:,} bytes -> {after:,} bytes{share}{note}; {seconds:.1f} s")
    return 0


def _compress(arguments: CompressArguments, target: Path) -> tuple[int, int, float]:
    """Bytes before and after, and seconds."""
    text = _read(arguments.file, arguments.max_text)
    if arguments.step_size is None:
        step_size = default_step_size(len(text))
    else:
        step_size = round(arguments.step_size * (1 << STEP_BITS))
    network = _network(arguments, len(text), learns=step_size != 0)
    began = time.perf_counter()
    with bar(len(text), "compressing") as read:
        result = compress(network, text, step_size=step_size, streams=arguments.streams, read=read)
    _write(target, result)
    return len(text), len(result), time.perf_counter() - began


def _decompress(arguments: DecompressArguments, target: Path) -> tuple[int, int, float]:
    """Bytes before and after, and seconds."""
    content = _read(arguments.file, arguments.max_text + OVERHEAD)
    packed = read_packed(content, arguments.file)
    coded = arguments.model is not None and packed.streams
    network = _network(arguments, packed.size, learns=packed.step_size != 0) if coded else None
    began = time.perf_counter()
    with bar(packed.size, "decompressing") as read:
        text = decompress(network, packed, model_name=arguments.model or "", max_text=arguments.max_text, read=read)
    _write(target, text)
    return len(content), len(text), time.perf_counter() - began


def _network(arguments: CompressArguments | DecompressArguments, size: int, learns: bool) -> Network:
    """The model, on a backend that suits a text of ``size`` bytes."""
    shape, weights, _ = read_model(arguments.model)
    adapter = read_adapter(arguments.adapter, shape, weights) if arguments.adapter else None
    work = None if learns else size * shape.parameters
    return Network(arguments.compute.make(say, work=work), shape, weights, adapter)


def _read(path: str, max_text: int) -> bytes:
    with telling(f"{path}", "; give a file, and --max-text for a large one"):
        return read_file(path, max_text)


def _write(target: Path, content: bytes) -> None:
    with telling(f"cannot write {target}"):
        replace_file(target, content, follow=True)
