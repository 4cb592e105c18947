"""Tests of the oracle itself: against published values, high-precision decimals and definitions."""

import statistics
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_DOWN, Decimal, localcontext
from fractions import Fraction
from math import erf, floor, sqrt

import make_vectors
import numpy as np
import oracle
import pytest


@pytest.fixture(autouse=True)
def precise_decimals():
    with localcontext() as context:
        context.prec = 50
        yield


def words(text):
    return [int(word, 16) for word in text.split()]


# The three "philox4x32 10" lines of Random123's kat_vectors: counter, key, output.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
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
    expected = [
        int((16 * Decimal(2) ** (Decimal(j) / 16)).to_integral_value(ROUND_FLOOR))
        for j in range(256)
    ]
    assert oracle.exp2_table() == expected


@pytest.mark.parametrize("n", [16, 256])
def test_log2_thresholds(n):
    expected = [
        int((Decimal(2) ** (31 + Decimal(j) / n)).to_integral_value(ROUND_CEILING))
        for j in range(1, n)
    ]
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


def test_initial_weights():
    egg = oracle.initial_weights(5, 16, 1, "egg")
    paper = oracle.initial_weights(5, 16, 1, "paper")
    assert {row[0] for row in egg["embedding.weight"]} == {64}
    assert [row[1:] for row in egg["embedding.weight"]] == [
        row[1:] for row in paper["embedding.weight"]
    ]
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
    assert [egg[name] for name in gains] == [[48] * 16, [24] * 16, [48] * 16]
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


def test_gates_share_their_signs():
    drawn = oracle.draw_direction(5, 3, 9, 16, 2)
    shared = oracle.share_gate_signs(drawn)
    for i in range(2):
        for gate in "fh":
            w, u, b = (f"layers.{i}.gru.{kind}_{gate}" for kind in "wub")
            assert shared[u] == (drawn[w][0], drawn[u][1])
            assert shared[b] == [a * drawn[b][0] for a in drawn[w][0]]
            assert drawn[u][0] != drawn[w][0]


@pytest.fixture
def small_model():
    return make_vectors.random_weights(21, 16, 1)


def plain_matrix(weights, name, perturbation):
    """Weights that move by 2^(4 - sigma_shift) a b^T, for the head an exact equivalent."""
    a, b = perturbation.direction[name]
    step = perturbation.r * 2 ** (4 - perturbation.sigma_shift)
    return [
        [w + step * a_n * b_k for w, b_k in zip(row, b, strict=True)]
        for row, a_n in zip(weights[name], a, strict=True)
    ]


@pytest.mark.parametrize("r", [1, -1])
def test_sign_perturbation_moves_the_weights(small_model, r):
    """A low-rank term equals the same step on every weight, while no shift loses bits."""
    direction = oracle.draw_direction(1, 2, 3, 16, 1)
    perturbation = oracle.Perturbation(direction, r, 3)
    moved = {}
    for name, w in small_model.items():
        if isinstance(w[0], list):
            moved[name] = plain_matrix(small_model, name, perturbation)
        else:
            moved[name] = [g + 2 * r * e for g, e in zip(w, direction[name], strict=True)]
    h = make_vectors.random_states(1, 1, 1, 16)[0]
    perturbed = oracle.read_token(small_model, h, 66, perturbation)
    expected = oracle.read_token(moved, h, 66)
    assert (perturbed.logits, perturbed.h) == (expected.logits, expected.h)
    assert perturbed.logits != oracle.read_token(small_model, h, 66).logits
    moved["head.weight"] = small_model["head.weight"]
    expected = oracle.read_token(moved, h, 66)
    assert perturbed.logits_without_head_term == expected.logits


def test_input_perturbation_moves_outputs_by_whole_steps(small_model):
    direction = oracle.share_gate_signs(oracle.draw_direction(1, 2, 3, 16, 1))
    a = direction["layers.0.gru.w_h"][0]
    x = [3] * 16
    perturbation = oracle.Perturbation(direction, -1, 3, "input")

    def moved_by(name):
        plain = oracle.matmul(x, small_model[name])
        term = perturbation.term(name, x)
        return [
            p - q for p, q in zip(oracle.matmul(x, small_model[name], term), plain, strict=True)
        ]

    assert moved_by("layers.0.gru.w_h") == [-4 * a_n for a_n in a]
    assert moved_by("layers.0.gru.u_h") == [0] * 16
    assert moved_by("head.weight") == [-2 * a_n for a_n in direction["head.weight"][0]]
    bias = small_model["layers.0.gru.b_h"]
    assert perturbation.vector("layers.0.gru.b_h", bias) == bias


def test_gain_of_small_perturbations_rounds_down():
    assert [oracle.Perturbation({}, 1, 6).gain(v) for v in (-5, -1, 3, 8)] == [-2, -1, 0, 2]
    assert oracle.Perturbation({}, 1, 6).amount() == 1
    assert oracle.Perturbation({}, 1, 1).amount() == 8


def test_a_zero_byte_forgets_the_state(small_model):
    h = make_vectors.random_states(1, 1, 1, 16)[0]
    fresh = oracle.read_token(small_model, oracle.zeros((1, 16)), 0)
    assert oracle.read_token(small_model, h, 0) == fresh
    assert (
        oracle.read_token(small_model, h, 1).h
        != oracle.read_token(small_model, oracle.zeros((1, 16)), 1).h
    )


def test_reward_to_go_is_cut_before_a_reset():
    assert oracle.reward_to_go([256, 256, 256], [1, 2, 3, 4]) == [256 + 304, 256 + 179, 256]
    assert oracle.reward_to_go([256, 256, 256], [0, 2, 0, 4]) == [256 + 179, 256, 256]


def test_hat():
    assert [oracle.hat(f, 16) for f in (1, -1, 64, 65, -64, -65)] == [2, -2, 128, 128, -128, -128]
    assert oracle.hat(1, 64) == 1  # a half goes up
    assert oracle.hat(-1, 64) == 0


def test_credit_of_the_last_layer_is_its_own_token_only():
    credit = oracle.Credit("F", "d", "e")
    by_name = {name: credit.of(name, 2) for name, _ in oracle.tensors(16, 2)}
    assert [name for name, used in by_name.items() if used == "d"] == [
        "layers.1.ln2.weight",
        "layers.1.mlp.w_up",
        "layers.1.mlp.w_down",
        "ln_out.weight",
    ]
    assert [name for name, used in by_name.items() if used == "e"] == ["head.weight"]


def arrived_at_candidate(weights, life, h):
    """w of w_h and u_h at the first token, with f and c from the matrices' inputs."""
    inputs = life.tokens[0].inputs
    moved = oracle.Perturbation(life.direction, life.r[0], 3)

    def preactivation(gate):
        w, u, b = (f"layers.0.gru.{kind}_{gate}" for kind in "wub")
        products = [
            oracle.matmul(inputs[name], weights[name], moved.term(name, inputs[name]))
            for name in (w, u)
        ]
        return np.clip(np.sum([*products, moved.vector(b, weights[b])], axis=0), -127, 127)

    f, c = preactivation("f"), preactivation("h")
    assert inputs["layers.0.gru.u_f"] == h[0]
    return np.where(abs(c) < 127, (f + 127) // 2, 0)


def test_how_much_of_a_push_arrived_by_hand():
    limits = [-127, -126, 0, 126, 127]
    layer = oracle.Layer(
        h=[9, 9, -7, 126, 9],
        f=limits,
        c=[127, 10, -17, -126, -127],
        y=limits,
        d=[-127, 3, 3, 127, 3],
        x=[3, 127, 126, 3, -127],
    )
    # 127 - 9 = 118 and 136, but those gates are shut tight and wide open; -126 - 126 is limited.
    assert oracle.arrived(layer, "w_f") == [0, 1, 10, 127, 0]
    # (f + 127) / 2 rounds down; the first and last candidate are clipped.
    assert oracle.arrived(layer, "w_h") == [0, 0, 63, 126, 0]
    assert oracle.arrived(layer, "w_up") == [0, 127, 127, 127, 0]
    # Of the outputs two are clipped, and of the residuals two others.
    assert oracle.arrived(layer, "w_down") == [0, 0, 127, 0, 0]
    layer.f, layer.c = [-127, -125, 1, 125, 127], [0, 126, -126, 5, 6]
    assert oracle.arrived(layer, "w_h") == [0, 1, 64, 126, 127]


def test_votes_are_weighted_after_they_are_clipped():
    # 9,000 and -9,000 become 8,191 and -8,191, a quarter of which is 2,047.75 and -2,047.75.
    signs, shift = [[1, -1, 1, 1, -1]], 10
    assert oracle.vote_row([9000], signs, shift) == [8191, -8191, 8191, 8191, -8191]
    weighted = oracle.vote_row([9000], signs, shift, [32, 32, 0, 127, 64])
    assert weighted == [2048, -2048, 0, 8127, -4095]  # a half goes up
    assert oracle.vote_row([1], signs, shift, [64, 64, 63, 127, 65]) == [1, 0, 0, 1, -1]


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
    (layer,) = oracle.read_token(weights, [[40] * 16], 65).layers
    # h moves to 40 + (128 * -64 >> 8) = 8, the residual to 18, then to 18 + 127, clipped.
    assert layer == oracle.Layer(
        *(
            [v] * n
            for v, n in zip((40, 1, -24, 39, 127, 127), (16, 16, 16, 64, 16, 16), strict=True)
        )
    )
    (layer,) = oracle.read_token(weights, [[40] * 16], 0).layers
    # From 0 the state moves to 128 * -24 >> 8 = -12, the residual to -2, normalised to -20.
    assert (layer.h, layer.y) == ([0] * 16, [-40] * 64)  # -2,540 >> 6, rounded down


def test_votes_of_one_token_by_hand(small_model):
    """The head, a gate and the embedding, from the definitions in matrix form."""
    text, h = [65, 66], make_vectors.random_states(1, 1, 1, 16)[0]
    lives = [oracle.live(small_model, h, text, 1, i, 3, 3, "sign") for i in range(3)]
    credits = [oracle.Credit([c], [-c], [2 * c]) for c in (50, -31, 7)]
    z = oracle.zeros_like(small_model)
    oracle.add_group_votes(z, lives, credits, text, 3, "sign")
    inputs = [{k: np.array(x) for k, x in life.tokens[0].inputs.items()} for life in lives]
    r = [life.r[0] for life in lives]

    def outer(s, n, x, weights=None):
        """S over n rounded to the nearest power of two, weighted, times x; none here is clipped."""
        power = 2 ** round(np.log2(n))
        v = np.array([floor(Fraction(int(s_o) * 1024, power) + Fraction(1, 2)) for s_o in s])
        assert max(abs(v)) < 8191
        if weights is not None:
            v = np.floor(v * weights / 128 + 0.5).astype(int)
        return np.outer(v, x)

    x = inputs[0]["head.weight"]
    a, b = zip(*(map(np.array, life.direction["head.weight"]) for life in lives), strict=True)
    s = sum(2 * credits[i].f[0] * r[i] * (b[i] @ inputs[i]["head.weight"]) * a[i] for i in range(3))
    assert np.array_equal(z["head.weight"], outer(s, x @ x, x))

    w, u, bias = ("layers.0.gru.w_h", "layers.0.gru.u_h", "layers.0.gru.b_h")
    s, c = 0, 64
    for i, life in enumerate(lives):
        drawn = oracle.draw_direction(1, i, 3, 16, 1)
        joint = np.concatenate([inputs[i][w], inputs[i][u], [c]])
        signs = np.array(drawn[w][1] + drawn[u][1] + drawn[bias][:1])
        s = s + credits[i].f[0] * life.r[0] * (signs @ joint) * np.array(drawn[w][0])
    joint = np.concatenate([inputs[0][w], inputs[0][u], [c]])
    weights = arrived_at_candidate(small_model, lives[0], h)
    expected = outer(s, joint @ joint, joint, weights)
    assert np.array_equal(np.hstack([z[w], z[u], np.array(z[bias])[:, None]]), expected)

    rows = [np.array(life.direction["embedding.weight"][1]) for life in lives]
    a65 = [life.direction["embedding.weight"][0][65] for life in lives]
    expected = np.zeros((256, 16), int)
    expected[65] = 1024 * sum(credits[i].f[0] * r[i] * a65[i] * rows[i] for i in range(3))
    assert np.array_equal(z["embedding.weight"], expected)


def test_nearest_log2():
    for n in range(1, 3000):
        exact = (Decimal(n).ln() / Decimal(2).ln()).to_integral_value(ROUND_HALF_DOWN)
        assert oracle.nearest_log2(n) == exact


def test_update_limits():
    weights = oracle.initial_weights(1, 16, 1, "egg")
    master = oracle.to_master(weights)
    z = oracle.zeros_like(weights)
    z["ln_out.weight"][5] = -(2**40)
    z["head.weight"][3][0] = 2**40
    new = oracle.update(master, z, 65_536, 16)
    assert new["ln_out.weight"][5] == -127 * 256
    assert new["head.weight"][3][0] == 127 * 256
    assert oracle.from_master(new)["ln_out.weight"][5] == -127
    assert new["embedding.weight"] == master["embedding.weight"]


# Of a vote that moves a weight of the head by one int8 step, how far it moves others, in 1/256.
MOVES = {
    "embedding.weight": 512,
    "ln1.weight": 32,
    "gru.w_f": 1024,
    "gru.u_f": 1024,
    "gru.b_f": 256,
    "gru.w_h": 512,
    "gru.u_h": 512,
    "gru.b_h": 128,
    "ln2.weight": 32,
    "mlp.w_up": 256,
    "mlp.w_down": 256,
    "ln_out.weight": 32,
    "head.weight": 256,
}


@pytest.mark.parametrize(("ending", "move"), MOVES.items())
def test_update_by_tensor(ending, move):
    weights = oracle.zeros_like(oracle.initial_weights(1, 16, 2, "egg"))
    # isqrt(16 << 16) = 1024: 163,840 of vote at lr = 1 is one int8 step.
    votes = {name: oracle.map_tensor(lambda _: 40960 * 4, w) for name, w in weights.items()}
    new = oracle.update(weights, votes, 65_536, 16)
    found = [np.unique(w).tolist() for name, w in new.items() if name.endswith(ending)]
    assert found == [[move]] * (2 if f"layers.1.{ending}" in new else 1)


def test_multipliers_are_parts_of_a_rounded_base():
    # (3 << 32) / (40,960 * 724) = 434.49; isqrt(8 << 16) = 724.
    assert oracle.multiplier(3, 8, "head.weight") == 434
    assert oracle.multiplier(3, 8, "ln_out.weight") == 54
    assert oracle.multiplier(3, 8, "layers.1.gru.b_h") == 217
    assert oracle.multiplier(3, 8, "layers.1.gru.u_f") == 1736


def test_master_rounds_half_up():
    assert oracle.from_master({"x": [-129, -128, 127, 128, 32512, -32512]}) == {
        "x": [-1, 0, 0, 1, 127, -127]
    }


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


@pytest.mark.parametrize("kind", ["sign", "input"])
def test_egg_lowers_the_cost_of_a_simple_text(kind):
    run = oracle.EggRun(b"ab" * 400, 3, 16, 1, 2, 8, 4, 3, kind)
    costs = []
    for _ in range(12):
        result = oracle.egg_step(run, 200_000)
        costs.append(-np.mean([life.s0 for lives in result.lives for life in lives]) / 256)
    assert costs[0] == 8
    assert costs[-1] < 6


def test_paper_keeps_a_state_for_every_member():
    run = oracle.PaperRun(b"the egg came first, " * 20, 3, 16, 1, 3, 4, 3)
    before = run.weights
    result = oracle.paper_step(run)
    assert len({str(h) for h in run.states}) == 6
    assert any(result.fitness)
    # In step 0 every weight with a vote moves by one.
    moved = np.array(run.weights["head.weight"]) - np.array(before["head.weight"])
    assert np.array_equal(moved, np.sign(result.votes["head.weight"]))


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
