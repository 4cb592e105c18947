"""Tokens and seconds that backpropagation needs for a level of bits per byte: the yardstick for egg's.

    pip install torch                                 # no dependency of egg
    python docs/experiments/backprop.py --tokens 1e6 --threads 1         # 64/2 on stdlib; --help has the settings

Horizons that end near a level of stdlib's validation split (CPython 3.11.7), where they end in brackets; one thread of
a two-core AMD EPYC (Zen 4), torch 2.13.0+cpu. Seconds are the CPU's, of training alone: others worked on the machine.

    streams, length, lr | 2.6                  2.4                   2.2
    8, 16, 5e-3         | 0.14M 7 s (2.612)    0.22M 12 s (2.400)    0.37M 21 s (2.197)     the default
      seed 2            | 0.14M 9 s (2.617)    0.22M 12 s (2.385)    0.37M 21 s (2.210)
    16, 16, 8e-3        | 0.18M 6 s (2.595)    0.30M 10 s (2.334)    0.50M 18 s (2.134)

Bits per byte after as many M tokens of the default, seed 1, one horizon a row:

    horizon | 0.125 0.25  0.5   1     1.5   2     3     4      CPU seconds
    0.5M    | 2.711 2.351 2.082                                30
    1M      | 2.770 2.439 2.186 1.921                          54
    4M      | 3.050 2.605 2.415 2.179 2.023 1.944 1.795 1.738  234

Tried at 0.25M (streams, length: bits per byte at a step size; the embedding begins with a deviation of 1): 16, 32:
2.686 at 4e-3, 2.638 at 8e-3 and 1.6e-2, 2.689 at 8e-3 where 16 streams do not take turns with others; 32, 16: 2.617
at 1.6e-2; 16, 16: 2.490 at 8e-3; 8, 32: 2.488 at 8e-3; 8, 16: 2.391 at 8e-3, 2.360 at 5e-3. With a deviation of 0.5:
8, 16: 2.344 at 5e-3; 4, 16: 2.310 at 3e-3, in 1.5 times the seconds; 4, 32: 2.325 at 5e-3; 8, 8: 2.346 at 5e-3. With
0.25: 8, 16: 2.336 at 5e-3. With u_f, u_h and w_down zero: 16, 16: 2.533. At 32, 16, 1e-2 0.4M end at 2.274 in 10 s. A
second thread was 7 times slower on the busy machine, where threads wait for each other at every small product, and
torch.compile of the step no faster after a minute of compiling.
"""

import argparse
import json
import math
import time

import numpy as np

from egg import data

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as error:
    raise SystemExit(f"{error}: this script needs PyTorch, which egg does not: pip install torch") from None

POINTS = [k * 1000 for k in (125, 250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 10000)]
LANES, PIECE = 64, 256  # of the validation split: lanes read side by side, bytes at a time
TURNS = 4096  # text streams that take turns, as in egg


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
            elif name == "embedding.weight":
                nn.init.normal_(p, std=0.25)
            elif p.dim() == 2:
                nn.init.normal_(p, std=p.shape[1] ** -0.5)

    def forward(self, tokens, states):
        """Tokens (T, B) int64, states (L, B, D) -> logits (T, B, 256), new states."""
        x, after = self.embedding(tokens), []
        keep = (tokens != 0)[..., None].float()  # a NUL, before each document, resets the state
        for layer, h in zip(self.layers, states.unbind(), strict=True):
            x, h = layer(x, h, keep)
            after.append(h)
        return self.head(self.norm(x)), torch.stack(after)


class Streams:
    """Text streams, begun evenly over a text that wraps round, each with a state; they take turns in random order.

    count : streams in all, a multiple of those read side by side
    """

    def __init__(self, text, count, states, seed):
        self.text, self.count, self.states = text, count, states
        self.rng = np.random.default_rng(seed)
        # The seed moves the streams too: other seeds read other text at small budgets.
        self.places = self.rng.integers(len(text)) + np.arange(count) * len(text) // count
        self.order = np.empty(0, np.int64)

    def next(self, streams, length):
        """Which streams are read, and inputs and targets, (length, streams) int64."""
        if len(self.order) < streams:
            self.order = self.rng.permutation(self.count)
        chosen, self.order = self.order[:streams], self.order[streams:]
        read = lanes_of(self.text, self.places[chosen], length)
        self.places[chosen] += length
        return torch.from_numpy(chosen), *read


def lanes_of(text, starts, length):
    """Inputs and targets, (length, streams) int64, of text that wraps round."""
    places = (np.arange(length + 1)[:, None] + starts) % len(text)
    tokens = torch.from_numpy(text[places].astype(np.int64))
    return tokens[:-1], tokens[1:]


@torch.no_grad()
def bits_per_byte(model, states, text):
    """Mean over the bytes of all documents, their NULs aside: what ``egg eval`` reports.

    The split is cut into LANES equal pieces, each read from state zero; what does not divide, under 64 bytes, is left.

    states : (L, LANES, D) zeros
    """
    width, bits, count = (len(text) - 1) // LANES, 0.0, 0
    for offset in range(0, width, PIECE):
        starts = np.arange(LANES) * width + offset
        inputs, targets = lanes_of(text, starts, min(PIECE, width - offset))
        logits, states = model(inputs, states)
        kept = targets != 0
        bits += functional.cross_entropy(logits[kept], targets[kept], reduction="sum").item()
        count += int(kept.sum())
    return bits / count / math.log(2)


def options_of(description):
    """The command line that both yardsticks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tokens", type=float, default=1e6, help="the schedule's horizon: 2e6")
    parser.add_argument("--data", default="stdlib", help="a corpus, as egg train takes it")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--streams", type=int, default=8, help="read side by side")
    parser.add_argument("--length", type=int, default=16, help="bytes of truncated backpropagation")
    parser.add_argument("--turns", type=int, default=0, help=f"text streams in all; 0: {TURNS}")
    parser.add_argument("--lr", type=float, default=5e-3, help="largest step size")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores; one is the fastest at 64/2")
    return parser


def splits(spec):
    """A corpus' texts to train and to validate on, uint8."""
    corpus = data.open_corpus(spec)
    return (np.asarray(corpus.split(s)) for s in (corpus.training_split, corpus.validation_split))


class Clock:
    """Seconds of training, of the wall's clock and of the CPU's, that of all threads."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def __enter__(self):
        self.began = time.perf_counter(), time.process_time()

    def __exit__(self, *_):
        self.wall += time.perf_counter() - self.began[0]
        self.cpu += time.process_time() - self.began[1]


def train(options, update, steps, streams, evaluated):
    """Take steps, and print a line of JSON at every point and at the end.

    update : takes inputs, targets and states, and gives the states after, having learnt
    evaluated : gives bits per byte
    """
    points, clock = POINTS, Clock()
    for step in range(steps):
        with clock:
            chosen, inputs, targets = streams.next(options.streams, options.length)
            streams.states[:, chosen] = update(step, inputs, targets, streams.states[:, chosen])
        seen = (step + 1) * options.streams * options.length
        if step + 1 == steps or seen >= points[0]:
            points = [p for p in points if p > seen] or [math.inf]
            line = {"tokens": seen, "bits_per_byte": round(evaluated(), 4)}
            line |= {"seconds": round(clock.wall, 1), "cpu_seconds": round(clock.cpu, 1)}
            print(json.dumps(line), flush=True)


def main():
    """Train, and print a line of JSON at every point and at the end."""
    options = options_of(__doc__.splitlines()[0]).parse_args()
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    text, validation = splits(options.data)
    model = Model(options.hidden_size, options.num_layers)
    steps = max(2, int(options.tokens) // (options.streams * options.length))
    adam = torch.optim.Adam(model.parameters(), lr=options.lr, betas=(0.9, 0.99), fused=True)
    cycle = {"pct_start": 0.1, "cycle_momentum": False}
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, options.lr, steps, **cycle)

    def zeros(count):
        return torch.zeros(options.num_layers, count, options.hidden_size)

    def update(step, inputs, targets, states):
        logits, states = model(inputs, states)
        adam.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        return states.detach()

    turns = (options.turns or TURNS) // options.streams * options.streams
    streams = Streams(text, turns, zeros(turns), options.seed)
    train(options, update, steps, streams, lambda: bits_per_byte(model, zeros(LANES), validation))


if __name__ == "__main__":
    main()
