"""Compression of texts by other programs and by models: bytes, and time each way.

A figure counts only if the text comes back, byte for byte.
"""

import bz2
import gzip
import lzma
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from egg.model.compress import compress, decompress, read_packed
from egg.model.network import Network

MAX_REPEATS = 9
SIZE = struct.Struct("<Q")
PPMD = {"ppmd, order 6": (6, 16 << 20), "ppmd, order 32": (32, 192 << 20)}
"""Name -> order, bytes of memory: PPMd variant H as 7z -m0=ppmd has it, and with -mx=9."""
PPMD_MISSING = "pip install 'egg-lm[ppmd]'"


@dataclass(frozen=True)
class Compressor:
    """A program at some level, or a model, that makes texts smaller."""

    name: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Compression:
    """What a compressor made of a text, or of several, each by itself."""

    compressor: str
    text_bytes: int
    packed_bytes: int
    """With headers and checksums."""
    compress_seconds: float
    """The median of all repeats."""
    decompress_seconds: float
    repeats: int
    restored: bool
    """Whether the text came back. If not, the other figures mean nothing."""

    @property
    def bits_per_byte(self) -> float:
        """Bits of the compressed text for each byte of the text."""
        return 8 * self.packed_bytes / self.text_bytes

    @property
    def rates(self) -> tuple[float, float]:
        """Megabytes (10^6 bytes) of text per second, compressed and decompressed."""
        return self.text_bytes / self.compress_seconds / 1e6, self.text_bytes / self.decompress_seconds / 1e6


def other_programs() -> tuple[list[Compressor], dict[str, str]]:
    """The compressors that are installed, and what is missing: name -> how to install it."""
    import zstandard

    def zstd(text: bytes, level: int) -> bytes:
        return zstandard.ZstdCompressor(level=level, write_checksum=True).compress(text)  # as the program does

    found = [
        Compressor("gzip -9", partial(gzip.compress, compresslevel=9, mtime=0), gzip.decompress),
        Compressor("bzip2 -9", partial(bz2.compress, compresslevel=9), bz2.decompress),
        Compressor("xz -9", partial(lzma.compress, preset=9), lzma.decompress),
        Compressor("xz -9e", partial(lzma.compress, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
        Compressor("zstd -19", partial(zstd, level=19), zstandard.decompress),
        Compressor("zstd --ultra -22", partial(zstd, level=22), zstandard.decompress),
    ]
    try:
        import pyppmd
    except ImportError:
        return found, dict.fromkeys(PPMD, PPMD_MISSING)

    def ppmd(text: bytes, order: int, memory: int) -> bytes:
        encoder = pyppmd.Ppmd7Encoder(order, memory)
        return SIZE.pack(len(text)) + encoder.encode(text) + encoder.flush()  # the code does not say where it ends

    def unppmd(packed: bytes, order: int, memory: int) -> bytes:
        return pyppmd.Ppmd7Decoder(order, memory).decode(packed[SIZE.size :], *SIZE.unpack(packed[: SIZE.size]))

    for name, (order, memory) in PPMD.items():
        found.append(
            Compressor(name, partial(ppmd, order=order, memory=memory), partial(unppmd, order=order, memory=memory))
        )
    return found, {}


def model_compressor(model_name: str, network: Network) -> Compressor:
    """``egg compress`` with a model, whose kernels are compiled now, and not while it is timed."""

    def restore(packed: bytes) -> bytes:
        return decompress(network, read_packed(packed, "the compressed text"), model_name=model_name)

    restore(compress(network, bytes(16)))  # a text of NULs is coded by every model
    return Compressor(f"egg compress, {model_name}", partial(compress, network), restore)


def measure(compressor: Compressor, text: bytes, seconds: float) -> Compression:
    """Compress and restore a text, again and again until ``seconds`` have passed, at most MAX_REPEATS times.

    text : a byte or more
    """
    began, times, packed, restored = time.perf_counter(), [], b"", True
    while restored and (not times or (len(times) < MAX_REPEATS and time.perf_counter() < began + seconds)):
        start = time.perf_counter()
        packed = compressor.compress(text)
        middle = time.perf_counter()
        back = compressor.decompress(packed)
        times.append((middle - start, time.perf_counter() - middle))
        restored = back == text
    there, again = (statistics.median(column) for column in zip(*times, strict=True))
    return Compression(compressor.name, len(text), len(packed), there, again, len(times), restored)


def sum_of(parts: list[Compression]) -> Compression:
    """One compressor's figures on several texts, each compressed by itself."""
    return Compression(
        parts[0].compressor,
        sum(part.text_bytes for part in parts),
        sum(part.packed_bytes for part in parts),
        sum(part.compress_seconds for part in parts),
        sum(part.decompress_seconds for part in parts),
        min(part.repeats for part in parts),
        all(part.restored for part in parts),
    )
