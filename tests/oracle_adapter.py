"""The oracle of adapters: docs/arithmetic.md, "Adapters", again in plain Python integers, written from that page alone.

An adapter is a dict from NAME.A and NAME.B to a list of rows, in the model's order; see ``oracle`` for models.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise

import oracle
from oracle import clip, clip8, dot, round_shift, shift

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
    """Signs (a, b) of every factor."""
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


@dataclass
class Adapted:
    """What one token's products are changed by: the factors, moved by r times a direction; r = 0 as they are."""

    adapter: dict
    direction: dict
    r: int
    sigma_shift: int
    inputs: dict = field(default_factory=dict)  # of every factor
    p: dict = field(default_factory=dict)
    z: dict = field(default_factory=dict)  # of every matrix

    def sums(self, name, x):
        """A . x or B . z, moved."""
        a, b = self.direction[name]
        p = self.r * dot(b, x)
        self.inputs[name], self.p[name] = x, p
        s = 4 - self.sigma_shift
        moves = [a_n * p << s if s >= 0 else a_n * p >> -s for a_n in a]
        return [dot(row, x) + m for row, m in zip(self.adapter[name], moves, strict=True)]

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


@dataclass
class Life:
    """What one member of a group lived through."""

    direction: dict
    adapted: list  # Adapted per token
    tokens: list
    s0: list
    s1: list


def live(weights, adapter, h, text, seed, member, step, sigma_shift):
    direction = draw_direction(seed, member, step, adapter)
    r = oracle.token_signs(seed, member, step, len(text) - 1)
    life = Life(direction, [], [], [], [])
    for t, (byte, target) in enumerate(pairwise(text)):
        adapted = Adapted(adapter, direction, r[t], sigma_shift)
        token = oracle.read_token(weights, h, byte, adapted)
        h = token.h
        x = token.inputs["head.weight"]
        still = Adapted(adapter, direction, 0, sigma_shift).term("head.weight", x)
        clean = oracle.matmul(x, weights["head.weight"], still)
        life.adapted.append(adapted)
        life.tokens.append(token)
        life.s0.append(oracle.score_256(clean, target))
        life.s1.append(oracle.score_256(token.logits, target))
    return life


def weight(life, factor, t):
    """w[o] of a factor's outputs, from the group's first member; None where all arrived."""
    name, kind = factor[:-2], factor[-1]
    if kind == "A":
        return [127 * oracle.free(v) for v in life.adapted[t].z[name]]
    if name == "head.weight":
        return None
    _, layer, _, matrix = name.split(".")
    return oracle.arrived(life.tokens[t].layers[int(layer)], matrix.replace("u_", "w_"))


def group_votes(z, weights, lives, text, credit_scale):
    """Add a group's votes to z; returns its part of the next credit scale."""
    layers = oracle.size_of(weights)[1]
    credits, deviation = oracle.group_credit(lives, text, credit_scale)
    for t in range(len(text) - 1):
        for factor, rows in z.items():
            x = lives[0].adapted[t].inputs[factor]
            credit = [each.of(factor[:-2], layers)[t] for each in credits]
            coefficients = [
                c * life.adapted[t].p[factor] for c, life in zip(credit, lives, strict=True)
            ]
            signs = [life.direction[factor][0] for life in lives]
            e = oracle.nearest_log2(max(1, oracle.norm2(x)))
            v = oracle.vote_row(coefficients, signs, e, weight(lives[0], factor, t))
            oracle.add_outer(rows, v, x)
    return deviation


def multiplier(lr, population, rank, factor):
    base = (lr << 32) // (40960 * math.isqrt(population << 16))
    return base if factor.endswith(".A") else base * math.isqrt(rank << 16) >> 11


def moved(master, z, multiplier):
    """A master after a vote."""
    return clip(master + round_shift(z * multiplier, 32), -127 * 256, 127 * 256)


def ranked_fitness(scores):
    """f of every pair, from the scores of all members."""
    ordered = sorted(scores)
    ranks = []
    for score in scores:
        places = [k for k, other in enumerate(ordered) if other == score]
        twice = places[0] + places[-1]  # twice the mean place of equal scores
        ranks.append(127 * twice // (len(scores) - 1) - 127)
    return [(plus - minus) // 2 for plus, minus in zip(ranks[::2], ranks[1::2], strict=True)]


def merged(w, a, b):
    """W + B A / 64, rounded half up and limited."""
    columns = list(zip(*a, strict=True))
    return [
        [
            clip8(w_nk + round_shift(dot(b_n, column), 6))
            for w_nk, column in zip(row, columns, strict=True)
        ]
        for row, b_n in zip(w, b, strict=True)
    ]
