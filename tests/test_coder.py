"""The arithmetic coder: what goes in comes out, in no more bits than the definition allows."""

import numpy as np
import pytest

from egg.kernels import coder, get_backend, get_coder
from egg.kernels.arithmetic import coding_table
from egg.model.evaluate import surprises

NUMPY, NUMBA = (get_coder(get_backend(name)) for name in ("numpy", "numba"))


def random_logits(kind: str, streams: int, length: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "any":
        return rng.integers(-127, 128, (streams, length, 256)).astype(np.int8)
    logits = np.full((streams, length, 256), -127, np.int8)
    if kind == "sure":  # one byte has all there is to have
        sure = rng.integers(0, 256, (streams, length, 1))
        np.put_along_axis(logits, sure, 127, -1)
    return logits


def random_targets(logits: np.ndarray, kind: str, seed: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "likeliest":
        return logits.argmax(-1).astype(np.uint8)
    if kind == "unlikeliest":
        return logits.argmin(-1).astype(np.uint8)
    return rng.integers(0, 256, logits.shape[:2]).astype(np.uint8)


def encode(module, logits, targets, pieces=(1 << 30,)) -> bytes:
    encoder, at, i = module.Encoder(), 0, 0
    while at < targets.shape[1]:
        size = pieces[i % len(pieces)]
        encoder.put(logits[:, at : at + size], targets[:, at : at + size])
        at, i = at + size, i + 1
    return encoder.finish()


def decode(module, code: bytes, logits) -> np.ndarray:
    decoder = module.Decoder(code)
    return np.stack([decoder.take(logits[:, t]) for t in range(logits.shape[1])], 1)


@pytest.mark.parametrize("kind", ["any", "sure", "flat"])
@pytest.mark.parametrize("chosen", ["likeliest", "unlikeliest", "any"])
@pytest.mark.parametrize(("streams", "length"), [(1, 700), (5, 140), (1, 1), (3, 0)])
def test_what_goes_in_comes_out_of_both(kind, chosen, streams, length):
    logits = random_logits(kind, streams, length)
    targets = random_targets(logits, chosen)
    code = encode(NUMPY, logits, targets)
    assert encode(NUMBA, logits, targets, (3, 1, 64)) == code
    assert not code.endswith(b"\0")
    for module in (NUMPY, NUMBA):
        if length:
            np.testing.assert_array_equal(decode(module, code, logits), targets)
    exact = surprises(logits.reshape(-1, 256), targets.ravel()).sum()
    assert 8 * len(code) <= exact * 1.0002 + 8


@pytest.mark.parametrize("kind", ["any", "sure", "flat"])
@pytest.mark.parametrize("chosen", ["likeliest", "unlikeliest", "any"])
def test_long_codes_are_within_a_five_thousandth_of_the_exact_length(kind, chosen):
    logits = random_logits(kind, 100, 10)
    targets = random_targets(logits, chosen)
    exact = 300 * surprises(logits.reshape(-1, 256), targets.ravel()).sum()
    code = encode(NUMBA, np.tile(logits, (1, 300, 1)), np.tile(targets, (1, 300)))
    assert 8 * len(code) <= exact * 1.0002 + 8


def test_which_coder_goes_with_which_backend():
    class Other:
        name = "another"

    assert get_coder(Other()) is NUMBA is not NUMPY
    assert NUMPY is coder


def test_weights_are_powers_of_two_rounded_down():
    table = coding_table().tolist()
    assert len(table) == 255 and table[0] == 1 << 26 and table[254] == 1116
    for d, weight in enumerate(table):  # floor(2**(26 - d / 16)), both sides to the 16th power
        assert weight**16 <= 1 << (26 * 16 - d) < (weight + 1) ** 16
    assert coder.FLOOR // (256 * table[0]) == 1 << 22


def test_a_carry_runs_through_bytes_that_are_full():
    """Logits all alike, and bytes 255 at first, then 0s and another: the code stays just below 1."""
    logits = random_logits("flat", 1, 60)
    for last in range(256):
        targets = np.array([[255] * 50 + [last] * 10], np.uint8)
        code = encode(NUMPY, logits, targets)
        assert code == encode(NUMBA, logits, targets)
        np.testing.assert_array_equal(decode(NUMBA, code, logits), targets)


def test_carries_happen(monkeypatch):
    carries = []
    carry = coder.Encoder._carry
    monkeypatch.setattr(coder.Encoder, "_carry", lambda self: (carries.append(1), carry(self)))
    logits = random_logits("any", 4, 2000)
    encode(NUMPY, logits, random_targets(logits, "any"))
    assert len(carries) > 5


def test_a_code_no_encoder_wrote_gives_bytes_all_the_same():
    logits = random_logits("any", 3, 50)
    for code in (b"", b"\xff" * 4, b"\xff" * 400, bytes(range(256))):
        np.testing.assert_array_equal(decode(NUMPY, code, logits), decode(NUMBA, code, logits))
