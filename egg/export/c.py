"""A model as one C99 file: ``inference.c`` with the weights and the shape filled in."""

from collections.abc import Iterator
from importlib.resources import files
from math import isqrt

import numpy as np

from egg.kernels import Adapter, Shape
from egg.kernels.arithmetic import product_shift
from egg.model.digest import digest

PER_LINE = 24  # weights in a line, which then has at most 120 columns
LAYER = "ln1 w_f u_f b_f w_h u_h b_h ln2 w_up w_down".split()
"""The members of ``egg_layer``, in the order of a layer's tensors."""


def c_source(shape: Shape, weights: np.ndarray, name: str, adapter: Adapter | None = None) -> str:
    """The text of the C file.

    weights : (parameters,) int8
    name : the model's name, one line
    adapter : for this shape; its factors go into the file beside the weights
    """
    template = (files("egg.export") / "inference.c").read_text(encoding="utf-8")
    about = (
        f"   {_plain(name)}: hidden size {shape.hidden_size}, {shape.num_layers} layers, "
        f"{shape.parameters:,} parameters\n   sha256 {digest(shape, weights).hex()}"
        + (f", with an adapter of rank {adapter.shape.rank}" if adapter else "")
    )
    defines = (
        f"#define EGG_HIDDEN {shape.hidden_size}\n#define EGG_LAYERS {shape.num_layers}\n"
        f"#define EGG_SHIFT {product_shift(shape.hidden_size)} /* of a product with EGG_HIDDEN inputs */\n"
        f"#define EGG_RANK {adapter.shape.rank if adapter else 0} /* of the adapter, 0 without one */"
    )
    for mark, text in (
        ("@ABOUT@", about),
        ("@DEFINES@", defines),
        ("@POWERS@", ",\n".join(f"        UINT64_C({power})" for power in _powers())),
        ("@WEIGHTS@", "\n".join(_weights(shape, weights, adapter))),
    ):
        template = template.replace(mark, text, 1)
    return template


def _plain(name: str) -> str:
    """A name without characters that could end a C comment."""
    return "".join(c if c.isalnum() or c in " ._-" else "_" for c in name if ord(c) < 128)


def _powers() -> list[int]:
    """round(2**(32 + j / 16)), j = 0..15, from integers alone."""
    powers = []
    for j in range(16):
        value = 1 << (33 * 16 + j)  # the 16th power of twice the number, then of its floor
        for _ in range(4):
            value = isqrt(value)
        powers.append((value + 1) // 2)
    return powers


def _weights(shape: Shape, weights: np.ndarray, adapter: Adapter | None) -> Iterator[str]:
    """Every tensor as an array, and the layers and the head as tables of them."""
    factors = adapter.shape.views(adapter.factors) if adapter else {}
    for name, tensor in (shape.views(weights) | factors).items():
        numbers = tensor.ravel().tolist()
        yield f"static const int8_t {_identifier(name)}[{len(numbers)}] = {{"
        for at in range(0, len(numbers), PER_LINE):
            yield ",".join(map(str, numbers[at : at + PER_LINE])) + ","
        yield "};\n"

    def member(name: str) -> str:
        if name not in shape.matrices:
            return _identifier(name)
        parts = [name, *(f"{name}.{factor}" for factor in ("A", "B") if adapter)]
        return f"{{{', '.join(_identifier(part) if part in (name, *factors) else '0' for part in parts)}}}"

    yield "static const egg_layer egg_layers[EGG_LAYERS] = {"
    for i in range(shape.num_layers):
        names = [name for name in shape.tensors if name.startswith(f"layers.{i}.")]
        assert [name.removesuffix(".weight").split(".")[-1] for name in names] == LAYER
        yield "    {"
        yield from (f"        {member(name)}," for name in names)
        yield "    },"
    yield "};"
    yield f"static const egg_matrix egg_head_matrix = {member('head.weight')};"


def _identifier(name: str) -> str:
    return "egg_" + name.replace(".weight", "").replace(".", "_")
