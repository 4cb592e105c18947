"""The Numba backend: cuts each call into blocks that fit the caches, and runs them on threads.

Threads only ever add integers into places of their own, so the results do not depend on their number.
"""

import ctypes
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from egg.kernels.arithmetic import READ_BY, VOCABULARY, adapter_lift, exp2_table, log2_thresholds
from egg.kernels.backend import Votes
from egg.kernels.cpu import adapted, full_rank, pair_votes, stations, structures, tasks, team
from egg.kernels.cpu import votes as vote_kernels
from egg.kernels.cpu.adapters import KEEPS, MOVES, RANKS, widen
from egg.kernels.cpu.isa import InstructionSet
from egg.kernels.cpu.reciprocal import reciprocals
from egg.kernels.cpu.simd import aligned
from egg.kernels.cpu.tiles import ROWS
from egg.kernels.layout import AdapterShape, Shape
from egg.kernels.philox import key_words

PAIR_ROWS = 512  # directions of recipe paper whose votes are summed at once: bounds memory
LARGE = 1 << 18  # weights: work on fewer is not worth a second thread
# Of a block's activations, states and signs: they stay in a core's second-level cache
BLOCK_BYTES = 384 << 10


class Prepared(NamedTuple):
    """A model as the kernels read it, its shape, and the arrays that must live as long."""

    shape: Shape
    weights: np.ndarray  # (parameters,) int8
    model: structures.Model  # or adapters.AdaptedModel
    arrays: tuple
    adapter: AdapterShape | None = None


CLEAN = structures.NoiseParameters(structures.CLEAN, 0, 0, 0, 0, 0)  # weights as they are


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
    return Places(panels, sums, arrays, _at(panels), tuple(map(_at, arrays)))


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


def _vector_places(shape: Shape) -> list[int]:
    """Places of gains and biases in the flat vector, in the order of their votes."""
    of_a_layer = "ln1.weight", "ln2.weight", "gru.b_f", "gru.b_h"
    names = ["ln_out.weight", *(f"layers.{layer}.{name}" for layer in range(shape.num_layers) for name in of_a_layer)]
    return [shape.tensors[name].offset for name in names]


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


def available_cores() -> int:
    """The cores this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class NumbaBackend:
    """See ``egg.kernels.backend`` for what each call takes and returns."""

    name = "numba"

    def __init__(self, instruction_set: InstructionSet, threads: int | None = None):
        self.threads = threads or available_cores()
        self.description = f"Numba, {instruction_set.description}, {self.threads} threads"
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        logarithms = (log2_thresholds(n).astype(np.int64) for n in (16, 256))
        self._table_arrays = (exp2_table()[-16:].copy(), *logarithms, *reciprocals())
        self._tables = _words(structures.Tables(*map(_at, self._table_arrays)))
        self._team = aligned((team.WORDS,), np.int64)
        self._team[:] = 0
        self._team[team.YIELD] = team.yield_address()
        self._helpers: dict[int, Future] = {}
        self._lock = threading.Lock()  # one leads; what a call keeps is used by one call
        self._blocks: dict = {}
        self._step: Any = None  # of the last ``cast_votes``: fresh pages cost more than their use
        self._buffers: dict = {}

    def share(self, structure: np.ndarray, *phases) -> None:
        """Phases of tasks, one after another, on all threads.

        structure : int64, what the tasks share, see tasks.py
        phases : of each the task and how many there are
        """
        helpers = min(self.threads, max(count for _, count in phases)) - 1
        if helpers > 0 and not self._helpers:
            self._help(1)  # compiled here, not in a thread that nobody waits for
        for thread in range(1, helpers + 1):
            if thread not in self._helpers or self._helpers[thread].done():
                self._helpers[thread] = self._pool.submit(self._help, thread)
        team.lead(_at(self._team), np.array([(team.task_address(task), n) for task, n in phases]), _at(structure))

    def _help(self, thread: int) -> None:
        """Take tasks, until there are none for a while."""
        team.look_out(_at(self._team), thread)

    def run(self, function, tasks):
        """function(*task) for all tasks; their results in order. The calling thread is one of the threads.

        It takes tasks too, as waking a thread and waiting for it cost more than a short task.
        """
        if self._pool is None or len(tasks) == 1:
            return [function(*task) for task in tasks]
        results, waiting = [None] * len(tasks), iter(range(len(tasks)))  # the interpreter lock guards the iterator

        def work():
            for i in waiting:
                results[i] = function(*tasks[i])

        helpers = [self._pool.submit(work) for _ in range(min(self.threads, len(tasks)) - 1)]
        try:
            work()
        finally:  # one that has not begun finds nothing left
            for helper in [h for h in helpers if not h.cancel()]:
                helper.result()
        return results

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
        call = structures.Packing(_at(weights), places.panels_at, _at(packed), _at(starts))
        with self._lock:
            self.share(_words(call), (tasks.pack_panel, len(places.panels)))
        arrays = (packed, starts)
        model = structures.Model(shape.hidden_size, shape.num_layers, *map(_at, arrays), *places.addresses)
        if adapter is None:
            return Prepared(shape, weights, model, arrays)
        model, more = widen(model, shape, weights, adapter)
        return Prepared(shape, weights, model, arrays + more, adapter.shape)

    def _new_blocks(
        self, slots, shape, members, length, *, text=1, moved=False, credited=False, stations_=False, adapter=None, **at
    ):
        """Blocks for so many members, and the arrays that must live as long.

        slots : how many
        text : members that read one row of text
        moved : whether members have directions of their own
        credited : whether they leave behind what votes need
        stations_ : and what stations need
        at : fields of a block, see ``structures.Block``
        returns : (slots, fields) int64
        """
        d, layers = shape.hidden_size, shape.num_layers
        padded, stride = -(-members // 4) * 4, max(64, d)
        seen, bytes_ = (padded, length) if credited else (0, 0)
        words = -(-(adapter or shape).sign_words // 64) * 64
        wide_row = _wide_row(shape) if adapter else 0
        scratch = 4 * (VOCABULARY + 2 * d + 64 * layers) + 128 * shape.vote_kinds(stations_)
        planes = structures.SAVED_FOR_STATIONS if stations_ else structures.SAVED
        sizes = {"stride": stride, "length": length, "text_share": text, "words_row": 4 * words}
        sizes |= {"wide_row": wide_row, "planes": planes}
        blocks, kept = np.zeros((slots, len(structures.Block._fields)), np.int64), []
        for block in blocks:
            arrays = {
                "bytes": _filled((structures.BUFFERS, padded, stride), np.uint8),
                "mid": _filled((padded, 4 * stride), np.uint8),
                "states": _filled((layers, padded, stride), np.uint8),
                "logits": np.empty((padded, VOCABULARY), np.int8),
                "gains": np.zeros((padded, 2), np.int32),
                "words": np.zeros((padded if moved else 0, words), np.uint32),
                "wide": _filled((padded, wide_row), np.uint8),
                "fine": aligned(((seen + 1) * VOCABULARY,), np.int16),
                "saved": aligned((bytes_, layers, planes, seen, stride), np.int8),
                "wire": aligned((bytes_, seen, stride), np.int32),
                "scratch": aligned((scratch,), np.uint8),
                "work": aligned((stations.work_bytes(layers, padded, stride) if stations_ else 0,), np.uint8),
            }
            fields = sizes | at | {name: _at(array) for name, array in arrays.items()}
            block[:] = [fields.get(name, 0) for name in structures.Block._fields]
            kept.append(arrays)
        return blocks, kept

    def _reading_blocks(self, shape, adapter, text, moved, slots, members):
        """Blocks of at least so many members, kept from call to call."""
        key = shape, adapter, text, moved
        has_slots, has_members, *found = self._blocks.pop(key, (0, 0))
        if has_slots < slots or has_members < members:
            slots, members = max(slots, has_slots), max(members, has_members)
            found = self._new_blocks(slots, shape, members, 0, text=text, moved=moved, adapter=adapter)
            has_slots, has_members = slots, members
        if len(self._blocks) == 3:
            self._blocks.clear()
        self._blocks[key] = has_slots, has_members, *found
        return found[0]

    def members_per_block(self, shape, adapter=None, *, moved: bool = False) -> int:
        """As many members as the second-level cache holds, at least 16, at most 128."""
        stride = max(64, shape.hidden_size)
        each = (structures.BUFFERS + 4 + shape.num_layers) * stride + 2 * VOCABULARY
        if moved:
            each += 4 * shape.sign_words
        if adapter:
            each += 4 * adapter.sign_words + _wide_row(shape)
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
        task = adapted.read_some_adapted if model.adapter else tasks.read_some
        return self._read(task, model, CLEAN, tokens, states, 1)

    def _read(self, task, prepared, noise, tokens, states, members):
        """Logits and states of sequences, ``members`` of which stay together in a block."""
        logits = np.empty((*tokens.shape, VOCABULARY), np.int8)
        if tokens.size == 0:
            return logits, states.copy()
        most = self.members_per_block(prepared.shape, prepared.adapter) // members
        kind = 1, members == 2
        return logits, self._read_blocks(task, prepared, noise, tokens, states, members, most, kind, logits)

    def _read_blocks(self, task, prepared, noise, tokens, states, members, most, kind, out, first=0):
        """Let the threads read, in blocks of at most ``most`` items of so many members; returns the states after."""
        text, moved = kind
        # Kernels go by addresses
        tokens, states = np.ascontiguousarray(tokens, np.uint8), np.ascontiguousarray(states, np.int8)
        states_out, model, noise = np.empty_like(states), _words(prepared.model), _words(noise)
        items, length = len(tokens) * text // members, tokens.shape[1]
        parts = self.parts(items, most, ROWS // members)
        slots = min(parts, self.threads)
        with self._lock:
            blocks = self._reading_blocks(
                prepared.shape, prepared.adapter, text, moved, slots, members * -(-items // parts)
            )
            blocks[:, structures.Block._fields.index("length")] = length - (text == 2)  # pairs read targets too
            call = structures.Reading(
                *map(_at, (model, noise, self._tables, blocks)),
                slots,
                items,
                parts,
                members,
                length,
                *map(_at, (tokens, states, states_out)),
                first,
                _at(out),
            )
            self.share(_words(call), (task, parts))
        return states_out

    def run_pairs(self, model, tokens, states, noise, *, first_pair=0):
        scores = np.zeros(len(states), np.int32)
        if not len(states):
            return scores, states.copy()
        shift = 4 - noise.sigma_shift
        parameters = structures.NoiseParameters(
            structures.MOVED, *key_words(noise.seed), noise.step, shift, 1 << max(0, shift)
        )
        most = self.members_per_block(model.shape, moved=True) // 2
        arguments = (tasks.read_pairs, model, parameters, tokens, states, 2, most, (2, True), scores, first_pair)
        return scores, self._read_blocks(*arguments)

    def cast_votes(self, model, tokens, states, draw, *, first_row=0):
        shape, layout = model.shape, model.adapter
        # Kernels go by addresses
        tokens, states = np.ascontiguousarray(tokens, np.uint8), np.ascontiguousarray(states, np.int8)
        states_out, weights = np.empty_like(states), model.weights
        packed = _words(model.model if layout is None else model.model._replace(members=KEEPS))
        key = shape, layout, len(tokens), tokens.shape[1] - 1, draw.branches, draw.stations
        with self._lock:
            if self._step is None or self._step.key != key:
                self._step = None  # its memory comes first
                self._step = Casting(self, *key)
            step = self._step
            step.shifts[:] = draw.shifts
            call = step.call._replace(
                model=_at(packed),
                text=_at(tokens),
                states=_at(states),
                states_out=_at(states_out),
                first_row=first_row,
                key_0=key_words(draw.seed)[0],
                key_1=key_words(draw.seed)[1],
                step=draw.step,
                weights=_at(weights),
                head=_at(weights) + shape.tensors["head.weight"].offset,
            )
            self.share(_words(call), *step.phases)
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

    def read_adapter_pairs(self, model, tokens, states, noise):
        packed = model.model._replace(members=MOVES, shift=4 - noise.sigma_shift)
        key_0, key_1 = key_words(noise.seed)
        parameters = CLEAN._replace(key_0=key_0, key_1=key_1, step=noise.step)
        return self._read(adapted.read_some_adapted, model._replace(model=packed), parameters, tokens, states, 2)

    def add_full_rank(self, weights, noise, direction, amount):
        key = key_words(noise.seed)

        def add(first, last):
            words = np.empty(64, np.uint32)
            full_rank.add_signs(weights, direction, noise.step, *key, amount, first, last, words)

        self.run(add, self.spread(-(-weights.size // full_rank.CHUNK), LARGE // full_rank.CHUNK))

    def cast_full_rank_votes(self, parameters, fitness, noise):
        key, fitness = key_words(noise.seed), np.asarray(fitness, np.int64)
        votes = np.empty(parameters, np.int64)

        def cast(first, last):
            words, sums = np.empty(64, np.uint32), np.empty(full_rank.CHUNK, np.int32)
            full_rank.sum_signs(fitness, noise.step, *key, first, last, words, sums, votes)

        chunks = -(-parameters // full_rank.CHUNK)
        self.run(cast, self.spread(chunks, -(-chunks // self.threads), 1))
        return votes

    def cast_pair_votes(self, shape, fitness, noise, *, first_pair=0):
        z = self.buffer("pair votes", (shape.parameters,), np.int32)
        z[...] = 0
        voters = np.flatnonzero(fitness)
        for at in range(0, len(voters), PAIR_ROWS):
            self._cast_pair_batch(shape, z, voters[at : at + PAIR_ROWS], fitness, noise, first_pair)
        return z

    def _cast_pair_batch(self, shape, z, voters, fitness, noise, first_pair):
        """Add the votes of some directions: each task draws nothing, packs one tensor's signs and sums them."""
        quads = -(-len(voters) // 4)
        factors, ones = np.zeros((2, 4 * quads), np.int64)
        factors[: len(voters)], ones[: len(voters)] = fitness[voters], 1
        words = self.buffer("words", (4 * quads, -(-shape.sign_words // 64) * 64), np.uint32)
        key = key_words(noise.seed)
        directions = first_pair + voters

        def draw(first, last):
            pair_votes.draw_directions(directions[first:last], noise.step, *key, words[first:last])

        def cast(tensor):
            outputs = tensor.shape[0]
            inputs = tensor.shape[1] if len(tensor.shape) == 2 else 0
            v, x = np.empty(quads * outputs, np.int32), np.empty(quads * inputs, np.int32)
            pair_votes.pack_signs(words, tensor.a >> 3, factors, 0, outputs, v)
            if inputs:
                pair_votes.pack_signs(words, tensor.b >> 3, ones, structures.OFFSET, inputs, x)
            plan = _panels(tensor, 0, 0, 0, -1 if inputs else tensor.offset)
            vote_kernels.sum_panels(np.array(plan), 0, len(plan), _at(v), _at(x), 0, quads, z, 1)

        self.run(draw, self.spread(len(voters), 64))
        self.run(cast, [(tensor,) for tensor in shape.tensors.values()])

    def update_rows(self, layout, master, squares, votes, step, step_size):
        weights, votes = np.empty(layout.parameters, np.int8), np.ascontiguousarray(votes, np.int32)
        for moved, dtype in ((master, np.int32), (squares, np.int64)):  # kernels go by addresses
            if moved.dtype != dtype or not moved.flags.c_contiguous or not moved.flags.writeable:
                raise ValueError(f"masters and squares are moved in place: they must be contiguous {dtype.__name__}")
        arrays = layout.row_starts, master, squares, votes, weights
        call = structures.Moving(layout.parameters, layout.rows, *map(_at, arrays), step, step_size)
        with self._lock:
            self.share(_words(call), (tasks.move_some, -(-layout.rows // tasks.UPDATED_ROWS)))
        return weights

    def update_master(self, layout, master, votes, multiplier):
        weights = np.empty(layout.parameters, np.int8)

        def move(first, last):
            vote_kernels.move_master(master, votes, multiplier, weights, first, last)

        self.run(move, self.spread(layout.parameters, LARGE))
        return weights

    def update_signs(self, weights, votes, threshold):
        out = np.empty_like(weights)

        def move(first, last):
            vote_kernels.move_signs(weights, votes, int(threshold), out, first, last)

        self.run(move, self.spread(len(weights), LARGE))
        return out


class Casting:
    """What ``cast_votes`` keeps from step to step: large arrays, and what follows from the sizes alone."""

    def __init__(self, backend, shape, layout, streams, length, count, on):
        self.key = shape, layout, streams, length, count, on
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
        noise = _words(CLEAN)
        v, x = aligned((quads * v_columns,), np.int32), aligned((quads * x_columns,), np.int32)
        z = aligned((quads * RANKS * len(layout.matrices) if layout else 0,), np.int32)
        blocks, arrays = backend._new_blocks(
            slots,
            shape,
            4 * -(-fours // parts),
            length,
            credited=True,
            stations_=bool(on),
            adapter=layout,
            quads=quads,
            v=_at(v),
            x=_at(x),
            z=_at(z),
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
        draw |= {name: _at(array) for name, array in of_draw.items()}
        draw = _words(draw.get(name, 0) for name in structures.BranchParameters._fields)
        of_call = {
            "noise": noise,
            "tables": backend._tables,
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
            "places": np.array(_vector_places(shape), np.int64),
            "votes": self.votes,
        }
        call = {"slots": slots, "streams": streams, "length": length, "parts": parts, "kinds": kinds}
        self.phases, vote = backend.phases(layout, on, parts, len(plan), d, len(tensors))
        call |= {"panels": len(plan), "size": size, "vote": team.task_address(vote)}
        call |= {name: _at(array) for name, array in of_call.items()}
        self.call = structures.Step(*(call.get(name, 0) for name in structures.Step._fields))
        self.arrays = v, x, z, arrays, of_draw, of_call  # must live as long


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


def _at(array: np.ndarray) -> int:
    """The array's address."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # a quarter of the time of the other
    except (TypeError, ValueError):  # one that is read-only, or empty
        return array.ctypes.data
