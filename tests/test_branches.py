"""Recipe egg on the reference: branches, credit along the wire, votes and the update."""

from math import log2

import numpy as np
import pytest
from synthetic import corpus

from egg.kernels import Adapter, AdapterShape, Draw, Shape, get_backend, philox, reference
from egg.kernels.arithmetic import MASTER_BITS, VOTE_MEAN, first_shifts, product_shift, round_div, round_shift
from egg.kernels.reference_branches import Branches, hadamard, head_votes, log2_4096
from egg.model.parameters import initial_weights

BACKEND = get_backend("numpy")


def made(hidden_size=16, num_layers=2, streams=5, length=6, seed=0, scale=20):
    """A shape, weights, text with a document's end and states, all drawn."""
    shape, rng = Shape(hidden_size, num_layers), np.random.default_rng(seed)
    weights = np.clip(np.round(rng.normal(size=shape.parameters) * scale), -127, 127)
    tokens = rng.integers(1, 256, (streams, length + 1)).astype(np.uint8)
    tokens[:, length // 2] *= rng.integers(0, 2, streams).astype(np.uint8)
    states = rng.integers(-127, 128, (streams, num_layers, hidden_size)).astype(np.int8)
    return shape, weights.astype(np.int8), tokens, states


def cast(shape, weights, tokens, states, branches=None, first_row=0, adapter=None, step=3):
    draw = Draw(2**40 + 1, step, branches or shape.hidden_size, first_shifts(shape.num_layers))
    model = BACKEND.prepare(shape, weights, adapter)
    return BACKEND.cast_votes(model, tokens, states, draw, first_row=first_row)


def explicit_hadamard(size):
    return np.array([[(-1) ** (k & j).bit_count() for j in range(size)] for k in range(size)])


@pytest.mark.parametrize("size", [1, 2, 16, 64, 256])
def test_the_transform_is_the_matrix(size):
    v = np.random.default_rng(size).integers(-(2**20), 2**20, (3, 2, size))
    np.testing.assert_array_equal(hadamard(v), v @ explicit_hadamard(size))
    np.testing.assert_array_equal(hadamard(hadamard(v)), size * v)


def test_the_logarithm_is_within_three():
    rng = np.random.default_rng(0)
    v = np.unique([*range(1, 2**16), *(2 ** rng.uniform(16, 23, 20000)).astype(int), 2**23 - 1]).astype(np.int64)
    assert np.abs(log2_4096(v) - 4096 * np.log2(v)).max() < 3
    np.testing.assert_array_equal(log2_4096(1 << np.arange(23)), 4096 * np.arange(23))


@pytest.mark.parametrize(("hidden_size", "branches"), [(16, 16), (64, 64), (64, 16), (256, 32)])
@pytest.mark.parametrize("scale", [0, 1, 20, 300])
def test_credit_by_the_letter(hidden_size, branches, scale):
    """Every branch by itself, in Python's integers, against the transform."""
    rng = np.random.default_rng(scale)
    head = np.clip(np.round(rng.normal(size=(256, hidden_size)) * scale), -127, 127)
    head = head.astype(np.int64)
    acc, targets = rng.integers(-127, 128, (2, hidden_size)) @ head.T, np.array([3, 255], np.uint8)
    got = Branches(head, Draw(9, 4, branches, np.zeros(5, np.int64)))
    np.testing.assert_array_equal(np.sort(got.rows_k), np.unique(got.rows_k))
    assert len(got.rows_k) == branches

    h = explicit_hadamard(hidden_size)
    place = int(philox.words(9, philox.BRANCH_SIGNS, 0, 4, 33)[32]) % hidden_size
    h = h[:, place, None] * h * got.signs_d
    effects = head @ h.T
    mean = int(np.abs(effects).sum()) // effects.size
    m = (mean // 512).bit_length() if mean >= 512 else 1 - (512 // max(1, mean)).bit_length()
    table = [min(32767, int(2 ** (15 - f / 16))) for f in range(16)]
    scores = np.zeros((2, branches), np.int64)
    shift = product_shift(hidden_size)
    for b in range(2):
        fine = [min(32767, max(-32512, int(a) * 256 >> shift)) for a in acc[b]]
        top = max(fine) >> 8
        for i, k in enumerate(got.rows_k):
            moves = [min(12288, max(-12288, round_shift(int(r), m))) for r in effects[:, k]]
            logits = [min(32767, max(-32768, a + d)) >> 8 for a, d in zip(fine, moves, strict=True)]
            total = sum(table[(top + 48 - v) & 15] >> ((top + 48 - v) >> 4) for v in logits)
            scores[b, i] = 256 * logits[targets[b]] - int(log2_4096(np.array([total]))[0])
    np.testing.assert_array_equal(got.scores(acc, targets), scores)
    fitness = scores - round_div(scores.sum(1, keepdims=True), branches)
    by = shift + int(log2(hidden_size)) // 2 - 11 - m - int(log2(hidden_size // branches))
    credit = np.clip(round_shift(fitness @ h[got.rows_k], by), -32767, 32767)
    np.testing.assert_array_equal(got.credit(acc, targets), credit)


def test_the_smallest_sum_of_likelihoods():
    """The likeliest byte 48 sixteenths down, all others out of sight: 32767 >> 6."""
    draw = Draw(1, 0, 16, np.zeros(5, np.int64))
    head = np.zeros((256, 16), np.int64)
    head[0] = -127 * Branches(head, draw).signs_d
    acc = np.full((1, 256), -(1 << 20))
    acc[0, 0] = 1 << 20
    branches = Branches(head, draw)
    got = branches.scores(acc, np.zeros(1, np.uint8))[0]
    first = branches.rows_k == 0  # the row of ones
    assert (got[first] == 256 * 79 - log2_4096(np.array([511]))).all()
    assert (got[~first] == 256 * 127 - log2_4096(np.array([32767 >> 3]))).all()


def test_credit_points_where_the_score_rises():
    """With all rows the branches recover the direction that a derivative would give, without one."""
    rng = np.random.default_rng(1)
    head, o = rng.integers(-40, 41, (256, 64)), rng.integers(-60, 61, (8, 64))
    targets = rng.integers(0, 256, 8).astype(np.uint8)
    acc = o @ head.T
    got = Branches(head, Draw(1, 0, 64, np.zeros(5, np.int64))).credit(acc, targets)
    p = np.exp2((acc >> 7) / 16)
    exact = head[targets] - (p / p.sum(1, keepdims=True)) @ head
    cosine = (got * exact).sum(1) / np.sqrt((got * got).sum(1) * (exact * exact).sum(1))
    assert cosine.min() > 0.9


def test_the_heads_votes_keep_the_mean():
    """Rounded up or down in turn, shares far below one half of a vote come out on average."""
    logits = np.zeros((4096, 256), np.int64)
    votes = head_votes(logits, np.zeros(4096, np.uint8), np.arange(4096))
    assert set(np.unique(votes)) == {-1, 0, 126, 127}
    share = ((127 << 32) // (256 * 4096) * 4096 * 4096) >> 32  # e = 16 * 2**8, S = 256 e
    np.testing.assert_array_equal(votes[:, 1:].sum(0), -share)
    assert not head_votes(np.full((1, 256), 127), np.zeros(1, np.uint8), np.zeros(1, int)).any()


def test_readers_are_the_forward_pass():
    shape, weights, tokens, states = made()
    got = cast(shape, weights, tokens, states)
    logits, after = BACKEND.forward(BACKEND.prepare(shape, weights), tokens[:, :-1], states)
    np.testing.assert_array_equal(got.states, after)
    assert got.score == reference.scores(logits, tokens[:, 1:], 256).sum()
    assert got.votes.dtype == np.int32 and got.totals.dtype == np.int64
    assert (got.totals > 0).all()


@pytest.mark.parametrize("branches", [16, 64])
def test_votes_are_sums_over_streams(monkeypatch, branches):
    shape, weights, tokens, states = made(64, 2, 7)
    whole = cast(shape, weights, tokens, states, branches, first_row=70)
    parts = [
        cast(shape, weights, tokens[part], states[part], branches, first_row=70 + part.start)
        for part in (slice(0, 3), slice(3, 7))
    ]
    monkeypatch.setattr(reference, "BLOCK_LOGITS", branches * 256 * 2)  # two streams at a time
    parts.append(cast(shape, weights, tokens, states, branches, first_row=70))
    for first, second in (parts[:2], (parts[2], None)):
        states_of = [first.states] + ([second.states] if second else [])
        np.testing.assert_array_equal(whole.states, np.concatenate(states_of))
        for field in ("votes", "totals", "score"):
            total = getattr(first, field) + (getattr(second, field) if second else 0)
            np.testing.assert_array_equal(getattr(whole, field), total)


def test_fewer_branches_are_others_at_every_step():
    shape, weights, tokens, states = made(64, 1)
    whole = cast(shape, weights, tokens, states)
    fewer, again = (cast(shape, weights, tokens, states, 16, step=step) for step in (3, 4))
    assert whole.score == fewer.score == again.score
    assert (fewer.votes != again.votes).any()
    name = "layers.0.mlp.w_down"
    a, b, c = (shape.views(v.votes.astype(float))[name] for v in (whole, fewer, again))
    for part in (b, c):  # noisier, of the same mind: the cosine of 16 of 64 directions is about a half
        assert (a * part).sum() > 0.2 * np.linalg.norm(a) * np.linalg.norm(part)
    np.testing.assert_array_equal(*(shape.views(v.votes)["head.weight"] for v in (whole, fewer)))


def test_a_nul_keeps_credit_from_what_came_before():
    """What is read after a NUL changes no vote on what was read before it."""
    shape, weights, tokens, states = made(streams=1, length=4)
    tokens[0] = 5, 6, 0, 7, 8
    other = tokens.copy()
    other[0, 3:] = 9, 10
    prefix = cast(shape, weights, tokens[:, :3], states)

    def before(text):
        z = shape.views(cast(shape, weights, text, states).votes)["embedding.weight"]
        return z[[5, 6]]

    np.testing.assert_array_equal(before(tokens), before(other))
    assert prefix.votes.any()

    def gates(text):
        return shape.views(cast(shape, weights, text, states).votes)["layers.0.gru.u_f"]

    # At the NUL the state is zero, so that u_f, which reads it, has no vote from there.
    alone = tokens[:, 2:4]
    assert not shape.views(cast(shape, weights, alone, states).votes)["layers.0.gru.u_f"].any()
    # Votes of the bytes before the NUL are those of a chunk that ends there, but for the head's rounding.
    after = cast(shape, weights, tokens[:, 2:], np.zeros_like(states))
    parts = shape.views(prefix.votes)["layers.0.gru.u_f"]
    parts = parts + shape.views(after.votes)["layers.0.gru.u_f"]
    np.testing.assert_array_equal(gates(tokens), parts)
    tokens[0, 2] = 4
    follows = cast(shape, weights, tokens[:, 2:], cast(shape, weights, tokens[:, :3], states).states)
    parts = shape.views(cast(shape, weights, tokens[:, :3], states).votes)["layers.0.gru.u_f"]
    parts = parts + shape.views(follows.votes)["layers.0.gru.u_f"]
    assert (gates(tokens) != parts).any()


@pytest.mark.parametrize("hidden_size", [16, 64])
def test_one_byte_and_no_more(hidden_size):
    shape, weights, tokens, states = made(hidden_size, 1, 3, 1)
    z = shape.views(cast(shape, weights, tokens, states).votes)
    for still in ("layers.0.ln1.weight", "layers.0.ln2.weight", "layers.0.mlp.w_up"):
        assert not z[still].any()
    read = np.unique(tokens[:, 0])
    assert set(np.flatnonzero(np.abs(z["embedding.weight"]).sum(1))) <= set(read)
    assert all(z[f"layers.0.gru.{t}"].any() for t in ("w_f", "u_f", "b_f", "w_h", "u_h", "b_h"))


def test_an_adapter_is_voted_on_in_b_alone():
    shape, weights, tokens, states = made(16, 2)
    layout = AdapterShape(shape, 3, shape.matrices)
    rng = np.random.default_rng(5)
    adapter = Adapter(layout, rng.integers(-60, 61, layout.parameters).astype(np.int8))
    got = cast(shape, weights, tokens, states, adapter=adapter)
    plain = cast(shape, weights, tokens, states)
    assert got.score != plain.score and got.votes.shape == (layout.parameters,)
    for name, z in layout.views(got.votes).items():
        assert z.any() == (name.endswith(".B") and "w_up" not in name), name

    # B = 0 adds nothing: the reader and every credit are the model's.
    for name, factor in layout.views(adapter.factors).items():
        factor[...] *= name.endswith(".A")
    still = cast(shape, weights, tokens, states, adapter=adapter)
    assert still.score == plain.score
    np.testing.assert_array_equal(still.totals, plain.totals)

    # An A that hands one input on has B vote as the column of the matrix that reads it.
    layout = AdapterShape(shape, 1, ("layers.1.gru.w_h",))
    factors = np.zeros(layout.parameters, np.int8)
    layout.views(factors)["layers.1.gru.w_h.A"][0, 7] = 64  # 64 >> shift(16) is 1
    one = cast(shape, weights, tokens, states, adapter=Adapter(layout, factors))
    np.testing.assert_array_equal(
        layout.views(one.votes)["layers.1.gru.w_h.B"][:, 0], shape.views(plain.votes)["layers.1.gru.w_h"][:, 7]
    )


def test_update_rows():
    shape = Shape(16, 1)
    starts, rng = shape.row_starts, np.random.default_rng(0)
    weights = initial_weights(shape, 1, "egg")
    master = weights.astype(np.int32) << MASTER_BITS
    squares = np.zeros(len(starts) - 1, np.int64)
    none = np.zeros(shape.parameters, np.int32)
    np.testing.assert_array_equal(BACKEND.update_rows(shape, master, squares, none, 0, 1 << 16), weights)
    assert not squares.any() and (master == weights.astype(np.int32) << MASTER_BITS).all()

    # A row of the embedding, by hand: one vote of 12 in 16 weights, twice.
    votes = none.copy()
    votes[3 * 16 + 2] = 12
    for step, square in ((0, 144), (1, 144), (2, 144)):  # (144 << 4) // 16; it stays
        expected = master.astype(np.int64)
        expected[3 * 16 + 2] += (12 * ((26214 << 16) // 12) + (1 << 13)) >> 14
        BACKEND.update_rows(shape, master, squares, votes, step, 26214)
        np.testing.assert_array_equal(master, expected)
        np.testing.assert_array_equal(squares, square * (np.arange(len(squares)) == 3))
    BACKEND.update_rows(shape, master, squares, none, 3, 26214)
    assert squares[3] == 144 + (0 - 144) // 4
    BACKEND.update_rows(shape, master, squares, none, 1000, 26214)
    assert squares[3] == 108 + (0 - 108) // 128
    squares[3] = 108_000
    BACKEND.update_rows(shape, master, squares, none, 127, 26214)
    assert squares[3] == 108_000 - 844  # 843.75

    # The largest votes there are: nothing leaves its range.
    for step in range(40):
        votes = rng.choice(np.array([-(2**31), 2**31 - 1], np.int32), shape.parameters)
        votes[:8192] = 2**31 - 1
        moved = BACKEND.update_rows(shape, master, squares, votes, step, 8 << 16)
        assert np.abs(moved.astype(int)).max() <= 127 and (squares == 1 << 50).all()
    assert np.abs(master).max() <= 127 << MASTER_BITS and (moved[:4096] == 127).all()


def test_update_master_rounds_and_stays_in_range():
    shape = Shape(16, 1)
    master = np.full(shape.parameters, 126 * 256, np.int16)
    master[0] = -126 * 256
    votes = np.zeros(shape.parameters, np.int64)
    votes[:4] = -(2**20), 2**20, 3, -3
    weights = BACKEND.update_master(shape, master, votes, 1 << 31)
    np.testing.assert_array_equal(master[:5], [-127 * 256, 127 * 256, 126 * 256 + 2, 126 * 256 - 1, 126 * 256])
    np.testing.assert_array_equal(weights[:5], [-127, 127, 126, 126, 126])
    assert weights.dtype == np.int8


def test_sixty_steps_learn():
    shape, streams, length, steps = Shape(16, 1), 16, 16, 60
    text = corpus(40)
    weights = initial_weights(shape, 3, "egg")
    master = weights.astype(np.int32) << MASTER_BITS
    squares, shifts = np.zeros(shape.rows, np.int64), first_shifts(shape.num_layers)
    states, starts = np.zeros((streams, 1, 16), np.int8), np.arange(streams) * text.size // streams
    bits = []
    for step in range(steps):
        at = (starts[:, None] + step * length + np.arange(length + 1)) % text.size
        cast = BACKEND.cast_votes(
            BACKEND.prepare(shape, weights), text[at], states, Draw(0, step, 16, shifts), first_row=streams * step
        )
        states = cast.states
        means = cast.totals // (streams * length * 16) // VOTE_MEAN
        lengths = np.array([int(m).bit_length() for m in means])
        shifts = np.where(cast.totals > 0, lengths, shifts)
        weights = BACKEND.update_rows(shape, master, squares, cast.votes, step, 30000)
        bits.append(-cast.score / (256 * streams * length))
    assert bits[0] == 8
    assert np.mean(bits[-10:]) < 3.8, bits[-10:]
