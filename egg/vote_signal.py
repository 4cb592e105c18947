"""How much of the votes is signal: two halves of the population, which share nothing but the weights, compared.

Every group (recipe egg) or pair (paper) votes independently, with its own directions on its own text. Let A and B be
the votes of two halves of m of them. What they have in common is signal, |mu|^2 m^2 ~ A . B; in what they differ is
noise, sigma^2 m ~ |A - B|^2 / 2. The whole population of M has the signal's energy in its votes by

    M |mu|^2 / sigma^2  ~  2 M (A . B) / (m |A - B|^2)

times that of the noise. At 1 half of the votes' energy is signal; around 0, and below it by chance, nothing can be
told. Noise is what the population's size averages out: directions and text alike.
"""

import numpy as np

CHUNK = 1 << 20  # elements whose products are summed in int64
LIMB = 21  # bits: with |v| < 2**42 every partial sum stays below 2**62


def signal_to_noise(a: np.ndarray, b: np.ndarray, sampled: int, population: int) -> float | None:
    """The ratio of energies, exact but for one rounding, so that it is the same on every machine.

    a, b : (parameters,) int64, votes of two halves, |v| < 2**42
    sampled : groups or pairs in each half
    population : groups or pairs that vote in a step
    returns : None if the halves are equal, as when nobody votes
    """
    noise = exact_dot(a - b, a - b)
    if not noise:
        return None
    return round(2 * population * exact_dot(a, b) / (sampled * noise), 6)


def exact_dot(a: np.ndarray, b: np.ndarray) -> int:
    """The sum of products of int64 below 2**42, in Python's integers."""
    total = 0
    for at in range(0, len(a), CHUNK):
        x, y = a[at : at + CHUNK], b[at : at + CHUNK]
        x_high, y_high = x >> LIMB, y >> LIMB
        x_low, y_low = x & ((1 << LIMB) - 1), y & ((1 << LIMB) - 1)
        cross = int(x_high @ y_low) + int(x_low @ y_high)
        total += (int(x_high @ y_high) << 2 * LIMB) + (cross << LIMB) + int(x_low @ y_low)
    return total
