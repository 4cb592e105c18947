"""Where everything lies: the tensors of a model, or of an adapter, in one flat vector, and the signs of a direction in
one bit string."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from egg.kernels.arithmetic import VOCABULARY, first_shifts

HIDDEN_SIZES = (16, 64, 256, 1024)
MAX_RANK = 16  # of an adapter: one vector of lanes
SUBSPACE_ROW = 4096  # coordinates that are updated together: the longest row of a model


class BackendError(Exception):
    """A request a backend cannot meet; its message is one line: what, where, and what to do."""


@dataclass(frozen=True)
class Tensor:
    """One tensor's place: in the flat weight vector, and its signs in a direction's bit string."""

    name: str
    shape: tuple[int, ...]
    number: int
    offset: int  # of the first element in the flat vector
    a: int  # bit offset of the output signs of a matrix, or of the signs of a vector
    b: int  # bit offset of the input signs of a matrix

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """Its elements in the flat vector."""
        return slice(self.offset, self.offset + self.size)


def _lay_out(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors one after another, and their signs, each a and b at a multiple of 64 bits."""
    tensors, offset, bit = {}, 0, 0
    for number, (name, shape) in enumerate(shapes.items()):
        a = bit
        b = a + -(-shape[0] // 64) * 64
        bit = b if len(shape) == 1 else b + -(-shape[1] // 64) * 64
        tensors[name] = Tensor(name, shape, number, offset, a, b)
        offset += tensors[name].size
    return tensors


class Layout:
    """Tensors in one flat vector; ``tensors`` has them by name, in order."""

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, in the order of the flat vector."""
        raise NotImplementedError

    @cached_property
    def parameters(self) -> int:
        """Number of elements."""
        return sum(t.size for t in self.tensors.values())

    @cached_property
    def row_starts(self) -> np.ndarray:
        """(rows + 1,) int64: where each row begins in the flat vector, and the end.

        A row is one output of a matrix, one byte of the embedding, or a whole vector: what a step is normalised by.
        """
        starts = [
            t.offset + t.size // rows * row
            for t in self.tensors.values()
            for rows in [t.shape[0] if len(t.shape) == 2 else 1]
            for row in range(rows)
        ]
        return np.array([*starts, self.parameters], np.int64)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.row_starts) - 1

    @cached_property
    def sign_words(self) -> int:
        """32-bit words of one direction's signs."""
        last = list(self.tensors.values())[-1]
        return (last.b + -(-last.shape[1] // 64) * 64) // 32

    @cached_property
    def gaussian(self) -> dict[str, Tensor]:
        """Every tensor by name, with the places of its Gaussian factors in halfwords; a vector has two as well."""
        return _lay_out({name: t.shape if len(t.shape) == 2 else t.shape * 2 for name, t in self.tensors.items()})

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """A flat (parameters,) vector as one view a tensor."""
        return {name: flat[t.slice].reshape(t.shape) for name, t in self.tensors.items()}

    def flatten(self, tensors: dict[str, np.ndarray], dtype=np.int8) -> np.ndarray:
        """The flat (parameters,) vector of named tensors."""
        flat = np.empty(self.parameters, dtype)
        for name, view in self.views(flat).items():
            view[...] = tensors[name]
        return flat


@dataclass(frozen=True)
class Shape(Layout):
    """A model's shape: hidden size D (a power of four, so that divisions are shifts) and layers L."""

    hidden_size: int
    num_layers: int

    def __post_init__(self):
        if self.hidden_size not in HIDDEN_SIZES:
            raise BackendError(
                f"hidden size {self.hidden_size}: every division is a shift, so it must be a power of four: "
                f"{', '.join(map(str, HIDDEN_SIZES))}"
            )
        if self.num_layers < 1:
            raise BackendError(f"{self.num_layers} layers: a model has at least 1")

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, in the order of the flat vector."""
        d = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (VOCABULARY, d)}
        for i in range(self.num_layers):
            layer = f"layers.{i}."
            shapes[layer + "ln1.weight"] = (d,)
            for gate in "fh":
                shapes[f"{layer}gru.w_{gate}"] = (d, d)
                shapes[f"{layer}gru.u_{gate}"] = (d, d)
                shapes[f"{layer}gru.b_{gate}"] = (d,)
            shapes[layer + "ln2.weight"] = (d,)
            shapes[layer + "mlp.w_up"] = (4 * d, d)
            shapes[layer + "mlp.w_down"] = (d, 4 * d)
        shapes |= {"ln_out.weight": (d,), "head.weight": (VOCABULARY, d)}

        return _lay_out(shapes)

    @cached_property
    def multiply_accumulates(self) -> int:
        """Multiply-accumulates of one token's forward pass: 12 D**2 L + 256 D."""
        d = self.hidden_size
        return 12 * d * d * self.num_layers + VOCABULARY * d

    @cached_property
    def vote_work(self) -> int:
        """Multiply-accumulates of one token's votes in recipe egg, credit wire: 8 D**2 L + 256 D."""
        d = self.hidden_size
        return 8 * d * d * self.num_layers + VOCABULARY * d

    def vote_kinds(self, stations: bool = False) -> int:
        """Kinds of credit that are narrowed by a shift of their own: embedding, gain, three or six a layer."""
        return len(first_shifts(self.num_layers, stations))

    def credits(self, tokens: int, stations: bool = False) -> np.ndarray:
        """(kinds,) int64: how many credits of each kind so many tokens have."""
        found = np.full(self.vote_kinds(stations), tokens * self.hidden_size)
        found[self.vote_kinds() :: 3] *= 4  # a layer's up, the first of its stations' kinds, is of 4 D
        return found

    @cached_property
    def matrices(self) -> tuple[str, ...]:
        """The products' matrices: all but the embedding, which is read by rows."""
        return tuple(n for n, t in self.tensors.items() if len(t.shape) == 2 and t.number)


@dataclass(frozen=True)
class AdapterShape(Layout):
    """An adapter's shape: factors A (rank, K) and B (N, rank) beside some of a model's matrices (N, K)."""

    base: Shape
    rank: int
    matrices: tuple[str, ...]
    """In the model's order."""

    def __post_init__(self):
        if not 1 <= self.rank <= MAX_RANK:
            raise BackendError(f"rank {self.rank}: an adapter's is 1 to {MAX_RANK}")
        ordered = tuple(name for name in self.base.matrices if name in self.matrices)
        if not ordered or ordered != self.matrices:
            raise BackendError(
                f"matrices {', '.join(self.matrices) or '(none)'}: an adapter's are some of the model's, "
                "in the model's order"
            )

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every factor by name, NAME.A and NAME.B for each matrix, in the order of the flat vector."""
        shapes = {}
        for name in self.matrices:
            outputs, inputs = self.base.tensors[name].shape
            shapes |= {name + ".A": (self.rank, inputs), name + ".B": (outputs, self.rank)}
        return _lay_out(shapes)


@dataclass(frozen=True)
class SubspaceShape(Layout):
    """The coordinates of a random subspace."""

    dimensions: int
    """A power of two, 4 or more."""

    def __post_init__(self):
        if self.dimensions < 4 or self.dimensions & (self.dimensions - 1):
            raise BackendError(f"{self.dimensions} dimensions: those of a random subspace are a power of two from 4 on")

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """One tensor, z."""
        width = min(self.dimensions, SUBSPACE_ROW)
        return _lay_out({"z": (self.dimensions // width, width)})
