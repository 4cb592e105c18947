"""Scalar arithmetic and the generator against the plain-integer oracle, exhaustively over int8 where possible."""

from fractions import Fraction

import numpy as np
import oracle
import pytest

from egg.kernels import arithmetic, philox, reference
from egg.kernels.layout import BackendError, Shape
from egg.model.parameters import initial_weights
from egg.optimizer import moving_share, sign_threshold


def test_tables_equal_the_oracles():
    np.testing.assert_array_equal(arithmetic.exp2_table(), oracle.exp2_table())
    for fraction in (16, 256):
        np.testing.assert_array_equal(arithmetic.log2_thresholds(fraction), oracle.log2_thresholds(fraction))
    expected = [oracle.normal_quantile(m) for m in range(65536)]
    np.testing.assert_array_equal(arithmetic.normal_table(), expected)


def test_the_branches_table_is_the_largest_integer_below():
    table = arithmetic.branch_table().tolist()
    assert table[0] == 2**15 - 1  # 2**15 itself has no place in 16 bits
    for f in range(1, 16):  # v <= 2**(15 - f / 16) < v + 1, in sixteenth powers
        assert table[f] ** 16 <= 2 ** (15 * 16 - f) < (table[f] + 1) ** 16


def test_the_shares_of_a_surprise_are_rounded_half_up():
    for d, share in enumerate(arithmetic.surprise_table().tolist()):  # |v - 2**(55 - d / 16)| <= 1/2, likewise
        assert (2 * share - 1) ** 16 <= 2 ** (56 * 16 - d) <= (2 * share + 1) ** 16


def test_bit_lengths_at_every_power_and_beside_it():
    values = sorted({v for p in range(33) for v in (2**p - 1, 2**p) if v < 2**32})
    expected = [v.bit_length() for v in values]
    np.testing.assert_array_equal(arithmetic.bit_length(np.array(values)), expected)


@pytest.mark.parametrize("fraction", [16, 256])
def test_floor_log2_at_every_threshold_and_beside_it(fraction):
    values = [16, 17, 255, 4096, 2**28 - 1, 2**32 - 1]
    for top in range(5, 32):
        for threshold in arithmetic.log2_thresholds(fraction).tolist():
            exact = threshold >> (31 - top)
            values += [v for v in (exact - 1, exact, exact + 1) if 16 <= v < 2**32]
    values = sorted(set(values))
    expected = [oracle.floor_log2(v, fraction) for v in values]
    np.testing.assert_array_equal(arithmetic.floor_log2(np.array(values), fraction), expected)


def test_rounding_is_half_up_and_a_shift_down_for_both_signs():
    v = np.arange(-4096, 4097)
    for s in (-3, 0, 1, 2, 7):
        np.testing.assert_array_equal(arithmetic.round_shift(v, s), [oracle.round_shift(int(x), s) for x in v])
        exact = v * 8 // 2 ** (s + 3)
        np.testing.assert_array_equal(arithmetic.shift_right(v, s), exact)
    for m in (1, 2, 3, 16, 127):
        np.testing.assert_array_equal(arithmetic.round_div(v, m), [oracle.round_div(int(x), m) for x in v])


def test_norm_over_every_value_gain_and_mean():
    x = np.arange(-127, 128)
    for mean in (0, 1, 2, 3, 5, 17, 64, 100, 126, 127):
        for gain in (-127, -16, -1, 0, 1, 16, 127):
            # A row whose mean magnitude is ``mean``: one value under test, the rest made to fit.
            rest = np.full((255, 255), mean)
            row = np.concatenate([x[:, None], rest], 1)
            row[:, 1] = np.clip(mean + mean - np.abs(x), 0, 127)
            total = np.abs(row).sum(1) // row.shape[1]
            expected = [oracle.clip8((int(v) * gain) // max(1, int(t))) for v, t in zip(x, total, strict=True)]
            got = reference.norm(row, np.full(row.shape[1], gain))[:, 0]
            np.testing.assert_array_equal(got, expected)


def test_reciprocal_division_is_exact_for_every_product_and_divisor():
    pytest.importorskip("numba")
    from egg.kernels.cpu.reciprocal import divide, reciprocals

    assert max(reciprocals()[0]) < 2**16
    v = np.arange(-127 * 127, 127 * 127 + 1)
    for m in range(1, 128):
        quotients, largest_product = divide(v, m)
        assert largest_product < 2**31
        np.testing.assert_array_equal(quotients, (v // m).clip(-127, 127))


def test_philox_known_answers():
    # Random123's kat_vectors: philox4x32 with 10 rounds; counter, key, result
    cases = [
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    for counter, key, expected in cases:
        got = philox.philox(np.array(counter, np.uint32), key)
        assert " ".join(f"{v:08x}" for v in got) == expected


def test_words_are_the_same_one_by_one_and_together():
    together = philox.words(2**40 + 3, philox.DIRECTION_SIGNS, np.arange(5), 9, 11)
    for i in range(5):
        alone = philox.words(2**40 + 3, philox.DIRECTION_SIGNS, i, 9, 3)
        np.testing.assert_array_equal(together[i, :3], alone)


def test_signs_are_the_bits_least_significant_first():
    strings = np.array([[0b101, 1]], np.uint32)
    np.testing.assert_array_equal(philox.signs(strings, 0, 4), [[1, -1, 1, -1]])
    np.testing.assert_array_equal(philox.signs(strings, 31, 3), [[-1, 1, -1]])


@pytest.mark.parametrize(("hidden_size", "num_layers"), [(16, 1), (64, 2), (256, 6), (1024, 4)])
def test_layout_counts_parameters_and_aligns_signs(hidden_size, num_layers):
    shape = Shape(hidden_size, num_layers)
    d = hidden_size
    assert shape.parameters == 513 * d + num_layers * (12 * d * d + 4 * d)
    assert sum(t.size for t in shape.tensors.values()) == shape.parameters
    assert all(t.a % 64 == 0 and t.b % 64 == 0 for t in shape.tensors.values())


@pytest.mark.parametrize(("hidden_size", "num_layers"), [(32, 1), (0, 1), (64, 0), (4096, 2)])
def test_a_shape_that_cannot_be_is_refused(hidden_size, num_layers):
    with pytest.raises(BackendError):
        Shape(hidden_size, num_layers)


@pytest.mark.parametrize("recipe", ["egg", "paper"])
@pytest.mark.parametrize(("hidden_size", "layers"), [(16, 1), (16, 3), (64, 6)])
def test_initial_weights(recipe, hidden_size, layers):
    shape = Shape(hidden_size, layers)
    weights = shape.views(initial_weights(shape, 2**64 - 3, recipe))
    expected = oracle.initial_weights(2**64 - 3, hidden_size, layers, recipe)
    assert list(weights) == list(expected)
    for name, tensor in expected.items():
        assert np.array_equal(weights[name], tensor), name


def test_the_share_of_weights_that_move_falls_as_published():
    assert [moving_share(4.0, 1000, step) for step in (0, 1, 1000)] == [1, Fraction(1000, 1015), Fraction(1, 16)]
    assert moving_share(3.0, 50, 50) == Fraction(1, 8)
    assert moving_share(0.3, 1000, 7) == Fraction(19661, 65536)  # 19660.8
    # Thresholds of the published program: 16 times the quantile, rounded towards zero.
    steps = (0, 1, 10, 100, 500, 999)
    assert [sign_threshold(moving_share(4.0, 1000, step), 1) for step in steps] == [0, 0, 2, 13, 25, 29]
    assert [sign_threshold(moving_share(alpha, 1000, 0), 3) for alpha in (0.5, 0.25, 0.0625)] == [30, 54, 87]
