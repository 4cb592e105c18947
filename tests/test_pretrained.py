"""The model that comes with egg: its files, its name wherever a model is taken, and how soon it writes."""

import json
import re
import socket
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

import egg as package
from egg.kernels import Draw, Shape, get_backend
from egg.kernels.backend import hold
from egg.kernels.tiered import TieredBackend
from egg.model import hub
from egg.model.digest import digest
from egg.model.parameters import initial_weights

FILES = hub.SHIPPED


@pytest.fixture(scope="module")
def network():
    return package.load("pretrained", "numpy")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of the user's, on a machine without a network."""

    def refuse(*arguments):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_files(network):
    assert {path.name for path in FILES.iterdir()} == {"README.md", "config.json", "loss.png", "model.safetensors"}
    assert sum(path.stat().st_size for path in FILES.iterdir()) <= 2_000_000
    assert (network.shape.hidden_size, network.shape.num_layers) == (256, 2)
    texts = [(FILES / name).read_text("utf-8") for name in ("README.md", "config.json")]
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|usr|data)/", "".join(texts))  # no path of a machine


def test_its_card_is_of_these_weights(network):
    card = (FILES / "README.md").read_text("utf-8")
    assert f"`{digest(network.shape, network.weights).hex()}`" in card
    metadata = huggingface_hub.ModelCard(card).data.to_dict()
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "egg")
    assert metadata["model-index"][0]["name"] == "pretrained" and "# pretrained" in card
    config = json.loads((FILES / "config.json").read_text())
    assert config["corpus"]["fingerprint"] in card
    page = Path(__file__).parents[1].joinpath("docs/pretrained.md").read_text("utf-8")
    rows = re.findall(r"(?m)^\|.*`[0-9a-f]{16}` \|$", page)
    assert len(rows) > 20 and all(row in card for row in rows)  # every source


def test_every_command_takes_its_name(network, egg, elsewhere, book):
    numpy = ["--backend", "numpy"]
    status, out, err = egg("sample", "pretrained", "--prompt", "def ", "--length", 40, *numpy)
    (text,) = network.generate("def ", 40)
    assert (status, out.encode()) == (0, b"def " + text.decode(errors="replace").encode().rstrip(b"\n") + b"\n"), err
    text = book.read_bytes()[:300]
    Path("small.txt").write_bytes(text)
    status, out, err = egg("eval", "pretrained", "--data", "small.txt", "--json", *numpy)
    assert status == 0 and json.loads(out)["bits_per_byte"] == network.bits_per_byte(text), err
    assert egg("compress", "small.txt", "--model", "pretrained", "-o", "small.egg", *numpy)[0] == 0
    assert egg("decompress", "small.egg", "--model", "pretrained", "-o", "back.txt", *numpy)[0] == 0
    assert Path("back.txt").read_bytes() == text
    status, out, err = egg("inspect", "trace", "pretrained", "--text", "def", "--json")
    assert status == 0 and json.loads(out), err
    assert egg("export", "pretrained", "--to", "c", "-o", "c")[0] == 0
    assert "pretrained" in Path("c/model.c").read_text()[:500]
    options = "--tokens 64 --streams 2 --seq-len 8 --branches 16 --eval-bytes 64 --out fitted".split()
    status, out, err = egg("adapt", "pretrained", "--data", book, *options, *numpy)
    assert status == 0 and Path("fitted/adapter.safetensors").is_file(), err


def test_it_is_exported_with_its_card(egg, elsewhere):
    assert egg("export", "pretrained", "--to", "huggingface", "-o", "copy")[0] == 0
    for name in ("README.md", "loss.png", "model.safetensors"):
        assert Path("copy", name).read_bytes() == (FILES / name).read_bytes()
    config = json.loads(Path("copy/config.json").read_text())
    assert (
        config.items() >= json.loads((FILES / "config.json").read_text()).items()
        and Path("copy/modeling_egg.py").is_file()
    )


def test_the_name_is_never_a_path(train, network, egg, elsewhere):
    train("--steps", 1, "--out", "pretrained")
    assert package.load("pretrained", "numpy") == network
    for own in ("./pretrained", Path("pretrained"), elsewhere / "pretrained"):
        assert package.load(own, "numpy").shape.hidden_size == 16
    assert "hidden size 16" in egg("inspect", "model", "./pretrained")[1]
    assert "hidden size 256" in egg("inspect", "model", "pretrained")[1]


def test_a_mixture_is_measured_on_the_part_that_everyone_has(train, egg, tmp_path, monkeypatch):
    train("--steps", 1, "--out", tmp_path / "run")
    out = tmp_path / "out"
    assert egg("export", tmp_path / "run", "--to", "huggingface", "-o", out, "--backend", "numpy")[0] == 0
    config = json.loads((out / "config.json").read_text())
    config["corpus"]["name"] = "notes+stdlib"
    (out / "config.json").write_text(json.dumps(config))
    opened = []
    monkeypatch.setattr("egg.data.open_corpus", lambda spec, **options: opened.append(spec) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        egg("eval", out, "--backend", "numpy")
    assert opened == ["stdlib"]
    config["corpus"]["name"] = "notes"
    (out / "config.json").write_text(json.dumps(config))
    status, _, err = egg("eval", out, "--backend", "numpy")
    assert status == 2 and err == f"egg: {out} names no text to measure on: give --data, such as --data stdlib\n"


# The tiered backend


@pytest.fixture
def tiny():
    shape = Shape(16, 1)
    return shape, initial_weights(shape, 3, "egg")


def test_the_first_bytes_do_not_wait_for_the_compiler(tiny):
    shape, weights = tiny
    plain, loaded = get_backend("numpy"), []

    def load(name, **options):
        loaded.append((name, options))
        return get_backend("numba", **options)

    backend = TieredBackend(load, 10 * shape.parameters, threads=1)
    model = backend.prepare(shape, weights)
    tokens = np.arange(1, 25, dtype=np.uint8).reshape(1, 24)
    states = hold(backend, np.zeros((1, 1, 16), np.int8))
    expected = plain.forward(plain.prepare(shape, weights), tokens, states)
    found = []
    for t in range(24):
        logits, states = backend.forward(model, tokens[:, t : t + 1], states)
        found.append(logits)
        assert len(loaded) == (t >= 10)
    assert loaded == [("auto", {"threads": 1})]
    np.testing.assert_array_equal(np.concatenate(found, 1), expected[0])
    np.testing.assert_array_equal(states, expected[1])


def test_the_other_calls_are_left_to_the_second_backend(tiny):
    shape, weights = tiny
    plain, backend = get_backend("numpy"), get_backend("auto", tiered=True, threads=1)
    tokens, states = np.arange(36, dtype=np.uint8).reshape(4, 9), np.zeros((4, 1, 16), np.int8)
    draw = Draw(5, 1, 16, np.zeros(shape.vote_kinds(), np.int64))
    votes = [b.cast_votes(b.prepare(shape, weights), tokens, states, draw) for b in (plain, backend)]
    np.testing.assert_array_equal(*(v.votes for v in votes))
    assert votes[0].score == votes[1].score


def test_little_to_read_is_left_to_numpy(egg, elsewhere, book):
    Path("small.txt").write_bytes(book.read_bytes()[:99])
    for command in (
        "eval pretrained --data small.txt",
        "compress small.txt --model pretrained -o small.egg",
        "decompress small.egg --model pretrained -o back.txt",
    ):
        status, _, err = egg(*command.split())
        assert status == 0 and "backend numpy: NumPy reference (slow) (little to read)\n" in err
    assert Path("back.txt").read_bytes() == Path("small.txt").read_bytes()
    assert get_backend("auto", work=1 << 40).name == "numba"


def test_only_auto_is_tiered():
    assert get_backend("auto").name == "numba"
    for name in ("numpy", "numba"):
        assert get_backend(name, tiered=True, work=1).name == name
