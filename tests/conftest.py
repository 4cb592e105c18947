"""What the tests of runs and of the command line share."""

import hashlib
import json
from pathlib import Path

import pytest

from egg.cli.main import main
from egg.data import DataError, open_corpus
from egg.kernels import BackendError, get_backend

SMALL = (
    "--hidden-size 16 --num-layers 1 --streams 16 --seq-len 8 --schedule-tokens 10000 "
    "--log-every 1 --eval-every 4 --checkpoint-every 3 --sample-every 0 --backend numpy"
).split()
"""Flags of a run that takes a moment."""
PAPER = (
    "--recipe paper --hidden-size 16 --num-layers 1 --population-size 32 --seq-len 4 "
    "--log-every 1 --eval-every 4 --checkpoint-every 3 --sample-every 0 --backend numpy"
).split()
"""The same in recipe paper."""

TEXTS = [
    "the quick brown fox jumps over the lazy dog. " * 4,
    "",
    "a byte is a byte is a byte;\n" * 6,
    "x",
    "¡integers alone! " * 9,
]


def forge(checkpoint: Path) -> None:
    """Make a checkpoint's manifest agree with its files, whatever they are now."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in checkpoint.iterdir()
        if path.name != "manifest.json"
    }
    (checkpoint / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


def refusal(spec, **options) -> str:
    """The one line that says why a corpus does not open."""
    with pytest.raises(DataError) as caught:
        open_corpus(str(spec), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """The tests prepare their corpora in a cache of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("EGG_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("EGG_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    """A folder of Parquet in MiniPile's shape: train, validation and test."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("tables")
    for split, texts in (("train", TEXTS * 5), ("validation", TEXTS), ("test", TEXTS[:1])):
        pq.write_table(pa.table({"text": texts}), folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """One text file: a corpus with the split ``all`` alone."""
    path = tmp_path_factory.mktemp("book") / "book.txt"
    path.write_text("".join(TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def egg(capsys):
    """Runs ``egg ARGUMENTS`` in this process: returns (status, standard output, standard error)."""

    def call(*arguments):
        capsys.readouterr()
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:  # --help
            status = stop.code or 0
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def train(egg, tables):
    """Runs a small ``egg train`` with more flags, and returns its standard output."""

    def call(*arguments):
        small = PAPER if "paper" in arguments and "egg" not in arguments else SMALL
        status, out, err = egg("train", *small, "--data", tables, *arguments)
        assert status == 0, err
        return out

    return call


@pytest.fixture(scope="session")
def cupy_backend():
    """The CUDA backend, on the first device."""
    try:
        backend = get_backend("cupy")
    except BackendError as error:
        pytest.skip(f"no CUDA device to test on: {error}")
    import cupy

    cupy.cuda.set_allocator(None)  # no pool: compute-sanitizer sees where one array ends
    return backend
