"""The NumPy backend: readable, slow, the living definition of every operation (docs/arithmetic.md).

Arrays carry their axes in their names' suffixes where it helps: m members, g groups, t tokens, n outputs, k inputs,
d hidden. Sums are int64 here, wider than any of them needs; the bounds the fast backends rely on are asserted.
"""

from dataclasses import dataclass, field

import numpy as np

from kernels import philox
from kernels.arithmetic import (
    ARRIVED_BITS,
    CREDIT_LIMIT,
    CREDIT_MEAN,
    DISCOUNT,
    FINE,
    LIMIT,
    MASTER_BITS,
    SIXTEENTHS,
    VOCABULARY,
    VOTE_BITS,
    VOTE_LIMIT,
    adapter_lift,
    clip8,
    exp2_table,
    floor_log2,
    product_shift,
    round_div,
    round_shift,
)
from kernels.backend import Noise, TracedVotes
from kernels.layout import Shape

BLOCK_MEMBERS = 256  # that run together; bounds memory, not results


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


@dataclass
class Model:
    """Unperturbed weights, and the hooks where a perturbation enters."""

    shape: Shape
    weights: dict[str, np.ndarray]  # int64 views by name
    factors: dict[str, np.ndarray] = field(default_factory=dict)  # of an adapter, likewise

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
        """Is told every stage's result, (members, N), and the sums of products before their shift; keeps nothing."""

    def adapted(self, name: str, x_mk: np.ndarray):
        """What an adapter adds to the accumulator of a product: (members, N)."""
        if name + ".A" not in self.factors:
            return 0
        acc = x_mk @ self.factors[name + ".A"].T + self.term(name + ".A", x_mk)
        z = clip8(acc >> product_shift(x_mk.shape[1]))
        self.seen(name + ".A", z)
        acc = z @ self.factors[name + ".B"].T + self.term(name + ".B", z)
        return acc << adapter_lift(x_mk.shape[1])

    def product(self, name: str, x_mk: np.ndarray, term=None) -> np.ndarray:
        """clip8((W . x + term + what the adapter adds) >> shift(K)): (members, N)."""
        acc = x_mk @ self.weights[name].T + (self.term(name, x_mk) if term is None else term)
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
            layer, h = f"layers.{i}.", h_mld[:, i].copy()  # the trace keeps it
            u = norm(x, self.vector(layer + "ln1.weight"))
            f = clip8(
                self.product(layer + "gru.w_f", u)
                + self.product(layer + "gru.u_f", h)
                + self.vector(layer + "gru.b_f")
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


class Perturbed(Model):
    """A block of members: the weights moved by r times each member's own direction."""

    def __init__(self, model: Model, noise: Noise, directions_m: np.ndarray, *, tie_gates: bool):
        super().__init__(model.shape, model.weights)
        self.noise, self.tie_gates = noise, tie_gates
        strings = philox.words(
            noise.seed, philox.DIRECTION_SIGNS, directions_m, noise.step, self.shape.sign_words
        )
        self.a, self.b = {}, {}
        for name, t in self.shape.tensors.items():
            self.a[name] = philox.signs(strings, t.a, t.shape[0])
            if len(t.shape) == 2:
                self.b[name] = philox.signs(strings, t.b, t.shape[1])
        # The sign of a gate's bias: in recipe egg the gate's own, times the first of the bias's signs.
        self.b0 = {}
        if tie_gates:
            for i in range(self.shape.num_layers):
                for gate in "fh":
                    w, u, bias = (f"layers.{i}.gru.{kind}_{gate}" for kind in "wub")
                    self.b0[bias] = self.a[bias][:, 0].astype(np.int64)
                    self.a[u] = self.a[w]
                    self.a[bias] = self.a[w] * self.a[bias][:, :1]
        self.begin_token(np.ones(len(directions_m), np.int64))

    def begin_token(self, r_m):
        """The members' signs r at the next token; what the last one left is forgotten."""
        self.r = r_m
        # name -> input (m, k) and projection (m,) of a product; stage -> its result (m, n)
        self.trace: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.stages: dict[str, np.ndarray] = {}

    def seen(self, stage, values_mn):
        self.stages[stage] = values_mn

    def gain(self, v):
        """v << (4 - sigma_shift), an arithmetic >> for sigma_shift > 4."""
        s = 4 - self.noise.sigma_shift
        return v << s if s >= 0 else v >> -s

    @property
    def vector_step(self) -> int:
        """How far gains, biases and embedding rows move."""
        return max(1, self.gain(1))

    def input_step(self, name: str) -> int:
        """P of the perturbation along the input: what the accumulator gains."""
        step = self.gain(1 << product_shift(self.shape.tensors[name].shape[1]))
        if ".gru.w_" in name:
            return 2 * step
        return 0 if ".gru.u_" in name else step

    def vector(self, name):
        moves = self.noise.perturbation == "sign" or ".gru.b_" not in name
        step = self.vector_step * moves
        return clip8(self.weights[name] + self.r[:, None] * self.a[name] * step)

    def embedding(self, tokens_m):
        a = np.take_along_axis(self.a["embedding.weight"], tokens_m[:, None].astype(np.int64), 1)
        move = (self.r[:, None] * a) * self.b["embedding.weight"] * self.vector_step
        return clip8(self.weights["embedding.weight"][tokens_m] + move)

    def term(self, name, x_mk):
        p = self.r * (self.b[name] * x_mk).sum(1)
        self.trace[name] = x_mk, p
        if self.noise.perturbation == "input":
            return self.a[name] * (self.r * self.input_step(name))[:, None]
        return self.gain(self.a[name] * p[:, None])


def arrived(stages: dict[str, np.ndarray], trace: dict, name: str) -> np.ndarray:
    """How much of a push at each output of a matrix arrived, 0..127: (members, N).

    A clipped value takes none on, and a gate lets through what it is open for.

    stages, trace : what ``Perturbed`` kept of the token
    """

    def free(v):
        return np.abs(v) < LIMIT

    layer, tensor = name[: name.index(".", len("layers.")) + 1], name[name.rindex(".") + 1 :]
    if tensor == "w_f":
        c = stages[layer + "candidate"]
        h = trace[layer + "gru.u_f"][0]
        return free(stages[layer + "gate"]) * np.minimum(LIMIT, np.abs(c - h))
    if tensor == "w_h":
        return free(stages[layer + "candidate"]) * ((stages[layer + "gate"] + LIMIT) >> 1)
    if tensor == "w_up":
        return LIMIT * free(stages[layer + "mlp.middle"])
    acc = stages[name]
    d = clip8(acc >> product_shift(4 * acc.shape[1]))
    return LIMIT * free(d) * free(stages[layer + "mlp"])


def credits(s0_gmt: np.ndarray, s1_gmt: np.ndarray, inputs_gt: np.ndarray, scale: int):
    """Each member's credit for what it did at each token, scaled to a mean magnitude of about 32.

    s0_gmt, s1_gmt : (groups, G, T) clean and perturbed-head scores in 1/256 bit
    inputs_gt : (groups, T) uint8, the bytes read: a 0 resets the state, so nothing before it counts after it
    returns : rewards-to-go, own-token and head credits (groups, G, T) in [-128, 128], and the
        deviations (groups, G), the chunk's summed score less the group's mean
    """

    def less_mean(s_gmt):
        return s_gmt - round_div(s_gmt.sum(1, keepdims=True), s_gmt.shape[1])

    def scaled(f_gmt):
        return np.clip(round_div(CREDIT_MEAN * f_gmt, scale), -CREDIT_LIMIT, CREDIT_LIMIT)

    own = less_mean(s0_gmt)
    head = less_mean(s1_gmt - s0_gmt)
    to_go = own.copy()
    for t in reversed(range(own.shape[2] - 1)):
        lives_on = (inputs_gt[:, t + 1] != 0)[:, None]
        to_go[..., t] += ((DISCOUNT * to_go[..., t + 1]) >> 8) * lives_on
    return scaled(to_go), scaled(own), scaled(head), own.sum(2)


def _full_rank_signs(noise: Noise, direction: int, parameters: int) -> np.ndarray:
    """(parameters,) int64: a sign for every weight."""
    words = philox.words(
        noise.seed, philox.FULL_RANK_SIGNS, direction, noise.step, -(-parameters // 32)
    )
    return philox.signs(words, 0, parameters).astype(np.int64)


class NumpyBackend:
    """The definition; see ``kernels.backend`` for what each call takes and returns."""

    name = "numpy"
    description = "NumPy reference (slow)"

    def prepare(self, shape, weights, adapter=None):
        factors = adapter.shape.views(adapter.factors.astype(np.int64)) if adapter else {}
        return Model(shape, shape.views(weights.astype(np.int64)), factors)

    def forward(self, model, tokens, states):
        h = states.astype(np.int64)
        logits = np.empty((*tokens.shape, VOCABULARY), np.int8)
        for t in range(tokens.shape[1]):
            logits[:, t] = model.product("head.weight", model.read(tokens[:, t], h))
        return logits, h.astype(np.int8)

    def cast_traced_votes(
        self, model, tokens, states, noise, *, group_size, credit_scale, first_group=0
    ):
        shape = model.shape
        votes = np.zeros(shape.parameters, np.int64)
        new_states, member_scores, deviation = np.empty_like(states), [], 0
        block = max(1, BLOCK_MEMBERS // group_size)
        for g in range(0, len(tokens), block):
            groups = slice(g, g + block)
            first = (first_group + g) * group_size
            s, h, deviations = self._run_groups(
                model, tokens[groups], states[groups], noise, group_size, credit_scale, first,
                shape.views(votes),
            )  # fmt: skip
            new_states[groups] = h[noise.step % group_size :: group_size]
            member_scores.append(s.sum(2).ravel())
            deviation += int(np.abs(deviations).sum())
        return TracedVotes(
            votes, new_states, np.concatenate(member_scores).astype(np.int32), deviation
        )

    def _run_groups(self, model, tokens, states, noise, group_size, credit_scale, first, votes):
        """Run whole groups through the chunk and add their votes."""
        groups, length = len(tokens), tokens.shape[1] - 1
        members = first + np.arange(groups * group_size)
        block = Perturbed(model, noise, members, tie_gates=True)
        r_strings = philox.words(
            noise.seed, philox.TOKEN_SIGNS, members, noise.step, -(-length // 32)
        )
        r_mt = philox.signs(r_strings, 0, length).astype(np.int64)

        h = np.repeat(states, group_size, 0).astype(np.int64)
        tokens_m = np.repeat(tokens, group_size, 0)
        s0, s1 = np.empty((2, len(members), length), np.int64)
        traces = []
        for t in range(length):
            block.begin_token(r_mt[:, t])
            x = block.read(tokens_m[:, t], h)
            clean = block.product("head.weight", x, term=0)
            moved = block.product("head.weight", x)
            s0[:, t] = scores(clean, tokens_m[:, t + 1], FINE)
            s1[:, t] = scores(moved, tokens_m[:, t + 1], FINE)
            traces.append((block.trace, block.stages))

        s0, s1 = (s.reshape(groups, group_size, length) for s in (s0, s1))
        to_go, own, head, deviations = credits(s0, s1, tokens[:, :-1], credit_scale)
        last = f"layers.{model.shape.num_layers - 1}."
        for name, z in votes.items():
            # The last layer's MLP and the output norm cannot reach a later token; the head is scored by itself.
            credit = own if name.startswith((last + "ln2", last + "mlp", "ln_out")) else to_go
            credit = (head if name == "head.weight" else credit).reshape(-1, length)
            if ".gru." in name:
                if ".w_" in name:
                    self._vote_gate(votes, name, block, traces, credit, r_mt, group_size)
            elif name == "embedding.weight":
                for t in range(length):
                    token = tokens_m[:, t].astype(np.int64)
                    a = np.take_along_axis(block.a[name], token[:, None], 1)[:, 0]
                    rows = (credit[:, t] * r_mt[:, t] * a)[:, None] * block.b[name]
                    np.add.at(z, token, rows << VOTE_BITS)
            elif z.ndim == 1:
                z += (block.a[name] * (credit * r_mt).sum(1)[:, None]).sum(0) << VOTE_BITS
            else:
                for t, (trace, stages) in enumerate(traces):
                    x, p = trace[name]
                    x = x[::group_size]
                    v = self.outputs(
                        block, name, p, (x * x).sum(1), credit[:, t], r_mt[:, t], group_size
                    )
                    if name != "head.weight":
                        v = round_shift(
                            v * arrived(stages, trace, name)[::group_size], ARRIVED_BITS
                        )
                    z += v.T @ x
        return s0, h, deviations

    def _vote_gate(self, votes, w, block, traces, credit, r_mt, group_size):
        """The products that meet in one gate vote with one output vector on their joint input [x, y, c]."""
        u, bias = w.replace(".w_", ".u_"), w.replace(".w_", ".b_")
        c = 1 << product_shift(block.shape.hidden_size)
        for t, (trace, stages) in enumerate(traces):
            (x, p_x), (y, p_y) = trace[w], trace[u]
            p = p_x + p_y + r_mt[:, t] * block.b0[bias] * c
            through = arrived(stages, trace, w)
            x, y = x[::group_size], y[::group_size]
            length_squared = (x * x).sum(1) + (y * y).sum(1) + c * c
            v = self.outputs(block, w, p, length_squared, credit[:, t], r_mt[:, t], group_size)
            v = round_shift(v * through[::group_size], ARRIVED_BITS)
            votes[w] += v.T @ x
            votes[u] += v.T @ y
            votes[bias] += c * v.sum(0)

    @staticmethod
    def outputs(block, name, p_m, length_squared_g, credit_m, r_m, group_size):
        """v (groups, N): the output side of a group's vote on a matrix at one token."""
        if block.noise.perturbation == "input":
            p_m = r_m
            shift_g = np.full(len(length_squared_g), block.input_step(name).bit_length() - 1)
        else:
            n = np.maximum(1, length_squared_g)
            shift_g = np.array(
                [int(v * v).bit_length() // 2 for v in n]
            )  # 2**shift is nearest to n
        s = ((credit_m * p_m)[:, None] * block.a[name]).reshape(
            -1, group_size, block.a[name].shape[1]
        )
        s = s.sum(1)
        assert np.abs(s).max(initial=0) < 2**31
        v = [round_shift(row, shift - VOTE_BITS) for row, shift in zip(s, shift_g, strict=True)]
        return np.clip(np.array(v), -VOTE_LIMIT, VOTE_LIMIT)

    def cast_adapter_votes(self, model, tokens, states, noise, **settings):
        from kernels.reference_adapter import cast_adapter_votes  # which builds on this module

        return cast_adapter_votes(model, tokens, states, noise, **settings)

    def read_adapter_pairs(self, model, tokens, states, noise):
        from kernels.reference_adapter import read_adapter_pairs

        return read_adapter_pairs(model, tokens, states, noise)

    def run_pairs(self, model, tokens, states, noise, *, first_pair=0):
        scores_m = np.zeros(len(states), np.int64)
        new_states = np.empty_like(states)
        for start in range(0, len(tokens), BLOCK_MEMBERS // 2):
            pairs = np.arange(start, min(len(tokens), start + BLOCK_MEMBERS // 2))
            members = slice(2 * start, 2 * start + 2 * len(pairs))
            block = Perturbed(model, noise, np.repeat(first_pair + pairs, 2), tie_gates=False)
            block.begin_token(np.tile([1, -1], len(pairs)))
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
        votes = np.zeros(shape.parameters, np.int64)
        for start in range(0, len(fitness), BLOCK_MEMBERS):
            f = fitness[start : start + BLOCK_MEMBERS].astype(np.int64)
            pairs = first_pair + start + np.arange(len(f))
            strings = philox.words(
                noise.seed, philox.DIRECTION_SIGNS, pairs, noise.step, shape.sign_words
            )
            for name, z in shape.views(votes).items():
                t = shape.tensors[name]
                a = philox.signs(strings, t.a, t.shape[0])
                if z.ndim == 1:
                    z += f @ a
                else:
                    z += (f[:, None] * a).T @ philox.signs(strings, t.b, t.shape[1])
        return votes

    def update_master(self, shape, master, votes, multipliers):
        limit = LIMIT << MASTER_BITS
        for t, multiplier in zip(shape.tensors.values(), multipliers, strict=True):
            # |votes| < 2**20 * rows and multiplier < 2**20 leave room in int64 (docs/arithmetic.md)
            moved = master[t.slice] + round_shift(votes[t.slice] * multiplier, 32)
            master[t.slice] = np.clip(moved, -limit, limit)
        return ((master.astype(np.int32) + (1 << (MASTER_BITS - 1))) >> MASTER_BITS).astype(np.int8)

    def update_signs(self, weights, votes, threshold):
        moves = np.sign(votes) * (16 * np.abs(votes) >= threshold)
        return clip8(weights + moves).astype(np.int8)
