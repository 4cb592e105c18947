"""The classic evolution strategy: its noise against the generator, in place and back, learning, and every backend."""

import numpy as np
import pytest
from synthetic import documents

from egg.bench.cases import ArrayText
from egg.evolution.classic import ClassicEvolution, ClassicSettings, read_pair
from egg.kernels import Noise, Shape, get_backend
from egg.kernels.philox import FULL_RANK_SIGNS, words
from egg.model.evaluate import evaluate
from egg.model.network import Network
from egg.model.parameters import initial_weights

REFERENCE = get_backend("numpy")
TEXT = np.frombuffer(b"".join(b"\0" + d for d in documents(40)), np.uint8)
SIZES = (16, 2048, 2064, 4096 + 48)  # chunks of 2,048 and parts of them


@pytest.fixture(scope="module", params=[1, 3])
def numba(request):
    pytest.importorskip("numba")
    return get_backend("numba", threads=request.param)


def test_a_weight_moves_by_its_own_bit():
    weights = np.zeros(70, np.int8)
    REFERENCE.add_full_rank(weights, Noise(2**63 + 5, 9, 3), 4, 3)
    string = words(2**63 + 5, FULL_RANK_SIGNS, 4, 9, 3)
    bits = [int(string[k // 32]) >> (k % 32) & 1 for k in range(70)]
    assert weights.tolist() == [3 if bit else -3 for bit in bits]


@pytest.mark.parametrize("size", SIZES)
def test_noise_equals_and_is_taken_off_again(numba, monkeypatch, size):
    from egg.kernels.cpu import backend

    monkeypatch.setattr(backend, "LARGE", 2048)  # many threads have something to do
    weights = np.random.default_rng(size).integers(-111, 112, size).astype(np.int8)
    weights[:2] = -111, 111
    noise = Noise(2**64 - 1, 2**32 - 1, 0)
    mine, theirs = weights.copy(), weights.copy()
    for direction, amount in ((0, 16), (0, -32), (0, 16), (2**32 - 1, 5)):
        REFERENCE.add_full_rank(theirs, noise, direction, amount)
        numba.add_full_rank(mine, noise, direction, amount)
        np.testing.assert_array_equal(mine, theirs)
    assert (mine != weights).all()
    numba.add_full_rank(mine, noise, 2**32 - 1, -5)
    np.testing.assert_array_equal(mine, weights)


@pytest.mark.parametrize("size", SIZES)
def test_votes_equal_and_are_sums(numba, size):
    fitness, noise = np.array([127, 0, -3, -127, 64]), Noise(3, 1, 3)
    expected = np.zeros(size, np.int64)
    for direction, f in enumerate(fitness.tolist()):
        one = np.zeros(size, np.int8)
        REFERENCE.add_full_rank(one, noise, direction, 1)
        expected += f * one.astype(np.int64)
    for backend in (REFERENCE, numba):
        np.testing.assert_array_equal(backend.cast_full_rank_votes(size, fitness, noise), expected)


def test_a_pair_leaves_the_weights_as_they_were():
    shape = Shape(16, 1)
    weights = initial_weights(shape, 3, "paper").clip(-125, 125)
    before = weights.copy()
    tokens = TEXT[:66].reshape(2, 33)
    plus, minus = read_pair(REFERENCE, shape, weights, tokens, Noise(1, 2, 3), 5, 2)
    assert plus != minus
    np.testing.assert_array_equal(weights, before)


def test_it_learns_a_little_and_equals(numba):
    shape = Shape(16, 1)
    start = initial_weights(shape, 3, "paper")
    settings = ClassicSettings(steps=12, population_size=32, sequences=4, seq_len=8, step_size=2 << 16)
    runs = [ClassicEvolution(Network(b, shape, start), ArrayText(TEXT), settings) for b in (REFERENCE, numba)]
    for _ in range(settings.steps):
        bits = [run.step() for run in runs]
        assert bits[0] == bits[1]
        np.testing.assert_array_equal(runs[0].weights, runs[1].weights)
    before, after = (evaluate(Network(REFERENCE, shape, w), TEXT).bits_per_byte for w in (start, runs[0].weights))
    assert after < before - 0.2
    assert np.abs(runs[0].weights).max() <= 125
