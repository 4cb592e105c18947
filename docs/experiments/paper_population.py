"""Table and picture of loss against population size, from the results of paper-population.toml.

egg compare docs/experiments/paper-population.toml --out runs/paper-population
python docs/experiments/paper_population.py runs/paper-population population.png
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from egg.files import save_figure

LABELS = {"steps": "100 steps of 100 bytes", "tokens": "26M member-tokens"}


def main(folder, picture):
    """Print the table, write the picture."""
    found = defaultdict(lambda: defaultdict(list))
    for line in (Path(folder) / "results.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        kind, population = row["name"].split("-")
        found[kind][int(population)].append(row["bits_per_byte"])
    for kind, sizes in found.items():
        print(f"\n| population | {LABELS[kind]}: bits per byte, a seed each |\n| --- | --- |")
        for population in sorted(sizes):
            print(f"| {population:,} | {', '.join(f'{bits:.3f}' for bits in sizes[population])} |")
    figure = Figure(figsize=(6.5, 4), dpi=110, layout="constrained")
    panel = figure.subplots()
    for kind, sizes in found.items():
        ordered = sorted(sizes)
        panel.plot(ordered, [sum(sizes[n]) / len(sizes[n]) for n in ordered], "o-", markersize=4, label=LABELS[kind])
    panel.set(xscale="log", xlabel="population size", ylabel="validation, bits per byte")
    ticks = sorted({n for sizes in found.values() for n in sizes})
    panel.set_xticks(ticks, [f"{n:,}" for n in ticks])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    save_figure(figure, Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:])
