"""loss.png: how a run's loss fell, from its metrics.jsonl."""

from pathlib import Path

import numpy as np

from egg.runlog import METRICS, VALIDATION, read_lines

LOSS = "loss.png"
POINTS = 300  # of the training curve: each is the mean of as many steps as that takes


def plot_loss(run: Path) -> Path | None:
    """Draw a run's training and validation loss over member-tokens; returns the picture's path.

    None if the run has no steps to draw.
    """
    train, validation = [], []
    for _, _, record in read_lines(run / METRICS):
        train.append((record["member_tokens"], record["train_integer_bits_per_byte"]))
        if VALIDATION in record:
            validation.append((record["member_tokens"], record[VALIDATION]))
    if not train:
        return None

    # Slow to import; and pyplot would look for a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(
        *_smooth(np.array(train)), color="tab:blue", alpha=0.7, label="training, integer score"
    )
    if validation:
        tokens, bits = np.array(validation).T
        style = "o-" if len(validation) < 60 else "-"
        label = f"validation, exact: {bits[-1]:.3f} at the end, {bits.min():.3f} at best"
        axes.plot(tokens, bits, style, color="tab:red", markersize=3.5, label=label)
    axes.set_xlabel("member-tokens")
    axes.set_ylabel("bits per byte")
    axes.set_title(run.resolve().name)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.legend()
    path = run / LOSS
    figure.savefig(path)
    return path


def _smooth(points: np.ndarray) -> np.ndarray:
    """Means of neighbouring points, POINTS of them at the most: (n, 2) -> (2, m)."""
    each = -(-len(points) // POINTS)
    at = np.arange(0, len(points), each)
    sizes = np.diff(np.append(at, len(points)))[:, None]
    return (np.add.reduceat(points, at) / sizes).T
