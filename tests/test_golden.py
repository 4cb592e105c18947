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
    "paper-rank": (ModelConfig(16, 2), EvolutionConfig(recipe="paper", population_size=24, seq_len=20, rank=4)),
    "paper-gaussian": (
        ModelConfig(64, 1),
        EvolutionConfig(
            recipe="paper", population_size=16, seq_len=9, noise="gaussian", fitness="raw", group_size=4, seed=2**40
        ),
    ),
    "paper-all": (
        ModelConfig(16, 1),
        EvolutionConfig(
            recipe="paper",
            population_size=24,
            seq_len=15,
            noise="gaussian",
            rank=16,
            use_clt=False,
            fitness="rank",
            noise_reuse=3,
            num_perturbations=6,
            alpha=0.5,
        ),
    ),
}
PINNED = {
    "egg": (
        [262144, 196308, 135171, 134577, 130908, 126416, 120957, 119788, 110459, 110356],
        "49d56f75ebb39f9a577960eba187626216b4d6fba3b9baddca8a6511e83557a5",
    ),
    "egg-sample": (
        [122880, 94179, 77627, 65416, 65471, 67354, 58261, 67572, 70359, 59964],
        "1ea9e3a624f2f71bdc0dcdb340636218cd3a1f63a7ec169c13b282c56595497f",
    ),
    "egg-small": (
        [71680, 71680, 67433, 64116, 62371, 60576, 55594, 53097, 48742, 47871],
        "c1579d2b2935cb4be341ef6db03552c052794eb90cebdfbd92d91b894389486c",
    ),
    "stations": (
        [393216, 285214, 233316, 211394, 212431, 195029, 193072, 184839, 197073, 184055],
        "fed45f5d5071dc465f273f7d9ac7cfd99ae5ce38b6372e9012c5d1d996437f3d",
    ),
    "stations-some": (
        [110592, 73135, 65000, 64616, 71750, 66080, 60985, 62715, 61508, 64058],
        "fe4a1371445b7684680c9ac868659b6da70dcafdc7c11a9487aab35b8e7dd876",
    ),
    "paper": (
        [67276, 66074, 66028, 65661, 64904, 64863, 64799, 63281, 64175, 63455],
        "9aeb4bb077d4180707076c114f52e39184aafb338b2e44859f09ece8eba4f9ea",
    ),
    "paper-rank": (
        [65959, 65162, 65295, 64396, 64784, 63193, 63783, 62368, 61968, 61177],
        "25e6f8fb11900681b73a0791f0dda5e9b1ee913c1503071e9d3ee0004547e582",
    ),
    "paper-gaussian": (
        [19676, 20673, 20003, 20315, 19832, 20946, 19541, 19584, 19427, 19245],
        "abf5251a827940ef8d383dbfab203934324cc7651192ec4ba621afe00218986b",
    ),
    "paper-all": (
        [46148, 47355, 47411, 47770, 47205, 47718, 48387, 47983, 47579, 47888],
        "f063fd02424100648a22d1b8c5f75fd651428d5d30249aa2db1d28eb51393466",
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
        if run.startswith("paper-"):
            pytest.skip("backend cupy refuses other noise than signs of rank 1")
    if name == "numba":
        pytest.importorskip("numba")
    assert golden(run, get_backend(name, threads=threads)) == PINNED[run]
