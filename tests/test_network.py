"""The Python interface: ``egg.load`` and ``egg.Network``, by the examples of their docstrings and of the README."""

import copy
import doctest
import hashlib
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import egg
from egg.errors import EggError
from egg.kernels import Adapter, Draw, Shape, Votes, get_backend
from egg.model import checkpoint
from egg.model import network as module
from egg.model.adapter import ADAPTER, adapter_shape, base_hash, file_bytes
from egg.model.digest import digest
from egg.model.evaluate import evaluate
from egg.model.parameters import initial_weights

SHAPE = Shape(16, 1)
LAYOUT = adapter_shape(SHAPE, 2, "gru,head")
DOCUMENTS = ["a document", "naïve".encode(), np.frombuffer(b"\0of two\0documents", np.uint8), b"x" * 700, "z"]


@pytest.fixture
def network(tmp_path, monkeypatch):
    """The model of runs/nano in an empty folder, with an adapter in runs/letters."""
    monkeypatch.chdir(tmp_path)
    weights = initial_weights(SHAPE, 3, "paper")
    for folder in ("runs/nano", "runs/nano/best"):
        checkpoint.write_model(Path(folder), {"model": {"hidden_size": 16, "num_layers": 1}}, SHAPE, weights)
    Path("runs/letters").mkdir()
    Path("runs/letters", ADAPTER).write_bytes(file_bytes(drawn(0), base_hash(SHAPE, weights)))
    return egg.load("runs/nano", "numpy")


def drawn(seed: int) -> Adapter:
    factors = np.random.default_rng(seed).integers(-40, 41, LAYOUT.parameters).astype(np.int8)
    return Adapter(LAYOUT, factors)


EXAMPLES = [e for e in doctest.DocTestFinder().find(module) if e.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_examples_of_the_docstrings(network, example):
    names = {"egg": egg, "np": np, "network": network, "adapted": network.with_adapter("runs/letters")}
    example.globs = names
    assert doctest.DocTestRunner().run(example).failed == 0


def test_every_public_method_has_an_example():
    public = {name for name, value in vars(egg.Network).items() if name[0] != "_" and callable(value)}
    shown = {e.name.split(".")[-1] for e in EXAMPLES}
    assert public - shown == {"state", "zero_states"}  # step and forward show these


def test_the_readme_s_example(network):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = re.findall(r'(?m)^    network = egg\.load\("runs/first"\).*\n(?:    .*\n)+', readme)
    names = {"egg": egg}
    exec(re.sub("(?m)^    ", "", block).replace("runs/first", "runs/nano"), names)
    assert names["texts"] == network.generate("def ", 200, temperature=0.8, seed=1, count=4)


def test_texts_are_read_alike(network):
    text = "naïve\0text"
    tokens = np.frombuffer(b"\0" + text.encode(), np.uint8)
    expected = network.logits(tokens)
    assert len(expected) == 1 + len(text.encode())
    for same in (text, text.encode(), bytearray(text.encode())):
        np.testing.assert_array_equal(network.logits(same), expected)
        np.testing.assert_array_equal(network.scores(same), network.scores(tokens))
        np.testing.assert_array_equal(network.hidden_states(same), network.hidden_states(tokens))
        assert network.bits_per_byte(same) == network.bits_per_byte(tokens) == evaluate(network, tokens).bits_per_byte
        assert network.generate(same, 20) == network.generate(tokens, 20)
    # An array is read as it is: without the NUL, from state zero.
    assert len(network.logits(tokens[1:])) == len(expected) - 1


def test_documents_together_are_as_one_by_one(network):
    for model in (network, replace(network, backend=get_backend("numba", threads=2)), network.with_adapter(drawn(1))):
        assert model.bits_per_byte(DOCUMENTS) == [model.bits_per_byte(d) for d in DOCUMENTS]
        for together, alone in zip(model.scores(DOCUMENTS), map(model.scores, DOCUMENTS), strict=True):
            np.testing.assert_array_equal(together, alone)
    assert network.bits_per_byte([]) == network.scores([]) == []


def test_steps_and_hidden_states(network):
    text = b"read in pieces\0and more"
    whole, states = network.logits(text), network.hidden_states(text)
    np.testing.assert_array_equal(states[0], network.state())
    state, kept = network.state(), network.state()
    for at, byte in enumerate(text):
        logits, state = network.step(byte, state)
        np.testing.assert_array_equal(logits, whole[at + 1])
        np.testing.assert_array_equal(state, states[at + 1])
    for pieces in ((text[:5], text[5:]), (text.decode(), ""), (np.frombuffer(text, np.uint8), b"")):
        state = kept
        for piece in pieces:
            logits, state = network.step(piece, state)
        np.testing.assert_array_equal(state, states[-1])
    np.testing.assert_array_equal(kept, network.state())


def test_digests_are_those_that_files_hold(network):
    weights = network.weights.tobytes()
    assert digest(SHAPE, network.weights) == hashlib.sha256(b"egg 16 1\n" + weights).digest()
    assert base_hash(SHAPE, network.weights) == hashlib.sha256(b"egg 16 1 " + weights).hexdigest()


def test_equality_and_hash(network):
    others = [
        replace(network, weights=-network.weights),
        network.with_adapter(drawn(1)),
        network.with_adapter(drawn(2)),
        egg.Network(network.backend, Shape(16, 2), initial_weights(Shape(16, 2), 3, "paper")),
    ]
    for one, same in ((network, egg.load("runs/nano")), (others[1], network.with_adapter(drawn(1)))):
        assert one == same and hash(one) == hash(same)
    assert len({network, *others, egg.load("runs/nano")}) == 5 and network != "network"
    assert drawn(1) == drawn(1) != drawn(2) and len({drawn(1), drawn(1), drawn(2)}) == 2
    assert LAYOUT == adapter_shape(SHAPE, 2, "gru,head") and hash(SHAPE) == hash(Shape(16, 1))
    ones = np.ones(3, np.int64)
    assert len({Draw(1, 2, 16, ones), Draw(1, 2, 16, ones.copy()), Draw(1, 2, 16, ones.astype(np.int32))}) == 2
    assert Votes(ones, ones, ones, 1) == Votes(ones, ones, ones, 1) != Votes(ones, ones, ones, 2)


def test_copies_take_no_addresses_along(network):
    fast = replace(network, backend=get_backend("numba", threads=1))
    expected = fast.logits("text")
    copied = copy.deepcopy(replace(network))
    copied.logits("text")
    for other in (copy.copy(fast), copied, pickle.loads(pickle.dumps(network))):
        assert "prepared" not in vars(other) or other is copied
        np.testing.assert_array_equal(other.logits("text"), expected)


def test_an_adapter_beside_the_weights(network):
    adapted = network.with_adapter(drawn(1))
    for text in ("text", "another"):
        assert adapted.bits_per_byte(text) != network.bits_per_byte(text)
        np.testing.assert_array_equal(adapted.logits(text)[:-1], adapted.logits(text[:-1]))
    assert adapted.generate("a", 50) != network.generate("a", 50)
    assert adapted.merged() != network and adapted.merged().adapter is None and network.merged() is network


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: n.bits_per_byte(""), "no byte to predict"),
        (lambda n: n.bits_per_byte(["a", b"\0"]), "no byte to predict"),
        (lambda n: n.bits_per_byte(np.ones(3, np.uint8)), "begin with a 0"),
        (lambda n: n.hidden_states(5), "of type int: a str, bytes or"),
        (lambda n: n.logits("\ud800"), "the text cannot be written in UTF-8"),
        (lambda n: n.step(256, n.state()), "byte 256: must be 0 to 255"),
        (lambda n: n.step(1, np.zeros((1, 16))), r"this model's are int8\[1, 16\]"),
        (lambda n: n.generate(np.ones(3), 5), "uint8"),
        (lambda n: n.with_adapter("runs/nano"), "no such file"),
        (lambda n: n.with_adapter(replace(drawn(1), shape=adapter_shape(Shape(64, 1), 2, "head"))), "one of its own"),
        (lambda n: n.save("runs/nano/config.json"), "cannot write"),
        (lambda n: egg.load("runs/nano", adapter="runs/nothing"), "no such file"),
    ],
)
def test_bad_input_is_refused_in_a_line(network, call, message):
    with pytest.raises(EggError, match=message):
        call(network)
