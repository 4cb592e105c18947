"""The Numba backend: cuts each call into blocks that fit the caches, and runs them on threads.

Threads only ever add integers into places of their own, so the results do not depend on their number.
"""

import os
import threading
import weakref
from functools import cache
from typing import NamedTuple

import numpy as np

from egg.kernels.arithmetic import (
    READ_BY,
    VOCABULARY,
    VOTE_ROWS,
    adapter_lift,
    exp2_table,
    log2_thresholds,
    normal_table,
    surprise_table,
)
from egg.kernels.backend import Likelihoods, Noise, Votes
from egg.kernels.cpu import (
    adapted,
    forward,
    full_rank,
    gaussian_votes,
    layers,
    likelihood,
    pair_votes,
    stations,
    structures,
    tasks,
    writing,
)
from egg.kernels.cpu import votes as vote_kernels
from egg.kernels.cpu.adapters import KEEPS, MOVES, RANKS, widen
from egg.kernels.cpu.isa import InstructionSet
from egg.kernels.cpu.noise import factor_buffers, place_factors, summed_noise
from egg.kernels.cpu.reciprocal import reciprocals
from egg.kernels.cpu.simd import aligned, pointer_to
from egg.kernels.cpu.team import Team, task_address
from egg.kernels.cpu.tiles import ROWS
from egg.kernels.layout import AdapterShape, Shape
from egg.kernels.philox import ADAPTER_SIGNS, DIRECTION_SIGNS, GAUSSIAN_NOISE, key_words

PAIR_ROWS = 512  # directions of recipe paper whose votes are summed at once: bounds memory
LARGE = 1 << 18  # weights: work on fewer is not worth a second thread
# Of a block's activations, states and signs: they stay in a core's second-level cache
BLOCK_BYTES = 384 << 10
STRETCH = 16  # bytes: so many of a few sequences are read layer by layer
SCORED = 8  # bytes that a block reads before they are scored: their logits stay in that cache as well


class Prepared(NamedTuple):
    """A model as the kernels read it, its shape, and the arrays that must live as long."""

    shape: Shape
    weights: np.ndarray  # (parameters,) int8
    model: structures.Model  # or adapters.AdaptedModel
    arrays: tuple
    adapter: AdapterShape | None = None


class Places(NamedTuple):
    """Where the tensors of a shape lie, as the kernels look it up."""

    panels: np.ndarray  # (panels, 4) int64, see pack.py
    sums: int  # row sums of all matrices
    arrays: tuple  # (tensors,) int64 each: offset, start, a, b of ``structures.Model``
    panels_at: int
    addresses: tuple[int, ...]


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
        first = range(0, outputs, width)
        panels += [(t.offset + n * inputs, width, inputs, sums + n) for n in first]
        sums += outputs
    panels = np.array(panels, np.int64)
    columns = zip(*((t.offset, int(starts[t.number]), t.a >> 3, t.b >> 3) for t in tensors), strict=True)
    arrays = tuple(np.array(column, np.int64) for column in columns)
    return Places(panels, sums, arrays, pointer_to(panels), tuple(map(pointer_to, arrays)))


def _columns(shape: Shape) -> tuple[int, int]:
    """Columns of all outputs that vote and of all inputs, the head's last; those of stations follow."""
    d, layers = shape.hidden_size, shape.num_layers
    outputs = structures.LAYER_OUTPUTS * layers * d + VOCABULARY
    return outputs, (structures.LAYER_INPUTS * layers + 1) * d


# kind of matrix -> its output and its input among a layer's; w_up has a vote with a station alone
_PLACES = {
    "w_f": (structures.V_W_F, structures.X_U),
    "u_f": (structures.V_U_F, structures.X_H),
    "w_h": (structures.V_W_H, structures.X_U),
    "u_h": (structures.V_U_H, structures.X_PAST),
    "w_down": (structures.V_W_DOWN, structures.X_MID),
}


def _voters(shape: Shape, with_up: bool = False) -> dict[str, tuple[int, int]]:
    """Matrices that are voted on -> columns before their outputs and before their inputs."""
    d, found = shape.hidden_size, {}
    for name in shape.matrices:
        if name == "head.weight":
            outputs, inputs = _columns(shape)
            found[name] = outputs - VOCABULARY, inputs - d
            continue
        layer, kind = int(name.split(".")[1]), name.split(".")[-1]
        if kind == "w_up" and with_up:
            outputs, inputs = _columns(shape)
            found[name] = outputs + 4 * d * layer, inputs + d * layer
        if kind in _PLACES:
            output, column = _PLACES[kind]
            before = structures.LAYER_OUTPUTS * layer, structures.LAYER_INPUTS * layer
            found[name] = (before[0] + output) * d, (before[1] + column) * d
    return found


def _panels(tensor, v: int, x: int, source: int, bias: int, inputs: int | None = None, z=None):
    """Rows of a plan, see votes.py: one for each 64 of a tensor's outputs."""
    outputs = tensor.shape[0]
    if inputs is None:
        inputs = tensor.shape[1] if len(tensor.shape) == 2 else 0
    z = tensor.offset if z is None else z
    width = min(64, outputs)
    return [
        (z + n * inputs, width, inputs, v + n, x, source, -1 if bias < 0 else bias + n)
        for n in range(0, outputs, width)
    ]


def _plan(shape: Shape, with_up: bool) -> tuple[np.ndarray, int]:
    """Products of votes: what ``votes.sum_panels`` takes, and how many numbers they make."""
    rows = []
    for name, (v, x) in _voters(shape, with_up).items():
        rows += _panels(shape.tensors[name], v, x, 0, -1)
    return np.array(rows, np.int64), shape.parameters


def _adapter_plan(layout: AdapterShape) -> tuple[np.ndarray, int]:
    """The same of an adapter's factors B, with ranks filled up to 16."""
    voters, rows, at = _voters(layout.base), [], 0
    for m, name in enumerate(layout.matrices):
        if name in voters:
            tensor = layout.tensors[name + ".B"]
            rows += _panels(tensor, voters[name][0], RANKS * m, 1, -1, RANKS, at)
            at += tensor.shape[0] * RANKS
    return np.array(rows, np.int64).reshape(-1, 7), at


def _vector_places(shape: Shape) -> list[slice]:
    """Places of gains and biases in the flat vector, in the order of their votes."""
    of_a_layer = "ln1.weight", "ln2.weight", "gru.b_f", "gru.b_h"
    names = ["ln_out.weight", *(f"layers.{layer}.{name}" for layer in range(shape.num_layers) for name in of_a_layer)]
    return [shape.tensors[name].slice for name in names]


def _without_filling(layout: AdapterShape, filled: np.ndarray) -> np.ndarray:
    """(parameters,) int32 of the sums with ranks filled up to 16; factors A have none."""
    votes, voters, at = np.zeros(layout.parameters, np.int32), _voters(layout.base), 0
    for name, z in layout.views(votes).items():
        matrix, factor = name.rsplit(".", 1)
        if factor == "B" and matrix in voters:
            size = len(z) * RANKS
            z[...] = filled[at : at + size].reshape(-1, RANKS)[:, : layout.rank]
            at += size
    return votes


@cache
def _factor_places(layout: Shape | AdapterShape, rank: int, gaussian: bool) -> tuple[np.ndarray, int, int]:
    """See ``place_factors``; the array lives as long as the process."""
    return place_factors(layout, rank, gaussian)


def _is_bits(noise: Noise) -> bool:
    return noise.rank == 1 and not noise.gaussian


def _direction_bytes(layout: Shape | AdapterShape, noise: Noise) -> int:
    """Of a member's directions, which as bytes its pair shares."""
    if _is_bits(noise):
        return 4 * layout.sign_words
    return _factor_places(layout, noise.rank, noise.gaussian)[1] // 2


def _gaussian_words(layout: Shape | AdapterShape) -> int:
    """Words of one direction's Gaussian factors."""
    return (layout.gaussian_halfwords + 1) // 2


def available_cores() -> int:
    """The cores this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_backends = weakref.WeakSet()


def _start_threads_again() -> None:
    for backend in _backends:
        backend.start_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_threads_again)


class NumbaBackend:
    """See ``egg.kernels.backend`` for what each call takes and returns."""

    name = "numba"

    def __init__(self, instruction_set: InstructionSet, threads: int | None = None):
        self.threads = threads or available_cores()
        self.description = f"Numba, {instruction_set.description}, {self.threads} threads"
        logarithms = (log2_thresholds(n).astype(np.int64) for n in (16, 256))
        self._table_arrays = (exp2_table()[-16:].copy(), *logarithms, *reciprocals())
        self.tables = structures.Tables(*map(pointer_to, self._table_arrays))
        self._local = threading.local()  # each thread's blocks
        # Of the last sizes of ``cast_votes`` and ``forward``: fresh pages cost more than their use
        self._steps: dict = {}
        self._readings: dict = {}
        self._buffers: dict = {}
        self.start_threads()
        _backends.add(self)

    def start_threads(self) -> None:
        """Make what the threads need to share work; again in a forked process, which has none of them."""
        self._team = Team(self.threads)

    def buffer(self, name, shape, dtype) -> np.ndarray:
        """An array kept under a name until another shape is asked for; its contents are left over."""
        kept = self._buffers.get(name)
        if kept is None or kept.shape != shape:
            kept = self._buffers[name] = aligned(shape, dtype)
        return kept

    def prepare(self, shape, weights, adapter=None):
        places = _places(shape)
        weights = np.ascontiguousarray(weights, np.int8)
        packed = aligned((shape.parameters,), np.int8)
        packed[:] = weights
        starts = np.empty(places.sums, np.int32)
        call = structures.Packing(pointer_to(weights), places.panels_at, pointer_to(packed), pointer_to(starts))
        with self._team.lock:
            self._team.share(_words(call), (tasks.pack_panel, len(places.panels)))
        arrays = (packed, starts)
        model = structures.Model(shape.hidden_size, shape.num_layers, *map(pointer_to, arrays), *places.addresses)
        if adapter is None:
            return Prepared(shape, weights, model, arrays)
        model, more = widen(model, shape, weights, adapter)
        return Prepared(shape, weights, model, arrays + more, adapter.shape)

    def block(self, shape, members, length, *, text=1, moved=False, adapter=None):
        """A block of members, see ``structures.Block``; each thread keeps the buffers of the last few.

        text : members that read one row of text
        moved : whether they have directions of their own
        """
        kept = self._local.__dict__.setdefault("blocks", {})
        key = shape, members, length, text, moved, adapter
        if key in kept:
            kept[key] = kept.pop(key)  # the latest: whoever has two blocks keeps both
        else:
            if len(kept) == 4:
                kept.pop(next(iter(kept)))
            kept[key] = self.new_block(*key)
        return kept[key][0]

    def new_block(self, shape, members, length, text, moved, adapter, credited=False, with_stations=False):
        """A block and the arrays that must live as long.

        credited : whether its members leave behind what votes need
        with_stations : and what stations need
        """
        d, layers = shape.hidden_size, shape.num_layers
        padded, stride = -(-members // 4) * 4, max(64, d)
        seen, bytes_ = (padded, length) if credited else (0, 0)
        words = -(-(adapter or shape).sign_words // 64) * 64
        wide_row = _wide_row(shape) if adapter else 0
        scratch = 4 * (VOCABULARY + 2 * d + 64 * layers) + 128 * shape.vote_kinds(with_stations)
        planes = structures.SAVED_FOR_STATIONS if with_stations else structures.SAVED
        arrays = (
            _filled((structures.BUFFERS, padded, stride), np.uint8),
            _filled((padded, 4 * stride), np.uint8),
            _filled((layers, padded, stride), np.uint8),
            np.empty((padded, VOCABULARY), np.int8),
            np.zeros((padded, 2), np.int32),
            np.zeros((padded if moved else 0, words), np.uint32),
            _filled((padded, wide_row), np.uint8),
            aligned(((seen + 1) * VOCABULARY,), np.int16),
            aligned((bytes_, layers, planes, seen, stride), np.int8),
            aligned((bytes_, seen, stride), np.int32),
            aligned((scratch,), np.uint8),
            aligned((stations.work_bytes(layers, padded, stride) if with_stations else 0,), np.uint8),
        )
        addresses = [pointer_to(array) for array in arrays]
        addresses.insert(8, planes)
        addresses.insert(6, wide_row)
        block = structures.Block(members, padded, 0, stride, length, text, 4 * words, *addresses, *[0] * 4)
        return block, arrays

    def _noise(self, layout, plain, noise, stream, block):
        """A block's noise: signs of rank 1 are bits in the block, else each thread keeps factors as bytes."""
        if _is_bits(noise):
            return plain
        places = _factor_places(layout, noise.rank, noise.gaussian)
        words = layout.sign_words
        if noise.gaussian:
            words, stream = _gaussian_words(layout), GAUSSIAN_NOISE
        kept = self._local.__dict__.setdefault("factors", {})
        key = layout, noise.rank, noise.gaussian, block.padded
        if key not in kept:
            if len(kept) == 4:
                kept.clear()
            kept[key] = factor_buffers(places, block.padded, words)
        return summed_noise(plain, noise, places, stream, normal_table(), kept[key])

    def members_per_block(self, shape, adapter=None, *, moved: int = 0) -> int:
        """As many members as the second-level cache holds, at least 16, at most 128.

        moved : bytes of a member's directions
        """
        stride = max(64, shape.hidden_size)
        each = (structures.BUFFERS + 4 + shape.num_layers) * stride + 2 * VOCABULARY
        each += moved
        if adapter:
            each += _wide_row(shape)
        return min(128, max(16, BLOCK_BYTES // each // 16 * 16))

    def parts(self, items: int, most: int, least: int | None = None) -> int:
        """Nearly equal parts to cut 0..items into, a multiple of the threads if that leaves each ``least`` items.

        most : items a part should have at most; least : none: as many
        """
        most = max(1, most)
        parts = -(-items // most)
        if items >= self.threads * min(most, least or most):
            parts = -(-parts // self.threads) * self.threads
        return min(items, parts)

    def spread(self, items: int, most: int, least: int | None = None) -> list[tuple[int, int]]:
        """The beginnings and ends of these parts."""
        parts = self.parts(items, most, least)
        return [(items * i // parts, items * (i + 1) // parts) for i in range(parts)]

    def forward(self, model, tokens, states):
        shape, layout, (sequences, length) = model.shape, model.adapter, tokens.shape
        if sequences < max(1, self._few(length) * self.threads):
            return self._read(model, structures.UNMOVED, tokens, states)
        tokens, states = np.ascontiguousarray(tokens, np.uint8), np.ascontiguousarray(states, np.int8)
        states_out, logits = np.empty_like(states), np.empty((sequences, length, VOCABULARY), np.int8)
        model_words = _words(model.model)
        with self._team.lock:
            call = self._reading(shape, layout, sequences, length)._replace(
                model=pointer_to(model_words),
                text=pointer_to(tokens),
                states=pointer_to(states),
                states_out=pointer_to(states_out),
                logits=pointer_to(logits),
            )
            task = tasks.read_part if layout is None else adapted.read_part_adapted
            self._team.share(_words(call), (task, call.parts))
        return logits, states_out

    def _reading(self, *key) -> structures.Reading:
        """What ``forward`` shares with its tasks, as far as sizes determine it; that of the last few sizes is kept."""
        if key in self._readings:
            self._readings[key] = self._readings.pop(key)
        else:
            if len(self._readings) == 4:
                self._readings.pop(next(iter(self._readings)))
            shape, layout, sequences, length = key
            fours = -(-sequences // ROWS)
            parts = self.parts(fours, self.members_per_block(shape, layout) // ROWS, 1)
            slots, members = min(parts, self.threads), ROWS * -(-fours // parts)
            made = [self.new_block(shape, members, length, 1, False, layout) for _ in range(slots)]
            arrays = _words(structures.UNMOVED), _words(self.tables), np.array([block for block, _ in made], np.int64)
            call = structures.Reading(0, *map(pointer_to, arrays), slots, sequences, length, parts, 0, 0, 0, 0)
            self._readings[key] = call, arrays, made
        return self._readings[key][0]

    def score(self, model, tokens, states):
        shape, packed, adapter = model.shape, model.model, model.adapter
        tokens, states = np.ascontiguousarray(tokens), np.ascontiguousarray(states)
        sequences, length = tokens.shape[0], tokens.shape[1] - 1
        totals, below, scores = (np.empty((sequences, length), t) for t in (np.uint64, np.uint8, np.int32))
        states_out = states.copy()
        most, shares = self.members_per_block(shape, adapter), surprise_table()

        few = self._few(length)

        def run(first, last):
            room, some = self._scratch((most * SCORED, VOCABULARY), np.int8), states_out[first:last]
            span = most // (last - first) if last - first < few else SCORED
            for begin in range(0, length, span):
                text = np.ascontiguousarray(tokens[first:last, begin : min(begin + span, length)])
                logits = room[: text.size].reshape(*text.shape, VOCABULARY)
                if last - first < few:
                    self._read_few(model, text, 0, some, logits)
                else:
                    block = self.block(shape, *text.shape, adapter=adapter)
                    forward.run_sequences(packed, structures.UNMOVED, self.tables, block, text, some, some, 0, logits)
                likelihood.measure(logits, tokens, begin, first, shares, self.tables, totals, below, scores)

        if totals.size:
            self._team.run(run, self.spread(sequences, most, 1 if few else ROWS))
        return Likelihoods(totals, below, scores, states_out)

    def _few(self, length: int) -> int:
        """With fewer sequences than this in a block, each of so many bytes, a stretch is read layer by layer."""
        return ROWS if length >= STRETCH else 0

    def _read_few(self, prepared, tokens, first, states, logits):
        """A few sequences, from ``first`` on, in stretches; ``states`` are theirs alone, and move on."""
        members, length = len(states), tokens.shape[1]
        span = self.members_per_block(prepared.shape, prepared.adapter) // members
        for begin in range(0, length, span):
            some = min(span, length - begin)
            wide = self.block(prepared.shape, members * some, 0, adapter=prepared.adapter)  # no block of another use
            block = self.block(prepared.shape, members, some, adapter=prepared.adapter)
            layers.read_layers(
                prepared.model, structures.UNMOVED, self.tables, wide, block, tokens, first, begin, states, logits
            )

    def write(self, model, logits, states, numbers, positions, choice):
        shape, packed, adapter = model.shape, model.model, model.adapter
        logits, states = (np.array(a, np.int8, order="C") for a in (logits, states))  # they move on in place
        numbers = np.array(numbers, np.int64)
        drawn = np.empty((len(numbers), len(positions)), np.uint8)
        weights = (np.empty(0) if choice.weights is None else choice.weights).astype(np.int64)
        most, filled = self.members_per_block(shape, adapter), -(-len(positions) // 16) * 16
        key_0, key_1 = key_words(choice.seed)
        drawing = structures.UNMOVED._replace(key_0=key_0, key_1=key_1, step=positions.start)

        def run(first, last):
            block = self.block(shape, last - first, len(positions), adapter=adapter)
            by = numbers, weights, choice.top_k % VOCABULARY, choice.top_p
            room = self._scratch((16 * most * filled,), np.uint8), self._scratch((255,), np.int64)
            moving = first, logits, states, drawn
            writing.write_sequences(packed, drawing, self.tables, block, *by, *room, *moving)

        if drawn.size:
            self._team.run(run, self.spread(len(numbers), most, ROWS))
        return drawn, logits, states

    def _read(self, prepared, plain, tokens, states, noise=None):
        """Logits and states of sequences; with a noise, of pairs of members, which stay together in a block."""
        shape, model, adapter = prepared.shape, prepared.model, prepared.adapter
        logits = np.empty((*tokens.shape, VOCABULARY), np.int8)
        states = np.ascontiguousarray(states)  # kernels go by addresses
        states_out = np.empty_like(states)
        if tokens.size == 0:
            return logits, states.copy()
        unit, moved = (1, 0) if noise is None else (2, _direction_bytes(adapter, noise))

        few = self._few(tokens.shape[1]) if unit == 1 else 0

        def run(first, last):
            if last - first < few:
                states_out[first:last] = states[first:last]
                self._read_few(prepared, tokens, first, states_out[first:last], logits)
                return
            bits = noise is not None and _is_bits(noise)
            block = self.block(shape, unit * (last - first), tokens.shape[1], moved=bits, adapter=adapter)
            own = plain if noise is None else self._noise(adapter, plain, noise, ADAPTER_SIGNS, block)
            forward.run_sequences(model, own, self.tables, block, tokens, states, states_out, unit * first, logits)

        most = self.members_per_block(shape, adapter, moved=moved) // unit
        self._team.run(run, self.spread(len(tokens) // unit, most, 1 if few else ROWS // unit))
        return logits, states_out

    def run_pairs(self, model, tokens, states, noise, *, first_pair=0):
        shape, packed = model.shape, model.model
        scores = np.zeros(len(states), np.int32)
        states = np.ascontiguousarray(states)  # kernels go by addresses
        states_out = np.empty_like(states)
        shift = 4 - noise.sigma_shift
        parameters = structures.NoiseParameters(
            structures.MOVED, *key_words(noise.seed), noise.step, shift, 1 << max(0, shift), noise.directions
        )

        def run(first, last):
            block = self.block(shape, 2 * (last - first), tokens.shape[1] - 1, text=2, moved=_is_bits(noise))
            own = self._noise(shape, parameters, noise, DIRECTION_SIGNS, block)
            forward.run_pair_block(
                packed, own, self.tables, block, tokens, states, states_out, first, first_pair, scores
            )

        most = self.members_per_block(shape, moved=_direction_bytes(shape, noise)) // 2
        self._team.run(run, self.spread(len(tokens), most, ROWS))
        return scores, states_out

    def cast_votes(self, model, tokens, states, draw, *, first_row=0):
        shape, layout = model.shape, model.adapter
        # Kernels go by addresses
        tokens, states = np.ascontiguousarray(tokens, np.uint8), np.ascontiguousarray(states, np.int8)
        states_out, weights = np.empty_like(states), model.weights
        packed = _words(model.model if layout is None else model.model._replace(members=KEEPS))
        key = shape, layout, len(tokens), tokens.shape[1] - 1, draw.branches, draw.stations
        with self._team.lock:
            if key not in self._steps:
                if len(self._steps) == 2:
                    self._steps.pop(next(iter(self._steps)))  # its memory comes first
                self._steps[key] = Casting(self, *key)
            step = self._steps[key] = self._steps.pop(key)
            step.shifts[:] = draw.shifts
            call = step.call._replace(
                model=pointer_to(packed),
                text=pointer_to(tokens),
                states=pointer_to(states),
                states_out=pointer_to(states_out),
                first_row=first_row,
                key_0=key_words(draw.seed)[0],
                key_1=key_words(draw.seed)[1],
                step=draw.step,
                weights=pointer_to(weights),
                head=pointer_to(weights) + shape.tensors["head.weight"].offset,
            )
            self._team.share(_words(call), *step.phases)
            votes = step.votes if layout is None else _without_filling(layout, step.votes)
            return Votes(votes, states_out, step.totals.sum(0), int(step.scores.sum()))

    def phases(self, layout, on, parts, panels, d, matrices):
        """The tasks of ``cast_votes`` and how many there are; and the task of votes that follows each that reads.

        on : names of stations, which read so many matrices
        parts : of the readers
        panels : of the votes' products
        """
        head_parts = VOCABULARY // tasks.HEAD_ROWS
        phases = [(tasks.draw_branches, 2 if on else 1), (tasks.transform_head, head_parts)]
        phases += [(tasks.prepare_head, head_parts)]
        if on:
            phases += [(stations.prepare_station, matrices)]
        if layout is None:
            phases += [(tasks.read_and_vote, parts), (tasks.sum_part, panels + d // 16 + 1)]
        else:
            phases += [(adapted.read_and_vote_adapted, parts), (tasks.sum_panel, panels)]
        return phases, stations.vote_stations if on else tasks.vote_wire

    def _scratch(self, shape, dtype) -> np.ndarray:
        """An array of this thread, left over from call to call."""
        kept = self._local.__dict__.setdefault("scratch", {})
        if (shape, dtype) not in kept:
            kept[shape, dtype] = aligned(shape, dtype)
        return kept[shape, dtype]

    def read_adapter_pairs(self, model, tokens, states, noise):
        packed = model.model._replace(members=MOVES, shift=4 - noise.sigma_shift)
        key_0, key_1 = key_words(noise.seed)
        plain = structures.UNMOVED._replace(key_0=key_0, key_1=key_1, step=noise.step, directions=noise.directions)
        return self._read(model._replace(model=packed), plain, tokens, states, noise)

    def add_full_rank(self, weights, noise, direction, amount):
        key = key_words(noise.seed)

        def add(first, last):
            words = np.empty(64, np.uint32)
            full_rank.add_signs(weights, direction, noise.step, *key, amount, first, last, words)

        self._team.run(add, self.spread(-(-weights.size // full_rank.CHUNK), LARGE // full_rank.CHUNK))

    def cast_full_rank_votes(self, parameters, fitness, noise):
        key, fitness = key_words(noise.seed), np.asarray(fitness, np.int64)
        votes = np.empty(parameters, np.int64)

        def cast(first, last):
            words, sums = np.empty(64, np.uint32), np.empty(full_rank.CHUNK, np.int32)
            full_rank.sum_signs(fitness, noise.step, *key, first, last, words, sums, votes)

        chunks = -(-parameters // full_rank.CHUNK)
        self._team.run(cast, self.spread(chunks, -(-chunks // self.threads), 1))
        return votes

    def cast_pair_votes(self, shape, fitness, noise, *, first_pair=0):
        voters = np.flatnonzero(fitness)
        numbers = noise.numbers(first_pair + voters).reshape(-1)
        factors = np.repeat(np.asarray(fitness, np.int64)[voters], noise.rank)
        cast, parts = self._cast_signs, [gaussian_votes.WHOLE]
        if noise.gaussian:
            cast = self._cast_gaussian
            if noise.use_clt and np.abs(factors).max(initial=0) > 1:
                parts = [gaussian_votes.LOW, gaussian_votes.HIGH]
        z = self.buffer("pair votes", (len(parts), shape.parameters), np.int32)
        votes, vectors = None, np.zeros(shape.parameters if noise.gaussian else 0, np.int64)
        for begin in range(0, len(numbers), VOTE_ROWS):
            z[...] = 0
            for at in range(begin, min(len(numbers), begin + VOTE_ROWS), PAIR_ROWS):
                batch = slice(at, at + PAIR_ROWS)
                cast(shape, z, vectors, numbers[batch], factors[batch], noise, parts)
            sums = z[0].astype(np.int64)
            if len(parts) > 1:
                sums += np.left_shift(z[1], 7, dtype=np.int64)
            votes = sums if votes is None else votes + sums
        if votes is None:
            return np.zeros(shape.parameters, np.int64)
        if noise.gaussian or noise.rank > 1:
            for place in _vector_places(shape):
                votes[place] = noise.root * (vectors if noise.gaussian else votes)[place]
        return votes

    def _cast_signs(self, shape, z, vectors, numbers, factors, noise, parts):
        """Add the votes of some directions: each task draws nothing, packs one tensor's signs and sums them."""
        quads = -(-len(numbers) // 4)
        f, ones = np.zeros((2, 4 * quads), np.int64)
        f[: len(numbers)], ones[: len(numbers)] = factors, 1
        first = np.where(np.arange(4 * quads) % noise.rank, 0, f)  # vectors move in a pair's first direction alone
        words = self.buffer("words", (4 * quads, -(-shape.sign_words // 64) * 64), np.uint32)
        key = key_words(noise.seed)

        def draw(first, last):
            pair_votes.draw_directions(numbers[first:last], noise.step, *key, words[first:last])

        def cast(tensor):
            outputs = tensor.shape[0]
            inputs = tensor.shape[1] if len(tensor.shape) == 2 else 0
            v, x = np.empty(quads * outputs, np.int32), np.empty(quads * inputs, np.int32)
            pair_votes.pack_signs(words, tensor.a >> 3, f if inputs else first, 0, outputs, v)
            if inputs:
                pair_votes.pack_signs(words, tensor.b >> 3, ones, structures.OFFSET, inputs, x)
            plan = _panels(tensor, 0, 0, 0, -1 if inputs else tensor.offset)
            vote_kernels.sum_panels(np.array(plan), 0, len(plan), pointer_to(v), pointer_to(x), 0, quads, z[0], 1)

        self._team.run(draw, self.spread(len(numbers), 64))
        self._team.run(cast, [(tensor,) for tensor in shape.tensors.values()])

    def _cast_gaussian(self, shape, z, vectors, numbers, factors, noise, parts):
        """The same of Gaussian directions, in parts; those of vectors are added to ``vectors``, int64."""
        quads = -(-len(numbers) // 4)
        f, ones = np.zeros((2, 4 * quads), np.int64)
        f[: len(numbers)], ones[: len(numbers)] = factors, 1
        rows = self.buffer("factors", (4 * quads, 2 * _gaussian_words(shape)), np.int8)
        table = normal_table() if noise.use_clt else np.sign(normal_table())
        key = key_words(noise.seed)

        def draw(first, last):
            string = np.empty(-(-rows.shape[1] // 128) * 128, np.uint16)
            gaussian_votes.draw_gaussian(numbers[first:last], noise.step, *key, table, string, rows[first:last])

        def cast(name, tensor):
            at = shape.gaussian[name]
            if len(tensor.shape) == 1:
                gaussian_votes.sum_gaussian(rows, at.a, at.b, factors, noise.rank, vectors[tensor.slice])
                return
            outputs, inputs = tensor.shape
            v, x = np.empty(quads * outputs, np.int32), np.empty(quads * inputs, np.int32)
            gaussian_votes.pack_gaussian(rows, at.b, ones, gaussian_votes.WHOLE, structures.OFFSET, inputs, x)
            plan = _panels(tensor, 0, 0, 0, -1)
            for part, sums in zip(parts, z, strict=True):
                gaussian_votes.pack_gaussian(rows, at.a, f, part, 0, outputs, v)
                vote_kernels.sum_panels(np.array(plan), 0, len(plan), pointer_to(v), pointer_to(x), 0, quads, sums, 1)

        self._team.run(draw, self.spread(len(numbers), 64))
        self._team.run(cast, list(shape.tensors.items()))

    def update_rows(self, layout, master, squares, votes, step, step_size):
        weights, votes = np.empty(layout.parameters, np.int8), np.ascontiguousarray(votes, np.int32)
        for moved, dtype in ((master, np.int32), (squares, np.int64)):  # kernels go by addresses
            if moved.dtype != dtype or not moved.flags.c_contiguous or not moved.flags.writeable:
                raise ValueError(f"masters and squares are moved in place: they must be contiguous {dtype.__name__}")
        arrays = layout.row_starts, master, squares, votes, weights
        call = structures.Moving(layout.parameters, layout.rows, *map(pointer_to, arrays), step, step_size)
        with self._team.lock:
            self._team.share(_words(call), (tasks.move_some, -(-layout.rows // tasks.UPDATED_ROWS)))
        return weights

    def update_master(self, layout, master, votes, multiplier):
        weights = np.empty(layout.parameters, np.int8)

        def move(first, last):
            vote_kernels.move_master(master, votes, multiplier, weights, first, last)

        self._team.run(move, self.spread(layout.parameters, LARGE))
        return weights

    def update_signs(self, weights, votes, threshold):
        out = np.empty_like(weights)

        def move(first, last):
            vote_kernels.move_signs(weights, votes, int(threshold), out, first, last)

        self._team.run(move, self.spread(len(weights), LARGE))
        return out


class Casting:
    """What ``cast_votes`` keeps from step to step: large arrays, and what follows from the sizes alone."""

    def __init__(self, backend, shape, layout, streams, length, count, on):
        d, layers, names = shape.hidden_size, shape.num_layers, [n for station in on for n in READ_BY[station]]
        fours = -(-streams // 4)
        quads = fours * length
        parts = backend.parts(fours, backend.members_per_block(shape, layout) // 4, 1)
        slots = min(parts, backend.threads)
        kinds = shape.vote_kinds(bool(on))
        v_columns, x_columns = _columns(shape)
        if on:
            v_columns, x_columns = v_columns + 4 * d * layers, x_columns + d * layers
        plan, size = _plan(shape, "middle" in on) if layout is None else _adapter_plan(layout)
        tensors = [shape.tensors[f"layers.{layer}.{name}"] for layer in range(layers) for name in names]
        self.shifts, self.totals = np.empty(kinds, np.int64), np.empty((parts, kinds), np.int64)
        self.scores, self.votes = np.empty(parts, np.int64), np.zeros(size, np.int32)  # what is never voted on stays
        noise = _words(structures.UNMOVED)
        v, x = aligned((quads * v_columns,), np.int32), aligned((quads * x_columns,), np.int32)
        z = aligned((quads * RANKS * len(layout.matrices) if layout else 0,), np.int32)
        members = 4 * -(-fours // max(1, parts))
        made = [backend.new_block(shape, members, length, 1, False, layout, True, bool(on)) for _ in range(slots)]
        blocks = np.array(
            [b._replace(quads=quads, v=pointer_to(v), x=pointer_to(x), z=pointer_to(z)) for b, _ in made], np.int64
        )
        of_draw = {
            "moves": aligned((VOCABULARY // 2, count), np.int32),
            "rows": np.empty(count, np.int64),
            "signs": aligned((d,), np.int32),
            "turns": aligned((count,), np.int32),
            "shifts": self.shifts,
            "station_moves": aligned((shape.parameters if on else 0,), np.int8),
            "station_shifts": np.empty(len(shape.tensors), np.int64),
            "all_turns": aligned((d,), np.int32),
            "wide_signs": aligned((4 * d,), np.int32),
            "wide_turns": aligned((4 * d,), np.int32),
        }
        draw = {"count": count, "stations": sum(structures.ON[name] for name in on)}
        draw |= {name: pointer_to(array) for name, array in of_draw.items()}
        draw = _words(draw.get(name, 0) for name in structures.BranchParameters._fields)
        of_call = {
            "noise": noise,
            "tables": _words(backend.tables),
            "blocks": blocks,
            "draw": draw,
            "words": aligned((2, max(tasks.WORDS, d)), np.uint32),
            "transformed": aligned((VOCABULARY, d), np.int32),
            "magnitudes": np.empty(VOCABULARY // tasks.HEAD_ROWS, np.int64),
            "stations": np.array([(t.number, t.offset, *t.shape) for t in tensors], np.int64),
            "scratch": aligned((backend.threads if on else 0, 4 * d * d), np.int32),
            "rows": aligned((streams, length, d), np.int8),
            "vectors": aligned((parts, 1 + 4 * layers, d), np.int32),
            "totals": self.totals,
            "scores": self.scores,
            "plan": plan,
            "places": np.array([place.start for place in _vector_places(shape)], np.int64),
            "votes": self.votes,
        }
        call = {"slots": slots, "streams": streams, "length": length, "parts": parts, "kinds": kinds}
        self.phases, vote = backend.phases(layout, on, parts, len(plan), d, len(tensors))
        call |= {"panels": len(plan), "size": size, "vote": task_address(vote)}
        call |= {name: pointer_to(array) for name, array in of_call.items()}
        self.call = structures.Step(*(call.get(name, 0) for name in structures.Step._fields))
        self.arrays = v, x, z, made, of_draw, of_call  # must live as long


def _wide_row(shape: Shape) -> int:
    """Bytes of a product's input with a z of the highest rank appended, for the widest product."""
    inputs = 4 * shape.hidden_size
    return inputs + (RANKS << adapter_lift(inputs)) + 64


def _filled(shape, dtype):
    """Offset bytes that mean zero."""
    out = aligned(shape, dtype)
    out[...] = structures.OFFSET
    return out


def _words(numbers) -> np.ndarray:
    """A structure in memory."""
    return np.array(tuple(numbers), np.int64)
