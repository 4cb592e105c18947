"""The shape of hidden states along a run, from its first step, and beside its loss.

    python docs/experiments/geometry.py FOLDER --hidden-size 64 --num-layers 2 --tokens 1M
    python docs/experiments/geometry.py FOLDER --tokens 1M --every 10 --step-size 4 --schedule constant

Measures after steps 1, 2, 3, 5, 7, 11, ... (half as many again each), and after every EVERY steps if that is given: the
validation loss, and of every layer what egg geometry measures. FOLDER/run is the run; FOLDER/geometry.jsonl has a line
a measurement, FOLDER/geometry.png is their picture. With EVERY it prints how changes of the loss correlate with changes
of a figure so many measurements before or after: more than 0 at -1 says that the figure rises before the loss.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import egg
from egg.config import RunConfig
from egg.kernels import Shape, get_backend
from egg.model.evaluate import evaluate, sample
from egg.model.network import Network
from egg.study.geometry import measure_cloud
from egg.study.states import hidden_states
from egg.training.corpus import open_for_training

LAGS = range(-3, 4)


def measure(network, text, tokens, points) -> dict:
    """A line of geometry.jsonl."""
    layers = {}
    for (layer, kind), cloud in hidden_states(network, text, points, 16).items():
        found = measure_cloud(cloud)
        layers[f"layer {layer}, {kind}"] = [found.anisotropy, found.twonn, found.mle]
    return {"tokens": tokens, "bits_per_byte": evaluate(network, text).bits_per_byte, "layers": layers}


def correlations(rows: list[dict], layer: str, figure: int) -> dict[int, float]:
    """Lag -> correlation of a change of the loss with the change of a figure so many measurements later."""
    loss = np.diff([row["bits_per_byte"] for row in rows])
    other = np.diff([row["layers"][layer][figure] for row in rows])
    found = {}
    for lag in LAGS:
        pair = (loss[: len(loss) - lag], other[lag:]) if lag >= 0 else (loss[-lag:], other[:lag])
        found[lag] = float(np.corrcoef(*pair)[0, 1])
    return found


def draw(rows: list[dict], path: Path, logarithmic: bool) -> None:
    """Loss, anisotropy and dimension over tokens."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator

    figure = Figure(figsize=(9, 9), dpi=100, layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    at = [row["tokens"] for row in rows]
    loss = [row["bits_per_byte"] for row in rows]
    panels[0].plot(at, loss, "k.-", linewidth=1)
    if not logarithmic:
        panels[0].set_ylim(0.95 * min(loss), 1.1 * np.quantile(loss, 0.95))  # the first steps are off the panel
    for panel, number in ((panels[1], 0), (panels[2], 1)):
        for layer in rows[0]["layers"]:
            values = [row["layers"][layer][number] for row in rows]
            values = [np.nan if value is None else value for value in values]
            panel.plot(at, values, ".-" if "state" in layer else ".--", linewidth=1, label=layer)
    for panel, label in zip(panels, ("validation, bits per byte", "anisotropy", "dimension, TwoNN"), strict=True):
        panel.set_ylabel(label)
        panel.grid(alpha=0.3, which="both")
    if logarithmic:
        panels[2].set_xscale("log")
        panels[2].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[2].xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[2].set_xlabel("tokens")
    panels[1].legend(fontsize=7, ncols=2)
    figure.savefig(path)


def main(a) -> None:
    """Train, measure, draw."""
    folder = Path(a.folder)
    corpus, _, split = open_for_training(RunConfig(data=a.data), print)
    text = sample(corpus.split(split), 20 * a.points)
    backend, rows = get_backend("auto", threads=a.threads), []
    settings = {"hidden_size": a.hidden_size, "num_layers": a.num_layers, "tokens": a.tokens, "schedule": a.schedule}
    if a.step_size:
        settings["step_size"] = a.step_size
    left = {1 + int(1.5**k) for k in range(40)} | {1}
    more = {"credit": "stations", "seed": a.seed, "threads": a.threads, "eval_every": 0, "checkpoint_every": 0}
    with egg.train("quickstart", data=a.data, out=folder / "run", **settings, **more) as training:
        for report in training:
            if report.step in left or (a.every and report.step % a.every == 0):
                network = Network(backend, Shape(a.hidden_size, a.num_layers), report.after)
                rows.append(measure(network, text, report.tokens, a.points))
                with open(folder / "geometry.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    draw(rows, folder / "geometry.png", not a.every)
    if a.every:
        between = a.every * report.tokens // report.step
        regular = [row for row in rows if row["tokens"] % between == 0]
        for layer in rows[0]["layers"]:
            for figure, name in ((0, "anisotropy"), (1, "TwoNN")):
                found = correlations(regular, layer, figure)
                print(f"{layer}, {name}: " + ", ".join(f"{lag:+d} {value:+.2f}" for lag, value in found.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--tokens", default="1M")
    parser.add_argument("--every", type=int, default=0)
    parser.add_argument("--step-size", type=float)
    parser.add_argument("--schedule", default="cosine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--threads", type=int)
    main(parser.parse_args())
