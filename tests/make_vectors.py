"""Write tests/vectors/*.npz: what the oracle computes for tiny models. Run it as a program.

Weights, text and states are drawn with the oracle's own generator, so that every run writes the
same arrays. All numbers are integers.

`forward_*.npz`, unperturbed (T bytes of text):

    param.<tensor>      the tensor's shape, int8    the weights
    tokens              (T,) uint8                  bytes; a 0 resets the state
    logits              (T-1, 256) int8             after each of the first T-1 bytes
    score_sixteenths    (T-1,) int32                score_16 of the next byte
    final_state         (L, D) int8                 after the last byte read, from a zero state

`step_egg_*.npz`, one step of recipe egg with g groups of G members that read T bytes each. Weights
and votes are flat: all the tensors' elements in the order of docs/arithmetic.md.

    layers, perturbation                              L, and "sign" or "input" (D is 16)
    seed, step, sigma_shift, group_size, credit_scale, lr     int64, the step's settings
    master              int16                         master weights before the step
    tokens              (g, T+1) uint8                what each group reads
    states              (g, L, D) int8                each group's state before the step
    s0, s1              (g, G, T) int64               score_256 without and with the head's own term
    scores              (g, G) int64                  s1 summed over the tokens
    votes               int64                         Z
    master_change       int16                         master weights after the step, less before
    weights_change      int8                          the same of the weights they round to
    new_states          (g, L, D) int8                each group's state after the step
    new_credit_scale    int64                         the next step's credit_scale

`step_paper.npz`, one step of recipe paper with P pairs that read T bytes each:

    layers, seed, step, sigma_shift     int64         L and the step's settings (D is 16)
    weights             int8                          weights before the step
    tokens              (P, T+1) uint8                what each pair reads
    states              (2P, L, D) int8               each member's state before the step
    scores              (2P,) int64                   each member's sum of score_16
    fitness             (P,) int64                    sign of the score difference
    votes               int64                         Z
    weights_change      int8                          weights after the step, less before
    new_states          (2P, L, D) int8               each member's state after the step

In `step_egg_saturated`, gates, candidates, the MLP's middle and output and the residual lie at both
limits now and then, where free(v) is 0 and no vote is cast; every one of them changes some vote.

To keep the files small, the rows of the small models' embedding and head repeat every 32 bytes, and
the weights of the step files are multiples of 8 or at a limit.
"""

from pathlib import Path

import numpy as np
import oracle

FOLDER = Path(__file__).parent / "vectors"
D = 16  # hidden size of the step files
TEXT_STREAM = 100  # a stream number that no recipe uses


def random_bytes(seed, index, count):
    words = oracle.draw_words(seed, TEXT_STREAM, index, 0, (count + 3) // 4)
    return [words[k // 4] >> (8 * (k % 4)) & 0xFF for k in range(count)]


def random_states(seed, count, layers, d):
    """States of -127..127."""
    drawn = iter(random_bytes(seed, 1, count * layers * d))
    return [
        [[next(drawn) % 255 - 127 for _ in range(d)] for _ in range(layers)] for _ in range(count)
    ]


def random_weights(seed, d, layers):
    """Initial weights of recipe paper, with gains and biases that differ from one another."""
    weights = oracle.initial_weights(seed, d, layers, "paper")
    for name in ("embedding.weight", "head.weight"):
        weights[name] = [list(row) for row in weights[name][:32] * 8]
    for number, name in enumerate(weights):
        if not isinstance(weights[name][0], list):
            drawn = random_bytes(seed, 2 + number, d)
            weights[name] = [w + v % 33 - 16 for w, v in zip(weights[name], drawn, strict=True)]
    return weights


def extreme_weights(seed, d, layers):
    """Every weight -127 or 127."""
    weights = oracle.initial_weights(seed, d, layers, "paper")
    for number, name in enumerate(weights):
        drawn = iter(random_bytes(seed, 2 + number, 256 * d))
        weights[name] = oracle.map_tensor(
            lambda _, b=drawn: 127 - 254 * (next(b) & 1), weights[name]
        )
    return weights


def step_weights(seed, layers):
    """A model for a step file: coarse weights, and two rows of the head at the limits.

    With two layers, the first one's MLP has inputs near 0, where votes are clipped.
    """
    weights = {
        name: oracle.map_tensor(lambda w: w // 8 * 8, w)
        for name, w in random_weights(seed, D, layers).items()
    }
    weights["head.weight"][0] = [127] * D
    weights["head.weight"][1] = [-127] * D
    if layers == 2:
        weights["layers.0.ln2.weight"] = [0, 1] * (D // 2)
    return weights


def saturated_weights(seed):
    """A model of one layer for a step file, whose inputs and MLP are four times as strong."""
    weights = step_weights(seed, 1)
    for kind in ("gru.w_f", "gru.w_h", "mlp.w_up", "mlp.w_down"):
        name = f"layers.0.{kind}"
        weights[name] = oracle.map_tensor(lambda w: oracle.clip8(4 * w), weights[name])
    return weights


def unrounded_master(weights):
    """Master weights that round to `weights`, some of them just so."""
    fractions = {name: iter([0, -128, 127, 5, 0, 0, -60, 90] * 512) for name in weights}
    return {
        name: oracle.map_tensor(
            lambda w, f=fractions[name]: oracle.clip(256 * w + next(f), -127 * 256, 127 * 256), w
        )
        for name, w in weights.items()
    }


def flat(tensors, dtype):
    return np.concatenate([np.ravel(np.array(tensor, dtype)) for tensor in tensors.values()])


def forward_vectors(weights, tokens):
    d, layers = oracle.size_of(weights)
    logits, scores, state = oracle.forward(weights, oracle.zeros((layers, d)), tokens)
    return {
        **{f"param.{name}": np.array(w, np.int8) for name, w in weights.items()},
        "tokens": np.array(tokens, np.uint8),
        "logits": np.array(logits, np.int8),
        "score_sixteenths": np.array(scores, np.int32),
        "final_state": np.array(state, np.int8),
    }


def egg_vectors(weights, seed, step, sigma_shift, perturbation, credit_scale, lr):
    """Two groups of four members; the second group meets a 0 half-way."""
    group_size = 4
    layers = oracle.size_of(weights)[1]
    master = unrounded_master(weights)
    assert oracle.from_master(master) == weights
    tokens = [list(b"The egg"[:6]), [111, 110, 101, 0, 116, 119]]
    states = random_states(seed, 2, layers, D)
    result = oracle.egg_votes(
        weights, tokens, states, seed, step, credit_scale, group_size, sigma_shift, perturbation
    )
    new_master = oracle.update(master, result.votes, lr, 2 * group_size)
    s0 = np.array([[life.s0 for life in lives] for lives in result.lives], np.int64)
    s1 = np.array([[life.s1 for life in lives] for lives in result.lives], np.int64)
    return {
        "layers": np.int64(layers),
        "perturbation": np.array(perturbation),
        "seed": np.int64(seed),
        "step": np.int64(step),
        "sigma_shift": np.int64(sigma_shift),
        "group_size": np.int64(group_size),
        "credit_scale": np.int64(credit_scale),
        "lr": np.int64(lr),
        "master": flat(master, np.int16),
        "tokens": np.array(tokens, np.uint8),
        "states": np.array(states, np.int8),
        "s0": s0,
        "s1": s1,
        "scores": s1.sum(axis=2),
        "votes": flat(result.votes, np.int64),
        "master_change": flat(new_master, np.int16) - flat(master, np.int16),
        "weights_change": flat(oracle.from_master(new_master), np.int8) - flat(weights, np.int8),
        "new_states": np.array(result.states, np.int8),
        "new_credit_scale": np.int64(result.credit_scale),
    }


def paper_vectors(layers, seed, step, sigma_shift):
    """Four pairs; the third pair meets a 0 half-way."""
    weights = step_weights(seed, layers)
    tokens = [list(text) for text in (b"first ", b"second", b"thi\0rd", b"fourth")]
    states = random_states(seed, 8, layers, D)
    result = oracle.paper_votes(weights, tokens, states, seed, step, sigma_shift)
    new_weights = oracle.paper_update(weights, result.votes, step, len(tokens))
    return {
        "layers": np.int64(layers),
        "seed": np.int64(seed),
        "step": np.int64(step),
        "sigma_shift": np.int64(sigma_shift),
        "weights": flat(weights, np.int8),
        "tokens": np.array(tokens, np.uint8),
        "states": np.array(states, np.int8),
        "scores": np.array(result.scores, np.int64),
        "fitness": np.array(result.fitness, np.int64),
        "votes": flat(result.votes, np.int64),
        "weights_change": flat(new_weights, np.int8) - flat(weights, np.int8),
        "new_states": np.array(result.states, np.int8),
    }


def text_with_resets(seed, count):
    text = random_bytes(seed, 0, count)
    text[0] = text[count // 2] = 0
    return text


# Name of a file: the function that computes its arrays.
VECTORS = {
    "forward_d16_l1": lambda: forward_vectors(random_weights(1, 16, 1), text_with_resets(1, 10)),
    "forward_d16_l2": lambda: forward_vectors(random_weights(2, 16, 2), text_with_resets(2, 10)),
    "forward_d64_l1_extreme": lambda: forward_vectors(
        extreme_weights(3, 64, 1), text_with_resets(3, 8)
    ),
    "step_egg_sign_3": lambda: egg_vectors(step_weights(11, 2), 11, 6, 3, "sign", 150, 2_000),
    "step_egg_sign_5": lambda: egg_vectors(
        step_weights(2**40 + 12, 1), 2**40 + 12, 1001, 5, "sign", 40, 5_000
    ),
    "step_egg_input_3": lambda: egg_vectors(step_weights(13, 1), 13, 3, 3, "input", 40, 2_000),
    "step_egg_saturated": lambda: egg_vectors(saturated_weights(15), 15, 5, 3, "sign", 80, 3_000),
    "step_paper": lambda: paper_vectors(1, 14, 70, 4),
}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, compute in VECTORS.items():
        np.savez_compressed(FOLDER / f"{name}.npz", **compute())


if __name__ == "__main__":
    main()
