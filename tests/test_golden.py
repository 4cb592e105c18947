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
    "stations": (
        ModelConfig(64, 2),
        EvolutionConfig(credit="stations", stations="all", seq_len=12, schedule_tokens=10**5),
    ),
    "stations-some": (
        ModelConfig(16, 1),
        EvolutionConfig(streams=6, seq_len=9, credit="stations", stations="gates,past,middle", step_size=2.5),
    ),
    "paper": (ModelConfig(16, 2), EvolutionConfig(recipe="paper", population_size=24, seq_len=20, seed=3)),
}
PINNED = {
    "egg": (
        [262144, 196308, 135750, 131067, 131206, 121195, 120863, 121630, 111954, 112006],
        "1652f197bc7df45d5067b47fe5ec23a6210ed7e574632daee58675e43c1dad0b",
    ),
    "egg-sample": (
        [122880, 94179, 76385, 65363, 65507, 66625, 58268, 68007, 70641, 59864],
        "58e28caa50b0e1642df6453361c2111d80de23bd19645d2f739e12b4bed28491",
    ),
    "egg-small": (
        [71680, 71680, 67433, 64196, 61818, 60234, 55292, 53665, 51596, 49673],
        "4d5eda2c5510cdb8209ec8cf676e0a0e7d24f119a93f95c96bb4dbb501334cc8",
    ),
    "stations": (
        [393216, 315358, 259539, 220480, 216451, 199658, 205910, 189325, 183798, 174779],
        "0b111a99100e6dfe9c87795f3ff71e984b2ebdd1d60f0915afbe5d9f0ce8b11c",
    ),
    "stations-some": (
        [110592, 73135, 65243, 65268, 72094, 67517, 74284, 58903, 67190, 66994],
        "13cba44fd87619fd19df122d0a222bb555dd8d79caf4184c9e71bc84a2df3542",
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
