"""``egg.kernels.coder``, compiled: a byte costs two passes over its 256 logits."""

import numpy as np
from numba import njit, uint64

from egg.kernels.arithmetic import coding_table
from egg.kernels.coder import FULL
from egg.kernels.cpu.structures import JIT

BYTES_AT_MOST = 3  # of code for a byte: log2(2**34 / 1116) < 24 bits


class Encoder:
    """As ``egg.kernels.coder.Encoder``."""

    def __init__(self) -> None:
        self._state = np.array([0, FULL], np.uint64)
        self._out, self._at = np.empty(1 << 16, np.uint8), 0

    def put(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """As ``egg.kernels.coder.Encoder.put``."""
        needed = self._at + BYTES_AT_MOST * targets.size + 16
        if needed > self._out.size:
            self._out = np.concatenate([self._out, np.empty(needed, np.uint8)])  # at least twice
        logits, targets = np.ascontiguousarray(logits), np.ascontiguousarray(targets)
        self._at = _put(logits, targets, coding_table(), self._state, self._out, self._at)

    def finish(self) -> bytes:
        """As ``egg.kernels.coder.Encoder.finish``."""
        self._at = _finish(self._state, self._out, self._at)
        return self._out[: self._at].tobytes().rstrip(b"\0")


class Decoder:
    """As ``egg.kernels.coder.Decoder``."""

    def __init__(self, code: bytes):
        self._code = np.frombuffer(code, np.uint8)
        first = int.from_bytes(code[:8].ljust(8, b"\0"))
        self._state = np.array([first, FULL, 8], np.uint64)  # offset, range, bytes read

    def take(self, logits: np.ndarray) -> np.ndarray:
        """As ``egg.kernels.coder.Decoder.take``."""
        taken = np.empty(len(logits), np.uint8)
        _take(np.ascontiguousarray(logits), coding_table(), self._state, self._code, taken)
        return taken


@njit(**JIT)
def _largest(row):
    """The largest of a row of logits.

    row : (256,) int8
    """
    largest = row[0]
    for v in range(1, 256):
        largest = max(largest, row[v])
    return largest


@njit(**JIT)
def _carry(out, at):
    """Add one to the byte before ``at``, and to those before it while they overflow.

    out : (size,) uint8
    """
    at -= 1
    while out[at] == 255:
        out[at] = 0
        at -= 1
    out[at] += 1


@njit(**JIT)
def _put(logits, targets, table, state, out, at):
    """Narrow the interval by each byte; returns where the code ends now.

    logits : (streams, T, 256) int8
    targets : (streams, T) uint8
    table : (255,) uint64
    state : (2,) uint64, the interval's beginning and its range
    out : (size,) uint8, the code
    """
    low, range_ = state[0], state[1]
    for t in range(targets.shape[1]):
        for stream in range(targets.shape[0]):
            row, target = logits[stream, t], targets[stream, t]
            largest = np.int64(_largest(row))
            begin = uint64(0)
            for v in range(target):
                begin += table[largest - row[v]]
            weight = table[largest - row[target]]
            total = begin + weight
            for v in range(np.int64(target) + 1, 256):
                total += table[largest - row[v]]
            unit = range_ // total
            before = low
            low += unit * begin
            if low < before:
                _carry(out, at)
            range_ = unit * weight
            while range_ < uint64(1 << 56):
                out[at] = low >> uint64(56)
                at += 1
                low <<= uint64(8)
                range_ <<= uint64(8)
    state[0], state[1] = low, range_
    return at


@njit(**JIT)
def _finish(state, out, at):
    """Write the last byte; returns where the code ends.

    state : (2,) uint64
    out : (size,) uint8
    """
    if state[0] > uint64(255 << 56):  # rounded up it is 256
        _carry(out, at)
        return at
    out[at] = (state[0] + uint64((1 << 56) - 1)) >> uint64(56)
    return at + 1


@njit(**JIT)
def _take(logits, table, state, code, taken):
    """The next byte of every stream.

    logits : (streams, 256) int8
    table : (255,) uint64
    state : (3,) uint64, offset, range and bytes read
    code : (size,) uint8
    taken : (streams,) uint8, written
    """
    offset, range_, at = state[0], state[1], np.int64(state[2])
    weights = np.empty(256, np.uint64)
    for stream in range(logits.shape[0]):
        row = logits[stream]
        largest = np.int64(_largest(row))
        total = uint64(0)
        for v in range(256):
            weights[v] = table[largest - row[v]]
            total += weights[v]
        unit = range_ // total
        place = min(offset // unit, total - uint64(1))
        begin, byte = uint64(0), 0
        while begin + weights[byte] <= place:
            begin += weights[byte]
            byte += 1
        taken[stream] = byte
        offset -= unit * begin
        range_ = unit * weights[byte]
        while range_ < uint64(1 << 56):
            offset <<= uint64(8)
            if at < code.size:
                offset |= uint64(code[at])
            at += 1
            range_ <<= uint64(8)
    state[0], state[1], state[2] = offset, range_, uint64(at)
