"""What a backend does: a few coarse calls, the same on NumPy, Numba and CUDA, equal byte for byte.

The calls take and return NumPy arrays, or those that stay on a device (``Resident``). ``egg.kernels.reference`` is
their definition, docs/arithmetic.md the text.
"""

from dataclasses import dataclass
from functools import cache
from math import isqrt
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np

from egg.kernels.arithmetic import SHARES
from egg.kernels.layout import AdapterShape, Layout, Shape
from egg.kernels.values import ArrayValue


@dataclass(frozen=True)
class Noise:
    """What is drawn, and how large: the part of a perturbation that all members share."""

    seed: int
    """Key of the generator, 0 to 2**64 - 1."""
    step: int
    """Training step, the last word of the counter."""
    sigma_shift: int
    """A weight moves by about 2**(4 - sigma_shift) int8 steps; 0 to 8."""
    rank: int = 1
    """Directions of rank 1 that a member's perturbation is the sum of, over their root: 1, 4 or 16."""
    gaussian: bool = False
    """Whether they are int8 Gaussian, not signs (recipe ``paper``)."""
    use_clt: bool = True
    """Whether Gaussian directions vote as they are, not with their signs."""
    directions: int = 0
    """Perturbations that the pairs take in turns; 0: every pair has its own."""

    @property
    def root(self) -> int:
        """sqrt(rank)."""
        return isqrt(self.rank)

    def numbers(self, pairs: np.ndarray) -> np.ndarray:
        """(..., rank): the numbers of the directions of pairs.

        >>> Noise(0, 0, 4, rank=4, directions=2).numbers(np.array([3]))
        array([[4, 5, 6, 7]])
        """
        first = pairs % self.directions if self.directions else pairs
        return self.rank * np.asarray(first)[..., None] + np.arange(self.rank)


@dataclass(frozen=True, eq=False)
class Draw(ArrayValue):
    """The branches of one step of recipe ``egg``, and how their votes are narrowed."""

    seed: int
    """Key of the generator, 0 to 2**64 - 1."""
    step: int
    """Training step, the last word of the counter."""
    branches: int
    """Branches of the wire at every byte: a power of two, 16 to the hidden size."""
    shifts: np.ndarray
    """(kinds,) int64, 0 to 31: what each kind of credit is shifted by, as measured in the step before."""
    stations: tuple[str, ...] = ()
    """Which of ``egg.kernels.arithmetic.STATIONS`` are on; kinds of credit are more with any."""


@dataclass(frozen=True, eq=False)
class Adapter(ArrayValue):
    """Low-rank factors beside a model's matrices; docs/arithmetic.md, "Adapters"."""

    shape: AdapterShape
    factors: np.ndarray
    """(shape.parameters,) int8."""


@dataclass(frozen=True, eq=False)
class Votes(ArrayValue):
    """What one chunk of recipe ``egg`` leaves behind."""

    votes: np.ndarray
    """(parameters,) int32: Z, of the model or of its adapter; the backend may keep the array for its next call."""
    states: np.ndarray
    """(streams, L, D) int8: the streams' states after the chunk."""
    totals: np.ndarray
    """(kinds,) int64: sums of the credits' magnitudes, before they are narrowed."""
    score: int
    """Sum of the readers' scores, in 1/256 bit."""


@dataclass(frozen=True, eq=False)
class Likelihoods(ArrayValue):
    """What a model made of the bytes that it was to predict, without its logits."""

    totals: np.ndarray
    """(sequences, T) uint64: Z of docs/arithmetic.md, the sum of all bytes' shares, 2**55 for the likeliest."""
    below: np.ndarray
    """(sequences, T) uint8: how far the target's logit is below the largest, in sixteenths of a bit."""
    scores: np.ndarray
    """(sequences, T) int32: the integer log-likelihood of the target, in sixteenths of a bit."""
    states: np.ndarray
    """(sequences, L, D) int8: the states after."""


@dataclass(frozen=True, eq=False)
class Choice(ArrayValue):
    """How a byte is drawn from logits; docs/arithmetic.md, "Sampling"."""

    weights: np.ndarray | None
    """(255,) uint64 of ``egg.kernels.arithmetic.sampling_weights``; None is temperature 0."""
    top_k: int = 0
    """Number of likeliest bytes to draw from, 0 for all."""
    top_p: int = SHARES
    """Share of the probability to draw from, in 1/65536; 65536 for all."""
    seed: int = 0
    """Key of the generator, 0 to 2**64 - 1."""


class Backend(Protocol):
    """The calls. ``model`` is what ``prepare`` made of the weights: opaque, and valid until they change."""

    name: str
    description: str

    def prepare(self, shape: Shape, weights: np.ndarray, adapter: Adapter | None = None) -> Any:
        """Pack weights for the calls below; those with an adapter for all but ``run_pairs``.

        weights : (parameters,) int8, see ``Shape.tensors``
        """
        ...

    def forward(self, model: Any, tokens: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read tokens with unperturbed weights, many sequences side by side.

        tokens : (sequences, T) uint8; a 0 resets the state before it is read
        states : (sequences, L, D) int8
        returns : logits (sequences, T, 256) int8 in sixteenths of a bit, and the states after
        """
        ...

    def score(self, model: Any, tokens: np.ndarray, states: np.ndarray) -> Likelihoods:
        """Read tokens as ``forward`` does, and leave of the logits what the actual bytes' likelihoods need.

        tokens : (sequences, T + 1) uint8, the inputs and after each its target
        states : (sequences, L, D) int8
        """
        ...

    def write(
        self, model: Any, logits: np.ndarray, states: np.ndarray, numbers: np.ndarray, positions: range, choice: Choice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw bytes one after another, each from the logits after the byte before, for many sequences side by side.

        logits : (sequences, 256) int8, from which the first byte is drawn
        states : (sequences, L, D) int8
        numbers : (sequences,) int64, the samples' numbers, 0 to 2**32 - 1: they and the positions define the draws
        positions : of the bytes to draw, one after another, 0 to 2**32 - 1
        returns : the bytes (sequences, positions) uint8, and logits and states after the last of them
        """
        ...

    def cast_votes(
        self, model: Any, tokens: np.ndarray, states: np.ndarray, draw: Draw, *, first_row: int = 0
    ) -> Votes:
        """Recipe ``egg``: readers read a chunk, members branch off at every byte, and what is credited votes.

        Of a model that was prepared with an adapter the factors B are voted on, and nothing else.

        tokens : (streams, T + 1) uint8, the inputs and after each its target
        states : (streams, L, D) int8 of these text streams
        first_row : B step + i of the first stream given, for the rounding of the head's votes
        """
        ...

    def read_adapter_pairs(
        self, model: Any, tokens: np.ndarray, states: np.ndarray, noise: Noise
    ) -> tuple[np.ndarray, np.ndarray]:
        """``forward`` of members: 2 i and 2 i + 1 read with the factors moved by + and - direction i.

        model : prepared with an adapter
        tokens : (2 * pairs, T) uint8
        states : (2 * pairs, L, D) int8
        returns : logits (2 * pairs, T, 256) int8, and the states after
        """
        ...

    def run_pairs(
        self, model: Any, tokens: np.ndarray, states: np.ndarray, noise: Noise, *, first_pair: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Recipe ``paper``: antithetic pairs of members read a chunk.

        tokens : (pairs, T + 1) uint8
        states : (2 * pairs, L, D) int8, every member's own
        returns : scores (2 * pairs,) int32 in sixteenths of a bit, and the states after
        """
        ...

    def cast_pair_votes(self, shape: Shape, fitness: np.ndarray, noise: Noise, *, first_pair: int = 0) -> np.ndarray:
        """Recipe ``paper``: Z = sum over pairs and their directions of f a b^T; of vectors sqrt(rank) f e.

        fitness : (pairs,) int8
        returns : (parameters,) int64
        """
        ...

    def add_full_rank(self, weights: np.ndarray, noise: Noise, direction: int, amount: int) -> None:
        """Classic evolution: weights move, in place, by ``amount`` times the full-rank signs of a direction.

        weights : (parameters,) int8, all at least |amount| within -127..127
        noise : its seed and step
        """

    def cast_full_rank_votes(self, parameters: int, fitness: np.ndarray, noise: Noise) -> np.ndarray:
        """Classic evolution: Z = sum over directions of f e, e drawn again.

        fitness : (directions,) int64, |f| <= 127
        returns : (parameters,) int64
        """
        ...

    def update_rows(
        self, layout: Layout, master: np.ndarray, squares: np.ndarray, votes: np.ndarray, step: int, step_size: int
    ) -> np.ndarray:
        """Recipe ``egg``: move master weights by votes over the running root mean square of their row.

        master : (parameters,) int32 with 16 fractional bits, moved in place
        squares : (rows,) int64, see ``Layout.row_starts``, moved in place
        votes : (parameters,) int32
        step : steps done before, for the window of the mean
        step_size : in 2**-16 int8 steps
        returns : (parameters,) int8, the new weights
        """
        ...

    def update_master(self, layout: Layout, master: np.ndarray, votes: np.ndarray, multiplier: int) -> np.ndarray:
        """Rewards and classic evolution: move master weights, in place, by votes * multiplier / 2**32.

        master : (parameters,) int16 with 8 fractional bits
        votes : (parameters,) int64
        returns : (parameters,) int8, the new weights
        """
        ...

    def update_signs(self, weights: np.ndarray, votes: np.ndarray, threshold: int) -> np.ndarray:
        """Recipe ``paper``: move weights by sign(votes) where 16 |votes| >= threshold.

        weights : (parameters,) int8
        votes : (parameters,) int64
        returns : (parameters,) int8, the new weights
        """
        ...


@runtime_checkable
class Resident(Protocol):
    """A backend on a device, where arrays can stay from call to call; the CPU's arrays are there already.

    Its calls take held arrays in place of NumPy's weights, states, masters, squares, votes and fitness, and leave held
    what they were given so: of held states the states after, of a model of held weights the votes, of held fitness the
    votes of pairs, of held masters or weights the weights. Text, logits, scores and totals are NumPy's always. A held
    array has a shape, and slices along its first axis.
    """

    def hold(self, array: np.ndarray) -> Any:
        """A copy on the device."""
        ...

    def fetch(self, held: Any) -> np.ndarray:
        """A copy in the host's memory, when all that was begun is done; a NumPy array is returned as it is."""
        ...

    def take_rows(self, held: Any, rows: Any) -> Any:
        """A held copy of these rows; see the function of this name."""
        ...

    def put_rows(self, held: Any, rows: Any, values: Any) -> None:
        """Replace these rows; see the function of this name."""
        ...


@cache
def _stays_on_device(kind: type) -> bool:
    return issubclass(kind, Resident)


def _is_resident(backend: Any) -> TypeGuard[Resident]:
    return _stays_on_device(type(backend))  # the check of a protocol takes ten times as long


def hold(backend: Backend, array: np.ndarray) -> Any:
    """The array where a backend computes: on the CPU itself."""
    return backend.hold(array) if _is_resident(backend) else array


def fetch(backend: Backend, held: Any) -> np.ndarray:
    """What ``hold`` or a call has left where a backend computes, as a NumPy array."""
    return backend.fetch(held) if _is_resident(backend) else held


def take_rows(backend: Backend, held: Any, rows: Any) -> Any:
    """A copy of some rows of a held array, held.

    held : (n, ...) int8, rows of a multiple of four bytes
    rows : (k,) int64, held: which, 0 to n - 1
    returns : (k, ...) int8
    """
    return backend.take_rows(held, rows) if _is_resident(backend) else held[rows]


def put_rows(backend: Backend, held: Any, rows: Any, values: Any) -> None:
    """Replace some rows of a held array, in place.

    held, rows : as for ``take_rows``, no row twice
    values : (k, ...) int8, held or NumPy's
    """
    if _is_resident(backend):
        backend.put_rows(held, rows, values)
    else:
        held[rows] = values
