"""Golden runs: ten steps of each recipe, pinned to the last bit, on every backend and thread count."""

import hashlib

import pytest
import synthetic

from egg.cli_corpus import CorpusText
from egg.config import Config, EvolutionConfig, ModelConfig
from egg.evolution import evolution as begin
from kernels import get_backend

RUNS = {
    "egg": (ModelConfig(64, 1), EvolutionConfig(streams=8, schedule_tokens=1280)),
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
        [262144, 208306, 152650, 139109, 135723, 126611, 128514, 130913, 121605, 118937],
        "051ee259492f6face21ee67bbd00fe27cd05a25e9bed818721c13757c4c33984",
    ),
    "egg-sample": (
        [122880, 100178, 84324, 68716, 65878, 66570, 58998, 68456, 73130, 62285],
        "fc9cee18f14c59232b25399c8f1cea6e7ce84cfb265b3f4547868777e1aadb1c",
    ),
    "egg-small": (
        [71680, 71663, 68260, 65934, 64297, 62624, 59367, 58347, 56029, 54899],
        "229fdb9d00fcfe603a573f3557af38825fe4b0b90211fa72d1fb2d7712864ad8",
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
