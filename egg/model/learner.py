"""A model that goes on learning from what it reads, as recipe ``egg`` trains: for compression."""

import numpy as np

from egg.kernels.arithmetic import MASTER_BITS, STATIONS, first_shifts, next_shifts
from egg.kernels.backend import Draw, hold
from egg.model.network import Network


class Learner:
    """A model and the state of its evolution; every chunk is a step of recipe ``egg`` with all branches and stations.

    network : the model as it is at first, without an adapter; it is left so
    step_size : of every step, in 2**-16 int8 steps
    """

    def __init__(self, network: Network, step_size: int):
        backend, shape = network.backend, network.shape
        self._backend, self._shape = backend, shape
        self._step_size, self._step = step_size, 0
        self._master = hold(backend, network.weights.astype(np.int32) << MASTER_BITS)
        self._squares = hold(backend, np.zeros(shape.rows, np.int64))
        self._shifts = first_shifts(shape.num_layers, stations=True)
        self._model = backend.prepare(shape, hold(backend, network.weights))

    def forward(self, tokens: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read sequences with the model as it is now; see ``Network.forward``."""
        return self._backend.forward(self._model, tokens, states)

    def learn(self, tokens: np.ndarray, states: np.ndarray) -> None:
        """Read a chunk of several streams and move the weights.

        tokens : (streams, T + 1) uint8, the inputs and after each its target
        states : (streams, L, D) int8 before the chunk, held or NumPy's
        """
        backend, shape = self._backend, self._shape
        streams, length = tokens.shape[0], tokens.shape[1] - 1
        draw = Draw(0, self._step, shape.hidden_size, self._shifts, STATIONS)
        cast = backend.cast_votes(self._model, tokens, states, draw, first_row=streams * self._step)
        self._shifts = next_shifts(self._shifts, cast.totals.tolist(), shape.credits(streams * length, stations=True))
        weights = backend.update_rows(shape, self._master, self._squares, cast.votes, self._step, self._step_size)
        self._model, self._step = backend.prepare(shape, weights), self._step + 1
