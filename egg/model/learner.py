"""A model that goes on learning from what it reads, as recipe ``egg`` trains: for compression."""

from dataclasses import replace

import numpy as np

from egg.kernels.arithmetic import MASTER_BITS, STATIONS, first_shifts, next_shifts
from egg.kernels.backend import Draw
from egg.model.network import Network


class Learner:
    """A network and the state of its evolution; every chunk is a step of recipe ``egg`` with all branches and stations.

    network : the model as it is at first; it is left so
    step_size : of every step, in 2**-16 int8 steps
    """

    def __init__(self, network: Network, step_size: int):
        shape = network.shape
        self._network = network
        self._step_size, self._step = step_size, 0
        self._master = network.weights.astype(np.int32) << MASTER_BITS
        self._squares = np.zeros(shape.rows, np.int64)
        self._shifts = first_shifts(shape.num_layers, stations=True)

    def learn(self, tokens: np.ndarray, states: np.ndarray) -> Network:
        """Read a chunk of several streams and move the weights; returns the model as it is then.

        tokens : (streams, T + 1) uint8, the inputs and after each its target
        states : (streams, L, D) int8 before the chunk
        """
        network, shape = self._network, self._network.shape
        streams, length = tokens.shape[0], tokens.shape[1] - 1
        draw = Draw(0, self._step, shape.hidden_size, self._shifts, STATIONS)
        cast = network.backend.cast_votes(network.prepared, tokens, states, draw, first_row=streams * self._step)
        self._shifts = next_shifts(self._shifts, cast.totals.tolist(), shape.credits(streams * length, stations=True))
        weights = network.backend.update_rows(
            shape, self._master, self._squares, cast.votes, self._step, self._step_size
        )
        self._network, self._step = replace(network, weights=weights), self._step + 1
        return self._network
