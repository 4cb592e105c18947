"""The shape of a cloud of hidden states: anisotropy, and local intrinsic dimension by two estimators.

Razzhigaev et al. (2024, arXiv 2311.05928) followed both through the training of transformers. The states are integers,
their analysis is float64. The estimators come from scikit-dimension, an optional dependency.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from egg.errors import EggError
from egg.kernels.layout import Shape

FEWEST = 64  # distinct points below which no dimension is estimated
NEIGHBORS = 5  # of a point, for the maximum-likelihood estimator: more reach further, where a cloud ends or bends
COARSE = 6.0  # int8 steps: distances that rounding changes little
THINNEST = 16  # points that a part of a thinned cloud has at least


LIMITS = (
    "Known manifolds, rounded too, come out within 10 % up to dimension 10; beyond, dimensions are\n"
    "read too low: by 10 to 20 % at 16 to 20 (egg geometry --manifolds)"
)


@dataclass(frozen=True)
class Geometry:
    """The shape of one cloud of points."""

    points: int
    distinct: int
    """Distinct points: dimensions are estimated from these, as equal points have no distance."""
    anisotropy: float | None
    """Share of the largest squared singular value in the sum of all, after centring: 1/D for a ball, 1 for a line; None
    if all points are equal."""
    twonn: float | None
    """Intrinsic dimension from the ratio of the distances to the two nearest neighbours (Facco et al. 2017); None for
    fewer than FEWEST distinct points."""
    mle: float | None
    """Intrinsic dimension by maximum likelihood from NEIGHBORS neighbours (Levina and Bickel 2004), the inverse mean
    of the points' own estimates."""
    nearest: float | None
    """Median distance to the nearest neighbour, in int8 steps, as it was measured: of parts, without rounding."""
    parts: int
    """Into which a cloud of integers was thinned, as its points are too close for their rounding; 1: not."""


@dataclass(frozen=True)
class LayerGeometry:
    """One layer of a model."""

    layer: int
    kind: str
    """state: the recurrent state h; stream: the residual stream x that leaves the layer."""
    geometry: Geometry


@dataclass(frozen=True)
class CheckpointGeometry:
    """The layers of one checkpoint."""

    path: str
    shape: Shape
    tokens: int | None
    """Tokens it was trained for, None if its config.json does not say."""
    layers: list[LayerGeometry]

    @property
    def size(self) -> str:
        """Hidden size and layers, as 64/2."""
        return f"{self.shape.hidden_size}/{self.shape.num_layers}"


def require_estimators() -> None:
    """Raises EggError, one line, where scikit-dimension is missing."""
    try:
        import skdim  # noqa: F401
    except ImportError as error:
        advice = "pip install 'egg-lm[geometry]'"
        raise EggError(f"intrinsic dimensions need scikit-dimension ({error}): {advice}") from None


def measure_cloud(points: np.ndarray, neighbors: int = NEIGHBORS) -> Geometry:
    """The shape of a cloud of points.

    Integers are taken as rounded: what rounding adds to squared distances on average is taken off, and a cloud whose
    nearest neighbours are closer than COARSE is thinned, into 2, 4, 8, ... parts, each measured by itself.

    points : (n, D), of any real dtype
    neighbors : of a point, for the maximum-likelihood estimator; an eighth of the points at the most
    """
    cloud = np.asarray(points, np.float64)
    squared = np.linalg.svd(cloud - cloud.mean(0), compute_uv=False) ** 2
    anisotropy = float(squared[0] / squared.sum()) if squared.sum() > 0 else None
    distinct = np.unique(cloud, axis=0)
    if len(distinct) < FEWEST:
        return Geometry(len(cloud), len(distinct), anisotropy, None, None, None, 1)
    # Rounding moves each of two points by 1/12 in the mean square; not where a coordinate is nearly always the same.
    rounded = np.issubdtype(points.dtype, np.integer)
    noise = float(np.minimum(1 / 6, 2 * distinct.var(0)).sum()) if rounded else 0.0
    order, parts = np.random.default_rng(0).permutation(len(distinct)), 1
    while rounded and len(distinct) // (2 * parts) >= THINNEST:
        if np.median(_distances(distinct[order[::parts]], 1, noise)) >= COARSE:
            break
        parts *= 2
    found = np.array([_dimensions(distinct[order[part::parts]], neighbors, noise) for part in range(parts)])
    # A dimension is the inverse of a mean over points.
    twonn, mle = (1 / np.mean(1 / found[:, :2], 0)).tolist()
    return Geometry(len(cloud), len(distinct), anisotropy, twonn, mle, float(found[:, 2].mean()), parts)


def _dimensions(points: np.ndarray, neighbors: int, noise: float) -> tuple[float, float, float]:
    """TwoNN, MLE, and the median distance to the nearest neighbour."""
    from skdim.id import MLE, TwoNN

    neighbors = max(3, min(neighbors, len(points) // 8))
    distances = _distances(points, neighbors, noise)
    with np.errstate(divide="ignore"):  # a point whose neighbours are all as far has an infinite dimension
        mle = MLE().fit(points, precomputed_knn_arrays=(distances, None), n_neighbors=neighbors).dimension_
    return TwoNN(dist=True).fit(distances[:, :2]).dimension_, mle, float(np.median(distances[:, 0]))


def _distances(points: np.ndarray, neighbors: int, noise: float) -> np.ndarray:
    """(n, neighbors) float64, ascending: distances to the nearest, ``noise`` taken off their squares, at least 1/2."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=neighbors).fit(points).kneighbors()[0]
    return np.sqrt(np.maximum(found**2 - noise, 0.25)) if noise else found


def geometry_json(measured: list[CheckpointGeometry]) -> list[dict[str, Any]]:
    """All checkpoints as JSON."""
    return [
        {
            "checkpoint": m.path,
            "hidden_size": m.shape.hidden_size,
            "num_layers": m.shape.num_layers,
            "parameters": m.shape.parameters,
            "tokens": m.tokens,
            "layers": [{"layer": row.layer, "kind": row.kind} | asdict(row.geometry) for row in m.layers],
        }
        for m in measured
    ]


def print_geometry(measured: list[CheckpointGeometry], out) -> None:
    """Print a table: a row a checkpoint and layer."""
    from egg.view.figures import count
    from egg.view.screen import table

    rows = []
    for m in measured:
        for row in m.layers:
            g, first = row.geometry, row is m.layers[0]
            tokens = "-" if m.tokens is None else count(m.tokens)
            rows.append(
                [
                    m.size if first else "",
                    tokens if first else "",
                    str(row.layer),
                    row.kind,
                    _share(g.anisotropy),
                    _number(g.twonn),
                    _number(g.mle),
                    f"{g.distinct:,}",
                    _number(g.nearest) + (f" /{g.parts}" if g.parts > 1 else ""),
                ]
            )
    columns = ["size", "tokens", "layer", "what", "anisotropy", "TwoNN", "MLE", "distinct", "nearest"]
    out.print(table("Shape of the hidden states", columns, rows, left=4))
    out.print(
        "tokens: of training; state: h, stream: x after the layer; nearest: median distance to the\n"
        "nearest other point, in int8 steps, /n: of n parts, where all together are too close for integers.\n"
        f"{LIMITS}"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
