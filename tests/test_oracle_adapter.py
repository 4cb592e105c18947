"""Adapters: the reference backend against the oracle, which knows docs/arithmetic.md alone."""

import make_vectors
import numpy as np
import oracle
import oracle_adapter
import pytest

from egg.adapter import initial_factors, merge
from egg.optimizer import adapter_multipliers, ranked_multiplier
from egg.reward_evolution import pair_fitness
from kernels import Adapter, AdapterShape, Noise, Shape, get_backend

REFERENCE = get_backend("numpy")
SEED = 2**63 + 11


def made(num_layers, rank, tensors, scale):
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
    return weights, adapter, REFERENCE.prepare(shape, flat, Adapter(layout, factors)), layout, flat


CASES = [  # layers, rank, tensors, scale of factors
    (1, 1, ("gru", "mlp", "head"), 30),
    (2, 3, ("u_h", "w_down"), 90),
    (2, 2, ("w_f", "w_up", "head"), 20),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sigma_shift", [0, 3, 6])
def test_votes_are_the_oracles(case, sigma_shift):
    weights, adapter, model, layout, _ = made(*case)
    texts = [[65, 0, 66, 67], [10, 200, 30, 0]]
    states = make_vectors.random_states(1, 2, case[0], 16)
    z = {name: oracle.zeros((len(rows), len(rows[0]))) for name, rows in adapter.items()}
    scores, deviation, after = [], 0, []
    for group, (text, h) in enumerate(zip(texts, states, strict=True)):
        lives = [
            oracle_adapter.live(weights, adapter, h, text, SEED, 12 + 4 * group + i, 7, sigma_shift)
            for i in range(4)
        ]
        deviation += oracle_adapter.group_votes(z, weights, lives, text, 20)
        scores += [sum(life.s0) for life in lives]
        after.append(lives[7 % 4].tokens[-1].h)
    cast = REFERENCE.cast_adapter_votes(
        model, np.array(texts, np.uint8), np.array(states, np.int8), Noise(SEED, 7, sigma_shift),
        group_size=4, credit_scale=20, first_group=3,
    )  # fmt: skip
    assert cast.scores.tolist() == scores and cast.deviation == deviation
    assert cast.states.tolist() == after
    for name, votes in layout.views(cast.votes).items():
        np.testing.assert_array_equal(votes, z[name], err_msg=name)
    assert cast.votes.any()


@pytest.mark.parametrize("case", CASES)
def test_pairs_are_the_oracles(case):
    weights, adapter, model, _, _ = made(*case)
    states = make_vectors.random_states(1, 4, case[0], 16)
    tokens = np.array([[65], [65], [0], [66]], np.uint8)
    logits, after = REFERENCE.read_adapter_pairs(
        model, tokens, np.array(states, np.int8), Noise(SEED, 9, 1)
    )
    for member, h in enumerate(states):
        direction = oracle_adapter.draw_direction(SEED, member // 2, 9, adapter)
        adapted = oracle_adapter.Adapted(adapter, direction, 1 - 2 * (member % 2), 1)
        token = oracle.read_token(weights, h, int(tokens[member, 0]), adapted)
        assert logits[member, 0].tolist() == token.logits
        assert after[member].tolist() == token.h


def test_multipliers_and_masters_are_the_oracles():
    _, adapter, _, layout, _ = made(*CASES[1])
    multipliers = adapter_multipliers(layout, 98_304, 2048)
    assert multipliers.tolist() == [
        oracle_adapter.multiplier(98_304, 2048, 3, name) for name in adapter
    ]
    rng = np.random.default_rng(0)
    master = rng.integers(-127 * 256, 127 * 256 + 1, layout.parameters).astype(np.int16)
    votes = rng.integers(-(2**36), 2**36, layout.parameters)
    expected = [
        oracle_adapter.moved(int(m), int(z), int(multipliers[number]))
        for number, t in enumerate(layout.tensors.values())
        for m, z in zip(master[t.slice], votes[t.slice], strict=True)
    ]
    REFERENCE.update_master(layout, master, votes, multipliers)
    assert master.tolist() == expected


def test_initial_factors_are_the_oracles():
    _, adapter, _, layout, _ = made(*CASES[2])
    expected = oracle_adapter.initial_factors(SEED, oracle_adapter.shapes(adapter))
    for name, factor in layout.views(initial_factors(layout, SEED)).items():
        assert factor.tolist() == expected[name]


def test_fitness_is_the_oracles():
    rng = np.random.default_rng(4)
    for scores in (rng.normal(size=10), rng.integers(0, 3, 24) / 7, np.zeros(2)):
        fitness = pair_fitness(scores)
        assert fitness.tolist() == oracle_adapter.ranked_fitness(scores.tolist())
        squares = sum(f * f for f in fitness.tolist())
        assert ranked_multiplier(4 << 16, fitness) == (4 << 40) // max(1, int(squares**0.5))


def test_a_merge_is_the_oracles():
    weights, adapter, _, layout, flat = made(*CASES[1])
    factors = layout.flatten({name: np.array(rows) for name, rows in adapter.items()})
    found = layout.base.views(merge(flat, Adapter(layout, factors)))
    for name, w in weights.items():
        if name in layout.matrices:
            w = oracle_adapter.merged(w, adapter[name + ".A"], adapter[name + ".B"])
        np.testing.assert_array_equal(found[name], w, err_msg=name)
