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
        [524288, 482980, 424057, 431584, 520725, 455088, 463141, 399495, 410059, 439917],
        "3a392082a9e2555689d8c46574759a8a6a719475e7ca1045406f366a7bf51c13",
    ),
    "egg-input": (
        [983040, 948047, 917634, 871040, 857772, 830710, 818379, 780391, 759598, 753941],
        "10d8d6ab234c6c75d51a0cb78290975cbc31a5fe2f8c7bbea6c16aeb4cc3e564",
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
