"""Pictures of how the loss fell, from runs' metrics.jsonl."""

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


def plot_comparison(out: Path, results) -> Path:
    """Draw the validation loss of a comparison's runs, their mean and range over seeds; returns the picture's path.

    results : egg.compare.Result of each run, whose folder is out/NAME/seed-N
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for number, name in enumerate(dict.fromkeys(r.name for r in results)):
        curves = [_validation(out / name / f"seed-{r.seed}") for r in results if r.name == name]
        points = min(
            map(len, curves)
        )  # (member-tokens, seconds, bits) at the same steps for every seed
        stacked = np.array([curve[:points] for curve in curves])
        bits, style = stacked[:, :, 2], {"color": f"C{number}"}
        for panel, x in zip(panels, (stacked[0, :, 0], stacked[:, :, 1].mean(0)), strict=True):
            panel.plot(x, bits.mean(0), "o-", markersize=3, label=name, **style)
            panel.fill_between(x, bits.min(0), bits.max(0), alpha=0.2, linewidth=0, **style)
    for panel, label in zip(panels, ("member-tokens", "seconds"), strict=True):
        panel.set_xlabel(label)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("bits per byte, validation")
    panels[0].legend()
    path = out / "curves.png"
    figure.savefig(path)
    return path


def _validation(run: Path) -> np.ndarray:
    """(n, 3): member-tokens, seconds and exact bits per byte at each of a run's measurements."""
    records = (record for _, _, record in read_lines(run / METRICS) if VALIDATION in record)
    return np.array([(r["member_tokens"], r["seconds"], r[VALIDATION]) for r in records])


def _smooth(points: np.ndarray) -> np.ndarray:
    """Means of neighbouring points, POINTS of them at the most: (n, 2) -> (2, m)."""
    each = -(-len(points) // POINTS)
    at = np.arange(0, len(points), each)
    sizes = np.diff(np.append(at, len(points)))[:, None]
    return (np.add.reduceat(points, at) / sizes).T
