"""What integer credits cost: the recipe with its integers, and with float64 from the scores to the votes.

    python docs/experiments/float_credits.py [--member-tokens 1000000] [--seed 1]

Runs the NumPy reference, whose votes are easily changed: credits neither rounded nor clipped (or only not rounded),
rewards-to-go discounted exactly, votes divided by |x|^2 itself and not by the nearest power of two, and never
saturated. Forward passes, scores and weights are the same integers in all cases.
"""

import argparse
from dataclasses import replace

import numpy as np

import data
import egg.evolution
import kernels.reference as reference
from egg.cli_corpus import CorpusText
from egg.config import PRESETS
from egg.evaluate import evaluate
from kernels import get_backend

FINER = (
    1 << 12
)  # float64 results are kept in units of 2**-12 of the integer ones, far below any rounding seen here


def float_credits(clipped):
    """``kernels.reference.credits`` in float64, in units of 1 / FINER."""

    def credits(s0, s1, inputs, scale):
        def less_mean(s):
            return s - s.mean(1, keepdims=True)

        def scaled(f):
            f = reference.CREDIT_MEAN * f / scale
            limit = reference.CREDIT_LIMIT if clipped else np.inf
            return np.rint(FINER * np.clip(f, -limit, limit)).astype(np.int64)

        own, head = less_mean(s0.astype(np.float64)), less_mean((s1 - s0).astype(np.float64))
        to_go = own.copy()
        for t in reversed(range(own.shape[2] - 1)):
            lives_on = (inputs[:, t + 1] != 0)[:, None]
            to_go[..., t] += reference.DISCOUNT / 256 * to_go[..., t + 1] * lives_on
        deviations = s0.sum(2) - reference.round_div(s0.sum(2).sum(1, keepdims=True), s0.shape[1])
        return scaled(to_go), scaled(own), scaled(head), deviations

    return credits


class FloatVotes(reference.NumpyBackend):
    """The reference with float64 between the scores and the votes."""

    @staticmethod
    def _outputs(block, name, p, length_squared, credit, r, group_size):
        s = ((credit * p)[:, None] * block.a[name]).astype(np.float64)
        s = s.reshape(-1, group_size, s.shape[1]).sum(1)
        return np.rint((s.T * 2.0**reference.VOTE_BITS / np.maximum(1, length_squared)).T).astype(
            np.int64
        )

    def cast_traced_votes(self, *args, **kwargs):
        """As ``kernels.backend.Backend`` has it."""
        cast = super().cast_traced_votes(*args, **kwargs)
        cast.votes[...] = reference.round_div(cast.votes, FINER)
        return cast


def train(backend, config, corpus):
    """Exact bits per byte on the validation split after the configuration's member-tokens."""
    text = np.asarray(corpus.split("train"))
    training = egg.evolution.Evolution(config, backend, CorpusText(text))
    while training.member_tokens < config.run.member_tokens:
        training.step()
    split = corpus.split("validation")
    return evaluate(get_backend("numba"), training.shape, training.weights, split).bits_per_byte


def main():
    """Train three times, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--member-tokens", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tokens = options.member_tokens
    config = PRESETS["quickstart"]
    config = replace(
        config,
        evolution=replace(config.evolution, schedule_tokens=tokens, seed=options.seed),
        run=replace(config.run, member_tokens=tokens),
    )
    corpus = data.open_corpus("stdlib")
    print(f"integers           {train(get_backend('numba'), config, corpus):.4f}", flush=True)
    for label, clipped in (("float64, clipped  ", True), ("float64, unclipped", False)):
        reference.credits = float_credits(clipped)
        print(f"{label} {train(FloatVotes(), config, corpus):.4f}", flush=True)


if __name__ == "__main__":
    main()
