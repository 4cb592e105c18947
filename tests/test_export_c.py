"""The C export: compiled by what is here, without floating point, and equal to the reference on random models."""

import ctypes
import platform
import re
import shutil
import subprocess

import numpy as np
import pytest

from egg.export.c import c_source
from egg.kernels import Adapter, Shape, get_backend
from egg.model.adapter import adapter_shape
from egg.model.evaluate import evaluate, surprises
from egg.model.network import Network

NUMPY = get_backend("numpy")
STRICT = "-std=c99 -Wall -Wextra -Werror".split()
X86 = platform.machine().lower() in ("x86_64", "amd64")
COMPILERS = [name for name in ("gcc", "cc", "clang") if shutil.which(name)]

pytestmark = pytest.mark.skipif(not COMPILERS, reason="no C compiler: no gcc, cc or clang")


def random_model(size: int, layers: int, seed: int, kind: str = "normal") -> Network:
    shape, rng = Shape(size, layers), np.random.default_rng(seed)
    if kind == "extreme":
        weights = rng.choice([-127, 127], shape.parameters)
    elif kind == "zero":
        weights = np.zeros(shape.parameters)
    elif kind == "any":
        weights = rng.integers(-127, 128, shape.parameters)
    else:
        weights = np.clip(rng.standard_normal(shape.parameters) * 24, -127, 127)
    return Network(NUMPY, shape, weights.astype(np.int8))


def compiled(model: Network, folder, *flags: str, compiler: str = "") -> ctypes.CDLL:
    """The functions of a model's C file."""
    source = folder / "model.c"
    source.write_text(c_source(model.shape, model.weights, "a model", model.adapter))
    library = folder / "model.so"
    command = [compiler or COMPILERS[0], *STRICT, *flags, "-DEGG_NO_MAIN", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", library, source], check=True, capture_output=True, text=True)
    found = ctypes.CDLL(str(library))
    found.egg_cost.restype = ctypes.c_uint32
    return found


def read(functions: ctypes.CDLL, model: Network, tokens: np.ndarray) -> np.ndarray:
    """Logits (T, 256) int8 from the C functions; what surrounds their arrays stays as it was."""
    size = model.shape.num_layers * model.shape.hidden_size
    state = np.full(size + 128, 99, np.int8)
    logits = np.full((len(tokens) + 2, 256), 99, np.int8)
    functions.egg_begin(ctypes.c_void_p(state.ctypes.data + 64))
    assert not state[64:-64].any()
    for t, byte in enumerate(tokens.tolist()):
        functions.egg_read(
            ctypes.c_void_p(state.ctypes.data + 64), ctypes.c_uint8(byte), ctypes.c_void_p(logits[t + 1].ctypes.data)
        )
    assert (state[:64] == 99).all() and (state[-64:] == 99).all()
    assert (logits[0] == 99).all() and (logits[-1] == 99).all()
    return logits[1:-1]


def random_text(length: int, seed: int) -> np.ndarray:
    tokens = np.random.default_rng(seed).integers(0, 256, length).astype(np.uint8)
    tokens[:: length // 4] = 0  # documents end and begin
    return tokens


CASES = [
    *[(16, 1 + seed % 3, seed, "normal") for seed in range(20)],
    (16, 2, 1, "any"),
    (16, 2, 2, "extreme"),
    (16, 1, 3, "zero"),
    (64, 1, 4, "normal"),
    (64, 1, 5, "extreme"),
]


@pytest.mark.parametrize(("size", "layers", "seed", "kind"), CASES)
def test_logits_are_those_of_the_reference(tmp_path, size, layers, seed, kind):
    model, tokens = random_model(size, layers, seed, kind), random_text(120, seed)
    flags = ["-O2", "-mgeneral-regs-only"] if X86 else ["-O2"]
    found = read(compiled(model, tmp_path, *flags), model, tokens)
    np.testing.assert_array_equal(found, model.logits(tokens))
    assert kind == "zero" or len(np.unique(found)) > 20


@pytest.mark.parametrize(
    ("size", "rank", "tensors"), [(16, 1, "head"), (16, 16, "gru,mlp,head"), (64, 2, "w_down,u_f"), (64, 3, "mlp,gru")]
)
def test_an_adapter_is_read_to_the_last_bit(tmp_path, size, rank, tensors):
    model, layout = random_model(size, 2, rank), adapter_shape(Shape(size, 2), rank, tensors)
    factors = np.random.default_rng(rank).integers(-127, 128, layout.parameters).astype(np.int8)
    model, tokens = model.with_adapter(Adapter(layout, factors)), random_text(120, rank)
    for flags in (["-O2"], ["-O3", "-Wpedantic"]):
        found = read(compiled(model, tmp_path, *flags), model, tokens)
        np.testing.assert_array_equal(found, model.logits(tokens))
    assert not np.array_equal(found, model.with_adapter(None).logits(tokens))


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("flags", ["-O0", "-Os", "-O3 -Wpedantic", "-O3 -funsigned-char"])
def test_every_compiler_and_option(tmp_path, compiler, flags):
    model, tokens = random_model(16, 2, 7, "any"), random_text(60, 7)
    found = read(compiled(model, tmp_path, *flags.split(), compiler=compiler), model, tokens)
    np.testing.assert_array_equal(found, model.logits(tokens))


def test_costs_are_exact_to_what_is_said(tmp_path):
    functions = compiled(random_model(16, 1, 0), tmp_path, "-O2")
    rng = np.random.default_rng(5)
    rows = rng.integers(-127, 128, (200, 256)).astype(np.int8)
    rows[0], rows[1], rows[2] = -127, 127, 0
    rows[3], rows[4] = -127, 127
    rows[3, 7], rows[4, 7] = 127, -127
    targets = rng.integers(0, 256, 200).astype(np.uint8)
    targets[:5] = 7
    found = [
        functions.egg_cost(ctypes.c_void_p(row.ctypes.data), ctypes.c_uint8(target))
        for row, target in zip(rows, targets.tolist(), strict=True)
    ]
    over = np.array(found) - surprises(rows, targets) * 2**24
    assert over.max() < 0.01 and over.min() > -1.1


@pytest.mark.parametrize("flags", ["-O2", "-O1 -mgeneral-regs-only"])
def test_the_program_says_what_eval_says(tmp_path, flags):
    if "general" in flags and not X86:
        pytest.skip("-mgeneral-regs-only is tried on x86-64 alone")
    model = random_model(16, 2, 3)
    source, program = tmp_path / "model.c", tmp_path / "model"
    source.write_text(c_source(model.shape, model.weights, "a model"))
    command = [COMPILERS[0], *STRICT, *flags.split(), "-o", program, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    rng = np.random.default_rng(8)
    for documents in ([b"x"], [b"some text\n" * 40, b"", bytes(range(1, 256)), b"\xff" * 30]):
        documents = [*documents, bytes(rng.integers(1, 256, 99, dtype=np.uint8))]
        text = b"\0".join(documents)
        done = subprocess.run([program], input=text, capture_output=True, check=True)
        bits, size = re.fullmatch(r"(\d+\.\d{6}) bits per byte, (\d+) bytes\n", done.stdout.decode()).groups()
        exact = evaluate(model, np.frombuffer(b"\0" + text, np.uint8))
        assert int(size) == exact.bytes
        assert -1.1e-6 < float(bits) - round(exact.bits_per_byte, 6) < 1e-7
    done = subprocess.run([program], input=b"\0", capture_output=True, text=False)
    assert done.returncode == 1 and b"no byte" in done.stderr


def test_no_floating_point_no_heap_no_library():
    """What the file includes and names, its comments aside."""
    model = random_model(16, 1, 0)
    source = c_source(model.shape, model.weights, "x */ int y; \n ü")
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    assert re.findall(r"#include (\S+)", code) == ["<stdint.h>", "<stdio.h>"]
    assert not re.search(r"\b(float|double|malloc|calloc|realloc|free|math)\b|\d\.\d", code)
    assert "int y" not in code and source.isascii() and "@" not in source
    assert max(map(len, source.splitlines())) <= 120
