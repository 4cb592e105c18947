"""Tokens a second of training: egg's step beside PyTorch's in float32, the same shape on the same threads, in turns.

    pip install torch                         # no dependency of egg
    python docs/experiments/peer.py           # 64/2, 16 readers of 32 bytes, all cores; --help has the settings

egg takes whole steps of recipe `egg`, from weights to weights. PyTorch trains the network of backprop.py (its tensors,
RMS norms, smooth gates, a GELU): forward, cross-entropy, truncated backpropagation through the chunk, gradients clipped
to norm 1, fused Adam. It does so with egg's readers and chunk, and, its best case, with more readers at a time, which
learn less from a byte; with --compile also through torch.compile, which takes minutes. Text is drawn before the clock
starts. All take turns, and rates are of the median turn. What the two learn from a byte differs: docs/learning.md.
"""

import argparse
import json
import statistics
import time

import numpy as np
from backprop import Model, functional, nn, torch

from egg.bench.cases import Case, make_job
from egg.kernels import Shape, get_backend

REST = 0.5  # seconds between turns: OpenMP's threads keep a core for a while after PyTorch's last step


def torch_step(options, readers, compiled):
    """A function that takes one step of training, on text drawn beforehand."""
    torch.manual_seed(1)
    model = Model(options.hidden_size, options.num_layers)
    adam = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.99), fused=True)
    states = torch.zeros(options.num_layers, readers, options.hidden_size)
    text = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (options.length + 1, readers)))

    def loss(tokens, targets, states):
        logits, after = model(tokens, states)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), after

    if compiled:
        loss = torch.compile(loss)

    def step():
        nonlocal states
        value, after = loss(text[:-1], text[1:], states)
        adam.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        states = after.detach()

    return step


def seconds(step, least):
    """Mean seconds of as many steps as take ``least`` seconds together."""
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < least:
        step()
        steps += 1
    return (time.perf_counter() - began) / steps


def main():
    """Time all in turns, and print a line for each, or one object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--readers", type=int, default=16, help="streams of a step")
    parser.add_argument("--length", type=int, default=32, help="bytes that each reads in a step")
    parser.add_argument("--threads", type=int, help="of both; none: all cores")
    parser.add_argument("--more", type=int, nargs="*", default=[64, 256, 1024], help="further readers for PyTorch")
    parser.add_argument("--compile", action="store_true", help="also through torch.compile, which takes minutes")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    backend = get_backend("numba", threads=options.threads)
    torch.set_num_threads(backend.threads)
    case = Case("step", "egg", Shape(options.hidden_size, options.num_layers), options.readers, options.length)
    steps = {("egg", options.readers): make_job(case, backend).call}
    for compiled in (False, True)[: 1 + options.compile]:
        name = "PyTorch, compiled" if compiled else "PyTorch"
        for readers in dict.fromkeys([options.readers, *options.more]):
            steps[name, readers] = torch_step(options, readers, compiled)
    for step in steps.values():  # compiled, and buffers made
        step()
    found = {key: [] for key in steps}
    for _ in range(options.turns):
        for key, step in steps.items():
            found[key].append(seconds(step, options.seconds))
            time.sleep(REST)
    rates = {
        (name, readers): [readers * options.length / f(s) for f in (statistics.median, max, min)]
        for (name, readers), s in found.items()
    }
    ours = rates["egg", options.readers][0]
    rows = [
        {
            "name": name,
            "hidden_size": options.hidden_size,
            "num_layers": options.num_layers,
            "readers": readers,
            "seq_len": options.length,
            "tokens_per_second": round(median, 1),
            "spread": [round(low, 1), round(high, 1)],
            "egg_is_times_as_fast": round(ours / median, 2),
        }
        for (name, readers), (median, low, high) in rates.items()
    ]
    if options.json:
        print(json.dumps({"threads": backend.threads, "torch": torch.__version__, "rows": rows}))
        return
    print(f"{options.hidden_size}/{options.num_layers}, {backend.threads} threads, torch {torch.__version__}")
    for row in rows:
        low, high = row["spread"]
        print(
            f"{row['name']:18} {row['readers']:5} x {row['seq_len']}: {row['tokens_per_second']:10,.0f} tokens/s "
            f"({low:,.0f} to {high:,.0f}), egg is {row['egg_is_times_as_fast']} times as fast"
        )


if __name__ == "__main__":
    main()
