"""From votes to weights: the integer step-size schedule of recipe ``egg``, the threshold of recipe ``paper``."""

from math import isqrt

import numpy as np

from kernels.arithmetic import MASTER_BITS, cosine_table, normal_quantile_sixteenths
from kernels.layout import AdapterShape, Shape

STEP_BITS = 16  # fractional bits of a step size
VOTE_RMS = 40_960  # of one member's vote on one weight, about, at hidden size 64: makes a step size the rms move
ADAPTER_STEPS = 6  # times as far as a weight, see docs/adapting.md
REFERENCE_HORIZON = 10_000_000  # member-tokens, where REFERENCE_STEP was found to be good
REFERENCE_STEP = 3 << (STEP_BITS - 1)  # 1.5 int8 steps


def default_step_size(horizon: int) -> int:
    """Step size in 2**-16 int8 steps: 1.5 at 10M member-tokens, falling with the cube root of the horizon."""
    cube = REFERENCE_STEP**3 * REFERENCE_HORIZON // max(1, horizon)
    root = 1 << (-(-cube.bit_length() // 3))  # Newton's integer cube root, from above
    while (better := (2 * root + cube // (root * root)) // 3) < root:
        root = better
    return min(root, 2 << STEP_BITS)


def adapter_step_size(horizon: int) -> int:
    """The same for an adapter, which has few factors to find and much room in each."""
    return ADAPTER_STEPS * default_step_size(horizon)


def scheduled_step_size(
    first: int, last: int, schedule: str, member_tokens: int, horizon: int
) -> int:
    """The step size after so many member-tokens, in 2**-16 int8 steps; ``last`` from the horizon on.

    schedule : "cosine", "linear" or "constant"
    """
    done = min(member_tokens, horizon) * 2048 * 64 // horizon  # 2**17 is half a turn
    if schedule == "constant":
        return first
    if schedule == "linear":
        return last + (first - last) * ((1 << 17) - done) // (1 << 17)
    quarter, at = cosine_table(), done >> 6
    cosine = quarter[at] if at <= 1024 else -quarter[2048 - at]
    return last + (first - last) * ((1 << 30) + int(cosine)) // (1 << 31)


def multipliers(shape: Shape, step_size: int, population_size: int) -> np.ndarray:
    """(tensors,) int64: what votes are multiplied by, over 2**32, to move a weight by about the step size.

    Twice that for the embedding, of which a step sees few rows; an eighth for norm gains, whose votes sum to
    ten times those of a matrix and whose walk would saturate all they multiply; more for gates, whose votes are
    smaller by what does not arrive.
    """
    # lr * 2**8 / (40,960 sqrt(population)) * 2**32, with lr = step_size / 2**16
    multiplier = (step_size << 32) // (VOTE_RMS * isqrt(population_size << 16))
    return np.array([_share(name, multiplier) for name in shape.tensors], np.int64)


def adapter_multipliers(layout: AdapterShape, step_size: int, population_size: int) -> np.ndarray:
    """(tensors,) int64: the same for an adapter's factors.

    A votes as a matrix does. B has R inputs where a matrix has 64 or more, and votes are divided by the input's squared
    length: its are larger by sqrt(64 / R).
    """
    multiplier = (step_size << 32) // (VOTE_RMS * isqrt(population_size << 16))
    inner = multiplier * isqrt(layout.rank << 16) >> (8 + 3)
    return np.array([multiplier if n.endswith(".A") else inner for n in layout.tensors], np.int64)


def ranked_multiplier(step_size: int, fitness: np.ndarray) -> int:
    """What a sum over directions of f times signs is multiplied by, over 2**32, to move a weight by the step size.

    Its root mean square is sqrt(sum f^2).
    """
    return (step_size << (32 - MASTER_BITS)) // max(1, isqrt(int((fitness**2).sum())))


def _share(name: str, multiplier: int) -> int:
    """A tensor's own multiplier, see docs/arithmetic.md."""
    kind = name.split(".")[-1]
    if name == "embedding.weight":
        return 2 * multiplier
    if ".ln" in name or name.startswith("ln"):
        return multiplier // 8
    return {
        "w_f": 4 * multiplier,
        "u_f": 4 * multiplier,
        "w_h": 2 * multiplier,
        "u_h": 2 * multiplier,
        "b_h": multiplier // 2,
    }.get(kind, multiplier)


def sign_threshold(step: int, pairs: int) -> int:
    """Recipe ``paper``: a weight moves where 16 |votes| is at least this. [arXiv 2511.16652 v2, appendix H]"""
    # alpha = 1 / (0.015 step + 1) = 1000 / (15 step + 1000); 1 - alpha / 2 = (15 step + 500) / (15 step + 1000)
    return normal_quantile_sixteenths(15 * step + 500, 15 * step + 1000) * isqrt(pairs)
