"""The classic evolution strategy as a baseline: full-rank noise, in place, one member at a time.

As Salimans et al. (2017, arXiv 1703.03864) with the memory of Qiu et al. (2025, arXiv 2509.24372): noise is never
stored, but drawn again from the seed to add it, to subtract it, and to vote. docs/arithmetic.md, "Classic evolution".
"""

from dataclasses import dataclass

import numpy as np

from egg.evolution.base import Text
from egg.evolution.reward import pair_fitness
from egg.kernels.arithmetic import FINE, LIMIT, REWARD_MASTER_BITS
from egg.kernels.backend import Backend, Noise
from egg.kernels.layout import Shape
from egg.kernels.reference import scores
from egg.model.network import Network
from egg.optimizer import ranked_multiplier, scheduled_step_size


@dataclass(frozen=True)
class ClassicSettings:
    """The members' noise, the text that they read, and the size of a move."""

    steps: int
    population_size: int = 128
    sequences: int = 16
    """Stretches of text that every member reads, each from state zero."""
    seq_len: int = 32
    """Bytes of each."""
    sigma_shift: int = 3
    step_size: int = 1 << 15
    """In 2**-16 int8 steps; falls linearly to a twentieth."""
    seed: int = 0

    @property
    def amount(self) -> int:
        """V, int8 steps by which a member's weights differ."""
        return max(1, (1 << 4) >> self.sigma_shift)

    @property
    def tokens_per_step(self) -> int:
        """Bytes read by all members."""
        return self.population_size * self.sequences * self.seq_len


class ClassicEvolution:
    """All weights in training.

    base : the model to begin with
    """

    def __init__(self, base: Network, text: Text, settings: ClassicSettings):
        self.backend, self.shape, self.text, self.settings = base.backend, base.shape, text, settings
        self.master = base.weights.astype(np.int16) << REWARD_MASTER_BITS
        self.weights = self._rounded()
        self.step_number = 0

    @property
    def network(self) -> Network:
        """The model as it is now."""
        return Network(self.backend, self.shape, self.weights)

    def step(self) -> float:
        """Let every member read, and move the weights; returns the members' mean integer bits per byte."""
        s = self.settings
        noise = Noise(s.seed, self.step_number, s.sigma_shift)
        starts = np.arange(s.sequences, dtype=np.int64) * self.text.size // s.sequences
        tokens = self.text.read(starts + self.step_number * s.seq_len, s.seq_len + 1)
        found = np.empty(s.population_size, np.int64)
        for pair in range(s.population_size // 2):
            found[2 * pair : 2 * pair + 2] = read_pair(
                self.backend, self.shape, self.weights, tokens, noise, pair, s.amount
            )
        fitness = pair_fitness(found)
        votes = self.backend.cast_full_rank_votes(self.weights.size, fitness, noise)
        size = scheduled_step_size(s.step_size, s.step_size // 20, "linear", self.step_number * LIMIT, s.steps * LIMIT)
        multiplier = ranked_multiplier(size, fitness)
        self.backend.update_master(self.shape, self.master, votes, multiplier)
        self.weights = self._rounded()
        self.step_number += 1
        return -int(found.sum()) / (FINE * s.tokens_per_step)

    def _rounded(self) -> np.ndarray:
        """The int8 weights; masters are limited so that no member's weights are clipped."""
        room = (LIMIT - self.settings.amount) << REWARD_MASTER_BITS
        np.clip(self.master, -room, room, out=self.master)
        half = 1 << (REWARD_MASTER_BITS - 1)
        return ((self.master.astype(np.int32) + half) >> REWARD_MASTER_BITS).astype(np.int8)


def read_pair(
    backend: Backend, shape: Shape, weights: np.ndarray, tokens: np.ndarray, noise: Noise, pair: int, amount: int
) -> tuple[int, int]:
    """Summed scores of the two members of a pair, in 1/256 bit; ``weights`` are moved and restored.

    weights : (parameters,) int8, at least ``amount`` within -127..127
    tokens : (sequences, T + 1) uint8
    """
    states = np.zeros((len(tokens), shape.num_layers, shape.hidden_size), np.int8)
    found = []
    for move in (amount, -2 * amount):
        backend.add_full_rank(weights, noise, pair, move)
        logits, _ = backend.forward(backend.prepare(shape, weights), tokens[:, :-1], states)
        found.append(int(scores(logits, tokens[:, 1:], FINE).sum(dtype=np.int64)))
    backend.add_full_rank(weights, noise, pair, amount)
    return found[0], found[1]
