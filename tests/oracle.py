"""The oracle: docs/arithmetic.md again, in plain Python integers and lists.

It is written from that page alone, to be read next to it, and shares no code with the backends:
what it and a backend agree on, they found independently. It is slow, and meant for models of
hidden size 16 or 64 and a few bytes of text.

A model is a dict from tensor name to a list of integers (vectors) or a list of rows (matrices).
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from operator import mul

# ---------------------------------------------------------------- rounding and clipping


def clip(v, low, high):
    return min(high, max(low, v))


def clip8(v):
    return clip(v, -127, 127)


def round_shift(v, s):
    """v / 2^s, rounded half up; a left shift for s <= 0."""
    return (v + (1 << (s - 1))) >> s if s > 0 else v << -s


def round_div(v, m):
    """v / m for m > 0, rounded half up."""
    return (2 * v + m) // (2 * m)


def shift(k):
    """The shift after a product with K = k inputs: 4 + log2(K) / 2."""
    log2_k = k.bit_length() - 1
    assert k == 1 << log2_k and log2_k % 2 == 0, "K must be a power of four"
    return 4 + log2_k // 2


def dot(x, y):
    return sum(map(mul, x, y))


def norm2(x):
    """|x|^2, the squared length."""
    return dot(x, x)


def sign(v):
    return (v > 0) - (v < 0)


# ---------------------------------------------------------------- tensors


def tensors(d, layers):
    """All (name, shape) in the order of the page."""
    result = [("embedding.weight", (256, d))]
    for i in range(layers):
        result += [
            (f"layers.{i}.ln1.weight", (d,)),
            (f"layers.{i}.gru.w_f", (d, d)),
            (f"layers.{i}.gru.u_f", (d, d)),
            (f"layers.{i}.gru.b_f", (d,)),
            (f"layers.{i}.gru.w_h", (d, d)),
            (f"layers.{i}.gru.u_h", (d, d)),
            (f"layers.{i}.gru.b_h", (d,)),
            (f"layers.{i}.ln2.weight", (d,)),
            (f"layers.{i}.mlp.w_up", (4 * d, d)),
            (f"layers.{i}.mlp.w_down", (d, 4 * d)),
        ]
    return [*result, ("ln_out.weight", (d,)), ("head.weight", (256, d))]


def size_of(weights):
    """(D, L) of a model."""
    layers = sum(name.endswith("ln1.weight") for name in weights)
    return len(weights["ln_out.weight"]), layers


def zeros(shape):
    if len(shape) == 1:
        return [0] * shape[0]
    return [[0] * shape[1] for _ in range(shape[0])]


def zeros_like(weights):
    return {name: zeros(shape) for name, shape in tensors(*size_of(weights))}


def map_tensor(function, *operands):
    """function of the corresponding elements of vectors or of matrices."""
    if isinstance(operands[0][0], list):
        return [map_tensor(function, *rows) for rows in zip(*operands, strict=True)]
    return [function(*elements) for elements in zip(*operands, strict=True)]


# ---------------------------------------------------------------- tables: 2^x and log2


def root_of_power_of_two(numerator, n):
    """floor(2^(numerator / n)), n a power of two, by repeated exact square roots."""
    value = 1 << numerator
    while n > 1:
        value, n = math.isqrt(value), n // 2
    return value


@cache
def exp2_table():
    """e[j] = floor(16 * 2^(j/16)), j = 0..255."""
    return [root_of_power_of_two(4 * 16 + j, 16) for j in range(256)]


@cache
def log2_thresholds(n):
    """ceil(2^(31 + j/n)), j = 0..n-1; only j = 0 is a whole number before it is rounded up."""
    return [1 << 31] + [root_of_power_of_two(31 * n + j, n) + 1 for j in range(1, n)]


def floor_log2(s, n):
    """floor(n * log2(s / 16)), for 0 < s < 2^32."""
    top = s.bit_length() - 1
    reached = bisect_right(log2_thresholds(n), s << (31 - top))
    return n * (top - 4) + reached - 1


# ---------------------------------------------------------------- the normal distribution

PHI_BITS = 256  # phi() returns multiples of 2^-256


def arctan_inverse(m):
    """arctan(1 / m) in units of 2^-PHI_BITS."""
    power, total, k = (1 << PHI_BITS) // m, 0, 0
    while power:
        total += (-1) ** k * (power // (2 * k + 1))
        power //= m * m
        k += 1
    return total


@cache
def inverse_sqrt_two_pi():
    """1 / sqrt(2 pi) in units of 2^-PHI_BITS; pi from Machin's formula."""
    pi = 16 * arctan_inverse(5) - 4 * arctan_inverse(239)
    return math.isqrt((1 << (3 * PHI_BITS)) // (2 * pi))


@cache
def phi(numerator, denominator):
    """Phi(numerator / denominator) in units of 2^-PHI_BITS, by the Taylor series

    Phi(x) = 1/2 + 1/sqrt(2 pi) * sum over k of (-1)^k x^(2k+1) / (2^k k! (2k+1)).
    """
    if numerator < 0:
        return (1 << PHI_BITS) - phi(-numerator, denominator)
    power, total, k = (numerator << PHI_BITS) // denominator, 0, 0  # power = x^(2k+1) / (2^k k!)
    while power:
        total += (-1) ** k * (power // (2 * k + 1))
        k += 1
        power = power * numerator**2 // (2 * k * denominator**2)
    return (1 << (PHI_BITS - 1)) + (total * inverse_sqrt_two_pi() >> PHI_BITS)


@cache
def normal_boundaries():
    """131072 * Phi((v + 1/2) / 16) for v = -127..126, in units of 2^-PHI_BITS."""
    return [131072 * phi(2 * v + 1, 32) for v in range(-127, 127)]


def normal_quantile(m):
    """round(16 z) of halfword m: boundaries below 2 m + 1, less 127."""
    return bisect_left(normal_boundaries(), (2 * m + 1) << PHI_BITS) - 127


# ---------------------------------------------------------------- randomness

INITIAL, DIRECTION, TOKEN_SIGNS, STREAM_ORDER = range(4)  # stream numbers


def philox4x32(counter, key):
    """Ten rounds of Philox4x32: four counter words and two key words give four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & 0xFFFFFFFF,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def draw_words(seed, stream, index, step, count):
    """The first `count` words of a word string."""
    key = (seed & 0xFFFFFFFF, seed >> 32)
    words = []
    for block in range((count + 3) // 4):
        words += philox4x32((block, stream, index, step), key)
    return words[:count]


def bit(words, k):
    return words[k // 32] >> (k % 32) & 1


def halfword(words, k):
    return words[k // 2] >> (16 * (k % 2)) & 0xFFFF


def sign_at(words, k):
    return 1 if bit(words, k) else -1


def initial_gain(name, recipe):
    if recipe != "egg":
        return 16
    return 24 if name.endswith("ln2.weight") else 48


ZERO_AT_FIRST = ("gru.w_f", "gru.u_f", "gru.u_h", "mlp.w_down", "head.weight")


def initial_tensor(seed, number, name, shape, recipe, layers):
    if len(shape) == 1:
        return [0 if ".gru." in name else initial_gain(name, recipe)] * shape[0]
    rows, columns = shape
    if recipe == "egg" and name.endswith(ZERO_AT_FIRST):
        return zeros(shape)
    words = draw_words(seed, INITIAL, number, 0, (rows * columns + 1) // 2)
    flat = [normal_quantile(halfword(words, e)) for e in range(rows * columns)]
    matrix = [flat[n * columns : (n + 1) * columns] for n in range(rows)]
    if recipe == "egg" and name == "embedding.weight":
        for row in matrix:
            row[0] = 64
    if recipe == "egg" and name.endswith("w_h"):
        size = math.isqrt(2**19 // max(2, layers))
        matrix = [[max(-127, min(127, (size * v + 128) >> 8)) for v in row] for row in matrix]
    return matrix


def initial_weights(seed, d, layers, recipe):
    return {
        name: initial_tensor(seed, number, name, shape, recipe, layers)
        for number, (name, shape) in enumerate(tensors(d, layers))
    }


# ---------------------------------------------------------------- the perturbation


def draw_direction(seed, index, step, d, layers):
    """The signs as drawn: (a, b) of every matrix, e of every vector."""
    lengths = [n for _, shape in tensors(d, layers) for n in shape]
    words = draw_words(seed, DIRECTION, index, step, sum((n + 63) // 64 * 2 for n in lengths))
    position = 0

    def next_signs(length):
        nonlocal position
        signs = [sign_at(words, position + k) for k in range(length)]
        position += (length + 63) // 64 * 64
        return signs

    direction = {}
    for name, shape in tensors(d, layers):
        drawn = [next_signs(length) for length in shape]
        direction[name] = tuple(drawn) if len(shape) == 2 else drawn[0]
    return direction


def share_gate_signs(direction):
    """Recipe egg: u has the a of w, and the bias e = a(w) * (the first sign of its own)."""
    shared = dict(direction)
    for w_name in direction:
        if ".gru.w_" in w_name:
            u_name, b_name = w_name.replace(".w_", ".u_"), w_name.replace(".w_", ".b_")
            a = direction[w_name][0]
            b0 = direction[b_name][0]
            shared[u_name] = (a, direction[u_name][1])
            shared[b_name] = [a_n * b0 for a_n in a]
    return shared


def token_signs(seed, member, step, length):
    """r of a member's tokens in recipe egg."""
    words = draw_words(seed, TOKEN_SIGNS, member, step, (length + 31) // 32)
    return [sign_at(words, t) for t in range(length)]


@dataclass
class Perturbation:
    """What one token's weights are changed by: a direction, its sign r, its size and its kind."""

    direction: dict
    r: int
    sigma_shift: int
    kind: str = "sign"  # or "input"

    def gain(self, v):
        s = self.sigma_shift
        return v << (4 - s) if s <= 4 else v >> (s - 4)

    def amount(self):
        """V = max(1, 2^(4 - sigma_shift))."""
        return max(1, self.gain(1))

    def term(self, name, x):
        """What the accumulators of a matrix gain, for the input x."""
        a, b = self.direction[name]
        if self.kind == "sign":
            p = self.r * dot(b, x)
            return [self.gain(a_n * p) for a_n in a]
        return [a_n * self.r * self.push(name, len(x)) for a_n in a]

    def push(self, name, k):
        """--perturbation input: P, 2 P in w_f and w_h, nothing in u_f and u_h."""
        p = self.gain(2 ** shift(k))
        return 2 * p if ".gru.w_" in name else 0 if ".gru.u_" in name else p

    def vector(self, name, g):
        if self.kind == "input" and ".gru." in name:
            return g
        change = self.r * self.amount()
        return [clip8(g_k + change * e) for g_k, e in zip(g, self.direction[name], strict=True)]

    def embedding_row(self, byte, row):
        a, b = self.direction["embedding.weight"]
        change = self.r * a[byte] * self.amount()
        return [clip8(w + change * b_k) for w, b_k in zip(row, b, strict=True)]


# ---------------------------------------------------------------- one token


def matmul(x, w, term=None):
    """clip8((W . x + term) >> shift(K))."""
    s = shift(len(x))
    term = term or [0] * len(w)
    return [clip8((dot(row, x) + added) >> s) for row, added in zip(w, term, strict=True)]


def norm(x, g):
    divisor = max(1, sum(map(abs, x)) // len(x))
    return [clip8(x_k * g_k // divisor) for x_k, g_k in zip(x, g, strict=True)]


def add(*vectors):
    """clip8 of the sum."""
    return [clip8(sum(v)) for v in zip(*vectors, strict=True)]


@dataclass
class Layer:
    """The clipped values that one layer computed for a token, and the state that it found."""

    h: list  # before the byte, after a reset
    f: list
    c: list
    y: list  # the MLP's middle
    d: list  # the MLP's output
    x: list  # the residual with d added


@dataclass
class Token:
    """What reading one byte gave: new state, logits, every matrix's input, values by layer."""

    h: list
    logits: list
    logits_without_head_term: list
    inputs: dict
    layers: list


def read_token(weights, h, byte, perturbation=None):
    """One token from the state h (L rows of D), which is not changed."""
    width, depth = size_of(weights)
    inputs, layers = {}, []

    def vector(name):
        w = weights[name]
        return perturbation.vector(name, w) if perturbation else w

    def product(x, name):
        inputs[name] = x
        return matmul(x, weights[name], perturbation.term(name, x) if perturbation else None)

    if byte == 0:
        h = zeros((depth, width))
    new_h = []
    x = weights["embedding.weight"][byte]
    if perturbation:
        x = perturbation.embedding_row(byte, x)
    for i in range(depth):
        gru, mlp = f"layers.{i}.gru", f"layers.{i}.mlp"
        u = norm(x, vector(f"layers.{i}.ln1.weight"))
        f = add(product(u, f"{gru}.w_f"), product(h[i], f"{gru}.u_f"), vector(f"{gru}.b_f"))
        past = [(f_k + 127) * h_k >> 8 for f_k, h_k in zip(f, h[i], strict=True)]
        c = add(product(u, f"{gru}.w_h"), product(past, f"{gru}.u_h"), vector(f"{gru}.b_h"))
        h_i = [
            h_k + ((f_k + 127) * (c_k - h_k) >> 8) for h_k, f_k, c_k in zip(h[i], f, c, strict=True)
        ]
        new_h.append(h_i)
        x = add(x, h_i)
        y = product(norm(x, vector(f"layers.{i}.ln2.weight")), f"{mlp}.w_up")
        d = product(y, f"{mlp}.w_down")
        x = add(x, d)
        layers.append(Layer(h[i], f, c, y, d, x))
    x = norm(x, vector("ln_out.weight"))
    logits = product(x, "head.weight")
    clean = matmul(x, weights["head.weight"]) if perturbation else logits
    return Token(new_h, logits, clean, inputs, layers)


# ---------------------------------------------------------------- the score of a token


def exponential_sum(logits):
    """S, the sum of e[l + 128]."""
    return sum(exp2_table()[v + 128] for v in logits)


def score_16(logits, target):
    return logits[target] + 128 - floor_log2(exponential_sum(logits), 16)


def score_256(logits, target):
    return 16 * (logits[target] + 128) - floor_log2(exponential_sum(logits), 256)


def forward(weights, h, text):
    """Read all but the last byte, unperturbed: logits, score_16 of each next byte, final state."""
    all_logits, scores = [], []
    for byte, target in pairwise(text):
        token = read_token(weights, h, byte)
        h = token.h
        all_logits.append(token.logits)
        scores.append(score_16(token.logits, target))
    return all_logits, scores, h


# ---------------------------------------------------------------- recipe egg: a member's life


@dataclass
class Life:
    """What one member of a group lived through in a chunk."""

    direction: dict
    r: list  # per token
    tokens: list  # Token per token
    s0: list  # score_256 per token, without the head's own term
    s1: list  # and with it

    def final_state(self):
        return self.tokens[-1].h


def live(weights, h, text, seed, member, step, sigma_shift, kind):
    """One member reads len(text) - 1 bytes, each followed by its target."""
    direction = share_gate_signs(draw_direction(seed, member, step, *size_of(weights)))
    r = token_signs(seed, member, step, len(text) - 1)
    life = Life(direction, r, [], [], [])
    for t, (byte, target) in enumerate(pairwise(text)):
        token = read_token(weights, h, byte, Perturbation(direction, r[t], sigma_shift, kind))
        h = token.h
        life.tokens.append(token)
        life.s0.append(score_256(token.logits_without_head_term, target))
        life.s1.append(score_256(token.logits, target))
    return life


# ---------------------------------------------------------------- recipe egg: credit


def less_mean(rows):
    """rows[i][t] less the rounded mean over the members i."""
    means = [round_div(sum(column), len(rows)) for column in zip(*rows, strict=True)]
    return [[v - mean for v, mean in zip(row, means, strict=True)] for row in rows]


def reward_to_go(d, text):
    """F[t] = d[t] + ((179 * F[t+1]) >> 8), cut where input byte t + 1 is 0."""
    f = list(d)
    for t in reversed(range(len(d) - 1)):
        if text[t + 1] != 0:
            f[t] = d[t] + (179 * f[t + 1] >> 8)
    return f


def hat(f, credit_scale):
    return clip(round_div(32 * f, credit_scale), -128, 128)


@dataclass
class Credit:
    """One member's credit per token: to go, of the token alone, of the head."""

    f: list
    d: list
    e: list

    def of(self, name, layers):
        last = f"layers.{layers - 1}."
        if name == "head.weight":
            return self.e
        if name == "ln_out.weight" or name.startswith((last + "ln2", last + "mlp")):
            return self.d
        return self.f


def group_credit(lives, text, credit_scale):
    """The group's Credits, and its part of the next credit scale: sum of |sum_t d[t]|."""
    d = less_mean([life.s0 for life in lives])
    e = less_mean(
        [[s1 - s0 for s1, s0 in zip(life.s1, life.s0, strict=True)] for life in lives],
    )

    def hats(values):
        return [hat(v, credit_scale) for v in values]

    credits = [
        Credit(hats(reward_to_go(d_i, text)), hats(d_i), hats(e_i))
        for d_i, e_i in zip(d, e, strict=True)
    ]
    return credits, sum(abs(sum(d_i)) for d_i in d)


# ---------------------------------------------------------------- recipe egg: votes


def nearest_log2(n):
    """e with 2^e the power of two nearest to n, in log."""
    return (n * n).bit_length() // 2


def free(v):
    return 1 if abs(v) < 127 else 0


def arrived(layer, kind):
    """w[o] of a layer's w_f, w_h, w_up or w_down: how much of a push at output o arrived."""
    if kind == "w_f":
        return [
            free(f) * min(127, abs(c - h))
            for f, c, h in zip(layer.f, layer.c, layer.h, strict=True)
        ]
    if kind == "w_h":
        return [free(c) * ((f + 127) >> 1) for c, f in zip(layer.c, layer.f, strict=True)]
    if kind == "w_up":
        return [127 * free(y) for y in layer.y]
    assert kind == "w_down"
    return [127 * free(d) * free(x) for d, x in zip(layer.d, layer.x, strict=True)]


def vote_row(coefficients, signs, vote_shift, weights=None):
    """v[o] from S[o] = sum_i coefficients[i] * a_i[o], and from w[o] where there are weights."""
    sums = [dot(coefficients, column) for column in zip(*signs, strict=True)]
    v = [clip(round_shift(s, vote_shift - 10), -8191, 8191) for s in sums]
    if weights is None:
        return v
    return [round_shift(v_o * w_o, 7) for v_o, w_o in zip(v, weights, strict=True)]


def vote_weights(token, name):
    """w of a matrix, from the token of the group's first member; None for the head."""
    if name == "head.weight":
        return None
    _, number, _, kind = name.split(".")
    return arrived(token.layers[int(number)], kind)


def add_outer(z, v, x):
    """Z += v x^T."""
    for row, v_o in zip(z, v, strict=True):
        for k, x_k in enumerate(x):
            row[k] += v_o * x_k


def matrix_vote(lives, credit, name, t, sigma_shift, kind):
    """v of a matrix outside the gates at token t; credit[i] is member i's."""
    x = lives[0].tokens[t].inputs[name]
    signs = [life.direction[name][0] for life in lives]
    if kind == "sign":
        factors = [
            life.r[t] * dot(life.direction[name][1], life.tokens[t].inputs[name]) for life in lives
        ]
        vote_shift = nearest_log2(max(1, norm2(x)))
    else:
        factors = [life.r[t] for life in lives]
        vote_shift = shift(len(x)) + 4 - sigma_shift  # log2(P)
    weights = vote_weights(lives[0].tokens[t], name)
    return vote_row(list(map(mul, credit, factors)), signs, vote_shift, weights)


def gate_projection(life, w_name, t):
    """r (b_w . u + b_u . h + b0 c), past for h in the gate of w_h; the member's own inputs."""
    u_name, b_name = w_name.replace(".w_", ".u_"), w_name.replace(".w_", ".b_")
    inputs, direction = life.tokens[t].inputs, life.direction
    a, b_w = direction[w_name]
    b0 = direction[b_name][0] * a[0]  # the bias's first sign as drawn: e = a * b0
    c = 2 ** shift(len(b_w))
    b_u = direction[u_name][1]
    return life.r[t] * (dot(b_w, inputs[w_name]) + dot(b_u, inputs[u_name]) + b0 * c)


def gate_vote(lives, credit, w_name, t, sigma_shift, kind):
    """v of a gate at token t, the same for w, u and the bias."""
    inputs = lives[0].tokens[t].inputs
    u, h = inputs[w_name], inputs[w_name.replace(".w_", ".u_")]
    signs = [life.direction[w_name][0] for life in lives]
    if kind == "sign":
        factors = [gate_projection(life, w_name, t) for life in lives]
        c = 2 ** shift(len(u))
        vote_shift = nearest_log2(norm2(u) + norm2(h) + c * c)
    else:
        factors = [life.r[t] for life in lives]
        vote_shift = shift(len(u)) + 4 - sigma_shift + 1  # log2(2 P)
    weights = vote_weights(lives[0].tokens[t], w_name)
    return vote_row(list(map(mul, credit, factors)), signs, vote_shift, weights)


def add_group_votes(z, lives, credits, text, sigma_shift, kind):
    """Add one group's votes of every token to z."""
    d, layers = len(z["ln_out.weight"]), size_of(z)[1]
    c = 2 ** shift(d)
    for t, byte in enumerate(text[:-1]):
        inputs = lives[0].tokens[t].inputs
        for name in z:
            credit = [each.of(name, layers)[t] for each in credits]
            if name == "embedding.weight":
                for life, f in zip(lives, credit, strict=True):
                    a, b = life.direction[name]
                    for k in range(d):
                        z[name][byte][k] += 2**10 * f * life.r[t] * a[byte] * b[k]
            elif ".ln" in name or name == "ln_out.weight":
                for life, f in zip(lives, credit, strict=True):
                    for k in range(d):
                        z[name][k] += 2**10 * life.direction[name][k] * f * life.r[t]
            elif ".gru.w_" in name:
                u_name, b_name = name.replace(".w_", ".u_"), name.replace(".w_", ".b_")
                v = gate_vote(lives, credit, name, t, sigma_shift, kind)
                add_outer(z[name], v, inputs[name])
                add_outer(z[u_name], v, inputs[u_name])
                for k in range(d):
                    z[b_name][k] += c * v[k]
            elif ".gru." not in name:
                v = matrix_vote(lives, credit, name, t, sigma_shift, kind)
                add_outer(z[name], v, inputs[name])


# ---------------------------------------------------------------- recipe egg: update and streams


def to_master(weights):
    return {name: map_tensor(lambda w: w * 256, w) for name, w in weights.items()}


def from_master(master):
    """W = (master + 128) >> 8."""
    return {name: map_tensor(lambda m: (m + 128) >> 8, m) for name, m in master.items()}


def multiplier(lr, population, name):
    base = (lr << 32) // (40960 * math.isqrt(population << 16))
    if name.endswith((".w_f", ".u_f")):
        return 4 * base
    if name == "embedding.weight" or name.endswith((".w_h", ".u_h")):
        return 2 * base
    if name.endswith(".b_h"):
        return base // 2
    if name.endswith((".ln1.weight", ".ln2.weight")) or name == "ln_out.weight":
        return base // 8
    return base


def update(master, z, lr, population):
    """The master weights after votes z at step size lr, in units of 2^-16 int8 steps."""
    result = {}
    for name in master:
        q = multiplier(lr, population, name)

        def moved(m, z_o, q=q):
            return clip(m + round_shift(z_o * q, 32), -127 * 256, 127 * 256)

        result[name] = map_tensor(moved, master[name], z[name])
    return result


def stream_count(n, groups):
    return groups * max(1, min(4096 // groups, n // (64 * groups)))


def stream_order(seed, count, round_number):
    words = draw_words(seed, STREAM_ORDER, 0, round_number, count)
    return sorted(range(count), key=lambda s: (words[s], s))


def wrapped(text, start, length):
    return [text[(start + k) % len(text)] for k in range(length)]


def egg_chunks(text, seed, step, groups, length):
    """The streams of a step, one a group, and the length + 1 bytes that each reads."""
    n = len(text)
    count = stream_count(n, groups)
    q, k = divmod(step, count // groups)
    streams = stream_order(seed, count, q)[k * groups : (k + 1) * groups]
    return streams, [wrapped(text, s * n // count + q * length, length + 1) for s in streams]


# ---------------------------------------------------------------- recipe egg: one step


@dataclass
class EggResult:
    """What the groups of one step computed."""

    lives: list  # per group, per member
    votes: dict
    states: list  # per group
    credit_scale: int  # of the next step


def egg_votes(weights, chunks, states, seed, step, credit_scale, group_size, sigma_shift, kind):
    """Everything in a step but the choice of the text and the update.

    Group g reads chunks[g] from states[g]; its members are g * group_size and those after it.
    """
    z = zeros_like(weights)
    all_lives, new_states, deviation = [], [], 0
    for g, (text, h) in enumerate(zip(chunks, states, strict=True)):
        lives = [
            live(weights, h, text, seed, g * group_size + i, step, sigma_shift, kind)
            for i in range(group_size)
        ]
        credits, group_deviation = group_credit(lives, text, credit_scale)
        add_group_votes(z, lives, credits, text, sigma_shift, kind)
        all_lives.append(lives)
        new_states.append(lives[step % group_size].final_state())
        deviation += group_deviation
    population = len(chunks) * group_size
    return EggResult(all_lives, z, new_states, max(16, deviation // population))


class EggRun:
    """A training run of recipe egg; egg_step takes it one step further."""

    def __init__(self, text, seed, d, layers, groups, group_size, length, sigma_shift, kind="sign"):
        self.text, self.seed, self.kind = list(text), seed, kind
        self.groups, self.group_size, self.length = groups, group_size, length
        self.sigma_shift = sigma_shift
        self.master = to_master(initial_weights(seed, d, layers, "egg"))
        self.states = [zeros((layers, d)) for _ in range(stream_count(len(text), groups))]
        self.credit_scale = 16
        self.step = 0


def egg_step(run, lr):
    """One whole training step; returns the EggResult."""
    streams, chunks = egg_chunks(run.text, run.seed, run.step, run.groups, run.length)
    result = egg_votes(
        from_master(run.master),
        chunks,
        [run.states[s] for s in streams],
        run.seed,
        run.step,
        run.credit_scale,
        run.group_size,
        run.sigma_shift,
        run.kind,
    )
    for s, h in zip(streams, result.states, strict=True):
        run.states[s] = h
    run.master = update(run.master, result.votes, lr, run.groups * run.group_size)
    run.credit_scale = result.credit_scale
    run.step += 1
    return result


# ---------------------------------------------------------------- recipe paper


def paper_threshold(step):
    """The largest j with Phi(j / 16) <= 1 - alpha / 2, alpha = 1000 / (15 step + 1000)."""
    numerator, denominator = 15 * step + 500, 15 * step + 1000
    j = 0
    while phi(j + 1, 16) * denominator <= numerator << PHI_BITS:
        j += 1
    return j


def paper_chunk(text, step, pair, pairs, length):
    """The bytes that a pair reads."""
    return wrapped(text, pair * len(text) // pairs + step * length, length + 1)


def paper_member(weights, h, text, direction, r, sigma_shift):
    """A member's score, the sum of its score_16, and its state afterwards."""
    score = 0
    for byte, target in pairwise(text):
        token = read_token(weights, h, byte, Perturbation(direction, r, sigma_shift))
        h = token.h
        score += score_16(token.logits, target)
    return score, h


def add_paper_vote(z, direction, f):
    """Z += f a b^T, or f e for vectors."""
    for name, signs in direction.items():
        if isinstance(signs, tuple):
            a, b = signs
            add_outer(z[name], [f * a_n for a_n in a], b)
        else:
            z[name] = [z_k + f * e for z_k, e in zip(z[name], signs, strict=True)]


def paper_update(weights, z, step, pairs):
    bound = paper_threshold(step) * math.isqrt(pairs)

    def moved(w, z_o):
        return clip8(w + sign(z_o)) if z_o != 0 and 16 * abs(z_o) >= bound else w

    return {name: map_tensor(moved, weights[name], z[name]) for name in weights}


@dataclass
class PaperResult:
    """What the members of one step computed."""

    scores: list  # per member
    fitness: list  # per pair
    votes: dict
    states: list  # per member


def paper_votes(weights, chunks, states, seed, step, sigma_shift):
    """Everything in a step but the choice of the text and the update; pair i reads chunks[i]."""
    z = zeros_like(weights)
    result = PaperResult([], [], z, [])
    for i, text in enumerate(chunks):
        direction = draw_direction(seed, i, step, *size_of(weights))
        plus, plus_h = paper_member(weights, states[2 * i], text, direction, 1, sigma_shift)
        minus, minus_h = paper_member(weights, states[2 * i + 1], text, direction, -1, sigma_shift)
        f = sign(plus - minus)
        add_paper_vote(z, direction, f)
        result.scores += [plus, minus]
        result.fitness.append(f)
        result.states += [plus_h, minus_h]
    return result


class PaperRun:
    """A training run of recipe paper; paper_step takes it one step further."""

    def __init__(self, text, seed, d, layers, pairs, length, sigma_shift):
        self.text, self.seed = list(text), seed
        self.pairs, self.length, self.sigma_shift = pairs, length, sigma_shift
        self.weights = initial_weights(seed, d, layers, "paper")
        self.states = [zeros((layers, d)) for _ in range(2 * pairs)]
        self.step = 0


def paper_step(run):
    """One whole training step; returns the PaperResult."""
    chunks = [paper_chunk(run.text, run.step, i, run.pairs, run.length) for i in range(run.pairs)]
    result = paper_votes(run.weights, chunks, run.states, run.seed, run.step, run.sigma_shift)
    run.weights = paper_update(run.weights, result.votes, run.step, run.pairs)
    run.states = result.states
    run.step += 1
    return result
