"""Arithmetic coding of bytes by a model's logits, in integers: docs/compression.md is its definition bit for bit.

A range coder: the code is a number in [0, 1), written byte by byte, that lies in an interval which each byte
narrows to its share. ``egg.kernels.cpu.coder`` is the same, compiled.
"""

import numpy as np

from egg.kernels.arithmetic import coding_table

FLOOR = 1 << 56  # the range stays at or above it: 2**22 times what weights can sum to
FULL = (1 << 64) - 1  # the range at the beginning, and the mask of 64 bits


class Encoder:
    """Writes bytes into one code."""

    def __init__(self) -> None:
        self._low, self._range, self._out = 0, FULL, bytearray()

    def put(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """Append bytes: the first of every stream, then the second of every stream, and so on.

        logits : (streams, T, 256) int8 in sixteenths of a bit
        targets : (streams, T) uint8
        """
        for t in range(targets.shape[1]):
            cumulative = cumulative_weights(logits[:, t])
            ends = np.take_along_axis(cumulative, targets[:, t, None].astype(np.int64) + 1, 1)
            begins = np.take_along_axis(cumulative, targets[:, t, None].astype(np.int64), 1)
            for begin, end, total in zip(
                begins[:, 0].tolist(), ends[:, 0].tolist(), cumulative[:, -1].tolist(), strict=True
            ):
                self._narrow(begin, end - begin, total)

    def _narrow(self, begin: int, weight: int, total: int) -> None:
        unit = self._range // total  # >= 2**22
        self._low += unit * begin
        self._range = unit * weight
        if self._low > FULL:
            self._low &= FULL
            self._carry()
        while self._range < FLOOR:
            self._out.append(self._low >> 56)
            self._low = self._low << 8 & FULL
            self._range <<= 8

    def _carry(self) -> None:
        at = len(self._out) - 1
        while self._out[at] == 255:
            self._out[at] = 0
            at -= 1
        self._out[at] += 1  # there is one: the code is below 1

    def finish(self) -> bytes:
        """The code, without the zeros it ends with."""
        # The range holds a multiple of 2**56: one more byte says where in it the code lies.
        last = -(-self._low >> 56)
        if last == 256:
            self._carry()
        elif last:
            self._out.append(last)
        return bytes(self._out).rstrip(b"\0")


class Decoder:
    """Reads bytes back."""

    def __init__(self, code: bytes):
        self._code = code
        self._at, self._offset, self._range = 8, int.from_bytes(code[:8].ljust(8, b"\0")), FULL

    def take(self, logits: np.ndarray) -> np.ndarray:
        """The next byte of every stream.

        logits : (streams, 256) int8 in sixteenths of a bit, those the bytes were put with
        returns : (streams,) uint8; of a code that no encoder wrote, any bytes
        """
        taken = np.empty(len(logits), np.uint8)
        for stream, row in enumerate(cumulative_weights(logits)):
            total = int(row[-1])
            unit = self._range // total
            place = min(self._offset // unit, total - 1)
            byte = int(np.searchsorted(row, place, side="right")) - 1
            taken[stream] = byte
            begin, end = int(row[byte]), int(row[byte + 1])
            self._offset -= unit * begin
            self._range = unit * (end - begin)
            while self._range < FLOOR:
                following = self._code[self._at] if self._at < len(self._code) else 0
                self._at += 1
                self._offset = (self._offset << 8 | following) & FULL
                self._range <<= 8
        return taken


def cumulative_weights(logits: np.ndarray) -> np.ndarray:
    """(n, 257) int64 from (n, 256) int8: the sums of the weights of the bytes below each, and of all of them."""
    below = logits.max(1, keepdims=True).astype(np.int64) - logits
    cumulative = np.zeros((len(logits), 257), np.int64)
    np.cumsum(coding_table().astype(np.int64)[below], axis=1, out=cumulative[:, 1:])
    return cumulative
