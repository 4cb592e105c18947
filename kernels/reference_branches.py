"""The NumPy backend's branches: members that leave a reader at the wire's end, what they credit, and who votes with it.

docs/arithmetic.md, "Recipe egg" and "Votes", in that order. Arrays carry their axes in their names' suffixes:
b streams, k branches, v bytes that may come next, d hidden. Sums are int64, wider than any of them needs; the bounds
that the fast backends rely on are asserted.
"""

from dataclasses import dataclass

import numpy as np

from egg.kernels import philox
from egg.kernels.arithmetic import (
    BRANCH_BITS,
    BRANCH_LIMIT,
    BRANCH_MEAN,
    CREDIT_LIMIT,
    LIMIT,
    bit_length,
    branch_table,
    clip8,
    exp2_table,
    product_shift,
    round_div,
    round_shift,
    shift_right,
)
from egg.kernels.backend import Draw
from egg.kernels.layout import Layout

MOVE_LIMIT = BRANCH_LIMIT << BRANCH_BITS  # of a logit, with its fractional bits
FALLS = LIMIT + BRANCH_LIMIT + 128 + 1  # how far below the top a branch's logit can be: 0 to 303


@dataclass
class Byte:
    """What the readers of a block of streams did at one byte."""

    tokens_b: np.ndarray
    targets_b: np.ndarray
    """The bytes that followed."""
    inputs: dict[str, np.ndarray]
    """By matrix, what its product read: (streams, K)."""
    stages: dict[str, np.ndarray]
    """By stage, its result, as ``Model.seen`` receives it: (streams, N)."""


def hadamard(v: np.ndarray) -> np.ndarray:
    """The last axis, n long, times the Hadamard matrix of size n in natural order: sums of all its values, signed."""
    v, n, half = v.copy(), v.shape[-1], 1
    while half < n:
        pairs = v.reshape(*v.shape[:-1], n // (2 * half), 2, half)
        pairs[...] = np.stack([pairs.sum(-2), pairs[..., 0, :] - pairs[..., 1, :]], -2)
        half *= 2
    return v


def log2_4096(v: np.ndarray) -> np.ndarray:
    """4096 log2 v of positive integers v < 2**23, within 3: a parabola and its correction between powers of two."""
    p = bit_length(v) - 1
    y = ((v << 15) >> p) - (1 << 15)  # 0 to 2**15 - 1: v / 2**p - 1
    g = y * ((1 << 15) - y) >> 15
    q = 14507 - (8107 * y >> 15) + ((2733 * y >> 15) * y >> 15)
    return 4096 * p + ((y + (g * q >> 15)) >> 3)


class Branches:
    """The branches of the wire in one step: their directions, and what each does to the logits.

    head_vd : the head's own weights, without an adapter's
    """

    def __init__(self, head_vd: np.ndarray, draw: Draw):
        d = head_vd.shape[1]
        drawn = philox.words(draw.seed, philox.BRANCH_SIGNS, 0, draw.step, 33)
        order = philox.words(draw.seed, philox.BRANCH_ROWS, 0, draw.step, d)
        self.signs_d = philox.signs(drawn, 0, d).astype(np.int64)
        # H[k][r]: place r moves alike in all branches, and gets no credit from their differences.
        self.turns_k = hadamard(np.eye(d, dtype=np.int64)[int(drawn[32]) % d])
        self.rows_k = np.argsort(order, kind="stable")[: draw.branches]

        effects_vd = self.turns_k * hadamard(head_vd * self.signs_d)  # of every row, at delta = 1
        assert np.abs(effects_vd).max() <= LIMIT * d
        mean = int(np.abs(effects_vd).sum()) // effects_vd.size
        if mean >= BRANCH_MEAN:
            self.delta_shift = (mean // BRANCH_MEAN).bit_length()
        else:
            self.delta_shift = 1 - (BRANCH_MEAN // max(1, mean)).bit_length()
        moves_kv = round_shift(effects_vd.T[self.rows_k], self.delta_shift)
        self.moves_kv = np.clip(moves_kv, -MOVE_LIMIT, MOVE_LIMIT)

        # A byte's likelihood by how far below the top its logit is.
        falls = np.arange(FALLS)
        self.likelihoods = branch_table().astype(np.int64)[falls & 15] >> (falls >> 4)

    def scores(self, acc_bv: np.ndarray, targets_b: np.ndarray) -> np.ndarray:
        """Every branch's score of the target in 1/4096 bit, up to what a byte's branches share: (streams, branches).

        acc_bv : the sums of the head's product
        """
        d = len(self.signs_d)
        fine_bv = shift_right(acc_bv, product_shift(d) - BRANCH_BITS)
        fine_bv = np.clip(fine_bv, -(LIMIT << BRANCH_BITS), (1 << 15) - 1)
        top_b = fine_bv.max(1) >> BRANCH_BITS  # of the reader's logits

        l_bkv = fine_bv[:, None] + self.moves_kv
        np.clip(l_bkv, -(1 << 15), (1 << 15) - 1, out=l_bkv)
        l_bkv >>= BRANCH_BITS
        target_bk = np.take_along_axis(l_bkv, targets_b[:, None, None].astype(np.int64), 2)[..., 0]
        falls_bkv = np.subtract((top_b + BRANCH_LIMIT)[:, None, None], l_bkv, out=l_bkv)
        sums_bk = self.likelihoods[falls_bkv].sum(2)  # raises if a logit fell out of 0..303
        assert falls_bkv.min() >= 0 and sums_bk.min() >= 511 and sums_bk.max() < 1 << 23
        return (target_bk << BRANCH_BITS) - log2_4096(sums_bk)

    def credit(self, acc_bv: np.ndarray, targets_b: np.ndarray) -> np.ndarray:
        """What a push at each of the D places of the wire's end is worth: (streams, D), 16 bits."""
        s_bk = self.scores(acc_bv, targets_b)
        d, k = len(self.signs_d), s_bk.shape[1]
        fitness_bd = np.zeros((len(s_bk), d), np.int64)  # by row; 0 where none branched off
        fitness_bd[:, self.rows_k] = s_bk - round_div(s_bk.sum(1, keepdims=True), k)
        assert np.abs(fitness_bd).max() < 1 << 18

        fitness_bd *= self.turns_k

        log_d, log_k = d.bit_length() - 1, k.bit_length() - 1
        shift = product_shift(d) + log_d // 2 - 11 - self.delta_shift - (log_d - log_k)
        # H is symmetric: the sum over rows is the transform; below 2**28, times 2**11 at the most
        return np.clip(round_shift(self.signs_d * hadamard(fitness_bd), shift), -32767, 32767)


def free(a: np.ndarray) -> np.ndarray:
    """1 where a value is not at its limit: a push there arrives."""
    return (np.abs(a) < LIMIT).astype(np.int64)


def limit(a: np.ndarray) -> np.ndarray:
    """What travels along the wire has 21 bits."""
    return np.clip(a, -CREDIT_LIMIT, CREDIT_LIMIT)


def head_votes(logits_bv: np.ndarray, targets_b: np.ndarray, n_b: np.ndarray) -> np.ndarray:
    """What the 256 branches of the head say, logit v a sixteenth higher: (streams, 256) in -127..127.

    n_b : number of the byte read in the run, for the rounding
    """
    e_bv = exp2_table().astype(np.int64)[logits_bv + 128]
    # e < 2**20 and e / S <= 1: below 127 * 2**44
    shares_bv = ((e_bv << 12) * ((LIMIT << 32) // e_bv.sum(1, keepdims=True))) >> 32
    weyl_bv = (1597 * np.arange(e_bv.shape[1]) + 2531 * (n_b[:, None] & 4095)) & 4095
    votes_bv = -((shares_bv + weyl_bv) >> 12)
    votes_bv[np.arange(len(votes_bv)), targets_b] += LIMIT
    return free(logits_bv) * clip8(votes_bv)


class Ballot:
    """The votes Z of a step so far, by tensor, and the totals from which the next step's shifts follow.

    layout : of what is voted on: the model, or its adapter, of which nothing but the factors B gets votes
    """

    EMBEDDING, GAIN = 0, 1

    def __init__(self, layout: Layout, draw: Draw):
        self.flat = np.zeros(layout.parameters, np.int64)
        self.shifts = draw.shifts
        self.totals = np.zeros(len(draw.shifts), np.int64)
        self._votes = layout.views(self.flat)

    @staticmethod
    def layer_kinds(layer: int) -> tuple[int, int, int]:
        """Kinds of a layer's gate, candidate and down."""
        return 2 + 3 * layer, 3 + 3 * layer, 4 + 3 * layer

    def narrow(self, kind: int, credit_bd: np.ndarray) -> np.ndarray:
        """Credit as signed bytes, by the shift of its kind."""
        self.totals[kind] += np.abs(credit_bd).sum()
        return clip8(round_shift(credit_bd, int(self.shifts[kind])))

    def matrix(self, name: str, outputs_bn: np.ndarray, byte: Byte) -> None:
        """A matrix votes with its outputs' credit times what it read; an adapter's B with what it read."""
        if name in self._votes:
            self._votes[name] += outputs_bn.T @ byte.inputs[name]
        elif name + ".B" in self._votes:
            self._votes[name + ".B"] += outputs_bn.T @ byte.stages[name + ".A"]

    def vector(self, name: str, votes_bd: np.ndarray) -> None:
        """A gain or a bias."""
        if name in self._votes:
            self._votes[name] += votes_bd.sum(0)

    def rows(self, name: str, at_b: np.ndarray, votes_bd: np.ndarray) -> None:
        """The rows of the bytes read; one may be read by several streams."""
        if name in self._votes:
            np.add.at(self._votes[name], at_b, votes_bd)


def vote(
    chunk: list[Byte], num_layers: int, gains_d: np.ndarray, branches: Branches, ballot: Ballot, first_row: int
) -> None:
    """Members branch off wherever the readers have been, and what they credit votes.

    gains_d : the last norm's
    first_row : B step + i of the block's first stream
    """
    rows_b = first_row + np.arange(len(chunk[0].tokens_b))
    wires = [
        _credit_the_end(byte, f"layers.{num_layers - 1}.mlp", gains_d, branches, ballot, len(chunk) * rows_b + t)
        for t, byte in enumerate(chunk)
    ]
    _credit_along_the_wire(chunk, wires, num_layers, ballot)


def _credit_the_end(byte, last_stage, gains_d, branches, ballot, n_b) -> np.ndarray:
    """The head and the last norm vote: returns the credit of the wire before that norm, (streams, D)."""
    acc_bv = byte.stages["head.weight"]
    logits_bv = clip8(acc_bv >> product_shift(len(gains_d)))
    ballot.matrix("head.weight", head_votes(logits_bv, byte.targets_b, n_b), byte)

    credit_bd = branches.credit(acc_bv, byte.targets_b)
    x_bd = byte.stages[last_stage]
    mean_b1 = np.maximum(1, np.abs(x_bd).sum(1, keepdims=True) // x_bd.shape[1])
    rho_b1 = (1 << 14) // mean_b1
    gain_bd = (credit_bd * round_shift(x_bd * rho_b1, 6)) >> 8  # below 2**30 before the shift
    ballot.vector("ln_out.weight", ballot.narrow(ballot.GAIN, gain_bd))
    return limit(round_shift(credit_bd * round_shift(gains_d * rho_b1, 6), 8))


def _credit_along_the_wire(chunk, wires, num_layers, ballot) -> None:
    """Whoever wrote to the wire votes, from the last byte to the first and from the last layer to the first."""
    ahead = {}  # by layer: what the next byte's credit leaves to this byte's state
    for byte, wire_bd in zip(reversed(chunk), reversed(wires), strict=True):
        lives_on_b1 = (byte.tokens_b != 0)[:, None]
        for i in reversed(range(num_layers)):
            layer, (gate_kind, candidate_kind, down_kind) = f"layers.{i}.", ballot.layer_kinds(i)
            f, c = byte.stages[layer + "gate"], byte.stages[layer + "candidate"]
            h = byte.inputs[layer + "gru.u_f"]  # before the byte
            middle = byte.inputs[layer + "mlp.w_down"]
            acc = byte.stages[layer + "mlp.w_down"]

            wire_bd = wire_bd * free(byte.stages[layer + "mlp"])
            down_bd = wire_bd * free(clip8(acc >> product_shift(middle.shape[1])))
            wire_bd = wire_bd * free(byte.stages[layer + "gru"])
            e_bd = limit(wire_bd + ahead.get(i, 0))
            candidate_bd = e_bd * (f + LIMIT) * free(c)
            gate_bd = e_bd * (c - h) * free(f)
            assert max(np.abs(candidate_bd).max(), np.abs(gate_bd).max()) < 1 << 28
            ahead[i] = round_shift((129 - f) * e_bd, 8) * lives_on_b1

            ballot.matrix(layer + "mlp.w_down", ballot.narrow(down_kind, down_bd), byte)
            for z, kind, credit_bd in (("f", gate_kind, gate_bd), ("h", candidate_kind, candidate_bd)):
                narrow_bd = ballot.narrow(kind, credit_bd)
                ballot.matrix(f"{layer}gru.w_{z}", narrow_bd, byte)
                ballot.matrix(f"{layer}gru.u_{z}", narrow_bd, byte)
                ballot.vector(f"{layer}gru.b_{z}", narrow_bd)
        narrow_bd = ballot.narrow(ballot.EMBEDDING, wire_bd)
        ballot.rows("embedding.weight", byte.tokens_b, narrow_bd)
