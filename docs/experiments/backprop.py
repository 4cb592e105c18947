"""Tokens that backpropagation needs for a level of bits per byte: a yardstick for egg's member-tokens.

    pip install torch                        # no dependency of egg
    python docs/experiments/backprop.py      # 10M; [--tokens 1e6 --streams 16 --length 32 --lr 8e-3 --seed 1]

Printed, bits per byte of stdlib's validation split (CPython 3.11.7) after as many M tokens, one horizon a row:

    horizon seed options |  0.25   0.5     1   1.5     2     3     4     6     8    10
    10M     1    default | 4.327 2.959 2.385 2.249 2.158 2.108 2.052 1.880 1.763 1.713
    4M      1    16, 32  | 2.950 2.617 2.452 2.284 2.226 1.974 1.875
    2M      1    16, 32  | 2.898 2.517 2.327 2.045 1.950           seed 2, end: 2.040
    1M      1    16, 32  |             2.098                       seed 2, end: 2.250 (32, 16: 2.119)
    0.5M    1    16, 32  |       2.369           32, 16: 2.349; 8, 32: 2.438; 32, 64: 2.741

Options: streams, length (with --lr 8e-3). One thread of a busy two-core AMD EPYC (Zen 4), torch 2.13.0+cpu: 14 minutes
for 10M. Few settings were tried and seeds differ by 0.15 at 1M: backpropagation can do at least this.
"""

import argparse
import json
import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import data

POINTS = [250_000, 500_000, 1_000_000, 1_500_000, *(m * 1_000_000 for m in (2, 3, 4, 6, 8, 10))]
SIZE, LAYERS = 64, 2
LANES, PIECE = 64, 256  # of the validation split: lanes read side by side, bytes at a time


class Layer(nn.Module):
    """Norm, gated recurrent unit, residual; norm, MLP of four times the width, residual."""

    def __init__(self, size):
        super().__init__()
        self.norm, self.mlp_norm = nn.RMSNorm(size), nn.RMSNorm(size)
        self.w = nn.Linear(size, 2 * size)  # w_f, w_h and their biases
        self.u_f, self.u_h = (nn.Parameter(torch.empty(size, size)) for _ in range(2))
        self.up, self.down = nn.Linear(size, 4 * size, False), nn.Linear(4 * size, size, False)

    def forward(self, x, h, keep):
        """x (T, B, D), h (B, D), keep (T, B, 1) -> x and h after the last byte."""
        states = []
        f_in, c_in = self.w(self.norm(x)).chunk(2, -1)
        for f, c, k in zip(f_in.unbind(), c_in.unbind(), keep.unbind(), strict=True):
            h = h * k
            f = torch.sigmoid(torch.addmm(f, h, self.u_f))
            c = torch.tanh(torch.addmm(c, f * h, self.u_h))
            h = torch.lerp(h, c, f)
            states.append(h)
        x = x + torch.stack(states)
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x)))), h


class Model(nn.Module):
    """egg's tensors in float32, with RMS norms, smooth gates and a GELU."""

    def __init__(self, size, layers):
        super().__init__()
        self.embedding = nn.Embedding(256, size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(size), nn.Linear(size, 256, False)
        for name, p in self.named_parameters():
            if name.endswith("bias") or name == "head.weight":
                nn.init.zeros_(p)
            elif p.dim() == 2 and name != "embedding.weight":
                nn.init.normal_(p, std=p.shape[1] ** -0.5)

    def forward(self, tokens, states):
        """Tokens (T, B) int64, a state (B, D) of each layer -> logits (T, B, 256), new states."""
        x, after = self.embedding(tokens), []
        keep = (tokens != 0)[..., None].float()  # a NUL, before each document, resets the state
        for layer, h in zip(self.layers, states, strict=True):
            x, h = layer(x, h, keep)
            after.append(h)
        return self.head(self.norm(x)), after


def lanes_of(text, starts, length):
    """Inputs and targets, (length, streams) int64, of text that wraps round."""
    places = (np.arange(length + 1)[:, None] + starts) % len(text)
    tokens = torch.from_numpy(text[places].astype(np.int64))
    return tokens[:-1], tokens[1:]


@torch.no_grad()
def bits_per_byte(model, text):
    """Mean over the bytes of all documents, their NULs aside: what ``egg eval`` reports.

    The split is cut into LANES equal pieces, each read from state zero; what does not divide, under 64 bytes, is left.
    """
    width = (len(text) - 1) // LANES
    states, bits, count = [torch.zeros(LANES, SIZE)] * LAYERS, 0.0, 0
    for offset in range(0, width, PIECE):
        starts = np.arange(LANES) * width + offset
        inputs, targets = lanes_of(text, starts, min(PIECE, width - offset))
        logits, states = model(inputs, states)
        kept = targets != 0
        bits += functional.cross_entropy(logits[kept], targets[kept], reduction="sum").item()
        count += int(kept.sum())
    return bits / count / math.log(2)


def main():
    """Train, and print a line of JSON at every point and at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=float, default=10e6, help="the schedule's horizon: 2e6")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lr", type=float, default=6e-3, help="largest step size of Adam")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--length", type=int, default=64, help="bytes of truncated backpropagation")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    corpus = data.open_corpus("stdlib")
    train, validation = (np.asarray(corpus.split(name)) for name in ("train", "validation"))
    model = Model(SIZE, LAYERS)
    streams, length = options.streams, options.length
    steps = max(2, int(options.tokens) // (streams * length))
    adam = torch.optim.Adam(model.parameters(), lr=options.lr, betas=(0.9, 0.99))
    cycle = {"pct_start": 0.1, "cycle_momentum": False}
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, options.lr, steps, **cycle)
    # The seed moves the streams too: other seeds read other text at small budgets.
    first = np.random.default_rng(options.seed).integers(len(train))
    starts = first + np.arange(streams) * len(train) // streams
    states, points, began = [torch.zeros(streams, SIZE)] * LAYERS, POINTS, time.perf_counter()
    for step in range(steps):
        inputs, targets = lanes_of(train, starts + step * length, length)
        logits, states = model(inputs, [h.detach() for h in states])
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        seen = (step + 1) * streams * length
        if step + 1 == steps or seen >= points[0]:
            points = [p for p in points if p > seen] or [math.inf]
            line = {"tokens": seen, "bits_per_byte": round(bits_per_byte(model, validation), 4)}
            print(json.dumps(line | {"seconds": round(time.perf_counter() - began)}), flush=True)


if __name__ == "__main__":
    main()
