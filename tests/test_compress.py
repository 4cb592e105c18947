"""Compression: lossless, as small as the model's bits, and refused when anything is not as it was."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from egg.config import Config, EvolutionConfig, ModelConfig
from egg.errors import EggError
from egg.evolution.branches import BranchEvolution
from egg.kernels import Adapter, AdapterShape, Shape, get_backend, get_coder
from egg.model import compress as module
from egg.model.compress import DIGEST, HEADER, HEADER_1, OVERHEAD, compress, decompress, read_packed
from egg.model.digest import adapter_digest, digest
from egg.model.evaluate import evaluate
from egg.model.learner import Learner
from egg.model.network import Network
from egg.model.sample import Sampling, generate

SHAPE = Shape(16, 2)
WEIGHTS = (np.random.default_rng(1).standard_normal(SHAPE.parameters) * 16).astype(np.int8)
NUMPY, NUMBA = get_backend("numpy"), get_backend("numba", threads=1)
RANDOM = np.random.default_rng(2).integers(97, 123, 4001).astype(np.uint8).tobytes()
"""What the model does not foresee: stored."""
TEXT = b"".join(generate(Network(NUMBA, SHAPE, WEIGHTS), b"", Sampling(temperature=0.5, count=32)))[:4001]
"""What it foresees: coded."""
assert len(TEXT) == 4001 and 0 not in TEXT


STEP = 3000
"""Step size of a model that learns, in 2**-16 int8 steps; a text as short as these is not learned without."""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(module, "SEGMENT", 256)
    monkeypatch.setattr(module, "LEARNED_SEGMENT", 128)


def restore(packed: bytes, backend=NUMBA, weights=WEIGHTS) -> bytes:
    return decompress(Network(backend, SHAPE, weights), read_packed(packed, "FILE"), model_name="MODEL")


def test_the_same_file_on_every_backend_and_with_any_number_of_threads():
    for text, step_size, streams in ((TEXT, 0, 15), (TEXT, STEP, 8), (RANDOM, None, 0)):
        packed = compress(Network(NUMPY, SHAPE, WEIGHTS), text, step_size=step_size)
        opened = read_packed(packed, "FILE")
        assert (opened.streams, opened.step_size) == (streams, step_size or 0)
        assert packed == compress(Network(NUMBA, SHAPE, WEIGHTS), text, step_size=step_size)
        assert packed == compress(Network(get_backend("numba", threads=3), SHAPE, WEIGHTS), text, step_size=step_size)
        assert restore(packed) == restore(packed, NUMPY) == text


def test_a_model_that_learns_a_text_makes_it_smaller(monkeypatch):
    monkeypatch.setattr(module, "LEARNED_TEXT", 4000)
    monkeypatch.setattr(module, "LEARNED_STREAMS", 2)
    text = b"the cat sat on the mat and ate a rat. " * 400
    network = Network(NUMBA, SHAPE, WEIGHTS)
    learned, kept = compress(network, text), compress(network, text, step_size=0, streams=2)
    assert read_packed(learned, "FILE").step_size == module.STEP_SIZE == round(0.045 * 65536)
    assert len(learned) < 0.75 * len(kept)
    assert restore(learned) == text
    assert read_packed(compress(network, text[:3999]), "FILE").step_size == 0


def adapter_of(rank: int, seed: int) -> Adapter:
    layout = AdapterShape(SHAPE, rank, SHAPE.matrices)
    return Adapter(layout, np.random.default_rng(seed).integers(-40, 41, layout.parameters).astype(np.int8))


ADAPTER = adapter_of(2, 4)


@pytest.mark.parametrize("step_size", [0, STEP])
def test_an_adapter(step_size):
    """It is used as it is where the model does not learn, and merged into the weights where it does."""
    plain = Network(NUMBA, SHAPE, WEIGHTS)
    adapted = plain.with_adapter(ADAPTER)
    text = b"".join(generate(adapted, b"", Sampling(temperature=0.5, count=32)))[:2001]
    packed = compress(adapted, text, step_size=step_size)
    opened = read_packed(packed, "FILE")
    assert opened.model == digest(SHAPE, WEIGHTS)[:8] and opened.adapter == adapter_digest(ADAPTER)[:8]
    assert packed == compress(Network(NUMPY, SHAPE, WEIGHTS, ADAPTER), text, step_size=step_size)
    for backend in (NUMBA, NUMPY):
        assert decompress(Network(backend, SHAPE, WEIGHTS, ADAPTER), opened, model_name="MODEL") == text
    assert len(packed) != len(compress(plain, text, step_size=step_size)) + DIGEST
    if step_size:
        assert packed[OVERHEAD + DIGEST :] == compress(adapted.merged(), text, step_size=step_size)[OVERHEAD:]
    for network, told in (
        (None, f"with model {digest(SHAPE, WEIGHTS).hex()[:16]} and adapter {opened.adapter.hex()}: give them with"),
        (Network(NUMBA, SHAPE, -WEIGHTS, ADAPTER), "with another model than MODEL: with"),
        (plain, f"with adapter {opened.adapter.hex()}: give it with --adapter"),
        (adapted.merged(), "with another model than MODEL: with"),
        (plain.with_adapter(adapter_of(2, 5)), f"with another adapter: with {opened.adapter.hex()}, and this is "),
        (plain.with_adapter(adapter_of(3, 4)), f"with another adapter: with {opened.adapter.hex()}, and this is "),
    ):
        with pytest.raises(EggError, match=f"^FILE was compressed {told}"):
            decompress(network, opened, model_name="MODEL")
    with pytest.raises(EggError, match="^FILE was compressed without an adapter: leave out --adapter"):
        decompress(adapted, read_packed(compress(plain, text, step_size=step_size), "FILE"), model_name="MODEL")


def test_a_text_that_an_adapter_makes_no_smaller_is_stored_without_its_name():
    adapted = Network(NUMBA, SHAPE, WEIGHTS, ADAPTER)
    packed = compress(adapted, RANDOM)
    assert packed == compress(adapted.with_adapter(None), RANDOM) and len(packed) == len(RANDOM) + OVERHEAD
    assert decompress(None, read_packed(packed, "FILE"), model_name="") == RANDOM


class Bytes:
    """A text of evolution: bytes in memory."""

    def __init__(self, text: np.ndarray):
        self.text, self.size = text, text.size

    def read(self, starts, length):
        return self.text[starts[:, None] + np.arange(length)]


def test_it_learns_as_recipe_egg_trains():
    """Each chunk is a step of a run with seed 0, a constant step size, and all branches and stations."""
    model = ModelConfig(SHAPE.hidden_size, SHAPE.num_layers)
    evolution = EvolutionConfig(
        streams=3, seq_len=8, credit="stations", stations="all", schedule="constant", step_size=0.5
    )
    config = replace(Config(), model=model, evolution=evolution)
    text = Bytes(np.frombuffer(TEXT[:150], np.uint8))
    run = BranchEvolution(config, NUMBA, text)
    run.begin_from(WEIGHTS)
    learner = Learner(Network(NUMBA, SHAPE, WEIGHTS), 1 << 15)
    for step in range(4):
        turn = run._turn()[0]  # in another order for each step
        tokens, states = text.read(run.starts[turn] + 8 * step, 9), run.states[turn]
        run.step()
        learner.learn(tokens, states)
        found, expected = learner.forward(tokens, states), run.network.forward(tokens, states)
        assert all(map(np.array_equal, found, expected))
    assert np.count_nonzero(run.weights != WEIGHTS) > 1000


@pytest.mark.parametrize("rows", [1, 7, 1 << 15])
def test_pieces_change_nothing(monkeypatch, rows):
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT, streams=3)
    monkeypatch.setattr(module, "ROWS", rows)
    told = []
    assert compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT, streams=3, read=told.append) == packed
    assert sum(told) == len(TEXT)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"\0",
        b"\0\0a\0",
        b"a" * 700,
        bytes(range(256)) * 3,
        bytes(700),
        b"\xff" * 255,
        RANDOM[:777],
        TEXT[:777],
    ],
    ids=range(10),
)
def test_any_bytes_come_back(text):
    for step_size, least in ((0, 256), (STEP, 128)):
        for streams in range(1, 1 + max(1, len(text) // least)):
            packed = compress(Network(NUMBA, SHAPE, WEIGHTS), text, step_size=step_size, streams=streams)
            assert restore(packed) == text
            assert len(packed) <= len(text) + OVERHEAD == len(text) + 40


@pytest.mark.parametrize("text", [b"", b"x", RANDOM[:100], RANDOM, bytes(range(256))], ids=range(5))
def test_what_would_grow_is_stored_and_needs_no_model(text):
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), text)
    opened = read_packed(packed, "FILE")
    assert packed[OVERHEAD:] == opened.code == text
    assert (opened.streams, opened.size) == (0, len(text))
    assert opened.model == digest(SHAPE, WEIGHTS)[:8]
    assert decompress(None, opened, model_name="") == text
    assert restore(packed, weights=-WEIGHTS) == text


@pytest.mark.parametrize(("longer", "streams"), [(-1, 15), (0, 0), (1, 0)])
def test_a_code_as_long_as_its_text_is_not_kept(monkeypatch, longer, streams):
    code = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT)[OVERHEAD:]
    long = code.ljust(len(TEXT) + longer, b"\0")  # a decoder reads zeros there anyway

    class Encoder(get_coder(NUMBA).Encoder):
        def finish(self):
            assert super().finish() == code
            return long

    with monkeypatch.context() as patch:
        patch.setattr(module, "get_coder", lambda backend: SimpleNamespace(Encoder=Encoder))
        packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT)
    assert read_packed(packed, "FILE").streams == streams
    assert packed[OVERHEAD:] == (long if streams else TEXT)
    assert restore(packed) == TEXT


def test_a_coded_text_needs_a_model():
    opened = read_packed(compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT), "FILE")
    with pytest.raises(EggError, match=f"^FILE was compressed with model {digest(SHAPE, WEIGHTS).hex()[:16]}"):
        decompress(None, opened, model_name="")


def test_format_1_is_still_read():
    """A file that the program wrote before there was format 2, with segments of 256 bytes as here."""
    content = (Path(__file__).parent / "vectors/compress_format_1.egg").read_bytes()
    assert HEADER_1.unpack(content[: HEADER_1.size])[:5] == (b"EGGPACK\0", 1, 3, 824, 915)
    weights = ((np.arange(SHAPE.parameters) * 2654435761 >> 9) % 61 - 30).astype(np.int8)
    text = bytes(range(97, 123)) * 20 + bytes(300) + b"end\0"
    assert restore(content, weights=weights) == restore(content, NUMPY, weights) == text
    with pytest.raises(EggError, match="another model than MODEL"):
        restore(content)
    for at in range(8, len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        with pytest.raises(EggError, match="^FILE is damaged: .* not match its checksum"):
            restore(bytes(changed), weights=weights)
    for size in (8, 103, 104, len(content) - 1):
        with pytest.raises(EggError, match="^FILE is damaged: it (ends within its header|has .* bytes of code)"):
            restore(content[:size], weights=weights)
    for place, value, told in ((1, 5, "has format 5, this program reads 1 to 4"), (2, 0, "in 0 segments")):
        fields = list(HEADER_1.unpack(content[: HEADER_1.size]))
        fields[place] = value
        header = HEADER_1.pack(*fields)
        with pytest.raises(EggError, match=f"^FILE .*{told}"):
            restore(header + struct.pack("<I", zlib.crc32(header)) + content[HEADER_1.size + 4 :])


def test_format_2_is_still_read():
    """Format 3 with no step size, under another number."""
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT)
    assert restore(forged(packed, format=2)) == TEXT
    with pytest.raises(EggError, match="^FILE is damaged: format 2 has no step size"):
        restore(forged(packed, format=2, step_size=1))


def test_a_text_of_nuls_has_no_code():
    """So that no length of code refuses a claimed length of text."""
    assert len(compress(Network(NUMBA, SHAPE, WEIGHTS), bytes(5000))) == OVERHEAD


def test_one_stream_is_as_long_as_evaluate_says():
    exact = evaluate(Network(NUMBA, SHAPE, WEIGHTS), np.frombuffer(b"\0" + TEXT, np.uint8))
    bits = exact.bits_per_byte * exact.bytes
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT, streams=1)
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
    packed = compress(Network(Sure(), SHAPE, WEIGHTS), text, step_size=0, streams=3)
    exact = 1e6 * np.log2(1 + 255 * 2 ** (-254 / 16)) / 8
    assert exact - 1 < len(packed) - OVERHEAD < exact * 1.0002 + 1
    assert restore(packed, Sure()) == text


def test_segments_have_a_least_size():
    for step_size, most in ((0, 15), (STEP, 31)):
        for streams in (0, most + 1, -1):
            with pytest.raises(EggError, match=f"1 to {most} segments"):
                compress(Network(NUMBA, SHAPE, WEIGHTS), TEXT, step_size=step_size, streams=streams)


REFUSED = "^FILE (is damaged|was not written by egg compress|has format 13[12])"


@pytest.mark.parametrize(
    ("text", "adapter"),
    [(TEXT[:300], None), (TEXT[:300], ADAPTER), (RANDOM[:300], None), (b"", None)],
    ids=["coded", "adapter", "stored", "empty"],
)
def test_every_changed_byte_and_every_length_is_refused(text, adapter):
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS, adapter), text)
    assert (packed[7] == 4) == (adapter is not None)
    for at in range(len(packed)):
        changed = bytearray(packed)
        changed[at] ^= 1 << at % 8
        with pytest.raises(EggError, match=REFUSED):
            restore(bytes(changed))
    for size in [*range(0, len(packed), 7), 39, len(packed) - 1]:
        with pytest.raises(EggError, match=REFUSED):
            restore(packed[:size])
    with pytest.raises(EggError, match="^FILE is damaged"):
        restore(packed + b"\0")


def forged(packed: bytes, **fields) -> bytes:
    """The file with other fields in its header, and a checksum that fits."""
    names = ("magic", "format", "streams", "step_size", "size", "model", "checksum")
    values = dict(zip(names, HEADER.unpack(packed[: HEADER.size]), strict=True)) | fields
    header, code = HEADER.pack(*values.values()), packed[OVERHEAD:]
    return header + struct.pack("<I", zlib.crc32(code, zlib.crc32(header))) + code


@pytest.mark.parametrize(
    ("text", "fields", "told"),
    [
        (TEXT, {"streams": 1, "size": 12 * 10**9}, "claims a text of 12,000,000,000 bytes, more than --max-text"),
        (TEXT, {"streams": 16}, "is damaged: 4,001 bytes cannot be in 16 segments"),
        (TEXT, {"streams": 0}, "is damaged: it stores 3,... bytes, not 4,001"),
        (TEXT, {"size": 4000}, "is damaged: the text does not match its checksum"),
        (TEXT, {"checksum": bytes(8)}, "is damaged: the text does not match its checksum"),
        (TEXT, {"step_size": STEP}, "is damaged: the text does not match its checksum"),
        (TEXT, {"format": 5}, "has format 5, this program reads 1 to 4"),
        (RANDOM, {"size": 4000}, "is damaged: it stores 4,001 bytes, not 4,000"),
        (RANDOM, {"size": 12 * 10**9}, "is damaged: it stores 4,001 bytes, not 12,000,000,000"),
        (RANDOM, {"checksum": bytes(8)}, "is damaged: the text does not match its checksum"),
    ],
)
def test_a_forged_header_is_refused(text, fields, told):
    """A claim of a long text before it is decoded."""
    packed = compress(Network(NUMBA, SHAPE, WEIGHTS), text)
    assert forged(packed) == packed
    with pytest.raises(EggError, match=f"^FILE {told}"):
        restore(forged(packed, **fields))


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


def test_the_commands_with_an_adapter(egg, tmp_path):
    for name, adapter in (("first", ADAPTER), ("second", adapter_of(2, 5))):
        Network(NUMPY, SHAPE, WEIGHTS, adapter).save(tmp_path / name)
    first, second, packed, back = (tmp_path / name for name in ("first", "second", "book.egg", "book.txt"))
    note = tmp_path / "note"
    note.write_bytes(TEXT)
    status, _, err = egg("compress", note, "--model", first, "--adapter", first, "-o", packed, "--backend", "numpy")
    assert status == 0, err
    arguments = ["decompress", packed, "-o", back, "--backend", "numpy"]
    assert egg(*arguments, "--model", second, "--adapter", first)[0] == 0
    assert back.read_bytes() == TEXT
    back.unlink()
    for more, told in (
        ((), "and adapter"),
        (("--model", first), "give it with --adapter"),
        (("--model", first, "--adapter", second), "with another adapter"),
        (("--model", first, "--adapter", tmp_path / "third"), "third: no such file"),
    ):
        status, out, err = egg(*arguments, *more)
        assert (status, out) == (2, "") and told in err.splitlines()[-1] and not back.exists()


def test_the_commands_on_a_file_that_would_grow(train, egg, tmp_path):
    run, note, packed, back = (tmp_path / name for name in ("run", "note", "note.egg", "back"))
    train("--steps", 1, "--out", run)
    noise = np.random.default_rng(3).bytes(1000)
    for text in (b"", b"x", noise):
        note.write_bytes(text)
        limit = ["--max-text", len(text), "--backend", "numpy"]
        status, out, err = egg("compress", note, "--model", run, "-o", packed, *limit)
        assert status == 0 and f"{len(text) + 40:,} bytes" in out and "stored" in out, err
        assert packed.stat().st_size == len(text) + 40
        for model in ((), ("--model", run), ("--model", "no/such/model")):
            status, out, err = egg("decompress", packed, "-o", back, *limit, *model)
            assert (status, err) == (0, "") and f"-> {len(text):,} bytes" in out
            assert back.read_bytes() == text
            back.unlink()
    status, out, err = egg("decompress", packed, "-o", back, "--max-text", len(noise) - 1)
    assert (status, out) == (2, "") and "--max-text" in err and not back.exists()
    note.write_bytes(bytes(1000))
    assert egg("compress", note, "--model", run, "-o", packed, "--backend", "numpy")[0] == 0
    status, out, err = egg("decompress", packed, "-o", back)
    assert (status, out) == (2, "") and f"{packed} was compressed with model " in err and "give it with --model" in err
    assert err.count("\n") == 1 and not back.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compress", "nothing.txt", "--model", "m", "-o", "x"], "nothing.txt: No such file"),
        (["compress", "FILE", "--model", "no/such/model", "-o", "x"], "no/such/model"),
        (["compress", "FILE", "--model", "m", "-o", "nowhere/x"], "nowhere/x"),
        (["compress", "FILE", "--model", "m", "-o", "."], "--out .: is a folder"),
        (["compress", "FILE", "--model", "m"], "--out is missing"),
        (["compress", "FILE", "-o", "x"], "--model is missing"),
        (["compress", "FILE", "--model", "pretrained", "-o", "x", "--step-size", "1"], "--step-size 1: must be 0 or"),
        (["decompress", "nothing.egg", "--model", "m", "-o", "x"], "nothing.egg: No such file"),
    ],
)
def test_bad_arguments(egg, book, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    status, out, err = egg(*[str(book) if a == "FILE" else a for a in arguments])
    assert (status, out) == (2, "") and told in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
