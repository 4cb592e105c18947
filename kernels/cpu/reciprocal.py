"""Division by multiplication, where it is exact."""

import numpy as np

from egg.kernels.arithmetic import LIMIT


def reciprocals() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factors, shifts and offsets for the divisors m = 1..127 of the norm, each (128,) int64: see ``divide``.

    With 2**shift < m <= 2**(shift + 1) a factor is floor(2**(16 + shift) / m) + 1, below 2**16. It is too large by at
    most one unit, and so is a quotient by at most w / 2**(16 + shift) < 1 / m: w is at most 254 m. For m = 1 it is too
    small instead, and an offset larger by 1 makes up for that.
    """
    m = np.arange(128)
    shifts = np.array([max(0, (int(n) - 1).bit_length() - 1) for n in m], np.int64)
    factors = np.minimum((1 << (16 + shifts)) // np.maximum(1, m) + 1, (1 << 16) - 1)
    return factors, shifts, LIMIT * m + (m == 1)


def divide(v: np.ndarray, m: int) -> tuple[np.ndarray, int]:
    """v // m, limited to [-127, 127], as the kernels have it in 16-bit lanes; and the largest product.

    v : (n,) int64, |v| <= 127 * 127
    """
    factor, shift, offset = (int(table[m]) for table in reciprocals())
    product = (v.clip(-LIMIT * m, LIMIT * m) + offset) * factor  # not negative: below 2**15 times below 2**16
    return (product >> 16 >> shift) - LIMIT, int(product.max())
