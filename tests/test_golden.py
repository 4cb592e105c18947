"""Golden runs: ten steps of each recipe, pinned to the last bit, on every backend and thread count."""

import hashlib

import pytest
import synthetic

from egg.cli_corpus import CorpusText
from egg.config import Config, EvolutionConfig, ModelConfig
from egg.evolution import Evolution
from kernels import get_backend

RUNS = {
    "egg-sign": (ModelConfig(64, 1), EvolutionConfig(population_size=64, schedule_tokens=2560)),
    "egg-input": (
        ModelConfig(16, 2),
        EvolutionConfig(
            population_size=96, group_size=12, seq_len=5, perturbation="input", seed=2**64 - 1
        ),
    ),
    "paper": (
        ModelConfig(16, 2),
        EvolutionConfig(recipe="paper", population_size=24, seq_len=20, sigma_shift=4, seed=3),
    ),
}
PINNED = {
    "egg-sign": (
        [524288, 500077, 430239, 477850, 506870, 451407, 466832, 389667, 397942, 446578],
        "f1126d7b3cf68a9c938aba36a95b9907ce6b4ec54297c7ae74c7a9b425224935",
    ),
    "egg-input": (
        [983040, 940439, 912088, 857957, 829215, 793016, 785278, 737716, 721456, 711651],
        "bf6096b987702301df6e34f000a358ac2abe81d226f804a4bde025c5e1e1878e",
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
    training = Evolution(Config(model=model, evolution=evolution), backend, text)
    bits = [training.step().train_integer_bits_per_byte for _ in range(10)]
    # Sums of integer scores over a known number of bytes: rounding to an integer gives them back.
    unit = 16 if evolution.recipe == "paper" else 256
    scores = [round(b * unit * evolution.population_size * evolution.seq_len) for b in bits]
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
