"""Recipe ``paper``: antithetic pairs of members, and the signs of their votes. [arXiv 2511.16652 v2]"""

import numpy as np

from egg.evolution.base import Evolution, Text
from egg.kernels.arithmetic import LIMIT, SIXTEENTHS
from egg.kernels.backend import Backend, Noise
from egg.kernels.layout import Shape
from egg.model.state import STEP, Form
from egg.optimizer import sign_threshold
from egg.ranks.distributed import ALONE, Alone


class PaperEvolution(Evolution):
    """Every pair reads a stream of its own throughout, each member with its own state."""

    def __init__(self, config, backend: Backend, text: Text, ranks: Alone = ALONE):
        super().__init__(config, backend, text, ranks)
        mine = ranks.share(len(self.starts))  # no other rank needs the states of these
        layers = self.shape.num_layers, self.shape.hidden_size
        self.states = np.zeros((2 * (mine.stop - mine.start), *layers), np.int8)

    @property
    def description(self):
        """Members and bytes."""
        c = self.config
        return f"recipe paper, {c.population_size:,} members x {c.seq_len:,} bytes a step"

    def _step(self):
        c, pairs = self.config, len(self.starts)
        share = self.ranks.share(pairs)
        starts = self.starts[share] + self.step_number * c.seq_len
        tokens = self.text.read(starts, c.seq_len + 1)
        noise, first = (Noise(c.seed, self.step_number, c.sigma_shift), {"first_pair": share.start})
        scores, self.states = self.backend.run_pairs(self.network.prepared, tokens, self.states, noise, **first)
        fitness = np.sign(scores[0::2] - scores[1::2]).astype(np.int8)
        # Exchanging fitness alone would do, with every rank casting all votes: from a few hundred pairs on that takes
        # longer than this sum (docs/scaling.md).
        votes = self.backend.cast_pair_votes(self.shape, fitness, noise, **first)
        (score,) = self.ranks.add(votes, int(scores.sum(dtype=np.int64)))
        threshold = sign_threshold(self.step_number, pairs)
        self.weights = self.backend.update_signs(self.weights, votes, threshold)
        return -score / (SIXTEENTHS * c.tokens_per_step), None

    def state(self):
        """The arrays of a checkpoint, by name."""
        states = self.ranks.gather(_by_pairs(self.states), len(self.starts))
        return {"step": np.array([self.step_number], np.int64), "states": _by_members(states), "weights": self.weights}

    def _load(self, state, layout):
        def same(name: str) -> np.ndarray:
            return self.ranks.broadcast(state.get(name), layout[name].shape, layout[name].dtype)

        self.step_number, self.weights = int(same("step")[0]), same("weights").copy()
        states = _by_pairs(state["states"]) if state else None
        row = 2, self.shape.num_layers, self.shape.hidden_size
        self.states = _by_members(self.ranks.scatter(states, len(self.starts), row)).copy()

    @staticmethod
    def stream_count(config, text_size):
        """One a pair."""
        return config.population_size // 2

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
        return 10 * shape.parameters + members * (2 * width + e.seq_len + 16) + 16 * e.population_size


def _by_pairs(states: np.ndarray) -> np.ndarray:
    return states.reshape(-1, 2, *states.shape[1:])


def _by_members(states: np.ndarray) -> np.ndarray:
    return states.reshape(-1, *states.shape[2:])
