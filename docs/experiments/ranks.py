"""Votes of rank 1, 4, 16 and of full rank, beside the straight-through gradient of a fixed model.

    pip install torch                                            # no dependency of egg
    egg train --data stdlib --hidden-size 16 --num-layers 1 --tokens 500k --out fixed
    python docs/experiments/ranks.py fixed --members 262144 --full 65536 --out ranks

Members of recipe paper read stretches of a text in turns, every one from state zero, and vote with the difference of
their scores (fitness raw). Two things are measured, and drawn in OUT.png; OUT.json has the numbers:

- the cosine between the summed votes and the gradient, against the population size. It says how many members an update
  of a given quality needs; chance limits it, for a vote has as many directions as the model has parameters;
- how far the expected updates are from that of full rank, an estimate without the chance. With Z1 and Z2 the mean votes
  of two halves of the members, independent of each other, the expectation of Z1 . Z2 is the squared length of the
  expected update; the same of two kinds is their product. This is the distance of which the paper's theorem says that
  it falls as 1/r, so its square as 1/r^2. [arXiv 2511.16652, theorem 4]

Results and what they mean: docs/paper.md.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from backprop import splits
from straight_through import BIT, Model, functional, torch

from egg.evolution.classic import read_pair
from egg.files import save_figure
from egg.kernels import get_backend
from egg.kernels.arithmetic import FINE, LIMIT, SIXTEENTHS
from egg.kernels.backend import Noise
from egg.model.network import read_model

BATCH = 2048  # pairs whose votes are kept as one
LEAST = 1024  # members from which cosines are drawn: those of fewer are chance
FULL = "full"
KINDS = {"1": {"rank": 1}, "4": {"rank": 4}, "16": {"rank": 16}, "gaussian": {"rank": 1, "gaussian": True}}


def gradient(shape, weights, tokens):
    """(parameters,) float64: of the mean score of a stretch, in 1/16 bit, by every weight."""
    model = Model(shape, weights)
    stretches = torch.from_numpy(tokens.astype(np.int64)).T
    logits, _ = model(stretches[:-1], torch.zeros(shape.num_layers, len(tokens), shape.hidden_size))
    nats = -functional.cross_entropy(logits.flatten(0, 1), stretches[1:].flatten(), reduction="sum")
    (nats / BIT / len(tokens)).backward()
    return np.concatenate([master.grad.numpy().ravel() for master in model.parameters()]).astype(np.float64)


def in_bytes(differences):
    """Differences of scores as int8, 16 for their root mean square; and what one of these is worth."""
    unit = max(1.0, math.sqrt(np.mean(differences.astype(np.float64) ** 2))) / 16
    return np.clip(np.rint(differences / unit), -LIMIT, LIMIT).astype(np.int64), unit


class Voters:
    """Members of a fixed model.

    tokens : (stretches, T + 1) uint8
    """

    def __init__(self, backend, shape, weights, tokens, sigma_shift, seed):
        self.backend, self.shape, self.weights, self.tokens = backend, shape, weights, tokens
        self.sigma_shift, self.seed, self.move = sigma_shift, seed, 2.0 ** (4 - sigma_shift)
        self.model = backend.prepare(shape, weights)

    def votes(self, kind, batch, pairs):
        """(parameters,) float64: the pairs' mean of half the difference of scores times the perturbation.

        Both in 1/16 bit and int8 steps, over the square of a weight's move: the gradient, where scores are linear.
        """
        texts = self.tokens[np.arange(pairs) % len(self.tokens)]
        if kind == FULL:
            noise = Noise(self.seed, batch, self.sigma_shift)
            scores = np.array(
                [
                    read_pair(self.backend, self.shape, self.weights, text[None], noise, i, int(self.move))
                    for i, text in enumerate(texts)
                ]
            )
            fitness, unit = in_bytes(scores[:, 0] - scores[:, 1])
            votes = self.backend.cast_full_rank_votes(self.weights.size, fitness, noise)
            return votes * (unit * SIXTEENTHS / FINE / (2 * pairs * self.move))
        noise = Noise(self.seed, batch, self.sigma_shift, **KINDS[kind])
        states = np.zeros((2 * pairs, self.shape.num_layers, self.shape.hidden_size), np.int8)
        scores, _ = self.backend.run_pairs(self.model, texts, states, noise)
        fitness, unit = in_bytes(scores[0::2] - scores[1::2])
        votes = self.backend.cast_pair_votes(self.shape, fitness.astype(np.int8), noise)
        term = 256 if noise.gaussian else 1
        return votes * (unit / (2 * pairs * self.move * noise.root * term))


def cosine(a, b):
    """Of the angle between two vectors."""
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def populations(most):
    """Powers of two from 64 on."""
    return [1 << k for k in range(6, most.bit_length())]


def measure(voters, kind, members, gradient_, halves):
    """The cosines by population size; adds the votes to ``halves``: kind -> mean votes of the two halves."""
    cosines, total, done, batches = {}, 0.0, 0, []
    for batch, population in enumerate(populations(members)):
        pairs = population // 2 - done
        for at in range(0, pairs, BATCH):
            count = min(BATCH, pairs - at)
            votes = voters.votes(kind, (batch << 16) + at, count)
            total = total + count * votes
            batches.append((count, votes))
        done = population // 2
        cosines[population] = cosine(total, gradient_)
    whole = [votes for count, votes in batches if count == BATCH]
    if len(whole) > 1:
        halves[kind] = sum(whole[0::2]) / len(whole[0::2]), sum(whole[1::2]) / len(whole[1::2])
    return cosines


def distance(halves, kind, other):
    """Squared length of the difference of two expected updates over that of the second, without bias of chance."""

    def product(a, b):
        pairs = [(x, y) for x in halves[a] for y in halves[b] if a != b or x is not y]
        return float(np.mean([x @ y for x, y in pairs]))

    return (product(kind, kind) + product(other, other) - 2 * product(kind, other)) / product(other, other)


def draw(found, out):
    """Cosines by population, and distances of expected updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, runs in found["cosines"].items():
        sizes = sorted(n for n in map(int, runs[0]) if n >= LEAST)
        means = [np.mean([run[str(n)] for run in runs]) for n in sizes]
        left.plot(sizes, means, "o-", markersize=3, label=kind if kind in (FULL, "gaussian") else f"rank {kind}")
    left.set(xscale="log", yscale="log", xlabel="population size", ylabel="cosine with the gradient")
    most = max(int(n) for runs in found["cosines"].values() for n in runs[0])
    ticks = [n for n in populations(most)[::2] if n >= LEAST]
    left.set_xticks(ticks, [f"{n:,}" for n in ticks])
    left.set_yticks([0.02, 0.05, 0.1, 0.2], ["0.02", "0.05", "0.1", "0.2"])
    left.minorticks_off()
    left.legend(fontsize=8)
    for number, values in enumerate(found["distances"].values()):
        right.plot(values, [number] * len(values), "o", color="C0", markersize=4)
    right.axvline(0, color="gray", linewidth=1)
    right.set_yticks(range(len(found["distances"])), list(found["distances"]))
    right.set_xlabel("squared distance of expected updates")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    save_figure(figure, Path(out + ".png"))


def main():
    """Measure every kind with every seed, print lines of JSON, write OUT.json and OUT.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--members", type=int, default=65536, help="of every rank")
    parser.add_argument("--full", type=int, default=16384, help="members of full rank, which take longer")
    parser.add_argument("--stretches", type=int, default=16, help="of text, which the members read in turns")
    parser.add_argument("--length", type=int, default=32, help="bytes of each")
    parser.add_argument("--sigma-shift", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=[*KINDS, FULL], choices=[*KINDS, FULL])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    shape, weights, _ = read_model(options.model)
    move = max(1, 16 >> options.sigma_shift)
    weights = np.clip(weights, move - LIMIT, LIMIT - move)  # full rank moves weights in place
    text, _ = splits(options.data)
    starts = np.arange(options.stretches) * len(text) // options.stretches
    tokens = np.stack([text[start : start + options.length + 1] for start in starts])
    gradient_ = gradient(shape, weights, tokens)
    found = {"cosines": {}, "slopes": {}, "distances": {}}
    for seed in options.seeds:
        voters = Voters(
            get_backend(options.backend, threads=options.threads), shape, weights, tokens, options.sigma_shift, seed
        )
        halves = {}
        for kind in options.kinds:
            members = options.full if kind == FULL else options.members
            cosines = measure(voters, kind, members, gradient_, halves)
            found["cosines"].setdefault(kind, []).append({str(n): c for n, c in cosines.items()})
            print(json.dumps({"seed": seed, "kind": kind, "cosines": cosines}), flush=True)
        for kind in halves:
            mean = sum(halves[kind]) / 2
            found["slopes"].setdefault(kind, []).append(float(mean @ gradient_ / (gradient_ @ gradient_)))
            for other in (FULL, "16"):
                if other in halves and kind not in (FULL, other):
                    found["distances"].setdefault(f"{kind} to {other}", []).append(distance(halves, kind, other))
    print(json.dumps({name: found[name] for name in ("slopes", "distances")}))
    with open(options.out + ".json", "w", encoding="utf-8") as file:
        json.dump(vars(options) | {"parameters": shape.parameters} | found, file, indent=1)
    draw(found, options.out)


if __name__ == "__main__":
    main()
