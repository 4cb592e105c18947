"""The oracle of adapters: docs/arithmetic.md, "Adapters", again in plain Python integers, written from that page alone.

An adapter is a dict from NAME.A and NAME.B to a list of rows, in the model's order; see ``oracle`` for models.
"""

import math
from dataclasses import dataclass, field

import oracle
from oracle import clip, clip8, dot, half_log2, round_shift, shift

INITIAL, DIRECTION = 5, 6  # stream numbers


def lift(k):
    return shift(k) - 6


def shapes(adapter):
    return {name: (len(rows), len(rows[0])) for name, rows in adapter.items()}


def initial_factors(seed, sizes):
    """A as initial weights, B zero.

    sizes : name -> (rows, columns), in order
    """
    adapter = {}
    for number, (name, (rows, columns)) in enumerate(sizes.items()):
        words = oracle.draw_words(seed, INITIAL, number, 0, (rows * columns + 1) // 2)
        flat = [oracle.normal_quantile(oracle.halfword(words, e)) for e in range(rows * columns)]
        drawn = [flat[n * columns : (n + 1) * columns] for n in range(rows)]
        adapter[name] = drawn if name.endswith(".A") else oracle.zeros((rows, columns))
    return adapter


def draw_direction(seed, index, step, adapter):
    """Signs (a, b) of every factor; index is the direction's number."""
    lengths = [n for shape in shapes(adapter).values() for n in shape]
    words = oracle.draw_words(seed, DIRECTION, index, step, sum(2 * -(-n // 64) for n in lengths))
    direction, position = {}, 0
    for name, shape in shapes(adapter).items():
        signs = []
        for n in shape:
            signs.append([oracle.sign_at(words, position + k) for k in range(n)])
            position += -(-n // 64) * 64
        direction[name] = tuple(signs)
    return direction


def draw_directions(seed, pair, step, adapter, rank=1):
    """The directions of a pair; rank is that of the noise."""
    return [draw_direction(seed, rank * pair + q, step, adapter) for q in range(rank)]


@dataclass
class Adapted:
    """What one token's products are changed by: the factors, moved by r times R directions, or as they are."""

    adapter: dict
    directions: list = field(default_factory=list)
    r: int = 1
    sigma_shift: int = 4
    z: dict = field(default_factory=dict)  # of every matrix

    def sums(self, name, x):
        """A . x or B . z, moved."""
        if not self.directions:
            return oracle.sums(x, self.adapter[name])
        drawn = [direction[name] for direction in self.directions]
        p = [self.r * dot(b, x) for _, b in drawn]
        t = 4 - self.sigma_shift - half_log2(len(drawn))
        rows = zip(*[a for a, _ in drawn], strict=True)  # of each output, a of every direction
        return oracle.sums(x, self.adapter[name], [oracle.lift(dot(row, p), t) for row in rows])

    def term(self, name, x):
        if name + ".A" not in self.adapter:
            return None
        z = [clip8(v >> shift(len(x))) for v in self.sums(name + ".A", x)]
        self.z[name] = z
        return [v << lift(len(x)) for v in self.sums(name + ".B", z)]

    def vector(self, name, g):
        return g

    def embedding_row(self, byte, row):
        return row


# ---------------------------------------------------------------- adapters to a text


def add_votes(votes, token, byte, narrowed, pushed):
    """Add one byte's votes on every B to the votes; pushed: of products with the adapter's part."""
    for name, z in token.change.z.items():
        if name in pushed:  # all but w_up
            oracle.add_outer(votes[name + ".B"], pushed[name], z)


def text_votes(weights, adapter, chunks, states, seed, step, count, shifts):
    """oracle.egg_votes for an adapter's factors."""
    votes = {name: oracle.zeros(shape) for name, shape in shapes(adapter).items()}
    return oracle.egg_votes(
        weights, chunks, states, seed, step, count, shifts, votes, lambda: Adapted(adapter), add_votes
    )


class TextRun(oracle.EggRun):
    """An adapter that learns a text; oracle.egg_step takes it one step further."""

    def __init__(self, weights, adapter, text, seed, readers, length, branches=None):
        super().__init__(text, seed, *oracle.size_of(weights), readers, length, branches)
        self.weights = weights
        self.evolve(adapter)

    def cast(self, chunks, states):
        return text_votes(
            self.weights,
            oracle.from_master(self.master),
            chunks,
            states,
            self.seed,
            self.step,
            self.branches,
            self.shifts,
        )


# ---------------------------------------------------------------- adapters to a reward


def moved(master, z, multiplier):
    """A master after a vote."""
    return clip(master + round_shift(z * multiplier, 32), -127 * 256, 127 * 256)


def multiplier(lr, fitness, rank=1):
    return (lr << 24) // max(1, 2 ** half_log2(rank) * math.isqrt(dot(fitness, fitness)))


def reward_votes(adapter, seed, step, fitness, rank=1):
    """Z of every factor, from the fitness of every pair."""
    votes = {name: oracle.zeros(shape) for name, shape in shapes(adapter).items()}
    for pair, f in enumerate(fitness):
        for direction in draw_directions(seed, pair, step, adapter, rank):
            for name, (a, b) in direction.items():
                oracle.add_outer(votes[name], [f * a_n for a_n in a], b)
    return votes


def merged(w, a, b):
    """W + B A / 64, rounded half up and limited."""
    columns = list(zip(*a, strict=True))
    return [
        [clip8(w_nk + round_shift(dot(b_n, column), 6)) for w_nk, column in zip(row, columns, strict=True)]
        for row, b_n in zip(w, b, strict=True)
    ]
