"""Compression: lossless, as small as the model's bits, and refused when anything is not as it was."""

import struct
import zlib

import numpy as np
import pytest

from egg.errors import EggError
from egg.kernels import Shape, get_backend
from egg.model import compress as module
from egg.model.compress import HEADER, compress, decompress
from egg.model.digest import digest
from egg.model.evaluate import evaluate
from egg.model.network import Network

SHAPE = Shape(16, 2)
WEIGHTS = (np.random.default_rng(1).standard_normal(SHAPE.parameters) * 16).astype(np.int8)
NUMPY, NUMBA = get_backend("numpy"), get_backend("numba", threads=1)
TEXT = np.random.default_rng(2).integers(97, 123, 4001).astype(np.uint8).tobytes()
OVERHEAD = HEADER.size + 4


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(module, "SEGMENT", 256)


def restore(packed: bytes, backend=NUMBA, weights=WEIGHTS) -> bytes:
    return decompress(Network(backend, SHAPE, weights), packed, name="FILE", model_name="MODEL")


def test_the_same_file_on_every_backend_and_with_any_number_of_threads():
    packed = compress(Network(NUMPY, SHAPE, WEIGHTS), TEXT)
    assert packed == compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT)
    assert packed == compress(Network(get_backend("numba", threads=3), SHAPE, WEIGHTS), TEXT)
    assert restore(packed) == restore(packed, NUMPY) == TEXT


@pytest.mark.parametrize("rows", [1, 7, 1 << 15])
def test_pieces_change_nothing(monkeypatch, rows):
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT, streams=3)
    monkeypatch.setattr(module, "ROWS", rows)
    told = []
    assert compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT, streams=3, read=told.append) == packed
    assert sum(told) == len(TEXT)


@pytest.mark.parametrize(
    "text",
    [b"", b"x", b"\0", b"\0\0a\0", b"a" * 700, bytes(range(256)) * 3, bytes(700), b"\xff" * 255, TEXT[:777]],
    ids=range(9),
)
def test_any_bytes_come_back(text):
    for streams in range(1, 1 + max(1, len(text) // 256)):
        assert restore(compress(Network(NUMBA, SHAPE, WEIGHTS), text, streams=streams)) == text


def test_a_text_of_nuls_has_no_code():
    """So that no length of code refuses a claimed length of text."""
    assert len(compress(Network(NUMBA, SHAPE, WEIGHTS), bytes(5000))) == OVERHEAD


def test_one_stream_is_as_long_as_evaluate_says():
    exact = evaluate(Network(NUMBA, SHAPE, WEIGHTS), np.frombuffer(b"\0" + TEXT, np.uint8))
    bits = exact.bits_per_byte * exact.bytes
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT, streams=1)
    assert OVERHEAD < 200
    assert bits <= 8 * (len(packed) - OVERHEAD) + 8
    assert 8 * (len(packed) - OVERHEAD) <= bits * 1.0002 + 8


def test_segments_are_as_long_as_evaluate_says():
    sizes, starts = module._segments(len(TEXT), 15)
    assert sizes.sum() == len(TEXT) and sizes.min() >= 256 and sizes.max() - sizes.min() <= 1
    parts = [TEXT[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    assert b"".join(parts) == TEXT
    text = np.frombuffer(b"".join(b"\0" + part for part in parts), np.uint8)
    exact = evaluate(Network(NUMBA, SHAPE, WEIGHTS), text)
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT)
    assert 8 * (len(packed) - OVERHEAD) <= exact.bits_per_byte * exact.bytes * 1.0002 + 8


def test_a_model_that_is_very_sure(monkeypatch):
    """Logits 127 and -127: 0.006 bits a byte, where nothing may be lost to rounding."""
    surest = np.full((1, 1, 256), -127, np.int8)
    surest[..., 97] = 127

    class Sure:
        name = "numba"

        def prepare(self, shape, weights, adapter=None):
            return None

        def forward(self, model, tokens, states):
            return np.broadcast_to(surest, (*tokens.shape, 256)), states

    text = b"a" * 1_000_000
    packed = compress(Network(Sure(), SHAPE, WEIGHTS), text, streams=3)
    exact = 1e6 * np.log2(1 + 255 * 2 ** (-254 / 16)) / 8
    assert exact - 1 < len(packed) - OVERHEAD < exact * 1.0002 + 1
    assert restore(packed, Sure()) == text


def test_segments_have_a_least_size():
    for streams in (0, 16, -1):
        with pytest.raises(EggError, match="1 to 15 segments"):
            compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT, streams=streams)


def test_every_changed_byte_and_every_length_is_refused():
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT[:300])
    for at in range(len(packed)):
        changed = bytearray(packed)
        changed[at] ^= 1 << at % 8
        with pytest.raises(EggError, match="^FILE (is damaged|was not written by egg compress)"):
            restore(bytes(changed))
    for size in [*range(0, len(packed), 7), len(packed) - 1]:
        with pytest.raises(EggError, match="^FILE (is damaged|was not written by egg compress)"):
            restore(packed[:size])
    with pytest.raises(EggError, match="^FILE is damaged"):
        restore(packed + b"\0")


def test_a_small_file_that_claims_a_long_text_is_refused_before_it_is_decoded():
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT)
    fields = list(HEADER.unpack(packed[: HEADER.size]))
    fields[2:4] = 1, 12 * 10**9
    header = HEADER.pack(*fields)
    forged = header + struct.pack("<I", zlib.crc32(header)) + packed[OVERHEAD:]
    with pytest.raises(EggError, match="^FILE claims a text of 12,000,000,000 bytes, more than --max-text"):
        restore(forged)


def test_another_model_is_refused_by_name():
    other = WEIGHTS.copy()
    other[-1] ^= 1
    with pytest.raises(EggError, match="^FILE was compressed with another model than MODEL"):
        restore(compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT), weights=other)
    assert digest(SHAPE, WEIGHTS) != digest(SHAPE, other)


def test_what_comes_out_is_checked(monkeypatch):
    """A backend that errs is found out, though the file is whole."""
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT)

    class Wrong:
        name = "numpy"
        prepare = staticmethod(NUMBA.prepare)

        def forward(self, model, tokens, states):
            logits, states = NUMBA.forward(model, tokens, states)
            return -logits, states

    with pytest.raises(EggError, match="FILE is damaged: the text does not match its checksum"):
        restore(packed, Wrong())


def test_the_commands(train, egg, tmp_path, book):
    run, other = tmp_path / "run", tmp_path / "other"
    train("--steps", 2, "--out", run)
    train("--steps", 1, "--out", other)
    packed, back = tmp_path / "book.egg", tmp_path / "book.txt"
    status, out, err = egg("compress", book, "--model", run, "-o", packed, "--backend", "numpy")
    assert status == 0, err
    assert str(packed) in out and f"{packed.stat().st_size:,} bytes" in out
    arguments = ["decompress", packed, "--out", back, "--model"]
    assert egg(*arguments, run)[0] == 0
    assert back.read_bytes() == book.read_bytes()
    back.unlink()
    status, out, err = egg(*arguments, other)
    assert (status, out) == (2, "")
    assert str(packed) in err.splitlines()[-1] and str(other) in err.splitlines()[-1]
    packed.write_bytes(packed.read_bytes()[:-1])
    status, out, err = egg(*arguments, run)
    assert (status, out) == (2, "") and f"{packed} is damaged" in err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "other", "book.egg"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compress", "nothing.txt", "--model", "m", "-o", "x"], "nothing.txt: No such file"),
        (["compress", "FILE", "--model", "no/such/model", "-o", "x"], "no/such/model"),
        (["compress", "FILE", "--model", "m", "-o", "nowhere/x"], "nowhere/x"),
        (["compress", "FILE", "--model", "m", "-o", "."], "--out .: is a folder"),
        (["compress", "FILE", "--model", "m"], "--out is missing"),
        (["compress", "FILE", "-o", "x"], "--model is missing"),
        (["decompress", "nothing.egg", "--model", "m", "-o", "x"], "nothing.egg: No such file"),
    ],
)
def test_bad_arguments(egg, book, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    status, out, err = egg(*[str(book) if a == "FILE" else a for a in arguments])
    assert (status, out) == (2, "") and told in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
