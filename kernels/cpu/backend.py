"""The Numba backend: cuts each call into blocks that fit the caches, and runs them on threads.

Threads only ever add integers into places of their own, so the results do not depend on their number.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np

from kernels.arithmetic import (
    VOCABULARY,
    VOTE_ROWS,
    adapter_lift,
    exp2_table,
    log2_thresholds,
    product_shift,
)
from kernels.backend import Noise, TracedVotes
from kernels.cpu import adapter_backend, forward, full_rank, pack, pair_votes, structures, votes
from kernels.cpu.adapters import RANKS
from kernels.cpu.groups import run_and_vote
from kernels.cpu.isa import InstructionSet
from kernels.cpu.reciprocal import reciprocals
from kernels.cpu.simd import aligned
from kernels.cpu.tiles import ROWS
from kernels.layout import AdapterShape, Layout, Shape
from kernels.philox import key_words

PAIR_ROWS = 512  # directions of recipe paper whose votes are summed at once: bounds memory
LARGE = 1 << 18  # weights: work on fewer is not worth a second thread
BLOCK_BYTES = (
    384 << 10
)  # of a block's activations, states and signs: they stay in a core's second-level cache


class Prepared(NamedTuple):
    """A model as the kernels read it, its shape, and the arrays that must live as long."""

    shape: Shape
    model: structures.Model  # or adapters.AdaptedModel
    arrays: tuple
    adapter: AdapterShape | None = None


class Places(NamedTuple):
    """Where the tensors of a shape lie, as the kernels look it up."""

    panels: np.ndarray  # (panels, 4) int64, see pack.py
    sums: int  # row sums of all matrices
    offsets: np.ndarray  # (tensors,) int64
    starts: np.ndarray  # (tensors,) int64
    a: np.ndarray  # (tensors,) int64
    b: np.ndarray  # (tensors,) int64


@cache
def _places(shape: Shape) -> Places:
    tensors = list(shape.tensors.values())
    panels, starts, sums = [], np.zeros(len(tensors), np.int64), 0
    for t in tensors[1:]:  # the embedding is read by rows
        if len(t.shape) == 1:
            continue
        starts[t.number] = sums
        outputs, inputs = t.shape
        width = min(64, outputs)
        panels += [
            (t.offset + n * inputs, width, inputs, sums + n) for n in range(0, outputs, width)
        ]
        sums += outputs
    return Places(
        np.array(panels, np.int64),
        sums,
        np.array([t.offset for t in tensors], np.int64),
        starts,
        np.array([t.a >> 3 for t in tensors], np.int64),
        np.array([t.b >> 3 for t in tensors], np.int64),
    )


@cache
def _bounds(layout: Layout) -> np.ndarray:
    """(tensors + 1,) int64: where each tensor begins, and the end."""
    return np.array([t.offset for t in layout.tensors.values()] + [layout.parameters], np.int64)


def available_cores() -> int:
    """The cores this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class NumbaBackend:
    """See ``kernels.backend`` for what each call takes and returns."""

    name = "numba"

    def __init__(self, instruction_set: InstructionSet, threads: int | None = None):
        self.threads = threads or available_cores()
        self.description = f"Numba, {instruction_set.description}, {self.threads} threads"
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        logarithms = (log2_thresholds(n).astype(np.int64) for n in (16, 256))
        self._table_arrays = (exp2_table()[-16:].copy(), *logarithms, *reciprocals())
        self.tables = structures.Tables(*map(_at, self._table_arrays))
        self._local = threading.local()  # each thread's blocks
        self._buffers: dict = {}  # large arrays, kept from step to step: fresh pages cost more than their use

    def run(self, function, tasks):
        """function(*task) for all tasks, on the threads; their results in order."""
        if self._pool is None or len(tasks) == 1:
            return [function(*task) for task in tasks]
        return list(self._pool.map(lambda task: function(*task), tasks))

    def buffer(self, name, shape, dtype) -> np.ndarray:
        """An array kept under a name until another shape is asked for; its contents are left over."""
        kept = self._buffers.get(name)
        if kept is None or kept.shape != shape:
            kept = self._buffers[name] = aligned(shape, dtype)
        return kept

    def prepare(self, shape, weights, adapter=None):
        places = _places(shape)
        weights = np.ascontiguousarray(weights)
        packed = aligned(shape.parameters, np.int8)
        packed[:] = weights
        starts = np.empty(places.sums, np.int32)

        def pack_some(first, last):
            pack.pack_panels(weights, places.panels, first, last, packed, starts)

        self.run(
            pack_some,
            self.spread(len(places.panels), LARGE * len(places.panels) // shape.parameters),
        )
        arrays = (packed, starts, places.offsets, places.starts, places.a, places.b)
        model = structures.Model(shape.hidden_size, shape.num_layers, *map(_at, arrays))
        if adapter is None:
            return Prepared(shape, model, arrays)
        model, more = adapter_backend.widen(model, shape, weights, adapter)
        return Prepared(shape, model, arrays + more, adapter.shape)

    def _noise(self, noise: Noise | None, *, tie_gates=False) -> structures.NoiseParameters:
        if noise is None:
            return structures.NoiseParameters(structures.CLEAN, 0, 0, 0, 0, 0, 0)
        mode = structures.ALONG_INPUT if noise.perturbation == "input" else structures.MOVED
        shift = 4 - noise.sigma_shift
        key = key_words(noise.seed)
        return structures.NoiseParameters(
            mode, int(tie_gates), *key, noise.step, shift, 1 << max(0, shift)
        )

    def clean_noise(self, noise: Noise) -> structures.NoiseParameters:
        """For members whose weights stand still: mode CLEAN, with the generator's key and step."""
        key = key_words(noise.seed)
        return structures.NoiseParameters(structures.CLEAN, 0, *key, noise.step, 0, 0)

    def block(
        self, shape, members, length, *, text=1, state=1, keep=0, moved=False, traced=False, adapter=None
    ):  # fmt: skip
        """A block of members, see ``structures.Block``; each thread keeps the buffers of the last few."""
        kept = self._local.__dict__.setdefault("blocks", {})
        key = shape, members, length, text, moved, traced, adapter
        if key not in kept:
            if len(kept) == 4:
                kept.clear()
            kept[key] = self._new_block(*key)
        block, _ = kept[key]
        return block._replace(state_share=state, keep=keep)

    def _new_block(self, shape, members, length, text, moved, traced, adapter=None):
        """A block and the arrays that must live as long; with an adapter its factors are what moves."""
        d, layers = shape.hidden_size, shape.num_layers
        padded, stride = -(-members // 4) * 4, max(64, d)
        noisy, seen = (padded if moved else 0), (members // text if traced else 0)
        words = -(-(adapter or shape).sign_words // 64) * 64
        matrices = len(adapter.matrices) if adapter else 0
        wide_row = _wide_row(shape) if adapter else 0
        arrays = (
            _filled((structures.BUFFERS, padded, stride), np.uint8),
            _filled((padded, 4 * stride), np.uint8),
            _filled((layers, padded, stride), np.uint8),
            np.empty((2, padded, VOCABULARY), np.int8),
            np.zeros((padded, 2), np.int32),
            np.zeros((noisy, words), np.uint32),
            np.zeros((noisy, 2 * layers), np.int8),
            np.zeros((length if moved else 0, (padded + 15) & -16), np.int8),
            np.empty(
                (length if moved else 0, structures.LAYER_PRODUCTS * layers + 1, padded), np.int32
            ),
            np.empty((seen, length, layers * structures.LAYER_OUTPUTS * d), np.int8),
            np.empty((seen, length, (structures.LAYER_INPUTS * layers + 1) * d), np.uint8),
            _filled((padded, wide_row), np.uint8),
            np.empty((length if moved else 0, matrices, 2, padded), np.int32),
            np.zeros((seen, length, matrices, RANKS), np.int8),
            _filled((seen, length, matrices, RANKS), np.uint8),
        )
        addresses = [_at(array) for array in arrays]
        addresses.insert(len(arrays) - 4, wide_row)
        block = structures.Block(members, padded, stride, length, text, 1, 0, 4 * words, *addresses)
        return block, arrays

    def members_per_block(self, shape, adapter=None, *, moved: bool = False) -> int:
        """As many members as the second-level cache holds, at least 16, at most 128."""
        stride = max(64, shape.hidden_size)
        each = (structures.BUFFERS + 4 + shape.num_layers) * stride + 2 * VOCABULARY
        if moved:
            each += 4 * shape.sign_words
        if adapter:
            each += 4 * adapter.sign_words + _wide_row(shape)
        return int(np.clip(BLOCK_BYTES // each // 16 * 16, 16, 128))

    def spread(self, items: int, most: int, least: int | None = None) -> list[tuple[int, int]]:
        """Cut 0..items into nearly equal stretches, a multiple of the threads if that leaves each ``least`` items.

        most : items a stretch should have at most; least : none: as many
        """
        most = max(1, most)
        blocks = -(-items // most)
        if items >= self.threads * min(most, least or most):
            blocks = -(-blocks // self.threads) * self.threads
        blocks = min(items, blocks)
        return [(items * i // blocks, items * (i + 1) // blocks) for i in range(blocks)]

    def forward(self, prepared, tokens, states):
        shape, model, _, adapter = prepared
        logits = np.empty((*tokens.shape, VOCABULARY), np.int8)
        states = np.ascontiguousarray(states)  # kernels go by addresses
        states_out = np.empty_like(states)
        if tokens.size == 0:
            return logits, states.copy()
        noise = self._noise(None)

        def run(first, last):
            block = self.block(shape, last - first, tokens.shape[1], adapter=adapter)
            forward.run_sequences(
                model, noise, self.tables, block, tokens, states, states_out, first, logits
            )

        self.run(run, self.spread(len(tokens), self.members_per_block(shape, adapter), ROWS))
        return logits, states_out

    def run_pairs(self, prepared, tokens, states, noise, *, first_pair=0):
        shape, model, *_ = prepared
        scores = np.zeros(len(states), np.int32)
        states = np.ascontiguousarray(states)  # kernels go by addresses
        states_out = np.empty_like(states)
        parameters = self._noise(noise)

        def run(first, last):
            block = self.block(shape, 2 * (last - first), tokens.shape[1] - 1, text=2, moved=True)
            forward.run_pair_block(
                model,
                parameters,
                self.tables,
                block,
                tokens,
                states,
                states_out,
                first,
                first_pair,
                scores,
            )

        self.run(
            run, self.spread(len(tokens), self.members_per_block(shape, moved=True) // 2, ROWS)
        )
        return scores, states_out

    def cast_traced_votes(
        self, prepared, tokens, states, noise, *, group_size, credit_scale, first_group=0
    ):
        shape, model, *_ = prepared
        length = tokens.shape[1] - 1
        parameters = self._noise(noise, tie_gates=True)
        pairs_a_group = (length + 1) // 2
        batch = max(
            1, VOTE_ROWS // 2 // pairs_a_group
        )  # groups whose rows one pass of the votes sums
        z = self.buffer("votes", (shape.parameters,), np.int64)
        views = shape.views(z)
        for name, view in views.items():
            if view.ndim == 1 or name == "embedding.weight":
                view[...] = 0
        states = np.ascontiguousarray(states)  # kernels go by addresses
        states_out = np.empty_like(states)
        scores = np.empty(len(tokens) * group_size, np.int32)
        deviation = 0
        for g in range(0, len(tokens), batch):
            part = slice(g, g + batch)
            deviation += self._cast_batch(
                shape, model, parameters, tokens[part], states[part], states_out[part],
                scores[g * group_size : (g + batch) * group_size], group_size, credit_scale,
                (first_group + g) * group_size, noise.step % group_size, z, add=g > 0,
            )  # fmt: skip
        return TracedVotes(z, states_out, scores, deviation)

    def cast_adapter_votes(self, prepared, tokens, states, noise, **settings):
        return adapter_backend.cast_adapter_votes(self, prepared, tokens, states, noise, **settings)

    def read_adapter_pairs(self, prepared, tokens, states, noise):
        return adapter_backend.read_adapter_pairs(self, prepared, tokens, states, noise)

    def _cast_batch(
        self, shape, model, noise, tokens, states, states_out, scores, group_size, credit_scale, first,
        keep, z, *, add,
    ):  # fmt: skip
        """Run a batch of groups, and add their votes to z."""
        d, layers = shape.hidden_size, shape.num_layers
        length, groups = tokens.shape[1] - 1, len(tokens)
        pairs = groups * ((length + 1) // 2)
        v_columns = layers * structures.LAYER_OUTPUTS * d + VOCABULARY
        x_columns = (structures.LAYER_INPUTS * layers + 1) * d
        v_rows = self.buffer("v", (pairs * v_columns,), np.int32)
        x_rows = self.buffer("x", (pairs * x_columns,), np.int32)
        embedding_rows = self.buffer("embedding", (groups, length, d), np.int32)
        per_block = max(1, self.members_per_block(shape, moved=True) // group_size)
        stretches = self.spread(groups, per_block, 1)
        gains = np.zeros((len(stretches), 2 * layers + 1, d), np.int64)

        def run(begin, end, gains):
            block = self.block(
                shape, (end - begin) * group_size, length,
                text=group_size, state=group_size, keep=keep, moved=True, traced=True,
            )  # fmt: skip
            return run_and_vote(
                model, noise, self.tables, block, tokens, states, states_out, begin,
                first + begin * group_size, group_size, credit_scale, pairs, v_rows, x_rows,
                embedding_rows, gains, scores,
            )  # fmt: skip

        tasks = [(*stretch, sums) for stretch, sums in zip(stretches, gains, strict=True)]
        deviation = sum(self.run(run, tasks))
        names = [f"layers.{i}.{ln}.weight" for i in range(layers) for ln in ("ln1", "ln2")]
        for name, sums in zip([*names, "ln_out.weight"], gains.sum(0), strict=True):
            z[shape.tensors[name].slice] += sums
        votes.sum_embedding(z, d, tokens, 0, groups, length, embedding_rows)
        self._sum_matrices(shape, z, v_rows, x_rows, pairs, add)
        return deviation

    def _sum_matrices(self, shape, z, v_rows, x_rows, pairs, add):
        """The votes' GEMM: each task owns a panel of one matrix's outputs."""
        d = shape.hidden_size
        tasks, biases = [], []
        v_column = x_column = 0

        def matrix(name, v_at, x_at):
            t = shape.tensors[name]
            panels = -(-t.shape[0] // 64)
            tasks.extend((t.offset, *t.shape, v_at, x_at, panel) for panel in range(panels))

        for i in range(shape.num_layers):
            layer = f"layers.{i}."
            for gate, other in (("f", 1), ("h", 2)):  # u_f reads h, u_h reads past
                matrix(f"{layer}gru.w_{gate}", v_column, x_column)
                matrix(f"{layer}gru.u_{gate}", v_column, x_column + other * d)
                biases.append((shape.tensors[f"{layer}gru.b_{gate}"].offset, v_column))
                v_column += d
            matrix(layer + "mlp.w_up", v_column, x_column + structures.X_LN2 * d)
            matrix(layer + "mlp.w_down", v_column + 4 * d, x_column + structures.X_MID * d)
            v_column += 5 * d
            x_column += structures.LAYER_INPUTS * d
        matrix("head.weight", v_column, x_column)

        self.sum_votes(z, tasks, v_rows, x_rows, pairs, add)
        constant = 1 << product_shift(d)
        for at, v_at in biases:
            votes.sum_bias(z, at, d, constant, v_rows, v_at, 0, pairs, pairs, add)

    def sum_votes(self, z, tasks, v_rows, x_rows, pairs, add):
        """Sum the votes on matrices, one panel of 64 outputs a task: at, outputs, inputs, v_at, x_at, panel."""
        slices = [(p, min(pairs, p + VOTE_ROWS // 2)) for p in range(0, pairs, VOTE_ROWS // 2)]

        def run(begin, end):
            for at, outputs, inputs, v_at, x_at, panel in tasks[begin:end]:
                for p, q in slices:
                    votes.sum_matrix(
                        z, at, outputs, inputs, v_rows, v_at, x_rows, x_at, p, q, pairs, panel,
                        int(add or p > 0),
                    )  # fmt: skip

        self.run(run, self.spread(len(tasks), len(tasks) // (4 * self.threads), 1))

    def add_full_rank(self, weights, noise, direction, amount):
        key = key_words(noise.seed)

        def add(first, last):
            words = np.empty(64, np.uint32)
            full_rank.add_signs(weights, direction, noise.step, *key, amount, first, last, words)

        self.run(add, self.spread(-(-weights.size // full_rank.CHUNK), LARGE // full_rank.CHUNK))

    def cast_full_rank_votes(self, parameters, fitness, noise):
        key, fitness = key_words(noise.seed), np.asarray(fitness, np.int64)
        votes_p = np.empty(parameters, np.int64)

        def cast(first, last):
            words, sums = np.empty(64, np.uint32), np.empty(full_rank.CHUNK, np.int32)
            full_rank.sum_signs(fitness, noise.step, *key, first, last, words, sums, votes_p)

        chunks = -(-parameters // full_rank.CHUNK)
        self.run(cast, self.spread(chunks, -(-chunks // self.threads), 1))
        return votes_p

    def cast_pair_votes(self, shape, fitness, noise, *, first_pair=0):
        z = self.buffer("votes", (shape.parameters,), np.int64)
        z[...] = 0
        voters = np.flatnonzero(fitness)
        for at in range(0, len(voters), PAIR_ROWS):
            self._cast_pair_batch(shape, z, voters[at : at + PAIR_ROWS], fitness, noise, first_pair)
        return z

    def _cast_pair_batch(self, shape, z, voters, fitness, noise, first_pair):
        """Add the votes of some directions: each task draws nothing, packs one tensor's signs and sums them."""
        rows = len(voters) + len(voters) % 2  # a last odd one is paired with a factor of 0
        factors, ones = np.zeros((2, rows), np.int64)
        factors[: len(voters)], ones[: len(voters)] = fitness[voters], 1
        words = self.buffer("words", (rows, -(-shape.sign_words // 64) * 64), np.uint32)
        key = key_words(noise.seed)
        directions = first_pair + voters

        def draw(first, last):
            pair_votes.draw_directions(directions[first:last], noise.step, *key, words[first:last])

        def cast(tensor):
            outputs, pairs = tensor.shape[0], rows // 2
            v_rows = np.empty(pairs * outputs, np.int32)
            pair_votes.pack_signs(words, tensor.a >> 3, factors, outputs, v_rows, 0)
            if len(tensor.shape) == 1:
                votes.sum_bias(z, tensor.offset, outputs, 1, v_rows, 0, 0, pairs, pairs, 1)
                return
            inputs = tensor.shape[1]
            x_rows = np.empty(pairs * inputs, np.int32)
            pair_votes.pack_signs(words, tensor.b >> 3, ones, inputs, x_rows, 0)
            for panel in range(-(-outputs // 64)):
                votes.sum_matrix(
                    z,
                    tensor.offset,
                    outputs,
                    inputs,
                    v_rows,
                    0,
                    x_rows,
                    0,
                    0,
                    pairs,
                    pairs,
                    panel,
                    1,
                )

        self.run(draw, self.spread(len(voters), 64))
        self.run(cast, [(tensor,) for tensor in shape.tensors.values()])

    def update_master(self, shape, master, votes_p, multipliers):
        weights = np.empty(shape.parameters, np.int8)
        offsets, multipliers = _bounds(shape), np.asarray(multipliers, np.int64)

        def move(first, last):
            votes.move_master(master, votes_p, offsets, multipliers, weights, first, last)

        self.run(move, self.spread(shape.parameters, LARGE))
        return weights

    def update_signs(self, weights, votes_p, threshold):
        out = np.empty_like(weights)

        def move(first, last):
            votes.move_signs(weights, votes_p, int(threshold), out, first, last)

        self.run(move, self.spread(len(weights), LARGE))
        return out


def _wide_row(shape: Shape) -> int:
    """Bytes of a product's input with a z of the highest rank appended, for the widest product."""
    inputs = 4 * shape.hidden_size
    return inputs + (RANKS << adapter_lift(inputs)) + 64


def _filled(shape, dtype):
    """Offset bytes that mean zero."""
    out = aligned(shape, dtype)
    out[...] = structures.OFFSET
    return out


def _at(array: np.ndarray) -> int:
    """The array's address."""
    return array.ctypes.data
