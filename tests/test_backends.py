"""Every backend equals the oracle's vectors and the reference: all calls, shapes, threads, extremes."""

import itertools
import math
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import oracle
import pytest

from egg.kernels import BackendError, Choice, Draw, Noise, Shape, get_backend, reference
from egg.kernels.arithmetic import STATIONS, sampling_weights
from egg.kernels.reference import likelihoods, scores
from egg.optimizer import moving_share, sign_threshold

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
    logits, states = backend.forward(model, tokens[None, :-1], np.zeros((1, layers, hidden_size), np.int8))
    np.testing.assert_array_equal(logits[0], file["logits"])
    np.testing.assert_array_equal(states[0], file["final_state"])
    np.testing.assert_array_equal(scores(logits[0], tokens[1:]), file["score_sixteenths"])
    found = backend.score(model, tokens[None], np.zeros((1, layers, hidden_size), np.int8))
    np.testing.assert_array_equal(found.scores[0], file["score_sixteenths"])
    rows = file["logits"].astype(int).tolist()
    assert found.totals[0].tolist() == [oracle.surprise_total(row) for row in rows]
    assert found.below[0].tolist() == [max(r) - r[t] for r, t in zip(rows, tokens[1:].tolist(), strict=True)]
    np.testing.assert_array_equal(found.states[0], file["final_state"])


def test_paper_step_vectors(backend):
    file = np.load(VECTORS / "step_paper.npz")
    shape = Shape(16, int(file["layers"]))
    weights = file["weights"]
    noise = Noise(int(file["seed"]), int(file["step"]), int(file["sigma_shift"]))
    totals, states = backend.run_pairs(backend.prepare(shape, weights), file["tokens"], file["states"], noise)
    np.testing.assert_array_equal(totals, file["scores"])
    np.testing.assert_array_equal(states, file["new_states"])
    fitness = np.sign(totals[0::2] - totals[1::2]).astype(np.int8)
    np.testing.assert_array_equal(fitness, file["fitness"])
    votes = backend.cast_pair_votes(shape, fitness, noise)
    np.testing.assert_array_equal(votes, file["votes"])
    threshold = sign_threshold(moving_share(4.0, 1000, noise.step), math.isqrt(len(fitness)))
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


@pytest.mark.parametrize("scale", [16, 400])
@pytest.mark.parametrize(("hidden_size", "num_layers"), [(16, 1), (64, 2)])
def test_likelihoods_equal(fast, hidden_size, num_layers, scale):
    shape, rng = Shape(hidden_size, num_layers), np.random.default_rng(scale)
    weights = weights_of(shape, rng, scale)
    # In blocks stretches of 8 bytes, and what is left; a few sequences layer by layer
    for sequences, length in ((1, 1), (3, 9), (21, 17), (2, 0), (1, 16), (2, 129)):
        tokens = text_of(rng, length + 1, sequences).T  # not contiguous
        states = rng.integers(-127, 128, (sequences, num_layers, hidden_size)).astype(np.int8)
        before = states.copy()
        expected, got = (b.score(b.prepare(shape, weights), tokens, states) for b in (REFERENCE, fast))
        assert got == expected
        logits, after = fast.forward(fast.prepare(shape, weights), tokens, states)
        assert likelihoods(logits[:, :-1], tokens[:, 1:], got.states) == expected and after.shape == states.shape
        np.testing.assert_array_equal(states, before)


@pytest.mark.parametrize("temperature_256", [0, 1, 64, 256, 2**20])
def test_written_bytes_equal(fast, temperature_256):
    shape, rng = Shape(16, 1), np.random.default_rng(temperature_256)
    weights, by = weights_of(shape, rng, 24), sampling_weights(temperature_256) if temperature_256 else None
    states = rng.integers(-127, 128, (90, 1, 16)).astype(np.int8)
    logits = np.concatenate([weights_of(Shape(16, 1), rng, scale)[: 30 * 256] for scale in (2, 20, 200)])
    logits = logits.reshape(90, 256)
    logits[::9] = 3  # all alike
    given = logits.copy(), states.copy()
    numbers = np.arange(90)[::-1] + 2**32 - 90
    models = [(b, b.prepare(shape, weights)) for b in (REFERENCE, fast)]
    for top_k, top_p in itertools.product((0, 1, 9, 255), (1, 40000, 65535, 65536)):
        choice = Choice(by, top_k, top_p, seed=2**64 - 1 - top_k)
        positions = range(14, 33) if top_k == 9 else range(2**32 - 1, 2**32)
        expected, got = (b.write(m, logits, states, numbers, positions, choice) for b, m in models)
        for theirs, ours in zip(expected, got, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(logits, given[0])
    np.testing.assert_array_equal(states, given[1])


def assert_same_votes(expected, got, layout):
    """Votes, states, totals and score, tensor by tensor."""
    np.testing.assert_array_equal(got.states, expected.states)
    np.testing.assert_array_equal(got.totals, expected.totals)
    assert got.score == expected.score
    for name, votes in layout.views(expected.votes).items():
        np.testing.assert_array_equal(layout.views(got.votes)[name], votes, err_msg=name)


def drawn_step(shape, rng, streams, length, branches, stations=()):
    """Text, states and a draw with shifts that let some votes reach their limit."""
    tokens = text_of(rng, streams, length + 1)
    layers = (streams, shape.num_layers, shape.hidden_size)
    states = rng.integers(-127, 128, layers).astype(np.int8)
    shifts = rng.integers(0, 14, shape.vote_kinds(bool(stations)))
    return tokens, states, Draw(2**63 + streams, 2**32 - 2, branches, shifts, stations)


@pytest.mark.parametrize(("hidden_size", "num_layers"), SHAPES)
def test_branch_votes_equal(fast, hidden_size, num_layers):
    shape, rng = Shape(hidden_size, num_layers), np.random.default_rng(hidden_size)
    cases = [  # scale, streams, T, branches, stations
        (16, 5, 6, hidden_size, ()),
        (16, 9, 3, 16, ()),
        (400, 3, 1, hidden_size, ()),
        (2, 13, 4, min(32, hidden_size), ()),
        (0, 1, 2, hidden_size, ()),
        (16, 5, 6, hidden_size, STATIONS),
        (400, 3, 2, 16, STATIONS),
        (2, 13, 4, hidden_size, STATIONS),
        (0, 1, 2, hidden_size, STATIONS),
        (30, 6, 3, hidden_size, ("gates", "state")),
        (30, 6, 3, hidden_size, ("past", "middle")),
    ]
    for scale, streams, length, branches, stations in cases:
        weights = weights_of(shape, rng, scale)
        tokens, states, draw = drawn_step(shape, rng, streams, length, branches, stations)
        expected, got = (
            b.cast_votes(b.prepare(shape, weights), tokens, states, draw, first_row=77) for b in (REFERENCE, fast)
        )
        assert_same_votes(expected, got, shape)
        assert not scale or expected.votes.any()


def test_branch_votes_in_tiny_blocks(fast, monkeypatch):
    from egg.kernels.cpu import memory

    monkeypatch.setattr(memory, "BLOCK_BYTES", 1)
    shape, rng = Shape(64, 1), np.random.default_rng(5)
    weights = weights_of(shape, rng, 16)
    for length, stations in ((3, ()), (21, ()), (4, STATIONS)):
        tokens, states, draw = drawn_step(shape, rng, 37, length, 64, stations)
        expected, got = (b.cast_votes(b.prepare(shape, weights), tokens, states, draw) for b in (REFERENCE, fast))
        assert_same_votes(expected, got, shape)


def test_votes_of_another_step_are_not_left_over(fast):
    """Buffers are kept from call to call: a smaller step after a larger one equals that step alone."""
    shape, rng = Shape(16, 2), np.random.default_rng(6)
    model = fast.prepare(shape, weights_of(shape, rng, 16))
    small = drawn_step(shape, rng, 3, 2, 16)
    first = fast.cast_votes(model, *small).votes.copy()
    fast.cast_votes(model, *drawn_step(shape, rng, 21, 7, 16, STATIONS))
    np.testing.assert_array_equal(fast.cast_votes(model, *small).votes, first)


# Perturbations of recipe paper beside signs of rank 1, as fields of Noise
NOISES = [
    {"directions": 2},
    {"rank": 4},
    {"rank": 16, "directions": 3},
    {"gaussian": True},
    {"gaussian": True, "rank": 4, "directions": 1},
    {"gaussian": True, "rank": 16},
]
KINDS = pytest.mark.parametrize("kind", [{}, *NOISES], ids=lambda kind: "-".join(map(str, kind.items())) or "signs")


def assert_same_pairs(fast, shape, rng, scale, pairs, length, noise):
    weights = weights_of(shape, rng, scale)
    tokens = text_of(rng, pairs, length + 1)
    states = rng.integers(-127, 128, (2 * pairs, shape.num_layers, shape.hidden_size)).astype(np.int8)
    expected, got = (
        b.run_pairs(b.prepare(shape, weights), tokens, states, noise, first_pair=3) for b in (REFERENCE, fast)
    )
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@KINDS
@pytest.mark.parametrize(("hidden_size", "num_layers"), SHAPES)
def test_pairs_equal(fast, hidden_size, num_layers, kind):
    shape, rng = Shape(hidden_size, num_layers), np.random.default_rng(hidden_size)
    for scale, pairs, length, sigma_shift in ((16, 5, 6, 4), (400, 1, 1, 0), (16, 37, 2, 8)):
        if hidden_size < 256 or not kind or pairs < 37:
            assert_same_pairs(fast, shape, rng, scale, pairs, length, Noise(2**64 - 1, 5, sigma_shift, **kind))


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_gaussian_projections_are_limited_equally(fast, monkeypatch, rank):
    from egg.kernels.cpu import noise

    for module in (reference, noise):
        monkeypatch.setattr(module, "GAUSSIAN_LIMIT", 500 * rank)  # far less, so that many are
    assert_same_pairs(fast, Shape(64, 1), np.random.default_rng(0), 16, 3, 4, Noise(1, 2, 0, rank, True))


@KINDS
@pytest.mark.parametrize("pairs", [1, 2, 33, 600])
def test_pair_votes_equal(fast, pairs, kind):
    rng = np.random.default_rng(pairs)
    for shape in (Shape(16, 2), Shape(64, 1)):
        if pairs * kind.get("rank", 1) > 2000:
            continue  # fewer of them have a second batch too
        for fitness in (
            rng.integers(-1, 2, pairs),
            np.zeros(pairs),
            -np.ones(pairs),
            rng.integers(-127, 128, pairs),
            np.full(pairs, 127),
        ):
            for use_clt in (True, False)[: 1 + ("gaussian" in kind)]:
                noise = Noise(9, 4, 4, use_clt=use_clt, **kind)
                expected, got = (
                    b.cast_pair_votes(shape, fitness.astype(np.int8), noise, first_pair=11) for b in (REFERENCE, fast)
                )
                np.testing.assert_array_equal(got, expected, strict=True)


@pytest.mark.parametrize("kind", [{"rank": 4}, {"gaussian": True}], ids=["signs", "gaussian"])
def test_pair_votes_in_stretches_equal(fast, monkeypatch, kind):
    """Sums of a stretch of directions fit int32, and are moved to int64 before the next one begins."""
    from egg.kernels.cpu import backend

    monkeypatch.setattr(backend, "PAIR_ROWS", 8)
    monkeypatch.setattr(backend, "VOTE_ROWS", 16)
    shape, fitness = Shape(16, 1), np.arange(-30, 30).astype(np.int8)
    votes = [b.cast_pair_votes(shape, fitness, Noise(1, 2, 4, **kind)) for b in (REFERENCE, fast)]
    np.testing.assert_array_equal(votes[1], votes[0])


def test_rows_move_equally_and_clip(fast):
    rng = np.random.default_rng(0)
    for shape in (Shape(16, 1), Shape(256, 1)):
        rows = shape.rows
        for step, step_size, scale in ((0, 26214, 2**30), (5, 26214, 900), (70, 127 << 16, 3), (200, 26214, 900)):
            votes = rng.integers(-scale, scale, shape.parameters).astype(np.int32)
            votes[::3] = rng.integers(-3, 4, len(votes[::3]))
            votes[: shape.parameters // 2 : 2] = 0
            master = rng.integers(-127 << 16, (127 << 16) + 1, shape.parameters).astype(np.int32)
            squares = rng.integers(0, 2**40 // scale, rows)
            mine, my_squares = master.copy(), squares.copy()
            expected = REFERENCE.update_rows(shape, master, squares, votes, step, step_size)
            got = fast.update_rows(shape, mine, my_squares, votes, step, step_size)
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(mine, master)
            np.testing.assert_array_equal(my_squares, squares)
            assert np.abs(master).max() == 127 << 16


def test_integer_roots():
    pytest.importorskip("numba")
    get_backend("numba")
    from egg.kernels.cpu.votes import integer_root

    rng = np.random.default_rng(0)
    roots = [int(r) >> shift for shift in range(0, 31, 3) for r in rng.integers(0, 2**31, 20)]
    for v in [*range(300), *(max(0, r * r + more) for r in roots for more in (-1, 0, 1, 2 * r))]:
        assert integer_root(v) == math.isqrt(v)


def test_updates_equal_and_clip(fast):
    shape, rng = Shape(16, 1), np.random.default_rng(0)
    votes = rng.integers(-(2**38), 2**38, shape.parameters)
    votes[::3] = rng.integers(-3, 4, len(votes[::3]))
    master = rng.integers(-127 * 256, 127 * 256 + 1, shape.parameters).astype(np.int16)
    mine = master.copy()
    expected = REFERENCE.update_master(shape, master, votes, 2**19 + 7)
    np.testing.assert_array_equal(fast.update_master(shape, mine, votes, 2**19 + 7), expected)
    np.testing.assert_array_equal(mine, master)
    assert np.abs(master.astype(int)).max() == 127 * 256
    weights = rng.integers(-127, 128, shape.parameters).astype(np.int8)
    votes = rng.integers(-40, 40, shape.parameters).astype(np.int32)
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
    draw = Draw(0, 0, 64, np.zeros(shape.vote_kinds(), np.int64))
    fast.cast_votes(model, text_of(rng, 5, 4), states, draw)
    np.testing.assert_array_equal(whole, before)


def test_arrays_that_are_not_contiguous_are_read_as_what_they_are(fast):
    shape, rng = Shape(16, 2), np.random.default_rng(8)
    weights = np.repeat(weights_of(shape, rng, 16), 2)[::2]
    states = np.asfortranarray(rng.integers(-127, 128, (6, 2, 16)).astype(np.int8))
    tokens = text_of(rng, 6, 4)
    expected, got = (b.forward(b.prepare(shape, weights), tokens, states) for b in (REFERENCE, fast))
    np.testing.assert_array_equal(got[0], expected[0])
    expected, got = (
        b.run_pairs(b.prepare(shape, weights), tokens[:3], states, Noise(1, 1, 4)) for b in (REFERENCE, fast)
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
    notices = []
    get_backend("auto", notify=notices.append)
    assert notices[-1].startswith("backend ") and len(notices) <= 2


def test_compiling_is_told_where_nothing_is_compiled_yet(monkeypatch, tmp_path):
    pytest.importorskip("numba")
    monkeypatch.setenv("EGG_CACHE", str(tmp_path))
    notices = []
    get_backend("numba", notify=notices.append)
    assert "compiled" in notices[0] and len(notices) == 2
    (compiled,) = (tmp_path / "kernels").iterdir()
    (compiled / "some.nbi").touch()
    get_backend("numba", notify=notices.append)
    assert len(notices) == 3


# --- threads that share tasks ------------------------------------------------------------------------


def test_threads_may_call_at_once_and_backends_may_go():
    """A backend's helpers still look out for work when nobody holds the backend any more; callers wait in turn."""
    pytest.importorskip("numba")
    shape, rng = Shape(16, 1), np.random.default_rng(3)
    weights, step = weights_of(shape, rng, 16), drawn_step(shape, rng, 64, 4, 16)
    expected = REFERENCE.cast_votes(REFERENCE.prepare(shape, weights), *step)
    for _ in range(20):
        fast = get_backend("numba", threads=3)
        with ThreadPoolExecutor(4) as pool:
            for model in pool.map(fast.prepare, [shape] * 8, [weights] * 8):
                for got in pool.map(fast.cast_votes, [model] * 8, *([part] * 8 for part in step)):
                    assert got.score == expected.score
                    np.testing.assert_array_equal(got.states, expected.states)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_forked_in_the_middle_of_a_step_takes_steps():
    """It has none of the threads, nor the one that would release the lock."""
    pytest.importorskip("numba")
    shape, rng = Shape(16, 1), np.random.default_rng(4)
    fast, step = get_backend("numba", threads=3), drawn_step(shape, rng, 64, 4, 16)
    model = fast.prepare(shape, weights_of(shape, rng, 16))
    expected = fast.cast_votes(model, *step)
    votes = expected.votes.copy()

    def check():
        got = fast.cast_votes(model, *step)
        helped = [helper for helper in fast._team.helpers if helper.thread.is_alive()]
        os._exit(0 if len(helped) == 2 and np.array_equal(got.votes, votes) else 1)

    child = multiprocessing.get_context("fork").Process(target=check)
    with fast._team.lock:
        child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_thousands_of_tiny_steps_are_the_same(threads):
    """Helpers come late, find nothing, fall asleep and wake; a step is interrupted; still all numbers are equal."""
    pytest.importorskip("numba")
    shape, rng = Shape(16, 1), np.random.default_rng(threads)
    alone, fast = get_backend("numba", threads=1), get_backend("numba", threads=threads)
    trained = [(b, np.zeros(shape.parameters, np.int32), np.zeros(shape.rows, np.int64)) for b in (alone, fast)]
    weights, interrupted, inside = [weights_of(shape, rng, 16)] * 2, 0, False

    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        nonlocal inside
        if inside:
            inside = False
            raise Interrupted

    if hasattr(signal, "setitimer"):
        before = signal.signal(signal.SIGALRM, interrupt)
    for number in range(3000):
        text, states, draw = drawn_step(shape, rng, int(rng.integers(1, 40)) if number % 50 == 0 else 24, 4, 16)
        if hasattr(signal, "setitimer") and number % 5 == 0:
            try:
                inside = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1e-3))
                model = fast.prepare(shape, weights[1])
                fast.cast_votes(model, text, states, draw)
                fast.forward(model, text, states)
                inside = False
            except Interrupted:
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
        if number % 100 == 0:
            time.sleep(0.002)
        scores = []
        for i, (b, master, squares) in enumerate(trained):
            votes = b.cast_votes(b.prepare(shape, weights[i]), text, states, draw)
            weights[i] = b.update_rows(shape, master, squares, votes.votes, number, 1 << 20)
            scores.append((votes.score, votes.states.tobytes(), votes.totals.tobytes()))
            scores[i] += tuple(part.tobytes() for part in b.forward(b.prepare(shape, weights[i]), text, states))
        assert scores[0] == scores[1]
        np.testing.assert_array_equal(*weights)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, before)
        assert interrupted


def test_what_moves_in_place_must_lie_in_place():
    pytest.importorskip("numba")
    shape, fast = Shape(16, 1), get_backend("numba", threads=1)
    votes, squares = np.zeros(shape.parameters, np.int32), np.zeros(shape.rows, np.int64)
    for master in (np.zeros(shape.parameters, np.int64), np.zeros((shape.parameters, 2), np.int32)[:, 0]):
        with pytest.raises(ValueError, match="contiguous int32"):
            fast.update_rows(shape, master, squares, votes, 0, 0)
