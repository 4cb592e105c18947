"""One step of evolution: members read text, are scored and credited, vote on every weight, and the weights move.

docs/arithmetic.md has every formula; the two recipes differ in who votes for what, not in the model.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from egg.distributed import ALONE, Alone
from egg.optimizer import default_step_size, multipliers, scheduled_step_size, sign_threshold
from egg.parameters import initial_weights
from egg.state import check_state, state_layout, stream_count
from egg.vote_signal import signal_to_noise
from kernels.arithmetic import (
    CREDIT_SCALE_FLOOR,
    FINE,
    LIMIT,
    MASTER_BITS,
    SIXTEENTHS,
)
from kernels.backend import Backend, Noise, TracedVotes
from kernels.layout import Layout, Shape
from kernels.philox import STREAM_ORDER, words

DEFAULT_SIGMA_SHIFT = {"sign": 4, "input": 3}  # docs/learning.md
SAMPLED = (
    128  # groups, or eight times as many pairs, whose votes are compared: bounds the time it takes
)


class Text(Protocol):
    """Bytes to learn from; ``egg.cli_corpus.CorpusText`` is one."""

    size: int

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(len(starts), length) uint8 from each start on, wrapping round at the end."""


@dataclass(frozen=True)
class StepReport:
    """What a step tells the log."""

    step: int
    """Steps done, this one included."""
    member_tokens: int
    """Bytes read by all members since the beginning."""
    train_integer_bits_per_byte: float
    """Mean integer score of the perturbed members, in bits; it reads a little too good, see docs/arithmetic.md."""
    changed_share: float
    """Share of the int8 weights that this step changed."""
    clipped_share: float
    """Share of the int8 weights that are at +-127."""


class Evolution:
    """A model in training. All that evolves is an integer, and follows from config, text and backend exactly.

    config : has ``model`` and ``evolution``, see egg.config
    backend : the results do not depend on which
    text : the bytes to learn from
    ranks : the processes that share the population; the results do not depend on their number
    """

    def __init__(self, config, backend: Backend, text: Text, ranks: Alone = ALONE):
        self.config, self.backend, self.text = config.evolution, backend, text
        self.ranks = ranks
        self.shape = Shape(config.model.hidden_size, config.model.num_layers)
        self.layout: Layout = self.shape  # of what evolves
        self.step_number = 0
        self.weights = initial_weights(self.shape, self.config.seed, self.config.recipe)
        layers = (self.shape.num_layers, self.shape.hidden_size)
        streams = stream_count(self.config, text.size)
        if self.config.recipe == "egg":
            self.groups = self.config.population_size // self.config.group_size
            self.master = self.weights.astype(np.int16) << MASTER_BITS
            self.credit_scale = CREDIT_SCALE_FLOOR
            self.states = np.zeros((streams, *layers), np.int8)
        else:
            mine = ranks.share(
                streams
            )  # a pair reads its own stream for ever: no other rank needs its states
            self.states = np.zeros((2 * (mine.stop - mine.start), *layers), np.int8)
        self.starts = np.arange(streams, dtype=np.int64) * text.size // streams
        self._order = (-1, None)

    @property
    def member_tokens(self) -> int:
        """Bytes read by all members since the beginning."""
        return self.step_number * self.config.population_size * self.config.seq_len

    def step(self) -> StepReport:
        """Run the population over its next chunk of text, and move the weights."""
        c = self.config
        noise = self._noise()
        model = self.prepare()
        before = self.weights
        bits = self._egg_step(model, noise) if c.recipe == "egg" else self._paper_step(model, noise)
        self.step_number += 1
        return StepReport(
            self.step_number,
            self.member_tokens,
            bits,
            float(np.count_nonzero(self.weights != before)) / before.size,
            float(np.count_nonzero(np.abs(self.weights) == LIMIT)) / before.size,
        )

    def prepare(self) -> Any:
        """The model as the backend wants it."""
        return self.backend.prepare(self.shape, self.weights)

    def cast(self, *arguments, **settings) -> TracedVotes:
        """Votes on what evolves, see ``kernels.backend``."""
        return self.backend.cast_traced_votes(*arguments, **settings)

    def multipliers(self) -> np.ndarray:
        """(tensors,) int64: what votes are multiplied by now, one for each tensor."""
        return multipliers(self.shape, self.step_size(), self.config.population_size)

    def _egg_step(self, model, noise: Noise) -> float:
        c = self.config
        streams, rounds = self._turn()
        share = self.ranks.share(self.groups)
        mine = streams[share]
        tokens = self.text.read(self.starts[mine] + rounds * c.seq_len, c.seq_len + 1)
        if len(mine):
            cast = self.cast(
                model, tokens, self.states[mine], noise, first_group=share.start,
                group_size=c.group_size, credit_scale=self.credit_scale,
            )  # fmt: skip
        else:  # more ranks than groups
            cast = TracedVotes(
                np.zeros(self.layout.parameters, np.int64),
                self.states[mine],
                np.zeros(0, np.int32),
                0,
            )
        scores = int(cast.scores.sum(dtype=np.int64))
        deviation, scores = self.ranks.add(cast.votes, cast.deviation, scores)
        self.states[streams] = self.ranks.join(cast.states, self.groups)
        self.credit_scale = max(CREDIT_SCALE_FLOOR, deviation // c.population_size)
        self.weights = self.backend.update_master(
            self.layout, self.master, cast.votes, self.multipliers()
        )
        return -scores / (FINE * c.population_size * c.seq_len)

    def _paper_step(self, model, noise: Noise) -> float:
        c = self.config
        pairs = len(self.starts)
        share = self.ranks.share(pairs)
        starts = self.starts[share] + self.step_number * c.seq_len
        tokens = self.text.read(starts, c.seq_len + 1)
        first = {"first_pair": share.start}
        scores, self.states = self.backend.run_pairs(model, tokens, self.states, noise, **first)
        fitness = np.sign(scores[0::2] - scores[1::2]).astype(np.int8)
        # Fitness alone would do, with every rank casting all votes: that takes longer than this sum of them
        # from a few hundred pairs on (docs/scaling.md).
        votes = self.backend.cast_pair_votes(self.shape, fitness, noise, **first)
        (scores,) = self.ranks.add(votes, int(scores.sum(dtype=np.int64)))
        threshold = sign_threshold(self.step_number, pairs)
        self.weights = self.backend.update_signs(self.weights, votes, threshold)
        return -scores / (SIXTEENTHS * c.population_size * c.seq_len)

    def _noise(self) -> Noise:
        """The coming step's draw."""
        c = self.config
        shift = DEFAULT_SIGMA_SHIFT[c.perturbation] if c.sigma_shift is None else c.sigma_shift
        return Noise(c.seed, self.step_number, shift, c.perturbation)

    def vote_signal_to_noise(self) -> float | None:
        """Energy of the signal in the coming step's votes over that of the noise; see egg.vote_signal.

        Casts some of those votes in two halves, and changes nothing. None where there is but one group or pair, and
        on other ranks than the first; all ranks call it.
        """
        c, paper = self.config, self.config.recipe == "paper"
        noise = self._noise()
        there = len(self.starts) if paper else self.groups
        half = min(there, 8 * SAMPLED if paper else SAMPLED) // 2
        if not half:
            return None
        if paper:
            paired = self.ranks.gather(_by_pairs(self.states), there, 2 * half)
        if not self.ranks.leader:
            return None
        model = self.prepare()
        streams, rounds = (np.arange(there), self.step_number) if paper else self._turn()
        streams = streams[: 2 * half]
        tokens = self.text.read(self.starts[streams] + rounds * c.seq_len, c.seq_len + 1)
        halves = []
        for first in (0, half):
            some = slice(first, first + half)
            if paper:
                states = _by_members(paired[some])
                scores, _ = self.backend.run_pairs(
                    model, tokens[some], states, noise, first_pair=first
                )
                fitness = np.sign(scores[0::2] - scores[1::2]).astype(np.int8)
                votes = self.backend.cast_pair_votes(self.shape, fitness, noise, first_pair=first)
            else:
                votes = self.cast(
                    model, tokens[some], self.states[streams[some]], noise,
                    group_size=c.group_size, credit_scale=self.credit_scale, first_group=first,
                ).votes  # fmt: skip
            halves.append(votes.copy())  # a backend may keep the array for the next
        units = c.population_size // (2 if paper else c.group_size)
        return signal_to_noise(*halves, half, units)

    def step_size(self) -> int:
        """The schedule's step size now, in 2**-16 int8 steps (recipe ``egg``)."""
        c = self.config
        first = (
            default_step_size(c.schedule_tokens)
            if c.step_size is None
            else round(c.step_size * 65536)
        )
        last = round(first * c.final_step_share)
        return scheduled_step_size(first, last, c.schedule, self.member_tokens, c.schedule_tokens)

    def _turn(self) -> tuple[np.ndarray, int]:
        """The streams whose turn it is, and how many turns each had before."""
        per_round = len(self.starts) // self.groups
        rounds, turn = divmod(self.step_number, per_round)
        if self._order[0] != rounds:
            keys = words(self.config.seed, STREAM_ORDER, 0, rounds, len(self.starts))
            self._order = rounds, np.argsort(keys, kind="stable")
        return self._order[1][turn * self.groups : (turn + 1) * self.groups], rounds

    def state(self) -> dict[str, np.ndarray]:
        """What exact continuation needs beside configuration and text: name -> array.

        All ranks call it; what it gives is whole on rank 0.
        """
        state = {"step": np.array([self.step_number], np.int64)}
        if self.config.recipe == "egg":
            return state | {
                "states": self.states,
                "master": self.master,
                "credit_scale": np.array([self.credit_scale], np.int64),
            }
        states = self.ranks.gather(_by_pairs(self.states), len(self.starts))
        return state | {"states": _by_members(states), "weights": self.weights}

    def load_state(self, state: dict[str, np.ndarray] | None) -> None:
        """Continue from what ``state`` gave; all ranks call it, the others than rank 0 with None.

        Raises EggError if a part is missing or of another shape, dtype or range.
        """
        layout = state_layout(self.shape, self.config, self.text.size)
        if self.ranks.leader:
            check_state(state, layout, self.config)
        state = state or {}
        same = {
            name: self.ranks.same(state.get(name), *form)
            for name, form in layout.items()
            if self.config.recipe == "egg" or name != "states"
        }
        self.step_number = int(same["step"][0])
        if self.config.recipe == "egg":
            self.master, self.states = same["master"].copy(), same["states"].copy()
            self.credit_scale = int(same["credit_scale"][0])
            half = 1 << (MASTER_BITS - 1)
            self.weights = ((self.master.astype(np.int32) + half) >> MASTER_BITS).astype(np.int8)
        else:
            self.weights = same["weights"].copy()
            states = _by_pairs(state["states"]) if state else None
            row = 2, self.shape.num_layers, self.shape.hidden_size
            self.states = _by_members(self.ranks.spread(states, len(self.starts), row)).copy()


def _by_pairs(states: np.ndarray) -> np.ndarray:
    return states.reshape(-1, 2, *states.shape[1:])


def _by_members(states: np.ndarray) -> np.ndarray:
    return states.reshape(-1, *states.shape[2:])
