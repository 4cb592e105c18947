"""Adapters: the fast backend against the reference, and the reference against the text of docs/arithmetic.md."""

import numpy as np
import pytest

from kernels import Adapter, AdapterShape, BackendError, Noise, Shape, get_backend
from kernels.arithmetic import adapter_lift, product_shift

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
        expected, got = (
            b.forward(b.prepare(shape, weights, adapter), tokens, states)
            for b in (REFERENCE, numba)
        )
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
        assert (REFERENCE.forward(plain, tokens, states)[0] != expected[0]).any()


@pytest.mark.parametrize("case", CASES)
def test_votes_equal(numba, case):
    settings = [  # scale, groups, members a group, T, sigma_shift, credit_scale
        (16, 3, 4, 5, 3, 16),
        (16, 5, 16, 4, 0, 300),
        (300, 2, 8, 1, 8, 16),
    ]
    for scale, groups, group_size, length, sigma_shift, credit_scale in settings:
        shape, weights, adapter, rng = made(*case, scale)
        tokens = text_of(rng, groups, length + 1)
        states = drawn(rng, (groups, shape.num_layers, shape.hidden_size), 40)
        noise = Noise(2**63 + scale, 2**32 - 2, sigma_shift)
        expected, got = (
            b.cast_adapter_votes(
                b.prepare(shape, weights, adapter), tokens, states, noise,
                group_size=group_size, credit_scale=credit_scale, first_group=7,
            )
            for b in (REFERENCE, numba)
        )  # fmt: skip
        np.testing.assert_array_equal(got.scores, expected.scores)
        np.testing.assert_array_equal(got.states, expected.states)
        assert got.deviation == expected.deviation
        assert scale > 16 or expected.votes.any()
        for name, votes in adapter.shape.views(expected.votes).items():
            there = adapter.shape.views(got.votes)[name]
            np.testing.assert_array_equal(there, votes, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_pairs_equal(numba, case):
    shape, weights, adapter, rng = made(*case)
    for pairs, length, sigma_shift in ((1, 1, 3), (23, 3, 0)):
        tokens = text_of(rng, 2 * pairs, length)
        states = drawn(rng, (2 * pairs, shape.num_layers, shape.hidden_size), 40)
        expected, got = (
            b.read_adapter_pairs(
                b.prepare(shape, weights, adapter), tokens, states, Noise(7, 11, sigma_shift)
            )
            for b in (REFERENCE, numba)
        )
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


def test_votes_in_many_batches_and_tiny_blocks(numba, monkeypatch):
    from kernels.cpu import adapter_backend, backend

    monkeypatch.setattr(adapter_backend, "VOTE_ROWS", 8)
    monkeypatch.setattr(backend, "BLOCK_BYTES", 1)
    shape, weights, adapter, rng = made(64, 1, ("gru", "mlp", "head"), 2)
    for length in (3, 21):
        tokens = text_of(rng, 9, length + 1)
        states = np.zeros((9, 1, 64), np.int8)
        expected, got = (
            b.cast_adapter_votes(
                b.prepare(shape, weights, adapter), tokens, states, Noise(1, 2, 3),
                group_size=4, credit_scale=40,
            )
            for b in (REFERENCE, numba)
        )  # fmt: skip
        np.testing.assert_array_equal(got.votes, expected.votes)
        np.testing.assert_array_equal(got.states, expected.states)
        np.testing.assert_array_equal(got.scores, expected.scores)


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


def test_the_masters_of_an_adapter_move_alike(numba):
    shape, _, adapter, rng = made(16, 1, ("gru", "head"), 3)
    layout = adapter.shape
    votes = rng.integers(-(2**38), 2**38, layout.parameters)
    steps = rng.integers(1, 2**20, len(layout.tensors))
    master = adapter.factors.astype(np.int16) << 8
    mine = master.copy()
    expected = REFERENCE.update_master(layout, master, votes, steps)
    np.testing.assert_array_equal(numba.update_master(layout, mine, votes, steps), expected)
    np.testing.assert_array_equal(mine, master)


def test_lifts_make_sixteen_one():
    """B = 64 adds z itself to the output, for any number of inputs."""
    for inputs in (16, 64, 256, 1024, 4096):
        assert (64 << adapter_lift(inputs)) >> product_shift(inputs) == 1


def test_shapes_that_cannot_be():
    shape = Shape(16, 1)
    names = chosen(shape, "gru")
    for rank, matrices in (
        (0, names),
        (17, names),
        (1, ()),
        (1, names[::-1]),
        (1, ("embedding.weight",)),
    ):
        with pytest.raises(BackendError) as error:
            AdapterShape(shape, rank, matrices)
        assert "\n" not in str(error.value)
