"""Golden runs: ten steps of each recipe, pinned to the last bit, on every backend and thread count."""

import hashlib

import pytest
import synthetic

from egg.cli_corpus import CorpusText
from egg.config import Config, EvolutionConfig, ModelConfig
from egg.evolution import evolution as begin
from kernels import get_backend

RUNS = {
    "egg": (ModelConfig(64, 1), EvolutionConfig(streams=8, seq_len=16, schedule_tokens=1280)),
    "egg-sample": (
        ModelConfig(64, 2),
        EvolutionConfig(streams=12, seq_len=5, branches=16, schedule_tokens=700, seed=2**64 - 1),
    ),
    "egg-small": (
        ModelConfig(16, 2),
        EvolutionConfig(streams=5, seq_len=7, schedule_tokens=10**6, schedule="cosine", seed=5),
    ),
    "paper": (
        ModelConfig(16, 2),
        EvolutionConfig(recipe="paper", population_size=24, seq_len=20, seed=3),
    ),
}
PINNED = {
    "egg": (
        [262144, 196308, 136161, 131278, 130232, 121787, 120350, 120527, 111150, 111093],
        "40dc1adafb02c2d3f4e29cb2a905ca41905db4ceb906efb377f54218f3c5cd2e",
    ),
    "egg-sample": (
        [122880, 94179, 76367, 65317, 64764, 65396, 58726, 68110, 70406, 60092],
        "8a220f3ca02b8847e81aa398dce2b98a2b02a2f87e0ab60e4930901588809e75",
    ),
    "egg-small": (
        [71680, 71680, 67433, 64157, 61957, 60062, 55629, 54391, 51879, 50339],
        "07fd29b5ca0fc758a2dd6497443cd260ef4130dffa69c46bfd06de43e1979a81",
    ),
    "paper": (
        [67276, 66074, 66028, 65661, 64904, 64863, 64799, 63281, 64175, 63455],
        "9aeb4bb077d4180707076c114f52e39184aafb338b2e44859f09ece8eba4f9ea",
    ),
}


def golden(run, backend):
    """The integer scores of ten steps, and a hash of the weights after them."""
    model, evolution = RUNS[run]
    text = CorpusText(synthetic.corpus(60))
    training = begin(Config(model=model, evolution=evolution), backend, text)
    bits = [training.step().train_integer_bits_per_byte for _ in range(10)]
    # Sums of integer scores over a known number of bytes: rounding to an integer gives them back.
    unit = 16 if evolution.recipe == "paper" else 256
    scores = [round(b * unit * evolution.tokens_per_step) for b in bits]
    return scores, hashlib.sha256(training.weights.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "threads"),
    [
        ("numpy", None),
        ("numba", 1),
        ("numba", 2),
        ("numba", 3),
        pytest.param("cupy", None, marks=pytest.mark.cuda),
    ],
)
@pytest.mark.parametrize("run", RUNS)
def test_golden_run(run, name, threads, request):
    if name == "cupy":
        request.getfixturevalue("cupy_backend")  # which skips where there is no device
    if name == "numba":
        pytest.importorskip("numba")
    assert golden(run, get_backend(name, threads=threads)) == PINNED[run]
