"""Write tests/vectors/*.npz: what the oracle computes for tiny models. Run it as a program.

Weights, text and states are drawn with the oracle's own generator, so that every run writes the
same arrays. All numbers are integers.

`forward_*.npz`, unperturbed (T bytes of text):

    param.<tensor>      the tensor's shape, int8    the weights
    tokens              (T,) uint8                  bytes; a 0 resets the state
    logits              (T-1, 256) int8             after each of the first T-1 bytes
    score_sixteenths    (T-1,) int32                score_16 of the next byte
    final_state         (L, D) int8                 after the last byte read, from a zero state

`step_branches_*.npz`, a few steps of recipe egg, one after another: B streams read T bytes in each of n
steps. Weights, masters and votes are flat: all the tensors' elements in the order of docs/arithmetic.md.

    hidden_size, layers, branches       int64         D, L, K
    seed, step, lr                      int64; seed uint64    the first step's number, the same lr in all
    master              (parameters,) int32           master weights before the first step
    squares             (rows,) int64                 mean squares before the first step
    shifts              (n + 1, kinds) int64          of each step, and of the step after the last
    tokens              (n, B, T+1) uint8             what each stream reads
    states              (n + 1, B, L, D) int8         before the first step, and after each
    votes               (parameters,) int32           Z of the first step
    totals              (n, kinds) int64              of each step
    scores              (n,) int64                    sum of the readers' score_256
    squares_after       (rows,) int64                 mean squares after the last step
    master_change       (parameters,) int32           master weights after the last step, less before the first
    weights_change      (parameters,) int8            the same of the weights they round to, modulo 256

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

tests/test_oracle.py sees to it that every limit is met: of the moves of the branches' logits in
`step_branches_d16_l1`, of the credit at the wire's end in `step_branches_d64_l1_few`, where few branches make it noisy,
and all others in `step_branches_saturated`.

To keep the files small, the rows of the small models' embedding and head repeat every 32 bytes, the
weights of the step files are multiples of 8 or at a limit, and the model of size 64 is sparser yet.
"""

from pathlib import Path

import numpy as np
import oracle

FOLDER = Path(__file__).parent / "vectors"
D = 16  # hidden size of the step files but one
TEXT_STREAM = 100  # a stream number that no recipe uses


def random_bytes(seed, index, count):
    words = oracle.draw_words(seed, TEXT_STREAM, index, 0, (count + 3) // 4)
    return [words[k // 4] >> (8 * (k % 4)) & 0xFF for k in range(count)]


def random_states(seed, count, layers, d):
    """States of -127..127."""
    drawn = iter(random_bytes(seed, 1, count * layers * d))
    return [[[next(drawn) % 255 - 127 for _ in range(d)] for _ in range(layers)] for _ in range(count)]


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
        weights[name] = oracle.map_tensor(lambda _, b=drawn: 127 - 254 * (next(b) & 1), weights[name])
    return weights


def step_weights(seed, layers, d=D):
    """A model for a step file: coarse weights, and two rows of the head at the limits."""
    weights = {name: oracle.map_tensor(lambda w: w // 8 * 8, w) for name, w in random_weights(seed, d, layers).items()}
    weights["head.weight"][0] = [127] * d
    weights["head.weight"][1] = [-127] * d
    return weights


def wide_weights(seed, d):
    """A model of one layer whose matrices repeat every 16 rows, and whose head reads every fourth value of the wire."""
    weights = step_weights(seed, 1, d)
    for name, w in weights.items():
        if name.startswith("layers.") and isinstance(w[0], list):
            weights[name] = [list(row) for row in w[:16] * (len(w) // 16)]
    up = weights["layers.0.mlp.w_up"]
    up[d:] = [[0] * d for _ in up[d:]]
    weights["head.weight"][ord("e")] = [127 if w > 0 else -127 for w in weights["head.weight"][77]]
    weights["ln_out.weight"] = [g if j % 4 == 1 else 0 for j, g in enumerate(weights["ln_out.weight"])]
    return weights


def weak_head_weights(seed):
    """A model whose head is weak but for two rows: a branch is sized by the mean row, and too large for them."""
    weights = step_weights(seed, 1)
    weights["head.weight"][2:] = [[w // 4 for w in row] for row in weights["head.weight"][2:]]
    return weights


def saturated_weights(seed):
    """A model whose weights are so strong that everything is clipped now and then.

    After a 0 the wire is 0 as well: what is credited there is multiplied by the most.
    """
    weights = {
        name: oracle.map_tensor(lambda w: oracle.clip8(8 * w), w) if ".ln" not in name else w
        for name, w in step_weights(seed, 2).items()
    }
    weights["embedding.weight"][0] = [0] * D
    weights["ln_out.weight"] = [127, -127, 90, 127] * (D // 4)
    for number in range(2):
        weights[f"layers.{number}.gru.b_f"] = [-127, -127, -127, 0] * (D // 4)
        weights[f"layers.{number}.gru.b_h"] = [0] * D
    return weights


def unrounded_master(weights):
    """Master weights that round to `weights`, some of them just so."""
    fractions = {name: iter([0, -(2**15), 2**15 - 1, 5, 0, 0, -60, 9000] * 4096) for name in weights}
    return {
        name: oracle.map_tensor(lambda w, f=fractions[name]: oracle.clip((w << 16) + next(f), -127 << 16, 127 << 16), w)
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


def branch_texts(count):
    """What three streams read: NULs at a chunk's start, in its middle, at its end, and as a target.

    A chunk's last byte, the target alone, is the next chunk's first.
    """
    texts = [b"The\0egg.\0Orb.", b"\0came the \0\0h", b"\xff\0n first\0\x7f~~"]
    length = 4
    return [[list(text[length * n : length * (n + 1) + 1]) for text in texts] for n in range(count)]


def branch_vectors(weights, seed, step, branches, lr, squares=0, count=3, streams=3):
    """Steps one after another.

    squares : every row's mean square before the first of them
    """
    d, layers = oracle.size_of(weights)
    master = first_master = unrounded_master(weights)
    first_weights = weights
    assert oracle.from_master(master) == weights
    row_squares = {name: [squares] * len(rows) for name, rows in oracle.zero_squares(weights).items()}
    first_squares = row_squares
    tokens = [chunks[:streams] for chunks in branch_texts(count)]
    states = [random_states(seed, streams, layers, d)]
    shifts = [oracle.first_shifts(layers)]
    results = []
    for n, chunks in enumerate(tokens):
        weights = oracle.from_master(master)
        result = oracle.egg_votes(weights, chunks, states[-1], seed, step + n, branches, shifts[-1])
        master, row_squares = oracle.update(master, row_squares, result.votes, step + n, lr)
        states.append(result.states)
        read = len(chunks) * (len(chunks[0]) - 1)
        shifts.append(oracle.next_shifts(shifts[-1], result.totals, read * d))
        results.append(result)
    return {
        "hidden_size": np.int64(d),
        "layers": np.int64(layers),
        "branches": np.int64(branches),
        "seed": np.uint64(seed),
        "step": np.int64(step),
        "lr": np.int64(lr),
        "master": flat(first_master, np.int32),
        "squares": flat(first_squares, np.int64),
        "shifts": np.array(shifts, np.int64),
        "tokens": np.array(tokens, np.uint8),
        "states": np.array(states, np.int8),
        "votes": flat(results[0].votes, np.int32),
        "totals": np.array([result.totals for result in results], np.int64),
        "scores": np.array([result.score for result in results], np.int64),
        "squares_after": flat(row_squares, np.int64),
        "master_change": flat(master, np.int32) - flat(first_master, np.int32),
        "weights_change": flat(oracle.from_master(master), np.int8) - flat(first_weights, np.int8),
    }


def paper_vectors(layers, seed, step, sigma_shift):
    """Four pairs; the third pair meets a 0 half-way."""
    weights = step_weights(seed, layers)
    tokens = [list(text) for text in (b"first ", b"second", b"thi\0rd", b"fourth")]
    states = random_states(seed, 8, layers, D)
    settings = oracle.PaperSettings(sigma_shift)
    result = oracle.paper_votes(weights, tokens, states, seed, step, settings)
    new_weights = oracle.paper_update(weights, result.votes, step, result.fitness_size, settings)
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
    "forward_d64_l1_extreme": lambda: forward_vectors(extreme_weights(3, 64, 1), text_with_resets(3, 8)),
    "step_branches_d16_l1": lambda: branch_vectors(weak_head_weights(11), 11, 0, 16, 26_000),
    "step_branches_d16_l2": lambda: branch_vectors(
        step_weights(2**40 + 12, 2), 2**40 + 12, 61, 16, 13_000, squares=90_000, count=2
    ),
    "step_branches_d64_l1_few": lambda: branch_vectors(
        wide_weights(13, 64), 13, 5, 16, 2_000, squares=1_000, count=2, streams=1
    ),
    "step_branches_saturated": lambda: branch_vectors(saturated_weights(15), 2**64 - 15, 2**32 - 3, 16, 60_000),
    "step_paper": lambda: paper_vectors(1, 14, 70, 4),
}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, compute in VECTORS.items():
        np.savez_compressed(FOLDER / f"{name}.npz", **compute())


if __name__ == "__main__":
    main()
