"""Evolution in float32: recipe paper's members, noise and sign fitness without its integers.

    pip install torch                                                     # no dependency of egg
    python docs/experiments/float_es.py --population-size 1024 --steps 200 --lr 0.5

The network is that of docs/arithmetic.md without floors and without int8: float32 weights and activations, limited to
+-127 where egg limits them. Members 2 i and 2 i + 1 move every matrix by +-sigma a b^T and every vector by +-sigma e,
Gaussian; each keeps its own state, T bytes a step. What replaces the vote over a threshold is the float rule: a weight
moves by lr times the sum over pairs of f a b^T over its root mean square, f the sign of the difference of scores, or
the difference itself (--fitness raw), lr falling linearly to a twentieth. Results: docs/paper.md.
"""

import argparse
import json
import time

import numpy as np
from backprop import LANES, bits_per_byte, functional, lanes_of, splits, torch
from straight_through import BIT, LIMIT

from egg.kernels import Shape
from egg.kernels.arithmetic import product_shift
from egg.model.parameters import initial_weights

LAST_STEP = 0.05


class Members:
    """Weights in float32, and the noise of pairs of members, or none.

    weights : name -> tensor
    """

    def __init__(self, shape, weights):
        self.shape, self.weights, self.noise = shape, weights, {}

    def draw(self, generator, pairs, sigma):
        """New noise for every tensor: (pairs, N) and (pairs, K), or (pairs, N) of a vector."""
        self.sigma = sigma
        self.noise = {
            name: [torch.randn(pairs, size, generator=generator) for size in w.shape]
            for name, w in self.weights.items()
        }

    def sides(self, values):
        """(pairs, ...) of the noise as (2 pairs, ...) of members: + and - in turns."""
        return torch.stack([values, -values], 1).flatten(0, 1) * self.sigma

    def vector(self, name):
        """Gains or biases, of all members or of each."""
        return self.weights[name] + (self.sides(self.noise[name][0]) if self.noise else 0)

    def embedding(self, tokens):
        """Rows (members, D) of tokens (members,)."""
        rows = self.weights["embedding.weight"][tokens]
        if self.noise:
            a, b = self.noise["embedding.weight"]
            a = a.repeat_interleave(2, 0).gather(1, tokens[:, None])
            rows = rows + a * self.sides(b)
        return rows

    def product(self, name, x):
        """x (members, K) through a matrix: (members, N)."""
        acc = functional.linear(x, self.weights[name])
        if self.noise:
            a, b = self.noise[name]
            acc = acc + self.sides(a) * (x * b.repeat_interleave(2, 0)).sum(1, keepdim=True)
        return (acc / 2 ** product_shift(x.shape[1])).clamp(-LIMIT, LIMIT)

    def norm(self, name, x):
        """x over its mean magnitude, times gains."""
        return (x * self.vector(name) / x.abs().mean(-1, keepdim=True).clamp(min=1)).clamp(-LIMIT, LIMIT)

    def read(self, tokens, h):
        """One byte (members,) with states h (L, members, D): logits in sixteenths of a bit, new states."""
        h = h * (tokens != 0)[None, :, None]
        x, after = self.embedding(tokens), []
        for i, state in enumerate(h.unbind()):
            layer = f"layers.{i}."
            u = self.norm(layer + "ln1.weight", x)

            def gate(kind, reads, layer=layer, u=u):
                both = self.product(f"{layer}gru.w_{kind}", u) + self.product(f"{layer}gru.u_{kind}", reads)
                return (both + self.vector(f"{layer}gru.b_{kind}")).clamp(-LIMIT, LIMIT)

            f = (gate("f", state) + LIMIT) / 256
            state = state + f * (gate("h", f * state) - state)
            after.append(state)
            x = (x + state).clamp(-LIMIT, LIMIT)
            y = self.product(layer + "mlp.w_up", self.norm(layer + "ln2.weight", x))
            x = (x + self.product(layer + "mlp.w_down", y)).clamp(-LIMIT, LIMIT)
        return self.product("head.weight", self.norm("ln_out.weight", x)), torch.stack(after)

    def __call__(self, tokens, states):
        """Tokens (T, members) -> logits (T, members, 256) in nats, states after: what bits_per_byte takes."""
        logits = []
        for row in tokens.unbind():
            out, states = self.read(row, states)
            logits.append(out * BIT)
        return torch.stack(logits), states


@torch.no_grad()
def main():
    """Evolve, and print a line of JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--population-size", type=int, default=1024)
    parser.add_argument("--seq-len", type=int, default=100)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--sigma", type=float, default=1.0, help="in int8 steps")
    parser.add_argument("--lr", type=float, default=0.5, help="in int8 steps")
    parser.add_argument("--fitness", choices=("sign", "raw"), default="sign")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text, validation = splits(options.data)
    shape = Shape(options.hidden_size, options.num_layers)
    first = shape.views(initial_weights(shape, options.seed, "paper"))
    members = Members(shape, {name: torch.from_numpy(w.astype(np.float32)) for name, w in first.items()})
    generator = torch.Generator().manual_seed(options.seed)
    pairs = options.population_size // 2
    starts = np.arange(pairs) * len(text) // pairs
    states = torch.zeros(options.num_layers, 2 * pairs, options.hidden_size)
    began = time.process_time()
    for step in range(options.steps):
        inputs, targets = (lanes.repeat_interleave(2, 1) for lanes in lanes_of(text, starts, options.seq_len))
        starts = starts + options.seq_len
        members.draw(generator, pairs, options.sigma)
        score = torch.zeros(2 * pairs)
        for byte, target in zip(inputs.unbind(), targets.unbind(), strict=True):
            logits, states = members.read(byte, states)
            score -= functional.cross_entropy(logits * BIT, target, reduction="none")
        fitness = score[0::2] - score[1::2]
        if options.fitness == "sign":
            fitness = fitness.sign()
        lr = options.lr * (1 - (1 - LAST_STEP) * step / options.steps) / fitness.square().sum().sqrt().clamp(min=1e-9)
        for name, (a, *b) in members.noise.items():
            votes = (fitness[:, None] * a).T @ b[0] if b else fitness @ a
            members.weights[name].add_(lr * votes).clamp_(-LIMIT, LIMIT)
    seconds = time.process_time() - began
    members.noise = {}
    zeros = torch.zeros(options.num_layers, LANES, options.hidden_size)
    bits = bits_per_byte(members, zeros, validation)
    print(json.dumps(vars(options) | {"bits_per_byte": round(bits, 4), "cpu_seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
