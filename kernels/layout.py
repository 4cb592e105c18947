"""Where everything lies: the tensors of a model in one flat vector, and the signs of a direction in one bit string."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kernels.arithmetic import VOCABULARY

HIDDEN_SIZES = (16, 64, 256, 1024)


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
        return int(np.prod(self.shape))

    @property
    def slice(self) -> slice:
        """Its elements in the flat vector."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Shape:
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
        shapes = {"embedding.weight": (VOCABULARY, d)}
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

        tensors, offset, bit = {}, 0, 0
        for number, (name, shape) in enumerate(shapes.items()):
            a = bit
            b = a + -(-shape[0] // 64) * 64
            bit = b if len(shape) == 1 else b + -(-shape[1] // 64) * 64
            tensors[name] = Tensor(name, shape, number, offset, a, b)
            offset += tensors[name].size
        return tensors

    @cached_property
    def parameters(self) -> int:
        """Number of weights: 513 D + L (12 D**2 + 4 D)."""
        return sum(t.size for t in self.tensors.values())

    @cached_property
    def sign_words(self) -> int:
        """32-bit words of one direction's signs."""
        last = self.tensors["head.weight"]
        return (last.b + -(-self.hidden_size // 64) * 64) // 32

    @cached_property
    def multiply_accumulates(self) -> int:
        """Multiply-accumulates of one token's forward pass: 12 D**2 L + 256 D."""
        d = self.hidden_size
        return 12 * d * d * self.num_layers + VOCABULARY * d

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """A flat (parameters,) vector as one view a tensor."""
        return {name: flat[t.slice].reshape(t.shape) for name, t in self.tensors.items()}

    def flatten(self, tensors: dict[str, np.ndarray], dtype=np.int8) -> np.ndarray:
        """The flat (parameters,) vector of named tensors."""
        flat = np.empty(self.parameters, dtype)
        for name, view in self.views(flat).items():
            view[...] = tensors[name]
        return flat
