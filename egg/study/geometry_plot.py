"""The shape of hidden states as pictures: over layers, and over training."""

from pathlib import Path

from egg.files import save_figure
from egg.report.plots import log_axis
from egg.study.geometry import CheckpointGeometry
from egg.study.states import KINDS
from egg.view.figures import count

LAYERS, TRAINING = "geometry-layers.png", "geometry-training.png"
FIGURES = {"anisotropy": "anisotropy", "twonn": "intrinsic dimension, TwoNN", "mle": "intrinsic dimension, MLE"}
NAMES = {"state": "state h", "stream": "stream x"}


def plot_layers(measured: list[CheckpointGeometry], path: Path) -> None:
    """Draw every figure over the layers: a row a size, a line a checkpoint, states full and streams dashed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(m.size for m in measured))
    figure = Figure(figsize=(11, 0.6 + 3.2 * len(sizes)), dpi=110, layout="constrained")
    panels = figure.subplots(len(sizes), len(FIGURES), squeeze=False)
    for row, size in zip(panels, sizes, strict=True):
        group = sorted((m for m in measured if m.size == size), key=_tokens)
        colors = colormaps["viridis_r"]([(i + 1) / len(group) for i in range(len(group))])
        for panel, (figure_name, label) in zip(row, FIGURES.items(), strict=True):
            for m, color in zip(group, colors, strict=True):
                for kind, style in zip(KINDS, ("o-", "s--"), strict=True):
                    at = [r.layer for r in m.layers if r.kind == kind]
                    values = [_value(r, figure_name) for r in m.layers if r.kind == kind]
                    name = _label(m) if kind == "state" else None
                    panel.plot(at, values, style, color=color, markersize=3.5, linewidth=1.2, label=name)
            panel.set_xticks(range(group[0].shape.num_layers))
            panel.set_xlabel("layer")
            panel.set_ylabel(label)
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
        row[1].set_title(f"{size}: {NAMES['state']} full, {NAMES['stream']} dashed", fontsize=10)
        row[-1].legend(fontsize=7, title="tokens", title_fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.02))
    save_figure(figure, path, follow=True)


def plot_training(measured: list[CheckpointGeometry], path: Path) -> None:
    """Draw every figure over tokens: a color a size and layer, states full and streams dashed."""
    from matplotlib.figure import Figure

    known = sorted((m for m in measured if m.tokens), key=_tokens)
    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(FIGURES))
    keys = list(dict.fromkeys((m.size, r.layer) for m in known for r in m.layers))
    for panel, (figure_name, label) in zip(panels, FIGURES.items(), strict=True):
        for number, (size, layer) in enumerate(keys):
            for kind, style in zip(KINDS, ("o-", "s--"), strict=True):
                found = [
                    (m.tokens, _value(r, figure_name))
                    for m in known
                    if m.size == size
                    for r in m.layers
                    if (r.layer, r.kind) == (layer, kind)
                ]
                name = f"{size}, layer {layer}, {NAMES[kind]}"
                panel.plot(
                    *zip(*found, strict=True), style, color=f"C{number % 10}", markersize=3, linewidth=1.2, label=name
                )
        if known:
            panel.set_xscale("log")
            log_axis(panel.xaxis, [m.tokens for m in known])
        panel.set_xlabel("tokens of training")
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    if known:
        lines = panels[0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path, follow=True)


def _value(row, figure: str) -> float:
    value = getattr(row.geometry, figure)
    return float("nan") if value is None else value


def _tokens(m: CheckpointGeometry) -> int:
    return m.tokens or 0


def _label(m: CheckpointGeometry) -> str:
    return "?" if m.tokens is None else count(m.tokens)
