"""Many processes: the same bytes for any number of ranks, and an end in one line whatever happens to one."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import PAPER, SMALL
from test_resume import files

from egg.errors import EggError
from egg.ranks import distributed

ROOT = Path(__file__).parent.parent
TRAIN = str(ROOT / "train.py")
# What Open MPI wants to be told in containers and on small machines.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def mpiexec() -> str | None:
    """The mpiexec beside this Python, which is of the MPI that pip installed, or the system's."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


needs_mpi = pytest.mark.skipif(
    mpiexec() is None or importlib.util.find_spec("mpi4py") is None,
    reason="no mpiexec or no mpi4py: pip install mpi4py mpich",
)


@pytest.fixture
def start():
    """Starts Python in several ranks; what is left of them is ended after the test."""
    started = []

    def call(ranks: int, *arguments) -> subprocess.Popen:
        process = subprocess.Popen(
            [mpiexec(), "-n", str(ranks), sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def ranks(start):
    """Runs Python in several ranks to their end: returns (status, standard output, standard error)."""

    def call(number: int, *arguments):
        process = start(number, *arguments)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    return call


def saved_steps(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("checkpoints/step-*"))


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def lines_of(err: str) -> list[str]:
    """Our own lines, without the launcher's."""
    return [line for line in err.splitlines() if line.startswith("egg: ")]


@needs_mpi
@pytest.mark.parametrize(
    "recipe",
    [
        ["--streams", "2"],
        ["--streams", "7"],
        ["--streams", "2", "--credit", "stations"],
        ["--recipe", "paper", "--seq-len", "6"],
        "--recipe paper --noise gaussian --rank 4 --fitness rank --num-perturbations 6 --group-size 4".split(),
    ],
    ids=["two streams", "seven", "stations", "paper", "paper's options"],
)
def test_any_number_of_ranks_gives_the_same_bytes(train, ranks, tables, tmp_path, recipe):
    flags = [*(PAPER if "paper" in recipe else SMALL), "--data", tables, *recipe]
    train(*recipe, "--steps", 11, "--out", tmp_path / "one")
    # Three ranks: more than there are streams, and no divisor of the pairs.
    status, out, err = ranks(3, TRAIN, "--out", tmp_path / "3", *flags, "--steps", 11)
    assert (status, err) == (0, ""), err
    assert "of the steps' time went into exchanging" in out
    assert "3 ranks share the readers" in out and out.count("checkpoint:") == 1
    assert files(tmp_path / "3") == files(tmp_path / "one")
    # On two ranks, from where three stopped.
    status, _, err = ranks(3, TRAIN, "--out", tmp_path / "2", *flags, "--steps", 8)
    assert status == 0, err
    status, out, err = ranks(2, TRAIN, "--resume", tmp_path / "2", "--backend", "numpy", "--steps", 11)
    assert status == 0, err
    assert f"resuming from {tmp_path / '2/checkpoints/step-00000008'}" in out
    both = files(tmp_path / "2"), files(tmp_path / "one")
    for name in ("metrics.jsonl", "best.json", "run.toml", "config.json"):
        assert both[0][name] == both[1][name]
    for name in ("model.safetensors", "state.safetensors"):
        name = f"checkpoints/step-00000011/{name}"
        assert both[0][name] == both[1][name]


@needs_mpi
def test_a_schedule_by_the_clock_is_the_same_on_all_ranks(ranks, tables, tmp_path):
    """Every rank moves its own copy of the weights: with a clock of its own it would have other weights."""
    program = f"""
import sys
from egg.cli.main import run
from egg.run.trainer import Trainer
train = Trainer.train
def recorded(self):
    outcome = train(self)
    open({str(tmp_path)!r} + f"/{{self.ranks.rank}}", "wb").write(self.evolution.master.tobytes())
    return outcome
Trainer.train = recorded
sys.exit(run("train", sys.argv[1:], prog="egg train"))
"""
    flags = [*SMALL, "--data", str(tables), "--out", str(tmp_path / "run")]
    status, out, err = ranks(2, "-c", program, *flags, "--schedule-tokens", "time", "--minutes", 0.02)
    assert status == 0, err
    assert "the step size follows the time" in out
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


@needs_mpi
def test_what_is_exchanged(ranks, tmp_path):
    script = tmp_path / "exchange.py"
    script.write_text(
        """
import os
import numpy as np
from egg.ranks import distributed
ranks = distributed.join()
n, r = ranks.size, ranks.rank
distributed.CHUNK = 7
for dtype, far in ((np.int64, 1 << 40), (np.int32, 1 << 27)):
    votes = np.arange(20, dtype=dtype) * dtype(r + 1) - dtype(far)
    assert ranks.add(votes, r + 1, -(1 << 50)) == (n * (n + 1) // 2, -n << 50)
    expected = np.arange(20, dtype=dtype) * dtype(n * (n + 1) // 2) - dtype(n * far)
    np.testing.assert_array_equal(votes, expected, strict=True)
for items in (1, 2, 7):
    whole = np.arange(items * 6, dtype=np.int8).reshape(items, 2, 3)
    mine = whole[ranks.share(items)]
    np.testing.assert_array_equal(ranks.all_gather(mine, items), whole)
    gathered = ranks.gather(mine, items)
    np.testing.assert_array_equal(gathered, whole if ranks.leader else mine)
    for first in range(items + 1):
        gathered = ranks.gather(mine, items, first)
        assert not ranks.leader or (gathered == whole[:first]).all() and len(gathered) == first
    scattered = ranks.scatter(whole if ranks.leader else None, items, (2, 3))
    np.testing.assert_array_equal(scattered, mine)
master = np.arange(-500, 500, dtype=np.int16)
np.testing.assert_array_equal(ranks.broadcast(master if ranks.leader else None, (1000,), np.int16), master)
assert ranks.maximum([3, 15, 2][r]) == 15
assert ranks.lead(lambda: ["a", None, {"r": r}]) == ["a", None, {"r": 0}]
assert ranks.local_size == n and ranks.threads >= 1
ranks.close()
os.write(1, b"done\\n")  # in one piece, or the lines of ranks mix
"""
    )
    status, out, err = ranks(3, script)
    assert (status, out, err) == (0, "done\n" * 3, "")


def rank_of(process: Path) -> str | None:
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    names = (b"PMI_RANK=", b"OMPI_COMM_WORLD_RANK=")
    return next((v.partition(b"=")[2].decode() for v in variables if v.startswith(names)), None)


def process_of(run: Path, rank: int) -> int:
    """The process id of a run's rank."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = b"-c" not in words and TRAIN.encode() in words and str(run).encode() in words
        if ours and b"mpiexec" not in words[0] and rank_of(process) == str(rank):
            return int(process.name)
    raise AssertionError(f"no rank {rank}")


@needs_mpi
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes through /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_ends_the_job_in_one_line(start, egg, tables, tmp_path, rank):
    lines = []
    # The launcher kills the others too, on a busy machine before they have spoken: then it has told of the death.
    for attempt in range(3):
        run = tmp_path / f"run-{attempt}"
        job = start(2, TRAIN, *SMALL, "--data", tables, "--out", run, "--steps", 10**6, "--eval-every", 0)
        wait_for(lambda run=run: len(saved_steps(run)) > 2)
        os.kill(process_of(run, rank), signal.SIGKILL)
        began = time.monotonic()
        out, err = job.communicate(timeout=60)
        assert time.monotonic() - began < 60 and job.returncode != 0
        assert "Traceback" not in out + err
        lines = lines_of(err)
        if lines:
            break
    line = f"egg: rank {rank} of 2 has died: the job ends, its last checkpoint stands"
    assert lines == [line] or (not lines and "Killed" in out + err)
    status, out, err = egg("train", "--resume", run, "--backend", "numpy", "--steps", 10**6, "--minutes", 1e-9)
    assert status == 0, err


@needs_mpi
def test_a_signal_to_the_job_saves_and_ends_it(start, tables, tmp_path):
    run = tmp_path / "run"
    job = start(2, TRAIN, *SMALL, "--data", tables, "--out", run, "--steps", 10**6)
    wait_for(lambda: len(saved_steps(run)) > 2)
    job.terminate()
    out, err = job.communicate(timeout=60)
    assert job.returncode == 143, err
    assert out.splitlines()[-1].startswith("stopped at step ") and "resume with" in out
    assert saved_steps(run)[-1] in out.splitlines()[-1]


@needs_mpi
@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("", "egg: --steps 0: must be 1 or more"),
        ("Evolution.step = lambda self: fail('no') if self.ranks.rank else step(self)", "egg: rank 1 of 2: no"),
        ("Trainer._save = lambda self, log: fail('disk') if log else save(self, log)", "egg: disk"),
    ],
)
def test_what_is_wrong_is_told_once(ranks, tables, tmp_path, code, line):
    program = f"""
import sys
from egg.cli.main import run
from egg.errors import EggError
from egg.evolution.base import Evolution
from egg.run.trainer import Trainer
step, save = Evolution.step, Trainer._save
def fail(line):
    raise EggError(line)
{code}
sys.exit(run("train", sys.argv[1:], prog="egg train"))
"""
    flags = [*SMALL, "--data", str(tables), "--out", str(tmp_path / "run")]
    steps = "0" if not code else "9"
    status, _, err = ranks(2, "-c", program, *flags, "--steps", steps)
    assert status == 2 and lines_of(err) == [line]
    assert "Traceback" not in err


def alone(code: str, **environment) -> subprocess.CompletedProcess:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI", "SLURM"))}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=kept | environment, timeout=60
    )


def test_one_process_never_imports_mpi(tmp_path, tables):
    flags = [*SMALL, "--data", str(tables), "--steps", "1", "--out", str(tmp_path / "run")]
    done = alone(
        f"import sys; from egg.cli.main import run; run('train', {flags}, prog='egg train'); "
        "sys.exit('mpi4py' in sys.modules)"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rank", ["0", "1"])
def test_many_processes_without_mpi4py_are_no_runs(rank, tmp_path):
    out = tmp_path / "run"
    done = alone(
        "import sys; sys.modules['mpi4py'] = None\nfrom egg.cli.main import run\n"
        f"sys.exit(run('train', ['--data', 'stdlib', '--out', {str(out)!r}], prog='egg train'))",
        PMI_RANK=rank,
        PMI_SIZE="2",
    )
    assert done.returncode == 2 and not out.exists()
    lines = done.stderr.splitlines()
    assert len(lines) == (rank == "0")
    assert all("2 processes were started" in line and "mpi4py" in line for line in lines)


def test_other_commands_are_for_one_process(egg, monkeypatch):
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "4")
    status, out, _ = egg("eval", "anything")
    assert (status, out) == (2, "")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"PMI_RANK": "3", "PMI_SIZE": "8"}, (3, 8)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, (0, 1)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}, (5, 6)),
        # A batch script: the job has tasks, this process is none of them.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, (0, 1)),
        # mpiexec in a shell that srun started.
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        ({"PMI_RANK": "x", "PMI_SIZE": "8"}, (0, 1)),
    ],
)
def test_launchers_are_known_by_their_environment(monkeypatch, environment, expected):
    for names in distributed.LAUNCHERS:
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.launched() == expected


def test_each_local_rank_has_a_gpu(monkeypatch):
    for local_rank, visible, bound in ((1, "0,1,2", "1"), (4, "0,1,2", "1"), (1, "7", "7")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        distributed._bind_gpu(local_rank)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == bound


def test_alone_nothing_is_exchanged():
    ranks, votes = distributed.join(), np.arange(3)
    assert ranks is distributed.ALONE and ranks.exchange_cost(1.0) == ""
    assert ranks.add(votes, 1, 2) == (1, 2) and ranks.all_gather(votes, 3) is votes
    assert ranks.share(9) == slice(0, 9) and ranks.maximum(4) == 4
    assert ranks.lead(lambda: json) is json
    with pytest.raises(EggError):
        ranks.lead(lambda: (_ for _ in ()).throw(EggError("no")))
