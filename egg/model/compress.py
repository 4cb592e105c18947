"""Lossless compression: the model predicts each byte, and an arithmetic coder spends the bits that it costs.

The file's layout and the coder are defined in docs/compression.md.
"""

import hashlib
import struct
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from egg.errors import EggError
from egg.kernels import get_coder
from egg.model.digest import digest
from egg.model.network import Network

MAGIC, VERSION = b"EGGPACK\0", 1
HEADER = struct.Struct("<8sIIQQ32s32sI")  # and its own CRC-32 after it
SEGMENT = 1 << 18  # least number of bytes in a segment
STREAMS = 1024  # largest default number of segments: bounds memory
ROWS = 1 << 15  # logits held at a time
MAX_TEXT = 10**9  # default limit of a text, in bytes: it is held in memory


def default_streams(size: int) -> int:
    """Default number of segments for a text of ``size`` bytes: as many as possible, for speed."""
    return max(1, min(STREAMS, size // SEGMENT))


def compress(
    network: Network, text: bytes, *, streams: int | None = None, read: Callable[[int], None] | None = None
) -> bytes:
    """A text's compressed file; the same on every backend and with any number of threads.

    streams : segments, each coded from a fresh state, side by side; None for as many as possible, up to STREAMS
    read : called from time to time with the number of bytes read since the last call
    Raises EggError for more segments than the text has room for, and for a network with an adapter.
    """
    model = _model(network)
    most = max(1, len(text) // SEGMENT)
    streams = default_streams(len(text)) if streams is None else streams
    if not 1 <= streams <= most:
        raise EggError(
            f"--streams {streams}: {len(text):,} bytes have room for 1 to {most:,} segments of {SEGMENT >> 10} KiB"
        )
    encoder = get_coder(network.backend).Encoder()
    data = np.frombuffer(text, np.uint8)
    sizes, starts = _segments(len(text), streams)
    states = network.zero_states(streams)
    before = np.zeros((streams, 1), np.uint8)  # each begins as a document does, after a NUL
    length = max(1, ROWS // streams)
    # While the model reads a piece, another thread codes the one before.
    with ThreadPoolExecutor(1) as coding:
        waiting = deque()
        at = 0
        while at < sizes[0]:
            # All segments advance together, except at the last byte, which only the first ones have.
            end = min(at + length, sizes[-1]) if at < sizes[-1] else sizes[0]
            active = int(np.count_nonzero(sizes > at))
            targets = data[starts[:active, None] + np.arange(at, end)]
            inputs = np.concatenate([before[:active], targets[:, :-1]], 1)
            logits, states = network.forward(inputs, states[:active])
            before, at = targets[:, -1:], end
            waiting.append(coding.submit(encoder.put, logits, targets))
            if len(waiting) > 2:
                waiting.popleft().result()
            if read:
                read(targets.size)
        for piece in waiting:
            piece.result()
    code = encoder.finish()
    header = HEADER.pack(
        MAGIC, VERSION, streams, len(text), len(code), model, hashlib.sha256(text).digest(), zlib.crc32(code)
    )
    return header + struct.pack("<I", zlib.crc32(header)) + code


def decompress(
    network: Network,
    packed: bytes,
    *,
    name: str,
    model_name: str,
    max_text: int = MAX_TEXT,
    read: Callable[[int], None] | None = None,
) -> bytes:
    """The text of a compressed file.

    network : the network that it was compressed with
    name, model_name : names of the file and the model in errors
    max_text : largest text to accept, in bytes: a file of a hundred bytes can claim any size
    read : called from time to time with the number of bytes read since the last call
    Raises EggError for a file that is damaged, is not of ``compress``, claims a longer text, or is of another model.
    """
    size, streams, checksum, code = _open(_model(network), packed, name, model_name)
    if size > max_text:
        raise EggError(f"{name} claims a text of {size:,} bytes, more than --max-text {max_text:,}")
    decoder = get_coder(network.backend).Decoder(code)
    data = np.empty(size, np.uint8)
    sizes, starts = _segments(size, streams)
    states = network.zero_states(streams)
    before, reported = np.zeros((streams, 1), np.uint8), 0
    for at in range(sizes[0]):
        active = streams if at < sizes[-1] else int(np.count_nonzero(sizes > at))
        logits, states = network.forward(before[:active], states[:active])
        taken = decoder.take(logits[:, 0])
        data[starts[:active] + at] = taken
        before = taken[:, None]
        if read and at % 1024 == 1023:
            read(1024 * streams)
            reported += 1024 * streams
    if read:
        read(size - reported)
    text = data.tobytes()
    if hashlib.sha256(text).digest() != checksum:
        raise EggError(f"{name} is damaged: the text does not match its checksum")
    return text


def _model(network: Network) -> bytes:
    """The model's digest for a file's header, which has no place for an adapter."""
    if network.adapter is not None:
        raise EggError("a compressed file names only a model: merge the adapter into its weights (egg adapt merge)")
    return digest(network.shape, network.weights)


def _open(ours: bytes, packed: bytes, name: str, model_name: str):
    """Size, streams, checksum and code of a file, after checking its header, its code and its model."""
    if packed[: len(MAGIC)] != MAGIC:
        raise EggError(f"{name} was not written by egg compress: it begins with other bytes")
    whole = HEADER.size + 4
    if len(packed) < whole:
        raise EggError(f"{name} is damaged: it ends within its header")
    header, (crc,) = packed[: HEADER.size], struct.unpack("<I", packed[HEADER.size : whole])
    if zlib.crc32(header) != crc:
        raise EggError(f"{name} is damaged: its header does not match its checksum")
    _, version, streams, size, length, model, checksum, code_crc = HEADER.unpack(header)
    if version != VERSION:
        raise EggError(
            f"{name} has format {version}, this program reads {VERSION}: decompress with the version that wrote it"
        )
    if not 1 <= streams <= max(1, size // SEGMENT):
        raise EggError(f"{name} is damaged: {size:,} bytes cannot be in {streams:,} segments")
    if len(packed) != whole + length:
        has = f"it has {len(packed) - whole:,} bytes of code, not {length:,}"
        raise EggError(f"{name} is damaged: {has}")
    code = packed[whole:]
    if zlib.crc32(code) != code_crc:
        raise EggError(f"{name} is damaged: its code does not match its checksum")
    if model != ours:
        raise EggError(
            f"{name} was compressed with another model than {model_name}: "
            f"with {model.hex()[:16]}, and this is {ours.hex()[:16]}"
        )
    return size, streams, checksum, code


def _segments(size: int, streams: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and starts of a text's segments, int64: as equal as possible, the longer ones first."""
    sizes = np.full(streams, size // streams, np.int64)
    sizes[: size % streams] += 1
    return sizes, np.cumsum(sizes) - sizes
