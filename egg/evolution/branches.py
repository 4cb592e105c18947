"""Recipe ``egg``: a reader for each stream, members that branch off at every byte, votes on all that feeds the wire."""

from typing import Any

import numpy as np

from egg.evolution.base import Evolution, Text
from egg.kernels.arithmetic import FINE, LIMIT, MASTER_BITS, VOCABULARY, VOTE_LIMIT, first_shifts, next_shifts
from egg.kernels.backend import Backend, Draw, Votes, fetch, hold, put_rows, take_rows
from egg.kernels.layout import Shape
from egg.kernels.philox import STREAM_ORDER, words
from egg.model.state import STEP, Form
from egg.optimizer import SHARE_BITS, STEP_BITS, scheduled_step_size
from egg.ranks.distributed import ALONE, Alone

STREAMS = 4096  # texts that take turns: few would tie the model to the documents they are in


class BranchEvolution(Evolution):
    """The weights, or what a subclass puts in their place: ``layout``, ``network``, ``begin_from``."""

    def __init__(self, config, backend: Backend, text: Text, ranks: Alone = ALONE):
        super().__init__(config, backend, text, ranks)
        c = self.config
        # Both in 2**-16 int8 steps.
        self._first_step = round(c.step_size * (1 << STEP_BITS))
        self._last_step = round(self._first_step * c.final_step_share)
        states = np.zeros((len(self.starts), self.shape.num_layers, self.shape.hidden_size), np.int8)
        self.states = hold(backend, states)
        self.shifts = first_shifts(self.shape.num_layers, bool(c.station_names))
        self._credits = self.shape.credits(c.tokens_per_step, bool(c.station_names))
        self._order: tuple[int, Any, Any] = (-1, None, None)
        self.begin_from(self.weights)

    def begin_from(self, weights: np.ndarray) -> None:
        """Evolve these from now on, with no history of votes.

        weights : (layout.parameters,) int8
        """
        self.master = self._hold(weights.astype(np.int32) << MASTER_BITS)
        self.squares = self._hold(np.zeros(self.layout.rows, np.int64))
        # No votes move nothing; a backend without this recipe says so here, before anything is written.
        votes = np.zeros(self.layout.parameters, np.int32)
        self.weights = self.backend.update_rows(self.layout, self.master, self.squares, votes, 0, 0)

    def _hold(self, array: np.ndarray) -> Any:
        """The array where the backend computes, if it is a whole model that evolves."""
        return hold(self.backend, array) if self.layout is self.shape else array

    @property
    def description(self):
        """Readers, bytes, branches and stations."""
        c = self.config
        branches = c.branches + VOCABULARY
        stations = f", stations {', '.join(c.station_names)}" if c.station_names else ""
        return f"recipe egg, {c.streams:,} readers x {c.seq_len:,} bytes a step, {branches} branches at each{stations}"

    def step_size(self) -> int:
        """The schedule's step size now, in 2**-16 int8 steps."""
        c = self.config
        at, end = self.tokens, c.schedule_tokens
        if end == "time":
            at, end = self.time_share, 1 << SHARE_BITS
        return scheduled_step_size(self._first_step, self._last_step, c.schedule, at, end)

    def _step(self):
        c, step_size = self.config, self.step_size()
        streams, held, rounds = self._turn()
        cast = self._cast(streams, held, rounds)
        votes = self._to_exchange(cast.votes)
        score, *totals = self.ranks.add(votes, int(cast.score), *cast.totals.tolist())
        states = self.ranks.all_gather(self._to_exchange(cast.states), c.streams)
        put_rows(self.backend, self.states, held, states)
        self.shifts = next_shifts(self.shifts, totals, self._credits)
        self.weights = self.backend.update_rows(
            self.layout, self.master, self.squares, votes, self.step_number, step_size
        )
        return -score / (FINE * c.tokens_per_step), step_size / (1 << STEP_BITS)

    def _cast(self, streams: np.ndarray, held: Any, rounds: int) -> Votes:
        """This rank's votes in the coming step.

        streams : (B,) int64, whose turn it is
        held : the same, held
        rounds : turns that each has had
        """
        c, share = self.config, self.ranks.share(self.config.streams)
        mine = streams[share]
        if not len(mine):  # more ranks than streams
            votes = np.zeros(self.layout.parameters, np.int32)
            return Votes(votes, self.states[:0], np.zeros_like(self.shifts), 0)
        tokens = self.text.read(self.starts[mine] + rounds * c.seq_len, c.seq_len + 1)
        whole = self.layout is self.shape
        model = self.backend.prepare(self.shape, self._held) if whole else self.network.prepared
        return self.backend.cast_votes(
            model,
            tokens,
            take_rows(self.backend, self.states, held[share]),
            Draw(c.seed, self.step_number, c.branches, self.shifts, c.station_names),
            first_row=c.streams * self.step_number + share.start,
        )

    def _turn(self) -> tuple[np.ndarray, Any, int]:
        """The streams whose turn it is, the same held, and how many turns each had before."""
        each = self.config.streams
        rounds, turn = divmod(self.step_number, len(self.starts) // each)
        if self._order[0] != rounds:
            keys = words(self.config.seed, STREAM_ORDER, 0, rounds, len(self.starts))
            order = np.argsort(keys, kind="stable")
            self._order = rounds, order, hold(self.backend, order)
        _, order, held = self._order
        now = slice(turn * each, (turn + 1) * each)
        return order[now], held[now], rounds

    def state(self):
        """The arrays of a checkpoint, by name."""
        return {
            "step": np.array([self.step_number], np.int64),
            "states": fetch(self.backend, self.states),
            "master": fetch(self.backend, self.master),
            "squares": fetch(self.backend, self.squares),
            "shifts": self.shifts,
        }

    def _load(self, state, layout):
        same = {
            name: self.ranks.broadcast(state.get(name), form.shape, form.dtype).copy() for name, form in layout.items()
        }
        self.step_number = int(same["step"][0])
        self.states, self.shifts = hold(self.backend, same["states"]), same["shifts"]
        self.master, self.squares = self._hold(same["master"]), self._hold(same["squares"])
        half = 1 << (MASTER_BITS - 1)
        self.weights = self._hold(((same["master"] + half) >> MASTER_BITS).astype(np.int8))

    @staticmethod
    def stream_count(config, text_size):
        """A multiple of a step's streams: 4,096 at the most, of 64 bytes each at least, or one turn."""
        each = config.streams
        return each * max(1, min(STREAMS // each, text_size // (64 * each)))

    @classmethod
    def state_layout(cls, shape: Shape, config, text_size):
        """Step, states, masters, and the running sizes of the votes."""
        layers = shape.num_layers, shape.hidden_size
        most = LIMIT << MASTER_BITS
        return {
            "step": STEP,
            "states": Form((cls.stream_count(config, text_size), *layers), np.int8, -LIMIT, LIMIT),
            "master": Form((shape.parameters,), np.int32, -most, most),
            "squares": Form((shape.rows,), np.int64, 0, VOTE_LIMIT**2 << 4),
            "shifts": Form((shape.vote_kinds(bool(config.station_names)),), np.int64, 0, 31),
        }

    @classmethod
    def memory(cls, config, text_size, ranks=1):
        """Weights, masters, votes; streams' states, starts and order; what a reader's bytes leave; stations' moves."""
        e, shape = config.evolution, config.model.shape
        width = shape.num_layers * shape.hidden_size
        rows = -(-e.streams // ranks) * e.seq_len
        streams = cls.stream_count(e, text_size)
        need = 10 * shape.parameters + streams * (width + 32) + rows * 15 * width
        # The input and the middle of the MLP, credits of a layer's vectors; a move for each weight that is read.
        return need + (7 * rows + 12 * shape.hidden_size) * width if e.station_names else need
