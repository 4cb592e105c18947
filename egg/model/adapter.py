"""Adapters: the matrices that they adapt, their files, and merging one into the weights.

adapter.safetensors holds NAME.A (R, K) and NAME.B (N, R) int8 for each matrix, and in its metadata, under one key, a
JSON object with the format's number, the rank, the matrices, and the hash of its base.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from egg.errors import EggError
from egg.kernels import Adapter, AdapterShape, BackendError, Shape
from egg.kernels.arithmetic import LIMIT, clip8, round_shift
from egg.kernels.layout import Layout, Tensor
from egg.kernels.philox import ADAPTER_WEIGHTS
from egg.model import checkpoint, hub
from egg.model.checkpoint import ADAPTER
from egg.model.digest import ADAPTER_BASE, digest
from egg.model.parameters import normal_weights

FORMAT, FORMAT_KEY = 1, "egg_adapter"
KINDS = ("gru", "mlp", "head")
ALL, VECTORS = "all", "vectors"
"""Every tensor: embedding, matrices, biases and norm gains; and of these the last two alone."""
WITHOUT_VOTES = {"ln1", "ln2", "w_up", "A"}
"""Tensors that a text has no votes on: norms before layers, the first half of an MLP, an adapter's inner factor."""
MERGE_SHIFT = 6  # shift(K) - lift(K): B A over 2 to this power is a change of W


def matrices_of(shape: Shape, tensors: str) -> tuple[str, ...]:
    """A model's matrices of the given kinds, in its order.

    tensors : gru, mlp, head, names such as w_up, or whole names; separated by commas
    Raises EggError for a name that matches no matrix.
    """
    return select_names(shape.matrices, tensors, "--tensors", "matrix", KINDS)


def tensors_of(shape: Shape, tensors: str) -> tuple[str, ...]:
    """A model's tensors of the given kinds, in its order.

    tensors : ALL; or VECTORS, embedding, gru, mlp, head, names such as w_down or ln1, or whole names; separated by
        commas
    Raises EggError for a name that matches no tensor.
    """
    if tensors == ALL:
        return tuple(shape.tensors)
    vectors = [name for name, tensor in shape.tensors.items() if len(tensor.shape) == 1]
    kinds = (VECTORS, "embedding", *KINDS)
    return select_names(tuple(shape.tensors), tensors, "--whole", "tensor", kinds, {VECTORS: vectors})


def voted_parameters(layout: Layout, names: Collection[str] | None = None) -> int:
    """Number of parameters that a text has votes on, in all tensors or the named ones; raises EggError if it is 0."""
    chosen = [t for n, t in layout.tensors.items() if names is None or n in names]
    count = sum(t.size for t in voted_tensors(layout) if t in chosen)
    if not count:
        raise EggError(f"{', '.join(t.name for t in chosen)}: a text has no votes on any of these")
    return count


def voted_tensors(layout: Layout) -> list[Tensor]:
    """The tensors that a text has votes on, in their order."""
    return [t for t in layout.tensors.values() if not WITHOUT_VOTES & set(t.name.split("."))]


def select_names(
    names: Sequence[str],
    chosen: str,
    flag: str,
    what: str,
    kinds: Sequence[str],
    groups: Mapping[str, Collection[str]] | None = None,
) -> tuple[str, ...]:
    """The names that a flag's value selects, in their order.

    chosen : names, parts of names between dots, and keys of ``groups``, separated by commas
    what, kinds : for the error about a part that selects nothing
    """
    groups, found = groups or {}, set()
    for part in (part.strip() for part in chosen.split(",")):
        matches = groups.get(part) or {n for n in names if part and (part == n or part in n.split("."))}
        if not matches:
            raise EggError(
                f"{flag} {chosen}: {part!r} is no {what} of the model: choose from {', '.join(kinds)}, "
                "or names such as w_up"
            )
        found.update(matches)
    return tuple(name for name in names if name in found)


def adapter_shape(shape: Shape, rank: int, tensors: str) -> AdapterShape:
    """The shape of an adapter; raises EggError, one line, for an invalid rank or matrix."""
    matrices = matrices_of(shape, tensors)
    try:
        return AdapterShape(shape, rank, matrices)
    except BackendError as error:
        raise EggError(f"--rank {rank}: {error}") from error


def initial_factors(layout: AdapterShape, seed: int) -> np.ndarray:
    """(parameters,) int8: A round(16 z), B zero, so that a new adapter changes nothing."""
    flat = np.zeros(layout.parameters, np.int8)
    for name, factor in layout.views(flat).items():
        if name.endswith(".A"):
            number = layout.tensors[name].number
            drawn = normal_weights(seed, ADAPTER_WEIGHTS, number, factor.size)
            factor[...] = drawn.reshape(factor.shape)
    return flat


def base_hash(shape: Shape, weights: np.ndarray) -> str:
    """The digest of an adapter's base, in hexadecimal; see ``egg.model.digest``.

    weights : (parameters,) int8
    """
    return digest(shape, weights, ADAPTER_BASE).hex()


def file_bytes(adapter: Adapter, base: str) -> bytes:
    """The bytes of an adapter's file.

    base : ``base_hash`` of its model
    """
    layout = adapter.shape
    about = {
        "format": FORMAT,
        "base": base,
        "rank": layout.rank,
        "matrices": layout.matrices,
        "hidden_size": layout.base.hidden_size,
        "num_layers": layout.base.num_layers,
    }
    tensors = {n: np.ascontiguousarray(v) for n, v in layout.views(adapter.factors).items()}
    return save(tensors, {FORMAT_KEY: json.dumps(about)})


def read_adapter(path: str | Path, shape: Shape, weights: np.ndarray) -> Adapter:
    """An adapter from its file, from the folder that ``egg adapt`` or ``egg export`` wrote, or OWNER/NAME on the Hub.

    weights : (parameters,) int8, of the model it is used with
    Raises EggError, one line, for a file that is missing, damaged, foreign, or of another base.
    """
    path = Path(hub.fetch(path))
    if path.is_dir():
        path = path / ADAPTER
    if not path.is_file():
        raise EggError(f"--adapter {path}: no such file; give an {ADAPTER} of egg adapt")
    with checkpoint.opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    try:
        about = json.loads(metadata[FORMAT_KEY])
        version, base = about["format"], about["base"]
        rank, matrices = about["rank"], tuple(about["matrices"])
        if type(rank) is not int or not all(isinstance(name, str) for name in matrices):
            raise ValueError
    except (KeyError, ValueError, TypeError, RecursionError):
        raise EggError(f"--adapter {path} is not an adapter of egg: its metadata has no {FORMAT_KEY}") from None
    if version != FORMAT:
        raise EggError(f"--adapter {path} has format {version!r:.40}, this program reads {FORMAT}")
    if base != base_hash(shape, weights):
        raise EggError(
            f"--adapter {path} was made for another base: its base is {str(base)[:12]}, this model is "
            f"{base_hash(shape, weights)[:12]}; give the checkpoint it was adapted from"
        )
    try:
        layout = AdapterShape(shape, rank, matrices)
    except BackendError as error:
        raise EggError(f"--adapter {path}: {error}") from error
    for name, tensor in layout.tensors.items():
        factor = tensors.get(name)
        if factor is None or factor.dtype != np.int8 or factor.shape != tensor.shape:
            raise EggError(f"--adapter {path}: {name} is not int8{list(tensor.shape)}: damaged")
        if factor.min() < -LIMIT:
            raise EggError(f"--adapter {path}: {name} holds -128, which no factor can be: damaged")
    return Adapter(layout, layout.flatten(tensors))


def merge(weights: np.ndarray, adapter: Adapter) -> np.ndarray:
    """(parameters,) int8: W + B A / 64, rounded half up; the rounding and clipping of z has no counterpart.

    weights : (parameters,) int8
    """
    layout, merged = adapter.shape, weights.copy()
    factors = layout.views(adapter.factors.astype(np.int64))
    for name in layout.matrices:
        view = layout.base.views(merged)[name]
        change = factors[name + ".B"] @ factors[name + ".A"]  # |B A| <= 16 * 127**2
        view[...] = clip8(view + round_shift(change, MERGE_SHIFT))
    return merged
