"""A model as ONNX: the operators of integers alone, so that every runtime that follows the standard gives egg's logits.

ONNX has no arithmetic shift of signed numbers, and its division truncates. Both are a floor here, written as
(v - v mod m) / m, where ``Mod`` of integers takes the sign of m, and the division is without a remainder.
"""

from collections.abc import Sequence

import numpy as np

from egg.errors import EggError
from egg.kernels import Adapter, Shape
from egg.kernels.arithmetic import LIMIT, VOCABULARY, adapter_lift, product_shift
from egg.model.digest import digest

OPSET, IR = 17, 8  # read by onnxruntime from 1.12 on


def onnx_bytes(shape: Shape, weights: np.ndarray, name: str, adapter: Adapter | None = None) -> bytes:
    """The file's bytes.

    Inputs ``tokens`` (B, T) int64, bytes, and ``state`` (B, L, D) int8; outputs ``logits`` (B, T, 256) int8 in
    sixteenths of a bit, and ``next_state`` as ``state``.

    weights : (parameters,) int8
    name : the model's name
    adapter : for this shape
    Raises EggError if the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise EggError(f"--to onnx needs the package onnx ({error}): pip install 'egg-lm[onnx]'") from None
    from onnx import TensorProto, helper

    tensors = shape.views(weights) | (adapter.shape.views(adapter.factors) if adapter else {})
    outer = _Nodes("")
    for tensor, values in tensors.items():
        wide = outer.op("Cast", outer.constant(np.ascontiguousarray(values), tensor), to=TensorProto.INT32)
        if values.ndim == 2 and tensor != "embedding.weight":
            wide = outer.op("Transpose", wide, perm=[1, 0])
        outer.names[tensor] = wide
    body = _Nodes("step.", outer)
    state, logits = _step(body, shape)
    sizes = ["B", shape.num_layers, shape.hidden_size]
    step = helper.make_graph(
        body.nodes,
        "step",
        [_value("step.state", "INT32", sizes), _value("step.token", "INT64", ["B"])],
        [_value(state, "INT32", sizes), _value(logits, "INT32", ["B", VOCABULARY])],
        initializer=body.constants,
    )
    state = outer.op("Cast", "state", to=TensorProto.INT32)
    outer.nodes.append(
        helper.make_node(
            "Scan",
            [state, "tokens"],
            ["state.after", "logits.wide"],
            body=step,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        )
    )
    outer.nodes += [
        helper.make_node("Cast", ["logits.wide"], ["logits"], to=TensorProto.INT8),
        helper.make_node("Cast", ["state.after"], ["next_state"], to=TensorProto.INT8),
    ]
    graph = helper.make_graph(
        outer.nodes,
        "egg",
        [_value("tokens", "INT64", ["B", "T"]), _value("state", "INT8", sizes)],
        [_value("logits", "INT8", ["B", "T", VOCABULARY]), _value("next_state", "INT8", sizes)],
        initializer=outer.constants,
        doc_string=f"{name}, sha256 {digest(shape, weights).hex()}" + (" and an adapter" if adapter else ""),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="egg")
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


class _Nodes:
    """The nodes and constants of a graph; operators return the name of what they compute."""

    def __init__(self, prefix: str, outer: "_Nodes | None" = None):
        self.nodes, self.constants, self._prefix = [], [], prefix
        self.names: dict[str, str] = outer.names if outer else {}
        """Tensor of the model -> the name of its int32 values, (K, N) for a matrix (N, K)."""
        self._numbers: dict[tuple, str] = {}

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        from onnx import helper

        name = f"{self._prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: np.ndarray, name: str) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def number(self, value: int | Sequence[int], dtype=np.int32) -> str:
        """A constant, one for each value."""
        key = (str(value), dtype)
        if key not in self._numbers:
            self._numbers[key] = self.constant(np.array(value, dtype), f"{self._prefix}n{len(self._numbers)}")
        return self._numbers[key]

    def floor_divide(self, v: str, m: str) -> str:
        return self.op("Div", self.op("Sub", v, self.op("Mod", v, m, fmod=0)), m)

    def shift(self, v: str, places: int) -> str:
        return self.floor_divide(v, self.number(1 << places))

    def clip(self, v: str) -> str:
        return self.op("Clip", v, self.number(-LIMIT), self.number(LIMIT))

    def axis(self, v: str, *axes: int) -> str:
        return self.op("Unsqueeze", v, self.number(axes, np.int64))

    def norm(self, x: str, gain: str, size: int) -> str:
        total = self.op("ReduceSum", self.op("Abs", x), self.number([1], np.int64), keepdims=1)
        mean = self.op("Max", self.op("Div", total, self.number(size)), self.number(1))  # of numbers >= 0
        return self.clip(self.floor_divide(self.op("Mul", x, self.names[gain]), mean))

    def product(self, x: str, matrix: str, inputs: int) -> str:
        """The matrix's product, and that of its adapter's factors: |sums| < 2^26 + 2^22."""
        total, shift = self.op("MatMul", x, self.names[matrix]), product_shift(inputs)
        if f"{matrix}.A" in self.names:
            z = self.clip(self.shift(self.op("MatMul", x, self.names[f"{matrix}.A"]), shift))
            added = self.op("MatMul", z, self.names[f"{matrix}.B"])
            total = self.op("Add", total, self.op("Mul", added, self.number(1 << adapter_lift(inputs))))
        return self.clip(self.shift(total, shift))


def _step(g: _Nodes, shape: Shape) -> tuple[str, str]:
    """One byte, docs/arithmetic.md: the names of the state after it, (B, L, D) int32, and the logits, (B, 256)."""
    size = shape.hidden_size
    token, states = "step.token", []
    resets = g.axis(g.op("Equal", token, g.number(0, np.int64)), 1, 2)
    before = g.op("Where", resets, g.number(0), "step.state")
    x = g.op("Gather", g.names["embedding.weight"], token)
    for i in range(shape.num_layers):
        gru, mlp = f"layers.{i}.gru.", f"layers.{i}.mlp."
        h = g.op("Gather", before, g.number(i, np.int64), axis=1)
        u = g.norm(x, f"layers.{i}.ln1.weight", size)
        f = g.op("Add", g.product(u, gru + "w_f", size), g.product(h, gru + "u_f", size))
        gate = g.op("Add", g.clip(g.op("Add", f, g.names[gru + "b_f"])), g.number(LIMIT))
        past = g.shift(g.op("Mul", gate, h), 8)
        c = g.op("Add", g.product(u, gru + "w_h", size), g.product(past, gru + "u_h", size))
        c = g.clip(g.op("Add", c, g.names[gru + "b_h"]))
        h = g.op("Add", h, g.shift(g.op("Mul", gate, g.op("Sub", c, h)), 8))
        states.append(g.axis(h, 1))
        x = g.clip(g.op("Add", x, h))
        wide = g.product(g.norm(x, f"layers.{i}.ln2.weight", size), mlp + "w_up", size)
        x = g.clip(g.op("Add", x, g.product(wide, mlp + "w_down", 4 * size)))
    logits = g.product(g.norm(x, "ln_out.weight", size), "head.weight", size)
    return g.op("Concat", *states, axis=1), logits


def _value(name: str, kind: str, sizes: list):
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), sizes)
