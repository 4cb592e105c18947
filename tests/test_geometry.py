"""The shape of hidden states: which are kept, what is measured of them, and what the command says."""

import json
import sys

import numpy as np
import pytest
from conftest import SMALL

from egg.errors import EggError
from egg.kernels import Shape, get_backend
from egg.kernels.reference import Model
from egg.model.network import Network
from egg.model.parameters import initial_weights
from egg.study.geometry import FEWEST, measure_cloud
from egg.study.manifolds import MANIFOLDS, cloud
from egg.study.states import hidden_states

pytest.importorskip("skdim")
PNG = b"\x89PNG"
SHAPE = Shape(16, 2)
PER_STEP = int(SMALL[SMALL.index("--streams") + 1]) * int(SMALL[SMALL.index("--seq-len") + 1])


@pytest.fixture(scope="module")
def weights():
    return initial_weights(SHAPE, 3, "egg")


class Everything(Model):
    """The reference, keeping what two stages of each layer were at every byte."""

    def seen(self, stage, values_mn):
        if stage.endswith((".state", ".mlp")):
            self.__dict__.setdefault("rows", {}).setdefault(stage, []).append(values_mn[0])


def read_alone(weights, document):
    """name -> (T, D), of one document read byte by byte from state zero."""
    model = Everything(SHAPE, SHAPE.views(weights.astype(np.int64)))
    states = np.zeros((1, SHAPE.num_layers, SHAPE.hidden_size), np.int64)
    for byte in document:
        model.read(np.array([byte], np.uint8), states)
    return {name: np.array(rows) for name, rows in model.rows.items()}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("stride", [1, 3])
def test_states_are_those_of_documents_read_alone(weights, backend, stride):
    if backend == "numba":
        pytest.importorskip("numba")
    documents = [b"\0a byte is a byte", b"\0xy", b"\0integers alone!", b"\0"]
    text = np.frombuffer(b"".join(documents), np.uint8)
    found = hidden_states(Network(get_backend(backend), SHAPE, weights), text, 1000, stride)
    assert sorted(found) == [(i, kind) for i in range(2) for kind in ("state", "stream")]
    for (layer, kind), states in found.items():
        stage = f"layers.{layer}.{'state' if kind == 'state' else 'mlp'}"
        expected = [read_alone(weights, d)[stage][stride - 1 :: stride] for d in documents]
        assert states.dtype == np.int8
        # Documents are read side by side: the order is another one, the same for every layer.
        assert sorted(map(tuple, states)) == sorted(map(tuple, np.concatenate(expected)))


def test_as_many_states_as_asked_for(weights):
    text = np.frombuffer(b"\0" + bytes(range(1, 201)), np.uint8)
    numpy = get_backend("numpy")
    assert len(hidden_states(Network(numpy, SHAPE, weights), text, 10, 4)[0, "state"]) <= 10
    assert len(hidden_states(Network(numpy, SHAPE, weights), text, 1000, 50)[0, "state"]) == 4
    with pytest.raises(EggError, match="--stride"):
        hidden_states(Network(numpy, SHAPE, weights), text, 10, 300)
    documents = [b"\0" + bytes([i]) * (50 * i) for i in range(1, 100)]
    for text in (b"\0" + b"long" * 9000, b"".join(documents), b"".join(documents[:3] * 200)):
        text = np.frombuffer(text, np.uint8)
        assert len(hidden_states(Network(numpy, SHAPE, weights), text, 200, 16)[0, "state"]) >= 190


def test_anisotropy_of_what_is_known():
    generator = np.random.default_rng(0)
    line = np.outer(generator.normal(size=200), np.arange(1, 9)) + 5
    assert measure_cloud(line).anisotropy == pytest.approx(1)
    ball = generator.normal(size=(20_000, 8))
    ball = np.concatenate([ball, -ball])[:2000] + 100  # off the centre, which is taken away
    assert measure_cloud(ball).anisotropy == pytest.approx(1 / 8, rel=0.15)
    corners = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]])
    assert measure_cloud(corners).anisotropy == pytest.approx(0.9)  # 18 of 20


@pytest.mark.parametrize(
    ("name", "dimension", "embedded", "off"), [(*m, 0.1) for m in MANIFOLDS if m[1] <= 5] + [("ball", 10, 64, 0.2)]
)
def test_estimators_on_manifolds_of_known_dimension(name, dimension, embedded, off):
    points = cloud(name, dimension, embedded, 1500, seed=4)
    assert points.shape == (1500, embedded)
    curved = name in ("circle", "sphere", "swiss roll")
    assert np.linalg.matrix_rank(points, tol=1e-6) == dimension + curved
    found = measure_cloud(points)
    assert found.twonn == pytest.approx(dimension, rel=off)
    assert found.mle == pytest.approx(dimension, rel=off)
    grid = measure_cloud(np.rint(points).clip(-127, 127).astype(np.int8))  # far apart or thinned
    assert grid.twonn == pytest.approx(dimension, rel=off + 0.05)
    assert grid.mle == pytest.approx(dimension, rel=off + 0.05)
    assert grid.nearest > 3 and (grid.parts > 1) == (found.nearest < 6)


def test_equal_points_count_once():
    points = np.random.default_rng(1).integers(-127, 128, (300, 3))
    once, twice = measure_cloud(points), measure_cloud(np.concatenate([points, points]))
    assert (twice.points, twice.distinct) == (600, once.distinct)
    assert (twice.twonn, twice.mle) == (once.twonn, once.mle)
    few = measure_cloud(points[: FEWEST - 1])
    assert few.twonn is None and few.mle is None and few.anisotropy > 0
    same = measure_cloud(np.ones((50, 3)))
    assert same.anisotropy is None and same.distinct == 1


def test_geometry_of_a_runs_checkpoints(egg, train, tmp_path):
    train("--steps", 6, "--keep", "all", "--out", tmp_path / "run")
    saved = sorted((tmp_path / "run/checkpoints").iterdir())
    out, letters = tmp_path / "shapes", tmp_path / "letters.txt"
    letters.write_bytes(np.random.default_rng(0).integers(97, 123, 4000, np.uint8).tobytes())
    status, shown, err = egg(
        "geometry", *saved, "--data", letters, "--points", 100, "--stride", 2, "--out", out, "--json"
    )
    assert status == 0, err
    found = json.loads(shown)
    assert found == json.loads((out / "geometry.json").read_text())
    assert [c["tokens"] for c in found["checkpoints"]] == [s * PER_STEP for s in (3, 4, 6)]
    assert found["points"] == 100 and found["split"] == "all"
    for checkpoint in found["checkpoints"]:
        rows = [(row["layer"], row["kind"]) for row in checkpoint["layers"]]
        assert rows == [(0, "state"), (0, "stream")]
        for row in checkpoint["layers"]:
            assert 0 < row["anisotropy"] <= 1 and row["points"] == 100
            assert row["twonn"] > 0 and row["mle"] > 0
    for name in ("geometry-layers.png", "geometry-training.png"):
        assert (out / name).read_bytes().startswith(PNG)
        assert str(out / name) in found["pictures"]


def test_geometry_as_a_table(egg, train, tmp_path, monkeypatch, tables, book):
    train("--steps", 2, "--out", tmp_path / "run")
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        status, shown, err = egg("geometry", tmp_path / "run", "--data", book, "--points", 64, "--out", tmp_path)
        assert status == 0 and "anisotropy" in shown and "16/1" in shown, err
        assert max(map(len, shown.splitlines())) <= columns


def test_manifolds_as_a_table(egg, monkeypatch):
    from egg.study import manifolds

    monkeypatch.setattr(manifolds, "MANIFOLDS", MANIFOLDS[:2])
    found = json.loads(egg("geometry", "--manifolds", "--points", 300, "--json")[1])["manifolds"]
    assert [m["dimension"] for m in found] == [1, 2]
    assert found[1]["twonn"] == pytest.approx(2, rel=0.2)
    assert "ball" in egg("geometry", "--manifolds", "--points", 100)[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "give a run or checkpoints"),
        ("no/such", "no such folder"),
        ("{run} --points 3", "--points 3"),
        ("{run} --stride 0", "--stride 0"),
        ("{run} --neighbors 1", "--neighbors 1"),
        ("{run} --split nowhere", "nowhere"),
        ("{run} --data no/such", "no/such"),
        ("{run} --data {book} --stride 100000", "--stride"),
        ("{run} --manifolds", "omit the checkpoints"),
    ],
)
def test_what_has_no_geometry(egg, train, tmp_path, book, arguments, says):
    if "{run}" in arguments:
        train("--steps", 1, "--out", tmp_path / "run")
    words = arguments.format(run=tmp_path / "run", book=book).split()
    status, out, err = egg("geometry", *words, "--out", tmp_path / "out")
    assert (status, out) == (2, "") and says in err.splitlines()[-1]


def test_without_scikit_dimension(egg, monkeypatch):
    monkeypatch.setitem(sys.modules, "skdim", None)
    status, out, err = egg("geometry", "--manifolds")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert "pip install 'egg-lm[geometry]'" in err
