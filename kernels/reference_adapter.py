"""The NumPy backend's adapters: members whose low-rank factors alone are perturbed, and the votes on these.

docs/arithmetic.md, "Adapters"; suffixes of arrays as in ``kernels.reference``.
"""

import numpy as np

from kernels import philox
from kernels.arithmetic import ARRIVED_BITS, FINE, LIMIT, round_shift
from kernels.backend import Noise, TracedVotes
from kernels.layout import AdapterShape
from kernels.reference import BLOCK_MEMBERS, Model, NumpyBackend, arrived, credits, scores


def adapter_shape(model: Model) -> AdapterShape:
    """The shape of the adapter that a model was prepared with."""
    names = tuple(name[:-2] for name in model.factors if name.endswith(".A"))
    return AdapterShape(model.shape, len(model.factors[names[0] + ".A"]), names)


class AdaptedMembers(Model):
    """A block of members: the adapter's factors moved by r times each member's own direction, the base as it is."""

    def __init__(self, model: Model, noise: Noise, directions_m: np.ndarray):
        super().__init__(model.shape, model.weights, model.factors)
        self.noise, layout = noise, adapter_shape(model)
        strings = philox.words(
            noise.seed, philox.ADAPTER_SIGNS, directions_m, noise.step, layout.sign_words
        )
        self.a, self.b = (
            {name: philox.signs(strings, at(t)[0], at(t)[1]) for name, t in layout.tensors.items()}
            for at in (lambda t: (t.a, t.shape[0]), lambda t: (t.b, t.shape[1]))
        )

    def begin_token(self, r_m):
        """The members' signs r at the next token; what the last one left is forgotten."""
        self.r = r_m
        # name -> input (m, k) and, of a factor, projection (m,); stage -> its result (m, n)
        self.trace: dict[str, tuple] = {}
        self.stages: dict[str, np.ndarray] = {}

    def seen(self, stage, values_mn):
        self.stages[stage] = values_mn

    def term(self, name, x_mk):
        if name not in self.factors:
            self.trace[name] = (x_mk,)
            return 0
        p = self.r * (self.b[name] * x_mk).sum(1)
        self.trace[name] = x_mk, p
        s = 4 - self.noise.sigma_shift
        v = self.a[name] * p[:, None]
        return v << s if s >= 0 else v >> -s


def cast_adapter_votes(
    model: Model,
    tokens: np.ndarray,
    states: np.ndarray,
    noise: Noise,
    *,
    group_size: int,
    credit_scale: int,
    first_group: int = 0,
) -> TracedVotes:
    """See ``kernels.backend``."""
    layout = adapter_shape(model)
    votes = np.zeros(layout.parameters, np.int64)
    new_states, member_scores, deviation = np.empty_like(states), [], 0
    block = max(1, BLOCK_MEMBERS // group_size)
    for g in range(0, len(tokens), block):
        groups = slice(g, g + block)
        s, h, deviations = _run_groups(
            model, tokens[groups], states[groups], noise, group_size, credit_scale,
            (first_group + g) * group_size, layout.views(votes),
        )  # fmt: skip
        new_states[groups] = h[noise.step % group_size :: group_size]
        member_scores.append(s.sum(2).ravel())
        deviation += int(np.abs(deviations).sum())
    return TracedVotes(votes, new_states, np.concatenate(member_scores).astype(np.int32), deviation)


def read_adapter_pairs(
    model: Model, tokens: np.ndarray, states: np.ndarray, noise: Noise
) -> tuple[np.ndarray, np.ndarray]:
    """See ``kernels.backend``."""
    pairs = len(tokens) // 2
    block = AdaptedMembers(model, noise, np.repeat(np.arange(pairs), 2))
    block.begin_token(np.tile([1, -1], pairs))
    h = states.astype(np.int64)
    logits = np.empty((*tokens.shape, 256), np.int8)
    for t in range(tokens.shape[1]):
        logits[:, t] = block.product("head.weight", block.read(tokens[:, t], h))
    return logits, h.astype(np.int8)


def cast_adapter_pair_votes(layout: AdapterShape, fitness: np.ndarray, noise: Noise) -> np.ndarray:
    """Z = sum over pairs of f a b^T for each factor; few numbers, so there is no faster version.

    fitness : (pairs,) int64, |f| <= 127
    returns : (parameters,) int64
    """
    votes = np.zeros(layout.parameters, np.int64)
    voters = np.flatnonzero(fitness)
    for at in range(0, len(voters), BLOCK_MEMBERS):
        pairs = voters[at : at + BLOCK_MEMBERS]
        strings = philox.words(
            noise.seed, philox.ADAPTER_SIGNS, pairs, noise.step, layout.sign_words
        )
        for name, z in layout.views(votes).items():
            t = layout.tensors[name]
            a = philox.signs(strings, t.a, t.shape[0]) * fitness[pairs, None]
            z += a.T @ philox.signs(strings, t.b, t.shape[1]).astype(np.int64)
    return votes


def _run_groups(model, tokens, states, noise, group_size, credit_scale, first, votes):
    """Run whole groups through the chunk and add their votes."""
    groups, length = len(tokens), tokens.shape[1] - 1
    members = first + np.arange(groups * group_size)
    block = AdaptedMembers(model, noise, members)
    strings = philox.words(noise.seed, philox.TOKEN_SIGNS, members, noise.step, -(-length // 32))
    r_mt = philox.signs(strings, 0, length).astype(np.int64)

    h = np.repeat(states, group_size, 0).astype(np.int64)
    tokens_m = np.repeat(tokens, group_size, 0)
    s0, s1 = np.empty((2, len(members), length), np.int64)
    kept = []
    for t in range(length):
        block.begin_token(r_mt[:, t])
        x = block.read(tokens_m[:, t], h)
        clean = model.product("head.weight", x)  # the head's factors as they are
        moved = block.product("head.weight", x)
        s0[:, t] = scores(clean, tokens_m[:, t + 1], FINE)
        s1[:, t] = scores(moved, tokens_m[:, t + 1], FINE)
        kept.append((block.trace, block.stages))

    s0, s1 = (s.reshape(groups, group_size, length) for s in (s0, s1))
    to_go, own, head, deviations = credits(s0, s1, tokens[:, :-1], credit_scale)
    last_mlp = f"layers.{model.shape.num_layers - 1}.mlp"
    for factor, z in votes.items():
        name, kind = factor[:-2], factor[-1]
        # as for the matrix itself: the last layer's MLP cannot reach a later token, the head is scored by itself
        credit = own if name.startswith(last_mlp) else to_go
        credit = (head if name == "head.weight" else credit).reshape(-1, length)
        for t, (trace, stages) in enumerate(kept):
            x, p = trace[factor]
            x = x[::group_size]
            v = NumpyBackend.outputs(
                block, factor, p, (x * x).sum(1), credit[:, t], r_mt[:, t], group_size
            )
            if kind == "A":
                through = LIMIT * (np.abs(stages[factor]) < LIMIT)
            else:
                through = _arrived(stages, trace, name)
            if through is not None:
                v = round_shift(v * through[::group_size], ARRIVED_BITS)
            z += v.T @ x
    return s0, h, deviations


def _arrived(stages, trace, name):
    """How much of a push at each output of a matrix arrived; None for the head, where all does."""
    if name == "head.weight":
        return None
    return arrived(stages, trace, name.replace(".gru.u_", ".gru.w_"))
