"""Evolution learns: a short training falls well below what the bytes' frequencies alone would allow."""

import pytest
import synthetic

from egg.config import Config, EvolutionConfig, ModelConfig
from egg.evolution.recipes import evolution
from egg.kernels import get_backend
from egg.model.evaluate import evaluate
from egg.training.corpus import CorpusText

TOKENS = {"all": 50_000, 16: 100_000}


@pytest.mark.parametrize("branches", ["all", 16])
def test_a_short_training_falls_below_the_unigram_entropy(branches):
    pytest.importorskip("numba")
    text, held_out = synthetic.corpus(400), synthetic.corpus(40, seed=1)
    config = Config(
        model=ModelConfig(64, 1), evolution=EvolutionConfig(schedule_tokens=TOKENS[branches], branches=branches)
    )
    backend = get_backend("numba")
    training = evolution(config, backend, CorpusText(text))
    first = evaluate(training.network, held_out)
    assert first.bits_per_byte == 8.0  # the head is zero at the start
    while training.tokens < TOKENS[branches]:
        training.step()
    after = evaluate(training.network, held_out)
    assert after.bits_per_byte < synthetic.unigram_bits(held_out) - 0.5
