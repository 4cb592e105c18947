"""How far weights move: the step size of recipe ``egg`` and its schedule, the threshold of recipe ``paper``."""

from fractions import Fraction
from math import isqrt

import numpy as np

from egg.kernels.arithmetic import REWARD_MASTER_BITS, cosine_table, floor_power_of_two, normal_quantile_sixteenths

STEP_BITS = 16  # fractional bits of a step size
SHARE_UNIT = 1 << 16  # of recipe paper's alpha
SHARE_BITS = 17  # fractional bits of the done share of a schedule: half a period of the cosine
# The best step size found, 0.4 int8 steps, and the tokens of a step and of the run that it was found for.
REFERENCE_STEP = (4 << STEP_BITS) // 10
REFERENCE_TOKENS = 512
REFERENCE_HORIZON = 1_000_000
LARGEST_STEP = 1 << STEP_BITS
# Sixteenths of that step: credit -> hidden size -> with 1 layer, with 2, with more.
STEP_FACTORS = {
    "wire": {16: (16, 16, 16), 64: (16, 16, 16), 256: (16, 16, 16), 1024: (16, 16, 16)},
    "stations": {16: (16, 16, 16), 64: (24, 24, 12), 256: (12, 12, 12), 1024: (12, 12, 12)},
}
NOMINAL_SPEED = 150_000_000_000  # multiply-accumulates a second: two cores of 2024


def default_step_size(tokens_per_step: int, horizon: int, hidden_size: int, num_layers: int, credit: str) -> int:
    """Step size in 2**-16 int8 steps, from the tokens of a step and of the run, the model's shape and the credit.

    0.4 int8 steps at 512 tokens a step and 1M in the run, times the factor of the shape and the credit. It grows with
    the fourth root of the tokens of a step; it falls with the square root of the run's tokens beyond 1M, with their
    fourth root below (docs/learning.md).

    >>> default_step_size(512, 16_000_000, 256, 2, "wire") / 65536
    0.0999908447265625
    """
    fourth_power = REFERENCE_STEP**4 * tokens_per_step * REFERENCE_HORIZON
    fourth_power //= REFERENCE_TOKENS * max(1, horizon)
    if horizon > REFERENCE_HORIZON:
        fourth_power = fourth_power * REFERENCE_HORIZON // horizon
    factor = STEP_FACTORS[credit][hidden_size][min(num_layers, 3) - 1]
    return max(1, min(isqrt(isqrt(fourth_power)) * factor // 16, LARGEST_STEP))


def nominal_tokens(minutes: float, multiply_accumulates: int) -> int:
    """Tokens that a machine of nominal speed reads in so many minutes: the same estimate on every machine.

    multiply_accumulates : of one token
    """
    milliseconds = int(Fraction(minutes) * 60_000)
    return milliseconds * (NOMINAL_SPEED // 1000) // multiply_accumulates


def scheduled_step_size(first: int, last: int, schedule: str, tokens: int, horizon: int) -> int:
    """The step size after ``tokens``, in 2**-16 int8 steps; ``last`` from the horizon on.

    schedule : "cosine", "linear" or "constant"
    """
    if schedule == "constant":
        return first
    done = (min(tokens, horizon) << SHARE_BITS) // horizon
    if schedule == "linear":
        return last + ((first - last) * ((1 << SHARE_BITS) - done) >> SHARE_BITS)
    quarter, at = cosine_table(), done >> 6
    cosine = quarter[at] if at <= 1024 else -quarter[2048 - at]
    return last + (first - last) * ((1 << 30) + int(cosine)) // (1 << 31)


def ranked_multiplier(step_size: int, fitness: np.ndarray, root: int = 1) -> int:
    """The factor, over 2**32, that turns a sum over directions of f times signs into a move by the step size.

    root : of the directions that share a fitness: the sum's root mean square is root * sqrt(sum f^2)
    """
    shift = 32 - STEP_BITS + REWARD_MASTER_BITS
    return (step_size << shift) // max(1, root * isqrt(int((fitness**2).sum())))


def moving_share(alpha: float, decay: int, step: int) -> Fraction:
    """Recipe ``paper``: about the share of the weights that move in a step. [arXiv 2511.16652 v2, appendix H]

    alpha : a constant share up to 1; beyond, the share falls from 1 to 2**-alpha
    decay : in so many steps

    >>> moving_share(4.0, 1000, 200), moving_share(0.25, 1000, 200)
    (Fraction(1, 4), Fraction(1, 4))
    """
    exact = Fraction(str(alpha))
    if exact <= 1:
        return Fraction(int(exact * SHARE_UNIT + Fraction(1, 2)), SHARE_UNIT)
    growth = floor_power_of_two((16 << 8) + int(exact * 256 + Fraction(1, 2)), 8) - SHARE_UNIT
    return Fraction(SHARE_UNIT * decay, growth * step + SHARE_UNIT * decay)


def sign_threshold(share: Fraction, spread: int) -> int:
    """Recipe ``paper``: a weight moves where 16 |votes| is at least this. [arXiv 2511.16652 v2, appendix H]

    share : see ``moving_share``
    spread : about the standard deviation of votes that agree by chance
    """
    kept = 1 - share / 2
    return normal_quantile_sixteenths(kept.numerator, kept.denominator) * spread
