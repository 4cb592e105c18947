"""Adapters against fine-tuning all weights, and against the classic evolution strategy, each for its own tokens.

    python docs/experiments/adapt.py MODEL --data TEXT --out results.jsonl --kinds 1 2 full classic --seeds 0 1 2
    python docs/experiments/adapt.py --table results.jsonl
    python docs/experiments/adapt.py --plot curves.png results.jsonl

Appends a line for each kind and seed that the file lacks, with its curve; an adapter's has merged_bits_per_byte too.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean

import numpy as np

import egg
from egg.config import RunConfig
from egg.evolution.classic import ClassicEvolution, ClassicSettings
from egg.model.evaluate import evaluate, sample
from egg.run.adaptation import adapt
from egg.training.corpus import open_for_training

POINTS = 10


def classic(network, text, validation, budget, seed):
    """The curve of the classic evolution strategy from the same weights."""
    tokens = ClassicSettings(1).tokens_per_step
    settings = ClassicSettings(budget // tokens, seed=seed)
    evolution = ClassicEvolution(network, text, settings)
    curve, every = [], max(1, settings.steps // POINTS)
    for step in range(settings.steps + 1):
        if step:
            evolution.step()
        if step % every == 0 or step == settings.steps:
            now = evolution.network if step else network
            curve.append((step * tokens, evaluate(now, validation).bits_per_byte))
    return curve


def run(arguments) -> None:
    """What is asked for and not there yet."""
    network = egg.load(arguments.model, threads=arguments.threads)
    corpus, text, split = open_for_training(RunConfig(data=arguments.data), print)
    validation = sample(corpus.split(split), arguments.eval_bytes)
    out, given = Path(arguments.out), (network, text, validation)
    there = {(r["kind"], r["seed"]) for r in _rows(out)} if out.exists() else set()
    for seed in arguments.seeds:
        for kind in arguments.kinds:
            if (kind, seed) in there:
                continue
            began, row = time.perf_counter(), {"kind": kind, "seed": seed}
            if kind == "classic":
                row["curve"] = classic(*given, arguments.tokens, seed)
            else:
                found = adapt(
                    *given,
                    rank=None if kind == "full" else int(kind),
                    seed=seed,
                    tokens=arguments.tokens,
                    step_factor=arguments.step_factor,
                    measurements=POINTS,
                )
                row |= {"curve": found.curve, "evolved": found.evolved}
                if found.network.adapter:
                    merged = evaluate(found.network.merged(), validation)
                    row["merged_bits_per_byte"] = merged.bits_per_byte
            row["seconds"] = round(time.perf_counter() - began, 1)
            with open(out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(kind, seed, f"{row['curve'][-1][1]:.4f}, {row['seconds']} s", file=sys.stderr)


def _rows(path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def table(path) -> None:
    """Means over seeds, as Markdown."""
    kinds: dict[str, list[dict]] = {}
    for row in _rows(path):
        kinds.setdefault(row["kind"], []).append(row)

    def gains(kind):
        return np.array([r["curve"][0][1] - r["curve"][-1][1] for r in kinds[kind]])

    full = gains("full").mean()
    print("| evolves | parameters | after, each seed | gain | of full | merged |\n|" + " --- |" * 6)
    for kind, rows in kinds.items():
        after = ", ".join(f"{r['curve'][-1][1]:.3f}" for r in rows)
        merged = [r["merged_bits_per_byte"] for r in rows if "merged_bits_per_byte" in r]
        print(
            f"| {kind} | {rows[0].get('evolved', '')} | {after} | {gains(kind).mean():.3f} | "
            f"{gains(kind).mean() / full:.0%} | {f'{fmean(merged):.3f}' if merged else ''} |"
        )
    print(f"\nbefore: {rows[0]['curve'][0][1]:.3f} bits per byte")


def plot(picture, paths) -> None:
    """Curves of every seed, a panel for each file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(paths), 3.6), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(paths), sharey=True, squeeze=False)[0]
    files = [_rows(path) for path in paths]
    kinds = sorted({row["kind"] for rows in files for row in rows})  # one colour each in all panels
    for panel, path, rows in zip(panels, paths, files, strict=True):
        for row in sorted(rows, key=lambda row: row["kind"]):
            number = kinds.index(row["kind"])
            label = row["kind"] if row["kind"] in ("full", "classic") else f"rank {row['kind']}"
            first = row["seed"] == min(r["seed"] for r in rows)
            tokens, bits = zip(*row["curve"], strict=True)
            panel.plot([t / 1e6 for t in tokens], bits, f"C{number}", linewidth=1, label=label if first else None)
        panel.set_title(Path(path).stem, fontsize=9)
        panel.set_xlabel("million tokens")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0].set_ylabel("bits per byte")
    figure.savefig(picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--data")
    parser.add_argument("--out")
    parser.add_argument("--kinds", nargs="+", default=["1", "2", "full"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--step-factor", type=float, default=1.0)
    parser.add_argument("--eval-bytes", type=int, default=131_072)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--table", metavar="RESULTS")
    parser.add_argument("--plot", nargs="+", metavar=("PICTURE", "RESULTS"))
    given = parser.parse_args()
    if given.table:
        table(given.table)
    elif given.plot:
        plot(given.plot[0], given.plot[1:])
    else:
        run(given)
