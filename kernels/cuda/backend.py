"""The CuPy backend: cuts each call into blocks of members that fit the device's memory, and launches the kernels.

It speaks to the device through ``egg.kernels.cuda.device.CupyDevice``; the tests put a CPU that runs the same
sources in its place.
"""

from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np

from egg.kernels.arithmetic import (
    FINE,
    FRACTION_BITS,
    GAUSSIAN_LIMIT,
    READ_BY,
    SIXTEENTHS,
    VOCABULARY,
    VOTE_ROWS,
    WINDOW,
    branch_table,
    exp2_table,
    log2_thresholds,
    normal_table,
)
from egg.kernels.backend import Draw, Noise, Votes
from egg.kernels.cuda.sources import (
    FEW,
    Tile,
    defines,
    factor_width,
    kept_columns,
    packed_bytes,
    packed_offsets,
    sign_words,
    tile_for,
    vote_columns,
)
from egg.kernels.cuda.tables import branch_tables, factor_tables, pair_tables
from egg.kernels.layout import BackendError, Shape
from egg.kernels.philox import key_words
from egg.kernels.reference import likelihoods, write

BLOCK_BYTES = 2 << 30  # of device memory that a block of members may take
MOST_ROWS = VOTE_ROWS  # of votes that int32 sums, see votes.cu
THREADS = 256
ROWS = 4  # of a block of threads in end.cu
STATION_MATRICES = "gru.w_f", "gru.u_f", "gru.w_h", "gru.u_h", "mlp.w_up", "mlp.w_down"  # in the order of branches.cu


class Prepared(NamedTuple):
    """A model on the device."""

    shape: Shape
    tile: Tile
    weights: Any  # (parameters,) int8
    packed: Any  # int8, see prepare.cu
    held: bool  # whether the weights were given there


class _Branches(NamedTuple):
    """A step's branches of the wire on the device, see branches.cu."""

    size: np.int32
    signs: Any
    places: Any
    rows: Any
    total: Any
    moves: Any
    stations: tuple[str, ...]
    made: tuple[np.int32, Any, Any] | None
    """Of stations that are on: a bit a matrix, m, and the moves."""


class _Cast(NamedTuple):
    """What a block of readers left on the device, and what its votes are added to; see credit.cuh."""

    tokens: Any
    kept: Any
    fine: Any
    shifts: Any
    votes: Any
    totals: Any
    score: Any
    first_row: int


class CupyBackend:
    """See ``egg.kernels.backend`` for what each call takes and returns."""

    name = "cupy"

    def __init__(self, device):
        self.device = device
        self.description = device.description
        self._exp2 = device.put(exp2_table()[-16:])
        self._thresholds = device.put(log2_thresholds(SIXTEENTHS))
        self._fine_thresholds = device.put(log2_thresholds(FINE))
        self._likelihoods = device.put(branch_table())
        self._tables: dict = {}

    # --- launching ------------------------------------------------------------------------------------

    def _launch(self, source, kernel, grid, *arguments, threads=THREADS, shaped=None, shared=0):
        """shaped : (shape, tile) of sources that are compiled for a shape"""
        options = defines(*shaped) if shaped else ()
        self.device.launch(source, kernel, options, grid, threads, shared, arguments)

    def _forward(self, prepared: Prepared, kernel, members, *arguments, gaussian=False):
        shape, tile = prepared.shape, prepared.tile
        if kernel not in ("forward_pairs", "forward_ranks") and members <= FEW[0] * self.device.multiprocessors:
            tile = Tile(*FEW)
        self._launch(
            "forward.cu",
            kernel,
            (-(-members // tile.members), 1),
            prepared.weights,
            prepared.packed,
            *arguments,
            shaped=(shape, tile, gaussian),
            shared=tile.shared_bytes(shape.hidden_size),
        )

    def _elements(self, count: int) -> tuple[int, int]:
        """A grid of one-dimensional work; the kernels stride over what it does not cover."""
        return max(1, min(-(-count // THREADS), 32 * self.device.multiprocessors)), 1

    def _draw(self, shape, count, first, noise):
        """(count, words) uint32 on the device: the sign bits of pairs' directions, of rank 1."""
        width = sign_words(shape)
        words = self.device.empty((count, width), np.uint32)
        self._launch(
            "prepare.cu",
            "draw_signs",
            self._elements(count * width // 4),
            words,
            np.int32(count),
            np.int32(width // 4),
            np.uint32(first),
            np.uint32(noise.directions),
            np.uint32(noise.step),
            *_key(noise),
        )
        return words

    def _draw_factors(self, shape, count, first, noise, table):
        """(count, rank, width) int8 on the device: the factors of pairs' directions.

        table : one (65536,) int8 array, of Gaussian factors by their halfwords
        """
        width = factor_width(shape, noise.gaussian)
        factors = self.device.empty((count, noise.rank, width), np.int8)
        self._launch(
            "prepare.cu",
            "draw_gaussian_factors" if noise.gaussian else "draw_sign_factors",
            self._elements(count * noise.rank * width // (8 if noise.gaussian else 128)),
            factors,
            np.int32(count),
            np.int32(width),
            np.int32(noise.rank.bit_length() - 1),
            np.uint32(first),
            np.uint32(noise.directions),
            np.uint32(noise.step),
            *_key(noise),
            *(table if noise.gaussian else ()),
        )
        return factors

    def _block(self, count: int, each: int, unit: int = 1) -> int:
        """How many of ``count`` run together if each takes so many bytes; whole waves of ``unit`` if there are such."""
        most = max(1, min(BLOCK_BYTES, self.device.free_bytes() // 2) // each)
        if most >= count:
            return count
        return most // unit * unit if most >= unit else most

    def clock(self, call) -> float:
        """Seconds that a call takes, by the device's events."""
        return self.device.clock(call)

    def hold(self, array):
        return self.device.put(array)

    def fetch(self, held):
        return self.device.get(held) if self.device.holds(held) else held

    def _given(self, array, dtype, shape, what):
        """An array of a caller's on the device: as it is where it is held there, else a copy."""
        if self.device.holds(array):
            assert array.dtype == dtype and array.shape == tuple(shape)
            return array
        return self.device.put(_checked(array, dtype, shape, what))

    def _left(self, array, given):
        """An array of the device's as a caller gets it who gave ``given``: held where that was."""
        return array if self.device.holds(given) else self.device.get(array)

    def take_rows(self, held, rows):
        out = self.device.empty((len(rows), *held.shape[1:]), held.dtype)
        self._move_rows("take_rows", held, rows, out)
        return out

    def put_rows(self, held, rows, values):
        values = self._given(values, held.dtype, (len(rows), *held.shape[1:]), "rows")
        self._move_rows("put_rows", held, rows, values)

    def _move_rows(self, kernel, held, rows, others):
        words, rest = divmod(held.nbytes // len(held), 4)
        assert not rest and rows.dtype == np.int64
        if len(rows):
            self._launch("prepare.cu", kernel, (len(rows), 1), held, rows, others, np.int32(words))

    # --- the calls ------------------------------------------------------------------------------------

    def add_full_rank(self, *arguments, **settings) -> NoReturn:
        raise BackendError("backend cupy draws no full-rank noise: choose --backend numba")

    cast_full_rank_votes = add_full_rank

    def read_adapter_pairs(self, *arguments, **settings) -> NoReturn:
        raise BackendError("backend cupy knows no adapters: choose --backend numba")

    def prepare(self, shape, weights, adapter=None):
        if adapter is not None:
            self.read_adapter_pairs()
        tile = tile_for(shape.hidden_size, self.device.shared_limit)
        flat = self._given(weights, np.int8, (shape.parameters,), "weights")
        places, layers = packed_offsets(shape), shape.num_layers
        packed = self.device.empty((places[""],), np.int8)
        beyond = shape.tensors["ln_out.weight"].offset - shape.tensors["layers.0.ln1.weight"].offset
        steps = np.int32(beyond // layers), np.int32(places["head.weight"] // 4 // layers)
        for name in (name for name in places if name.startswith(("layers.0.", "head"))):
            t, count = shape.tensors[name], 1 if name.startswith("head") else layers
            self._launch(
                "prepare.cu",
                "pack_matrix",
                (self._elements(packed_bytes(t.shape) // 4)[0], count),
                flat[t.offset :],
                packed[places[name] :],
                *map(np.int32, t.shape),
                *steps,
            )
        return Prepared(shape, tile, flat, packed, self.device.holds(weights))

    def forward(self, model, tokens, states):
        shape, tokens = model.shape, _bytes(tokens)
        states_in, after = self._states(shape, states, len(tokens))
        if tokens.size == 0:
            return np.empty((*tokens.shape, VOCABULARY), np.int8), self._left(states_in, states)
        logits, length = [], tokens.shape[1]
        block = self._block(len(tokens), length * (VOCABULARY + 1), model.tile.members)
        for at in range(0, len(tokens), block):
            part = slice(at, at + block)
            read = self.device.put(tokens[part])
            members = len(read)
            out = self.device.empty((members, length, VOCABULARY), np.int8)
            self._forward(
                model,
                "forward_clean",
                members,
                read,
                np.int32(length),
                states_in[part],
                after[part],
                out,
                np.int64(members),
            )
            logits.append(self.device.get(out))
        return logits[0] if len(logits) == 1 else np.concatenate(logits), self._left(after, states)

    def _states(self, shape, states, members):
        """Members' states on the device, and room for those after."""
        every = members, shape.num_layers, shape.hidden_size
        return self._given(states, np.int8, every, "states"), self.device.empty(every, np.int8)

    def score(self, model, tokens, states):
        logits, after = self.forward(model, np.ascontiguousarray(tokens[:, :-1]), states)
        return likelihoods(logits, tokens[:, 1:], after)  # on the CPU: no kernel of its own yet

    def write(self, model, logits, states, numbers, positions, choice):
        return write(partial(self.forward, model), logits, states, numbers, positions, choice)  # likewise

    def run_pairs(self, model, tokens, states, noise, *, first_pair=0):
        tokens = _bytes(tokens)
        shape, pairs, length = model.shape, len(tokens), tokens.shape[1] - 1
        states_in, after = self._states(shape, states, 2 * pairs)
        if pairs == 0 or length == 0:
            return np.zeros(2 * pairs, np.int32), self._left(states_in, states)
        scores = self.device.empty((2 * pairs,), np.int32)
        each, vector_columns = length + 1, (4 * shape.num_layers + 1) * shape.hidden_size
        if _bits_alone(noise):
            each += 4 * sign_words(shape)
        else:
            each += noise.rank * (factor_width(shape, noise.gaussian) + 32) + 2 * vector_columns
        wave = model.tile.members // 2 * self.device.multiprocessors
        block = self._block(pairs, each, wave)
        for at in range(0, pairs, block):
            read = self.device.put(tokens[at : at + block])
            count = len(read)
            members = slice(2 * at, 2 * (at + count))
            if _bits_alone(noise):
                kernel = "forward_pairs"
                drawn = (self._draw(shape, count, first_pair + at, noise),)
                settings = (FRACTION_BITS - noise.sigma_shift,)
            else:
                kernel = "forward_ranks"
                drawn, settings = self._directions(model, count, first_pair + at, noise)
            self._forward(
                model,
                kernel,
                2 * count,
                self._exp2,
                self._thresholds,
                *drawn,
                read,
                np.int32(length),
                states_in[members],
                after[members],
                scores[members],
                np.int64(2 * count),
                *map(np.int32, settings),
                gaussian=noise.gaussian,
            )
        return self.device.get(scores), self._left(after, states)

    def _directions(self, model, count, first, noise):
        """What moves a block's members, and the settings of it: ``Directions`` of tile.cuh."""
        device, shape, d = self.device, model.shape, model.shape.hidden_size
        factors = self._draw_factors(shape, count, first, noise, self._table(_normal))
        columns, tile = (4 * shape.num_layers + 1) * d, model.tile.members
        _, places = self._table(factor_tables, shape, noise.gaussian)
        step, shift = max(1, 1 << FRACTION_BITS >> noise.sigma_shift), 0
        up = FRACTION_BITS - noise.sigma_shift
        if noise.gaussian:
            step, shift, up = 1, FRACTION_BITS + noise.sigma_shift, -FRACTION_BITS - noise.sigma_shift
        vectors = device.empty((2 * count, columns), np.int8)
        self._launch(
            "pairs.cu",
            "move_vectors",
            (count, len(places)),
            model.weights,
            factors,
            places,
            vectors,
            *map(np.int32, (noise.rank * factors.shape[2], columns, d, step, shift)),
        )
        projections = device.empty((-(-2 * count // tile) * tile, 4, noise.rank), np.int32)
        limit = GAUSSIAN_LIMIT // noise.rank if noise.gaussian else 2**31 - 1
        halving = noise.root.bit_length() - 1
        settings = noise.rank, factors.shape[2], limit, up - halving, step, shift + halving
        return (factors, vectors, projections), settings

    def cast_votes(self, model, tokens, states, draw, *, first_row=0):
        device, shape, tokens = self.device, model.shape, _bytes(tokens)
        streams, length = len(tokens), tokens.shape[1] - 1
        states_in, after = self._states(shape, states, streams)
        kinds = shape.vote_kinds(bool(draw.stations))
        shifts = device.put(_checked(draw.shifts, np.int64, (kinds,), "shifts").astype(np.int32))
        votes, numbers = device.zeros((shape.parameters,), np.int32), device.zeros((kinds + 1,), np.int64)
        branches = self._draw_branches(model, draw)
        row_bytes, credit = kept_columns(shape)["row"] + _vote_row(shape, draw.stations), 4 * shape.hidden_size
        block = self._block(streams, length * (row_bytes + 2 * VOCABULARY + credit) + shape.num_layers * credit)
        for at in range(0, streams if length else 0, max(1, block)):
            part = slice(at, at + block)
            read = device.put(tokens[part])
            kept, fine = self._keep(model, read, states_in[part], after[part])
            cast = _Cast(read, kept, fine, shifts, votes, numbers[:kinds], numbers[kinds:], first_row + at)
            self._credit(model, branches, cast)
        *totals, score = device.get(numbers)
        votes = votes if model.held else device.get(votes)
        return Votes(votes, self._left(after, states), np.array(totals), int(score))

    def _keep(self, model, tokens, states, after):
        """Read a block's text: what every byte leaves, and the reader's logits in 1/4096 bit.

        after : the states after, written
        """
        device, shape, (readers, length) = self.device, model.shape, tokens.shape
        length -= 1
        kept = device.empty((readers * length, kept_columns(shape)["row"]), np.int8)
        fine = device.empty((readers * length, VOCABULARY), np.int16)
        self._forward(
            model, "forward_kept", readers, tokens, np.int32(length), states, after, kept, fine, np.int64(readers)
        )
        return kept, fine

    def _draw_branches(self, model, draw):
        """A step's branches of the wire on the device: see branches.cu."""
        device, shape, d = self.device, model.shape, model.shape.hidden_size
        head = model.weights[shape.tensors["head.weight"].slice]
        signs, places = device.empty((5 * d,), np.int8), device.empty((2,), np.int32)
        rows, total = device.empty((draw.branches,), np.int32), device.zeros((1,), np.int64)
        moves = device.empty((VOCABULARY // 2, draw.branches, 2), np.int16)
        count, shaped = np.int32(draw.branches), (shape, model.tile)
        drawn = np.uint32(draw.step), *_key(draw), count, signs, places, rows
        self._launch("branches.cu", "draw_branches", (1, 1), *drawn, shaped=shaped)
        self._launch("branches.cu", "measure_moves", (VOCABULARY, 1), head, signs, total, shaped=shaped)
        made = head, signs, places, rows, total, count, moves
        self._launch("branches.cu", "move_logits", (VOCABULARY, 1), *made, shaped=shaped)
        stations = self._prepare_stations(model, draw, signs, places) if draw.stations else None
        return _Branches(count, signs, places, rows, total, moves, draw.stations, stations)

    def _prepare_stations(self, model, draw, signs, places):
        """How the branches of stations move outputs: a bit for each matrix that is on, m of all, and the moves."""
        device, shape = self.device, model.shape
        on = np.int32(sum(1 << STATION_MATRICES.index(name) for station in draw.stations for name in READ_BY[station]))
        layers, d, matrices = shape.num_layers, shape.hidden_size, len(STATION_MATRICES)
        moved, moved_by = device.zeros((layers, matrices), np.int64), device.empty((layers, matrices), np.int32)
        moves = device.empty((layers, 12 * d * d), np.int8)
        grid, shaped = (9 * d, layers), (shape, model.tile)
        self._launch("branches.cu", "measure_stations", grid, model.weights, signs, moved, on, shaped=shaped)
        made = model.weights, signs, places, moved, moved_by, moves, on
        self._launch("branches.cu", "move_stations", grid, *made, shaped=shaped)
        return on, moved_by, moves

    def _credit(self, model, branches, cast):
        """Credit at the wire's end, then along it, and the votes of a block of readers."""
        device, shape, (readers, length) = self.device, model.shape, cast.tokens.shape
        length -= 1
        rows, columns, d = readers * length, _vote_row(shape, branches.stations), shape.hidden_size
        counts, shaped = (np.int32(readers), np.int32(length)), (shape, model.tile)
        cast_bytes, wire = device.empty((rows, columns), np.int8), device.empty((rows, d), np.int32)
        self._launch(
            "end.cu",
            "credit_end",
            (-(-rows // ROWS), 1),
            cast.fine,
            branches.moves,
            branches.rows,
            branches.signs,
            branches.places,
            branches.total,
            cast.kept,
            model.weights[shape.tensors["ln_out.weight"].slice],
            cast.tokens,
            self._exp2,
            self._likelihoods,
            self._fine_thresholds,
            cast.shifts,
            cast_bytes,
            wire,
            cast.totals,
            cast.score,
            *counts,
            branches.size,
            np.int32(columns),
            np.uint32(cast.first_row & 0xFFFFFFFF),
            shaped=shaped,
            threads=32 * ROWS,
        )
        ahead = device.empty((shape.num_layers, readers, d), np.int32)
        if branches.made:
            on, moved_by, moves = branches.made
            self._launch(
                "stations.cu",
                "credit_stations",
                (readers, 1),
                cast.kept,
                model.weights,
                cast.tokens,
                wire,
                branches.signs,
                branches.places,
                moved_by,
                moves,
                cast.shifts,
                cast_bytes,
                ahead,
                cast.votes,
                cast.totals,
                *counts,
                np.int32(columns),
                on,
                shaped=shaped,
                threads=min(THREADS, max(32, d)),
            )
        else:
            self._launch(
                "wire.cu",
                "credit_wire",
                (-(-readers * d // 512), 1),
                cast.kept,
                cast.tokens,
                wire,
                cast.shifts,
                cast_bytes,
                ahead,
                cast.votes,
                cast.totals,
                *counts,
                np.int32(columns),
                shaped=shaped,
                threads=128,
            )
        matrices, vectors = self._table(branch_tables, shape, branches.stations)
        self._sum("sum_matrices", matrices, (cast_bytes, cast.kept), cast.votes, rows, threads=128)
        self._sum("sum_vectors", vectors, (cast_bytes,), cast.votes, rows)

    def update_rows(self, layout, master, squares, votes, step, step_size):
        device, size, rows = self.device, layout.parameters, layout.rows
        moved = self._given(master, np.int32, (size,), "master")
        mean_squares = self._given(squares, np.int64, (rows,), "squares")
        (starts,) = self._table(_row_starts, layout)
        weights = device.empty((size,), np.int8)
        self._launch(
            "rows.cu",
            "move_rows",
            self._elements(32 * rows),
            moved,
            mean_squares,
            self._given(votes, np.int32, (size,), "votes"),
            starts,
            weights,
            np.int32(rows),
            np.int32(min(WINDOW, step + 1)),
            np.int64(step_size),
        )
        if device.holds(master):
            return weights
        master[...], squares[...] = device.get(moved), device.get(mean_squares)
        return device.get(weights)

    def cast_pair_votes(self, shape, fitness, noise, *, first_pair=0):
        given = self._given(fitness, np.int8, (len(fitness),), "fitness")
        votes = self.device.zeros((shape.parameters,), np.int64)
        cast = self._cast_sign_votes if _bits_alone(noise) else self._cast_factor_votes
        cast(shape, given, noise, first_pair, votes)
        return self._left(votes, fitness)

    def _cast_sign_votes(self, shape, fitness, noise, first_pair, votes):
        """Add to (parameters,) int64 votes where directions are bits: sums of all pairs, which int32 holds."""
        device, pairs = self.device, len(fitness)
        sums = device.zeros((shape.parameters,), np.int32)
        matrices, vectors, stretches = self._table(pair_tables, shape)
        v_columns = sum(t.shape[0] for t in shape.tensors.values())
        x_columns = sum(t.shape[1] for t in shape.tensors.values() if len(t.shape) == 2)
        block = max(1, self._block(pairs, 4 * sign_words(shape) + v_columns + x_columns))
        for at in range(0, pairs, block):
            part = fitness[at : at + block]
            rows = len(part)
            words = self._draw(shape, rows, first_pair + at, noise)
            v = device.empty((rows, v_columns), np.int8)
            x = device.empty((rows, x_columns), np.int8)
            self._launch(
                "pairs.cu",
                "expand_signs",
                (rows, len(stretches)),
                words,
                part,
                stretches,
                v,
                x,
                np.int32(sign_words(shape)),
                np.int32(v_columns),
                np.int32(x_columns),
            )
            self._sum("sum_matrices", matrices, (v, x), sums, rows, threads=128)
            self._sum("sum_vectors", vectors, (v,), sums, rows)
        self._add(sums, votes, 1)

    def _cast_factor_votes(self, shape, fitness, noise, first_pair, votes):
        """The same where rank is not 1 or factors are Gaussian: sums of blocks, which int32 holds."""
        d, rank, width = shape.hidden_size, noise.rank, factor_width(shape, noise.gaussian)
        matrices, places = self._table(factor_tables, shape, noise.gaussian)
        table = self._table(_normal if noise.use_clt else _normal_signs)
        kinds = ((1, 1), (2, 128)) if noise.gaussian and noise.use_clt else ((0, 1),)  # LOW, HIGH; WHOLE of pairs.cu
        block = max(1, min(self._block(len(fitness), 2 * rank * width), MOST_ROWS // rank))
        for at in range(0, len(fitness), block):
            part = fitness[at : at + block]
            pairs = len(part)
            factors = self._draw_factors(shape, pairs, first_pair + at, noise, table)
            for kind, scale in kinds:
                self._add(self._sum_weighed(shape, matrices, factors, part, kind), votes, scale)
            size, slices = self._slices(pairs, len(places))
            counts = map(np.int32, (pairs, size, rank * width, d, noise.root))
            grid = len(places), slices
            self._launch("pairs.cu", "sum_pair_vectors", grid, factors, part, places, votes, *counts)
            del factors  # before the next block's

    def _add(self, sums, votes, scale):
        """Add int32 sums to int64 votes."""
        count = len(votes)
        scaled = sums, votes, np.int64(scale), np.int64(count)
        self._launch("votes.cu", "add_sums", self._elements(count), *scaled)

    def _sum_weighed(self, shape, matrices, factors, fitness, kind):
        """(parameters,) int32: a block's votes on matrices, or a part of them."""
        pairs, rank, width = factors.shape
        sums = self.device.zeros((shape.parameters,), np.int32)
        v = self.device.empty((pairs * rank, width), np.int8)
        weighed = factors, fitness, v, np.int32(rank * width), np.int32(kind)
        self._launch("pairs.cu", "weigh_factors", (pairs, 1), *weighed)
        rows = v, factors.reshape(pairs * rank, width)
        self._sum("sum_matrices", matrices, rows, sums, pairs * rank, threads=128)
        return sums

    def _table(self, tables, *of):
        """Where votes lie, on the device: 64 x 64 tiles of the matrices, vectors, and where the signs of pairs go."""
        if (tables, of) not in self._tables:
            self._tables[tables, of] = tuple(self.device.put(table) for table in tables(*of))
        return self._tables[tables, of]

    def _slices(self, rows: int, tiles: int) -> tuple[int, int]:
        """Rows of a slice and how many slices: enough to fill the device, few enough rows for int32."""
        enough = -(-4 * self.device.multiprocessors // tiles)
        slices = max(-(-rows // MOST_ROWS), min(enough, -(-rows // 256)))
        size = -(-rows // slices // 32) * 32
        return size, -(-rows // size)

    def _sum(self, kernel, places, signs, votes, rows, threads=THREADS):
        size, slices = self._slices(rows, len(places))
        columns = (np.int32(array.shape[1]) for array in signs)
        counts = np.int32(rows), np.int32(size), *columns
        self._launch("votes.cu", kernel, (len(places), slices), *signs, places, votes, *counts, threads=threads)

    def update_master(self, layout, master, votes, multiplier):
        device, size = self.device, layout.parameters
        moved = device.put(_checked(master, np.int16, (size,), "master"))
        weights = device.empty((size,), np.int8)
        self._launch(
            "update.cu",
            "move_master",
            self._elements(size),
            moved,
            device.put(_checked(votes, np.int64, (size,), "votes")),
            np.int64(multiplier),
            weights,
            np.int64(size),
        )
        master[...] = device.get(moved)
        return device.get(weights)

    def update_signs(self, weights, votes, threshold):
        size = weights.shape
        moved = self.device.empty(size, np.int8)
        self._launch(
            "update.cu",
            "move_signs",
            self._elements(len(weights)),
            self._given(weights, np.int8, size, "weights"),
            self._given(votes, np.int64, size, "votes"),
            moved,
            np.int64(threshold),
            np.int64(len(weights)),
        )
        return self._left(moved, weights)


def _key(noise: Noise | Draw):
    return tuple(np.uint32(word) for word in key_words(noise.seed))


def _bits_alone(noise: Noise) -> bool:
    """Whether directions are drawn as bits, of rank 1: members gain one sign term a product."""
    return noise.rank == 1 and not noise.gaussian


def _normal() -> tuple[np.ndarray]:
    """Gaussian factors by their halfword, as a table."""
    return (normal_table(),)


def _normal_signs() -> tuple[np.ndarray]:
    """Their signs."""
    return (np.sign(normal_table()),)


def _row_starts(layout) -> tuple[np.ndarray]:
    """Where rows begin, as a table."""
    return (layout.row_starts,)


def _vote_row(shape: Shape, stations: tuple[str, ...]) -> int:
    """Bytes of a row of votes."""
    return vote_columns(shape)["wide_row" if stations else "row"]


def _bytes(tokens):
    return _checked(tokens, np.uint8, tokens.shape, "tokens")


def _checked(array, dtype, shape, what):
    """The array as the kernels read it, contiguous.

    Raises BackendError if it is of another type or shape: a kernel would read beyond it.
    """
    if array.dtype != dtype or array.shape != tuple(shape):
        raise BackendError(
            f"backend cupy: {what} is {array.dtype}{list(array.shape)}, expected {np.dtype(dtype)}{list(shape)}"
        )
    return np.ascontiguousarray(array)
