"""Ends of texts and continuations of prompts: the same side by side as one by one."""

from dataclasses import replace

import numpy as np
import pytest

from egg.kernels import Shape, get_backend
from egg.model import continuations as module
from egg.model import endings
from egg.model import sample as loop
from egg.model.continuations import continuations
from egg.model.endings import score_endings
from egg.model.evaluate import evaluate, surprises
from egg.model.network import Network
from egg.model.sample import Sampling

SHAPE = Shape(16, 2)
NUMPY = get_backend("numpy")
WEIGHTS = (np.random.default_rng(4).standard_normal(SHAPE.parameters) * 16).astype(np.int8)
MODEL = Network(NUMPY, SHAPE, WEIGHTS)
PROMPTS = [b"some text", b"", b"a", b"some text", b"nul\0inside", bytes(range(1, 90)), b"\0", b"zz"]


def score(texts, **settings):
    return score_endings(MODEL, texts, **settings)


def texts_of(seed: int, count: int = 30) -> list[tuple[bytes, bytes]]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 40, (count, 2))
    return [tuple(bytes(rng.integers(0, 256, n, dtype=np.uint8)) for n in pair) for pair in sizes]


def test_an_ending_by_hand():
    for begin, end in [(b"", b"x"), (b"some ", b"text"), (b"a\0b", b"c\0d"), *texts_of(1, 8)]:
        tokens = np.frombuffer(b"\0" + begin + end, np.uint8)
        logits = MODEL.logits(tokens[:-1])[len(begin) :]
        (found,) = score([(begin, end)])
        target = tokens[1 + len(begin) :]
        expected = surprises(logits, target).sum() if len(end) else 0
        assert found.bits == pytest.approx(expected, abs=1e-10)
        assert found.greedy == (logits.argmax(1) == target).all()


def test_what_the_model_would_write_is_greedy():
    (text,) = MODEL.generate("some ", 12, temperature=0)
    changed = text[:5] + bytes([text[5] ^ 1]) + text[6:]
    found = score([(b"some ", text), (b"some ", changed), (b"some ", b""), (b"some", b" " + text)])
    assert [e.greedy for e in found[:3]] == [True, False, True]
    assert found[2].bits == 0


def test_many_are_as_one(monkeypatch):
    texts = texts_of(2)
    expected = [score([text])[0] for text in texts]
    told = []
    assert score(texts, read=told.append) == expected and sum(told) == len(texts)
    for name, value in (("LANES", 1), ("LANES", 7), ("PIECE", 1), ("PIECE", 9), ("ROWS", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(endings, name, value)
            assert score(texts) == expected, (name, value)
    assert score([]) == []


def test_a_document_has_the_bits_that_evaluate_gives_it():
    documents = [b"x", b"a document\n" * 30, bytes(range(1, 256))]
    text = np.frombuffer(b"".join(b"\0" + d for d in documents), np.uint8)
    scored = []
    evaluate(MODEL, text, scored=scored.append)
    assert [e.bits for e in score([(b"", d) for d in documents])] == [d.bits for d in scored]


@pytest.mark.parametrize("sampling", [Sampling(15, 0.0), Sampling(15, 0.9, top_k=40, seed=7)])
def test_a_continuation_is_a_sample(sampling, monkeypatch):
    expected = []
    for number, prompt in enumerate(PROMPTS):
        samples = MODEL.generate(
            prompt, 15, temperature=sampling.temperature, top_k=sampling.top_k, seed=7, count=number + 1
        )
        expected.append(samples[number])
    for side_by_side in (64, 3, 1):
        monkeypatch.setattr(module, "SIDE_BY_SIDE", side_by_side)
        monkeypatch.setattr(loop, "PIECE", side_by_side * 5)
        told = []
        found = continuations(MODEL, PROMPTS, sampling, done=told.append)
        assert found == expected and sum(told) == len(PROMPTS)


def test_stops_are_left_out_with_what_follows():
    sampling = Sampling(40, 0.9, seed=3)
    texts = continuations(MODEL, PROMPTS, sampling)
    stops = [texts[0][7:10], texts[1][3:4], texts[1][2:4], b"never there at all"]
    found = continuations(MODEL, PROMPTS, replace(sampling, stop=tuple(stops)))
    for text, stopped in zip(texts, found, strict=True):
        at = min([text.find(stop) for stop in stops if stop in text], default=len(text))
        assert stopped == text[:at] or (text.startswith(stopped) and not any(s in stopped for s in stops))
    assert found[0] == texts[0][: min(texts[0].find(s) for s in stops if s in texts[0])]
    assert len(found[0]) <= 7 and len(found[1]) <= 3
