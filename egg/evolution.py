"""One step of evolution: members read text, are scored and credited, vote on every weight, and the weights move.

docs/arithmetic.md has every formula; the two recipes differ in who votes for what, not in the model.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from egg.errors import EggError
from egg.optimizer import default_step_size, multipliers, scheduled_step_size, sign_threshold
from egg.parameters import initial_weights
from egg.vote_signal import signal_to_noise
from kernels.arithmetic import (
    CREDIT_SCALE_FLOOR,
    FINE,
    LIMIT,
    MASTER_BITS,
    SIXTEENTHS,
)
from kernels.backend import Backend, Noise
from kernels.layout import Shape
from kernels.philox import STREAM_ORDER, words

SAMPLED = (
    128  # groups, or eight times as many pairs, whose votes are compared: bounds the time it takes
)
STREAMS = 4096  # texts that take turns in recipe egg: few would tie the model to the documents they are in


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
    """

    def __init__(self, config, backend: Backend, text: Text):
        self.config, self.backend, self.text = config.evolution, backend, text
        self.shape = Shape(config.model.hidden_size, config.model.num_layers)
        self.step_number = 0
        self.weights = initial_weights(self.shape, self.config.seed, self.config.recipe)
        layers = (self.shape.num_layers, self.shape.hidden_size)
        if self.config.recipe == "egg":
            self.groups = self.config.population_size // self.config.group_size
            fitting = text.size // (64 * self.groups)
            streams = self.groups * max(1, min(STREAMS // self.groups, fitting))
            self.master = self.weights.astype(np.int16) << MASTER_BITS
            self.credit_scale = CREDIT_SCALE_FLOOR
            self.states = np.zeros((streams, *layers), np.int8)
        else:
            streams = self.config.population_size // 2
            self.states = np.zeros((2 * streams, *layers), np.int8)
        self.starts = np.arange(streams, dtype=np.int64) * text.size // streams
        self._order = (-1, None)

    @property
    def member_tokens(self) -> int:
        """Bytes read by all members since the beginning."""
        return self.step_number * self.config.population_size * self.config.seq_len

    def step(self) -> StepReport:
        """Run the population over its next chunk of text, and move the weights."""
        c = self.config
        noise = Noise(c.seed, self.step_number, c.sigma_shift, c.perturbation)
        model = self.backend.prepare(self.shape, self.weights)
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

    def _egg_step(self, model, noise: Noise) -> float:
        c = self.config
        streams, rounds = self._turn()
        tokens = self.text.read(self.starts[streams] + rounds * c.seq_len, c.seq_len + 1)
        cast = self.backend.cast_traced_votes(
            model, tokens, self.states[streams], noise,
            group_size=c.group_size, credit_scale=self.credit_scale,
        )  # fmt: skip
        self.states[streams] = cast.states
        self.credit_scale = max(CREDIT_SCALE_FLOOR, cast.deviation // c.population_size)
        step_size = multipliers(self.shape, self.step_size(), c.population_size)
        self.weights = self.backend.update_master(self.shape, self.master, cast.votes, step_size)
        return -int(cast.scores.sum(dtype=np.int64)) / (FINE * c.population_size * c.seq_len)

    def _paper_step(self, model, noise: Noise) -> float:
        c = self.config
        pairs = len(self.starts)
        tokens = self.text.read(self.starts + self.step_number * c.seq_len, c.seq_len + 1)
        scores, self.states = self.backend.run_pairs(model, tokens, self.states, noise)
        fitness = np.sign(scores[0::2] - scores[1::2]).astype(np.int8)
        votes = self.backend.cast_pair_votes(self.shape, fitness, noise)
        threshold = sign_threshold(self.step_number, pairs)
        self.weights = self.backend.update_signs(self.weights, votes, threshold)
        return -int(scores.sum(dtype=np.int64)) / (SIXTEENTHS * c.population_size * c.seq_len)

    def vote_signal_to_noise(self) -> float | None:
        """Energy of the signal in the coming step's votes over that of the noise; see egg.vote_signal.

        Casts some of those votes in two halves, and changes nothing. None where there is but one group or pair.
        """
        c, paper = self.config, self.config.recipe == "paper"
        noise = Noise(c.seed, self.step_number, c.sigma_shift, c.perturbation)
        there = len(self.states) // 2 if paper else self.groups
        half = min(there, 8 * SAMPLED if paper else SAMPLED) // 2
        if not half:
            return None
        model = self.backend.prepare(self.shape, self.weights)
        streams, rounds = (np.arange(there), self.step_number) if paper else self._turn()
        tokens = self.text.read(self.starts[streams] + rounds * c.seq_len, c.seq_len + 1)
        halves = []
        for first in (0, half):
            some = slice(first, first + half)
            if paper:
                states = self.states[2 * first : 2 * (first + half)]
                scores, _ = self.backend.run_pairs(
                    model, tokens[some], states, noise, first_pair=first
                )
                fitness = np.sign(scores[0::2] - scores[1::2]).astype(np.int8)
                votes = self.backend.cast_pair_votes(self.shape, fitness, noise, first_pair=first)
            else:
                votes = self.backend.cast_traced_votes(
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
        """What exact continuation needs beside configuration and text: name -> array."""
        state = {"step": np.array([self.step_number], np.int64), "states": self.states}
        if self.config.recipe == "egg":
            state |= {
                "master": self.master,
                "credit_scale": np.array([self.credit_scale], np.int64),
            }
        else:
            state["weights"] = self.weights
        return state

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from what ``state`` gave.

        Raises EggError if a part is missing or of another shape, dtype or range.
        """
        for name, mine in self.state().items():
            there = state.get(name)
            if there is None:
                raise EggError(
                    f"the training state has no {name!r}: it belongs to another recipe or version"
                )
            if there.shape != mine.shape or there.dtype != mine.dtype:
                raise EggError(
                    f"the training state's {name!r} is {there.dtype}{list(there.shape)}, this "
                    f"configuration and corpus need {mine.dtype}{list(mine.shape)}"
                )
        low, high = -LIMIT << MASTER_BITS, LIMIT << MASTER_BITS
        if int(state["step"][0]) < 0 or state["states"].min(initial=0) < -LIMIT:
            raise EggError("the training state is out of range: step or states")
        if self.config.recipe == "egg":
            master = state["master"]
            if int(state["credit_scale"][0]) < CREDIT_SCALE_FLOOR:
                raise EggError("the training state is out of range: credit_scale")
            if master.min() < low or master.max() > high:
                raise EggError("the training state is out of range: master")
            self.master = master.copy()
            self.credit_scale = int(state["credit_scale"][0])
            half = 1 << (MASTER_BITS - 1)
            self.weights = ((master.astype(np.int32) + half) >> MASTER_BITS).astype(np.int8)
        else:
            if state["weights"].min() < -LIMIT:
                raise EggError("the training state is out of range: weights")
            self.weights = state["weights"].copy()
        self.states = state["states"].copy()
        self.step_number = int(state["step"][0])
