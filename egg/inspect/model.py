"""A model's tensors: statistics of their weights, and how far these have moved since the start."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from egg.errors import EggError
from egg.files import save_figure
from egg.kernels.arithmetic import LIMIT
from egg.kernels.layout import Shape
from egg.kernels.values import ArrayValue
from egg.model.network import read_model
from egg.model.parameters import initial_weights

RECIPES = ("egg", "paper")
LEVELS = np.arange(-LIMIT, LIMIT + 1)
BARS = 64  # of a histogram: several levels a bar where the range is wide, as some first weights are even numbers alone
MIN_LEVELS = 8
OUTLIERS = 0.001  # share of a tensor's weights that a histogram may leave out: a few would make it narrow


@dataclass(frozen=True)
class TensorStatistics:
    """One tensor."""

    name: str
    shape: tuple[int, ...]
    bytes: int
    min: int
    max: int
    mean_magnitude: float
    """Mean of |w|, in int8 steps."""
    entropy_bits: float
    """Of the weights' frequencies, in bits per weight, at most 8."""
    limit_share: float
    """Share of the weights at +-127."""
    changed_share: float | None
    """Share of the weights that differ from the first ones; None if these are unknown."""


@dataclass(frozen=True, eq=False)
class ModelStatistics(ArrayValue):
    """A model and the statistics of its tensors."""

    path: str
    shape: Shape
    weights: np.ndarray
    first: np.ndarray | None
    """(parameters,) int8 that the run began with; None if config.json does not say."""
    tensors: list[TensorStatistics]
    whole: TensorStatistics
    """All tensors together."""


def measure_model(path: str) -> ModelStatistics:
    """Read a model and measure its tensors.

    path : a run, RUN/best, a checkpoint, or a folder with a model in it
    Raises EggError for a folder that holds no model.
    """
    shape, weights, config = read_model(path)
    first = _first_weights(shape, config)
    views = shape.views(weights)
    before = shape.views(first) if first is not None else dict.fromkeys(views)
    tensors = [_statistics(name, view, before[name]) for name, view in views.items()]
    return ModelStatistics(path, shape, weights, first, tensors, _statistics("all", weights, first))


def _first_weights(shape: Shape, config: dict[str, Any]) -> np.ndarray | None:
    """The weights that a run with this configuration begins with; None if it does not say."""
    settings = config.get("evolution")
    if not isinstance(settings, dict):
        return None
    seed, recipe = settings.get("seed"), settings.get("recipe")
    if type(seed) is not int or not 0 <= seed < 2**64 or recipe not in RECIPES:
        return None
    return initial_weights(shape, seed, recipe)


def _statistics(name: str, weights: np.ndarray, before: np.ndarray | None) -> TensorStatistics:
    wide = weights.astype(np.int16)
    shares = counts(weights) / weights.size
    shares = shares[shares > 0]
    return TensorStatistics(
        name,
        weights.shape,
        weights.nbytes,
        int(wide.min()),
        int(wide.max()),
        int(np.abs(wide).sum(dtype=np.int64)) / weights.size,
        abs(float(-(shares * np.log2(shares)).sum())),
        np.count_nonzero(np.abs(wide) == LIMIT) / weights.size,
        None if before is None else np.count_nonzero(weights != before) / weights.size,
    )


def counts(weights: np.ndarray) -> np.ndarray:
    """(255,) int64: how often each weight -127..127 occurs."""
    return np.bincount(weights.ravel().astype(np.int16) + LIMIT, minlength=2 * LIMIT + 1)


def model_json(model: ModelStatistics) -> dict[str, Any]:
    """The table as JSON."""
    return {
        "path": model.path,
        "hidden_size": model.shape.hidden_size,
        "num_layers": model.shape.num_layers,
        "parameters": model.shape.parameters,
        "tensors": [asdict(tensor) for tensor in model.tensors],
        "all": asdict(model.whole),
    }


def print_model(model: ModelStatistics, out) -> None:
    """Print the table."""
    from egg.view.screen import table

    columns = ["tensor", "shape", "bytes", "min", "max", "mean |w|", "entropy", "at ±127", "changed"]
    rows = []
    for t in [*model.tensors, model.whole]:
        shape = " x ".join(map(str, t.shape)) if t is not model.whole else ""
        changed = "-" if t.changed_share is None else f"{100 * t.changed_share:.1f} %"
        rows.append(
            [
                t.name,
                shape,
                f"{t.bytes:,}",
                str(t.min),
                str(t.max),
                f"{t.mean_magnitude:.2f}",
                f"{t.entropy_bits:.3f}",
                f"{100 * t.limit_share:.2f} %",
                changed,
            ]
        )
    styles = [None] * len(model.tensors) + ["bold"]
    title = (
        f"{model.path}: hidden size {model.shape.hidden_size}, {model.shape.num_layers} layers, "
        f"{model.shape.parameters:,} weights"
    )
    out.print(table(title, columns, rows, left=2, styles=styles))
    out.print("mean |w| in int8 steps (16 is 1.0), entropy in bits per weight, changed since step 0")


def plot_histograms(model: ModelStatistics, path: Path) -> None:
    """Draw a histogram of every tensor's weights, now and at step 0, in one picture, each over its own range."""
    from matplotlib.figure import Figure

    views = model.shape.views(model.weights)
    before = model.shape.views(model.first) if model.first is not None else {}
    columns = min(5, max(3, round(len(views) ** 0.5)))
    rows = -(-len(views) // columns)
    if rows > 200:
        raise EggError(f"{len(views)} tensors are too many for one picture: use the table")
    figure = Figure(figsize=(2.6 * columns, 1.7 * rows + 0.5), dpi=90, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (name, weights) in zip(panels, views.items(), strict=False):
        now = counts(weights) / weights.size
        old = counts(before[name]) / weights.size if name in before else now
        edges = _edges(now, old)
        shares, shares_before = (100 * np.histogram(LEVELS, edges, weights=each)[0] for each in (now, old))
        top = 1.15 * shares.max()
        panel.stairs(shares, edges, fill=True, color="tab:blue", alpha=0.75, linewidth=0)
        if name in before and old.max() == 1:  # all were equal
            panel.axvline(LEVELS[old.argmax()], color="tab:orange", linewidth=1.2)
        elif name in before:
            panel.stairs(shares_before, edges, color="tab:orange", linewidth=0.8)
            top = max(top, 1.15 * shares_before.max())
        panel.set_title(name, fontsize=8)
        panel.set_xlim(edges[0], edges[-1])
        panel.tick_params(labelsize=6)
        panel.set_ylim(0, top)
    for panel in panels[len(views) :]:
        panel.set_axis_off()
    content = "weights now (blue) and at step 0 (orange)" if before else "weights"
    figure.suptitle(
        f"{Path(model.path).resolve().name}: {content}, share in % over int8 steps, all but {OUTLIERS:.1%} of them",
        fontsize=10,
    )
    save_figure(figure, path, follow=True)


def _edges(*shares: np.ndarray) -> np.ndarray:
    """Edges of at most BARS bars of equally many weights' levels, that hold all but OUTLIERS of each distribution.

    shares : (255,) float64, of each level
    """
    held = [
        np.flatnonzero((each.cumsum() > OUTLIERS / 2) & (each[::-1].cumsum()[::-1] > OUTLIERS / 2)) for each in shares
    ]
    low, high = min(h[0] for h in held) - LIMIT, max(h[-1] for h in held) - LIMIT
    if high - low < MIN_LEVELS:  # few levels, or a single one, stay narrow bars
        low = (low + high - MIN_LEVELS) // 2
        high = low + MIN_LEVELS
    width = -(-(high - low + 1) // BARS)
    return np.arange(low, high + width + 1, width) - 0.5
