"""Every backend equals the oracle's vectors and the reference: all calls, shapes, threads, extremes."""

from pathlib import Path

import numpy as np
import pytest

from egg.optimizer import multipliers
from kernels import BackendError, Noise, Shape, get_backend
from kernels.reference import scores

VECTORS = Path(__file__).parent / "vectors"
REFERENCE = get_backend("numpy")
SHAPES = [(16, 1), (16, 3), (64, 1), (64, 2), (256, 1)]


ON_DEVICE = pytest.param("cupy", marks=pytest.mark.cuda)


@pytest.fixture(scope="module", params=[1, 2, 3, ON_DEVICE])
def fast(request):
    """Numba with so many threads, or the CUDA backend."""
    if request.param == "cupy":
        return request.getfixturevalue("cupy_backend")
    pytest.importorskip("numba")
    return get_backend("numba", threads=request.param)


@pytest.fixture
def numba():
    pytest.importorskip("numba")
    return get_backend("numba")


@pytest.fixture(scope="module", params=["numpy", "numba", ON_DEVICE])
def backend(request):
    if request.param == "cupy":
        return request.getfixturevalue("cupy_backend")
    if request.param == "numba":
        pytest.importorskip("numba")
    return get_backend(request.param)


def weights_of(shape, rng, scale):
    """Random weights; a large scale puts many at +-127."""
    drawn = np.round(rng.normal(size=shape.parameters) * scale)
    return np.clip(drawn, -127, 127).astype(np.int8)


def text_of(rng, rows, length):
    """Random bytes with a document's end in the middle."""
    tokens = rng.integers(0, 256, (rows, length)).astype(np.uint8)
    tokens[:, length // 2] = 0
    return tokens


# --- the oracle's vectors --------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(p.name for p in VECTORS.glob("forward_*.npz")))
def test_forward_vectors(backend, name):
    file = np.load(VECTORS / name)
    tensors = {key[6:]: file[key] for key in file if key.startswith("param.")}
    layers, hidden_size = file["final_state"].shape
    shape = Shape(hidden_size, layers)
    assert set(tensors) == set(shape.tensors)
    model = backend.prepare(shape, shape.flatten(tensors))
    tokens = file["tokens"]
    logits, states = backend.forward(
        model, tokens[None, :-1], np.zeros((1, layers, hidden_size), np.int8)
    )
    np.testing.assert_array_equal(logits[0], file["logits"])
    np.testing.assert_array_equal(states[0], file["final_state"])
    np.testing.assert_array_equal(scores(logits[0], tokens[1:]), file["score_sixteenths"])


@pytest.mark.parametrize("name", sorted(p.name for p in VECTORS.glob("step_egg_*.npz")))
def test_egg_step_vectors(backend, name):
    file = np.load(VECTORS / name)
    shape = Shape(16, int(file["layers"]))
    group_size = int(file["group_size"])
    master = file["master"].copy()
    weights = ((master.astype(np.int32) + 128) >> 8).astype(np.int8)
    noise = Noise(
        int(file["seed"]), int(file["step"]), int(file["sigma_shift"]), str(file["perturbation"])
    )
    cast = backend.cast_traced_votes(
        backend.prepare(shape, weights),
        file["tokens"],
        file["states"],
        noise,
        group_size=group_size,
        credit_scale=int(file["credit_scale"]),
    )
    np.testing.assert_array_equal(cast.scores, file["s0"].sum(2).ravel())
    np.testing.assert_array_equal(cast.votes, file["votes"])
    np.testing.assert_array_equal(cast.states, file["new_states"])
    population = len(cast.scores)
    assert max(16, cast.deviation // population) == file["new_credit_scale"]
    steps = multipliers(shape, int(file["lr"]), population)
    moved = backend.update_master(shape, master, cast.votes, steps)
    np.testing.assert_array_equal(master - file["master"], file["master_change"])
    np.testing.assert_array_equal(moved - weights, file["weights_change"])


def test_paper_step_vectors(backend):
    file = np.load(VECTORS / "step_paper.npz")
    shape = Shape(16, int(file["layers"]))
    weights = file["weights"]
    noise = Noise(int(file["seed"]), int(file["step"]), int(file["sigma_shift"]))
    totals, states = backend.run_pairs(
        backend.prepare(shape, weights), file["tokens"], file["states"], noise
    )
    np.testing.assert_array_equal(totals, file["scores"])
    np.testing.assert_array_equal(states, file["new_states"])
    fitness = np.sign(totals[0::2] - totals[1::2]).astype(np.int8)
    np.testing.assert_array_equal(fitness, file["fitness"])
    votes = backend.cast_pair_votes(shape, fitness, noise)
    np.testing.assert_array_equal(votes, file["votes"])
    from egg.optimizer import sign_threshold

    threshold = sign_threshold(noise.step, len(fitness))
    moved = backend.update_signs(weights, votes, threshold)
    np.testing.assert_array_equal(moved - weights, file["weights_change"])


# --- the fast backends against the reference --------------------------------------------------------


@pytest.mark.parametrize("scale", [16, 400])
@pytest.mark.parametrize(("hidden_size", "num_layers"), SHAPES)
def test_forward_equals(fast, hidden_size, num_layers, scale):
    shape, rng = Shape(hidden_size, num_layers), np.random.default_rng(scale)
    weights = weights_of(shape, rng, scale)
    for sequences, length in ((1, 1), (3, 7), (21, 4)):
        tokens = text_of(rng, sequences, length)
        states = rng.integers(-127, 128, (sequences, num_layers, hidden_size)).astype(np.int8)
        expected = REFERENCE.forward(REFERENCE.prepare(shape, weights), tokens, states)
        got = fast.forward(fast.prepare(shape, weights), tokens, states)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("perturbation", ["sign", "input"])
@pytest.mark.parametrize(("hidden_size", "num_layers"), SHAPES)
def test_traced_votes_equal(fast, hidden_size, num_layers, perturbation):
    shape, rng = Shape(hidden_size, num_layers), np.random.default_rng(hidden_size)
    cases = [  # scale, groups, members a group, T, sigma_shift, credit_scale
        (16, 3, 4, 5, 3, 16),
        (16, 5, 16, 4, 0, 300),
        (400, 2, 8, 1, 8, 16),
        (2, 2, 12, 2, 5, 17),
    ]
    for scale, groups, group_size, length, sigma_shift, credit_scale in cases:
        weights = weights_of(shape, rng, scale)
        tokens = text_of(rng, groups, length + 1)
        states = rng.integers(-127, 128, (groups, num_layers, hidden_size)).astype(np.int8)
        noise = Noise(2**63 + scale, 2**32 - 2, sigma_shift, perturbation)
        settings = {"group_size": group_size, "credit_scale": credit_scale, "first_group": 7}
        expected, got = (
            b.cast_traced_votes(b.prepare(shape, weights), tokens, states, noise, **settings)
            for b in (REFERENCE, fast)
        )
        np.testing.assert_array_equal(got.scores, expected.scores)
        np.testing.assert_array_equal(got.states, expected.states)
        assert got.deviation == expected.deviation
        for name, votes in shape.views(expected.votes).items():
            np.testing.assert_array_equal(shape.views(got.votes)[name], votes, err_msg=name)


def test_traced_votes_in_many_batches_and_tiny_blocks(fast, monkeypatch):
    from kernels.cpu import backend

    monkeypatch.setattr(
        backend, "VOTE_ROWS", 8
    )  # a batch of one or two groups, slices of four pairs
    monkeypatch.setattr(backend, "BLOCK_BYTES", 1)
    shape, rng = Shape(64, 1), np.random.default_rng(5)
    weights = weights_of(shape, rng, 16)
    for length in (3, 21):  # 21: a group's own rows are more than a slice
        tokens = text_of(rng, 9, length + 1)
        states = np.zeros((9, 1, 64), np.int8)
        noise = Noise(1, 2, 3)
        expected, got = (
            b.cast_traced_votes(
                b.prepare(shape, weights), tokens, states, noise, group_size=4, credit_scale=40
            )
            for b in (REFERENCE, fast)
        )
        np.testing.assert_array_equal(got.votes, expected.votes)
        np.testing.assert_array_equal(got.states, expected.states)
        np.testing.assert_array_equal(got.scores, expected.scores)


def test_outputs_far_beyond_the_limit_are_limited_before_they_are_shifted_left(numba):
    """The first member saw next to nothing, others much: sums of 2**29, to be shifted left by ten."""
    from kernels.arithmetic import VOTE_LIMIT
    from kernels.cpu import votes

    rng = np.random.default_rng(11)
    block, arrays = numba._new_block(Shape(64, 1), 16, 2, 16, True, False)
    words = arrays[5]
    words[...] = rng.integers(0, 2**32, words.shape)
    coefficients = rng.integers(-(2**25), 2**25, (2, 16)).astype(np.int32)
    coefficients[1] //= 2**22
    for shift in (-10, -3, 0, 4, 16):
        out = np.zeros(64, np.int32)
        votes.pack_outputs(
            block, 0, 16, 8, coefficients, np.array([shift, shift]), 64, out.ctypes.data, 256, 0, 0
        )
        signs = (
            2 * ((words[:, 2:4, None] >> np.arange(32)) & 1).reshape(16, 64).astype(np.int64) - 1
        )
        sums = coefficients.astype(np.int64) @ signs
        expected = [sums << -shift if shift <= 0 else (sums + (1 << (shift - 1))) >> shift]
        low_high = np.clip(expected[0], -VOTE_LIMIT, VOTE_LIMIT).astype(np.int16)
        np.testing.assert_array_equal(out.view(np.int16).reshape(64, 2).T, low_high)


@pytest.mark.parametrize(("hidden_size", "num_layers"), SHAPES)
def test_pairs_equal(fast, hidden_size, num_layers):
    shape, rng = Shape(hidden_size, num_layers), np.random.default_rng(hidden_size)
    for scale, pairs, length, sigma_shift in ((16, 5, 6, 4), (400, 1, 1, 0), (16, 37, 2, 8)):
        weights = weights_of(shape, rng, scale)
        tokens = text_of(rng, pairs, length + 1)
        states = rng.integers(-127, 128, (2 * pairs, num_layers, hidden_size)).astype(np.int8)
        noise = Noise(2**64 - 1, 5, sigma_shift)
        expected, got = (
            b.run_pairs(b.prepare(shape, weights), tokens, states, noise, first_pair=3)
            for b in (REFERENCE, fast)
        )
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("pairs", [1, 2, 33, 600])
def test_pair_votes_equal(fast, pairs):
    rng = np.random.default_rng(pairs)
    for shape in (Shape(16, 2), Shape(64, 1)):
        for fitness in (rng.integers(-1, 2, pairs), np.zeros(pairs), -np.ones(pairs)):
            votes = [
                b.cast_pair_votes(shape, fitness.astype(np.int8), Noise(9, 4, 4), first_pair=11)
                for b in (REFERENCE, fast)
            ]
            np.testing.assert_array_equal(votes[1], votes[0])


def test_updates_equal_and_clip(fast):
    shape, rng = Shape(16, 1), np.random.default_rng(0)
    votes = rng.integers(-(2**38), 2**38, shape.parameters)
    votes[::3] = rng.integers(-3, 4, len(votes[::3]))
    steps = rng.integers(1, 2**20, len(shape.tensors))
    master = rng.integers(-127 * 256, 127 * 256 + 1, shape.parameters).astype(np.int16)
    mine = master.copy()
    expected = REFERENCE.update_master(shape, master, votes, steps)
    np.testing.assert_array_equal(fast.update_master(shape, mine, votes, steps), expected)
    np.testing.assert_array_equal(mine, master)
    assert np.abs(master.astype(int)).max() == 127 * 256
    weights = rng.integers(-127, 128, shape.parameters).astype(np.int8)
    for threshold in (0, 16, 33):
        expected = REFERENCE.update_signs(weights, votes, threshold)
        np.testing.assert_array_equal(fast.update_signs(weights, votes, threshold), expected)
        assert expected.min() >= -127
    assert (REFERENCE.update_signs(weights, np.zeros_like(votes), 0) == weights).all()


def test_nothing_is_written_beyond_a_batch(fast):
    """Outputs stand between sentinels: a kernel that runs over its rows would change them."""
    shape, rng = Shape(64, 1), np.random.default_rng(2)
    model = fast.prepare(shape, weights_of(shape, rng, 16))
    whole = np.full((9, 1, 64), 77, np.int8)
    states = whole[2:7]
    before = whole.copy()
    fast.forward(model, text_of(rng, 5, 3), states)
    fast.cast_traced_votes(
        model, text_of(rng, 5, 4), states, Noise(0, 0, 3), group_size=4, credit_scale=16
    )
    np.testing.assert_array_equal(whole, before)


def test_arrays_that_are_not_contiguous_are_read_as_what_they_are(fast):
    shape, rng = Shape(16, 2), np.random.default_rng(8)
    weights = np.repeat(weights_of(shape, rng, 16), 2)[::2]
    states = np.asfortranarray(rng.integers(-127, 128, (6, 2, 16)).astype(np.int8))
    tokens = text_of(rng, 6, 4)
    expected, got = (
        b.forward(b.prepare(shape, weights), tokens, states) for b in (REFERENCE, fast)
    )
    np.testing.assert_array_equal(got[0], expected[0])
    expected, got = (
        b.run_pairs(b.prepare(shape, weights), tokens[:3], states, Noise(1, 1, 4))
        for b in (REFERENCE, fast)
    )
    np.testing.assert_array_equal(got[0], expected[0])


# --- choosing ---------------------------------------------------------------------------------------


def test_an_unknown_backend_is_refused_in_one_line():
    for name, threads in (("jax", None), ("numba", 0)):
        with pytest.raises(BackendError) as error:
            get_backend(name, threads=threads)
        assert "\n" not in str(error.value)


def test_an_unknown_instruction_set_is_refused_in_one_line(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setenv("EGG_CPU", "mmx")
    with pytest.raises(BackendError, match="EGG_CPU=mmx"):
        get_backend("numba")


def test_auto_says_what_it_chose():
    told = []
    get_backend("auto", notify=told.append)
    assert told[-1].startswith("backend ") and len(told) <= 2


def test_compiling_is_told_where_nothing_is_compiled_yet(monkeypatch, tmp_path):
    pytest.importorskip("numba")
    monkeypatch.setenv("EGG_CACHE", str(tmp_path))
    told = []
    get_backend("numba", notify=told.append)
    assert "compiled" in told[0] and len(told) == 2
    (compiled,) = (tmp_path / "kernels").iterdir()
    (compiled / "some.nbi").touch()
    get_backend("numba", notify=told.append)
    assert len(told) == 3
