"""Adapters: the CPU backends against the oracle, which knows docs/arithmetic.md alone."""

import make_vectors
import numpy as np
import oracle
import oracle_adapter
import pytest

from egg.evolution.reward import pair_fitness
from egg.kernels import get_backend
from egg.kernels.backend import Adapter, Draw, Noise
from egg.kernels.layout import AdapterShape, Shape
from egg.kernels.reference import cast_adapter_pair_votes
from egg.model.adapter import initial_factors, merge
from egg.optimizer import ranked_multiplier

REFERENCE = get_backend("numpy")
SEED = 2**63 + 11


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return get_backend(request.param)


def made(num_layers, rank, tensors, scale, backend=REFERENCE):
    """The same model and adapter for the oracle and for the backend."""
    weights = make_vectors.random_weights(21, 16, num_layers)
    shape = Shape(16, num_layers)
    names = tuple(n for n in shape.matrices if any(t in n for t in tensors))
    layout = AdapterShape(shape, rank, names)
    rng = np.random.default_rng(rank)
    drawn = np.clip(np.round(rng.normal(size=layout.parameters) * scale), -127, 127)
    factors = drawn.astype(np.int8)
    adapter = {name: view.tolist() for name, view in layout.views(factors).items()}
    flat = shape.flatten({name: np.array(w) for name, w in weights.items()})
    return weights, adapter, backend.prepare(shape, flat, Adapter(layout, factors)), layout, flat


CASES = [  # layers, rank, tensors, scale of factors
    (1, 1, ("gru", "mlp", "head"), 30),
    (2, 3, ("u_h", "w_down"), 90),
    (2, 2, ("w_f", "w_up", "head"), 20),
]


@pytest.mark.parametrize("case", CASES)
def test_votes_are_the_oracles(backend, case):
    weights, adapter, model, layout, _ = made(*case, backend)
    texts = [[65, 0, 66, 67], [10, 200, 30, 0]]
    states = make_vectors.random_states(1, 2, case[0], 16)
    shifts = [4, 5, *[10, 11, 3] * case[0]]
    expected = oracle_adapter.text_votes(weights, adapter, texts, states, SEED, 7, 16, shifts)
    cast = backend.cast_votes(
        model, np.array(texts, np.uint8), np.array(states, np.int8), Draw(SEED, 7, 16, np.array(shifts)), first_row=14
    )
    assert cast.score == expected.score
    assert cast.totals.tolist() == expected.totals
    assert cast.states.tolist() == expected.states
    for name, votes in layout.views(cast.votes).items():
        np.testing.assert_array_equal(votes, expected.votes[name], err_msg=name)
        assert votes.any() == (name.endswith(".B") and "w_up" not in name)


def test_an_adapter_of_zeros_reads_as_the_model():
    """And B votes with z: the votes of the model's matrix are products of the same pushes."""
    weights, adapter, _, layout, _ = made(*CASES[0])
    adapter = {
        name: oracle.zeros((len(rows), len(rows[0]))) if name.endswith(".B") else rows for name, rows in adapter.items()
    }
    text, states = [[65, 66]], make_vectors.random_states(1, 1, 1, 16)
    shifts = oracle.first_shifts(1)
    plain = oracle.egg_votes(weights, text, states, SEED, 7, 16, shifts)
    adapted = oracle_adapter.text_votes(weights, adapter, text, states, SEED, 7, 16, shifts)
    assert (adapted.score, adapted.totals, adapted.ends) == (plain.score, plain.totals, plain.ends)
    x = plain.tokens[0][0].inputs["head.weight"]
    z = oracle.scaled(oracle.sums(x, adapter["head.weight.A"]), 16)
    for row, row_b in zip(plain.votes["head.weight"], adapted.votes["head.weight.B"], strict=True):
        assert [v * z[0] for v in row] == [row_b[0] * x_k for x_k in x]


def test_steps_of_an_adapter_are_the_oracles(backend):
    """Three steps: the rows of B have as many weights as the rank; shifts, states and squares are carried over."""
    weights, adapter, _, layout, flat = made(*CASES[1])
    text = b"the egg came first.\0" * 7
    run = oracle_adapter.TextRun(weights, adapter, text, SEED, 2, 4)
    factors = layout.flatten({name: np.array(rows) for name, rows in adapter.items()})
    master = factors.astype(np.int32) << 16
    squares = np.zeros(layout.rows, np.int64)
    for step in range(3):
        streams, chunks = oracle.egg_chunks(text, SEED, step, 2, 4)
        cast = backend.cast_votes(
            backend.prepare(layout.base, flat, Adapter(layout, factors)),
            np.array(chunks, np.uint8),
            np.array([run.states[s] for s in streams], np.int8),
            Draw(SEED, step, 16, np.array(run.shifts)),
            first_row=2 * step,
        )
        factors = backend.update_rows(layout, master, squares, cast.votes, step, 30_000)
        result = oracle.egg_step(run, 30_000)
        assert cast.totals.tolist() == result.totals
        assert squares.tolist() == [q for rows in run.squares.values() for q in rows]
        for name, view in layout.views(master).items():
            assert view.tolist() == run.master[name]
        assert factors.tolist() == ((master + 2**15) >> 16).tolist()
    for name, rows in adapter.items():
        assert (oracle.from_master(run.master)[name] == rows) == name.endswith(".A")


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("case", CASES)
def test_pairs_are_the_oracles(case, rank):
    weights, adapter, model, _, _ = made(*case)
    states = make_vectors.random_states(1, 4, case[0], 16)
    tokens = np.array([[65], [65], [0], [66]], np.uint8)
    logits, after = REFERENCE.read_adapter_pairs(model, tokens, np.array(states, np.int8), Noise(SEED, 9, 1, rank))
    for member, h in enumerate(states):
        directions = oracle_adapter.draw_directions(SEED, member // 2, 9, adapter, rank)
        adapted = oracle_adapter.Adapted(adapter, directions, 1 - 2 * (member % 2), 1)
        token = oracle.read_token(weights, h, int(tokens[member, 0]), adapted)
        assert logits[member, 0].tolist() == token.logits
        assert after[member].tolist() == token.h


@pytest.mark.parametrize(("rank", "sigma_shift"), [(1, 3), (4, 2), (16, 1)])
def test_the_oracle_moves_factors_along_all_directions_of_a_pair(rank, sigma_shift):
    """While no shift loses bits: by twice the sum of the directions, which is also what a fitness of 2 votes for."""
    weights, adapter, _, layout, _ = made(*CASES[1])
    directions = oracle_adapter.draw_directions(SEED, 1, 9, adapter, rank)
    assert directions == [oracle_adapter.draw_direction(SEED, rank + q, 9, adapter) for q in range(rank)]
    votes = oracle_adapter.reward_votes(adapter, SEED, 9, [0, 2], rank)
    for r in (1, -1):
        factors = {name: (np.array(rows) + r * np.array(votes[name])).tolist() for name, rows in adapter.items()}
        h = make_vectors.random_states(1, 1, 2, 16)[0]
        moved = oracle.read_token(weights, h, 66, oracle_adapter.Adapted(adapter, directions, r, sigma_shift))
        expected = oracle.read_token(weights, h, 66, oracle_adapter.Adapted(factors))
        assert (moved.logits, moved.h, moved.change.z) == (expected.logits, expected.h, expected.change.z)
        assert moved.h != oracle.read_token(weights, h, 66, oracle_adapter.Adapted(adapter)).h
    root = oracle.half_log2(rank)
    assert oracle_adapter.multiplier(98_304, [3, -4], rank) == (98_304 << 24) // (5 << root)
    cast = cast_adapter_pair_votes(layout, np.array([0, 2]), Noise(SEED, 9, sigma_shift, rank))
    assert {name: z.tolist() for name, z in layout.views(cast).items()} == votes


def test_masters_of_rewards_are_the_oracles(backend):
    _, adapter, _, layout, _ = made(*CASES[1])
    multiplier = oracle_adapter.multiplier(98_304, [100, -254, 7])
    rng = np.random.default_rng(0)
    master = rng.integers(-127 * 256, 127 * 256 + 1, layout.parameters).astype(np.int16)
    votes = rng.integers(-(2**12), 2**12, layout.parameters)
    expected = [oracle_adapter.moved(m, z, multiplier) for m, z in zip(master.tolist(), votes.tolist(), strict=True)]
    weights = backend.update_master(layout, master, votes, multiplier)
    assert master.tolist() == expected
    assert weights.tolist() == [(m + 128) >> 8 for m in expected]


def test_initial_factors_are_the_oracles():
    _, adapter, _, layout, _ = made(*CASES[2])
    expected = oracle_adapter.initial_factors(SEED, oracle_adapter.shapes(adapter))
    for name, factor in layout.views(initial_factors(layout, SEED)).items():
        assert factor.tolist() == expected[name]


def test_fitness_is_the_oracles():
    rng = np.random.default_rng(4)
    for scores in (rng.normal(size=10), rng.integers(0, 3, 24) / 7, np.zeros(2)):
        fitness = pair_fitness(scores)
        assert fitness.tolist() == oracle.ranked_fitness(scores.tolist())
        assert ranked_multiplier(4 << 16, fitness) == oracle_adapter.multiplier(4 << 16, fitness.tolist())


def test_a_merge_is_the_oracles():
    weights, adapter, _, layout, flat = made(*CASES[1])
    factors = layout.flatten({name: np.array(rows) for name, rows in adapter.items()})
    found = layout.base.views(merge(flat, Adapter(layout, factors)))
    for name, w in weights.items():
        if name in layout.matrices:
            w = oracle_adapter.merged(w, adapter[name + ".A"], adapter[name + ".B"])
        np.testing.assert_array_equal(found[name], w, err_msg=name)
