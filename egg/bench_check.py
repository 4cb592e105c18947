"""Whether a backend computes what the reference defines: asked before its speed is."""

import numpy as np

from egg.errors import EggError
from egg.optimizer import multipliers
from kernels import get_backend
from kernels.arithmetic import CREDIT_SCALE_FLOOR
from kernels.backend import Backend, Noise
from kernels.layout import Shape

SHAPES = (Shape(16, 1), Shape(64, 2), Shape(256, 1))
GROUPS, GROUP_SIZE, LENGTH = 3, 16, 5


def check(backend: Backend) -> None:
    """Compare forward, votes and update with the reference on small models, byte for byte.

    Raises EggError, one line, for the first call that differs.
    """
    reference = get_backend("numpy")
    for shape in SHAPES:
        expected, found = _results(reference, shape), _results(backend, shape)
        for name, arrays in expected.items():
            for one, other in zip(arrays, found[name], strict=True):
                if not np.array_equal(one, other):
                    raise EggError(
                        f"backend {backend.name}: {name} differs from the reference at "
                        f"{shape.hidden_size}/{shape.num_layers}: its speed means nothing"
                    )


def check_full_rank(backend: Backend) -> None:
    """Compare full-rank noise, on weights and in votes, with the reference, and what is left when it is taken off.

    Raises EggError, one line, for what differs.
    """
    reference, noise = get_backend("numpy"), Noise(1, 2, 3)
    for shape in SHAPES:
        weights = np.arange(shape.parameters).astype(np.int8) // 2
        moved, expected, fitness = weights.copy(), weights.copy(), np.array([3, 0, -127])
        backend.add_full_rank(moved, noise, 1, 5)
        reference.add_full_rank(expected, noise, 1, 5)
        same = np.array_equal(moved, expected)
        backend.add_full_rank(moved, noise, 1, -5)
        same &= np.array_equal(moved, weights)
        votes = (
            b.cast_full_rank_votes(shape.parameters, fitness, noise) for b in (backend, reference)
        )
        if not same or not np.array_equal(*votes):
            raise EggError(
                f"backend {backend.name}: full-rank noise differs from the reference at "
                f"{shape.hidden_size}/{shape.num_layers}: its speed means nothing"
            )


def _results(backend: Backend, shape: Shape) -> dict[str, tuple]:
    """What every call of a backend gives for inputs that are the same each time: call -> arrays."""
    rng = np.random.default_rng(shape.hidden_size)
    layers, size = (shape.num_layers, shape.hidden_size), shape.parameters
    weights = np.clip(np.round(rng.normal(size=size) * 24), -127, 127).astype(np.int8)
    tokens = rng.integers(0, 256, (GROUPS, LENGTH + 1)).astype(np.uint8)
    tokens[0, 2] = 0  # a document ends
    states = rng.integers(-127, 128, (2 * GROUPS, *layers)).astype(np.int8)
    fitness = np.array([1, -1, 0], np.int8)
    noise = Noise(seed=1, step=GROUP_SIZE + 1, sigma_shift=3)

    model = backend.prepare(shape, weights)
    cast = backend.cast_traced_votes(
        model, tokens, states[:GROUPS], noise,
        group_size=GROUP_SIZE, credit_scale=CREDIT_SCALE_FLOOR, first_group=2,
    )  # fmt: skip
    traced = cast.votes.copy(), cast.states, cast.scores, cast.deviation
    master = weights.astype(np.int16) << 8
    step_size = multipliers(shape, 1 << 16, GROUPS * GROUP_SIZE)
    return {
        "forward": backend.forward(model, tokens, states[:GROUPS]),
        "cast_traced_votes": traced,
        "update_master": (backend.update_master(shape, master, traced[0], step_size), master),
        "run_pairs": backend.run_pairs(model, tokens, states, noise, first_pair=3),
        "cast_pair_votes": (backend.cast_pair_votes(shape, fitness, noise, first_pair=3).copy(),),
        "update_signs": (backend.update_signs(weights, traced[0], 1 << 16),),
    }
