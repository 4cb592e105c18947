"""Lossless compression: the model predicts each byte, and an arithmetic coder spends the bits that it costs.

The model learns each chunk when it has read it, and the decoder repeats every step; an adapter is merged into the
weights of a model that learns. The file's layout, the steps and the coder are defined in docs/compression.md.
"""

import hashlib
import struct
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from egg.errors import EggError
from egg.kernels import get_coder
from egg.kernels.backend import hold
from egg.model.digest import adapter_digest, digest
from egg.model.learner import Learner
from egg.model.network import Network
from egg.optimizer import STEP_BITS

MAGIC, FORMAT = b"EGGPACK", 3
HEADER = struct.Struct("<7sBHHQ8s8s")  # of formats 2 and 3, and after it the CRC-32 of the file without that
ADAPTED = 4  # the format with an adapter's digest between that header and the CRC-32
HEADER_1 = struct.Struct("<8sIIQQ32s32sI")  # of format 1, and its own CRC-32 after it
OVERHEAD = HEADER.size + 4  # the most that a file is longer than its text
DIGEST = 8  # first bytes of a digest that a header has
SEGMENT = 1 << 18  # least number of bytes in a segment
STREAMS = 1024  # largest default number of segments: bounds memory
ROWS = 1 << 15  # logits held at a time
# A model that learns
STEP_SIZE = round(0.045 * (1 << STEP_BITS))  # by default
LEARNED_SEGMENT = 1 << 15  # least number of bytes in a segment
LEARNED_STREAMS = 8  # largest default number of segments: the fewer, the sooner text is of use to what follows
LEARNED_TEXT = 1 << 14  # a shorter text is not learned by default: it would gain little, and wait for the compiler
CHUNK = 64  # bytes of each segment in a step
MAX_TEXT = 10**9  # default limit of a text, in bytes: it is held in memory


def default_step_size(size: int) -> int:
    """Default step size for a text of ``size`` bytes, in 2**-16 int8 steps; 0: the model does not learn."""
    return STEP_SIZE if size >= LEARNED_TEXT else 0


def default_streams(size: int, step_size: int) -> int:
    """Default number of segments for a text of ``size`` bytes."""
    return min(LEARNED_STREAMS if step_size else STREAMS, _most_streams(size, step_size))


def compress(
    network: Network,
    text: bytes,
    *,
    step_size: int | None = None,
    streams: int | None = None,
    read: Callable[[int], None] | None = None,
) -> bytes:
    """A text's compressed file; the same on every backend and with any number of threads.

    A text whose code would not be shorter than itself is stored: no file is more than OVERHEAD bytes longer.

    step_size : of the model's weights after every chunk of the text, in 2**-16 int8 steps, 0 to 65,535; 0 for a model
        that does not learn; None for the default
    streams : segments, each coded from a fresh state, side by side; None for the default
    read : called from time to time with the number of bytes read since the last call
    Raises EggError for more segments than the text has room for.
    """
    model = digest(network.shape, network.weights)
    adapter = b"" if network.adapter is None else adapter_digest(network.adapter)[:DIGEST]
    step_size = default_step_size(len(text)) if step_size is None else step_size
    if not 0 <= step_size < 1 << STEP_BITS:
        raise EggError(f"--step-size {step_size / (1 << STEP_BITS):g}: must be 0 or more, less than 1")
    most = _most_streams(len(text), step_size)
    streams = default_streams(len(text), step_size) if streams is None else streams
    if not 1 <= streams <= most:
        least = _least(step_size) >> 10
        raise EggError(f"--streams {streams}: {len(text):,} bytes have room for 1 to {most:,} segments of {least} KiB")
    encoder = get_coder(network.backend).Encoder()
    data = np.frombuffer(text, np.uint8)
    sizes, starts = _segments(len(text), streams)
    states = hold(network.backend, network.zero_states(streams))
    before = np.zeros((streams, 1), np.uint8)  # each begins as a document does, after a NUL
    learner = _learner(network, step_size)
    reader = learner or network
    length = CHUNK if learner else max(1, ROWS // streams)
    # While the model reads a piece, another thread codes the one before.
    with ThreadPoolExecutor(1) as coding:
        waiting = deque()
        at = 0
        while at < sizes[0]:
            # All segments advance together, except at the last byte, which only the first ones have.
            end = min(at + length, sizes[-1]) if at < sizes[-1] else sizes[0]
            active = int(np.count_nonzero(sizes > at))
            targets = data[starts[:active, None] + np.arange(at, end)]
            tokens = np.concatenate([before[:active], targets], 1)
            states = states[:active]
            logits, after = reader.forward(tokens[:, :-1], states)
            if learner and end - at == CHUNK:
                learner.learn(tokens, states)
            before, states, at = targets[:, -1:], after, end
            waiting.append(coding.submit(encoder.put, logits, targets))
            if len(waiting) > 2:
                waiting.popleft().result()
            if read:
                read(targets.size)
        for piece in waiting:
            piece.result()
    code = encoder.finish()
    if len(code) + len(adapter) >= len(text):
        streams, code, adapter = 0, text, b""
    kind = ADAPTED if adapter else FORMAT
    checksum = hashlib.sha256(text).digest()
    header = HEADER.pack(MAGIC, kind, streams, step_size, len(text), model[:DIGEST], checksum[:DIGEST]) + adapter
    return header + struct.pack("<I", zlib.crc32(code, zlib.crc32(header))) + code


@dataclass(frozen=True)
class Packed:
    """A compressed file whose header and CRC-32 are found to be right."""

    name: str
    """Of the file, for errors."""
    size: int
    """Bytes of the text, as the file claims."""
    streams: int
    """Segments; 0: the text is stored."""
    step_size: int
    """Of the model as it learns, in 2**-16 int8 steps; 0: it does not."""
    model: bytes
    """The model's digest, or its first bytes."""
    adapter: bytes
    """The first bytes of the adapter's digest; empty: the model has none."""
    checksum: bytes
    """The same of the text's SHA-256."""
    code: bytes
    """The code, or the stored text."""


def decompress(
    network: Network | None,
    packed: Packed,
    *,
    model_name: str,
    max_text: int = MAX_TEXT,
    read: Callable[[int], None] | None = None,
) -> bytes:
    """The text of a compressed file.

    network : the network that it was compressed with; a stored text needs none, and does not look at one
    packed : the file, as ``read_packed`` gives it
    model_name : name of the model in errors
    max_text : largest text to accept, in bytes: a file of a hundred bytes can claim any size
    read : called from time to time with the number of bytes read since the last call
    Raises EggError for a file that claims a longer text, is of another model, or gives a text of another checksum.
    """
    name, size, streams = packed.name, packed.size, packed.streams
    if size > max_text:
        raise EggError(f"{name} claims a text of {size:,} bytes, more than --max-text {max_text:,}")
    text = packed.code if streams == 0 else _decode(network, packed, model_name, read)
    if not hashlib.sha256(text).digest().startswith(packed.checksum):
        raise EggError(f"{name} is damaged: the text does not match its checksum")
    return text


def _decode(network: Network | None, packed: Packed, model_name: str, read: Callable[[int], None] | None) -> bytes:
    """The text of a file's code, not compared with its checksum yet."""
    needed = packed.model.hex()[:16]
    if network is None:
        both = f"model {needed} and adapter {packed.adapter.hex()}: give them with --model and --adapter"
        needed = both if packed.adapter else f"model {needed}: give it with --model"
        raise EggError(f"{packed.name} was compressed with {needed}")
    ours = digest(network.shape, network.weights)
    if not ours.startswith(packed.model):
        raise EggError(
            f"{packed.name} was compressed with another model than {model_name}: "
            f"with {needed}, and this is {ours.hex()[:16]}"
        )
    if network.adapter is None and packed.adapter:
        raise EggError(f"{packed.name} was compressed with adapter {packed.adapter.hex()}: give it with --adapter")
    if network.adapter is not None:
        ours = adapter_digest(network.adapter)[:DIGEST]
        if not packed.adapter:
            raise EggError(f"{packed.name} was compressed without an adapter: leave out --adapter")
        if ours != packed.adapter:
            raise EggError(
                f"{packed.name} was compressed with another adapter: "
                f"with {packed.adapter.hex()}, and this is {ours.hex()}"
            )
    size, streams = packed.size, packed.streams
    decoder = get_coder(network.backend).Decoder(packed.code)
    data = np.empty(size, np.uint8)
    sizes, starts = _segments(size, streams)
    states = first_states = hold(network.backend, network.zero_states(streams))
    before, reported = np.zeros((streams, 1), np.uint8), 0
    learner = _learner(network, packed.step_size)
    reader = learner or network
    chunk = np.zeros((streams, CHUNK + 1), np.uint8)
    for at in range(sizes[0]):
        active = streams if at < sizes[-1] else int(np.count_nonzero(sizes > at))
        logits, states = reader.forward(before[:active], states[:active])
        taken = decoder.take(logits[:, 0])
        data[starts[:active] + at] = taken
        before = taken[:, None]
        if learner:
            chunk[:active, at % CHUNK + 1] = taken
            if at % CHUNK == CHUNK - 1 and at < sizes[-1]:
                learner.learn(chunk, first_states)
                first_states, chunk[:, 0] = states, taken
        if read and at % 1024 == 1023:
            read(1024 * streams)
            reported += 1024 * streams
    if read:
        read(size - reported)
    return data.tobytes()


def _learner(network: Network, step_size: int) -> Learner | None:
    """Who moves the model's weights; None: nobody."""
    # All weights move, which is worth more than an adapter's factors alone.
    return Learner(network.merged(), step_size) if step_size else None


def read_packed(content: bytes, name: str) -> Packed:
    """A file of ``compress``, of format 1 to 4, its header and its CRC-32 checked, and its text and model not yet.

    name : of the file, for errors
    Raises EggError for a file that is damaged, or is not of ``compress``.
    """
    if not content.startswith(MAGIC):
        raise EggError(f"{name} was not written by egg compress: it begins with other bytes")
    kind = int.from_bytes(content[len(MAGIC) : len(MAGIC) + 1])  # 0 in format 1, whose number is in the next field
    if kind not in (0, 2, FORMAT, ADAPTED):
        raise _unknown(name, kind)
    whole = (HEADER if kind else HEADER_1).size + (DIGEST if kind == ADAPTED else 0) + 4
    if len(content) < whole:
        raise EggError(f"{name} is damaged: it ends within its header")
    header, (crc,), code = content[: whole - 4], struct.unpack("<I", content[whole - 4 : whole]), content[whole:]
    if zlib.crc32(code if kind else b"", zlib.crc32(header)) != crc:
        raise EggError(f"{name} is damaged: it does not match its checksum")
    if kind:
        _, _, streams, step_size, size, model, checksum = HEADER.unpack(header[: HEADER.size])
        if streams == 0 and len(code) != size:
            raise EggError(f"{name} is damaged: it stores {len(code):,} bytes, not {size:,}")
    else:
        _, number, streams, size, length, model, checksum, code_crc = HEADER_1.unpack(header)
        if number != 1:
            raise _unknown(name, number)
        if len(code) != length:
            raise EggError(f"{name} is damaged: it has {len(code):,} bytes of code, not {length:,}")
        if zlib.crc32(code) != code_crc:
            raise EggError(f"{name} is damaged: its code does not match its checksum")
        step_size = 0
    adapter = header[HEADER.size :] if kind == ADAPTED else b""
    if kind == 2 and step_size:
        raise EggError(f"{name} is damaged: format 2 has no step size")
    if not (0 if kind in (2, FORMAT) else 1) <= streams <= _most_streams(size, step_size):
        raise EggError(f"{name} is damaged: {size:,} bytes cannot be in {streams:,} segments")
    return Packed(name, size, streams, step_size, model, adapter, checksum, code)


def _unknown(name: str, number: int) -> EggError:
    return EggError(
        f"{name} has format {number}, this program reads 1 to {ADAPTED}: decompress with the version that wrote it"
    )


def _least(step_size: int) -> int:
    """Least number of bytes in a segment."""
    return LEARNED_SEGMENT if step_size else SEGMENT


def _most_streams(size: int, step_size: int) -> int:
    """Segments that a text has room for."""
    return max(1, min(size // _least(step_size), (1 << 16) - 1))


def _segments(size: int, streams: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and starts of a text's segments, int64: as equal as possible, the longer ones first."""
    sizes = np.full(streams, size // streams, np.int64)
    sizes[: size % streams] += 1
    return sizes, np.cumsum(sizes) - sizes
