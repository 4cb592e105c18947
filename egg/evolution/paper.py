"""Recipe ``paper``: antithetic pairs of members, and the signs of their votes. [arXiv 2511.16652 v2]"""

from math import isqrt

import numpy as np

from egg.evolution.base import Evolution, Text
from egg.evolution.reward import pair_fitness
from egg.kernels.arithmetic import LIMIT, SIXTEENTHS, round_div
from egg.kernels.backend import Backend, Noise, fetch, hold
from egg.kernels.layout import Shape
from egg.model.state import STEP, Form
from egg.optimizer import moving_share, sign_threshold
from egg.ranks.distributed import ALONE, Alone

TERM = 256  # standard deviation of the product of two int8 Gaussian factors
NO_VOTES = np.zeros(0, np.int64)


class PaperEvolution(Evolution):
    """Every group of members reads a stream of its own throughout, each member with its own state."""

    def __init__(self, config, backend: Backend, text: Text, ranks: Alone = ALONE):
        super().__init__(config, backend, text, ranks)
        self.pairs = self.config.population_size // 2
        mine = ranks.share(self.pairs)  # no other rank needs the states of these
        layers = self.shape.num_layers, self.shape.hidden_size
        self.states = hold(backend, np.zeros((2 * (mine.stop - mine.start), *layers), np.int8))
        self.weights = hold(backend, self.weights)

    @property
    def description(self):
        """Members and bytes."""
        c = self.config
        return f"recipe paper, {c.population_size:,} members x {c.seq_len:,} bytes a step"

    @property
    def noise(self) -> Noise:
        """The perturbations of the step that comes next."""
        c = self.config
        step = self.step_number // c.noise_reuse if c.noise_reuse else 0
        gaussian = c.noise == "gaussian"
        return Noise(c.seed, step, c.sigma_shift, c.rank, gaussian, c.use_clt, c.num_perturbations // 2)

    def _step(self):
        c, share = self.config, self.ranks.share(self.pairs)
        texts = np.arange(share.start, share.stop) // (c.group_size // 2)  # of each pair
        tokens = self.text.read(self.starts[texts] + self.step_number * c.seq_len, c.seq_len + 1)
        noise, first = self.noise, {"first_pair": share.start}
        model = self.backend.prepare(self.shape, self._held)
        scores, self.states = self.backend.run_pairs(model, tokens, self.states, noise, **first)
        fitness, spread = self._fitness(scores)
        # Exchanging fitness alone would do, with every rank casting all votes: from a few hundred pairs on that takes
        # longer than this sum (docs/scaling.md).
        cast = self.backend.cast_pair_votes(self.shape, hold(self.backend, fitness), noise, **first)
        votes = self._to_exchange(cast)
        (score,) = self.ranks.add(votes, int(scores.sum(dtype=np.int64)))
        of_a_term = noise.root * (TERM if noise.gaussian and c.use_clt else 1)
        threshold = sign_threshold(moving_share(c.alpha, c.alpha_decay, self.step_number), spread * of_a_term)
        self.weights = self.backend.update_signs(self._held, votes, threshold)
        return -score / (SIXTEENTHS * c.tokens_per_step), None

    def _fitness(self, scores: np.ndarray) -> tuple[np.ndarray, int]:
        """(pairs,) int8 of this rank, and the root of the sum of all ranks' squares.

        scores : (2 * pairs,) int32 of this rank
        """
        difference = scores[0::2].astype(np.int64) - scores[1::2]
        if self.config.fitness == "sign":
            return np.sign(difference).astype(np.int8), isqrt(self.pairs)
        if self.config.fitness == "rank":
            share = self.ranks.share(self.pairs)
            rows = np.ascontiguousarray(scores, np.int32).view(np.int8).reshape(len(difference), 8)
            everyone = self.ranks.all_gather(rows, self.pairs).reshape(-1).view(np.int32)
            fitness = pair_fitness(everyone)[share]
        else:
            (squares,) = self.ranks.add(NO_VOTES, int((difference**2).sum()))
            unit = max(1, isqrt(squares // self.pairs))
            fitness = np.sign(difference) * np.minimum(LIMIT, round_div(16 * np.abs(difference), unit))
        (squares,) = self.ranks.add(NO_VOTES, int((fitness**2).sum()))
        return fitness.astype(np.int8), isqrt(squares)

    def state(self):
        """The arrays of a checkpoint, by name."""
        states = self.ranks.gather(_by_pairs(fetch(self.backend, self.states)), self.pairs)
        return {"step": np.array([self.step_number], np.int64), "states": _by_members(states), "weights": self.weights}

    def _load(self, state, layout):
        def same(name: str) -> np.ndarray:
            return self.ranks.broadcast(state.get(name), layout[name].shape, layout[name].dtype)

        self.step_number, self.weights = int(same("step")[0]), hold(self.backend, same("weights").copy())
        states = _by_pairs(state["states"]) if state else None
        row = 2, self.shape.num_layers, self.shape.hidden_size
        self.states = hold(self.backend, _by_members(self.ranks.scatter(states, self.pairs, row)).copy())

    @staticmethod
    def stream_count(config, text_size):
        """One a group of members."""
        return config.population_size // config.group_size

    @classmethod
    def state_layout(cls, shape: Shape, config, text_size):
        """Step, states and weights."""
        layers = shape.num_layers, shape.hidden_size
        return {
            "step": STEP,
            "states": Form((config.population_size, *layers), np.int8, -LIMIT, LIMIT),
            "weights": Form((shape.parameters,), np.int8, -LIMIT, LIMIT),
        }

    @classmethod
    def memory(cls, config, text_size, ranks=1):
        """Weights and votes; members' states before and after, scores and text; all streams' starts."""
        e, shape = config.evolution, config.model.shape
        members = -(-e.population_size // ranks)
        width = shape.num_layers * shape.hidden_size
        return 18 * shape.parameters + members * (2 * width + e.seq_len + 16) + 16 * e.population_size


def _by_pairs(states: np.ndarray) -> np.ndarray:
    return states.reshape(-1, 2, *states.shape[1:])


def _by_members(states: np.ndarray) -> np.ndarray:
    return states.reshape(-1, *states.shape[2:])
