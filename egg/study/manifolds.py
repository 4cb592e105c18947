"""Clouds of known intrinsic dimension, on which the estimators of ``egg geometry`` are checked."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from egg.study.geometry import measure_cloud

SCALE = 40.0  # int8 steps, about the spread of a trained model's states
REPEATS = 3  # clouds of each manifold


@dataclass(frozen=True)
class ManifoldEstimates:
    """The estimates of one manifold's dimension."""

    name: str
    dimension: int
    """The true one."""
    embedded: int
    """Dimension of the space around it."""
    twonn: float
    """Mean over REPEATS clouds."""
    mle: float
    twonn_grid: float
    """As ``twonn``, from points rounded to integers and limited to +-127, as states are."""
    mle_grid: float
    nearest: float
    """Median distance to the nearest neighbour, of rounded points."""


MANIFOLDS = (
    ("circle", 1, 64),
    ("ball", 2, 64),
    ("swiss roll", 2, 64),
    ("sphere", 4, 64),
    ("ball", 5, 16),
    ("ball", 5, 64),
    ("ball", 10, 16),
    ("ball", 10, 64),
    ("Gaussian", 16, 16),
    ("ball", 20, 64),
    ("Gaussian", 20, 64),
    ("Gaussian", 64, 64),
)
"""Name, dimension, and dimension of the space around it."""


def cloud(name: str, dimension: int, embedded: int, points: int, seed: int) -> np.ndarray:
    """Points drawn evenly from a manifold, embedded in a space of more dimensions by a random rotation.

    returns : (points, embedded) float64, SCALE its root mean square length over the root of ``dimension``
    """
    generator = np.random.default_rng(seed)
    if name in ("circle", "sphere", "ball"):
        drawn = generator.normal(size=(points, dimension + (name != "ball")))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        if name == "ball":
            drawn *= generator.uniform(size=(points, 1)) ** (1 / dimension)
    elif name == "Gaussian":
        drawn = generator.normal(size=(points, dimension))
    elif name == "swiss roll":
        # Evenly over the sheet: an Archimedean spiral's length grows with the square of its angle.
        angle = np.sqrt(generator.uniform((1.5 * np.pi) ** 2, (4.5 * np.pi) ** 2, points))
        height = generator.uniform(0, 21, points)
        drawn = np.column_stack([angle * np.cos(angle), height, angle * np.sin(angle)])
    else:
        raise ValueError(name)
    drawn = drawn - drawn.mean(0)
    drawn *= SCALE * np.sqrt(dimension) / np.sqrt((drawn**2).sum(1).mean())
    axes, _ = np.linalg.qr(generator.normal(size=(embedded, drawn.shape[1])))
    return drawn @ axes.T


def estimate_manifolds(points: int, neighbors: int, done: Callable[[int], None]) -> list[ManifoldEstimates]:
    """The estimates of every manifold, from so many points, and from the same points as integers.

    done : called with 1 after each manifold
    """
    found = []
    for name, dimension, embedded in MANIFOLDS:
        figures = []
        for seed in range(REPEATS):
            drawn = cloud(name, dimension, embedded, points, seed)
            real = measure_cloud(drawn, neighbors)
            grid = measure_cloud(np.clip(np.rint(drawn), -127, 127).astype(np.int8), neighbors)
            figures.append((real.twonn, real.mle, grid.twonn, grid.mle, grid.nearest))
        found.append(ManifoldEstimates(name, dimension, embedded, *np.mean(figures, 0).tolist()))
        done(1)
    return found


def print_manifolds(found: list[ManifoldEstimates], points: int, out) -> None:
    """Print the estimates with their errors."""
    from egg.view.screen import table

    def with_error(value: float, true: int) -> str:
        return f"{value:.2f} ({100 * (value / true - 1):+.0f} %)"

    rows = [
        [
            c.name,
            str(c.dimension),
            str(c.embedded),
            with_error(c.twonn, c.dimension),
            with_error(c.mle, c.dimension),
            with_error(c.twonn_grid, c.dimension),
            with_error(c.mle_grid, c.dimension),
            f"{c.nearest:.1f}",
        ]
        for c in found
    ]
    columns = ["manifold", "true", "in", "TwoNN", "MLE", "TwoNN, int8", "MLE, int8", "nearest"]
    out.print(table(f"Estimates from {points:,} points, mean of {REPEATS}", columns, rows))
    out.print("in: dimension of the space around it; int8: of the points rounded to integers")
