"""What a backend does: a few coarse calls, the same on NumPy, Numba and CUDA, equal byte for byte.

The calls take and return NumPy arrays. ``kernels.reference`` is their definition, docs/arithmetic.md the text.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kernels.layout import AdapterShape, Shape


@dataclass(frozen=True)
class Noise:
    """What is drawn, and how large: the part of a perturbation that all members share."""

    seed: int
    """Key of the generator, 0 to 2**64 - 1."""
    step: int
    """Training step, the last word of the counter."""
    sigma_shift: int
    """A weight moves by 2**(4 - sigma_shift) int8 steps; 0 to 8."""
    perturbation: str = "sign"
    """"sign": the input signs b are drawn; "input": the perturbation lies along the input itself."""


@dataclass(frozen=True)
class Adapter:
    """Low-rank factors beside a model's matrices; docs/arithmetic.md, "Adapters"."""

    shape: AdapterShape
    factors: np.ndarray
    """(shape.parameters,) int8."""


@dataclass(frozen=True)
class TracedVotes:
    """What one chunk of recipe ``egg`` leaves behind."""

    votes: np.ndarray
    """(parameters,) int64: Z, of the model or of its adapter."""
    states: np.ndarray
    """(groups, L, D) int8: the streams' states after the chunk."""
    scores: np.ndarray
    """(members,) int32: clean scores summed over the chunk, in 1/256 bit."""
    deviation: int
    """Sum over members of |sum over the chunk of the score less its group's mean|, in 1/256 bit."""


class Backend(Protocol):
    """The calls. ``model`` is what ``prepare`` made of the weights: opaque, and valid until they change."""

    name: str
    description: str

    def prepare(self, shape: Shape, weights: np.ndarray, adapter: Adapter | None = None) -> Any:
        """Pack weights for the calls below; those with an adapter for ``forward`` and ``cast_adapter_votes``.

        weights : (parameters,) int8, see ``Shape.tensors``
        """

    def forward(
        self, model: Any, tokens: np.ndarray, states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read tokens with unperturbed weights, many sequences side by side.

        tokens : (sequences, T) uint8; a 0 resets the state before it is read
        states : (sequences, L, D) int8
        returns : logits (sequences, T, 256) int8 in sixteenths of a bit, and the states after
        """

    def cast_traced_votes(
        self,
        model: Any,
        tokens: np.ndarray,
        states: np.ndarray,
        noise: Noise,
        *,
        group_size: int,
        credit_scale: int,
        first_group: int = 0,
    ) -> TracedVotes:
        """Recipe ``egg``: members read a chunk, are credited per token, and vote with what they saw.

        tokens : (groups, T + 1) uint8, the inputs and after each its target
        states : (groups, L, D) int8 of the groups' text streams
        credit_scale : the measured scale of the step before, in 1/256 bit, at least 16
        first_group : global number of the first group given, for the generator's counters
        """

    def cast_adapter_votes(
        self,
        model: Any,
        tokens: np.ndarray,
        states: np.ndarray,
        noise: Noise,
        *,
        group_size: int,
        credit_scale: int,
        first_group: int = 0,
    ) -> TracedVotes:
        """The same where the adapter alone is perturbed, and alone is voted on; noise.perturbation is "sign".

        model : prepared with an adapter
        """

    def read_adapter_pairs(
        self,
        model: Any,
        tokens: np.ndarray,
        states: np.ndarray,
        noise: Noise,
    ) -> tuple[np.ndarray, np.ndarray]:
        """``forward`` of members: 2 i and 2 i + 1 read with the factors moved by + and - direction i.

        model : prepared with an adapter
        tokens : (2 * pairs, T) uint8
        states : (2 * pairs, L, D) int8
        returns : logits (2 * pairs, T, 256) int8, and the states after
        """

    def run_pairs(
        self,
        model: Any,
        tokens: np.ndarray,
        states: np.ndarray,
        noise: Noise,
        *,
        first_pair: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Recipe ``paper``: antithetic pairs of members read a chunk.

        tokens : (pairs, T + 1) uint8
        states : (2 * pairs, L, D) int8, every member's own
        returns : scores (2 * pairs,) int32 in sixteenths of a bit, and the states after
        """

    def cast_pair_votes(
        self, shape: Shape, fitness: np.ndarray, noise: Noise, *, first_pair: int = 0
    ) -> np.ndarray:
        """Recipe ``paper``: Z = sum over pairs of f a b^T.

        fitness : (pairs,) int8 in -1, 0, 1
        returns : (parameters,) int64
        """

    def add_full_rank(self, weights: np.ndarray, noise: Noise, direction: int, amount: int) -> None:
        """Classic evolution: weights move, in place, by ``amount`` times the full-rank signs of a direction.

        weights : (parameters,) int8, all at least |amount| within -127..127
        noise : its seed and step
        """

    def cast_full_rank_votes(
        self, parameters: int, fitness: np.ndarray, noise: Noise
    ) -> np.ndarray:
        """Classic evolution: Z = sum over directions of f e, e drawn again.

        fitness : (directions,) int64, |f| <= 127
        returns : (parameters,) int64
        """

    def update_master(
        self, shape: Shape, master: np.ndarray, votes: np.ndarray, multipliers: np.ndarray
    ) -> np.ndarray:
        """Recipe ``egg``: move master weights, in place, by votes * multiplier / 2**32.

        master : (parameters,) int16 with 8 fractional bits
        votes : (parameters,) int64
        multipliers : (tensors,) int64, one a tensor
        returns : (parameters,) int8, the new weights
        """

    def update_signs(self, weights: np.ndarray, votes: np.ndarray, threshold: int) -> np.ndarray:
        """Recipe ``paper``: move weights by sign(votes) where 16 |votes| >= threshold.

        weights : (parameters,) int8
        votes : (parameters,) int64
        returns : (parameters,) int8, the new weights
        """
