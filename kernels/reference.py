"""The NumPy backend: readable, slow, the living definition of every operation (docs/arithmetic.md).

Arrays carry their axes in their names' suffixes where it helps: m members or sequences, b streams, n outputs, k inputs,
l layers, d hidden. Sums are int64, wider than any needs; the bounds the fast backends rely on are asserted.
Recipe ``egg`` goes on in ``egg.kernels.reference_branches``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import isqrt

import numpy as np

from egg.kernels import philox
from egg.kernels.arithmetic import (
    FINE,
    FRACTION_BITS,
    GAUSSIAN_LIMIT,
    LIMIT,
    MASTER_BITS,
    REWARD_MASTER_BITS,
    SHARES,
    SIXTEENTHS,
    VOCABULARY,
    VOTE_LIMIT,
    WINDOW,
    adapter_lift,
    clip8,
    exp2_table,
    floor_log2,
    normal_table,
    product_shift,
    round_shift,
    shift_right,
    surprise_table,
)
from egg.kernels.backend import Choice, Likelihoods, Noise, Votes
from egg.kernels.layout import AdapterShape, Layout, Shape
from egg.kernels.reference_branches import Ballot, Branches, Byte, Stations, vote

Read = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``Backend.forward`` of a model, or a function like it: tokens (n, T) uint8 and states (n, L, D) int8 -> logits
(n, T, 256) int8 in sixteenths of a bit, and the states after."""
BLOCK_MEMBERS = 256  # that run together; bounds memory, not results
BLOCK_LOGITS = 1 << 20  # of branches that are scored together, likewise


def norm(x_md: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """clip8((x * gain) // max(1, mean |x|)): the mean's divisor D is a power of two, rounded down."""
    mean = np.abs(x_md).sum(-1, keepdims=True) // x_md.shape[-1]
    return clip8((x_md * gain) // np.maximum(1, mean))


def scores(logits: np.ndarray, targets: np.ndarray, fraction: int = SIXTEENTHS) -> np.ndarray:
    """Integer log-likelihood of the target bytes, in 1/fraction bit, at most 0 up to the tables' rounding.

    logits : (..., 256) int8 in sixteenths of a bit
    targets : (...) uint8
    returns : (...) int32
    """
    at = logits.astype(np.int64) + 128
    total = exp2_table().astype(np.int64)[at].sum(-1)
    target = np.take_along_axis(at, targets[..., None].astype(np.int64), -1)[..., 0]
    return (target * (fraction // SIXTEENTHS) - floor_log2(total, fraction)).astype(np.int32)


def shares(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a target's surprise is taken from: the total of all bytes' shares, and how far it is below the largest.

    logits : (..., 256) int8 in sixteenths of a bit
    targets : (...) uint8
    returns : (...) uint64, and (...) uint8 in sixteenths of a bit
    """
    below = (logits.max(-1, keepdims=True).astype(np.int16) - logits).astype(np.uint8)
    totals = surprise_table()[below].sum(-1, dtype=np.uint64)
    return totals, np.take_along_axis(below, targets[..., None].astype(np.int64), -1)[..., 0]


def likelihoods(logits: np.ndarray, targets: np.ndarray, states: np.ndarray) -> Likelihoods:
    """``Backend.score`` from what ``forward`` gives.

    logits : (sequences, T, 256) int8
    targets : (sequences, T) uint8
    states : (sequences, L, D) int8, passed on
    """
    return Likelihoods(*shares(logits, targets), scores(logits, targets), states)


@dataclass
class Model:
    """Unperturbed weights, and the hooks where a perturbation enters."""

    shape: Shape
    weights: dict[str, np.ndarray]  # int64 views by name
    factors: dict[str, np.ndarray] = field(default_factory=dict)  # of an adapter, likewise
    adapter: AdapterShape | None = None

    @property
    def layout(self) -> Layout:
        """What evolves: the adapter where there is one."""
        return self.adapter or self.shape

    def vector(self, name: str) -> np.ndarray:
        """Norm gains or biases."""
        return self.weights[name]

    def embedding(self, tokens_m: np.ndarray) -> np.ndarray:
        """Rows of the embedding: (members, D)."""
        return self.weights["embedding.weight"][tokens_m]

    def term(self, name: str, x_mk: np.ndarray):
        """What a perturbation adds to the accumulator of a product: (members, N)."""
        return 0

    def seen(self, stage: str, values_mn: np.ndarray) -> None:
        """Receives every stage's result, (members, N), and the sums of products before their shift; keeps nothing."""

    def adapted(self, name: str, x_mk: np.ndarray):
        """What an adapter adds to the accumulator of a product: (members, N)."""
        if name + ".A" not in self.factors:
            return 0
        acc = x_mk @ self.factors[name + ".A"].T + self.term(name + ".A", x_mk)
        z = clip8(acc >> product_shift(x_mk.shape[1]))
        self.seen(name + ".A", z)
        acc = z @ self.factors[name + ".B"].T + self.term(name + ".B", z)
        return acc << adapter_lift(x_mk.shape[1])

    def product(self, name: str, x_mk: np.ndarray) -> np.ndarray:
        """clip8((W . x + term + what the adapter adds) >> shift(K)): (members, N)."""
        acc = x_mk @ self.weights[name].T + self.term(name, x_mk)
        acc += self.adapted(name, x_mk)
        # |W . x| < 2**26, |gain(p)| <= 2**4 * 127 * K < 2**23; an adapter's < 2**4 * 16 * 127 * (127 + 2**4) < 2**23
        assert np.abs(acc).max(initial=0) < 2**30
        self.seen(name, acc)
        return clip8(acc >> product_shift(x_mk.shape[1]))

    def read(self, tokens_m: np.ndarray, h_mld: np.ndarray) -> np.ndarray:
        """One byte through the network up to the head; the states h_mld move in place.

        returns : (members, D), the input of the head
        """
        h_mld[tokens_m == 0] = 0
        x = self.embedding(tokens_m)
        self.seen("embedding", x)
        for i in range(self.shape.num_layers):
            layer, h = f"layers.{i}.", h_mld[:, i].copy()  # a reader keeps it
            u = norm(x, self.vector(layer + "ln1.weight"))
            f = clip8(
                self.product(layer + "gru.w_f", u) + self.product(layer + "gru.u_f", h) + self.vector(layer + "gru.b_f")
            )
            past = ((f + LIMIT) * h) >> 8
            self.seen(layer + "ln1", u)
            self.seen(layer + "gate", f)
            self.seen(layer + "past", past)
            c = clip8(
                self.product(layer + "gru.w_h", u)
                + self.product(layer + "gru.u_h", past)
                + self.vector(layer + "gru.b_h")
            )
            h = h + (((f + LIMIT) * (c - h)) >> 8)
            h_mld[:, i] = h
            x = clip8(x + h)
            self.seen(layer + "candidate", c)
            self.seen(layer + "state", h)
            self.seen(layer + "gru", x)
            v = norm(x, self.vector(layer + "ln2.weight"))
            self.seen(layer + "ln2", v)
            y = self.product(layer + "mlp.w_up", v)
            self.seen(layer + "mlp.middle", y)
            x = clip8(x + self.product(layer + "mlp.w_down", y))
            self.seen(layer + "mlp", x)
        x = norm(x, self.vector("ln_out.weight"))
        self.seen("ln_out", x)
        return x


class Reader(Model):
    """The model as it is, keeping what its products read and its stages came to at one byte."""

    def __init__(self, model: Model):
        super().__init__(model.shape, model.weights, model.factors, model.adapter)

    def product(self, name, x_mk):
        self.inputs[name] = x_mk
        return super().product(name, x_mk)

    def seen(self, stage, values_mn):
        self.stages[stage] = values_mn

    def keep(self, tokens_b: np.ndarray, targets_b: np.ndarray, h_bld: np.ndarray) -> Byte:
        """Read one byte up to the logits; the states h_bld move in place."""
        self.inputs, self.stages = {}, {}
        self.product("head.weight", self.read(tokens_b, h_bld))
        return Byte(tokens_b, targets_b, self.inputs, self.stages)


def directions(layout: Layout, noise: Noise, stream: int, numbers: np.ndarray) -> dict[str, tuple]:
    """The factors a and b of directions, by tensor; of a vector e and None.

    numbers : (...) int64
    returns : (..., N) and (..., K) int64
    """
    found: dict[str, tuple] = {}
    if noise.gaussian:
        last = list(layout.gaussian.values())[-1]
        strings = philox.words(
            noise.seed, philox.GAUSSIAN_NOISE, numbers, noise.step, (last.b + last.shape[1] + 1) // 2
        )
        table = normal_table().astype(np.int64)
        for name, t in layout.gaussian.items():
            a, b = (table[philox.halfwords(strings, *at)] for at in ((t.a, t.shape[0]), (t.b, t.shape[1])))
            found[name] = (a, b) if len(layout.tensors[name].shape) == 2 else (a * b, None)
        return found
    strings = philox.words(noise.seed, stream, numbers, noise.step, layout.sign_words)
    for name, t in layout.tensors.items():
        a = philox.signs(strings, t.a, t.shape[0]).astype(np.int64)
        b = philox.signs(strings, t.b, t.shape[1]).astype(np.int64) if len(t.shape) == 2 else None
        found[name] = a, b
    return found


class Perturbed(Model):
    """A block of members: what may move, weights or an adapter's factors, moved by r times each one's own directions.

    pairs_m : (members,) int64, each one's pair
    r_m : (members,) 1 and -1
    """

    def __init__(self, model: Model, noise: Noise, pairs_m: np.ndarray, r_m: np.ndarray):
        super().__init__(model.shape, model.weights, model.factors, model.adapter)
        stream = philox.ADAPTER_SIGNS if self.adapter else philox.DIRECTION_SIGNS
        self.factors_of = directions(self.layout, noise, stream, noise.numbers(pairs_m))  # (members, rank, N or K)
        self.noise, self.r = noise, r_m
        step = noise.sigma_shift - FRACTION_BITS
        self.vector_step = 1 if noise.gaussian else max(1, shift_right(1, step))
        self.vector_shift = step + 2 * FRACTION_BITS if noise.gaussian else 0
        self.halving = noise.root.bit_length() - 1  # log2 of the rank's root
        self.term_shift = self.halving + step + (2 * FRACTION_BITS if noise.gaussian else 0)

    def vector(self, name):
        if name not in self.factors_of:
            return super().vector(name)
        e = self.factors_of[name][0][:, 0]
        return clip8(self.weights[name] + shift_right(self.r[:, None] * e * self.vector_step, self.vector_shift))

    def embedding(self, tokens_m):
        name = "embedding.weight"
        if name not in self.factors_of:
            return super().embedding(tokens_m)
        a, b = self.factors_of[name]
        a = np.take_along_axis(a, tokens_m[:, None, None].astype(np.int64), 2)
        move = self.r[:, None] * (a * b).sum(1) * self.vector_step
        return clip8(self.weights[name][tokens_m] + shift_right(move, self.halving + self.vector_shift))

    def term(self, name, x_mk):
        if name not in self.factors_of:
            return 0
        a, b = self.factors_of[name]
        p = self.r[:, None] * (b * x_mk[:, None]).sum(2)
        if self.noise.gaussian:
            limit = GAUSSIAN_LIMIT // self.noise.rank
            p = np.clip(p, -limit, limit)
        return shift_right((a * p[..., None]).sum(1), self.term_shift)


def cast_adapter_pair_votes(layout: AdapterShape, fitness: np.ndarray, noise: Noise) -> np.ndarray:
    """Z = sum over pairs of f a b^T for each factor; few numbers, so there is no faster version.

    fitness : (pairs,) int64, |f| <= 127
    returns : (parameters,) int64
    """
    return _cast_pair_votes(layout, fitness, noise, philox.ADAPTER_SIGNS, 0)


def _cast_pair_votes(layout: Layout, fitness: np.ndarray, noise: Noise, stream: int, first_pair: int) -> np.ndarray:
    votes = np.zeros(layout.parameters, np.int64)
    voters = np.flatnonzero(fitness)
    block = max(1, BLOCK_MEMBERS // noise.rank)
    for start in range(0, len(voters), block):
        pairs = voters[start : start + block]
        f = fitness[pairs].astype(np.int64)
        factors = directions(layout, noise, stream, noise.numbers(first_pair + pairs))  # (pairs, rank, N or K)
        for name, z in layout.views(votes).items():
            a, b = factors[name]
            if noise.gaussian and not noise.use_clt:
                a, b = np.sign(a), None if b is None else np.sign(b)
            if b is None:
                z += noise.root * (f @ a[:, 0])
            else:
                z += (f[:, None, None] * a).reshape(-1, z.shape[0]).T @ b.reshape(-1, z.shape[1])
    return votes


def _full_rank_signs(noise: Noise, direction: int, parameters: int) -> np.ndarray:
    """(parameters,) int64: a sign for every weight."""
    words = philox.words(noise.seed, philox.FULL_RANK_SIGNS, direction, noise.step, -(-parameters // 32))
    return philox.signs(words, 0, parameters).astype(np.int64)


def choose(
    logits: np.ndarray, drawn: np.ndarray, weights: np.ndarray | None, top_k: int = 0, top_p: int = SHARES
) -> np.ndarray:
    """The next byte of each sequence, see ``egg.kernels.backend.Choice``.

    logits : (n, 256) int8 in sixteenths of a bit
    drawn : (n,) uint64
    weights : (255,) uint64 of ``sampling_weights``; None is temperature 0
    top_k : number of likeliest bytes to draw from, 0 for all
    top_p : share of the probability to draw from, in 1/65536; 65536 for all
    returns : (n,) uint8
    """
    if weights is None or top_k == 1:
        return logits.argmax(1).astype(np.uint8)  # the first of equals is the lowest byte
    below = logits.max(1, keepdims=True).astype(np.int32) - logits
    weight = weights.take(below)
    if 0 < top_k < VOCABULARY:
        rank = _ranks(below)
        weight[rank > np.partition(rank, top_k - 1, 1)[:, top_k - 1, None]] = 0
    if top_p < SHARES:
        order = _ranks(below).argsort(1)
        ordered = np.take_along_axis(weight, order, 1)
        total = ordered.cumsum(1)  # <= 2^40
        outside = (total - ordered) * np.uint64(SHARES) >= total[:, -1:] * np.uint64(top_p)
        np.put_along_axis(weight, order, np.where(outside, np.uint64(0), ordered), 1)
    return inverse(weight.cumsum(1), drawn)


def _ranks(below: np.ndarray) -> np.ndarray:
    """Numbers in the order of the logits, the largest first; no two equal, of equal logits the lower byte first."""
    return below * VOCABULARY + np.arange(VOCABULARY)


def inverse(cumulative: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The first byte whose cumulative weight exceeds floor(drawn * total / 2**64).

    cumulative : (n, 256) uint64, rows that do not fall; the last of each, its total, is at least 1
    drawn : (n,) uint64
    returns : (n,) uint8
    """
    # The product has up to 104 bits: Python's integers hold it.
    totals = cumulative[:, -1].tolist()
    at = [u * total >> 64 for u, total in zip(drawn.tolist(), totals, strict=True)]
    return (cumulative <= np.array(at, np.uint64)[:, None]).sum(1).astype(np.uint8)


def draws(seed: int, numbers: np.ndarray, positions: range) -> np.ndarray:
    """The 64 random bits of each sample at some positions.

    numbers : (n,), the samples' numbers
    returns : (n, positions) uint64
    """
    counter = np.zeros((len(numbers), len(positions), 4), np.uint32)
    counter[..., 1] = philox.SAMPLING
    counter[..., 2] = numbers[:, None]
    counter[..., 3] = positions
    words = philox.philox(counter, philox.key_words(seed)).astype(np.uint64)
    return words[..., 0] | words[..., 1] << np.uint64(32)


def write(
    read: Read, logits: np.ndarray, states: np.ndarray, numbers: np.ndarray, positions: range, choice: Choice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``Backend.write`` by a function that reads, such as ``Backend.forward`` of a model."""
    words = draws(choice.seed, numbers, positions)
    drawn = np.empty(words.shape, np.uint8)
    for t in range(len(positions)):
        drawn[:, t] = choose(logits, words[:, t], choice.weights, choice.top_k, choice.top_p)
        found, states = read(np.ascontiguousarray(drawn[:, t : t + 1]), states)
        logits = found[:, 0]
    return drawn, logits, states


class NumpyBackend:
    """The definition; see ``egg.kernels.backend`` for what each call takes and returns."""

    name = "numpy"
    description = "NumPy reference (slow)"

    def prepare(self, shape, weights, adapter=None):
        model = Model(shape, shape.views(weights.astype(np.int64)))
        if adapter:
            model.adapter = adapter.shape
            model.factors = adapter.shape.views(adapter.factors.astype(np.int64))
        return model

    def forward(self, model, tokens, states):
        h = states.astype(np.int64)
        logits = np.empty((*tokens.shape, VOCABULARY), np.int8)
        for t in range(tokens.shape[1]):
            logits[:, t] = model.product("head.weight", model.read(tokens[:, t], h))
        return logits, h.astype(np.int8)

    def score(self, model, tokens, states):
        logits, after = self.forward(model, tokens[:, :-1], states)
        return likelihoods(logits, tokens[:, 1:], after)

    def write(self, model, logits, states, numbers, positions, choice):
        return write(partial(self.forward, model), logits, states, numbers, positions, choice)

    def cast_votes(self, model, tokens, states, draw, *, first_row=0):
        head, layers = model.weights["head.weight"], model.shape.num_layers
        branches, stations = Branches(head, draw), Stations(model.weights, layers, draw)
        ballot = Ballot(model.layout, layers, draw)
        reader, new_states, score = Reader(model), np.empty_like(states), 0
        block = max(1, BLOCK_LOGITS // (draw.branches * VOCABULARY))
        for start in range(0, len(tokens), block):
            streams = slice(start, start + block)
            h, chunk = states[streams].astype(np.int64), []
            for t in range(tokens.shape[1] - 1):
                byte = reader.keep(tokens[streams, t], tokens[streams, t + 1], h)
                logits = clip8(byte.stages["head.weight"] >> product_shift(head.shape[1]))
                score += int(scores(logits, byte.targets_b, FINE).sum())
                chunk.append(byte)
            new_states[streams] = h
            vote(chunk, model.weights, branches, stations, ballot, first_row + start)
        assert np.abs(ballot.flat).max() < 2**31
        return Votes(ballot.flat.astype(np.int32), new_states, ballot.totals, score)

    def read_adapter_pairs(self, model, tokens, states, noise):
        pairs = len(tokens) // 2
        members = Perturbed(model, noise, np.repeat(np.arange(pairs), 2), np.tile([1, -1], pairs))
        return self.forward(members, tokens, states)

    def run_pairs(self, model, tokens, states, noise, *, first_pair=0):
        scores_m = np.zeros(len(states), np.int64)
        new_states = np.empty_like(states)
        for start in range(0, len(tokens), BLOCK_MEMBERS // 2):
            pairs = np.arange(start, min(len(tokens), start + BLOCK_MEMBERS // 2))
            members = slice(2 * start, 2 * start + 2 * len(pairs))
            pairs_m, r = np.repeat(first_pair + pairs, 2), np.tile([1, -1], len(pairs))
            block = Perturbed(model, noise, pairs_m, r)
            tokens_m = np.repeat(tokens[pairs], 2, 0)
            h = states[members].astype(np.int64)
            for t in range(tokens.shape[1] - 1):
                logits = block.product("head.weight", block.read(tokens_m[:, t], h))
                scores_m[members] += scores(logits, tokens_m[:, t + 1])
            new_states[members] = h
        return scores_m.astype(np.int32), new_states

    def add_full_rank(self, weights, noise, direction, amount):
        moved = weights + np.int64(amount) * _full_rank_signs(noise, direction, weights.size)
        assert np.abs(moved).max() <= LIMIT
        weights[...] = moved

    def cast_full_rank_votes(self, parameters, fitness, noise):
        votes = np.zeros(parameters, np.int64)
        for direction, f in enumerate(fitness.tolist()):
            votes += f * _full_rank_signs(noise, direction, parameters)
        return votes

    def cast_pair_votes(self, shape, fitness, noise, *, first_pair=0):
        return _cast_pair_votes(shape, fitness, noise, philox.DIRECTION_SIGNS, first_pair)

    def update_rows(self, layout, master, squares, votes, step, step_size):
        starts = layout.row_starts
        sizes = np.diff(starts)
        z = np.clip(votes.astype(np.int64), -VOTE_LIMIT, VOTE_LIMIT)
        # Z**2 <= 2**46, and a row has 4096 weights at the most: below 2**63 with 4 fractional bits
        latest = (np.add.reduceat(z * z, starts[:-1]) << FRACTION_BITS) // sizes
        squares += (latest - squares) // min(WINDOW, step + 1)
        factors = np.array([(step_size << 16) // max(1, isqrt(q)) for q in squares.tolist()])
        moved = master + round_shift(z * np.repeat(factors, sizes), 14)
        limit = LIMIT << MASTER_BITS
        master[...] = np.clip(moved, -limit, limit)
        return round_shift(master, MASTER_BITS).astype(np.int8)

    def update_master(self, layout, master, votes, multiplier):
        limit = LIMIT << REWARD_MASTER_BITS
        # |votes| <= 127 * pairs < 2**31 and multiplier < 2**32 leave room in int64
        moved = master + round_shift(votes * multiplier, 32)
        master[...] = np.clip(moved, -limit, limit)
        return round_shift(master.astype(np.int32), REWARD_MASTER_BITS).astype(np.int8)

    def update_signs(self, weights, votes, threshold):
        moves = np.sign(votes) * (16 * np.abs(votes) >= threshold)
        return clip8(weights + moves).astype(np.int8)
