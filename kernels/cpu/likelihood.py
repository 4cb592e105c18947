"""What is left of a text's logits where only the actual bytes' likelihoods are asked for.

A byte costs two passes over its 256 logits, in scalars: the largest of them, and the total of their shares from a table
of 255 (below 2**63 + 1). It is done while the logits are in the cache, and 13 bytes leave it instead of 256.
"""

import numpy as np
from numba import njit, uint64

from egg.kernels.cpu.score import score
from egg.kernels.cpu.simd import address
from egg.kernels.cpu.structures import JIT


@njit(**JIT)
def measure(logits, tokens, begin, row, shares, tables, totals, below, scores):
    """Likelihoods of a block's targets, from sequence ``row`` and byte ``begin`` on.

    logits : (members, T, 256) int8
    tokens : (sequences, length + 1) uint8, of which those from ``begin`` + 1 on are the targets
    shares : (255,) uint64, by how far a logit is below the largest
    totals : (sequences, length) uint64, written
    below : (sequences, length) uint8, written
    scores : (sequences, length) int32 in 1/16 bit, written
    """
    for i in range(logits.shape[0]):
        for t in range(logits.shape[1]):
            of = logits[i, t]
            largest = of[0]
            for v in range(1, 256):
                largest = max(largest, of[v])
            top, even, odd = np.int64(largest), uint64(0), uint64(0)
            for v in range(0, 256, 2):  # two sums: one would wait for itself
                even += shares[top - of[v]]
                odd += shares[top - of[v + 1]]
            target = np.int64(tokens[row + i, begin + t + 1])
            totals[row + i, begin + t] = even + odd
            below[row + i, begin + t] = top - of[target]
            scores[row + i, begin + t] = score(address(of), target, tables)
