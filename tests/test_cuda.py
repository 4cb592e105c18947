"""The CUDA sources without a GPU: they compile, and run on a CPU they equal the reference; and what a GPU must show."""

import contextlib
import json
import re
import sys
import types
import weakref
from pathlib import Path

import cuda_host
import numpy as np
import pytest
import synthetic
from test_backends import NOISES, assert_same_pairs, assert_same_votes, drawn_step, text_of, weights_of
from test_golden import PINNED, golden

from egg.config import Config, EvolutionConfig, ModelConfig
from egg.evolution.recipes import evolution as begin
from egg.kernels import Adapter, AdapterShape, BackendError, Noise, Shape, get_backend, reference
from egg.kernels.arithmetic import STATIONS
from egg.kernels.backend import Backend
from egg.kernels.cuda import backend as cuda_backend
from egg.kernels.cuda import compiler, peak, sources
from egg.kernels.cuda.backend import CupyBackend
from egg.kernels.cuda.device import CupyDevice
from egg.kernels.cuda.sources import FEW, KERNELS, SHAPED, Tile, defines, source, tile_for
from egg.model import compress as compress_module
from egg.model.compress import compress, decompress, read_packed
from egg.model.learner import Learner
from egg.model.network import Network
from egg.model.sample import Sampling, generate
from egg.ranks.distributed import ALONE, Alone
from egg.training.corpus import CorpusText

REFERENCE = get_backend("numpy")
SHARED = {"sm_80": 163 << 10, "sm_86": 99 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10}  # bytes a block may have


# --- compiled for a GPU, without one -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "hidden_size", "few", "gaussian"),
    [("sm_80", 16, False, False), ("sm_90", 256, False, True), ("sm_100", 64, True, False)],
)
def test_cuda_sources_compile(architecture, hidden_size, few, gaussian):
    try:
        compiler.library()
    except BackendError as error:
        pytest.skip(str(error))
    shape = Shape(hidden_size, 2)
    options = defines(shape, Tile(*FEW) if few else tile_for(hidden_size, SHARED[architecture]), gaussian)
    for name, entries in KERNELS.items():
        settings = ("-std=c++17", f"--gpu-architecture={architecture}", "--ptxas-options=-v")
        compiled, log, code, _ = compiler.compile_source(source(name), settings + (options if name in SHAPED else ()))
        assert compiled, f"{name}: {log}"
        assert all(entry.encode() in code for entry in entries)
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
        # Some versions report the compiler's own routines too.
        assert len(spills) >= len(entries) and set(spills) == {("0", "0")}, f"{name}: {log}"


def test_no_source_has_a_floating_point_number():
    for name in KERNELS:
        code = re.sub(r"//.*", "", source(name))
        assert not re.search(r"\b(float|double|__half|__nv_bfloat16)\b|\d\.\d", code), name


def test_tiles_fit_every_device_from_8_0_on():
    for hidden_size in (16, 64, 256, 1024):
        for limit in SHARED.values():
            tile = tile_for(hidden_size, limit)
            assert tile.shared_bytes(hidden_size) <= limit
            assert tile.members % tile.warp_rows == 0 and tile.warp_rows % 16 == 0
        with pytest.raises(BackendError, match="shared memory"):
            tile_for(hidden_size, 16 << 10)


# --- run on a CPU -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if cuda_host.COMPILER is None or not sys.platform.startswith("linux"):
        pytest.skip("no g++ or clang++ on Linux, with which the CUDA sources could run on the CPU")
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture(scope="module")
def host(folder):
    return CupyBackend(cuda_host.HostDevice(folder))


def assert_calls_equal(one, shape, *, sigma_shift=4, scale=24, pairs=5, length=4):
    """Every call that the backend has, against the reference's, for random weights, text and states."""
    rng = np.random.default_rng(scale)
    weights, tokens = weights_of(shape, rng, scale), text_of(rng, pairs, length + 1)
    layers = (shape.num_layers, shape.hidden_size)
    states = rng.integers(-127, 128, (2 * pairs, *layers)).astype(np.int8)
    fitness = rng.integers(-127, 128, 2 * pairs).astype(np.int8)
    noise = Noise(2**63 + sigma_shift, 2**32 - 2, sigma_shift, directions=sigma_shift)
    votes = rng.integers(-(2**24), 2**24, shape.parameters)
    master = (weights.astype(np.int16) << 8) + np.int16(77)

    def calls(backend):
        model, moved = backend.prepare(shape, weights), master.copy()
        yield "forward", backend.forward(model, tokens, states[:pairs])
        yield "run_pairs", backend.run_pairs(model, tokens, states, noise, first_pair=3)
        yield "cast_pair_votes", backend.cast_pair_votes(shape, fitness, noise, first_pair=11)
        yield "update_master", (backend.update_master(shape, moved, votes, 3 << 16), moved)
        found = backend.score(model, tokens, states[:pairs])
        yield "score", (found.totals, found.below, found.scores, found.states)
        yield "update_signs", backend.update_signs(weights, votes, 1 << 26)

    for (name, expected), (_, found) in zip(calls(REFERENCE), calls(one), strict=True):
        if not isinstance(expected, tuple):
            expected, found = (expected,), (found,)
        for theirs, ours in zip(expected, found, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def assert_recipe_egg_equal(one, shape, cases):
    """cast_votes and update_rows against the reference's. cases : scale, streams, T, branches, stations"""
    rng = np.random.default_rng(shape.hidden_size)
    for scale, streams, length, branches, stations in cases:
        weights = weights_of(shape, rng, scale)
        tokens, states, draw = drawn_step(shape, rng, streams, length, branches, stations)
        expected, got = (
            b.cast_votes(b.prepare(shape, weights), tokens, states, draw, first_row=2**40 + 77)
            for b in (REFERENCE, one)
        )
        assert_same_votes(expected, got, shape)
        assert got.votes.dtype == np.int32 and got.votes.any() == (scale > 0)
        for step, step_size, squares in ((0, 26214, 0), (70, 127 << 16, 2**20), (200, 900, 2**50)):
            master = [weights.astype(np.int32) << 16 for _ in range(2)]
            held = [np.arange(shape.rows) * squares // shape.rows for _ in range(2)]
            moved = [
                b.update_rows(shape, master[i], held[i], expected.votes, step, step_size)
                for i, b in enumerate((REFERENCE, one))
            ]
            for theirs, ours in (moved, master, held):
                np.testing.assert_array_equal(ours, theirs)


def assert_noise_equal(one, shape, kind, cases):
    """run_pairs and cast_pair_votes with a noise of NOISES. cases : scale, pairs, T, sigma_shift"""
    rng = np.random.default_rng(shape.hidden_size)
    for scale, pairs, length, sigma_shift in cases:
        noise = Noise(2**64 - 1, 2**32 - 2, sigma_shift, **kind)
        assert_same_pairs(one, shape, rng, scale, pairs, length, noise)
        for fitness in (rng.integers(-127, 128, pairs), np.full(pairs, -127), np.zeros(0)):
            for use_clt in (True, False)[: 1 + noise.gaussian]:
                noise = Noise(9, 4, sigma_shift, use_clt=use_clt, **kind)
                expected, got = (
                    b.cast_pair_votes(shape, fitness.astype(np.int8), noise, first_pair=11) for b in (REFERENCE, one)
                )
                np.testing.assert_array_equal(got, expected, strict=True)


def test_the_tile_of_the_launcher_is_the_tile_of_the_source(folder):
    for hidden_size in (16, 64, 1024):
        tile = tile_for(hidden_size, SHARED["sm_90"])
        options = defines(Shape(hidden_size, 1), tile)
        text = source("tile.cuh") + 'extern "C" int shared_bytes() { return SHARED_BYTES; }\n'
        assert cuda_host.call_int(folder, text, options, "shared_bytes") == tile.shared_bytes(hidden_size)


DIVISIONS = """
extern "C" int wrong() {
  int wrong = 0;
  uint32 random = 1;
  for (uint32 i = 1; i < 3000000; i++) {
    random = random * 1664525u + 1013904223u;
    // small ones, random ones of any length, and the neighbours of powers of two
    const uint32 d = i < 1000000 ? i / 8 + 1 : i & 1 ? (random >> (1 + i / 2 % 31)) + 1 : (1u << (i / 2 % 30)) + i % 7;
    const Divisor divisor(d);
    const uint32 q = (random >> 1) / d;
    const uint32 ns[] = {0, d - 1, d, q * d, q * d + d - 1, q * d - 1, random >> 1, 0x7FFFFFFFu, 0x7FFFFFFFu / d * d};
    for (uint32 n : ns) wrong += n < 1u << 31 && divisor.of(n) != n / d;
  }
  for (uint32 m = 1; m < 128; m++) wrong += Divisor(m).of((1u << 22) + m - 1) != ((1u << 22) + m - 1) / m;
  return wrong;
}
"""


def test_division_by_integers_is_exact(folder):
    text = source("arithmetic.cuh") + DIVISIONS
    assert cuda_host.call_int(folder, text, (), "wrong") == 0


def test_every_call_on_the_cpu_equals_the_reference(host):
    assert_calls_equal(host, Shape(64, 1))


@pytest.mark.parametrize("kind", NOISES, ids=str)
def test_other_noise_on_the_cpu_equals_the_reference(host, kind):
    assert_noise_equal(host, Shape(16, 2), kind, [(16, 5, 4, 4), (400, 9, 2, 0), (16, 1, 2, 8)])


def test_other_noise_of_wider_matrices_equals_the_reference(host):
    for kind in NOISES[1], NOISES[4]:
        assert_noise_equal(host, Shape(64, 1), kind, [(16, 3, 2, 3)])


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_gaussian_projections_are_limited_equally(host, monkeypatch, rank):
    for module in (reference, cuda_backend):
        monkeypatch.setattr(module, "GAUSSIAN_LIMIT", 500 * rank)  # far less, so that many are
    assert_same_pairs(host, Shape(16, 1), np.random.default_rng(0), 16, 3, 4, Noise(1, 2, 0, rank, True))


def test_recipe_egg_on_the_cpu_equals_the_reference(host):
    some = ("past", "middle")
    assert_recipe_egg_equal(host, Shape(64, 1), [(16, 5, 6, 64, ()), (2, 13, 4, 32, ()), (0, 1, 2, 64, ())])
    assert_recipe_egg_equal(host, Shape(64, 1), [(16, 3, 4, 64, STATIONS), (30, 2, 2, 64, ("gates", "state"))])
    cases = [(400, 3, 1, 16, ()), (400, 3, 2, 16, STATIONS), (30, 3, 3, 16, some), (0, 1, 2, 16, STATIONS)]
    cases.append((0, 0, 2, 16, ()))  # no streams
    assert_recipe_egg_equal(host, Shape(16, 2), cases)


def test_votes_beyond_their_limit_move_rows_equally(host):
    shape, rng = Shape(16, 1), np.random.default_rng(4)
    votes = rng.integers(-(2**31), 2**31, shape.parameters).astype(np.int32)
    master = rng.integers(-127 << 16, (127 << 16) + 1, (1, shape.parameters)).repeat(2, 0).astype(np.int32)
    squares = rng.integers(0, 2**50, (1, shape.rows)).repeat(2, 0)
    theirs, ours = (
        b.update_rows(shape, master[i], squares[i], votes, 9, 127 << 16) for i, b in enumerate((REFERENCE, host))
    )
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(master[0], master[1])
    np.testing.assert_array_equal(squares[0], squares[1])


@pytest.mark.slow
def test_calls_in_many_blocks_and_tiles(folder, monkeypatch):
    """Tiles of 16 members, blocks of a few pairs, slices of 32 rows: more than one of each."""
    monkeypatch.setitem(sources.TILES, 16, ((32, 16),))
    monkeypatch.setattr(cuda_backend, "BLOCK_BYTES", 1 << 13)
    monkeypatch.setattr(cuda_backend, "MOST_ROWS", 32)
    tiny, shape = CupyBackend(cuda_host.HostDevice(folder)), Shape(16, 2)
    assert_calls_equal(tiny, shape, scale=16, sigma_shift=3, pairs=37)
    assert_calls_equal(tiny, shape, scale=400, sigma_shift=8, pairs=21, length=3)
    assert_calls_equal(tiny, shape, scale=2, sigma_shift=0, pairs=3, length=35)
    monkeypatch.setattr(cuda_backend, "BLOCK_BYTES", 1 << 17)
    for kind in NOISES[1], NOISES[4]:
        assert_noise_equal(tiny, shape, kind, [(16, 37, 1, 3)])
    assert_recipe_egg_equal(tiny, shape, [(16, 37, 3, 16, ()), (16, 37, 2, 16, STATIONS)])


def test_a_wrong_array_is_refused_before_a_kernel_reads_beyond_it(host):
    shape = Shape(16, 1)
    with pytest.raises(BackendError, match="weights is int64"):
        host.prepare(shape, np.zeros(shape.parameters, np.int64))
    with pytest.raises(BackendError, match="weights is int8"):
        host.prepare(shape, np.zeros(3, np.int8))


def test_an_adapter_is_refused_in_one_line(host):
    shape = Shape(16, 1)
    layout = AdapterShape(shape, 1, shape.matrices)
    adapter = Adapter(layout, np.zeros(layout.parameters, np.int8))
    with pytest.raises(BackendError, match="knows no adapters: choose --backend numba"):
        host.prepare(shape, np.zeros(shape.parameters, np.int8), adapter)


def test_the_documented_calls_are_all_that_there_are(host):
    """The table of docs/cuda.md names each call of the protocol, and those are refused that it says are."""
    page = (Path(__file__).parent.parent / "docs/cuda.md").read_text(encoding="utf-8")
    calls = {call for call in vars(Backend) if not call.startswith("_")}
    rows = re.findall(r"(?m)^\| (.+) \| (supported|as|refused)\b", page)
    named = {word: kind for words, kind in reversed(rows) for word in re.findall(r"`(\w+)`", words)}
    assert calls <= set(named)
    refused = {call for call in calls if named[call] == "refused"}
    assert len(refused) == 3
    for call in refused:
        with pytest.raises(BackendError, match="choose --backend numba"):
            getattr(host, call)()


class Two(Alone):
    """One of two ranks as far as it can tell, which has all of the readers; arrays that it exchanges are NumPy's."""

    size = 2

    def add(self, votes, *numbers):
        assert type(votes) is np.ndarray
        return numbers

    def all_gather(self, rows, items):
        assert type(rows) is np.ndarray
        return rows


TEXT = CorpusText(synthetic.corpus(60))
NANO = ModelConfig(16, 2)
STEPS = {
    "egg": (ModelConfig(64, 1), EvolutionConfig(streams=2, seq_len=2, schedule_tokens=99)),
    "stations": (NANO, EvolutionConfig(streams=3, seq_len=2, credit="stations", stations="all", schedule_tokens=99)),
    "paper": (NANO, EvolutionConfig(recipe="paper", population_size=12, seq_len=3)),
    "paper-rank": (
        NANO,
        EvolutionConfig(recipe="paper", population_size=8, seq_len=2, noise="gaussian", rank=4, fitness="rank"),
    ),
}


def carried(device, call, *arguments):
    """The call's result, the bytes that it brings to the device, and those of each array that it takes back."""
    device.brought.clear(), device.taken.clear()
    result = call(*arguments)
    return result, sum(device.brought), device.taken.copy()


def carried_by_a_step(config: EvolutionConfig, shape: Shape) -> tuple[int, list[int]]:
    """Text and shifts, and back totals and a score; or text and fitness, and back members' scores."""
    if config.recipe == "paper":
        pairs = config.population_size // 2
        return pairs * (config.seq_len + 1) + pairs, [4 * 2 * pairs]
    kinds = shape.vote_kinds(bool(config.station_names))
    return config.streams * (config.seq_len + 1) + 4 * kinds, [8 * (kinds + 1)]


@pytest.mark.parametrize("ranks", [ALONE, Two()], ids=["alone", "two"])
@pytest.mark.parametrize("run", STEPS)
def test_what_evolves_stays_on_the_device(host, run, ranks):
    """A step carries text and a few numbers; masters, votes, weights and states stay, and are as on the CPU."""
    config = Config("", *STEPS[run])
    theirs, ours = begin(config, REFERENCE, TEXT), begin(config, host, TEXT, ranks)
    for step in range(3):
        expected, (found, *bytes_carried) = theirs.step(), carried(host.device, ours.step)
        if step and ranks is ALONE:  # the first brings tables, and the order of the streams
            assert tuple(bytes_carried) == carried_by_a_step(config.resolved().evolution, theirs.shape)
        assert found == expected
    assert found.changed_share == expected.changed_share and found.clipped_share == expected.clipped_share
    np.testing.assert_array_equal(found.before, expected.before)
    np.testing.assert_array_equal(found.after, expected.after)
    state = ours.state()
    for name, array in theirs.state().items():
        assert type(state[name]) is np.ndarray
        np.testing.assert_array_equal(state[name], array)
    begun = begin(config, host, TEXT, ranks)
    begun.load_state({name: array.copy() for name, array in state.items()})
    theirs.step(), begun.step()
    assert type(begun.weights) is np.ndarray
    np.testing.assert_array_equal(begun.weights, theirs.weights)
    np.testing.assert_array_equal(begun.state()["states"], theirs.state()["states"])


def test_a_model_that_learns_stays_on_the_device(host):
    """Compression brings text, and takes back logits and a few numbers."""
    shape, rng = Shape(16, 1), np.random.default_rng(0)
    weights, tokens = weights_of(shape, rng, 16), text_of(rng, 3, 13)
    backends, states = (REFERENCE, host), [np.zeros((3, 1, 16), np.int8)] * 2
    states[1], kinds = host.hold(states[1]), shape.vote_kinds(stations=True)
    reference, learner = (Learner(Network(backend, shape, weights), 1 << 12) for backend in backends)
    for at in range(0, 12, 4):
        chunk = tokens[:, at : at + 5]
        expected, theirs = reference.forward(chunk[:, :-1], states[0])
        (found, ours), *bytes_carried = carried(host.device, learner.forward, chunk[:, :-1], states[1])
        assert bytes_carried == [3 * 4, [3 * 4 * 256]]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(host.fetch(ours), theirs)
        reference.learn(chunk, states[0])
        _, *bytes_carried = carried(host.device, learner.learn, chunk, states[1])
        if at:  # the first brings tables
            assert bytes_carried == [3 * 5 + 4 * kinds, [8 * (kinds + 1)]]
        states = [theirs, ours]


def test_a_file_that_learns_is_the_same_from_the_device(host, monkeypatch):
    monkeypatch.setattr(compress_module, "CHUNK", 8)
    monkeypatch.setattr(compress_module, "LEARNED_SEGMENT", 1)
    shape, rng = Shape(16, 1), np.random.default_rng(0)
    weights = weights_of(shape, rng, 30)
    ours, theirs = (Network(backend, shape, weights) for backend in (host, REFERENCE))
    text = b"".join(generate(theirs, b"", Sampling(length=40, temperature=0.25, count=2)))[:53]
    packed = compress(ours, text, step_size=1 << 12, streams=2)
    assert packed == compress(theirs, text, step_size=1 << 12, streams=2)
    opened = read_packed(packed, "FILE")
    assert opened.streams == 2 and decompress(ours, opened, model_name="MODEL") == text


PAPER = [run for run in PINNED if run.startswith("paper")]


@pytest.mark.slow
@pytest.mark.parametrize("run", ["egg", "egg-sample", "egg-small", "stations", "stations-some", *PAPER])
def test_golden_run_on_the_cpu(host, run):
    assert golden(run, host) == PINNED[run]


class Scales:
    """A device that computes nothing, and weighs what lies on it at once."""

    description, shared_limit, multiprocessors = "scales", SHARED["sm_90"], 132

    def __init__(self, memory):
        self.memory, self.held, self.most, self.launched = memory, 0, 0, []

    def empty(self, shape, dtype):
        array = np.empty(shape, dtype)  # not touched, so that it takes no memory here
        self.held += array.nbytes
        self.most = max(self.most, self.held)
        weakref.finalize(array, self.free, array.nbytes)
        return array

    zeros = empty

    def free(self, size):
        self.held -= size

    def put(self, array):
        return self.empty(array.shape, array.dtype)

    def holds(self, array):
        return False

    def get(self, array):
        return np.zeros(array.shape, array.dtype)

    def free_bytes(self):
        return self.memory - self.held

    def launch(self, name, kernel, options, grid, threads, shared, arguments):
        self.launched.append((kernel, grid))


@pytest.mark.parametrize("memory", [40 * 10**9, 400 * 10**6])
def test_a_population_of_65536_fits(memory):
    device, shape, pairs = Scales(memory), Shape(256, 6), 1 << 15
    one, noise = CupyBackend(device), Noise(0, 0, 4)
    model = one.prepare(shape, np.zeros(shape.parameters, np.int8))
    scores, after = one.run_pairs(model, np.zeros((pairs, 5), np.uint8), np.zeros((2 * pairs, 6, 256), np.int8), noise)
    blocks = [grid[0] for kernel, grid in device.launched if kernel == "forward_pairs"]
    assert device.most < memory and (len(blocks) > 1) == (memory < 10**9)
    assert sum(blocks) == 2 * pairs // model.tile.members  # every block is whole tiles
    assert len(scores) == 2 * pairs and after.shape == (2 * pairs, 6, 256)
    votes = one.cast_pair_votes(shape, np.zeros(pairs, np.int8), noise)
    one.update_signs(np.zeros(shape.parameters, np.int8), votes, 1)
    assert device.most < memory
    for noise in Noise(0, 0, 4, rank=4), Noise(0, 0, 4, rank=16, gaussian=True):
        one.run_pairs(model, np.zeros((4096, 5), np.uint8), np.zeros((8192, 6, 256), np.int8), noise)
        one.cast_pair_votes(shape, np.zeros(4096, np.int8), noise)
        assert device.most < memory


def test_bench_on_a_device_names_its_peak(folder, monkeypatch, egg):
    monkeypatch.setitem(sources.TILES, 16, ((32, 16),))
    one = CupyBackend(cuda_host.HostDevice(folder))

    class Peak:
        description = "cuBLAS int8, 8192 cubed"

        def __init__(self, device):
            self.rates = iter(range(1000, 2000))

        def measure(self):
            return next(self.rates)

    monkeypatch.setattr("egg.compute.get_backend", lambda *args, **settings: one)
    monkeypatch.setattr("egg.cli.bench.check_backend", lambda backend: None)
    monkeypatch.setattr("egg.kernels.cuda.peak.Peak", Peak)
    command = "bench --backend cupy --only forward --hidden-size 16 --num-layers 2".split()
    command += ["--readers", "16", "--seconds", "0"]
    status, out, err = egg(*command, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["backend"], found["peak_gmacs"], found["peak_median_gmacs"]) == ("cupy", 1002, 1001)
    (row,) = found["rows"]
    assert row["repeats"] == 3 and row["tokens_per_second"] > 0
    status, out, err = egg(*command)
    assert status == 0 and "Peak by cuBLAS int8, 8192 cubed: 1002 GMAC/s" in out
    status, _, err = egg("bench", "--backend", "cupy", "--only", "perturbation", "--hidden-size", "16")
    assert status == 2 and err.splitlines()[-1].endswith("backend cupy has no full-rank noise: choose numba")


# --- what is missing, in one line ---------------------------------------------------------------------


class FakeError(RuntimeError):
    pass


def fake_cupy(**changes):
    """CuPy as far as a device is chosen."""

    def count():
        if "driver" in changes:
            raise FakeError("cudaErrorInsufficientDriver: too old")
        return changes.get("count", 1)

    runtime = types.SimpleNamespace(
        CUDARuntimeError=FakeError,
        getDeviceCount=count,
        driverGetVersion=lambda: changes.get("driver", 0),
        runtimeGetVersion=lambda: 12090,
        getDeviceProperties=lambda n: {
            "major": 7,
            "minor": 5,
            "name": b"Tesla T4",
            "sharedMemPerBlockOptin": 1,
            "multiProcessorCount": 1,
        },
    )
    cuda = types.SimpleNamespace(runtime=runtime, Device=lambda n: None)
    return types.SimpleNamespace(cuda=cuda, __version__="14")


@pytest.mark.parametrize(
    ("cupy", "device", "said"),
    [
        (None, 0, "CuPy cannot be imported.*pip install"),
        (fake_cupy(driver=0), 0, "no CUDA driver"),
        (fake_cupy(driver=11040), 0, r"driver is for CUDA 11\.4, CuPy needs 12"),
        (fake_cupy(count=2), 2, "no device 2: this machine has 2"),
        (fake_cupy(), -1, "no device -1"),
        (fake_cupy(), 0, r"Tesla T4, has compute capability 7\.5: at least 8\.0"),
    ],
)
def test_what_is_missing_is_one_line(monkeypatch, egg, cupy, device, said):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(BackendError, match=said) as error:
        get_backend("cupy", device=device)
    assert "\n" not in str(error.value)
    status, out, err = egg("bench", "--backend", "cupy", "--device", device)
    assert (status, out) == (2, "") and err.count("\n") == 1


def test_what_the_driver_refuses_later_is_one_line(monkeypatch):
    def refuse(*_):
        raise FakeError("cudaErrorIllegalAddress: an illegal address\nwas met")

    cupy = fake_cupy()
    properties = {"major": 9, "minor": 0, "name": b"H100", "sharedMemPerBlockOptin": 1, "multiProcessorCount": 1}
    cupy.cuda.runtime.getDeviceProperties = lambda n: properties
    cupy.cuda.Device = lambda n: contextlib.nullcontext()
    cupy.cuda.driver = types.SimpleNamespace(CUDADriverError=FakeError)
    cupy.cuda.memory = types.SimpleNamespace(OutOfMemoryError=MemoryError)
    cupy.empty = refuse
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(BackendError, match="device 0: cudaErrorIllegalAddress") as error:
        CupyDevice(0).empty((1,), np.int8)
    assert "\n" not in str(error.value)


def test_the_peak_is_first_asked_on_its_device_and_fails_in_one_line(monkeypatch):
    def clock(call):
        raise RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED\nhere")

    monkeypatch.setattr(peak, "SIDE", 4)
    device = types.SimpleNamespace(put=np.array, empty=np.empty, clock=clock)
    with pytest.raises(BackendError, match="cuBLAS.*CUBLAS_STATUS_NOT_INITIALIZED here"):
        peak.Peak(device)


def test_a_device_belongs_to_cupy_alone(egg):
    status, _, err = egg("train", "--device", 1, "--backend", "numba", "--data", "x")
    assert status == 2 and "choose backend cupy" in err


# --- on a GPU -----------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize(("hidden_size", "num_layers"), [(16, 2), (64, 2), (256, 2), (1024, 1)])
def test_every_call_on_a_device_equals_the_reference(cupy_backend, hidden_size, num_layers):
    shape = Shape(hidden_size, num_layers)
    assert_calls_equal(cupy_backend, shape)
    cases = [(16, 5, 6, hidden_size, ()), (2, 37, 3, 16, ()), (16, 3, 3, hidden_size, STATIONS)]
    assert_recipe_egg_equal(cupy_backend, shape, cases)
    for kind in NOISES:
        assert_noise_equal(cupy_backend, shape, kind, [(16, 5, 4, 4), (400, 9, 2, 0)])


@pytest.mark.cuda
def test_a_device_with_little_memory_runs_in_blocks(cupy_backend, monkeypatch):
    monkeypatch.setattr(cuda_backend, "BLOCK_BYTES", 1 << 20)
    assert_calls_equal(cupy_backend, Shape(64, 1), pairs=521)
