"""A text's path through a model, recorded from the reference definition: every stage of every byte.

Stages are those of docs/arithmetic.md, "The model", in their order. Statistics are taken of each byte's vector at
each stage; nothing is sampled.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from egg.errors import EggError
from egg.kernels.arithmetic import LIMIT, VOCABULARY, product_shift
from egg.kernels.layout import Shape
from egg.kernels.reference import Model
from egg.kernels.values import ArrayValue
from egg.model.evaluate import surprises

MAX_BYTES = 20_000  # of a text: a page about a longer one would be too large to open
LAYER_STAGES = (
    "ln1",
    "gru.w_f",
    "gru.u_f",
    "gate",
    "past",
    "gru.w_h",
    "gru.u_h",
    "candidate",
    "state",
    "gru",
    "ln2",
    "mlp.w_up",
    "mlp.middle",
    "mlp.w_down",
    "mlp",
)
"""What happens in a layer, in order; names of matrices are the sums of their products."""
LIKELY = 5  # likeliest next bytes kept of each position


@dataclass(frozen=True, eq=False)
class Stage(ArrayValue):
    """One stage of the network, over all bytes."""

    name: str
    """Such as layers.0.gate; a matrix's name for the sums of its product."""
    is_sum: bool
    """Whether the values are int32 sums before shift and clip; else they are int8."""
    min: np.ndarray
    """(T,) int64."""
    max: np.ndarray
    """(T,) int64."""
    mean_magnitude: np.ndarray
    """(T,) float64."""
    clipped: np.ndarray
    """(T,) float64: share at +-127; for sums the share that the clip after the shift changes."""
    headroom_bits: np.ndarray | None
    """(T,) float64, only for sums: log2(2**31 / largest magnitude), doublings left before int32 would overflow."""
    openness: np.ndarray | None
    """(T,) float64, only for gates: mean of (f + 127) / 254, 0 keeps the state, 1 renews it."""


@dataclass(frozen=True, eq=False)
class Trace(ArrayValue):
    """The path of a text of n bytes, read after a NUL: T = n + 1 positions, the first that of the NUL."""

    text: bytes
    tokens: np.ndarray
    """(T,) uint8: the NUL and the text."""
    logits: np.ndarray
    """(T, 256) int8 in sixteenths of a bit, after each byte."""
    stages: list[Stage]
    surprise_bits: np.ndarray
    """(n,) float64: -log2 of the probability of each byte of the text."""
    expected: np.ndarray
    """(T, LIKELY) uint8: the likeliest next bytes after each position; ties go to the lower byte."""
    probabilities: np.ndarray
    """(T, LIKELY) float64: of ``expected``."""
    rank: np.ndarray
    """(n,) int64: how many bytes had a larger logit than the text's."""


class _Recorder(Model):
    """The reference's model, recording every stage."""

    def __init__(self, shape: Shape, weights: dict[str, np.ndarray]):
        super().__init__(shape, weights)
        self.rows: dict[str, list[np.ndarray]] = {}

    def seen(self, stage, values_mn):
        self.rows.setdefault(stage, []).append(values_mn[0])


def trace(shape: Shape, weights: np.ndarray, text: bytes) -> Trace:
    """Read a text from state zero with unperturbed weights, and record every stage.

    weights : (parameters,) int8
    Raises EggError for an empty text, one that is too long, or one with a NUL, which would end the document.
    """
    if not text:
        raise EggError("the text is empty: give at least one byte to trace")
    if len(text) > MAX_BYTES:
        raise EggError(f"the text has {len(text):,} bytes: at most {MAX_BYTES:,} can be traced at once")
    if 0 in text:
        raise EggError("the text has a NUL in it, which separates documents: give one document")
    tokens = np.frombuffer(b"\0" + text, np.uint8)
    model = _Recorder(shape, shape.views(weights.astype(np.int64)))
    states = np.zeros((1, shape.num_layers, shape.hidden_size), np.int64)
    logits = np.empty((len(tokens), VOCABULARY), np.int8)
    for t in range(len(tokens)):
        logits[t] = model.product("head.weight", model.read(tokens[t : t + 1], states))[0]
    model.rows["logits"] = list(logits.astype(np.int64))
    stages = [_stage(name, np.array(model.rows[name]), shape) for name in stage_names(shape)]
    likely = np.argsort(-logits.astype(np.int64), axis=1, kind="stable")[:, :LIKELY]
    exact = np.exp2(logits / 16.0)
    exact /= exact.sum(1, keepdims=True)
    targets = tokens[1:]
    chosen = np.take_along_axis(logits[:-1], targets[:, None].astype(np.intp), 1)
    return Trace(
        text,
        tokens,
        logits,
        stages,
        surprises(logits[:-1], targets),
        likely.astype(np.uint8),
        np.take_along_axis(exact, likely, 1),
        (logits[:-1] > chosen).sum(1),
    )


def stage_names(shape: Shape) -> list[str]:
    """All stages of a model, in order."""
    layers = [f"layers.{i}.{name}" for i in range(shape.num_layers) for name in LAYER_STAGES]
    return ["embedding", *layers, "ln_out", "head.weight", "logits"]


def _stage(name: str, values: np.ndarray, shape: Shape) -> Stage:
    """Statistics of (T, N) values."""
    tensor = shape.tensors.get(name)
    is_sum = tensor is not None
    magnitudes = np.abs(values)
    largest = magnitudes.max(1)
    clipped, headroom, openness = magnitudes == LIMIT, None, None
    if is_sum:
        clipped = np.abs(values >> product_shift(tensor.shape[1])) > LIMIT
        headroom = 31 - np.log2(np.maximum(largest, 1))
    elif name.endswith(".gate"):
        openness = ((values + LIMIT) / (2 * LIMIT)).mean(1)
    return Stage(name, is_sum, values.min(1), values.max(1), magnitudes.mean(1), clipped.mean(1), headroom, openness)


def trace_json(traced: Trace) -> dict[str, Any]:
    """The trace as JSON: each position with its byte, its surprise, the bytes expected next, and its stages."""
    return {
        "bits_per_byte": float(traced.surprise_bits.mean()),
        "bytes": len(traced.text),
        "stages": [stage.name for stage in traced.stages],
        "positions": [position(traced, t) for t in range(len(traced.tokens))],
    }


def position(traced: Trace, t: int) -> dict[str, Any]:
    """One byte: position 0 is the NUL before the text."""
    figures: dict[str, Any] = {"position": t, "byte": int(traced.tokens[t])}
    if t:
        figures |= {
            "surprise_bits": float(traced.surprise_bits[t - 1]),
            "probability": float(2.0 ** -traced.surprise_bits[t - 1]),
            "rank": int(traced.rank[t - 1]) + 1,
            "predicted_byte": int(traced.expected[t - 1, 0]),
            "predicted_probability": float(traced.probabilities[t - 1, 0]),
        }
    figures["next"] = [
        {"byte": int(b), "probability": float(p)}
        for b, p in zip(traced.expected[t], traced.probabilities[t], strict=True)
    ]
    figures["stages"] = [_numbers(stage, t) for stage in traced.stages]
    return figures


def _numbers(stage: Stage, t: int) -> dict[str, Any]:
    numbers = {
        "stage": stage.name,
        "min": int(stage.min[t]),
        "max": int(stage.max[t]),
        "mean_magnitude": float(stage.mean_magnitude[t]),
        "share_clipped": float(stage.clipped[t]),
    }
    if stage.headroom_bits is not None:
        numbers["headroom_bits"] = float(stage.headroom_bits[t])
    if stage.openness is not None:
        numbers["gate_openness"] = float(stage.openness[t])
    return numbers


def byte_label(byte: int) -> str:
    """A byte made visible: its character, a symbol, or two hexadecimal digits."""
    if 33 <= byte < 127:
        return chr(byte)
    return {32: "␣", 10: "⏎", 9: "⇥", 13: "␍", 0: "NUL"}.get(byte, f"{byte:02x}")
