"""The ONNX export: valid, integers alone, and equal to the reference on random models."""

import numpy as np
import pytest
from test_export_c import random_model, random_text

from egg.export.onnx import onnx_bytes
from egg.kernels import Adapter, Shape
from egg.model.adapter import adapter_shape
from egg.model.network import Network

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'egg-lm[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def session(network: Network):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = onnx_bytes(network.shape, network.weights, "a model", network.adapter)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def read(running, network: Network, tokens: np.ndarray, states: np.ndarray) -> list[np.ndarray]:
    found = running.run(["logits", "next_state"], {"tokens": tokens.astype(np.int64), "state": states})
    assert [each.dtype for each in found] == [np.int8, np.int8]
    return found


@pytest.mark.parametrize(
    ("size", "layers", "seed", "kind"),
    [*((16, 1 + seed % 3, seed, "normal") for seed in range(5)), (16, 2, 1, "any"), (16, 2, 2, "extreme")]
    + [(64, 1, 4, "normal"), (64, 2, 5, "extreme"), (16, 1, 3, "zero")],
)
def test_logits_and_states_are_those_of_the_reference(size, layers, seed, kind):
    network = random_model(size, layers, seed, kind)
    running, tokens = session(network), np.stack([random_text(60, seed), random_text(60, seed + 100)])
    states = np.random.default_rng(seed).integers(-127, 128, (2, layers, size)).astype(np.int8)
    for before in (network.zero_states(2), states):
        expected = network.forward(tokens, before)
        for found, right in zip(read(running, network, tokens, before), expected, strict=True):
            np.testing.assert_array_equal(found, right)
    # In pieces, from state to state.
    first, state = read(running, network, tokens[:, :23], states)
    rest, state = read(running, network, tokens[:, 23:], state)
    np.testing.assert_array_equal(np.concatenate([first, rest], 1), expected[0])
    np.testing.assert_array_equal(state, expected[1])


@pytest.mark.parametrize(("size", "rank", "tensors"), [(16, 16, "gru,mlp,head"), (64, 2, "w_down,u_f")])
def test_an_adapter_is_computed_too(size, rank, tensors):
    layout = adapter_shape(Shape(size, 2), rank, tensors)
    factors = np.random.default_rng(rank).integers(-127, 128, layout.parameters).astype(np.int8)
    network, tokens = random_model(size, 2, rank).with_adapter(Adapter(layout, factors)), random_text(60, rank)[None]
    found, _ = read(session(network), network, tokens, network.zero_states(1))
    np.testing.assert_array_equal(found, network.forward(tokens, network.zero_states(1))[0])
    assert not np.array_equal(found[0], network.with_adapter(None).logits(tokens[0]))


def test_no_value_is_a_floating_point_number():
    content = onnx_bytes(Shape(16, 2), random_model(16, 2, 0).weights, "a model")
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), strict_mode=True).graph
    (scan,) = (node for node in graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    kinds = {onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
    for part in (graph, body):
        values = [*part.value_info, *part.input, *part.output]
        assert len(values) >= len(part.node)  # every value's type is known
        assert {v.type.tensor_type.elem_type for v in values} | {i.data_type for i in part.initializer} <= kinds
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    shape = Shape(16, 2)
    for name, tensor in shape.views(random_model(16, 2, 0).weights).items():
        assert weights[name].dtype == np.int8 and np.array_equal(weights[name], tensor)


def test_the_command_writes_it(egg, tmp_path):
    network = random_model(16, 1, 0)
    network.save(tmp_path / "model")
    assert egg("export", tmp_path / "model", "--to", "onnx", "-o", tmp_path / "out")[0] == 0
    content = (tmp_path / "out" / "model.onnx").read_bytes()
    assert content == onnx_bytes(network.shape, network.weights, "model")
    assert onnx.load_from_string(content).graph.doc_string.startswith("model, sha256 ")
