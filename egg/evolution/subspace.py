"""Random subspaces: all weights with votes move by a few coordinates. docs/arithmetic.md has the formulas."""

from dataclasses import replace

import numpy as np

from egg.errors import EggError
from egg.evolution.base import Text
from egg.evolution.branches import BranchEvolution
from egg.kernels.arithmetic import MASTER_BITS, VOTE_LIMIT, clip8, round_shift
from egg.kernels.layout import SubspaceShape
from egg.kernels.philox import SUBSPACE_SIGNS, signs, words
from egg.kernels.reference_branches import hadamard
from egg.model.network import Network

ROW = 1 << 12  # weights that are added up side by side: rows of a few would be slow
DITHER = 40503  # 2**16 over the golden ratio: what consecutive weights are rounded by differs most


class Projection:
    """P: the signs by which d coordinates move n weights. It is drawn again from the seed, and stored nowhere.

    weights : n
    dimensions : d, a power of two, at most n
    seed : of the signs

    >>> projection = Projection(weights=6, dimensions=4, seed=0)
    >>> projection.moves(np.array([1, 0, 0, 0])).tolist() == projection.signs.tolist()
    True
    """

    def __init__(self, weights: int, dimensions: int, seed: int):
        self.dimensions = dimensions
        self.signs = signs(words(seed, SUBSPACE_SIGNS, 0, 0, -(-weights // 32)), 0, weights)
        """(n,) int8, those of the first column."""

    def moves(self, z: np.ndarray) -> np.ndarray:
        """(n,) int64: P z.

        z : (d,) integers, |z| < 2**49
        """
        row = np.resize(hadamard(z.astype(np.int64)), max(self.dimensions, ROW))
        return self.signs * np.resize(row, len(self.signs))

    def votes(self, votes: np.ndarray) -> np.ndarray:
        """(d,) int32: votes on the coordinates, from those on the weights.

        votes : (n,) int32
        """
        width = max(self.dimensions, ROW)
        signed = np.zeros(-(-len(votes) // width) * width, np.int64)
        np.multiply(votes, self.signs, out=signed[: len(votes)])
        sums = hadamard(signed.reshape(-1, width).sum(0).reshape(-1, self.dimensions).sum(0))
        sums = round_shift(sums, len(votes).bit_length() // 2)
        return np.clip(sums, -VOTE_LIMIT, VOTE_LIMIT).astype(np.int32)


class SubspaceEvolution(BranchEvolution):
    """A model in training within a random subspace; ``weights`` are its coordinates, ``base`` is the model before.

    config : an object with ``model`` and ``evolution``, of recipe egg with credit wire; its seed draws the subspace too
    voted : (n,) int64, places of the weights that have votes
    Raises EggError for credit stations.
    """

    def __init__(self, config, base: Network, text: Text, voted: np.ndarray, layout: SubspaceShape):
        if config.evolution.credit != "wire":
            raise EggError("credit stations: a random subspace learns with credit wire, or choose all weights")
        super().__init__(config, base.backend, text)
        self.base, self.voted, self.layout = base, voted, layout
        self.projection = Projection(len(voted), layout.dimensions, self.config.seed)
        self._shift = len(voted).bit_length() // 2 - 1
        places = np.arange(len(voted), dtype=np.int64)
        self._dither = (DITHER * places % (1 << MASTER_BITS)) << self._shift
        self.begin_from(np.zeros(layout.parameters, np.int8))

    @property
    def network(self) -> Network:
        """The model with its weights as they are now."""
        moves = (self.projection.moves(self.master) + self._dither) >> (MASTER_BITS + self._shift)
        weights = self.base.weights.copy()
        weights[self.voted] = clip8(weights[self.voted] + moves)
        return Network(self.backend, self.shape, weights)

    def _cast(self, streams, held, rounds):
        cast = super()._cast(streams, held, rounds)
        return replace(cast, votes=self.projection.votes(cast.votes[self.voted]))
