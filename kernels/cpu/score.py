"""The integer score of a byte from 256 logits."""

from numba import njit

from egg.kernels.cpu.simd import exp2, leading_zeros, load_byte, load_i8, load_long, splat, total
from egg.kernels.cpu.structures import JIT


@njit(**JIT)
def floor_log2(v, thresholds, log2_fraction):
    """floor(fraction * log2(v / 16)) of 16 <= v < 2**32: the top bit, then a search of the mantissa without branches.

    thresholds : address of (fraction,) int64, ceil(2**(31 + j / fraction))
    """
    top = 63 - leading_zeros(v)
    mantissa = v << (31 - top)
    low = 0
    step = 1 << (log2_fraction - 1)
    for _ in range(log2_fraction):
        low += step * (mantissa >= load_long(thresholds + 8 * (low + step)))
        step >>= 1
    return ((top - 4) << log2_fraction) + low


@njit(**JIT)
def score(logits, target, tables):
    """Integer score of a target byte from 256 logits at an address, in 1/16 bit."""
    sums = splat(0)
    for j in range(0, 256, 16):
        sums = sums + exp2(tables.exp2, load_i8(logits + j) + splat(128))
    # The total is below 2**28.
    return load_byte(logits + target) + 128 - floor_log2(total(sums), tables.log2_16, 4)
