"""Credits and votes worked out by hand."""

import numpy as np

from kernels import Noise, Shape
from kernels.reference import NumpyBackend, Perturbed, credits


def test_credits_of_two_members_by_hand():
    # Scores in 1/256 bit; means of (100, 50) are 75, of (-30, 31) rounded half up 1, of (0, 200) 100.
    s0 = np.array([[[100, -30, 0], [50, 31, 200]]])
    s1 = s0 + np.array([[[4, 0, 0], [0, 0, 0]]])
    text = np.array([[7, 8, 9]], np.uint8)
    to_go, own, head, deviation = credits(s0, s1, text, scale=64)
    # d = (25, -31, -100) and (-25, 30, 100); divided by 64 and times 32, half up: x / 2.
    np.testing.assert_array_equal(own, [[[13, -15, -50], [-12, 15, 50]]])
    # F[1] = -31 + (179 * -100 >> 8) = -101, F[0] = 25 + (179 * -101 >> 8) = -46; 30 + 69 = 99, -25 + 69 = 44
    np.testing.assert_array_equal(to_go, [[[-23, -50, -50], [22, 50, 50]]])
    np.testing.assert_array_equal(
        head, [[[1, 0, 0], [-1, 0, 0]]]
    )  # 4 and 0 less their mean 2, halved
    np.testing.assert_array_equal(deviation, [[-106, 105]])


def test_credit_stops_where_the_state_is_reset():
    s0 = np.array([[[0, 0, 256], [0, 0, -256]]])
    for reset, reach in ((None, (63, 90)), (1, (0, 90)), (2, (0, 0))):
        text = np.array([[5, 5, 5]], np.uint8)
        if reset:
            text[0, reset] = 0
        to_go = credits(s0, s0, text, scale=64)[0]  # 179 >> 1 and 125 >> 1, half up
        assert tuple(to_go[0, 0, :2]) == reach
    assert to_go[0, 0, 2] == 128  # 256 / 64 * 32, at the limit


def test_the_heads_vote_is_credit_times_projection_over_length_by_hand():
    """One byte, a model whose head alone is not constant: Z = sum over members of 2**10 e p a / 2**e x."""
    shape = Shape(16, 1)
    rng = np.random.default_rng(0)
    weights = rng.integers(-40, 41, shape.parameters).astype(np.int8)
    backend, noise = NumpyBackend(), Noise(3, 1, 3)
    model = backend.prepare(shape, weights)
    tokens, states = np.array([[65, 66]], np.uint8), np.zeros((1, 1, 16), np.int8)
    cast = backend.cast_traced_votes(model, tokens, states, noise, group_size=4, credit_scale=16)

    block = Perturbed(model, noise, np.arange(4), tie_gates=True)
    from kernels import philox
    from kernels.reference import scores

    r = philox.signs(philox.words(3, philox.TOKEN_SIGNS, np.arange(4), 1, 1), 0, 1)[:, 0]
    block.r = r.astype(np.int64)
    x = block.read(np.full(4, 65, np.uint8), np.zeros((4, 1, 16), np.int64))
    target = np.full(4, 66, np.uint8)
    clean = scores(block.product("head.weight", x, term=0), target, 256)
    gain = scores(block.product("head.weight", x), target, 256) - clean
    mean = (2 * int(gain.sum()) + 4) // 8
    z = np.zeros((256, 16), np.int64)
    n = int((x[0] ** 2).sum())
    exponent = (n * n).bit_length() // 2
    for o in range(256):
        total = 0
        for i in range(4):
            p = int(r[i]) * int((block.b["head.weight"][i] * x[i]).sum())
            credit = max(-128, min(128, (64 * (int(gain[i]) - mean) + 16) // 32))
            total += credit * p * int(block.a["head.weight"][i, o])
        v = (total * 1024 + 2 ** (exponent - 1)) // 2**exponent
        z[o] = max(-8191, min(8191, v)) * x[0]
    np.testing.assert_array_equal(shape.views(cast.votes)["head.weight"], z)
