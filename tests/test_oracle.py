"""The oracle: against published values, decimals and definitions; and recipe egg of every CPU backend against it."""

import re
import statistics
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from math import erf, floor, log2, sqrt

import make_vectors
import numpy as np
import oracle
import pytest

from egg.config import Config, EvolutionConfig, ModelConfig
from egg.evolution.recipes import evolution
from egg.kernels import get_backend
from egg.kernels.arithmetic import branch_table
from egg.kernels.backend import Draw
from egg.kernels.layout import Shape
from egg.training.corpus import CorpusText


@pytest.fixture(autouse=True)
def precise_decimals():
    with localcontext() as context:
        context.prec = 50
        yield


def words(text):
    return [int(word, 16) for word in text.split()]


# The three "philox4x32 10" lines of Random123's kat_vectors: counter, key, output.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, output):
    assert oracle.philox4x32(words(counter), words(key)) == words(output)


def test_word_string_is_the_blocks_one_after_the_other():
    seed = 0x299F31D0A4093822  # the low word is the first key word
    key = words("a4093822 299f31d0")
    expected = oracle.philox4x32((0, 7, 8, 9), key) + oracle.philox4x32((1, 7, 8, 9), key)
    assert oracle.draw_words(seed, 7, 8, 9, 6) == expected[:6]


def test_bits_and_halfwords_start_at_the_least_significant():
    string = [0x80000001, 0xABCD0002]
    assert [k for k in range(64) if oracle.bit(string, k)][:3] == [0, 31, 33]
    assert [oracle.halfword(string, k) for k in range(4)] == [0x0001, 0x8000, 0x0002, 0xABCD]


@pytest.mark.parametrize("divisor_log2", [1, 2, 7])
def test_rounding_is_half_up(divisor_log2):
    divisor = 2**divisor_log2
    for v in range(-300, 301):
        expected = floor(Fraction(v, divisor) + Fraction(1, 2))
        assert oracle.round_shift(v, divisor_log2) == expected
        assert oracle.round_div(v, divisor) == expected


def test_round_div_by_other_numbers():
    for v in range(-50, 51):
        for m in range(1, 12):
            assert oracle.round_div(v, m) == floor(Fraction(v, m) + Fraction(1, 2))


def test_round_shift_without_a_fraction():
    assert [oracle.round_shift(-5, s) for s in (0, -1, -3)] == [-5, -10, -40]


def test_shift():
    assert [oracle.shift(k) for k in (16, 64, 256, 1024, 4096)] == [6, 7, 8, 9, 10]


def test_exp2_table():
    expected = [int((16 * Decimal(2) ** (Decimal(j) / 16)).to_integral_value(ROUND_FLOOR)) for j in range(256)]
    assert oracle.exp2_table() == expected


@pytest.mark.parametrize("n", [16, 256])
def test_log2_thresholds(n):
    expected = [int((Decimal(2) ** (31 + Decimal(j) / n)).to_integral_value(ROUND_CEILING)) for j in range(1, n)]
    assert oracle.log2_thresholds(n) == [2**31, *expected]


@pytest.mark.parametrize("n", [16, 256])
def test_floor_log2(n):
    sums = [4096, 4097, 2**20 - 1, 2**20, 2**20 + 1, 2**28 - 1]
    sums += [4096 + w % (2**28 - 4096) for w in oracle.draw_words(1, 0, 0, 0, 200)]
    for s in sums:
        exact = n * (Decimal(s) / 16).ln() / Decimal(2).ln()
        # An exact power of two is a whole number, which the decimals miss by a hair.
        expected = (exact + Decimal("1e-30")).to_integral_value(ROUND_FLOOR)
        assert oracle.floor_log2(s, n) == expected


def test_equal_logits_cost_eight_bits():
    assert oracle.score_16([0] * 256, 65) == -8 * 16
    assert oracle.score_256([0] * 256, 65) == -8 * 256


def test_score_of_a_certain_byte_is_near_zero():
    logits = [-127] * 256
    logits[7] = 127
    assert oracle.score_16(logits, 7) == 0
    assert oracle.score_16(logits, 8) == -254


def test_phi():
    for k in range(-130, 131):
        expected = (1 + erf(k / 16 / sqrt(2))) / 2
        assert oracle.phi(k, 16) / 2**oracle.PHI_BITS == pytest.approx(expected, abs=1e-15)


def test_normal_quantile_of_every_halfword():
    normal = statistics.NormalDist()
    expected = [round(16 * normal.inv_cdf((m + 0.5) / 65536)) for m in range(65536)]
    assert [oracle.normal_quantile(m) for m in range(65536)] == expected


def test_paper_threshold_is_the_normal_quantile_rounded_down_to_sixteenths():
    assert oracle.paper_threshold(0) == 0
    for step in (1, 5, 66, 1000, 123_456):
        quantile = statistics.NormalDist().inv_cdf(1 - 500 / (15 * step + 1000))
        assert oracle.paper_threshold(step) == floor(16 * quantile)
    for alpha, j in ((1, 0), (0.5, 10), (0.05, 31), (0.0005, 55), (1.001, 0)):
        assert oracle.paper_threshold(0, oracle.PaperSettings(alpha=alpha)) == j


def test_alpha_is_constant_or_falls():
    def alpha(step, alpha, alpha_decay=1000):
        return oracle.paper_alpha(step, oracle.PaperSettings(alpha=alpha, alpha_decay=alpha_decay))

    assert [oracle.paper_alpha(step) for step in (0, 7)] == [1, Fraction(1000, 1105)]
    assert {alpha(step, 0.5) for step in (0, 9, 10**6)} == {Fraction(1, 2)}
    assert alpha(3, "0.00002288818359375") == Fraction(2, 65536)  # one and a half, rounded up
    assert alpha(8, 2, 8) == Fraction(1, 4)
    assert alpha(8, 2.5, 8) == Fraction(2**16, floor(Decimal(2) ** Decimal("18.5")))
    # x = 640.5 is 641.
    assert alpha(8, "2.501953125", 8) == Fraction(2**16, floor(Decimal(2) ** (Decimal(16) + Decimal(641) / 256)))


def test_initial_weights():
    egg = oracle.initial_weights(5, 16, 1, "egg")
    paper = oracle.initial_weights(5, 16, 1, "paper")
    assert {row[0] for row in egg["embedding.weight"]} == {64}
    assert [row[1:] for row in egg["embedding.weight"]] == [row[1:] for row in paper["embedding.weight"]]
    zero = {name for name, matrix in egg.items() if np.ndim(matrix) == 2 and not np.any(matrix)}
    grows = ("gru.w_f", "gru.u_f", "gru.u_h", "mlp.w_down")
    assert zero == {"head.weight", *(f"layers.0.{name}" for name in grows)}
    w_h, doubled = np.array(paper["layers.0.gru.w_h"]), np.array(egg["layers.0.gru.w_h"])
    assert np.array_equal(doubled, np.clip(2 * w_h, -127, 127))
    deep = np.array(oracle.initial_weights(5, 16, 8, "egg")["layers.0.gru.w_h"])
    assert np.array_equal(deep, w_h)  # 2 sqrt(2 / L) = 1
    # The head is tensor 12; its element (1, 2) is element 18, the low half of word 9.
    halfword = oracle.draw_words(5, 0, 12, 0, 10)[9] & 0xFFFF
    assert paper["head.weight"][1][2] == oracle.normal_quantile(halfword)
    assert np.std(paper["head.weight"]) == pytest.approx(16, abs=1)
    gains = ("layers.0.ln1.weight", "layers.0.ln2.weight", "ln_out.weight")
    assert [paper[name] for name in gains] == [[16] * 16] * 3
    assert [egg[name] for name in gains] == [[48] * 16, [24] * 16, [64] * 16]
    assert egg["layers.0.gru.b_h"] == [0] * 16
    assert paper["layers.0.gru.b_h"] == [0] * 16


def test_signs_begin_at_multiples_of_64_bits():
    string = oracle.draw_words(5, 1, 3, 9, 20)
    direction = oracle.draw_direction(5, 3, 9, 16, 1)
    a, b = direction["embedding.weight"]
    assert a == [2 * (string[k // 32] >> k % 32 & 1) - 1 for k in range(256)]
    assert b == [2 * (string[8] >> k & 1) - 1 for k in range(16)]
    assert direction["layers.0.ln1.weight"] == [2 * (string[10] >> k & 1) - 1 for k in range(16)]
    assert direction["layers.0.gru.w_f"][0] == [2 * (string[12] >> k & 1) - 1 for k in range(16)]


def test_gaussian_halfwords_begin_at_multiples_of_64():
    string = oracle.draw_words(5, 10, 3, 9, 500)
    drawn = [oracle.normal_quantile(word >> s & 0xFFFF) for word in string for s in (0, 16)]
    direction = oracle.draw_direction(5, 3, 9, 16, 1, "gaussian")
    assert direction["embedding.weight"] == (drawn[:256], drawn[256:272])
    assert direction["layers.0.ln1.weight"] == [a * b for a, b in zip(drawn[320:336], drawn[384:400], strict=True)]
    assert direction["layers.0.gru.w_f"] == (drawn[448:464], drawn[512:528])
    assert oracle.normal_quantile(0xFFFF) == -oracle.normal_quantile(0) == 69


def test_pairs_share_directions_and_steps_reuse_them():
    def drawn(pair, step, **settings):
        return oracle.draw_directions(5, pair, step, 16, 1, oracle.PaperSettings(**settings))

    def direction(number, step):
        return oracle.draw_direction(5, number, step, 16, 1)

    assert drawn(3, 9) == [direction(3, 9)]
    assert drawn(3, 9, rank=4) == [direction(number, 9) for number in (12, 13, 14, 15)]
    assert drawn(5, 9, rank=4, num_perturbations=8) == [direction(number, 9) for number in (4, 5, 6, 7)]
    assert drawn(3, 9, noise_reuse=4) == [direction(3, 2)]
    assert drawn(3, 9, noise_reuse=0) == [direction(3, 0)]


@pytest.fixture
def small_model():
    return make_vectors.random_weights(21, 16, 1)


def plain_matrix(weights, name, perturbation, size):
    """Weights that move by size times the sum of a b^T, for the head an exact equivalent."""
    matrix = np.array(weights[name])
    for direction in perturbation.directions:
        matrix += perturbation.r * size * np.outer(*direction[name])
    return matrix.tolist()


@pytest.mark.parametrize(("r", "rank", "sigma_shift"), [(1, 1, 3), (-1, 1, 3), (1, 4, 2), (-1, 16, 1)])
def test_sign_perturbation_moves_the_weights(small_model, r, rank, sigma_shift):
    """A low-rank term equals the same step on every weight, while no shift loses bits."""
    settings = oracle.PaperSettings(sigma_shift, rank)
    directions = oracle.draw_directions(1, 2, 3, 16, 1, settings)
    perturbation = oracle.Perturbation(directions, r, settings)
    moved = {}
    for name, w in small_model.items():
        if isinstance(w[0], list):
            moved[name] = plain_matrix(small_model, name, perturbation, 2)
        else:
            moved[name] = [v + 2 ** (4 - sigma_shift) * r * e for v, e in zip(w, directions[0][name], strict=True)]
    # Only rows of the embedding are limited.
    moved["embedding.weight"] = oracle.map_tensor(oracle.clip8, moved["embedding.weight"])
    h = make_vectors.random_states(1, 1, 1, 16)[0]
    perturbed = oracle.read_token(small_model, h, 66, perturbation)
    expected = oracle.read_token(moved, h, 66)
    assert (perturbed.logits, perturbed.h) == (expected.logits, expected.h)
    assert perturbed.logits != oracle.read_token(small_model, h, 66).logits


@pytest.mark.parametrize("r", [1, -1])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_gaussian_perturbation_moves_the_weights(small_model, r, rank):
    """By sum a b^T / sqrt(R) in units of 2^-(4 + sigma_shift), each term and each vector rounded down."""
    settings = oracle.PaperSettings(2, rank, "gaussian")
    directions = oracle.draw_directions(1, 2, 3, 16, 1, settings)
    perturbation = oracle.Perturbation(directions, r, settings)
    divisor = 2**6 * round(sqrt(rank))
    x = make_vectors.random_states(1, 1, 1, 16)[0][0]
    for name in ("layers.0.gru.w_f", "head.weight"):
        change = np.subtract(plain_matrix(small_model, name, perturbation, 1), small_model[name])
        assert perturbation.term(name, x) == (change @ x // divisor).tolist()
    row = plain_matrix(small_model, "embedding.weight", perturbation, 1)[9]
    change = np.subtract(row, small_model["embedding.weight"][9]) // divisor
    row = small_model["embedding.weight"][9]
    assert perturbation.embedding_row(9, row) == np.clip(row + change, -127, 127).tolist()
    e = r * np.array(directions[0]["ln_out.weight"])
    gains = small_model["ln_out.weight"]
    assert perturbation.vector("ln_out.weight", gains) == np.clip(gains + e // 64, -127, 127).tolist()


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_gaussian_terms_fit_32_bits(rank):
    """p is limited: of 4,096 inputs of 127, all with noise of 69, every sum is 69 2^24."""
    settings = oracle.PaperSettings(0, rank, "gaussian")
    directions = [{"w": ([69, -69], [69] * 4096)}] * rank
    shift = 4 + oracle.half_log2(rank)
    expected = [69 * 2**24 >> shift, -69 * 2**24 >> shift]
    assert oracle.Perturbation(directions, 1, settings).term("w", [127] * 4096) == expected
    assert oracle.Perturbation(directions, -1, settings).term("w", [127] * 4096) == expected[::-1]
    signs = [{"w": ([1, -1], [1] * 4096)}]
    assert oracle.Perturbation(signs, 1, oracle.PaperSettings(4)).term("w", [127] * 4096) == [127 * 4096, -127 * 4096]


def test_small_perturbations_round_down():
    assert [oracle.lift(v, -2) for v in (-5, -1, 3, 8)] == [-2, -1, 0, 2]
    assert [oracle.Perturbation([], 1, oracle.PaperSettings(s)).amount() for s in (6, 4, 1)] == [1, 1, 8]
    # One of four signs is -1: the sum of the products is 2, half of it 1.
    directions = [{"embedding.weight": ([a], [1, -1])} for a in (1, 1, 1, -1)]
    for r, expected in ((1, [11, 9]), (-1, [9, 11])):
        perturbation = oracle.Perturbation(directions, r, oracle.PaperSettings(6, 4))
        assert perturbation.embedding_row(0, [10, 10]) == expected


def test_a_zero_byte_forgets_the_state(small_model):
    h = make_vectors.random_states(1, 1, 1, 16)[0]
    fresh = oracle.read_token(small_model, oracle.zeros((1, 16)), 0)
    assert oracle.read_token(small_model, h, 0) == fresh
    assert oracle.read_token(small_model, h, 1).h != oracle.read_token(small_model, oracle.zeros((1, 16)), 1).h


def layer_of(**values):
    """A layer whose 16 units are alike."""
    plain = {"x_0": 10, "h": 0, "u": 20, "f": 1, "c": 0, "x_h": 10, "v": 20, "y": 39, "d": 5, "x": 10} | values
    return oracle.Layer(**{name: [v] * (64 if name == "y" else 16) for name, v in plain.items()})


def test_a_token_keeps_the_values_of_its_layers():
    """One layer by hand: a state of 40s, a byte of 10s, and weights that add what is wanted."""
    weights = oracle.zeros_like(oracle.initial_weights(1, 16, 1, "egg"))
    weights["embedding.weight"][65] = [10] * 16
    weights["embedding.weight"][0] = [10] * 16
    for name in ("layers.0.ln1.weight", "layers.0.ln2.weight"):
        weights[name] = [20] * 16  # every normalised input is 20
    weights["layers.0.gru.b_f"] = [1] * 16
    weights["layers.0.gru.b_h"] = [-24] * 16
    for row in weights["layers.0.mlp.w_up"]:
        row[0] = 127  # 2,540 >> 6 = 39
    for row in weights["layers.0.mlp.w_down"]:
        row[:7] = [127] * 7  # 34,671 >> 7 = 270, clipped
    token = oracle.read_token(weights, [[40] * 16], 65)
    (layer,) = token.layers
    # h moves to 40 + (128 * -64 >> 8) = 8, the residual to 18, then to 18 + 127, clipped.
    assert layer == layer_of(h=40, f=1, c=-24, x_h=18, d=127, x=127)
    for name, values in (("gru.w_f", layer.u), ("mlp.w_up", layer.v), ("mlp.w_down", layer.y)):
        assert token.inputs[f"layers.0.{name}"] == values
    token = oracle.read_token(weights, [[40] * 16], 0)
    # From 0 the state moves to 128 * -24 >> 8 = -12, the residual to -2, normalised to -20.
    assert token.layers[0].h == [0] * 16
    assert token.inputs["layers.0.mlp.w_down"] == [-40] * 64  # -2,540 >> 6, rounded down


# ---------------------------------------------------------------- branches


def test_hadamard_rows_are_in_natural_order():
    h = np.array([[1]])
    for _ in range(4):
        h = np.block([[h, h], [h, -h]])
    assert oracle.hadamard(16) == h.tolist()
    assert np.array_equal(h @ h.T, 16 * np.eye(16))


def test_branches_are_drawn_from_streams_8_and_9():
    head = make_vectors.random_weights(21, 64, 1)["head.weight"]
    few, every = (oracle.draw_branches(head, 5, 9, count) for count in (16, 64))
    string = oracle.draw_words(5, 8, 0, 9, 2)
    assert few.signs == [2 * (string[j // 32] >> j % 32 & 1) - 1 for j in range(64)]
    string = oracle.draw_words(5, 9, 0, 9, 64)
    assert few.rows == np.argsort(string, kind="stable")[:16].tolist()
    assert sorted(every.rows) == list(range(64))
    # The size follows from all rows, and the moves of a row do not depend on the others.
    assert few.m == every.m
    assert few.moves == every.moves[:16]
    k, v = few.rows[3], 77
    r = sum(w * s * h for w, s, h in zip(head[v], few.signs, oracle.hadamard(64)[k], strict=True))
    assert few.moves[3][v] == oracle.round_shift(r, few.m)


@pytest.mark.parametrize("scale", [0, 1, 3, 24, 127])
def test_a_logit_moves_by_one_to_two_sixteenths_on_average(scale):
    head = [
        [oracle.clip8(scale * w // 16) for w in row] for row in make_vectors.random_weights(21, 64, 1)["head.weight"]
    ]
    branches = oracle.draw_branches(head, 5, 9, 64)
    mean = np.mean(np.abs(branches.moves))
    assert (mean == 0 and branches.m == -9) if scale == 0 else 250 <= mean <= 520


def test_the_moves_of_a_branch_are_limited():
    head = oracle.zeros((256, 16))
    head[7] = [127] * 16
    moves = oracle.draw_branches(head, 5, 9, 16).moves
    assert {abs(v) for v in np.ravel(moves)} <= {0, *range(12289)} and np.abs(moves).max() == 12288


def test_a_branch_is_the_model_whose_head_is_moved_along_its_input():
    """Where nothing is rounded or limited its logits are those of W (o + delta h_k), delta = 2^(shift - 8 - m)."""
    weights = make_vectors.random_weights(21, 16, 1)
    head = weights["head.weight"] = [[w // 3 for w in row] for row in weights["head.weight"]]
    token = oracle.read_token(weights, oracle.zeros((1, 16)), 66)
    branches = oracle.draw_branches(head, 5, 9, 16)
    delta = 2 ** (6 - 8 - branches.m)
    assert delta >= 1
    for k, moves in zip(branches.rows, branches.moves, strict=True):
        row = oracle.hadamard(16)[k]
        h_k = [row[branches.place] * s * h for s, h in zip(branches.signs, row, strict=True)]
        moved = [o + delta * h for o, h in zip(token.inputs["head.weight"], h_k, strict=True)]
        expected = oracle.scaled(oracle.sums(moved, head), 16)
        fine = [acc << 2 for acc in token.accumulators]
        assert oracle.branch_logits(fine, moves) == expected != token.logits


def test_branch_logarithm_is_within_three():
    values = [2**p + offset for p in range(9, 24) for offset in (-1, 0, 1)]
    values += [512 + w % (2**23 - 512) for w in oracle.draw_words(1, 0, 0, 0, 2000)]
    worst = max(abs(oracle.branch_log2(s) - 4096 * log2(s)) for s in values)
    assert worst < 3


def test_score_of_a_branch():
    assert oracle.branch_exponentials() == [min(32767, floor(2 ** (15 - f / 16))) for f in range(16)]
    logits = [(37 * v) % 200 - 120 for v in range(256)]
    top = max(logits) - 3
    exact = log2(sum(2 ** ((v - top - 48) / 16) for v in logits)) + 15  # of the likelihoods in E's units
    for target in (0, 9, 255):
        found = oracle.branch_score(logits, top, target)
        assert abs(found - (256 * logits[target] - 4096 * exact)) < 50


def test_fitness_is_about_the_score_that_members_would_have():
    weights = make_vectors.random_weights(21, 16, 1)
    token = oracle.read_token(weights, oracle.zeros((1, 16)), 66)
    branches = oracle.draw_branches(weights["head.weight"], 5, 9, 16)
    f = oracle.fitness(branches, token, 9)
    fine = [acc << 2 for acc in token.accumulators]
    scores = [oracle.score_256(oracle.branch_logits(fine, moves), 9) for moves in branches.moves]
    assert np.allclose(np.array(f) / 16, np.array(scores) - np.mean(scores), atol=4)
    assert abs(sum(f)) <= 8 and np.std(f) > 100


def test_credit_of_a_fitness_that_is_linear_in_the_directions():
    signs = [1, -1, -1, 1] * 4
    branches = oracle.Branches(signs, 6, list(range(16)), -3, [])
    a = [5, -7, 0, 100, *[1] * 11, -2000]
    f = [row[6] * sum(a_j * s * h for a_j, s, h in zip(a, signs, row, strict=True)) for row in oracle.hadamard(16)]
    # The sum over the rows is 16 a, and the shift 6 + 2 - 11 + 3 = 0.
    assert oracle.end_credit(branches, f) == [16 * a_j for a_j in a]
    branches.m = -1  # a left shift by 2
    assert oracle.end_credit(branches, f) == [oracle.clip(64 * a_j, -32767, 32767) for a_j in a]
    few = oracle.Branches(signs * 4, 6, [0], 0, [])
    # One row of 64: shift 7 + 3 - 11 - 0 - 6 = -7.
    assert oracle.end_credit(few, [3]) == [3 * 128 * s for s in signs * 4]
    # What all branches share is place 6, where they move alike.
    branches.m = -3
    shared = oracle.end_credit(branches, [5] * 16)
    assert shared == [16 * 5 * s * (j == 6) for j, s in enumerate(signs)]


def test_votes_of_the_head_round_up_and_down_in_turn():
    logits = [(29 * v) % 100 - 50 for v in range(256)]
    logits[5], logits[6] = 127, -127
    total = oracle.exponential_sum(logits)
    votes = np.array([oracle.head_votes(logits, 9, n) for n in range(4096)])
    assert not votes[:, [5, 6]].any()
    for v in (0, 9, 100):
        x = oracle.exp2_table()[logits[v] + 128] * 127 * 4096 / total  # the exact X
        taken = 127 * (v == 9) - votes[:, v]
        assert abs(sum(taken) - x) <= 1
        assert set(taken) <= {floor(x / 4096), floor(x / 4096) + 1}


# ---------------------------------------------------------------- credit along the wire


def token_of(layers):
    """A token of 16 units of whose products, o among the inputs, none is at its limit."""
    products = {
        f"layers.{i}.gru.{name}": [126] * 16 for i in range(len(layers)) for name in ("w_f", "u_f", "w_h", "u_h")
    }
    return oracle.Token(None, [], [], {"head.weight": [-126] * 16}, products, layers, None)


NO_STATIONS = oracle.Stations({}, {})


def without_stations(ln_out, tokens, text, ends):
    """The credits of the first unit: gains of ln_out alike, and all units of a token."""
    weights = oracle.zeros_like(oracle.initial_weights(1, 16, len(tokens[0].layers), "egg"))
    weights["ln_out.weight"] = [ln_out] * 16
    credits = oracle.chunk_credit(weights, tokens, text, ends, NO_STATIONS)
    return [{kind: values[0] for kind, values in credit.items()} for credit in credits]


def test_credit_along_the_wire_by_hand():
    """Two layers, two bytes; mean|x| = 32, rho = 512; ln_out 64: 64 * 512 >> 6 = 512.

    All units are alike but for the sign of x, so that the mean takes nothing back.
    """
    lower = [layer_of(h=3, f=29, c=-17, x=7), layer_of(f=-127, c=40, x_h=-127)]
    upper = [layer_of(c=127), layer_of(h=-5, f=1, c=50, d=-127)]
    upper[0].x, upper[1].x = [32, -32] * 8, [-32, 32] * 8
    tokens = [token_of([lower[t], upper[t]]) for t in range(2)]
    first, last = without_stations(64, tokens, [65, 66, 67], [[100] * 16, [-30] * 16])
    # The last byte: the wire has -30 * 512 / 256 = -60, the gain -30 * -256 >> 8 for x = -32.
    assert last["gain"] == 30
    assert last["down.1"] == 0  # its output is clipped
    assert (last["cand.1"], last["gate.1"]) == (-60 * 128, -60 * 55)
    assert last["down.0"] == -60
    # The residual is clipped where the lower state was added.
    assert last["cand.0"] == last["gate.0"] == last["embedding"] == 0
    # The first byte: 200, and of the last byte 128/256 of -60 in the upper layer, nothing in the lower.
    assert first["gain"] == 100
    assert first["down.1"] == 200
    assert first["cand.1"] == 0  # clipped
    assert first["gate.1"] == (200 - 30) * 127
    assert (first["cand.0"], first["gate.0"]) == (200 * 156, 200 * -20)
    assert first["embedding"] == first["down.0"] == 200


def test_the_mean_of_a_norm_takes_back_what_all_places_gain():
    """Where all places are alike, pushed together, and gains are 16, a norm's output hardly moves."""
    x, g = [8] * 8 + [-8] * 8, [16] * 16
    # Of the gains 100 each; 16 of 100 * 16 / 128 = 12.5 make 208, which times rho = 2,048 over 2^11 are 208 again.
    of_gains, before = oracle.norm_credit([100] * 8 + [-100] * 8, g, x)
    assert (of_gains, before) == ([100] * 16, [200 - 208] * 8 + [208 - 200] * 8)
    # One place alone, mean 7, rho 2,340: 100 * 585 / 256 = 229 less 14 * 2,340 / 2^11 = 16; a place at 0 moves no mean.
    _, before = oracle.norm_credit([100] + [0] * 15, g, x[:15] + [0])
    assert before == [229 - 16] + [-16] * 7 + [16] * 7 + [0]


def test_credit_ends_at_outputs_of_the_last_norm_at_their_limits():
    """x = 32, rho = 512; ln_out 64. Places at limits count neither by themselves nor in what the mean takes back."""
    token = token_of([layer_of(x=32)])
    token.inputs["head.weight"] = [127, 126, -127] + [0] * 13
    weights = oracle.zeros_like(oracle.initial_weights(1, 16, 1, "egg"))
    weights["ln_out.weight"] = [64] * 16
    (credit,) = oracle.chunk_credit(weights, [token], [1, 2], [[100, 100, 100] + [0] * 13], NO_STATIONS)
    assert credit["gain"] == [0, 100] + [0] * 14
    # One place alone: 100 * 64 >> 7 = 50, which times 512 over 2^11 are 12.5.
    assert credit["embedding"] == [-13, 200 - 13] + [-13] * 14


def test_credit_of_a_later_byte_ends_at_a_reset():
    tokens = [token_of([layer_of(x=0)]) for _ in range(3)]
    ends = [[0] * 16, [0] * 16, [64] * 16]
    # With a mean held at 1, 64 * 2 = 128 at the last byte, half of it a byte before, and half again.
    for text, expected in (([1, 2, 3, 4], [32, 64, 128]), ([0, 2, 0, 4], [0, 0, 128]), ([1, 0, 3, 0], [0, 64, 128])):
        found = without_stations(2, tokens, text, ends)
        assert [credit["cand.0"] // 128 for credit in found] == expected
        assert [credit["embedding"] for credit in found] == [0, 0, 128]


def test_credit_along_the_wire_is_limited():
    tokens = [token_of([layer_of(f=-127, x=0)]) for _ in range(2)]
    found = without_stations(127, tokens, [1, 2, 3], [[32767] * 16] * 2)
    assert [credit["embedding"] for credit in found] == [2**20] * 2
    layers = [layer_of(f=-126, c=9, x=0) for _ in range(2)]  # e would be 2^21 at the first byte
    tokens = [token_of([layer]) for layer in layers]
    found = without_stations(127, tokens, [1, 2, 3], [[-32767] * 16] * 2)
    assert [credit["gate.0"] for credit in found] == [-9 * 2**20] * 2


def test_shifts_of_the_next_step():
    assert oracle.first_shifts(2) == [5, 6, 11, 12, 5, 11, 12, 5]
    assert oracle.kinds(2) == ["embedding", "gain", "gate.0", "cand.0", "down.0", "gate.1", "cand.1", "down.1"]
    totals = [0, 1, 3999, 4000, 7999, 8000]  # means of 0 to 8, quarters of 0, 0, 0, 1, 1, 2
    assert oracle.next_shifts([5, 6, 7, 8, 9, 10], totals, 1000) == [5, 0, 0, 1, 1, 2]
    # With any station there are three more a layer, after all layers' others.
    assert oracle.first_shifts(2, ("past",)) == [*oracle.first_shifts(2), 3, 5, 6, 3, 5, 6]
    names = oracle.kinds(2, ("past",))
    assert names == [*oracle.kinds(2), "up.0", "ln2.0", "ln1.0", "up.1", "ln2.1", "ln1.1"]
    found = oracle.next_shifts([9] * 14, [16_000] * 14, 1000, names)
    assert {name for name, shift in zip(names, found, strict=True) if shift == 1} == {"up.0", "up.1"}
    assert set(found) == {1, 3}


def test_narrowing_rounds_half_up_and_limits():
    assert [oracle.narrow(a, 2) for a in (-512, -507, -6, -2, 1, 2, 6, 506, 510)] == [
        -127,
        -127,
        -1,
        0,
        0,
        1,
        2,
        127,
        127,
    ]


def test_votes_are_products_of_what_is_pushed_and_what_was_read():
    weights = make_vectors.random_weights(21, 16, 2)
    for n, name in enumerate(("w_f", "u_f", "w_h", "u_h")):  # some of every product are at their limits
        weights[f"layers.1.gru.{name}"] = a_matrix(n, 16, 16, 127)
    text, h = [66, 67], make_vectors.random_states(1, 1, 2, 16)[0]
    shifts = [3, 4, 9, 10, 2, 8, 9, 1]
    result = oracle.egg_votes(weights, [text], [h], 1, 3, 16, shifts)
    (token,) = result.tokens[0]
    credit = oracle.chunk_credit(weights, [token], text, result.ends[0], NO_STATIONS)[0]
    narrowed = {
        kind: np.array([oracle.narrow(a, s) for a in credit[kind]])
        for kind, s in zip(oracle.kinds(2), shifts, strict=True)
    }
    assert result.totals == [sum(map(abs, credit[kind])) for kind in oracle.kinds(2)]
    assert result.score == oracle.score_256(token.logits, 67)
    expected = oracle.zeros_like(weights)
    expected["embedding.weight"][66] = narrowed["embedding"]
    expected["ln_out.weight"] = narrowed["gain"]
    head = oracle.head_votes(token.logits, 67, 3)  # n = T B step
    expected["head.weight"] = np.outer(head, token.inputs["head.weight"])
    for i in range(2):
        for gate, kind in (("f", "gate"), ("h", "cand")):
            v = narrowed[f"{kind}.{i}"]
            for tensor in "wu":
                name = f"layers.{i}.gru.{tensor}_{gate}"
                moved = np.abs(np.array(weights[name]) @ token.inputs[name] // 64) < 127
                assert i == 0 or {*moved} == {False, True}
                expected[name] = np.outer(v * moved, token.inputs[name])
            expected[f"layers.{i}.gru.b_{gate}"] = v
        name = f"layers.{i}.mlp.w_down"
        expected[name] = np.outer(narrowed[f"down.{i}"], token.inputs[name])
    for name, z in result.votes.items():
        assert np.array_equal(z, expected[name]), name
    assert token.inputs["layers.1.gru.u_f"] == h[1]
    still = {name for name, z in result.votes.items() if not np.any(z)}
    assert still == {f"layers.{i}.{name}" for i in range(2) for name in ("ln1.weight", "ln2.weight", "mlp.w_up")}


# ---------------------------------------------------------------- stations


def test_stations_branch_off_with_the_signs_of_their_width():
    weights = make_vectors.random_weights(21, 16, 1)
    stations = oracle.draw_stations(weights, 5, 9, oracle.STATIONS, {})
    assert set(stations.branches) == {name for name in weights if re.search("gru.[wu]|mlp", name)}
    wire = oracle.draw_branches(weights["head.weight"], 5, 9, 16)
    up, down = (stations.branches[f"layers.0.mlp.w_{name}"] for name in ("up", "down"))
    assert (up.signs, up.place, up.rows) == (wire.signs, wire.place, list(range(16)))
    string = oracle.draw_words(5, 8, 1, 9, 129)
    assert down.signs == [2 * (string[j // 32] >> j % 32 & 1) - 1 for j in range(64)]
    assert (down.place, down.rows) == (string[128] % 64, list(range(64)))
    for branches in stations.branches.values():  # an output moves by 4 to 8 on average
        assert 3.5 < np.mean(np.abs(branches.moves)) < 8.5
    zero = oracle.station_branches(oracle.zeros((16, 16)), wire.signs, wire.place)
    assert zero.m == -3 and not np.any(zero.moves)


def a_matrix(seed, rows, columns, scale):
    return np.random.default_rng(seed).integers(-scale, scale + 1, (rows, columns)).tolist()


@pytest.mark.parametrize("scales", [(1,), (40,), (60, 1), (3, 60)], ids=str)
@pytest.mark.parametrize("width", [16, 64])
def test_a_station_finds_what_its_matrices_would_carry_back(width, scales):
    """Where no limit is met, an input's credit is its column of W times the outputs' credit, but for rounding."""
    signs, place = oracle.draw_signs(5, 0, 9, width)
    rng = np.random.default_rng(width)
    stations, readers = oracle.Stations({}, {}), []
    for n, scale in enumerate(scales):
        name, kind, w = f"matrix {n}", f"kind {n}", a_matrix(n, 2 * width, width, scale)
        stations.branches[name] = oracle.station_branches(w, signs, place)
        stations.shifts[kind] = 9 + n
        g = rng.integers(-40, 41, 2 * width).tolist()
        readers.append((w, g, (name, [0] * (2 * width), kind, [g_n << 9 + n for g_n in g])))
    found = stations.credit(width, *[reader for _, _, reader in readers], bits=8)
    expected = [Fraction(0)] * width
    own = [9 + n + stations.branches[name].m for n, name in enumerate(stations.branches)]
    wrong = Fraction(0)  # of the fitness of a branch at the most, in units of 2^max(own)
    for (w, g, (name, _, kind, _)), scale in zip(readers, own, strict=True):
        branches = stations.branches[name]
        assert np.abs(branches.moves).max() < 127
        size = Fraction(2) ** (stations.shifts[kind] - oracle.shift(width) - 8)
        expected = [e + size * oracle.dot(g, column) for e, column in zip(expected, zip(*w, strict=True), strict=True)]
        rounded = Fraction(1, 2) * sum(map(abs, g)) if branches.m > 0 else 0
        wrong += rounded / 2 ** (max(own) - scale) + (Fraction(1, 2) if scale < max(own) else 0)
    # A sum over all branches has `width` such errors, and is rounded once more; one branch is worth this much of it:
    worth = Fraction(2) ** (max(own) - oracle.shift(width) - 8) / width
    bound = Fraction(1, 2) + width * wrong * worth
    assert found[place] == 0
    errors = [abs(f - e) for j, (f, e) in enumerate(zip(found, expected, strict=True)) if j != place]
    assert max(errors) <= bound
    assert max(errors) < max(map(abs, expected)) / 4


def test_outputs_at_their_limits_move_inwards_alone():
    signs, place = oracle.draw_signs(5, 0, 9, 16)
    branches = oracle.station_branches(a_matrix(1, 16, 16, 40), signs, place)
    moves = np.array(branches.moves)
    at_top, at_bottom = (oracle.station_fitness(branches, [v] * 16, [2] * 16) for v in (127, -127))
    assert at_top == (2 * np.minimum(moves, 0)).sum(axis=1).tolist()
    assert at_bottom == (2 * np.maximum(moves, -1)).sum(axis=1).tolist()  # to -128
    fits = []
    for moves in ([127] * 64, [-127] * 64, [127] * 4):
        branches.moves = [moves]
        fits += oracle.station_fitness(branches, [0] * len(moves), [127] * len(moves))
    assert fits == [2**18, -(2**18), 4 * 127**2]


def station_that_finds(ch):
    """Stations of which one is on, state, and finds this credit at every place."""
    stations = oracle.Stations({"layers.0.gru.u_f": None}, {})
    stations.credit = lambda width, *readers, bits=0: [ch if readers[0][0].endswith("u_f") else 0] * width
    return stations


def test_a_byte_leaves_all_its_credit_to_the_byte_before():
    """Two bytes, x 0, so that a gain of 1 gives the wire c; the first byte's f is 1, its cand 128 e."""
    weights = oracle.zeros_like(oracle.initial_weights(1, 16, 1, "egg"))
    first, last = layer_of(x=0), layer_of(x=0)
    last.f = [-127] * 12 + [1] * 4  # 256/256 and 128/256 of e are left
    for ch, ln_out, text, e, expected in (
        (0, 1, [1, 2, 3], 160, [160] * 12 + [80] * 4),
        (100, 1, [1, 2, 3], 160, [260] * 12 + [180] * 4),
        (100, 1, [1, 0, 3], 160, [0] * 16),
        (100, 1, [1, 2, 3], 0, [100] * 16),
        (100, 127, [1, 2, 3], 32767, [2**20] * 12 + [2**19 + 100] * 4),
    ):
        weights["ln_out.weight"] = [ln_out] * 16
        tokens = [token_of([first]), token_of([last])]
        found = oracle.chunk_credit(weights, tokens, text, [[0] * 16, [e] * 16], station_that_finds(ch))
        assert [a // 128 for a in found[0]["cand.0"]] == expected


def test_credit_passes_no_product_of_the_gated_unit_that_is_at_its_limit():
    """Each of the four by itself; f and c, their credit and the other three are as before."""
    weights = make_vectors.random_weights(21, 16, 1)
    shifts = dict.fromkeys(oracle.kinds(1, oracle.STATIONS), 0)
    stations = oracle.draw_stations(weights, 5, 9, oracle.STATIONS, shifts)
    seen = {}

    def credit(width, *readers, bits=0):
        seen.update({name: outputs for name, _, _, outputs in readers})
        return [0] * width

    stations.credit = credit
    token = token_of([layer_of(c=5, h=-40)])
    for limited in ("w_f", "u_f", "w_h", "u_h"):
        token.products[f"layers.0.gru.{limited}"] = [0, 127, -127] + [126] * 13
        (found,) = oracle.chunk_credit(weights, [token], [1, 2], [[100] * 16], stations)
        pushed = oracle.pushes(found, [], token)
        for gate, kind in (("f", "gate.0"), ("h", "cand.0")):
            assert all(found[kind][:3])
            assert pushed[f"layers.0.gru.b_{gate}"] == found[kind]
            for name in (f"w_{gate}", f"u_{gate}"):
                expected = found[kind].copy()
                if name == limited:
                    expected[1:3] = [0, 0]
                assert seen[f"layers.0.gru.{name}"] == pushed[f"layers.0.gru.{name}"] == expected
        token.products[f"layers.0.gru.{limited}"] = [126] * 16


def start_of(name, d, layers):
    """The weights of a step file, and what oracle.egg_votes takes besides, for its first step."""
    with np.load(make_vectors.FOLDER / f"{name}.npz") as file:
        master = Shape(d, layers).views(file["master"])
        weights = {tensor: ((view + 2**15) >> 16).tolist() for tensor, view in master.items()}
        return weights, (
            file["tokens"][0].tolist(),
            file["states"][0].tolist(),
            int(file["seed"]),
            int(file["step"]),
            int(file["branches"]),
            file["shifts"][0].tolist(),
        )


def test_every_limit_is_met_in_the_vectors(monkeypatch):
    weights, (_, _, *drawn, _) = start_of("step_branches_d16_l1", 16, 1)
    moves = oracle.draw_branches(weights["head.weight"], *drawn).moves
    assert (np.min(moves), np.max(moves)) == (-12288, 12288)
    assert np.median(np.abs(moves)) < 1024

    for name, d, layers, limit in (
        ("step_branches_d64_l1_few", 64, 1, "CREDIT_LIMIT"),
        ("step_branches_saturated", 16, 2, "WIRE_LIMIT"),
    ):
        weights, arguments = start_of(name, d, layers)
        usual = oracle.egg_votes(weights, *arguments)
        with monkeypatch.context() as patch:
            patch.setattr(oracle, limit, 2**40)
            unlimited = oracle.egg_votes(weights, *arguments)
        assert unlimited.totals != usual.totals, limit

    tokens = [token for tokens in usual.tokens for token in tokens]
    for name in ("f", "c", "d", "x_h", "x"):
        limited = [abs(v) == 127 for token in tokens for layer in token.layers for v in getattr(layer, name)]
        assert any(limited) and not all(limited), name
    sums = [acc << 2 for token in tokens for acc in token.accumulators]
    assert min(sums) < -32512 and max(sums) > 32767


# ---------------------------------------------------------------- update and streams


def test_update_of_a_row_by_hand():
    # The mean square of 3 and -4 is 12.5, 200 with its four fractional bits; the first step takes all of it.
    moved, square = oracle.update_row([0, 0], 0, [3, -4], 0, 65536)
    assert square == 200  # isqrt is 14, with two fractional bits 3.5
    factor = (65536 << 16) // 14
    assert moved == [(3 * factor + 2**13) >> 14, (-4 * factor + 2**13) >> 14]
    # A step of 1 at the root mean square: 3 / 3.5 and -4 / 3.5 int8 steps.
    assert [round(m / 65536, 3) for m in moved] == [0.857, -1.143]
    assert oracle.update_row([0, 0], 200, [0, 0], 1, 65536) == ([0, 0], 100)
    assert oracle.update_row([0, 0], 200, [0, 0], 62, 65536)[1] == 200 - 4  # -200 // 63
    for step, less in ((126, 202), (127, 200), (2**31, 200)):  # -25600 // 127, then // 128
        assert oracle.update_row([0, 0], 25600, [0, 0], step, 65536)[1] == 25600 - less
    assert oracle.update_row([7, 7], 0, [0, 0], 0, 65536) == ([7, 7], 0)


def test_update_limits():
    moved, square = oracle.update_row([0, 5, 0], 0, [2**30, 0, -(2**31)], 0, 2**24)
    assert moved == [127 * 2**16, 5, -127 * 2**16]
    assert square == (2 * 2**46 << 4) // 3
    # The votes that move a weight are limited as well as those that are squared.
    limited = oracle.update_row([0, 0, 0], 0, [2**23, 0, -(2**23)], 0, 65536)[0]
    assert oracle.update_row([0, 0, 0], 0, [2**30, 0, -(2**31)], 0, 65536)[0] == limited
    assert oracle.from_master({"w": [127 * 2**16, -127 * 2**16]}) == {"w": [127, -127]}


def test_rows_of_a_model():
    weights = oracle.initial_weights(1, 16, 1, "egg")
    master, squares = oracle.to_master(weights), oracle.zero_squares(weights)
    z = oracle.zeros_like(weights)
    z["head.weight"][3][0] = 10
    z["ln_out.weight"] = [1] * 16
    new_master, new_squares = oracle.update(master, squares, z, 0, 65536)
    assert [len(squares[name]) for name in ("head.weight", "ln_out.weight", "layers.0.mlp.w_down")] == [256, 1, 16]
    assert new_squares["head.weight"] == [100 if row == 3 else 0 for row in range(256)]
    assert new_squares["ln_out.weight"] == [16]
    assert new_master["ln_out.weight"] == [65 << 16] * 16
    assert new_master["head.weight"][3][0] == 4 << 16  # 10 over a root of 10 / 4
    assert new_master["embedding.weight"] == master["embedding.weight"]


def test_master_rounds_half_up():
    assert oracle.from_master({"x": [-32769, -32768, 32767, 32768]}) == {"x": [-1, 0, 0, 1]}


def test_every_stream_has_its_turn_once_a_round():
    text = bytes(range(256)) * 3  # 768 bytes: 12 streams for 2 or 3 groups
    assert oracle.stream_count(len(text), 3) == 12
    for q in range(2):
        steps = [oracle.egg_chunks(text, 4, 4 * q + k, 3, 5) for k in range(4)]
        streams = [s for chosen, _ in steps for s in chosen]
        assert sorted(streams) == list(range(12))
        for chosen, chunks in steps:
            assert [chunk[0] for chunk in chunks] == [(64 * s + 5 * q) % 256 for s in chosen]
    assert oracle.stream_order(4, 12, 0) != oracle.stream_order(4, 12, 1)


def test_stream_count_limits():
    assert oracle.stream_count(10, 3) == 3
    assert oracle.stream_count(10**9, 3) == 4095


def test_text_wraps_round():
    assert oracle.wrapped(b"abc", 2, 5) == list(b"cabca")
    assert bytes(oracle.paper_chunk(b"abcdefgh", 3, 1, 2, 2)) == b"cde"
    read = [bytes(oracle.paper_chunk(b"abcdefgh", 1, pair, 6, 2, group_size=6)) for pair in range(6)]
    assert read == [b"cde"] * 3 + [b"gha"] * 3


def test_egg_lowers_the_cost_of_a_simple_text():
    run = oracle.EggRun(b"ab" * 400, 3, 16, 1, 4, 8)
    costs = [-oracle.egg_step(run, 30_000).score / (256 * 4 * 8) for _ in range(10)]
    assert costs[0] == 8
    assert costs[-1] < 4


def test_paper_keeps_a_state_for_every_member():
    before = oracle.initial_weights(3, 16, 1, "paper")
    run = oracle.PaperRun(before, b"the egg came first, " * 20, 3, 3, 4, oracle.PaperSettings(3))
    result = oracle.paper_step(run)
    assert len({str(h) for h in run.states}) == 6
    assert any(result.fitness)
    # In step 0 every weight with a vote moves by one.
    moved = np.array(run.weights["head.weight"]) - np.array(before["head.weight"])
    assert np.array_equal(moved, np.sign(result.votes["head.weight"]))


def test_fitness_of_paper():
    scores = [-10, -20, -30, -30, -45, -40, -7, -207]  # d = 10, 0, -5, 200, their mean square 10,031
    assert oracle.paper_fitness(scores, "sign") == ([1, 0, -1, 1], 2)
    assert oracle.paper_fitness(scores, "raw") == ([2, 0, -1, 32], 32)  # 1.6, 0, 0.8, 32
    # Twice the mean ranks are 12, 10, 7, 7, 2, 4, 14, 0 of 14; in steps of 127 / 7, rounded down, less 127.
    assert oracle.paper_fitness(scores, "rank") == ([18, 0, -18, 127], floor(sqrt(18**2 + 18**2 + 127**2)))
    assert oracle.paper_fitness([5] * 6, "raw") == ([0] * 3, 0)
    assert oracle.paper_fitness([9, 0, *[0] * 198], "raw")[0][0] == 127  # 144, limited


@pytest.mark.parametrize("use_clt", [True, False])
@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("noise", ["sign", "gaussian"])
def test_about_a_share_of_alpha_moves(noise, rank, use_clt):
    """Of the weights of 24 pairs whose fitness is chance; fewer of the vectors, which have heavier tails."""
    settings = oracle.PaperSettings(4, rank, noise, use_clt=use_clt, alpha=0.25)
    weights = oracle.zeros_like(oracle.initial_weights(1, 16, 1, "egg"))
    chance = [word % 255 - 127 for word in oracle.draw_words(1, 0, 0, 0, 48)]
    fitness, size = oracle.paper_fitness(chance, "rank")
    z = oracle.zeros_like(weights)
    for pair, f in enumerate(fitness):
        oracle.add_paper_vote(z, oracle.draw_directions(1, pair, 0, 16, 1, settings), f, settings)
    moved = oracle.paper_update(weights, z, 0, size, settings)
    share = np.mean(np.concatenate([np.ravel(w) for w in moved.values()]) != 0)
    assert 0.21 < share < 0.29
    share = np.mean(np.concatenate([w for w in moved.values() if np.ndim(w) == 1]) != 0)
    assert 0.1 < share < 0.4


def test_signs_vote_where_use_clt_is_false():
    direction = {"head.weight": ([5, -7], [0, 3]), "ln_out.weight": [-21, 0]}
    z = {"head.weight": oracle.zeros((2, 2)), "ln_out.weight": [0, 0]}
    oracle.add_paper_vote(z, [direction] * 4, 3, oracle.PaperSettings(use_clt=False))
    assert z == {"head.weight": [[0, 12], [0, -12]], "ln_out.weight": [-6, 0]}
    oracle.add_paper_vote(z, [direction] * 4, -1)
    assert z == {"head.weight": [[0, -48], [0, 72]], "ln_out.weight": [36, 0]}


def test_steps_of_paper():
    """Eight members in two groups, which share two perturbations of rank 4 for two steps."""
    settings = oracle.PaperSettings(3, 4, "gaussian", 4, 2, 4, "raw", alpha=0.5)
    weights = oracle.initial_weights(3, 16, 1, "paper")
    text = b"the egg came first, " * 20
    scores, after = oracle.paper_steps(weights, text, 2, 3, 4, 4, settings)
    assert [len(step) for step in scores] == [8, 8]
    assert scores[0][:2] != scores[0][2:4] and scores[0][:2] == scores[0][4:6]  # the text is the same after 200 bytes
    assert 0.2 < np.mean(np.not_equal(weights["head.weight"], after["head.weight"])) < 0.8
    plain, _ = oracle.paper_steps(weights, text, 1, 3, 4, 4)
    assert plain[0] != scores[0]


@pytest.mark.parametrize("name", make_vectors.VECTORS)
def test_committed_vectors_are_what_the_oracle_computes(name):
    computed = make_vectors.VECTORS[name]()
    with np.load(make_vectors.FOLDER / f"{name}.npz") as committed:
        assert set(committed.files) == set(computed)
        for key in committed.files:
            assert committed[key].dtype == np.asarray(computed[key]).dtype
            assert np.array_equal(committed[key], computed[key]), key


def test_no_vector_file_is_without_its_function():
    assert {path.stem for path in make_vectors.FOLDER.glob("*.npz")} == set(make_vectors.VECTORS)


# ---------------------------------------------------------------- recipe egg of the backends


@pytest.fixture(scope="module", params=[("numpy", None), ("numba", 1), ("numba", 2)], ids=str)
def backend(request):
    name, threads = request.param
    if name == "numba":
        pytest.importorskip("numba")
    return get_backend(name, threads=threads)


def test_the_branch_table_is_the_oracles():
    assert branch_table().tolist() == oracle.branch_exponentials()


def flat(shape, tensors, dtype):
    return shape.flatten({name: np.array(w) for name, w in tensors.items()}, dtype)


def flat_squares(squares):
    return np.array([square for rows in squares.values() for square in rows], np.int64)


@pytest.mark.parametrize("name", [name for name in make_vectors.VECTORS if "branches" in name])
def test_steps_of_a_backend_are_the_vectors(backend, name):
    with np.load(make_vectors.FOLDER / f"{name}.npz") as loaded:
        file = dict(loaded)
    shape = Shape(int(file["hidden_size"]), int(file["layers"]))
    seed, branches, lr = int(file["seed"]), int(file["branches"]), int(file["lr"])
    master, squares = file["master"].copy(), file["squares"].copy()
    weights = first = ((master + 2**15) >> 16).astype(np.int8)
    for n, tokens in enumerate(file["tokens"]):
        step = int(file["step"]) + n
        cast = backend.cast_votes(
            backend.prepare(shape, weights),
            tokens,
            file["states"][n],
            Draw(seed, step, branches, file["shifts"][n]),
            first_row=len(tokens) * step,
        )
        assert cast.score == file["scores"][n]
        np.testing.assert_array_equal(cast.totals, file["totals"][n])
        np.testing.assert_array_equal(cast.states, file["states"][n + 1])
        if n == 0:
            assert cast.votes.dtype == np.int32
            for tensor, votes in shape.views(cast.votes).items():
                np.testing.assert_array_equal(votes, shape.views(file["votes"])[tensor], tensor)
        weights = backend.update_rows(shape, master, squares, cast.votes, step, lr)
    np.testing.assert_array_equal(squares, file["squares_after"])
    np.testing.assert_array_equal(master - file["master"], file["master_change"])
    np.testing.assert_array_equal(weights - first, file["weights_change"])


ALL_STATIONS = tuple(oracle.STATIONS)
CASES = [  # hidden size, layers, branches, streams, bytes, scale of the weights, stations
    (16, 2, 16, 3, 5, 60, ()),
    (16, 1, 16, 2, 1, 400, ()),
    (64, 1, 32, 2, 3, 300, ()),  # its branches are shifted to the right
    (64, 1, 64, 1, 2, 16, ()),
    (16, 2, 16, 2, 5, 24, ("gates",)),
    (16, 2, 16, 2, 5, 24, ("state",)),
    (16, 2, 16, 2, 5, 24, ("past",)),
    (16, 2, 16, 2, 5, 24, ("middle",)),
    (16, 2, 16, 2, 5, 24, ("middle", "mlp")),
    (16, 2, 16, 3, 5, 24, ALL_STATIONS),
    (16, 1, 16, 2, 5, 400, ALL_STATIONS),
    (64, 1, 32, 2, 3, 20, ALL_STATIONS),
    (64, 2, 16, 1, 4, 12, ALL_STATIONS),
]


def random_start(rng, shape, streams, length, scale):
    """Weights of this scale, some at +-127, and what streams read, with NULs, and their states."""
    flat_weights = np.clip(np.round(rng.normal(size=shape.parameters) * scale), -127, 127).astype(np.int8)
    flat_weights[::29] = rng.choice([-127, 127], len(flat_weights[::29]))
    tokens = rng.integers(0, 256, (streams, length + 1)).astype(np.uint8)
    tokens[0, length // 2] = 0
    states = rng.integers(-127, 128, (streams, shape.num_layers, shape.hidden_size)).astype(np.int8)
    return flat_weights, tokens, states


@pytest.mark.parametrize("case", CASES, ids=str)
def test_votes_of_a_backend_are_the_oracles(backend, case):
    d, layers, branches, streams, length, scale, stations = case
    shape, rng = Shape(d, layers), np.random.default_rng(scale)
    flat_weights, tokens, states = random_start(rng, shape, streams, length, scale)
    weights = {name: view.tolist() for name, view in shape.views(flat_weights).items()}
    shifts = np.array(oracle.first_shifts(layers, stations), np.int64)
    shifts += rng.integers(0, 4, shape.vote_kinds(bool(stations)))
    step = 1_234_567
    drawn = (tokens.tolist(), states.tolist(), 77, step, branches, shifts.tolist())
    expected = oracle.egg_votes(weights, *drawn, stations=stations)
    still = {
        name.split(".")[0]
        for name, total in zip(oracle.kinds(layers, stations), expected.totals, strict=True)
        if total == 0
    }
    found = {"up": "middle", "ln2": "mlp", "ln1": "gates"}
    assert still == {kind for kind, station in found.items() if stations and station not in stations}
    model, draw = backend.prepare(shape, flat_weights), Draw(77, step, branches, shifts, stations)
    first = streams * step
    cast = backend.cast_votes(model, tokens, states, draw, first_row=first)
    assert cast.score == expected.score
    assert cast.totals.tolist() == expected.totals
    assert cast.states.tolist() == expected.states
    votes = cast.votes.copy()  # a backend may keep the array for the next
    for name, z in shape.views(votes).items():
        np.testing.assert_array_equal(z, expected.votes[name], name)
    votes_left, totals_left, score_left = votes, cast.totals, cast.score
    for i in range(streams):  # what ranks do
        part = backend.cast_votes(model, tokens[i : i + 1], states[i : i + 1], draw, first_row=first + i)
        votes_left = votes_left - part.votes
        totals_left = totals_left - part.totals
        score_left -= part.score
    assert not votes_left.any() and not totals_left.any() and score_left == 0


@pytest.mark.parametrize(
    ("d", "layers", "stations"), [(16, 2, ALL_STATIONS), (64, 1, ALL_STATIONS), (16, 1, ("past",))]
)
def test_steps_of_a_backend_with_stations_are_the_oracles(backend, d, layers, stations):
    """Three steps from random weights: measured shifts, and what moved."""
    shape, text = Shape(d, layers), b"the egg came first.\0" * 10
    flat_weights, _, _ = random_start(np.random.default_rng(d), shape, 1, 1, 20)
    run = oracle.EggRun(text, 9, d, layers, 2, 4, stations=stations)
    run.evolve({name: view.tolist() for name, view in shape.views(flat_weights).items()})
    master, squares = flat(shape, run.master, np.int32), flat_squares(run.squares)
    for step in range(3):
        streams, chunks = oracle.egg_chunks(run.text, 9, step, 2, 4)
        cast = backend.cast_votes(
            backend.prepare(shape, flat_weights),
            np.array(chunks, np.uint8),
            np.array([run.states[s] for s in streams], np.int8),
            Draw(9, step, d, np.array(run.shifts), stations),
            first_row=2 * step,
        )
        result = oracle.egg_step(run, 65_536)
        assert cast.totals.tolist() == result.totals
        assert cast.states.tolist() == result.states
        for name, z in shape.views(cast.votes).items():
            np.testing.assert_array_equal(z, result.votes[name], name)
        flat_weights = backend.update_rows(shape, master, squares, cast.votes, step, 65_536)
        np.testing.assert_array_equal(master, flat(shape, run.master, np.int32))
    assert run.shifts != oracle.first_shifts(layers, stations)


def test_rows_of_a_backend_move_as_the_oracles(backend):
    """Votes at the limits of int32, a weight at its limit, and a mean of every length."""
    shape, rng = Shape(16, 1), np.random.default_rng(3)
    master = rng.integers(-127 << 16, (127 << 16) + 1, shape.parameters).astype(np.int32)
    squares = rng.integers(0, 2**40, shape.rows)
    squares[::3] = 0
    for step, lr, bits in ((0, 65_536, 31), (1, 30_000, 10), (70, 1, 20), (2**32 - 1, 400_000, 4)):
        votes = rng.integers(-(2**bits), 2**bits, shape.parameters).astype(np.int32)
        votes[:: 2 + step % 5] = 0
        before = {name: view.tolist() for name, view in shape.views(master).items()}
        z = {name: view.tolist() for name, view in shape.views(votes).items()}
        left = iter(squares.tolist())
        rows = {name: [next(left) for _ in r] for name, r in oracle.zero_squares(before).items()}
        moved, rows = oracle.update(before, rows, z, step, lr)
        weights = backend.update_rows(shape, master, squares, votes, step, lr)
        np.testing.assert_array_equal(squares, flat_squares(rows))
        np.testing.assert_array_equal(master, flat(shape, moved, np.int32))
        np.testing.assert_array_equal(weights, flat(shape, oracle.from_master(moved), np.int8))


class ArrayText:
    """The bytes that a run reads."""

    def __init__(self, text):
        self.text, self.size = np.frombuffer(text, np.uint8), len(text)

    def read(self, starts, length):
        return self.text[(starts[:, None] + np.arange(length)) % self.size]


def test_a_run_is_the_oracles(backend):
    """Two rounds of three steps: the order of the streams, their states, the shifts, masters and squares."""
    from egg.config import Config, EvolutionConfig, ModelConfig
    from egg.evolution.recipes import evolution

    text = b"the egg came first.\0" * 20  # 400 bytes: 6 streams for 2 readers
    settings = EvolutionConfig(streams=2, seq_len=5, seed=2**63 + 5, schedule_tokens=80)
    run = evolution(Config(model=ModelConfig(16, 2), evolution=settings), backend, ArrayText(text))
    expected = oracle.EggRun(text, 2**63 + 5, 16, 2, 2, 5)
    assert len(expected.states) == 6
    for step in range(7):
        report = run.step()
        result = oracle.egg_step(expected, round(report.step_size * 65536))
        assert report.tokens == 10 * (step + 1)
        assert report.train_integer_bits_per_byte == pytest.approx(-result.score / 2560)
        assert run.states.tolist() == expected.states
        assert run.shifts.tolist() == expected.shifts
        np.testing.assert_array_equal(run.squares, flat_squares(expected.squares))
        np.testing.assert_array_equal(run.master, flat(run.shape, expected.master, np.int32))
    np.testing.assert_array_equal(run.weights, flat(run.shape, oracle.from_master(expected.master), np.int8))


PAPERS = [
    {},
    {"rank": 4, "fitness": "rank", "group_size": 4},
    {"rank": 16, "sigma_shift": 2},
    {"noise": "gaussian", "rank": 4, "fitness": "raw", "sigma_shift": 1},
    {"noise": "gaussian", "rank": 16, "use_clt": False, "noise_reuse": 2, "num_perturbations": 4, "alpha": 0.5},
    {"noise": "gaussian", "fitness": "raw", "noise_reuse": 0, "num_perturbations": 2, "alpha": 3.3, "alpha_decay": 7},
]


@pytest.mark.parametrize("options", PAPERS)
def test_steps_of_recipe_paper_are_the_oracles(options):
    text = np.random.default_rng(0).integers(0, 256, 90).astype(np.uint8)
    config = Config(
        model=ModelConfig(16, 1), evolution=EvolutionConfig("paper", population_size=8, seq_len=4, seed=3, **options)
    )
    training = evolution(config, get_backend("numpy"), CorpusText(text))
    initial = oracle.initial_weights(3, 16, 1, "paper")
    settings = oracle.PaperSettings(**options)
    scores, weights = oracle.paper_steps(initial, bytes(text), 3, 3, 4, 4, settings)
    steps = [training.step().train_integer_bits_per_byte for _ in range(3)]
    assert [round(-bits * 16 * 8 * 4) for bits in steps] == [sum(members) for members in scores]
    for name, view in training.shape.views(training.weights).items():
        assert view.tolist() == weights[name]
