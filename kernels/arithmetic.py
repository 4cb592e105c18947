"""Fixed-point constants, tables and the integer logarithm: one definition that every backend uses.

Everything here is computed from integers (``math.isqrt`` and a Taylor series in big integers), so that the
tables are the same on every platform. See docs/arithmetic.md.
"""

from functools import cache
from math import isqrt

import numpy as np

FRACTION_BITS = 4  # of a weight: the integer 16 means 1.0
LIMIT = 127  # |weight|, |activation| <= 127; -128 never occurs
VOCABULARY = 256
SIXTEENTHS, FINE = 16, 256  # units of a score: 1/16 bit (published), 1/256 bit (recipe egg)
MASTER_BITS = 16  # fractional bits of a master weight (recipe egg)
REWARD_MASTER_BITS = 8  # the same for rewards and classic evolution
VOTE_ROWS = 1 << 17  # (stream, byte) rows of votes that int32 holds: 127 * 127 * 2**17 < 2**31
GAUSSIAN_LIMIT = 1 << 24  # of b . x, Gaussian noise: 69 of it are below 2**31
MEMBER_ROWS = (2**31 - 1) // 382  # bytes whose score_16, -382 at the least, an int32 sums for a member
VOTE_LIMIT = 1 << 23  # of one weight's votes where they are squared
VOTE_MEAN = 4  # of a narrowed vote, at the most
# What credit is shifted by in the first step: of embedding and gain; of a layer's gate, candidate, down; of a layer's
# up, ln2, ln1, with stations
FIRST_SHIFTS = (5, 6), (11, 12, 5), (3, 5, 6)
WINDOW = 128  # steps of the running mean square
CREDIT_LIMIT = 1 << 20  # of what travels along the wire
BRANCH_BITS = 8  # fractional bits of a branch's logits
BRANCH_MEAN = 512  # a logit moves by half of that to that much, on average
BRANCH_LIMIT = 48  # sixteenths of a bit that it moves at the most
MIN_BRANCHES = 16
# Stations, where matrices read: u, h, past, y, v; and those matrices of a layer
READ_BY = {
    "gates": ("gru.w_f", "gru.w_h"),
    "state": ("gru.u_f",),
    "past": ("gru.u_h",),
    "middle": ("mlp.w_down",),
    "mlp": ("mlp.w_up",),
}
STATIONS = tuple(READ_BY)
STATION_MEAN = 8  # an output moves by half of that to that much, on average
FITNESS_LIMIT = 1 << 18  # of a station's branch: the sum of 4,096 of them is below 2**31


def first_shifts(num_layers: int, stations: bool = False) -> np.ndarray:
    """(kinds,) int64: what each kind of credit is shifted by in the first step."""
    ends, layer, more = FIRST_SHIFTS
    return np.array([*ends, *layer * num_layers, *more * (num_layers if stations else 0)], np.int64)


def next_shifts(shifts: np.ndarray, totals: list[int], values: np.ndarray) -> np.ndarray:
    """(kinds,) int64: what the next step's credits are shifted by.

    shifts : this step's
    totals : sums of this step's magnitudes, over all ranks
    values : (kinds,) int64, how many there were of each
    """
    # About VOTE_MEAN is left of a credit of the mean size.
    found = [(t // count // VOTE_MEAN).bit_length() for t, count in zip(totals, values.tolist(), strict=True)]
    return np.array([f if t else s for f, t, s in zip(found, totals, shifts.tolist(), strict=True)])


def clip8(v):
    """Limit integers to [-127, 127], the range of weights and activations."""
    return np.clip(v, -LIMIT, LIMIT)


def round_shift(v, s: int):
    """v / 2**s, rounded half up; a negative s shifts left."""
    return (v + (1 << (s - 1))) >> s if s > 0 else v << -s


def shift_right(v, s: int):
    """v >> s, rounded down; a negative s shifts left."""
    return v >> s if s >= 0 else v << -s


def round_div(v, m: int):
    """v / m for m > 0, rounded half up."""
    return (2 * v + m) // (2 * m)


def product_shift(k: int) -> int:
    """Right shift of a product with k inputs, k a power of four: 4 + log2(k) / 2."""
    return FRACTION_BITS + (k.bit_length() - 1) // 2


def move_shift(mean: int, most: int) -> int:
    """What moves of a mean size are shifted right by, so that less than ``most`` and at least half of it is left."""
    return (mean // most).bit_length() if mean >= most else 1 - (most // max(1, mean)).bit_length()


def adapter_lift(k: int) -> int:
    """Left shift of what an adapter adds to a product with k inputs: log2(k) / 2 - 2, so 0 to 4."""
    return product_shift(k) - 6


def floor_power_of_two(numerator: int, log2_denominator: int) -> int:
    """floor(2**(numerator / 2**log2_denominator)), exact: floors of nested square roots nest."""
    value = 1 << numerator
    for _ in range(log2_denominator):
        value = isqrt(value)
    return value


@cache
def exp2_table() -> np.ndarray:
    """(256,) int32: e[j] = floor(16 * 2**(j / 16)); the sum of 256 of them is below 2**28."""
    table = [floor_power_of_two(16 * 4 + j, 4) for j in range(VOCABULARY)]
    return np.array(table, np.int32)


@cache
def branch_table() -> np.ndarray:
    """(16,) int32: floor(2**(15 - f / 16)), 32767 for f = 0: a likelihood f sixteenths of a bit below the top."""
    table = [min(32767, floor_power_of_two(15 * 16 - f, 4)) for f in range(16)]
    return np.array(table, np.int32)


@cache
def log2_thresholds(fraction: int) -> np.ndarray:
    """(fraction,) uint32: ceil(2**(31 + j / fraction)), fraction 16 or 256, of the integer logarithm."""
    bits = fraction.bit_length() - 1
    # 2**(31 + j / fraction) is an integer for j = 0 alone, elsewhere the ceiling is the floor + 1.
    table = [floor_power_of_two(31 * fraction + j, bits) + (j > 0) for j in range(fraction)]
    return np.array(table, np.uint32)


def bit_length(v: np.ndarray) -> np.ndarray:
    """Bits of integers 0 <= v < 2**32, as int64."""
    return np.searchsorted(1 << np.arange(32), v, side="right")


def floor_log2(v: np.ndarray, fraction: int) -> np.ndarray:
    """floor(fraction * log2(v / 16)) of positive integers v < 2**32, as int64."""
    v = np.asarray(v, np.int64)
    top = bit_length(v) - 1  # the top bit's position
    mantissa = (v << (31 - top)).astype(np.uint32)
    steps = np.searchsorted(log2_thresholds(fraction), mantissa, side="right") - 1
    return (top - FRACTION_BITS) * fraction + steps


SHARES = 1 << 16  # fractions of a probability in top_p


@cache
def sampling_table() -> np.ndarray:
    """(256,) uint64: floor(2**(32 + j / 256)), below 2**33."""
    table = [floor_power_of_two(32 * FINE + j, 8) for j in range(FINE)]
    return np.array(table, np.uint64)


def sampling_weights(temperature_256: int) -> np.ndarray:
    """(255,) uint64: weight of a byte whose logit is d = 0..254 below the largest; 2**32 for d = 0.

    temperature_256 : temperature in 1/256, 1 to 2**20
    """
    below = np.arange(2 * LIMIT + 1, dtype=np.int64)
    exponent = -below * (FINE // SIXTEENTHS) * FINE // temperature_256  # in 1/256 bit, floored
    # Beyond 32 the weight is 0, and beyond 63 NumPy defines no shift.
    shift = np.minimum(-(exponent >> 8), 63)
    return sampling_table()[exponent & (FINE - 1)] >> shift.astype(np.uint64)


CODING_BITS = 26  # of the likeliest byte's weight in the arithmetic coder


@cache
def coding_table() -> np.ndarray:
    """(255,) uint64: floor(2**(26 - d / 16)), the weight of a byte whose logit is d below the largest.

    2**26 to 1,116; 256 of them sum to 2**34 at the most.
    """
    table = [floor_power_of_two(CODING_BITS * SIXTEENTHS - d, 4) for d in range(2 * LIMIT + 1)]
    return np.array(table, np.uint64)


SURPRISE_BITS = 55  # of the likeliest byte's share in the total that a surprise is taken from


@cache
def surprise_table() -> np.ndarray:
    """(255,) uint64: round(2**(55 - d / 16)), the share of a byte whose logit is d below the largest.

    256 of them sum to 2**63 at the most.
    """
    table = [(floor_power_of_two((SURPRISE_BITS + 1) * SIXTEENTHS - d, 4) + 1) >> 1 for d in range(2 * LIMIT + 1)]
    return np.array(table, np.uint64)


_PHI_BITS = 128  # of the fixed-point series below


@cache
def _sqrt_two_pi() -> int:
    """sqrt(2 pi) with _PHI_BITS fractional bits, pi by Machin's formula."""
    one = 1 << (2 * _PHI_BITS)

    def arctan_inverse(n: int) -> int:
        power, total, k = one // n, 0, 0
        while power:
            total += power // (2 * k + 1) * (-1) ** k
            power, k = power // (n * n), k + 1
        return total

    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    return isqrt(2 * pi)


@cache
def normal_cdf(numerator: int, denominator: int) -> int:
    """Phi(numerator / denominator), the normal distribution function, times 2**64, rounded down.

    Phi(x) = 1/2 + (x + x**3 / 3 + x**5 / (3 * 5) + ...) exp(-x**2 / 2) / sqrt(2 pi) would need exp; the
    alternating series sum (-1)**k x**(2k+1) / (2**k k! (2k+1)) needs none and 128 bits bear its cancellation.
    """
    x_squared = (numerator * numerator << _PHI_BITS) // (denominator * denominator)
    term = (abs(numerator) << (2 * _PHI_BITS)) // denominator
    total, k = 0, 0
    while term:
        total += term // (2 * k + 1) * (-1) ** k
        k += 1
        term = (term * x_squared >> _PHI_BITS) // (2 * k)
    half = (total // _sqrt_two_pi()) >> (_PHI_BITS - 64)  # total has 2 * _PHI_BITS fractional bits
    return (1 << 63) + (half if numerator >= 0 else -half)


@cache
def normal_table() -> np.ndarray:
    """(65536,) int8: round(16 z), z the normal quantile of (m + 1/2) / 65536."""
    thresholds = [normal_cdf(2 * v + 1, 32) for v in range(-LIMIT, LIMIT)]
    # (2 m + 1) / 131072 > Phi  <=>  2 m + 1 > floor(Phi * 131072), the left side being an integer.
    bounds = np.array([t >> (64 - 17) for t in thresholds], np.int64)
    counts = np.searchsorted(bounds, 2 * np.arange(65536) + 1, side="left")
    return (counts - LIMIT).astype(np.int8)


def normal_quantile_sixteenths(numerator: int, denominator: int) -> int:
    """The largest integer j with Phi(j / 16) <= numerator / denominator, for a share of 1/2 or more."""
    j = 0
    while normal_cdf(j + 1, 16) * denominator <= numerator << 64:
        j += 1
        if j == 16 * 9:  # Phi is 1 - 1e-19 there: a share that is nearly 1
            break
    return j


@cache
def cosine_table() -> np.ndarray:
    """(1025,) int64: round(2**30 cos(pi/2 * k / 1024)), a quarter wave, for schedules."""
    bits = 96
    half_pi = (_sqrt_two_pi() ** 2 >> _PHI_BITS) // 4
    table = []
    for k in range(1025):
        x = (half_pi >> (_PHI_BITS - bits)) * k >> 10
        term, total, n = 1 << bits, 0, 0
        while term:
            total += term
            n += 2
            term = -(((term * x >> bits) * x >> bits) // (n * (n - 1)))
            if abs(term) <= 1:
                break
        table.append(round_shift(total, bits - 30))
    return np.array(table, np.int64)
