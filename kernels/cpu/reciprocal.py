"""Division by multiplication, where it is exact."""

import numpy as np


def reciprocals() -> tuple[np.ndarray, np.ndarray]:
    """floor(2**s / m) and s = 15 + ceil(log2 m) for the divisors m = 1..127 of the norm, both (128,) int64.

    v // m = (v * factor + factor // 2) >> s for |v| <= 127 * 127, within int32: half a factor moves every quotient away
    from the integers by half of 1 / m, and the factor's error, less than m / 2**s a unit, is smaller than that.
    """
    shifts = np.array([15 + max(m - 1, 0).bit_length() for m in range(128)], np.int64)
    factors = np.array([(1 << int(s)) // max(m, 1) for m, s in enumerate(shifts)], np.int64)
    return factors, shifts
