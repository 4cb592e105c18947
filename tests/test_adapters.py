"""Adapters: the fast backend against the reference, and the reference against the text of docs/arithmetic.md."""

import numpy as np
import pytest

from egg.kernels import Adapter, AdapterShape, BackendError, Draw, Noise, Shape, get_backend
from egg.kernels.arithmetic import adapter_lift, product_shift

REFERENCE = get_backend("numpy")


@pytest.fixture(scope="module", params=[1, 3])
def numba(request):
    pytest.importorskip("numba")
    return get_backend("numba", threads=request.param)


def chosen(shape, *kinds):
    """A shape's matrices of some kinds."""
    return tuple(n for n in shape.matrices if any(k in n for k in kinds))


def drawn(rng, size, scale):
    """Random int8 of [-127, 127]; a large scale puts many at the limits."""
    return np.clip(np.round(rng.normal(size=size) * scale), -127, 127).astype(np.int8)


def text_of(rng, rows, length):
    """Random bytes with a document's end in the middle."""
    tokens = rng.integers(0, 256, (rows, length)).astype(np.uint8)
    tokens[:, length // 2] = 0
    return tokens


CASES = [  # hidden size, layers, kinds of matrices, rank
    (16, 1, ("gru", "mlp", "head"), 1),
    (16, 2, ("w_h", "w_down"), 3),
    (64, 2, ("gru", "mlp", "head"), 2),
    (64, 1, ("head",), 8),
    (64, 2, ("gru",), 5),
    (64, 1, ("mlp",), 16),
    (256, 1, ("gru", "mlp", "head"), 1),
    (256, 1, ("w_up", "u_f", "head"), 7),
]


def made(hidden_size, num_layers, kinds, rank, scale=16):
    """A model, an adapter and a generator for what they read."""
    shape, rng = Shape(hidden_size, num_layers), np.random.default_rng(hidden_size + rank)
    layout = AdapterShape(shape, rank, chosen(shape, *kinds))
    weights = drawn(rng, shape.parameters, scale)
    return shape, weights, Adapter(layout, drawn(rng, layout.parameters, 2 * scale)), rng


@pytest.mark.parametrize("case", CASES)
def test_forward_equals(numba, case):
    shape, weights, adapter, rng = made(*case)
    plain = REFERENCE.prepare(shape, weights)
    for sequences, length in ((1, 1), (21, 4)):
        tokens = text_of(rng, sequences, length)
        states = drawn(rng, (sequences, shape.num_layers, shape.hidden_size), 40)
        expected, got = (b.forward(b.prepare(shape, weights, adapter), tokens, states) for b in (REFERENCE, numba))
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
        assert (REFERENCE.forward(plain, tokens, states)[0] != expected[0]).any()


@pytest.mark.parametrize("case", CASES)
def test_votes_equal(numba, case):
    for scale, streams, length, few in ((16, 5, 6, False), (16, 9, 3, True), (300, 2, 1, False)):
        shape, weights, adapter, rng = made(*case, scale)
        tokens = text_of(rng, streams, length + 1)
        states = drawn(rng, (streams, shape.num_layers, shape.hidden_size), 40)
        branches = 16 if few else shape.hidden_size
        draw = Draw(2**63 + scale, 2**32 - 2, branches, rng.integers(0, 14, shape.vote_kinds()))
        expected, got = (
            b.cast_votes(b.prepare(shape, weights, adapter), tokens, states, draw, first_row=7)
            for b in (REFERENCE, numba)
        )
        np.testing.assert_array_equal(got.states, expected.states)
        np.testing.assert_array_equal(got.totals, expected.totals)
        assert got.score == expected.score
        voters = [n for n in adapter.shape.matrices if not n.endswith("w_up")]
        assert scale > 16 or expected.votes.any() == bool(voters)
        for name, votes in adapter.shape.views(expected.votes).items():
            np.testing.assert_array_equal(adapter.shape.views(got.votes)[name], votes, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_pairs_equal(numba, case):
    shape, weights, adapter, rng = made(*case)
    for pairs, length, sigma_shift, rank in ((1, 1, 3, 1), (23, 3, 0, 1), (1, 1, 3, 16), (23, 3, 0, 4)):
        tokens = text_of(rng, 2 * pairs, length)
        states = drawn(rng, (2 * pairs, shape.num_layers, shape.hidden_size), 40)
        expected, got = (
            b.read_adapter_pairs(b.prepare(shape, weights, adapter), tokens, states, Noise(7, 11, sigma_shift, rank))
            for b in (REFERENCE, numba)
        )
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


def test_a_product_by_hand():
    """One product with an adapter, written out with Python's integers."""
    shape, weights, adapter, rng = made(16, 1, ("head",), 3)
    x = drawn(rng, (1, 16), 60).astype(np.int64)
    got = REFERENCE.prepare(shape, weights, adapter).product("head.weight", x)[0]
    w = shape.views(weights)["head.weight"]
    a, b = (adapter.shape.views(adapter.factors)[f"head.weight.{f}"] for f in "AB")
    z = [sum(int(p) * int(q) for p, q in zip(row, x[0], strict=True)) >> 6 for row in a]
    z = [max(-127, min(127, v)) for v in z]
    for n in range(256):
        acc = sum(int(p) * int(q) for p, q in zip(w[n], x[0], strict=True))
        acc += sum(int(p) * q for p, q in zip(b[n], z, strict=True))  # lift(16) is 0
        assert got[n] == max(-127, min(127, acc >> 6))


def test_a_zero_factor_changes_nothing(numba):
    shape, weights, adapter, rng = made(64, 2, ("gru", "mlp", "head"), 4)
    for name, factor in adapter.shape.views(adapter.factors).items():
        if name.endswith(".B"):
            factor[...] = 0
    tokens, states = text_of(rng, 3, 8), np.zeros((3, 2, 64), np.int8)
    for backend in (REFERENCE, numba):
        plain = backend.forward(backend.prepare(shape, weights), tokens, states)
        adapted = backend.forward(backend.prepare(shape, weights, adapter), tokens, states)
        np.testing.assert_array_equal(adapted[0], plain[0])


def test_the_rows_of_an_adapter_move_alike(numba):
    for rank in (3, 16):
        shape, _, adapter, rng = made(16, 1, ("gru", "head"), rank)
        layout = adapter.shape
        votes = rng.integers(-3000, 3000, layout.parameters).astype(np.int32)
        master = adapter.factors.astype(np.int32) << 16
        squares = rng.integers(0, 2**20, layout.rows)
        mine, my_squares = master.copy(), squares.copy()
        expected = REFERENCE.update_rows(layout, master, squares, votes, 3, 20_000)
        got = numba.update_rows(layout, mine, my_squares, votes, 3, 20_000)
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(mine, master)
        np.testing.assert_array_equal(my_squares, squares)


def test_lifts_make_sixteen_one():
    """B = 64 adds z itself to the output, for any number of inputs."""
    for inputs in (16, 64, 256, 1024, 4096):
        assert (64 << adapter_lift(inputs)) >> product_shift(inputs) == 1


def test_shapes_that_cannot_be():
    shape = Shape(16, 1)
    names = chosen(shape, "gru")
    for rank, matrices in ((0, names), (17, names), (1, ()), (1, names[::-1]), (1, ("embedding.weight",))):
        with pytest.raises(BackendError) as error:
            AdapterShape(shape, rank, matrices)
        assert "\n" not in str(error.value)
