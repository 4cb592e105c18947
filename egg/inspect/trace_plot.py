"""A trace as a picture: surprise of every byte, gates, and where values are clipped."""

from pathlib import Path

import numpy as np

from egg.files import save_figure
from egg.inspect.trace import Trace, byte_label
from egg.inspect.trace_screen import color

MAX_LABELS = 120  # bytes; of a longer text the bars are not labelled


def plot_trace(traced: Trace, path: Path) -> None:
    """Draw surprise, gate openness and the share clipped, byte by byte, in one picture."""
    from matplotlib.figure import Figure

    at = np.arange(1, len(traced.tokens))
    width = float(np.clip(2.4 + 0.16 * len(at), 8, 22))
    height = 0.13 * len(traced.stages)
    figure = Figure(figsize=(width, 4.5 + height), dpi=90, layout="constrained")
    top, middle, low = figure.subplots(3, 1, sharex=True, height_ratios=[2.4, 1.6, height])
    bits = traced.surprise_bits
    top.bar(at, bits, color=[color(b) for b in bits], width=0.9)
    top.axhline(bits.mean(), color="gray", linewidth=1, linestyle="--")
    top.set_ylabel("surprise, bits")
    top.set_title(f"{len(at)} bytes, {bits.mean():.3f} bits per byte", fontsize=10)
    for stage in traced.stages:
        if stage.openness is not None:
            layer = stage.name.removesuffix(".gate").replace("layers.", "layer ")
            middle.plot(at, stage.openness[1:], ".-", markersize=3, linewidth=1, label=layer)
    middle.set_ylabel("gates open, mean")
    middle.set_ylim(0, 1)
    middle.legend(fontsize=8, ncols=6, loc="upper right")
    shares = np.array([100 * stage.clipped[1:] for stage in traced.stages])
    image = low.imshow(
        shares,
        aspect="auto",
        interpolation="nearest",
        cmap="magma_r",
        vmin=0,
        vmax=max(1.0, float(shares.max())),
        extent=(0.5, len(at) + 0.5, len(shares) - 0.5, -0.5),
    )
    names = [stage.name.removesuffix(".weight") for stage in traced.stages]
    low.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(image, ax=low, label="share clipped, %", pad=0.01)
    if len(at) <= MAX_LABELS:
        labels = [byte_label(b) for b in traced.tokens[1:]]
        low.set_xticks(at, labels, fontsize=7)
    low.set_xlabel("byte of the text")
    save_figure(figure, path, follow=True)
