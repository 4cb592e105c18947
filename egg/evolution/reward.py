"""Adapting a frozen model to a reward: antithetic pairs of members write texts, and what scores more is voted for.

docs/arithmetic.md, "Adapters to a reward".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from egg.kernels import Adapter, AdapterShape, Noise
from egg.kernels.arithmetic import LIMIT, REWARD_MASTER_BITS, sampling_weights
from egg.kernels.backend import Backend
from egg.kernels.reference import cast_adapter_pair_votes
from egg.model.adapter import initial_factors
from egg.model.sample import Sampling, choose, draws
from egg.optimizer import ranked_multiplier, scheduled_step_size

MEASURED = 256  # texts of the adapter as it is, in a measurement
MEASURED_FROM = 1 << 31  # number of the first of them: no member draws what they draw
Score = Callable[[Sequence[str], Sequence[str]], list[float]]


@dataclass(frozen=True)
class RewardSettings:
    """How members write, and how far factors move."""

    steps: int
    population_size: int
    length: int
    temperature: float
    sigma_shift: int
    step_size: int  # in 2**-16 int8 steps
    seed: int


class RewardEvolution:
    """An adapter that evolves towards a reward.

    weights : (parameters,) int8, the model's
    prompts : read from state zero, after a NUL
    score : of prompts and texts
    """

    def __init__(
        self,
        backend: Backend,
        weights: np.ndarray,
        layout: AdapterShape,
        prompts: Sequence[bytes],
        score: Score,
        settings: RewardSettings,
    ):
        self.backend, self.base, self.layout = backend, weights, layout
        self.prompts, self.score, self.settings = prompts, score, settings
        self.weights = initial_factors(layout, settings.seed)
        self.master = self.weights.astype(np.int16) << REWARD_MASTER_BITS
        self.step_number = self.tokens = 0

    @property
    def adapter(self) -> Adapter:
        """The adapter as it is now."""
        return Adapter(self.layout, self.weights)

    def step(self) -> float:
        """Let the members write, score them, and move the factors; returns the members' mean score."""
        s = self.settings
        noise = Noise(s.seed, self.step_number, s.sigma_shift)
        pairs = s.population_size // 2
        numbers = np.repeat(self.step_number * pairs + np.arange(pairs), 2)
        prompts = [self.prompts[n % len(self.prompts)] for n in numbers.tolist()]
        model = self.backend.prepare(self.layout.base, self.base, self.adapter)

        def read(tokens, states):
            return self.backend.read_adapter_pairs(model, tokens, states, noise)

        scores = self._write(read, prompts, numbers % MEASURED_FROM)
        fitness = pair_fitness(np.array(scores))
        votes = cast_adapter_pair_votes(self.layout, fitness, noise)
        done = self.step_number * LIMIT  # any unit will do
        size = scheduled_step_size(s.step_size, s.step_size // 20, "linear", done, max(1, s.steps * LIMIT))
        multiplier = ranked_multiplier(size, fitness)
        self.weights = self.backend.update_master(self.layout, self.master, votes, multiplier)
        self.step_number += 1
        return sum(scores) / len(scores)

    def measure(self) -> float:
        """Mean score of texts that the adapter as it is writes, always from the same draws."""
        model = self.backend.prepare(self.layout.base, self.base, self.adapter)
        numbers = np.arange(MEASURED)
        prompts = [self.prompts[n % len(self.prompts)] for n in numbers.tolist()]
        before = self.tokens
        scores = self._write(lambda *state: self.backend.forward(model, *state), prompts, numbers + MEASURED_FROM)
        self.tokens = before
        return sum(scores) / len(scores)

    def _write(self, read, prompts: list[bytes], numbers: np.ndarray) -> list[float]:
        texts, tokens = write(read, self.layout.base, prompts, numbers, self.settings)
        self.tokens += tokens
        return self.score(
            [prompt.decode(errors="replace") for prompt in prompts], [text.decode(errors="replace") for text in texts]
        )


def write(read, shape, prompts: Sequence[bytes], numbers: np.ndarray, settings) -> tuple[list[bytes], int]:
    """What members write after their prompts, up to a NUL, and the bytes they have read.

    read : (tokens (n, 1) uint8, states (n, L, D) int8) -> logits (n, 1, 256) int8 and states
    numbers : (n,) of the samples, for the generator; members of a pair have the same
    settings : ``seed``, ``length`` and ``temperature``
    """
    temperature = Sampling(temperature=settings.temperature).temperature_256
    weights = sampling_weights(temperature) if temperature else None
    n = len(prompts)
    states = np.zeros((n, shape.num_layers, shape.hidden_size), np.int8)
    given = [b"\0" + prompt for prompt in prompts]
    lengths = np.array([len(prompt) for prompt in given])
    texts, ended = [bytearray() for _ in prompts], np.zeros(n, bool)
    following, tokens, at = np.zeros(n, np.uint8), 0, 0
    while not ended.all():
        for i in np.flatnonzero(at < lengths).tolist():
            following[i] = given[i][at]
        logits, states = read(following[:, None].copy(), states)
        tokens += int(np.count_nonzero(~ended))
        at += 1
        position = np.maximum(0, at - lengths)  # a sample's own, whatever its prompt's length
        drawn = _drawn(settings.seed, numbers, position)
        following = choose(logits[:, 0], drawn, weights, 0)
        writing = (at >= lengths) & ~ended
        ended |= writing & (following == 0)
        for i in np.flatnonzero(writing & ~ended).tolist():
            texts[i].append(following[i])
            ended[i] = len(texts[i]) >= settings.length
        following[ended] = 0
    return [bytes(text) for text in texts], tokens


def _drawn(seed: int, numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(n,) uint64: each sample's random bits at its own position."""
    out = np.empty(len(numbers), np.uint64)
    for position in np.unique(positions).tolist():
        here = positions == position
        out[here] = draws(seed, numbers[here], position, 1)[:, 0]
    return out


def pair_fitness(scores: np.ndarray) -> np.ndarray:
    """(pairs,) int64: half the difference of the two members' ranks, in -127..127.

    scores : (2 * pairs,) float64; ranks of all, spread evenly over -127..127, equal scores share their mean rank
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    twice = (2 * ends - counts - 1)[place]  # twice the mean rank, from 0
    ranks = twice * LIMIT // max(1, len(scores) - 1) - LIMIT
    return (ranks[0::2] - ranks[1::2]) // 2
