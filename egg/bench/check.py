"""Checks, before a backend is timed, that it computes what the reference defines."""

import numpy as np

from egg.errors import EggError
from egg.kernels import get_backend
from egg.kernels.arithmetic import MASTER_BITS, MIN_BRANCHES, REWARD_MASTER_BITS, STATIONS
from egg.kernels.backend import Backend, Draw, Noise
from egg.kernels.layout import Shape

SHAPES = (Shape(16, 1), Shape(64, 2), Shape(256, 1))
STREAMS, LENGTH = 3, 5


def check_backend(backend: Backend) -> None:
    """Compare forward, votes and update with the reference on small models, byte for byte.

    Raises EggError, one line, for the first call that differs.
    """
    reference = get_backend("numpy")
    for shape in SHAPES:
        expected, actual = (_results(b, shape) for b in (reference, backend))
        for name, arrays in expected.items():
            for one, other in zip(arrays, actual[name], strict=True):
                if not np.array_equal(one, other):
                    raise EggError(
                        f"backend {backend.name}: {name} differs from the reference at "
                        f"{shape.hidden_size}/{shape.num_layers}: its speed means nothing"
                    )


def check_full_rank(backend: Backend) -> None:
    """Compare full-rank noise, added to weights, subtracted again, and in votes, with the reference.

    Raises EggError, one line, if it differs.
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
        votes, expected = (b.cast_full_rank_votes(shape.parameters, fitness, noise) for b in (backend, reference))
        if not same or not np.array_equal(votes, expected):
            raise EggError(
                f"backend {backend.name}: full-rank noise differs from the reference at "
                f"{shape.hidden_size}/{shape.num_layers}: its speed means nothing"
            )


def check_low_rank(backend: Backend, noises: dict[str, Noise]) -> None:
    """Compare members of recipe paper and their votes with the reference, with noises by name.

    Raises EggError, one line, for the first that differs.
    """
    reference, tokens = get_backend("numpy"), np.arange(10, dtype=np.uint8).reshape(2, 5)
    for shape in SHAPES:
        weights = np.arange(shape.parameters).astype(np.int8) // 2
        states = np.zeros((4, shape.num_layers, shape.hidden_size), np.int8)
        for name, noise in noises.items():
            expected, actual = (
                (
                    *b.run_pairs(b.prepare(shape, weights), tokens, states, noise),
                    b.cast_pair_votes(shape, np.array([1, -3], np.int8), noise),
                )
                for b in (reference, backend)
            )
            if not all(map(np.array_equal, expected, actual)):
                raise EggError(
                    f"backend {backend.name}: members of {name} differ from the reference at "
                    f"{shape.hidden_size}/{shape.num_layers}: their speed means nothing"
                )


def _results(backend: Backend, shape: Shape) -> dict[str, tuple]:
    """Call -> the arrays it computes from fixed inputs."""
    rng = np.random.default_rng(shape.hidden_size)
    layers, size = (shape.num_layers, shape.hidden_size), shape.parameters
    weights = np.clip(np.round(rng.normal(size=size) * 24), -127, 127).astype(np.int8)
    tokens = rng.integers(0, 256, (STREAMS, LENGTH + 1)).astype(np.uint8)
    tokens[0, 2] = 0  # a document ends
    states = rng.integers(-127, 128, (2 * STREAMS, *layers)).astype(np.int8)
    fitness, votes = np.array([1, -1, 0], np.int8), rng.integers(-(2**30), 2**30, size)
    noise = Noise(seed=1, step=17, sigma_shift=3)

    model = backend.prepare(shape, weights)
    results: dict[str, tuple] = {"forward": backend.forward(model, tokens, states[:STREAMS])}
    found = backend.score(model, tokens, states[:STREAMS])
    results["score"] = found.totals, found.below, found.scores, found.states
    shifts = rng.integers(4, 13, shape.vote_kinds(stations=True))
    few, all_ = (Draw(1, 17, count, shifts[: shape.vote_kinds()]) for count in (MIN_BRANCHES, shape.hidden_size))
    master, squares = weights.astype(np.int32) << MASTER_BITS, np.arange(shape.rows)
    results |= {"cast_votes": (), "update_rows": (master, squares)}
    for draw in (few, all_, Draw(1, 17, shape.hidden_size, shifts, STATIONS)):
        cast = backend.cast_votes(model, tokens, states[:STREAMS], draw, first_row=5)
        results["cast_votes"] += cast.votes.copy(), cast.states.copy(), cast.totals, cast.score
        results["update_rows"] += (backend.update_rows(shape, master, squares, cast.votes, 17, 1 << 15),)
    master = weights.astype(np.int16) << REWARD_MASTER_BITS
    return results | {
        "update_master": (backend.update_master(shape, master, votes, 1 << 13), master),
        "run_pairs": backend.run_pairs(model, tokens, states, noise, first_pair=3),
        "cast_pair_votes": (backend.cast_pair_votes(shape, fitness, noise, first_pair=3).copy(),),
        "update_signs": (backend.update_signs(weights, votes, 1 << 33),),
    }
