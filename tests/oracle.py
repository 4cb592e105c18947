"""The oracle: docs/arithmetic.md again, in plain Python integers and lists.

It is written from that page alone, to be read next to it, and shares no code with the backends:
what it and a backend agree on, they found independently. It is slow, and meant for models of
hidden size 16 or 64 and a few bytes of text.

A model is a dict from tensor name to a list of integers (vectors) or a list of rows (matrices).
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
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


def lift(v, x):
    """v * 2^x, rounded down."""
    return v << x if x >= 0 else v >> -x


def shift(k):
    """The shift after a product with K = k inputs: 4 + log2(K) / 2."""
    log2_k = k.bit_length() - 1
    assert k == 1 << log2_k and log2_k % 2 == 0, "K must be a power of four"
    return 4 + log2_k // 2


def dot(x, y):
    return sum(map(mul, x, y))


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

INITIAL, DIRECTION, STREAM_ORDER, BRANCH_SIGNS, BRANCH_ROWS, GAUSSIAN = 0, 1, 3, 8, 9, 10  # stream numbers


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


def normal_at(words, k):
    return normal_quantile(halfword(words, k))


def initial_gain(name, recipe):
    if recipe != "egg":
        return 16
    return {"ln1": 48, "ln2": 24, "ln_out": 64}[name.split(".")[-2]]


ZERO_AT_FIRST = ("gru.w_f", "gru.u_f", "gru.u_h", "mlp.w_down", "head.weight")


def initial_tensor(seed, number, name, shape, recipe, layers):
    if len(shape) == 1:
        return [0 if ".gru." in name else initial_gain(name, recipe)] * shape[0]
    rows, columns = shape
    if recipe == "egg" and name.endswith(ZERO_AT_FIRST):
        return zeros(shape)
    words = draw_words(seed, INITIAL, number, 0, (rows * columns + 1) // 2)
    flat = [normal_at(words, e) for e in range(rows * columns)]
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


# ---------------------------------------------------------------- the perturbation of recipe paper


@dataclass(frozen=True)
class PaperSettings:
    """The settings of recipe paper; anything with these attributes will do."""

    sigma_shift: int = 4
    rank: int = 1  # R, the directions of a pair
    noise: str = "sign"  # or gaussian
    num_perturbations: int = 0
    noise_reuse: int = 1
    group_size: int = 2
    fitness: str = "sign"  # or raw, rank
    use_clt: bool = True
    alpha: object = 4  # a number, taken as the decimal that it is written as
    alpha_decay: int = 1000


PLAIN = PaperSettings()


def half_log2(rank):
    """g = log2(R) / 2."""
    return (rank.bit_length() - 1) // 2


def draw_direction(seed, index, step, d, layers, noise="sign"):
    """One direction as drawn: (a, b) of every matrix, e of every vector.

    index : the direction's number
    step : the counter's
    """
    gaussian = noise == "gaussian"
    stream, per_word, value_at = (GAUSSIAN, 2, normal_at) if gaussian else (DIRECTION, 32, sign_at)
    # Of a vector a and b are drawn if they are Gaussian, else e alone.
    lengths = {name: shape * 2 if gaussian and len(shape) == 1 else shape for name, shape in tensors(d, layers)}
    values = sum((n + 63) // 64 * 64 for of_tensor in lengths.values() for n in of_tensor)
    words = draw_words(seed, stream, index, step, values // per_word)
    position = 0

    def next_values(length):
        nonlocal position
        drawn = [value_at(words, position + k) for k in range(length)]
        position += (length + 63) // 64 * 64
        return drawn

    direction = {}
    for name, shape in tensors(d, layers):
        drawn = [next_values(length) for length in lengths[name]]
        direction[name] = tuple(drawn) if len(shape) == 2 else [math.prod(ab) for ab in zip(*drawn, strict=True)]
    return direction


def draw_directions(seed, pair, step, d, layers, settings=PLAIN):
    """The R directions of a pair of a step; all of them have e, the first one's is used."""
    shared = settings.num_perturbations // 2
    number = pair % shared if shared else pair
    counter_step = step // settings.noise_reuse if settings.noise_reuse else 0
    indices = [settings.rank * number + q for q in range(settings.rank)]
    return [draw_direction(seed, index, counter_step, d, layers, settings.noise) for index in indices]


@dataclass
class Perturbation:
    """What one token's weights are changed by: R directions, their sign r and their size."""

    directions: list
    r: int
    settings: object = PLAIN

    def amount(self):
        """V = max(1, 2^(4 - s))."""
        return max(1, lift(1, 4 - self.settings.sigma_shift))

    def term(self, name, x):
        """What the accumulators of a matrix gain, for the input x."""
        s, g = self.settings.sigma_shift, half_log2(len(self.directions))
        drawn = [direction[name] for direction in self.directions]
        p = [self.r * dot(b, x) for _, b in drawn]
        if self.settings.noise == "gaussian":
            bound = 2**24 // len(drawn)
            p = [clip(p_q, -bound, bound) for p_q in p]
            exponent = -(4 + s + g)
        else:
            exponent = 4 - s - g
        rows = zip(*[a for a, _ in drawn], strict=True)  # of each output, a of every direction
        return [lift(dot(row, p), exponent) for row in rows]

    def vector(self, name, v):
        e = self.directions[0][name]
        if self.settings.noise == "gaussian":
            change = [(self.r * e_k) >> (4 + self.settings.sigma_shift) for e_k in e]
        else:
            change = [self.r * e_k * self.amount() for e_k in e]
        return add(v, change)

    def embedding_row(self, byte, row):
        s, g = self.settings.sigma_shift, half_log2(len(self.directions))
        drawn = [direction["embedding.weight"] for direction in self.directions]
        columns = zip(*[b for _, b in drawn], strict=True)
        total = [self.r * dot([a[byte] for a, _ in drawn], column) for column in columns]
        if self.settings.noise == "gaussian":
            change = [t >> (4 + s + g) for t in total]
        else:
            change = [(self.amount() * t) >> g for t in total]
        return add(row, change)


# ---------------------------------------------------------------- one token


def sums(x, w, term=None):
    """W . x + term."""
    return [dot(row, x) + added for row, added in zip(w, term or [0] * len(w), strict=True)]


def scaled(accumulators, k):
    """clip8(acc >> shift(K))."""
    return [clip8(acc >> shift(k)) for acc in accumulators]


def norm(x, g):
    divisor = max(1, sum(map(abs, x)) // len(x))
    return [clip8(x_k * g_k // divisor) for x_k, g_k in zip(x, g, strict=True)]


def add(*vectors):
    """clip8 of the sum."""
    return [clip8(sum(v)) for v in zip(*vectors, strict=True)]


@dataclass
class Layer:
    """The clipped values that one layer computed for a token, and what it found."""

    x_0: list  # the residual before the layer
    h: list  # before the byte, after a reset
    u: list  # x_0 after ln1
    f: list
    c: list
    x_h: list  # the residual with the new state added
    v: list  # x_h after ln2
    y: list  # the MLP's middle
    d: list  # the MLP's output
    x: list  # the residual with d added


@dataclass
class Token:
    """What reading one byte gave."""

    h: list  # the new state
    logits: list
    accumulators: list  # of the head
    inputs: dict  # of every matrix
    products: dict  # of every matrix but the head: each limited by itself
    layers: list
    change: object  # what the products were changed by

    @property
    def x(self):
        """The wire's end."""
        return self.layers[-1].x


def read_token(weights, h, byte, change=None):
    """One token from the state h (L rows of D), which is not changed.

    change : a Perturbation, or an adapter's object with the same methods
    """
    width, depth = size_of(weights)
    inputs, products, layers = {}, {}, []

    def vector(name):
        return change.vector(name, weights[name]) if change else weights[name]

    def accumulate(x, name):
        inputs[name] = x
        return sums(x, weights[name], change.term(name, x) if change else None)

    def product(x, name):
        products[name] = scaled(accumulate(x, name), len(x))
        return products[name]

    if byte == 0:
        h = zeros((depth, width))
    new_h = []
    x = weights["embedding.weight"][byte]
    if change:
        x = change.embedding_row(byte, x)
    for i in range(depth):
        gru, mlp = f"layers.{i}.gru", f"layers.{i}.mlp"
        u = norm(x, vector(f"layers.{i}.ln1.weight"))
        f = add(product(u, f"{gru}.w_f"), product(h[i], f"{gru}.u_f"), vector(f"{gru}.b_f"))
        past = [(f_k + 127) * h_k >> 8 for f_k, h_k in zip(f, h[i], strict=True)]
        c = add(product(u, f"{gru}.w_h"), product(past, f"{gru}.u_h"), vector(f"{gru}.b_h"))
        h_i = [h_k + ((f_k + 127) * (c_k - h_k) >> 8) for h_k, f_k, c_k in zip(h[i], f, c, strict=True)]
        new_h.append(h_i)
        x_h = add(x, h_i)
        v = norm(x_h, vector(f"layers.{i}.ln2.weight"))
        y = product(v, f"{mlp}.w_up")
        d = product(y, f"{mlp}.w_down")
        layers.append(Layer(x, h[i], u, f, c, x_h, v, y, d, add(x_h, d)))
        x = layers[-1].x
    accumulators = accumulate(norm(x, vector("ln_out.weight")), "head.weight")
    return Token(new_h, scaled(accumulators, width), accumulators, inputs, products, layers, change)


# ---------------------------------------------------------------- the score of a token


def exponential_sum(logits):
    """S, the sum of e[l + 128]."""
    return sum(exp2_table()[v + 128] for v in logits)


def score_16(logits, target):
    return logits[target] + 128 - floor_log2(exponential_sum(logits), 16)


def score_256(logits, target):
    return 16 * (logits[target] + 128) - floor_log2(exponential_sum(logits), 256)


def surprise_total(logits):
    """Z, the sum of round(2^(55 - (max l - l) / 16)): half of floor(2^(56 - ..)), rounded half up."""
    return sum((root_of_power_of_two(56 * 16 - (max(logits) - v), 16) + 1) // 2 for v in logits)


def forward(weights, h, text):
    """Read all but the last byte, unperturbed: logits, score_16 of each next byte, final state."""
    all_logits, scores = [], []
    for byte, target in pairwise(text):
        token = read_token(weights, h, byte)
        h = token.h
        all_logits.append(token.logits)
        scores.append(score_16(token.logits, target))
    return all_logits, scores, h


# ---------------------------------------------------------------- recipe egg: branches

BRANCH_LIMIT = 48 << 8  # of what a branch moves a logit by, 8 fractional bits
CREDIT_LIMIT = 32767  # of c
WIRE_LIMIT = 1 << 20  # of what travels along the wire


@cache
def hadamard(d):
    return [[-1 if (k & j).bit_count() % 2 else 1 for j in range(d)] for k in range(d)]


@dataclass
class Branches:
    """The branches of a vector in one step: drawn, and sized by the matrix that reads it."""

    signs: list  # s
    place: int  # r, which gets no credit
    rows: list  # the numbers k of the Hadamard rows that branch off
    m: int
    moves: list  # M_k of these rows

    @property
    def log2_width(self):
        return len(self.signs).bit_length() - 1


def draw_signs(seed, index, step, width):
    """s and r: index 0 for vectors of D, index 1 for those of 4 D."""
    word = (32, 128)[index]
    words = draw_words(seed, BRANCH_SIGNS, index, step, word + 1)
    return [sign_at(words, j) for j in range(width)], words[word] % width


def all_moves(w, signs, place, unit):
    """R_k for all rows k, whichever branch off, and m, which leaves unit / 2 to unit of them on average."""
    signed = [[w_j * s_j for w_j, s_j in zip(row, signs, strict=True)] for row in w]
    r = [[h[place] * dot(row, h) for row in signed] for h in hadamard(len(signs))]
    mean = sum(abs(v) for r_k in r for v in r_k) // (len(w) * len(signs))
    return r, (mean // unit).bit_length() if mean >= unit else 1 - (unit // max(1, mean)).bit_length()


def draw_branches(head, seed, step, count):
    """The branches of the wire."""
    d = len(head[0])
    signs, place = draw_signs(seed, 0, step, d)
    words = draw_words(seed, BRANCH_ROWS, 0, step, d)
    rows = sorted(range(d), key=lambda k: (words[k], k))[:count]
    r, m = all_moves(head, signs, place, 512)
    moves = [[clip(round_shift(v, m), -BRANCH_LIMIT, BRANCH_LIMIT) for v in r[k]] for k in rows]
    return Branches(signs, place, rows, m, moves)


@cache
def branch_exponentials():
    """E[f] = min(32767, floor(2^(15 - f/16)))."""
    return [min(32767, root_of_power_of_two(15 * 16 - f, 16)) for f in range(16)]


def branch_log2(s):
    """About 4096 log2 s, for s > 0."""
    p = s.bit_length() - 1
    y = (s << 15 >> p) - (1 << 15)
    g = y * ((1 << 15) - y) >> 15
    q = 14507 - (8107 * y >> 15) + ((2733 * y >> 15) * y >> 15)
    return 4096 * p + ((y + (g * q >> 15)) >> 3)


def branch_score(logits, top, target):
    """s_k of a member's logits; top is the largest of the reader's."""
    total = 0
    for v in logits:
        d = top + 48 - v
        total += branch_exponentials()[d & 15] >> (d >> 4)
    return 256 * logits[target] - branch_log2(total)


def branch_logits(fine, moves):
    """l_k of a member, from the reader's logits with 8 fractional bits."""
    return [clip(a + m, -32768, 32767) >> 8 for a, m in zip(fine, moves, strict=True)]


def fitness(branches, token, target):
    """F_k of every branch of one byte."""
    s = 8 - shift(len(branches.signs))
    fine = [clip(acc << s if s >= 0 else acc >> -s, -32512, 32767) for acc in token.accumulators]
    top = max(a >> 8 for a in fine)
    scores = [branch_score(branch_logits(fine, m), top, target) for m in branches.moves]
    mean = round_div(sum(scores), len(scores))
    return [score - mean for score in scores]


def vector_credit(branches, f, s):
    """The credit of every place of a vector, from the fitness of its branches."""
    rows = [hadamard(len(branches.signs))[k] for k in branches.rows]
    turned = [f_k * row[branches.place] for f_k, row in zip(f, rows, strict=True)]
    sums_j = [dot(turned, column) for column in zip(*rows, strict=True)]
    return [
        clip(round_shift(sign_j * sum_j, s), -CREDIT_LIMIT, CREDIT_LIMIT)
        for sign_j, sum_j in zip(branches.signs, sums_j, strict=True)
    ]


def end_credit(branches, f):
    """c, the credit at the wire's end."""
    log2_d, log2_count = branches.log2_width, len(branches.rows).bit_length() - 1
    s = shift(len(branches.signs)) + log2_d // 2 - 11 - branches.m - (log2_d - log2_count)
    return vector_credit(branches, f, s)


def free(a):
    return 1 if abs(a) < 127 else 0


def head_votes(logits, target, n):
    """v[v] of the 256 branches of the head; n is the byte's number in the Weyl sequence."""
    total = exponential_sum(logits)
    votes = []
    for v, logit in enumerate(logits):
        x = (exp2_table()[logit + 128] * 2**12 * ((127 << 32) // total)) >> 32
        taken = (x + (1597 * v + 2531 * n) % 4096) >> 12
        votes.append(free(logit) * clip(127 * (v == target) - taken, -127, 127))
    return votes


# ---------------------------------------------------------------- recipe egg: stations

STATIONS = {  # the matrices that read there
    "gates": ("gru.w_f", "gru.w_h"),
    "state": ("gru.u_f",),
    "past": ("gru.u_h",),
    "middle": ("mlp.w_down",),
    "mlp": ("mlp.w_up",),
}
FITNESS_LIMIT = 1 << 18  # of a branch at a station


def narrow(a, s):
    return clip(round_shift(a, s), -127, 127)


def station_branches(w, signs, place):
    """The branches of the vector that w reads; the signs and the place are drawn for its width."""
    r, m = all_moves(w, signs, place, 8)
    return Branches(signs, place, list(range(len(signs))), m, [[clip8(round_shift(v, m)) for v in r_k] for r_k in r])


def station_fitness(branches, a, g):
    """fit_k of every branch: a the reader's outputs, g their credit in bytes."""
    fits = []
    for moves in branches.moves:
        fit = sum(g_n * (clip(a_n + m_n, -128, 127) - a_n) for g_n, a_n, m_n in zip(g, a, moves, strict=True))
        fits.append(clip(fit, -FITNESS_LIMIT, FITNESS_LIMIT))
    return fits


@dataclass
class Stations:
    """The stations of one step."""

    branches: dict  # by the names of the matrices that read at a station that is on
    shifts: dict  # by kind

    def credit(self, width, *readers, bits=0):
        """The credit of a vector of this width; 0 where its station is off.

        readers : of each matrix that reads it its name, its outputs, their kind of credit and that credit
        bits : fractional bits that the outputs' credit has and the vector's has not
        """
        if readers[0][0] not in self.branches:
            return zeros((width,))
        scales = [self.shifts[kind] + self.branches[name].m for name, _, kind, _ in readers]
        scale, f = max(scales), zeros((width,))
        for (name, a, kind, outputs), own in zip(readers, scales, strict=True):
            branches = self.branches[name]
            fits = station_fitness(branches, a, [narrow(v, self.shifts[kind]) for v in outputs])
            f = [f_k + round_shift(fit, scale - own) for f_k, fit in zip(f, fits, strict=True)]
        result = vector_credit(branches, f, max(-8, shift(width) + branches.log2_width + bits - scale))
        result[branches.place] = 0
        return result


def draw_stations(weights, seed, step, stations, shifts):
    """The Stations of a step: `stations` are the names of those that are on, `shifts` are by kind."""
    d, layers = size_of(weights)
    drawn = {width: draw_signs(seed, index, step, width) for index, width in enumerate((d, 4 * d))}
    branches = {}
    for i in range(layers):
        for name in [f"layers.{i}.{matrix}" for station in stations for matrix in STATIONS[station]]:
            branches[name] = station_branches(weights[name], *drawn[len(weights[name][0])])
    return Stations(branches, shifts)


# ---------------------------------------------------------------- recipe egg: credit along the wire


def limit(a):
    return clip(a, -WIRE_LIMIT, WIRE_LIMIT)


def limited_sum(*vectors):
    return [limit(sum(a)) for a in zip(*vectors, strict=True)]


def held(credit, values):
    """Credit of values, 0 where they are at a limit."""
    return [a * free(v) for a, v in zip(credit, values, strict=True)]


def norm_credit(c, g, x):
    """The credit of the gains g and of x, from that of norm(x, g)."""
    log2_d = len(x).bit_length() - 1
    rho = 2**14 // max(1, sum(map(abs, x)) // len(x))
    a = [c_j * round_shift(x_j * rho, 6) for c_j, x_j in zip(c, x, strict=True)]
    moves = sum(round_shift(round_shift(a_j, 8) * g_j, 7) for a_j, g_j in zip(a, g, strict=True))
    back = round_shift(moves * rho, 7 + log2_d)
    direct = [round_shift(c_j * round_shift(g_j * rho, 6), 8) for c_j, g_j in zip(c, g, strict=True)]
    return [a_j >> 8 for a_j in a], [direct_j - sign(x_j) * back for direct_j, x_j in zip(direct, x, strict=True)]


def reader(token, name, a, kind, outputs):
    """For Stations.credit, one of the gated unit's matrices: the credit of a that arrives at its own product."""
    return name, a, kind, held(outputs, token.products[name])


def kinds(layers, stations=()):
    """The kinds of credit that are narrowed, in order."""
    more = ("up", "ln2", "ln1") if stations else ()
    of_layers = [f"{k}.{i}" for names in (("gate", "cand", "down"), more) for i in range(layers) for k in names]
    return ["embedding", "gain", *of_layers]


def chunk_credit(weights, tokens, text, ends, stations):
    """The credit of every kind at every byte of a chunk: a list of dicts from kind to D values, 4 D of up.

    tokens : the reader's Token of each byte
    text : the chunk's bytes, and the last one's target
    ends : c of each byte
    stations : the Stations; the kinds of those that are off are 0
    """
    d, depth = len(weights["ln_out.weight"]), len(tokens[0].layers)
    ahead = zeros((depth, d))
    credits = [{} for _ in tokens]
    for t in reversed(range(len(tokens))):
        credit = credits[t]
        end = held(ends[t], tokens[t].inputs["head.weight"])
        credit["gain"], wire = norm_credit(end, weights["ln_out.weight"], tokens[t].x)
        wire = limited_sum(wire)
        for i in reversed(range(depth)):
            at, layer = f"layers.{i}", tokens[t].layers[i]
            fch = list(zip(layer.f, layer.c, layer.h, strict=True))
            wire = held(wire, layer.x)

            down = held(wire, layer.d)
            up = held(stations.credit(4 * d, (f"{at}.mlp.w_down", layer.d, f"down.{i}", down)), layer.y)
            cv = held(stations.credit(d, (f"{at}.mlp.w_up", layer.y, f"up.{i}", up)), layer.v)
            ln2, found = norm_credit(cv, weights[f"{at}.ln2.weight"], layer.x_h)
            wire = held(limited_sum(wire, found), layer.x_h)

            e = limited_sum(wire, ahead[i])
            cand = held([e_j * (f + 127) for e_j, (f, _, _) in zip(e, fch, strict=True)], layer.c)
            of_cand = (layer.c, f"cand.{i}", cand)
            cp = stations.credit(d, reader(tokens[t], f"{at}.gru.u_h", *of_cand), bits=8)
            gate = [e_j * (c - h) + cp_j * h for e_j, cp_j, (_, c, h) in zip(e, cp, fch, strict=True)]
            gate = held(gate, layer.f)
            of_gate = (layer.f, f"gate.{i}", gate)
            ch = stations.credit(d, reader(tokens[t], f"{at}.gru.u_f", *of_gate), bits=8)
            kept = [(129 - f) * e_j + (f + 127) * cp_j for e_j, cp_j, (f, _, _) in zip(e, cp, fch, strict=True)]
            ahead[i] = limited_sum([round_shift(a, 8) for a in kept], ch) if text[t] else zeros((d,))

            gates = reader(tokens[t], f"{at}.gru.w_f", *of_gate), reader(tokens[t], f"{at}.gru.w_h", *of_cand)
            cu = stations.credit(d, *gates, bits=8)
            ln1, found = norm_credit(held(cu, layer.u), weights[f"{at}.ln1.weight"], layer.x_0)
            wire = limited_sum(wire, found)

            of_layer = {"gate": gate, "cand": cand, "down": down, "up": up, "ln2": ln2, "ln1": ln1}
            credit |= {f"{kind}.{i}": values for kind, values in of_layer.items()}
        credit["embedding"] = wire
    return credits


# ---------------------------------------------------------------- recipe egg: votes


def first_shifts(layers, stations=()):
    return [5, 6, *[11, 12, 5] * layers, *[3, 5, 6] * (layers if stations else 0)]


def next_shifts(shifts, totals, count, names=()):
    """The shifts of the next step; count is B T D, and the kinds' names say which have 4 D."""
    counts = [4 * count if name.startswith("up") else count for name in names] or [count] * len(shifts)
    found = zip(shifts, totals, counts, strict=True)
    return [(total // each // 4).bit_length() if total else s for s, total, each in found]


def add_outer(z, v, x):
    """Z += v x^T."""
    for row, v_o in zip(z, v, strict=True):
        if v_o:
            for k, x_k in enumerate(x):
                row[k] += v_o * x_k


def pushes(narrowed, head, token):
    """What the outputs of every matrix and vector vote with at one byte, by name."""
    result = {"head.weight": head, "ln_out.weight": narrowed["gain"]}
    for i in range(len(token.layers)):
        at = f"layers.{i}"
        result[f"{at}.mlp.w_down"] = narrowed[f"down.{i}"]
        for gate, kind in (("f", "gate"), ("h", "cand")):
            v = narrowed[f"{kind}.{i}"]
            result[f"{at}.gru.b_{gate}"] = v
            for name in (f"{at}.gru.w_{gate}", f"{at}.gru.u_{gate}"):
                result[name] = held(v, token.products[name])
        for name, kind in (("mlp.w_up", "up"), ("ln2.weight", "ln2"), ("ln1.weight", "ln1")):
            if f"{kind}.{i}" in narrowed:  # with stations
                result[f"{at}.{name}"] = narrowed[f"{kind}.{i}"]
    return result


def add_model_votes(z, token, byte, narrowed, pushed):
    """Add one byte's votes on a model's weights to z."""
    for name, v in pushed.items():
        if name in token.inputs:
            add_outer(z[name], v, token.inputs[name])
        else:
            z[name] = [z_k + v_k for z_k, v_k in zip(z[name], v, strict=True)]
    row = z["embedding.weight"][byte]
    z["embedding.weight"][byte] = [z_k + v_k for z_k, v_k in zip(row, narrowed["embedding"], strict=True)]


@dataclass
class EggResult:
    """What the readers of one step computed."""

    votes: dict
    states: list  # per stream
    totals: list  # per kind
    score: int  # sum of the readers' score_256
    tokens: list  # per stream, the Token of each byte
    ends: list  # per stream, c of each byte


def egg_votes(
    weights, chunks, states, seed, step, count, shifts, z=None, change=None, add_votes=add_model_votes, stations=()
):
    """Everything in a step but the choice of the text and the update.

    chunks : what each of the step's streams reads, each chunk with the last byte's target
    count : K, the branches of the wire
    z : the votes that those of the step are added to, zeros at first; None for a model's
    change : makes what a byte's products are changed by, for an adapter
    add_votes : adds one byte's votes to z
    stations : the names of those that are on
    """
    layers, length = size_of(weights)[1], len(chunks[0]) - 1
    shifts = dict(zip(kinds(layers, stations), shifts, strict=True))
    branches = draw_branches(weights["head.weight"], seed, step, count)
    drawn = draw_stations(weights, seed, step, stations, shifts)
    z = zeros_like(weights) if z is None else z
    result = EggResult(z, [], [0] * len(shifts), 0, [], [])
    for i, (text, h) in enumerate(zip(chunks, states, strict=True)):
        tokens, ends = [], []
        for byte, target in pairwise(text):
            tokens.append(read_token(weights, h, byte, change() if change else None))
            h = tokens[-1].h
            ends.append(end_credit(branches, fitness(branches, tokens[-1], target)))
            result.score += score_256(tokens[-1].logits, target)
        credits = chunk_credit(weights, tokens, text, ends, drawn)
        for t, credit in enumerate(credits):
            narrowed = {}
            for number, (kind, s) in enumerate(shifts.items()):
                result.totals[number] += sum(map(abs, credit[kind]))
                narrowed[kind] = [narrow(a, s) for a in credit[kind]]
            n = (length * (len(chunks) * step + i) + t) % 4096
            head = head_votes(tokens[t].logits, text[t + 1], n)
            pushed = pushes(narrowed, head, tokens[t])
            add_votes(z, tokens[t], text[t], narrowed, pushed)
        result.states.append(h)
        result.tokens.append(tokens)
        result.ends.append(ends)
    return result


# ---------------------------------------------------------------- recipe egg: update and streams

VOTE_LIMIT = 1 << 23
MASTER_LIMIT = 127 << 16


def to_master(weights):
    return {name: map_tensor(lambda w: w << 16, w) for name, w in weights.items()}


def from_master(master):
    """W = (master + 2^15) >> 16."""
    return {name: map_tensor(lambda m: (m + 2**15) >> 16, m) for name, m in master.items()}


def zero_squares(weights):
    """The running mean square of every row, by name."""
    return {name: [0] * (len(w) if isinstance(w[0], list) else 1) for name, w in weights.items()}


def update_row(master, square, z, step, lr):
    """One row's master weights, and its mean square, after votes z at step size lr."""
    z = [clip(v, -VOTE_LIMIT, VOTE_LIMIT) for v in z]
    square += ((dot(z, z) << 4) // len(z) - square) // min(128, step + 1)
    factor = (lr << 16) // max(1, math.isqrt(square))
    moved = [clip(m + round_shift(v * factor, 14), -MASTER_LIMIT, MASTER_LIMIT) for m, v in zip(master, z, strict=True)]
    return moved, square


def update(master, squares, z, step, lr):
    """All master weights, and their rows' mean squares, after votes z."""
    new_master, new_squares = {}, {}
    for name, m in master.items():
        is_matrix = isinstance(m[0], list)
        rows = zip(m, squares[name], z[name], strict=True) if is_matrix else [(m, *squares[name], z[name])]
        moved = [update_row(*row, step, lr) for row in rows]
        new_master[name] = [row for row, _ in moved] if is_matrix else moved[0][0]
        new_squares[name] = [square for _, square in moved]
    return new_master, new_squares


def stream_count(n, readers):
    return readers * max(1, min(4096 // readers, n // (64 * readers)))


def stream_order(seed, count, round_number):
    words = draw_words(seed, STREAM_ORDER, 0, round_number, count)
    return sorted(range(count), key=lambda s: (words[s], s))


def wrapped(text, start, length):
    return [text[(start + k) % len(text)] for k in range(length)]


def egg_chunks(text, seed, step, readers, length):
    """The streams of a step, one a reader, and the length + 1 bytes that each reads."""
    n = len(text)
    count = stream_count(n, readers)
    q, k = divmod(step, count // readers)
    streams = stream_order(seed, count, q)[k * readers : (k + 1) * readers]
    return streams, [wrapped(text, s * n // count + q * length, length + 1) for s in streams]


# ---------------------------------------------------------------- recipe egg: a run


class EggRun:
    """A training run of recipe egg; egg_step takes it one step further."""

    def __init__(self, text, seed, d, layers, readers, length, branches=None, stations=()):
        self.text, self.seed, self.branches = list(text), seed, branches or d
        self.readers, self.length, self.stations = readers, length, stations
        self.evolve(initial_weights(seed, d, layers, "egg"))
        self.states = [zeros((layers, d)) for _ in range(stream_count(len(text), readers))]
        self.shifts = first_shifts(layers, stations)
        self.step = 0

    def evolve(self, weights):
        """Begin at these weights."""
        self.master, self.squares = to_master(weights), zero_squares(weights)

    def cast(self, chunks, states):
        drawn = (self.seed, self.step, self.branches, self.shifts)
        return egg_votes(from_master(self.master), chunks, states, *drawn, stations=self.stations)


def egg_step(run, lr):
    """One whole training step; returns the EggResult."""
    streams, chunks = egg_chunks(run.text, run.seed, run.step, run.readers, run.length)
    result = run.cast(chunks, [run.states[s] for s in streams])
    for s, h in zip(streams, result.states, strict=True):
        run.states[s] = h
    run.master, run.squares = update(run.master, run.squares, result.votes, run.step, lr)
    layers, width = len(run.states[0]), len(run.states[0][0])
    names = kinds(layers, run.stations)
    run.shifts = next_shifts(run.shifts, result.totals, run.readers * run.length * width, names)
    run.step += 1
    return result


# ---------------------------------------------------------------- random subspaces

SUBSPACE_SIGNS = 11
WITHOUT_VOTES = ("ln1.weight", "ln2.weight", "mlp.w_up")


class SubspaceRun(EggRun):
    """A model that learns in d dimensions from the weights that it has; subspace_step takes it one step further."""

    def __init__(self, text, seed, weights, readers, length, d):
        hidden, layers = len(weights["ln_out.weight"]), size_of(weights)[1]
        super().__init__(text, seed, hidden, layers, readers, length)
        self.begin, self.z, self.d = weights, [0] * d, d
        self.z_squares = [0] * (d // min(d, 4096))
        n = len(voted_weights(weights))
        words = draw_words(seed, SUBSPACE_SIGNS, 0, 0, n // 32 + 1)
        self.p = [[sign_at(words, w) * (-1) ** bin((w % d) & k).count("1") for k in range(d)] for w in range(n)]

    def weights(self):
        """W of this moment."""
        n = len(self.p)
        e, moved = n.bit_length() // 2 - 1, []
        for w, before in enumerate(voted_weights(self.begin)):
            offset = ((40503 * w) % 2**16) << e
            moved.append(clip8(before + ((dot(self.p[w], self.z) + offset) >> (16 + e))))
        return with_voted(self.begin, moved)


def voted_weights(tensors):
    """The numbers of all tensors that a text has votes on, one after another."""
    found = []
    for name, w in tensors.items():
        if not name.endswith(WITHOUT_VOTES):
            found += [v for row in w for v in row] if isinstance(w[0], list) else w
    return found


def with_voted(tensors, numbers):
    """The same tensors with these numbers in place of those of voted_weights."""
    left = iter(numbers)
    return {
        name: w if name.endswith(WITHOUT_VOTES) else map_tensor(lambda _: next(left), w) for name, w in tensors.items()
    }


def subspace_step(run, lr):
    """One whole step in the subspace."""
    streams, chunks = egg_chunks(run.text, run.seed, run.step, run.readers, run.length)
    states = [run.states[s] for s in streams]
    result = egg_votes(run.weights(), chunks, states, run.seed, run.step, run.branches, run.shifts)
    for s, h in zip(streams, result.states, strict=True):
        run.states[s] = h
    votes, n = voted_weights(result.votes), len(run.p)
    z = [
        clip(round_shift(dot(c, votes), n.bit_length() // 2), -VOTE_LIMIT, VOTE_LIMIT) for c in zip(*run.p, strict=True)
    ]
    width = min(run.d, 4096)
    for row in range(run.d // width):
        at = slice(row * width, (row + 1) * width)
        run.z[at], run.z_squares[row] = update_row(run.z[at], run.z_squares[row], z[at], run.step, lr)
    layers, hidden = len(run.states[0]), len(run.states[0][0])
    run.shifts = next_shifts(run.shifts, result.totals, run.readers * run.length * hidden, kinds(layers))
    run.step += 1


# ---------------------------------------------------------------- recipe paper


def round_half_up(v):
    return math.floor(v + Fraction(1, 2))


def paper_alpha(step, settings=PLAIN):
    """alpha_t, a Fraction."""
    alpha = Fraction(str(settings.alpha))
    if alpha <= 1:
        return Fraction(round_half_up(2**16 * alpha), 2**16)
    c = root_of_power_of_two(16 * 256 + round_half_up(256 * alpha), 256) - 2**16
    decay = 2**16 * settings.alpha_decay
    return Fraction(decay, c * step + decay)


def paper_threshold(step, settings=PLAIN):
    """j, the largest integer with Phi(j / 16) <= 1 - alpha_t / 2."""
    alpha = paper_alpha(step, settings)
    assert alpha > 0, "no integer is the largest"
    j = 0
    while phi(j + 1, 16) <= (1 - alpha / 2) * 2**PHI_BITS:
        j += 1
    return j


def paper_chunk(text, step, pair, pairs, length, group_size=2):
    """The bytes that a pair reads."""
    streams = 2 * pairs // group_size
    stream = pair // (group_size // 2)
    return wrapped(text, stream * len(text) // streams + step * length, length + 1)


def paper_member(weights, h, text, directions, r, settings=PLAIN):
    """A member's score, the sum of its score_16, and its state afterwards."""
    score = 0
    for byte, target in pairwise(text):
        token = read_token(weights, h, byte, Perturbation(directions, r, settings))
        h = token.h
        score += score_16(token.logits, target)
    return score, h


def ranked_fitness(scores):
    """f of every pair, from the ranks of all members' scores."""
    ordered = sorted(scores)
    ranks = []
    for score in scores:
        places = [k for k, other in enumerate(ordered) if other == score]
        twice = places[0] + places[-1]  # twice the mean place of equal scores
        ranks.append(127 * twice // (len(scores) - 1) - 127)
    return [(plus - minus) // 2 for plus, minus in zip(ranks[::2], ranks[1::2], strict=True)]


def paper_fitness(scores, kind="sign"):
    """f of every pair, and F, from the members' scores."""
    d = [plus - minus for plus, minus in zip(scores[::2], scores[1::2], strict=True)]
    if kind == "sign":
        return [sign(d_i) for d_i in d], math.isqrt(len(d))
    if kind == "raw":
        m = max(1, math.isqrt(dot(d, d) // len(d)))
        f = [sign(d_i) * min(127, round_div(16 * abs(d_i), m)) for d_i in d]
    else:
        f = ranked_fitness(scores)
    return f, math.isqrt(dot(f, f))


def signs_of(direction):
    """A direction with the signs of its a, b and e, which may be 0."""

    def signs(values):
        return [sign(v) for v in values]

    return {name: tuple(map(signs, v)) if isinstance(v, tuple) else signs(v) for name, v in direction.items()}


def add_paper_vote(z, directions, f, settings=PLAIN):
    """Z += f sum_q a_q b_q^T, or 2^g f e for vectors."""
    if not settings.use_clt:
        directions = [signs_of(direction) for direction in directions]
    for name, z_o in z.items():
        if isinstance(z_o[0], list):
            for direction in directions:
                a, b = direction[name]
                add_outer(z_o, [f * a_n for a_n in a], b)
        else:
            unit = f << half_log2(len(directions))
            z[name] = [z_k + unit * e for z_k, e in zip(z_o, directions[0][name], strict=True)]


def paper_update(weights, z, step, f_size, settings=PLAIN):
    """The weights after votes z; f_size is F."""
    g = half_log2(settings.rank)
    c = 2 ** (8 + g) if settings.noise == "gaussian" and settings.use_clt else 2**g
    bound = paper_threshold(step, settings) * f_size * c

    def moved(w, z_o):
        return clip8(w + sign(z_o)) if z_o != 0 and 16 * abs(z_o) >= bound else w

    return {name: map_tensor(moved, weights[name], z[name]) for name in weights}


@dataclass
class PaperResult:
    """What the members of one step computed."""

    scores: list  # per member
    fitness: list  # per pair
    fitness_size: int  # F
    votes: dict
    states: list  # per member


def paper_votes(weights, chunks, states, seed, step, settings=PLAIN):
    """Everything in a step but the choice of the text and the update; pair i reads chunks[i]."""
    scores, new_states = [], []
    drawn = [draw_directions(seed, i, step, *size_of(weights), settings) for i in range(len(chunks))]
    for member, h in enumerate(states):
        pair, r = member // 2, 1 - 2 * (member % 2)
        score, new_h = paper_member(weights, h, chunks[pair], drawn[pair], r, settings)
        scores.append(score)
        new_states.append(new_h)
    fitness, fitness_size = paper_fitness(scores, settings.fitness)
    z = zeros_like(weights)
    for directions, f in zip(drawn, fitness, strict=True):
        add_paper_vote(z, directions, f, settings)
    return PaperResult(scores, fitness, fitness_size, z, new_states)


class PaperRun:
    """A training run of recipe paper; paper_step takes it one step further."""

    def __init__(self, weights, text, seed, pairs, length, settings=PLAIN):
        self.weights, self.text, self.seed = weights, list(text), seed
        self.pairs, self.length, self.settings = pairs, length, settings
        d, layers = size_of(weights)
        self.states = [zeros((layers, d)) for _ in range(2 * pairs)]
        self.step = 0


def paper_step(run):
    """One whole training step; returns the PaperResult."""
    sizes = (run.pairs, run.length, run.settings.group_size)
    chunks = [paper_chunk(run.text, run.step, i, *sizes) for i in range(run.pairs)]
    result = paper_votes(run.weights, chunks, run.states, run.seed, run.step, run.settings)
    run.weights = paper_update(run.weights, result.votes, run.step, result.fitness_size, run.settings)
    run.states = result.states
    run.step += 1
    return result


def paper_steps(weights, text, steps, seed, pairs, length, settings=PLAIN):
    """Whole steps from step 0 and states of zero: the members' scores of each step, and the weights after the last.

    pairs : P
    length : T, the bytes that a member reads in a step
    """
    run = PaperRun(weights, text, seed, pairs, length, settings)
    scores = [paper_step(run).scores for _ in range(steps)]
    return scores, run.weights
