"""The NumPy backend's branches: members that leave a reader at the wire's end, or where a matrix reads; their credit,
and who votes with it.

docs/arithmetic.md, "Recipe egg", "Stations" and "Votes". Arrays carry their axes in their names' suffixes: b streams,
k branches, n outputs, v bytes that may come next, d hidden. Sums are int64, wider than any of them needs; the bounds
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
    FITNESS_LIMIT,
    LIMIT,
    READ_BY,
    STATION_MEAN,
    bit_length,
    branch_table,
    clip8,
    exp2_table,
    move_shift,
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


def signs_and_turns(draw: Draw, n: int, wide: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """s, and H[k][r] of every row k: place r moves alike in all branches, and gets no credit from their differences.

    wide : whether n is four times the hidden size
    returns : (n,) int64 each
    """
    place = 128 if wide else 32
    drawn = philox.words(draw.seed, philox.BRANCH_SIGNS, int(wide), draw.step, place + 1)
    return philox.signs(drawn, 0, n).astype(np.int64), hadamard(np.eye(n, dtype=np.int64)[int(drawn[place]) % n])


class Branches:
    """The branches of the wire in one step: their directions, and what each does to the logits.

    head_vd : the head's own weights, without an adapter's
    """

    def __init__(self, head_vd: np.ndarray, draw: Draw):
        d = head_vd.shape[1]
        order = philox.words(draw.seed, philox.BRANCH_ROWS, 0, draw.step, d)
        self.signs_d, self.turns_k = signs_and_turns(draw, d)
        self.rows_k = np.argsort(order, kind="stable")[: draw.branches]

        effects_vd = self.turns_k * hadamard(head_vd * self.signs_d)  # of every row, at delta = 1
        assert np.abs(effects_vd).max() <= LIMIT * d
        mean = int(np.abs(effects_vd).sum()) // effects_vd.size
        self.delta_shift = move_shift(mean, BRANCH_MEAN)
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


def through_norm(x_bd: np.ndarray, gains_d: np.ndarray, credit_bd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What credit after a norm says of its gains, and what of it arrives before the norm: (streams, D) each.

    credit_bd : 16 bits
    """
    log_d = x_bd.shape[1].bit_length() - 1
    mean_b1 = np.maximum(1, np.abs(x_bd).sum(1, keepdims=True) >> log_d)
    rho_b1 = (1 << 14) // mean_b1
    gain_bd = credit_bd * round_shift(x_bd * rho_b1, 6)  # below 2**30
    arrives_bd = round_shift(credit_bd * round_shift(gains_d * rho_b1, 6), 8)
    # A push moves the mean too, by which all places are divided.
    moves_b1 = round_shift(round_shift(gain_bd, 8) * gains_d, 7).sum(1, keepdims=True)
    assert np.abs(moves_b1).max() < x_bd.shape[1] << 17
    arrives_bd -= np.sign(x_bd) * round_shift(moves_b1 * rho_b1, 7 + log_d)
    return gain_bd >> 8, arrives_bd


class Station:
    """The branches of one matrix (N, K) in one step: how each moves its outputs.

    signs_k, turns_k : s and H[k][r], (K,) int64
    """

    def __init__(self, weights_nk: np.ndarray, signs_k: np.ndarray, turns_k: np.ndarray):
        self.signs_k, self.turns_k = signs_k, turns_k
        effects_nk = turns_k * hadamard(weights_nk * signs_k)
        mean = int(np.abs(effects_nk).sum()) // effects_nk.size
        self.shift = move_shift(mean, STATION_MEAN)
        self.moves_kn = clip8(round_shift(effects_nk.T, self.shift))

    def fitness(self, outputs_bn: np.ndarray, votes_bn: np.ndarray) -> np.ndarray:
        """What each branch's outputs are worth: (streams, K).

        outputs_bn : the reader's, clipped
        votes_bn : their credit as signed bytes
        """
        moved_bkn = np.clip(outputs_bn[:, None] + self.moves_kn, -LIMIT - 1, LIMIT) - outputs_bn[:, None]
        fitness_bk = np.einsum("bkn,bn->bk", moved_bkn, votes_bn)
        assert np.abs(fitness_bk).max() < 1 << 28
        return np.clip(fitness_bk, -FITNESS_LIMIT, FITNESS_LIMIT)

    def credit(self, fitness_bk: np.ndarray, shift: int) -> np.ndarray:
        """What a push at each place of the vector is worth, (streams, K), 16 bits: |F| < 2**19 and 2**29 together."""
        sums_bk = self.signs_k * hadamard(fitness_bk * self.turns_k)
        credit_bk = np.clip(round_shift(sums_bk, max(-8, shift)), -32767, 32767)
        # The place where all branches move alike gets none: the row of H in ``turns`` is of one place alone.
        return credit_bk * (hadamard(self.turns_k) == 0)


class Stations:
    """The stations that are on, and their branches in one step: ``of`` has them by the name of the matrix."""

    def __init__(self, weights: dict[str, np.ndarray], num_layers: int, draw: Draw):
        self.of = {
            (layer, name): Station(matrix, *signs_and_turns(draw, matrix.shape[1], name == "mlp.w_down"))
            for layer in range(num_layers)
            for station in draw.stations
            for name in READ_BY[station]
            for matrix in [weights[f"layers.{layer}.{name}"]]
        }


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

    def __init__(self, layout: Layout, num_layers: int, draw: Draw):
        self.num_layers = num_layers
        self.flat = np.zeros(layout.parameters, np.int64)
        self.shifts = draw.shifts
        self.totals = np.zeros(len(draw.shifts), np.int64)
        self._votes = layout.views(self.flat)

    def layer_kinds(self, layer: int) -> dict[str, int]:
        """Numbers of a layer's kinds; the last three with stations alone."""
        first, more = 2 + 3 * layer, 2 + 3 * (self.num_layers + layer)
        names = "gate", "candidate", "down", "up", "ln2", "ln1"
        return dict(zip(names, (first, first + 1, first + 2, more, more + 1, more + 2), strict=True))

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
    chunk: list[Byte], weights: dict, branches: Branches, stations: Stations, ballot: Ballot, first_row: int
) -> None:
    """Members branch off wherever the readers have been, and what they credit votes.

    weights : the model's, by name
    first_row : B step + i of the block's first stream
    """
    rows_b = first_row + np.arange(len(chunk[0].tokens_b))
    wires = [
        _credit_the_end(byte, weights["ln_out.weight"], branches, ballot, len(chunk) * rows_b + t)
        for t, byte in enumerate(chunk)
    ]
    ahead = {}  # by layer: what the next byte's credit leaves to this byte's state
    for byte, wire_bd in zip(reversed(chunk), reversed(wires), strict=True):
        for layer in reversed(range(ballot.num_layers)):
            wire_bd, ahead[layer] = _credit_a_layer(
                byte, layer, wire_bd, ahead.get(layer, 0), weights, stations, ballot
            )
        ballot.rows("embedding.weight", byte.tokens_b, ballot.narrow(ballot.EMBEDDING, wire_bd))


def _credit_the_end(byte, gains_d, branches, ballot, n_b) -> np.ndarray:
    """The head and the last norm vote: returns the credit of the wire before that norm, (streams, D)."""
    acc_bv = byte.stages["head.weight"]
    logits_bv = clip8(acc_bv >> product_shift(len(gains_d)))
    ballot.matrix("head.weight", head_votes(logits_bv, byte.targets_b, n_b), byte)

    x_bd = byte.stages[f"layers.{ballot.num_layers - 1}.mlp"]
    credit_bd = branches.credit(acc_bv, byte.targets_b) * free(byte.stages["ln_out"])
    gain_bd, wire_bd = through_norm(x_bd, gains_d, credit_bd)
    ballot.vector("ln_out.weight", ballot.narrow(ballot.GAIN, gain_bd))
    return limit(wire_bd)


def _credit_a_layer(byte, number, wire_bd, ahead_bd, weights, stations, ballot) -> tuple[np.ndarray, np.ndarray]:
    """Whoever wrote to the wire in a layer votes, and whoever feeds a station that is on.

    wire_bd : credit after the layer
    ahead_bd : what the next byte leaves to the state after this one
    returns : credit before the layer, and what this byte leaves to the state before it
    """
    layer = f"layers.{number}."
    stages = {name.removeprefix(layer): stage for name, stage in byte.stages.items() if name.startswith(layer)}
    f, c, y = stages["gate"], stages["candidate"], stages["mlp.middle"]
    h = byte.inputs[layer + "gru.u_f"]  # before the byte
    x = byte.stages[f"layers.{number - 1}.mlp"] if number else byte.stages["embedding"]
    kinds, shifts = ballot.layer_kinds(number), ballot.shifts
    log_d = x.shape[1].bit_length() - 1
    scale_d = product_shift(x.shape[1]) + log_d
    on = {name: station for (of, name), station in stations.of.items() if of == number}
    # Of the four products of the gated unit, each limited by itself
    ends = {z: free(clip8(stages["gru." + z] >> product_shift(x.shape[1]))) for z in ("w_f", "u_f", "w_h", "u_h")}

    wire_bd = wire_bd * free(stages["mlp"])
    down = clip8(stages["mlp.w_down"] >> product_shift(y.shape[1]))
    down_bd = ballot.narrow(kinds["down"], wire_bd * free(down))
    ballot.matrix(layer + "mlp.w_down", down_bd, byte)
    if station := on.get("mlp.w_down"):
        scale = product_shift(y.shape[1]) + log_d + 2 - int(shifts[kinds["down"]])
        up_bn = station.credit(station.fitness(down, down_bd), scale - station.shift) * free(y)
        up_bn = ballot.narrow(kinds["up"], up_bn)
        ballot.matrix(layer + "mlp.w_up", up_bn, byte)
        if station := on.get("mlp.w_up"):
            scale = scale_d - int(shifts[kinds["up"]])
            credit_bd = station.credit(station.fitness(y, up_bn), scale - station.shift) * free(stages["ln2"])
            gain_bd, more_bd = through_norm(stages["gru"], weights[layer + "ln2.weight"], credit_bd)
            ballot.vector(layer + "ln2.weight", ballot.narrow(kinds["ln2"], gain_bd))
            wire_bd = limit(wire_bd + more_bd)

    wire_bd = wire_bd * free(stages["gru"])
    e_bd = limit(wire_bd + ahead_bd)
    candidate_bd = e_bd * (f + LIMIT) * free(c)
    candidate_votes_bd = ballot.narrow(kinds["candidate"], candidate_bd)
    gate_bd = e_bd * (c - h)
    ahead_bd = (129 - f) * e_bd
    if station := on.get("gru.u_h"):
        scale = scale_d + 8 - int(shifts[kinds["candidate"]])
        past_bd = station.credit(station.fitness(c, candidate_votes_bd * ends["u_h"]), scale - station.shift)
        gate_bd = gate_bd + past_bd * h
        ahead_bd = ahead_bd + (f + LIMIT) * past_bd
    gate_bd = gate_bd * free(f)
    gate_votes_bd = ballot.narrow(kinds["gate"], gate_bd)
    assert max(np.abs(v).max() for v in (candidate_bd, gate_bd, ahead_bd)) < 1 << 29
    ahead_bd = round_shift(ahead_bd, 8)
    if station := on.get("gru.u_f"):
        scale = scale_d + 8 - int(shifts[kinds["gate"]])
        ahead_bd = ahead_bd + station.credit(station.fitness(f, gate_votes_bd * ends["u_f"]), scale - station.shift)
    ahead_bd = limit(ahead_bd) * (byte.tokens_b != 0)[:, None]

    for z, votes_bd in (("f", gate_votes_bd), ("h", candidate_votes_bd)):
        for name in ("w_" + z, "u_" + z):
            ballot.matrix(f"{layer}gru.{name}", votes_bd * ends[name], byte)
        ballot.vector(f"{layer}gru.b_{z}", votes_bd)
    if "gru.w_f" in on:
        gate, candidate = on["gru.w_f"], on["gru.w_h"]
        gate_shift = int(shifts[kinds["gate"]]) + gate.shift
        candidate_shift = int(shifts[kinds["candidate"]]) + candidate.shift
        most = max(gate_shift, candidate_shift)
        fitness_bk = round_shift(gate.fitness(f, gate_votes_bd * ends["w_f"]), most - gate_shift)
        fitness_bk += round_shift(candidate.fitness(c, candidate_votes_bd * ends["w_h"]), most - candidate_shift)
        credit_bd = gate.credit(fitness_bk, scale_d + 8 - most) * free(stages["ln1"])
        gain_bd, more_bd = through_norm(x, weights[layer + "ln1.weight"], credit_bd)
        ballot.vector(layer + "ln1.weight", ballot.narrow(kinds["ln1"], gain_bd))
        wire_bd = limit(wire_bd + more_bd)
    return wire_bd, ahead_bd
