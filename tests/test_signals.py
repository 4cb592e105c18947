"""Ctrl-C and SIGTERM in real processes: one line, an exit status, a whole checkpoint, and the same bytes afterwards.

pytest -m slow tests/test_signals.py -s
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import SMALL
from test_kills import ROOT, result, saved_steps

from egg.cli import adapt_reward
from egg.kernels import Shape, get_backend
from egg.model import checkpoint
from egg.model.network import Network
from egg.model.parameters import initial_weights
from egg.run import adaptation, compiling

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at processes through /proc")

PAIR = (signal.SIGINT, signal.SIGTERM)
LIVES = 25  # of one run, each ended by a pair of signals
# A shell's "&" has SIGINT ignored, and a child keeps that. The byte says that Python itself is up.
START = "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); os.write(1, b'.')"
TRAIN = f"{START}; sys.argv = sys.argv[1:]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"


def start(*arguments) -> subprocess.Popen:
    """A process of ``python train.py ARGUMENTS``, whose first line is about to run."""
    command = [sys.executable, "-c", TRAIN, ROOT / "train.py", *arguments]
    job = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert job.stdout.read(1) == b"."
    return job


def end(job: subprocess.Popen) -> tuple[int, list[str], str]:
    """Wait for a process; returns its exit status as a shell has it, its lines on standard output, standard error."""
    out, err = job.communicate(timeout=120)
    status = 128 - job.returncode if job.returncode < 0 else job.returncode
    return status, out.decode().splitlines(), err.decode()


def endings(out: list[str], err: str) -> list[str]:
    """All lines about how a process was ended."""
    return [line for line in out if "stopped at step" in line] + err.splitlines()


def send_pair(job: subprocess.Popen, moments: random.Random) -> signal.Signals:
    """Send both signals within 5 ms, either first; returns the first."""
    first, second = moments.sample(PAIR, 2)
    job.send_signal(first)
    time.sleep(moments.choice([0.0, moments.uniform(0.0, 0.005)]))
    job.send_signal(second)
    return first


def pairs(tables: Path, folder: Path, lives: int, seed: int) -> Counter:
    """A run ended so many times by a pair of signals; each life is checked, and so is the end of them all.

    returns : how many lives had each first signal and exit status
    """
    moments, run, whole = random.Random(seed), folder / f"run-{seed}", folder / f"whole-{seed}"
    ended = Counter()
    flags = [*SMALL, "--data", tables]
    for _ in range(lives):
        before = saved_steps(run)[-1:]
        goes_on = ["--resume", run, "--backend", "numpy"] if before else [*flags, "--out", run]
        job = start(*goes_on, "--steps", 10_000_000)
        while saved_steps(run)[-1:] == before and job.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.1))
        first = send_pair(job, moments)
        status, out, err = end(job)
        said = endings(out, err)
        assert (status, len(said)) in ((130, 1), (143, 1)), (first, status, said)
        ended[f"{first.name} first, status {status}"] += 1
        assert all(checkpoint.damage_of(path) is None for path in checkpoint.checkpoints(run))
    steps = checkpoint.step_of(Path(saved_steps(run)[-1])) + 5
    for arguments in (["--resume", run, "--backend", "numpy"], [*flags, "--out", whole]):
        status, _, err = end(start(*arguments, "--steps", steps))
        assert (status, err) == (0, "")
    assert result(run) == result(whole)
    return ended


def test_both_signals_within_milliseconds_are_one(tables, tmp_path):
    pairs(tables, tmp_path, 3, seed=0)


@pytest.mark.slow
def test_a_thousand_pairs_of_signals(tables, tmp_path):
    ended = Counter()
    for seed in range(1, 1 + 1000 // LIVES):
        ended += pairs(tables, tmp_path, LIVES, seed)
        print(f"\n{ended.total()} pairs: {dict(sorted(ended.items()))}", end="")


def catches(job: subprocess.Popen, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{job.pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def interrupt_early(tables: Path, run: Path, moment: float) -> str:
    """Ctrl-C at a moment after the process has begun to catch signals; returns the one line about it."""
    job = start(*SMALL, "--data", tables, "--steps", 10_000_000, "--out", run)
    while not catches(job, signal.SIGTERM) and job.poll() is None:
        time.sleep(0.001)
    time.sleep(moment)
    job.send_signal(signal.SIGINT)
    status, out, err = end(job)
    said = endings(out, err)
    assert (status, len(said)) == (130, 1), (moment, status, said)
    assert said == ["egg: interrupted"] or "stopped at step" in said[0]
    return said[0]


@pytest.mark.parametrize("moment", [0.0, 0.2])
def test_an_interrupt_during_imports_is_one_line(tables, tmp_path, moment):
    interrupt_early(tables, tmp_path / "run", moment)


def test_an_interrupt_of_the_compiler_says_what_is_lost(tables, tmp_path):
    """With an empty cache: the progress of compilation, then Ctrl-C, one line about it, and no folder."""
    environment = os.environ | {"EGG_CACHE": str(tmp_path / "cache")}
    flags = ["--hidden-size", 16, "--num-layers", 1, "--steps", 5, "--data", tables, "--out", tmp_path / "run"]
    command = [sys.executable, "-u", "-c", TRAIN, ROOT / "train.py", *flags, "--backend", "numba", "--threads", 1]
    job = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment, text=True
    )
    lines = []
    while not (lines and lines[-1].startswith("compiling 1 of ")):
        lines.append(job.stdout.readline())
        assert lines[-1], job.stderr.read()
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=120)
    assert (job.returncode, err) == (130, "egg: interrupted\n")
    assert "no step was taken, and what is compiled is not compiled again" in out
    assert not (tmp_path / "run").exists()


def test_the_kernels_that_are_counted_are_those_that_are_compiled(train, tables, tmp_path):
    """Those that calls lead to by their source have code in Numba's cache, once a run has used them."""
    # imports the kernels, with their cache's place
    train("--steps", 2, "--out", tmp_path / "run", "--backend", "numba", "--credit", "wire")
    from numba.core import event

    from egg.kernels import get_backend
    from egg.kernels.cpu.catalog import kernels
    from egg.kernels.cpu.compiling import needed_kernels, watching
    from egg.run.compiling import CALLS

    needed = needed_kernels(CALLS["egg"], {"adapters", "adapted", "stations"})
    known = kernels(get_backend("numba"))
    # Where they were first imported says where their code is kept.
    folder = Path(known["branches.read_and_credit"].dispatcher.stats.cache_path).parent
    files = [path.name for path in folder.rglob("*.nbi")]
    assert [name for name in needed if not any(f.startswith(f"{name}-") for f in files)] == []
    of_stations = needed_kernels(CALLS["egg"], {"adapters", "adapted"}) - needed
    assert "stations.vote_through" in of_stations

    counted = []
    with watching(CALLS["egg"], {"adapters", "adapted", "stations"}, lambda *numbers: counted.append(numbers)):
        for name in [*needed, *needed, "adapters.adapted_product"]:  # each counts once, and another does not
            with event.trigger_event("numba:compile", {"dispatcher": known[name].dispatcher}):
                pass
    assert counted == [(number, len(needed)) for number in range(1, len(needed) + 1)]

    # Of recipe paper with what its smallest step has to leave out, and Gaussian noise, which has kernels of its own
    options = "--recipe paper --noise gaussian --group-size 4 --num-perturbations 6".split()
    train(*options, "--steps", 1, "--out", tmp_path / "paper", "--backend", "numba")
    needed = needed_kernels(CALLS["paper"], {"adapters", "stations", "pair_votes"}, {"noise", "gaussian_votes"})
    files = [path.name for path in folder.rglob("*.nbi")]
    assert [name for name in needed if not any(f.startswith(f"{name}-") for f in files)] == []
    signs = needed_kernels(CALLS["paper"], {"adapters", "stations"})
    assert "noise.sum_ranks" in needed and not [name for name in signs if "noise" in name or "gaussian" in name]


def test_adapting_compiles_nothing_after_its_compiling(tables, book, egg, tmp_path, monkeypatch):
    """What egg adapt compiles, to a text or to a reward, it shows before the first measurement, and no step waits."""
    get_backend("numba")  # imports Numba with its settings
    from numba.core import event

    late, now = [], []

    class Listener(event.Listener):
        def on_start(self, event):
            pass

        def on_end(self, event):
            name = event.data["dispatcher"].py_func.__qualname__
            if not now and event.data["dispatcher"].py_func.__module__.startswith("egg."):
                late.append(name)

    real = compiling.compile_kernels

    def compile_kernels(*arguments):
        now.append(True)
        real(*arguments)
        now.clear()

    for module in (compiling, adaptation, adapt_reward):
        monkeypatch.setattr(module, "compile_kernels", compile_kernels)
    model = tmp_path / "model"
    shape = Shape(16, 1)
    Network(get_backend("numpy"), shape, initial_weights(shape, 0, "paper")).save(model)
    flags = ["--tokens", 2048, "--backend", "numba", "--threads", 1]
    (tmp_path / "prompts").write_text("a\n")
    reward = ["--reward", "egg.rewards:target_length", "--prompts", tmp_path / "prompts", "--population-size", 16]
    with event.install_listener("numba:compile", Listener()):
        for number, more in enumerate((["--data", book], ["--data", book, "--rank", "full"], reward)):
            status, _, err = egg("adapt", model, *flags, *more, "--out", tmp_path / f"out-{number}")
            assert status == 0, err
            assert late == []


@pytest.mark.slow
def test_a_hundred_early_interrupts(tables, tmp_path):
    moments, said = random.Random(5), Counter()
    for number in range(100):
        line = interrupt_early(tables, tmp_path / f"run-{number}", moments.uniform(0.0, 0.7))
        said[line.partition(" at step")[0]] += 1
    print(f"\n{dict(said)}")
