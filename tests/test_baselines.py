"""Simple models of a text: their probabilities, and the bits they leave."""

import gzip
import lzma
from collections import Counter

import numpy as np
import pytest

from egg.model import baselines as module
from egg.model.baselines import baselines, bigram, pair_counts, unigram


def text_of(*documents: bytes) -> np.ndarray:
    return np.frombuffer(b"".join(b"\0" + d for d in documents), np.uint8)


RANDOM = np.random.default_rng(3).integers(97, 103, 5000).astype(np.uint8)
LONG = text_of(*(RANDOM[i : i + 77].tobytes() for i in range(0, 5000, 77)))


def test_pairs_are_counted_within_documents():
    counts = pair_counts(text_of(b"ab", b"", b"aab"))
    assert {(a, b): counts[a, b] for a, b in zip(*np.nonzero(counts), strict=True)} == {
        (0, 97): 2,
        (97, 98): 2,
        (97, 97): 1,
    }


@pytest.mark.parametrize("training", [text_of(b""), text_of(b"abcab"), LONG])
def test_probabilities_sum_to_one(training):
    pairs = pair_counts(training)
    assert unigram(pairs).sum() == pytest.approx(1)
    np.testing.assert_allclose(bigram(pairs).sum(1), 1)
    assert (bigram(pairs)[:, 1:] > 0).all()


def test_by_hand():
    training, text = text_of(b"ab", b"ac"), text_of(b"ab")
    result = baselines(training, text)
    a, b = 3 / (4 + 255), 2 / (4 + 255)  # one added to each count
    assert result.unigram == pytest.approx(-np.log2([a, b]).mean())
    after_nul = (2 + 1 * a) / (2 + 1)  # one kind of byte in two
    after_a = (1 + 2 * b) / (2 + 2)  # two kinds in two
    assert result.bigram == pytest.approx(-np.log2([after_nul, after_a]).mean())
    assert result.fit_bytes == 6
    assert result.gzip == 8 * len(gzip.compress(b"ab", 9, mtime=0)) / 2


def test_pieces_change_no_figure(monkeypatch):
    whole = baselines(LONG, LONG)
    monkeypatch.setattr(module, "PIECE", 13)
    pieces = baselines(LONG, LONG)
    assert pieces == whole
    assert 2.5 < whole.bigram < whole.unigram < 2.7  # six letters by chance: log2(6) = 2.58


def test_a_long_text_is_sampled_evenly(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 100)
    halves = text_of(b"a" * 9999 + b"b" * 9999)
    result = baselines(halves, text_of(b"ab" * 50), limit=1000)
    assert result.fit_bytes == 1000
    assert result.unigram == pytest.approx(1, abs=0.5)
    assert baselines(halves, halves[:300], limit=50).fit_bytes == 100


def test_gzip_is_of_the_documents_alone():
    documents = b"some text " * 30, b"more of it " * 30
    result = module.gzip_bits(text_of(*documents))
    assert result == 8 * len(gzip.compress(b"".join(documents), 9, mtime=0)) / 630


def trigram_by_hand(training: list[bytes], text: list[bytes]) -> float:
    """The trigram's bits per byte, document after document, byte after byte."""
    after = {order: {} for order in (0, 1, 2)}
    for document in training:
        for i, byte in enumerate(document):
            before = (b"\0\0" + document)[i : i + 2]
            for order in after:
                context = before[2 - order :]
                after[order].setdefault(context, Counter())[byte] += 1

    def probability(order, before, byte):
        seen = after[order].get(before[2 - order :], Counter())
        if order == 0:
            return (seen[byte] + 1) / (seen.total() + 255)
        kinds = max(1, len(seen))
        lower = probability(order - 1, before, byte)
        return (seen[byte] + kinds * lower) / (seen.total() + kinds)

    bits = [
        -np.log2(probability(2, (b"\0\0" + document)[i : i + 2], byte))
        for document in text
        for i, byte in enumerate(document)
    ]
    return np.mean(bits)


def test_a_trigram_by_hand(monkeypatch):
    training = [b"abcab", b"", b"a", b"xbca" * 9, b"ab\xff"]
    text = [b"abx", b"q", b"bcab\xffz", b""]
    expected = trigram_by_hand(training, text)
    for piece in (1 << 20, 1, 2, 7):
        monkeypatch.setattr(module, "PIECE", piece)
        result = module.trigram_bits(text_of(*training), text_of(*text))
        assert result == pytest.approx(expected, rel=1e-12)


def test_more_context_predicts_better():
    words = text_of(b"".join(b"%d and %d make more. " % (i % 7, i % 11) for i in range(800)))
    simple = baselines(words, words[:3000])
    assert module.strong_baselines(words, words[:3000]).trigram < simple.bigram < simple.unigram


def test_packers_are_of_the_documents_alone():
    import zstandard

    documents = b"some text " * 30, b"more of it " * 30
    joined = b"".join(documents)
    xz = lzma.compress(joined, preset=9 | lzma.PRESET_EXTREME)
    assert module.xz_bits(text_of(*documents)) == 8 * len(xz) / 630
    zstd = zstandard.ZstdCompressor(level=19, write_checksum=True).compress(joined)
    assert module.zstd_bits(text_of(*documents)) == 8 * len(zstd) / 630
