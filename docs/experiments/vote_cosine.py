"""How well votes point along the gradient, tensor by tensor, at the fixed weights of a run.

    python docs/experiments/vote_cosine.py RUN [--data stdlib] [--reference 4000] [--batches 800]

The gradient is taken from a very large population: the mean votes of REFERENCE batches of 8,192 member-tokens with
``--perturbation input`` (whose votes on a matrix are not weighted by another random vector). Its own noise is taken off
its length through two halves. Printed is the cosine between one batch's votes and it, times 1,000: what one step of
quickstart's size knows about the way downhill.
"""

import argparse
from pathlib import Path

import numpy as np

import data
import egg
from kernels import Noise

POPULATION, GROUP, LENGTH, WARM_UP = 2048, 16, 4, 32
CREDIT_SCALE = 100  # 1/256 bit; the same for all, so that votes can be compared


def mean_votes(model, text, batches, seed, sigma_shift, perturbation):
    """Mean votes (parameters,), those of the first half, and every tensor's rms length of one batch's votes."""
    shape, rng = model.shape, np.random.default_rng(seed)
    prepared = model.backend.prepare(shape, model.weights)
    total, half, squares = np.zeros((3, shape.parameters))
    for batch in range(batches):
        starts = rng.integers(WARM_UP, len(text) - WARM_UP, POPULATION // GROUP)
        states = np.zeros((len(starts), shape.num_layers, shape.hidden_size), np.int8)
        before = data.read_chunks(text, starts - WARM_UP, WARM_UP)
        _, states = model.backend.forward(prepared, before, states)
        tokens = data.read_chunks(text, starts, LENGTH + 1)
        noise = Noise(seed, batch, sigma_shift, perturbation)
        votes = model.backend.cast_traced_votes(
            prepared, tokens, states, noise, group_size=GROUP, credit_scale=CREDIT_SCALE
        ).votes.astype(np.float64)
        total += votes
        squares += votes**2
        if batch + 1 == batches // 2:
            half = total.copy()
    lengths = {name: np.sqrt(squares[t.slice].sum() / batches) for name, t in shape.tensors.items()}
    return total / batches, half / (batches // 2), lengths


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--reference", type=int, default=4000)
    parser.add_argument("--batches", type=int, default=800)
    options = parser.parse_args()
    model = egg.load(options.run)
    text = np.asarray(data.open_corpus(options.data).split("train"))
    whole, half, _ = mean_votes(model, text, options.reference, 5, 3, "input")
    other = 2 * whole - half
    cases = {"sign": (3, "sign"), "sign, half": (4, "sign"), "input": (3, "input")}
    found = {n: mean_votes(model, text, options.batches, 77, *case) for n, case in cases.items()}
    print(f"{'':24}" + "".join(f"{name:>12}" for name in cases))
    for name, t in model.shape.tensors.items():
        energy = half[t.slice] @ other[t.slice]
        if energy <= 0:
            print(f"{name:24}   its gradient is lost in noise: a larger --reference may find it")
            continue
        gradient = np.sqrt(energy)
        row = [
            1000 * (votes[t.slice] @ whole[t.slice]) / gradient / lengths[name]
            for votes, _, lengths in found.values()
        ]
        print(f"{name:24}" + "".join(f"{value:12.1f}" for value in row))


if __name__ == "__main__":
    main()
