"""Slow: runs killed with SIGKILL at random moments end with the bytes of runs that were left alone.

pytest -m slow tests/test_kills.py -s
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SMALL
from test_distributed import ENVIRONMENT, ROOT, TRAIN, mpiexec, needs_mpi, saved_steps
from test_resume import TIMES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes through /proc"),
]


def processes(run: Path) -> list[int]:
    """The processes with a run in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(run).encode() in words:
            found.append(int(process.name))
    return [number for number in found if number != os.getpid()]


def launch(command: list) -> subprocess.Popen:
    return subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def train_and_kill(launcher: list, flags: list, run: Path, kills: int, seed: int) -> dict[str, int]:
    """Begin a run, kill it so many times, going on each time, and let it end.

    A third of the lives ends within 2 s of its beginning, the others within 0.6 s of their first checkpoint.

    returns : counts of what happened
    """
    moments = random.Random(seed)
    new = [*launcher, sys.executable, TRAIN, *flags, "--out", run]
    goes_on = [*launcher, sys.executable, TRAIN, "--resume", run, *flags[-4:]]
    done = {"kills": 0, "before the first checkpoint": 0, "left half a checkpoint": 0}
    while done["kills"] < kills:
        begun = bool(saved_steps(run))
        if not begun:
            shutil.rmtree(run, ignore_errors=True)  # killed before anything was saved
        before = saved_steps(run)[-1:]
        job = launch(goes_on if begun else new)
        if moments.random() < 1 / 3:
            time.sleep(moments.uniform(0.0, 2.0))
        else:
            while saved_steps(run)[-1:] == before and job.poll() is None:
                time.sleep(0.001)
            time.sleep(moments.uniform(0.0, 0.6))
        assert job.poll() is None, f"it ended before it was killed: {job.communicate()[1]}"
        victims = processes(run)
        for victim in victims if moments.random() < 0.5 else [moments.choice(victims)]:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        _, err = job.communicate(timeout=60)
        assert "Traceback" not in err, err
        while processes(run):
            time.sleep(0.01)
        done["kills"] += 1
        done["before the first checkpoint"] += not saved_steps(run)
        done["left half a checkpoint"] += any(run.glob("checkpoints/writing-*"))
        assert saved_steps(run)[-1:] >= before, "a checkpoint was lost"
    job = launch(goes_on if saved_steps(run) else new)
    _, err = job.communicate(timeout=1200)
    assert job.returncode == 0, err
    return done


def result(run: Path) -> dict[str, str | list]:
    """Hashes of a run's last checkpoint, and its log without times."""
    last = run / "checkpoints" / saved_steps(run)[-1]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    names = ("model.safetensors", "state.safetensors", "config.json")
    hashes = {name: hashlib.sha256((last / name).read_bytes()).hexdigest() for name in names}
    return hashes | {"metrics.jsonl": records, "best.json": (run / "best.json").read_text()}


def test_a_run_killed_fifty_times(tables, tmp_path):
    # Checkpoints at every third step: most lives end within one.
    flags = [*SMALL[:-2], "--data", tables, "--steps", 10_000, "--backend", "numpy"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    job = launch([sys.executable, TRAIN, *flags, "--out", whole])
    _, err = job.communicate(timeout=3000)
    assert job.returncode == 0, err
    done = train_and_kill([], flags, killed, 50, seed=1)
    print(f"\n{done}; model {result(killed)['model.safetensors'][:16]}")
    assert result(killed) == result(whole)


@needs_mpi
def test_threads_ranks_and_kills_give_the_same_hash(tables, tmp_path):
    pytest.importorskip("numba")
    flags = (
        "--preset nano --hidden-size 64 --schedule-tokens 1M --log-every 7 --eval-every 40 "
        "--checkpoint-every 3 --backend numba"
    ).split()
    hashes = {}
    for ranks in (1, 2, 3):
        launcher = [mpiexec(), "-n", ranks] if ranks > 1 else []
        for threads in (1, 2):
            own = [*flags, "--data", tables, "--steps", 1500, "--threads", threads]
            whole, killed = (tmp_path / f"{ranks}-{threads}-{kind}" for kind in ("whole", "killed"))
            job = launch([*launcher, sys.executable, TRAIN, *own, "--out", whole])
            _, err = job.communicate(timeout=600)
            assert job.returncode == 0, err
            done = train_and_kill(launcher, own, killed, 5, seed=10 * ranks + threads)
            for run, kills in ((whole, 0), (killed, done["kills"])):
                there = result(run)
                hashes[ranks, threads, kills] = there
                print(
                    f"\n{ranks} ranks x {threads} threads, killed {kills} times: "
                    f"model.safetensors {there['model.safetensors'][:16]}",
                    end="",
                )
    first = hashes[1, 1, 0]
    assert len(hashes) == 12 and all(there == first for there in hashes.values())
