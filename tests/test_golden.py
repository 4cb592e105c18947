"""Golden runs: ten steps of each recipe, pinned to the last bit, on every backend and thread count."""

import hashlib

import pytest
import synthetic

from egg.config import Config, EvolutionConfig, ModelConfig
from egg.evolution.recipes import evolution as begin
from egg.kernels import get_backend
from egg.training.corpus import CorpusText

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
    "stations": (ModelConfig(64, 2), EvolutionConfig(credit="stations", seq_len=12, schedule_tokens=10**5)),
    "stations-some": (
        ModelConfig(16, 1),
        EvolutionConfig(streams=6, seq_len=9, credit="stations", stations="gates,past,middle", step_size=2.5),
    ),
    "paper": (ModelConfig(16, 2), EvolutionConfig(recipe="paper", population_size=24, seq_len=20, seed=3)),
}
PINNED = {
    "egg": (
        [262144, 196308, 134601, 134985, 131813, 127285, 122930, 120624, 111265, 110888],
        "efd62eb32631005190fc05a03844be60787ec0cef48997bf5db53db670cb002e",
    ),
    "egg-sample": (
        [122880, 94179, 77964, 65133, 64323, 66639, 59385, 67068, 70655, 60052],
        "bf3fbc63834c5e0e4f4a65c0cb61e875cfd3ac1f119531e01c5162a365a5d7b2",
    ),
    "egg-small": (
        [71680, 71680, 67433, 64171, 62485, 60684, 55730, 53334, 49270, 48261],
        "2988792601aac0fb89b73537f1a0e96635c82d303427f87a18ff9a1177f4e85d",
    ),
    "stations": (
        [393216, 315358, 259539, 220570, 216315, 199817, 205468, 189233, 183757, 176202],
        "0a20397fdf94fc70a403fa38bbf5a016481d6c1471f9e6a7224ef6398fc5febd",
    ),
    "stations-some": (
        [110592, 73135, 65243, 65311, 72003, 67642, 76905, 59663, 68343, 68404],
        "7a73fee81f39509eb6a92a70486ad8715222d119dc5843d7f05a72093f9b85d5",
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
    [("numpy", None), ("numba", 1), ("numba", 2), ("numba", 3), pytest.param("cupy", None, marks=pytest.mark.cuda)],
)
@pytest.mark.parametrize("run", RUNS)
def test_golden_run(run, name, threads, request):
    if name == "cupy":
        request.getfixturevalue("cupy_backend")  # which skips where there is no device
    if name == "numba":
        pytest.importorskip("numba")
    assert golden(run, get_backend(name, threads=threads)) == PINNED[run]
