"""What each idea of recipe ``egg`` is worth, in integers: left out one by one, and all of them at once.

    python docs/experiments/ladder.py [--member-tokens 1000000] [--seed 1] [--only NAME ...]

``plain`` is evolution with none of them: antithetic pairs, chunks of eight bytes, the difference of a pair's scores as
its fitness, int16 masters, zero head. The others are the recipe without one idea, on the NumPy reference, which is
easily changed and takes a second and a half a step.
"""

import argparse
from dataclasses import replace
from unittest import mock

import numpy as np

import data
import kernels.reference as reference
from egg.cli_corpus import CorpusText
from egg.config import PRESETS
from egg.evaluate import evaluate
from egg.evolution import Evolution
from egg.optimizer import scheduled_step_size
from egg.parameters import initial_weights
from kernels import Noise, get_backend
from kernels.arithmetic import CREDIT_MEAN, MASTER_BITS

POPULATION, CHUNK, SIGMA_SHIFT = 2048, 8, 4  # of plain
FULL = 127  # the weight of an output whose push arrives whole


def one_sign_a_chunk(philox_signs):
    """Token signs of +1: a member's perturbation is the same at every token."""

    def signs(strings, first, count):
        drawn = philox_signs(strings, first, count)
        return np.ones_like(drawn) if count < 16 else drawn  # a direction's are 16 and more

    return signs


def whole_chunk(credits):
    """Every token is credited with the whole chunk's score, the last layer's own tokens included."""

    def changed(s0, s1, inputs, scale):
        to_go, own, head, deviations = credits(s0, s1, inputs, scale)
        limit = reference.CREDIT_LIMIT
        total = reference.round_div(CREDIT_MEAN * deviations, scale).clip(-limit, limit)
        total = np.repeat(total[:, :, None], to_go.shape[2], 2)
        return total, total, head, deviations

    return changed


def head_within(credits):
    """The score of the perturbed head serves all: the head's noise is in everybody's credit."""

    def changed(s0, s1, inputs, scale):
        to_go, own, _, deviations = credits(s1, s1, inputs, scale)
        return to_go, own, own, deviations

    return changed


def all_arrives(arrived):
    """Votes are not weighted by what arrived."""

    def changed(stages, trace, name):
        return np.full_like(arrived(stages, trace, name), FULL)

    return changed


WITHOUT = {
    "whole recipe": None,
    "without token signs": ("philox.signs", one_sign_a_chunk),
    "without reward-to-go": ("credits", whole_chunk),
    "without a head apart": ("credits", head_within),
    "without what arrived": ("arrived", all_arrives),
}


def recipe(config, corpus, change):
    """Exact bits per byte of recipe ``egg``, with one function of the reference changed."""
    text = CorpusText(np.asarray(corpus.split("train")))
    name = "numba" if change is None else "numpy"
    training = Evolution(config, get_backend(name), text)
    target, wrap = change or ("credits", lambda function: function)
    owner = reference.philox if target.startswith("philox.") else reference
    target = target.split(".")[-1]
    with mock.patch.object(owner, target, wrap(getattr(owner, target))):
        while training.member_tokens < config.run.member_tokens:
            training.step()
    return measure(training.shape, training.weights, corpus)


def plain(config, corpus, step_size):
    """Exact bits per byte of evolution without any of the ideas."""
    backend, votes_of, shape = get_backend("numba"), reference.NumpyBackend(), config.model.shape
    text, pairs = CorpusText(np.asarray(corpus.split("train"))), POPULATION // 2
    weights = initial_weights(shape, config.evolution.seed, "paper")
    shape.views(weights)["head.weight"][...] = 0
    master = weights.astype(np.int16) << MASTER_BITS
    states = np.zeros((POPULATION, shape.num_layers, shape.hidden_size), np.int8)
    starts = np.arange(pairs, dtype=np.int64) * text.size // pairs
    done, scale = 0, 16
    while done < config.run.member_tokens:
        step = done // (POPULATION * CHUNK)
        noise = Noise(config.evolution.seed, step, SIGMA_SHIFT)
        tokens = text.read(starts + step * CHUNK, CHUNK + 1)
        scores, states = backend.run_pairs(backend.prepare(shape, weights), tokens, states, noise)
        difference = (scores[0::2] - scores[1::2]).astype(np.int64)
        fitness = reference.round_div(CREDIT_MEAN * difference, scale).clip(-128, 128)
        scale = max(1, int(np.abs(difference).mean()))
        votes = votes_of.cast_pair_votes(shape, fitness, noise)
        now = scheduled_step_size(
            round(step_size * 65536),
            round(step_size * 3277),
            "linear",
            done,
            config.run.member_tokens,
        )
        # fitness has an rms of about 40; now is in 2**-16 int8 steps, masters have 8 bits below one
        multiplier = int((now << 24) / (40 * pairs**0.5))
        multipliers = np.full(len(shape.tensors), multiplier, np.int64)
        weights = backend.update_master(shape, master, votes, multipliers)
        done += POPULATION * CHUNK
    return measure(shape, weights, corpus)


def measure(shape, weights, corpus):
    """Exact bits per byte on the validation split."""
    return evaluate(get_backend("numba"), shape, weights, corpus.split("validation")).bits_per_byte


def main():
    """Train all, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--member-tokens", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=["plain", *WITHOUT])
    parser.add_argument("--step-sizes", type=float, nargs="*", default=[0.4, 0.8, 1.6, 3.0, 6.0])
    options = parser.parse_args()
    config, tokens = PRESETS["quickstart"], options.member_tokens
    config = replace(
        config,
        evolution=replace(config.evolution, schedule_tokens=tokens, seed=options.seed),
        run=replace(config.run, member_tokens=tokens),
    )
    corpus = data.open_corpus("stdlib")
    for name in options.only:
        if name == "plain":
            for step_size in options.step_sizes:
                found = plain(config, corpus, step_size)
                print(f"plain, step size {step_size:<5} {found:.4f}", flush=True)
        else:
            print(f"{name:22} {recipe(config, corpus, WITHOUT[name]):.4f}", flush=True)


if __name__ == "__main__":
    main()
