"""Random subspaces: the evolution against the oracle, which knows docs/arithmetic.md alone, and the signs of P."""

import numpy as np
import oracle
import pytest

from egg.config import Config, EvolutionConfig, ModelConfig
from egg.errors import EggError
from egg.evolution.subspace import Projection, hadamard
from egg.kernels import Shape, get_backend
from egg.model.network import Network
from egg.model.parameters import initial_weights
from egg.run.adaptation import Subspace, adapt

TEXT = b"\0the egg came first." * 20


class Text:
    """The bytes that are read."""

    tokens, size = np.frombuffer(TEXT, np.uint8), len(TEXT)

    def read(self, starts, length):
        return self.tokens[(starts[:, None] + np.arange(length)) % self.size]


def evolution(shape, weights, dimensions, backend, seed=2**63 + 5, **settings):
    settings = EvolutionConfig(seed=seed, schedule_tokens=80, **settings)
    config = Config(model=ModelConfig(shape.hidden_size, shape.num_layers), evolution=settings)
    network = Network(backend, shape, weights)
    return Subspace(None, "all", dimensions).evolution(config, network, Text())


@pytest.mark.parametrize(("name", "layers", "dimensions"), [("numpy", 1, 128), ("numpy", 2, 4), ("numba", 1, 32)])
def test_a_subspace_is_the_oracles(name, layers, dimensions):
    if name == "numba":
        pytest.importorskip("numba")
    shape = Shape(16, layers)
    weights = initial_weights(shape, 3, "paper")  # whose head is not zero
    tensors = {name: view.tolist() for name, view in shape.views(weights).items()}
    expected = oracle.SubspaceRun(TEXT, 2**63 + 5, tensors, 2, 5, dimensions)
    run = evolution(shape, weights, dimensions, get_backend(name), streams=2, seq_len=5, step_size=3.0)
    assert np.array_equal(run.network.weights, weights)
    for _ in range(3):
        report = run.step()
        oracle.subspace_step(expected, round(report.step_size * 65536))
        assert run.master.tolist() == expected.z and any(expected.z)
        assert run.squares.tolist() == expected.z_squares
        assert run.shifts.tolist() == expected.shifts
        for tensor, view in shape.views(run.network.weights).items():
            np.testing.assert_array_equal(view, expected.weights()[tensor], tensor)
    assert (run.network.weights != weights).any()


def test_columns_are_orthogonal_signs():
    """And both products with P are those of its columns, also where d does not divide n, and beyond 4,096."""
    for n, d in ((96, 16), (100, 16), (9000, 8192)):
        projection, rng = Projection(n, d, 7), np.random.default_rng(d)
        some = rng.choice(d, 6, replace=False)
        columns = np.array([projection.moves(np.eye(1, d, k, dtype=np.int32)[0]) for k in some])
        assert set(np.unique(columns)) == {-1, 1}
        if n % d == 0:
            assert np.array_equal(columns @ columns.T, n * np.eye(len(some)))
        votes = rng.integers(-1000, 1000, n).astype(np.int32)
        shift = n.bit_length() // 2
        assert projection.votes(votes)[some].tolist() == [oracle.round_shift(int(c @ votes), shift) for c in columns]
    votes = np.full(2**16, 2**31 - 1, np.int32) * Projection(2**16, 4, 7).signs
    assert Projection(2**16, 4, 7).votes(votes).tolist() == [2**23, 0, 0, 0]
    assert Projection(64, 4, 1).signs.tolist() != Projection(64, 4, 2).signs.tolist()
    assert hadamard(np.arange(4)).tolist() == [6, -2, -4, 0]


def test_weights_that_have_no_votes_stay():
    shape = Shape(16, 1)
    weights = initial_weights(shape, 3, "paper")
    found = adapt(
        Network(get_backend("numpy"), shape, weights),
        Text(),
        Text.tokens,
        rank=None,
        dimensions=64,
        tokens=320,
        streams=4,
    )
    assert found.evolved == 64 and found.after != found.before
    moved = {name for name, view in shape.views(found.network.weights != weights).items() if view.any()}
    assert {"embedding.weight", "head.weight", "layers.0.gru.w_f"} <= moved
    assert not moved & {"layers.0.ln1.weight", "layers.0.ln2.weight", "layers.0.mlp.w_up"}


@pytest.mark.parametrize(
    ("dimensions", "says"), [(3, "power of two"), (2, "power of two"), (12, "power of two"), (16384, "10,288 weights")]
)
def test_what_is_no_subspace(dimensions, says):
    shape = Shape(16, 1)
    for asked in (Subspace(None, "all", dimensions).parameters, lambda s: evolution(s, None, dimensions, None)):
        with pytest.raises(EggError, match=says):
            asked(shape)


def test_a_subspace_has_no_stations():
    shape = Shape(16, 1)
    weights = initial_weights(shape, 3, "paper")
    with pytest.raises(EggError, match="credit wire"):
        evolution(shape, weights, 4, get_backend("numpy"), credit="stations")
