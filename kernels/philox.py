"""Philox4x32-10, the counter-based generator of Salmon et al. (2011), its streams, and its bits as signs.

Any value can be computed anywhere, in any order, without a table and without state. The key is the 64-bit seed, the
counter is (block, stream, index, step); the four words never share bits, so no two draws collide.
"""

import numpy as np

INITIAL_WEIGHTS, DIRECTION_SIGNS = 0, 1
STREAM_ORDER, SAMPLING, ADAPTER_WEIGHTS, ADAPTER_SIGNS, FULL_RANK_SIGNS = range(3, 8)
BRANCH_SIGNS, BRANCH_ROWS = 8, 9
GAUSSIAN_NOISE = 10
SUBSPACE_SIGNS = 11

ROUNDS = 10
MULTIPLIER_0, MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85  # the key's increment a round
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds of Philox4x32.

    counter : (..., 4) uint32
    key : two 32-bit words
    returns : (..., 4) uint32
    Checked by the known-answer vectors of Random123 in the tests.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(ROUNDS):
        product_0 = c0 * np.uint64(MULTIPLIER_0)
        product_1 = c2 * np.uint64(MULTIPLIER_1)
        c0, c1, c2, c3 = (
            (product_1 >> _32) ^ c1 ^ np.uint64(k0),
            product_1 & _LOW,
            (product_0 >> _32) ^ c3 ^ np.uint64(k1),
            product_0 & _LOW,
        )
        k0, k1 = (k0 + WEYL_0) & 0xFFFFFFFF, (k1 + WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], -1).astype(np.uint32)


def key_words(seed: int) -> tuple[int, int]:
    """The key of a 64-bit seed: its low and its high word."""
    return seed & 0xFFFFFFFF, seed >> 32


def words(seed: int, stream: int, index, step: int, count: int) -> np.ndarray:
    """The first words of the word strings of a draw.

    seed : 0 to 2**64 - 1
    index : an int or (n,) integers: member, direction, tensor, ...
    returns : (count,) or (n, count) uint32
    """
    blocks = -(-count // 4)
    index = np.asarray(index, np.uint32)
    counter = np.zeros((*index.shape, blocks, 4), np.uint32)
    counter[..., 0] = np.arange(blocks, dtype=np.uint32)
    counter[..., 1] = stream
    counter[..., 2] = index[..., None]
    counter[..., 3] = step
    out = philox(counter, key_words(seed))
    return out.reshape(*index.shape, 4 * blocks)[..., :count]


def signs(word_strings: np.ndarray, offset: int, count: int) -> np.ndarray:
    """Bits offset .. offset + count of word strings as signs: bit 1 is +1, bit 0 is -1.

    word_strings : (..., words) uint32
    returns : (..., count) int8
    """
    at = np.arange(offset, offset + count)
    bits = (word_strings[..., at >> 5] >> (at & 31).astype(np.uint32)) & np.uint32(1)
    return (2 * bits.astype(np.int8) - 1).astype(np.int8)


def halfwords(word_strings: np.ndarray, offset: int, count: int) -> np.ndarray:
    """Halfwords offset .. offset + count of word strings, the low half of a word first.

    word_strings : (..., words) uint32
    returns : (..., count) uint32, below 2**16
    """
    at = np.arange(offset, offset + count)
    return (word_strings[..., at >> 1] >> (16 * (at & 1)).astype(np.uint32)) & np.uint32(0xFFFF)
