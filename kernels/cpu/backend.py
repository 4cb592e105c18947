"""The Numba backend: cuts each call into blocks that fit the caches, and runs them on threads.

Threads only ever add integers into places of their own, so the results do not depend on their number.
"""

import os
import threading
import weakref
from typing import NamedTuple

import numpy as np

from egg.kernels.arithmetic import VOCABULARY, VOTE_ROWS, exp2_table, log2_thresholds, normal_table, surprise_table
from egg.kernels.backend import Likelihoods, Votes
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
from egg.kernels.cpu.adapters import KEEPS, MOVES, widen
from egg.kernels.cpu.isa import InstructionSet
from egg.kernels.cpu.memory import Casting, as_words, blocks_of, members_per_block, new_block, recall
from egg.kernels.cpu.noise import factor_buffers, summed_noise
from egg.kernels.cpu.places import (
    direction_bytes,
    factor_places,
    gaussian_words,
    is_bits,
    panels_of,
    tensor_places,
    vector_places,
    without_filling,
)
from egg.kernels.cpu.reciprocal import reciprocals
from egg.kernels.cpu.simd import aligned, pointer_to
from egg.kernels.cpu.team import Team
from egg.kernels.cpu.tiles import ROWS
from egg.kernels.layout import AdapterShape, Shape
from egg.kernels.philox import ADAPTER_SIGNS, DIRECTION_SIGNS, GAUSSIAN_NOISE, key_words

PAIR_ROWS = 512  # directions of recipe paper whose votes are summed at once: bounds memory
LARGE = 1 << 18  # weights: work on fewer is not worth a second thread
STRETCH = 16  # bytes: so many of a few sequences are read layer by layer
SCORED = 8  # bytes that a block reads before they are scored: their logits stay in that cache as well


class Prepared(NamedTuple):
    """A model as the kernels read it, its shape, and the arrays that must live as long."""

    shape: Shape
    weights: np.ndarray  # (parameters,) int8
    model: structures.Model  # or adapters.AdaptedModel
    arrays: tuple
    adapter: AdapterShape | None = None


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
        places = tensor_places(shape)
        weights = np.ascontiguousarray(weights, np.int8)
        packed = aligned((shape.parameters,), np.int8)
        packed[:] = weights
        starts = np.empty(places.sums, np.int32)
        call = structures.Packing(pointer_to(weights), places.panels_at, pointer_to(packed), pointer_to(starts))
        with self._team.lock:
            self._team.share(as_words(call), (tasks.pack_panel, len(places.panels)))
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
        return recall(kept, key, 4, new_block)[0]  # the latest: whoever has two blocks keeps both

    def _noise(self, layout, plain, noise, stream, block):
        """A block's noise: signs of rank 1 are bits in the block, else each thread keeps factors as bytes."""
        if is_bits(noise):
            return plain
        places = factor_places(layout, noise.rank, noise.gaussian)
        words = layout.sign_words
        if noise.gaussian:
            words, stream = gaussian_words(layout), GAUSSIAN_NOISE
        kept = self._local.__dict__.setdefault("factors", {})
        key = layout, noise.rank, noise.gaussian, block.padded
        buffers = recall(kept, key, 4, lambda *_: factor_buffers(places, block.padded, words))
        return summed_noise(plain, noise, places, stream, normal_table(), buffers)

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
        model_words = as_words(model.model)
        with self._team.lock:
            call = self._reading(shape, layout, sequences, length)._replace(
                model=pointer_to(model_words),
                text=pointer_to(tokens),
                states=pointer_to(states),
                states_out=pointer_to(states_out),
                logits=pointer_to(logits),
            )
            task = tasks.read_part if layout is None else adapted.read_part_adapted
            self._team.share(as_words(call), (task, call.parts))
        return logits, states_out

    def _reading(self, *key) -> structures.Reading:
        """What ``forward`` shares with its tasks, as far as sizes determine it; that of the last few sizes is kept."""
        return recall(self._readings, key, 4, self._new_reading)[0]

    def _new_reading(self, shape, layout, sequences, length):
        """The same, made, and the arrays that must live as long."""
        parts, made = blocks_of(self, shape, layout, sequences, length)
        blocks = np.array([block for block, _ in made], np.int64)
        arrays = as_words(structures.UNMOVED), as_words(self.tables), blocks
        call = structures.Reading(0, *map(pointer_to, arrays), len(made), sequences, length, parts, 0, 0, 0, 0)
        return call, arrays, made

    def score(self, model, tokens, states):
        shape, packed, adapter = model.shape, model.model, model.adapter
        tokens, states = np.ascontiguousarray(tokens), np.ascontiguousarray(states)
        sequences, length = tokens.shape[0], tokens.shape[1] - 1
        totals, below, scores = (np.empty((sequences, length), t) for t in (np.uint64, np.uint8, np.int32))
        states_out = states.copy()
        most, shares = members_per_block(shape, adapter), surprise_table()

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
        span = members_per_block(prepared.shape, prepared.adapter) // members
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
        most, filled = members_per_block(shape, adapter), -(-len(positions) // 16) * 16
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
        unit, moved = (1, 0) if noise is None else (2, direction_bytes(adapter, noise))

        few = self._few(tokens.shape[1]) if unit == 1 else 0

        def run(first, last):
            if last - first < few:
                states_out[first:last] = states[first:last]
                self._read_few(prepared, tokens, first, states_out[first:last], logits)
                return
            bits = noise is not None and is_bits(noise)
            block = self.block(shape, unit * (last - first), tokens.shape[1], moved=bits, adapter=adapter)
            own = plain if noise is None else self._noise(adapter, plain, noise, ADAPTER_SIGNS, block)
            forward.run_sequences(model, own, self.tables, block, tokens, states, states_out, unit * first, logits)

        most = members_per_block(shape, adapter, moved=moved) // unit
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
            block = self.block(shape, 2 * (last - first), tokens.shape[1] - 1, text=2, moved=is_bits(noise))
            own = self._noise(shape, parameters, noise, DIRECTION_SIGNS, block)
            forward.run_pair_block(
                packed, own, self.tables, block, tokens, states, states_out, first, first_pair, scores
            )

        most = members_per_block(shape, moved=direction_bytes(shape, noise)) // 2
        self._team.run(run, self.spread(len(tokens), most, ROWS))
        return scores, states_out

    def cast_votes(self, model, tokens, states, draw, *, first_row=0):
        shape, layout = model.shape, model.adapter
        # Kernels go by addresses
        tokens, states = np.ascontiguousarray(tokens, np.uint8), np.ascontiguousarray(states, np.int8)
        states_out, weights = np.empty_like(states), model.weights
        packed = as_words(model.model if layout is None else model.model._replace(members=KEEPS))
        key = shape, layout, len(tokens), tokens.shape[1] - 1, draw.branches, draw.stations
        with self._team.lock:
            step = recall(self._steps, key, 2, lambda *key: Casting(self, *key))
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
            self._team.share(as_words(call), *step.phases)
            votes = step.votes if layout is None else without_filling(layout, step.votes)
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
            for place in vector_places(shape):
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
            plan = panels_of(tensor, 0, 0, 0, -1 if inputs else tensor.offset)
            vote_kernels.sum_panels(np.array(plan), 0, len(plan), pointer_to(v), pointer_to(x), 0, quads, z[0], 1)

        self._team.run(draw, self.spread(len(numbers), 64))
        self._team.run(cast, [(tensor,) for tensor in shape.tensors.values()])

    def _cast_gaussian(self, shape, z, vectors, numbers, factors, noise, parts):
        """The same of Gaussian directions, in parts; those of vectors are added to ``vectors``, int64."""
        quads = -(-len(numbers) // 4)
        f, ones = np.zeros((2, 4 * quads), np.int64)
        f[: len(numbers)], ones[: len(numbers)] = factors, 1
        rows = self.buffer("factors", (4 * quads, 2 * gaussian_words(shape)), np.int8)
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
            plan = panels_of(tensor, 0, 0, 0, -1)
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
            self._team.share(as_words(call), (tasks.move_some, -(-layout.rows // tasks.UPDATED_ROWS)))
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
