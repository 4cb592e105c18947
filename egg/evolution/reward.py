"""Adapting a frozen model to a reward: antithetic pairs of members write texts, and vote for the higher score.

docs/arithmetic.md, "Adapters to a reward".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from egg.kernels import Adapter, AdapterShape, Noise
from egg.kernels.arithmetic import LIMIT, REWARD_MASTER_BITS
from egg.kernels.reference import Read, cast_adapter_pair_votes, write
from egg.model.adapter import initial_factors
from egg.model.continuations import continue_prompts
from egg.model.network import Network
from egg.model.sample import Sampling, Write
from egg.optimizer import ranked_multiplier, scheduled_step_size

MEASURED = 256  # texts in a measurement, written by the adapter without noise
MEASURED_FROM = 1 << 31  # number of the first of them: no member shares their draws
Score = Callable[[Sequence[str], Sequence[str]], list[float]]


@dataclass(frozen=True)
class RewardSettings:
    """The members' sampling, and the size of a move."""

    steps: int
    population_size: int
    length: int
    temperature: float
    sigma_shift: int
    step_size: int  # in 2**-16 int8 steps
    seed: int
    noise_rank: int = 1


class RewardEvolution:
    """An adapter that evolves towards a reward.

    base : the frozen model
    prompts : read from state zero, after a NUL
    score : scores prompts and texts
    """

    def __init__(
        self, base: Network, layout: AdapterShape, prompts: Sequence[bytes], score: Score, settings: RewardSettings
    ):
        self.base, self.layout = base, layout
        self.prompts, self.score, self.settings = prompts, score, settings
        self.weights = initial_factors(layout, settings.seed)
        self.master = self.weights.astype(np.int16) << REWARD_MASTER_BITS
        self.step_number = self.tokens = 0

    @property
    def network(self) -> Network:
        """The model with the adapter as it is now."""
        return self.base.with_adapter(Adapter(self.layout, self.weights))

    def step(self) -> float:
        """Let the members write, score them, and move the factors; returns the members' mean score."""
        s, backend = self.settings, self.base.backend
        noise = Noise(s.seed, self.step_number, s.sigma_shift, s.noise_rank)
        pairs = s.population_size // 2
        numbers = np.repeat(self.step_number * pairs + np.arange(pairs), 2)
        prompts = [self.prompts[n % len(self.prompts)] for n in numbers.tolist()]
        model = self.network.prepared

        def read(tokens, states):
            return backend.read_adapter_pairs(model, tokens, states, noise)

        texts = self._write(read, partial(write, read), prompts, numbers % MEASURED_FROM)
        self.tokens += tokens_read(prompts, texts, s.length)
        scores = self._score(prompts, texts)
        fitness = pair_fitness(np.array(scores))
        votes = cast_adapter_pair_votes(self.layout, fitness, noise)
        done = self.step_number * LIMIT  # any unit will do
        size = scheduled_step_size(s.step_size, s.step_size // 20, "linear", done, max(1, s.steps * LIMIT))
        multiplier = ranked_multiplier(size, fitness, noise.root)
        self.weights = backend.update_master(self.layout, self.master, votes, multiplier)
        self.step_number += 1
        return sum(scores) / len(scores)

    def measure(self) -> float:
        """Mean score of texts that the adapter writes without noise, always from the same draws."""
        numbers = np.arange(MEASURED)
        prompts = [self.prompts[n % len(self.prompts)] for n in numbers.tolist()]
        texts = self._write(self.network.forward, self.network.write, prompts, numbers + MEASURED_FROM)
        scores = self._score(prompts, texts)
        return sum(scores) / len(scores)

    def _write(self, read: Read, write: Write, prompts: list[bytes], numbers: np.ndarray) -> list[bytes]:
        """Continue the prompts; members of a pair have the same number, and stay beside each other."""
        s = self.settings
        sampling = Sampling(s.length, s.temperature, seed=s.seed)
        states = self.base.zero_states(len(prompts))
        return continue_prompts(read, write, states, prompts, numbers, sampling, whole=True)

    def _score(self, prompts: list[bytes], texts: list[bytes]) -> list[float]:
        return self.score(
            [prompt.decode(errors="replace") for prompt in prompts], [text.decode(errors="replace") for text in texts]
        )


def tokens_read(prompts: Sequence[bytes], texts: Sequence[bytes], length: int) -> int:
    """Bytes that members have read: a NUL, the prompt, and every byte drawn but the last, which may be a NUL.

    texts : without their NULs; of ``length`` bytes where no NUL ended them
    """
    return sum(len(prompt) + min(len(text) + 1, length) for prompt, text in zip(prompts, texts, strict=True))


def pair_fitness(scores: np.ndarray) -> np.ndarray:
    """(pairs,) int64: half the difference of the two members' ranks, in -127..127.

    scores : (2 * pairs,) float64; ranks of all, spread evenly over -127..127, equal scores share their mean rank
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    twice = (2 * ends - counts - 1)[place]  # twice the mean rank, from 0
    ranks = twice * LIMIT // max(1, len(scores) - 1) - LIMIT
    return (ranks[0::2] - ranks[1::2]) // 2
