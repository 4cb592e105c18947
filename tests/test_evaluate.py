"""Bits per byte: what they mean, and that no batching changes a digit."""

import math
import re
from decimal import Decimal, getcontext

import numpy as np
import pytest

from egg.errors import EggError
from egg.kernels import Shape, get_backend, reference
from egg.model import evaluate as module
from egg.model.evaluate import Evaluation, count_words, evaluate, sample, scores, surprises
from egg.model.network import Network

SHAPE = Shape(16, 1)
NUMPY = get_backend("numpy")


def random_weights(seed: int = 1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(SHAPE.parameters) * 16).astype(np.int8)


def text_of(documents: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(b"\0" + d for d in documents), np.uint8)


def random_documents(count: int, longest: int, seed: int = 2) -> list[bytes]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, longest + 1, count)
    return [bytes(rng.integers(1, 256, n, dtype=np.uint8)) for n in sizes]


def figures(result) -> tuple:
    return (result.bits_per_byte, result.integer_bits_per_byte, result.byte_perplexity, result.documents, result.bytes)


def logit_rows() -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = rng.integers(-127, 128, (600, 256)).astype(np.int8)
    rows[0], rows[1] = -127, 127
    rows[2], rows[3] = -127, 127
    rows[2, 7], rows[3, 7] = 127, -127  # the surest and the most surprised there can be
    rows[4] = 0
    return rows


def test_surprise_is_the_log_of_the_softmax():
    getcontext().prec = 40
    rows = logit_rows()[:40]
    targets = np.arange(7, 47, dtype=np.uint8)
    targets[:5] = 7
    two = Decimal(2)
    expected = []
    for row, target in zip(rows.tolist(), targets.tolist(), strict=True):
        total = sum(two ** (Decimal(logit) / 16) for logit in row)
        expected.append(float(total.ln() / two.ln() - Decimal(row[target]) / 16))
    np.testing.assert_allclose(surprises(rows, targets), expected, rtol=0, atol=1e-14)
    assert surprises(rows[4:5], targets[4:5])[0] == 8.0  # all bytes alike


def test_a_surprise_does_not_depend_on_its_neighbours():
    rows, targets = logit_rows(), np.arange(600).astype(np.uint8)
    whole = surprises(rows, targets)
    for size in (1, 7, 64, 333):
        parts = [surprises(rows[i : i + size], targets[i : i + size]) for i in range(0, 600, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_integer_scores_are_those_of_the_definition():
    rows, targets = logit_rows(), np.arange(600).astype(np.uint8)
    np.testing.assert_array_equal(scores(rows, targets), reference.scores(rows, targets))


def test_every_byte_of_every_document_is_predicted_from_state_zero():
    documents = [b"alone", b"", b"z", bytes(range(1, 256)), b"last\n"]
    model = Network(NUMPY, SHAPE, random_weights())
    surprise = score = 0
    for document in documents:
        tokens = np.frombuffer(b"\0" + document, np.uint8)
        logits = model.logits(tokens[:-1])
        if len(document):
            surprise += surprises(logits, tokens[1:]).sum()
            score += int(model.scores(tokens).sum())
    size = sum(map(len, documents))
    result = evaluate(model, text_of(documents))
    assert result.documents == 5 and result.bytes == size
    assert result.bits_per_byte == pytest.approx(surprise / size, abs=1e-12)
    assert result.integer_bits_per_byte == -score / (16 * size)
    assert result.byte_perplexity == pytest.approx(2 ** (surprise / size))
    assert result.seconds > 0


def test_no_batching_changes_a_digit(monkeypatch):
    text, weights = text_of(random_documents(40, 90)), random_weights()
    expected = figures(evaluate(Network(NUMPY, SHAPE, weights), text))
    for lanes in (1, 2, 7, 40, 1000):
        assert figures(evaluate(Network(NUMPY, SHAPE, weights), text, lanes=lanes)) == expected
    for name, value in (("PIECE", 1), ("PIECE", 17), ("ROWS", 3), ("BATCH", 50), ("BATCH", 333)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert figures(evaluate(Network(NUMPY, SHAPE, weights), text)) == expected, (name, value)


def test_each_document_by_itself_is_what_it_is_among_others(monkeypatch):
    documents, weights = random_documents(40, 90), random_weights()
    documents[3] = documents[-1] = b""
    expected = []
    for document in documents:
        if document:
            alone = evaluate(Network(NUMPY, SHAPE, weights), text_of([document]))
            expected.append((len(document), alone.bits_per_byte, alone.integer_bits_per_byte))
        else:
            expected.append((0, None, None))

    def found(**settings):
        scored, read = [], []
        whole = evaluate(
            Network(NUMPY, SHAPE, weights), text_of(documents), scored=scored.append, read=read.append, **settings
        )
        assert [d.index for d in scored] == list(range(40))
        assert sum(read) == sum(map(len, documents)) + 40
        assert sum(d.bits for d in scored) == pytest.approx(whole.bits_per_byte * whole.bytes)
        return [(d.bytes, d.bits_per_byte, d.integer_bits_per_byte) for d in scored]

    assert found() == expected
    for lanes in (1, 7, 1000):
        assert found(lanes=lanes) == expected
    for name, value in (("PIECE", 1), ("PIECE", 17), ("ROWS", 3), ("BATCH", 50), ("BATCH", 333)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert found() == expected, (name, value)


def test_words_are_counted_as_in_lm_evaluation_harness():
    documents = ["two words", "", " a line\n\nand more ", "one", "\u2003wide\xa0spaces\t\r\n", "ÿ"]
    text = text_of([document.encode() for document in documents] + [b"\xff \xff"])
    expected = [len(re.split(r"\s+", document)) for document in documents] + [2]
    assert list(count_words(text)) == expected


def test_word_perplexity():
    result = Evaluation(bits_per_byte=2.5, integer_bits_per_byte=2.5, documents=1, bytes=12, seconds=0)
    log_likelihood = -2.5 * 12 * math.log(2)
    assert result.word_perplexity(3) == pytest.approx(math.exp(-log_likelihood / 3))
    assert Evaluation(8.0, 8.0, 1, 1000, 0.0).word_perplexity(1) == math.inf


def test_one_document_is_one_lane():
    text = text_of([b"just one document, and no more"])
    result = evaluate(Network(NUMPY, SHAPE, random_weights()), text)
    assert (result.documents, result.bytes) == (1, 30)


@pytest.mark.parametrize("documents", [[], [b""], [b"", b"", b""]])
def test_nothing_to_predict_is_refused(documents):
    with pytest.raises(EggError, match="no byte"):
        evaluate(Network(NUMPY, SHAPE, random_weights()), text_of(documents))


def test_text_without_a_leading_nul_is_refused():
    with pytest.raises(EggError, match="NUL"):
        evaluate(Network(NUMPY, SHAPE, random_weights()), np.frombuffer(b"no nul", np.uint8))


def test_a_sample_is_spread_over_the_text():
    documents = [b"%03d" % i * 5 for i in range(200)]
    text = text_of(documents)
    chosen = bytes(sample(text, 640)).split(b"\0")[1:]
    assert 500 < sum(len(d) + 1 for d in chosen) < 800
    assert all(d in documents for d in chosen)
    numbers = [int(d[:3]) for d in chosen]
    assert numbers == sorted(numbers) and numbers[0] < 20 and numbers[-1] > 180
    np.testing.assert_array_equal(sample(text, 640), sample(text.copy(), 640))


def test_long_documents_are_sampled_by_their_beginnings():
    documents = [b"%02d" % i + b"x" * 10_000 for i in range(20)]
    chosen = bytes(sample(text_of(documents), 3200)).split(b"\0")[1:]
    assert 10 <= len(chosen) <= 20
    assert all(document[:200] in [d[:200] for d in documents] for document in chosen)
    assert {len(d) for d in chosen} == {200}


def test_a_sample_of_all_is_the_text_itself():
    text = text_of([b"one", b"two"])
    assert sample(text, 0) is text
    assert sample(text, 8) is text


def test_a_sample_is_never_empty():
    for documents in ([b"a" * 1000], [b"ab"] * 50, [b"", b"a" * 99, b""]):
        chosen = sample(text_of(documents), 20)
        assert chosen[0] == 0 and (chosen != 0).any()
        assert sample(text_of(documents), 1).size
