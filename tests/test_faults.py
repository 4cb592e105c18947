"""Pulled plugs: full disks, failing writes, vanished folders, two processes in one run."""

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SMALL
from test_resume import files

import egg.files
from egg.errors import EggError
from egg.evolution.base import Evolution
from egg.model import checkpoint
from egg.run.lock import LOCK, locked

ROOT = Path(__file__).parent.parent
STEPS = ["--steps", 7]


def fail_at(patch, operation: str, number: int, code: int) -> list[int]:
    """From its number-th call on, an operation of the system fails; returns a counter of its calls."""
    calls = [0]

    def failing(real):
        def call(*arguments, **named):
            calls[0] += 1
            if calls[0] >= number:
                raise OSError(code, os.strerror(code))
            return real(*arguments, **named)

        return call

    if operation == "fsync":
        patch.setattr(os, "fsync", failing(os.fsync))
    elif operation == "rename":
        patch.setattr(Path, "rename", failing(Path.rename))
    elif operation == "replace":
        patch.setattr(Path, "replace", failing(Path.replace))
    else:
        patch.setattr(egg.files, "open", failing(open), raising=False)
    return calls


@pytest.fixture
def begin(egg, tables):
    def call(run, *arguments):
        return egg("train", *SMALL, "--data", tables, "--out", run, *STEPS, *arguments)

    return call


@pytest.mark.parametrize(
    ("operation", "numbers"),
    [("fsync", (1, 8, 15, 22)), ("rename", (1, 2, 3)), ("replace", (1, 2, 3)), ("write", (2, 6, 17))],
)
def test_a_disk_that_fails_loses_nothing(begin, egg, train, tmp_path, monkeypatch, operation, numbers):
    whole = tmp_path / "whole"
    train(*STEPS, "--out", whole)
    for number, code in zip(numbers, (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT), strict=False):
        run = tmp_path / f"{operation}-{number}"
        with monkeypatch.context() as patch:
            calls = fail_at(patch, operation, number, code)
            status, _, err = begin(run)
        assert calls[0] >= number
        assert status == 2, err
        assert err.startswith("egg: cannot write ") and err.count("\n") == 1, err
        assert os.strerror(code) in err
        saved = checkpoint.checkpoints(run)
        assert all(checkpoint.damage_of(folder) is None for folder in saved)
        if not saved:
            continue
        status, out, err = egg("train", "--resume", run, "--backend", "numpy")
        assert status == 0, err
        assert files(run) == files(whole)


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_file_that_cannot_grow(begin, egg, train, tmp_path):
    import resource

    whole, run = tmp_path / "whole", tmp_path / "run"
    train(*STEPS, "--out", whole)
    train("--steps", 3, "--out", run)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        status, _, err = egg("train", "--resume", run, "--backend", "numpy", *STEPS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2 and "cannot write checkpoint" in err and err.count("\n") == 1
    assert [p.name for p in checkpoint.checkpoints(run)] == ["step-00000003"]
    assert egg("train", "--resume", run, "--backend", "numpy", *STEPS)[0] == 0
    name = "checkpoints/step-00000007/model.safetensors"
    assert files(run)[name] == files(whole)[name]


def test_a_vanished_folder_is_told_and_not_made_again(begin, tmp_path, monkeypatch):
    run, step = tmp_path / "run", Evolution.step

    def vanish(self):
        if self.step_number == 4:
            shutil.rmtree(run)
        return step(self)

    monkeypatch.setattr(Evolution, "step", vanish)
    status, _, err = begin(run)
    assert status == 2 and err.count("\n") == 1 and "the folder of the run is gone" in err
    assert not run.exists()


def test_one_process_at_a_time(train, egg, tmp_path):
    run = tmp_path / "run"
    train("--steps", 3, "--out", run)
    assert not (run / LOCK).exists()
    with locked(run):
        status, _, err = egg("train", "--resume", run, "--steps", 4, "--backend", "numpy")
        assert (status, err.count("\n")) == (2, 1)
        assert f"in use by process {os.getpid()}" in err
        with pytest.raises(EggError, match=f"process {os.getpid()}"), locked(run):
            pass
    (run / LOCK).write_text("1 elsewhere\n")  # left by a process that was killed
    assert egg("train", "--resume", run, "--steps", 4, "--backend", "numpy")[0] == 0
    assert not (run / LOCK).exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_stops_no_run(train, tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    train("--steps", 3, "--out", tmp_path / "run")


def test_a_lock_follows_no_symbolic_link(train, egg, tmp_path):
    run, mine = tmp_path / "run", tmp_path / "mine.txt"
    train("--steps", 3, "--out", run)
    mine.write_text("is nobody else's")
    (run / LOCK).symlink_to(mine)
    status, _, err = egg("train", "--resume", run, "--steps", 4, "--backend", "numpy")
    assert status == 2 and f"cannot write {run / LOCK}" in err and err.count("\n") == 1
    assert mine.read_text() == "is nobody else's"


def test_a_folder_that_another_run_took_meanwhile_is_refused(begin, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(Evolution, "__init__", taken(run, Evolution.__init__))
    status, _, err = begin(run)
    assert status == 2 and "holds a run already" in err
    assert (run / "config.json").read_text() == "{}"


def taken(run: Path, real):
    def call(self, *arguments):
        run.mkdir()
        (run / "config.json").write_text("{}")
        real(self, *arguments)

    return call


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_lock_goes_with_a_killed_process(train, egg, tables, tmp_path):
    run = tmp_path / "run"
    flags = [*SMALL, "--data", str(tables), "--out", str(run), "--steps", "1000000"]
    command = [sys.executable, str(ROOT / "train.py"), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not checkpoint.checkpoints(run) and time.monotonic() < end:
            time.sleep(0.01)
        status, _, err = egg("train", "--resume", run, "--steps", 1, "--backend", "numpy")
        assert status == 2 and f"process {process.pid}" in err
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (run / LOCK).read_text().startswith(f"{process.pid} ")
    status, _, err = egg("train", "--resume", run, "--steps", 1, "--backend", "numpy")
    assert status == 0, err


def test_a_clock_that_jumps(begin, train, tmp_path, monkeypatch):
    """The wall clock goes a day ahead and back each time that somebody reads it; a run has a clock of its own."""
    train(*STEPS, "--out", tmp_path / "whole")
    real, readings = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() + (-86400) ** (1 + next(readings) % 2))
    status, _, err = begin(tmp_path / "run")
    assert status == 0, err
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= a["seconds"] <= b["seconds"] < 60 for a, b in itertools.pairwise(lines))


def test_changed_bytes_of_the_cache_do_not_reach_a_run(egg, cache, tmp_path):
    text, run, whole = tmp_path / "text.txt", tmp_path / "run", tmp_path / "whole"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    for folder, steps in ((whole, 7), (run, 3)):
        assert egg("train", *SMALL, "--data", text, "--steps", steps, "--out", folder)[0] == 0
    (prepared,) = cache.glob("corpora/*/all.bin")
    before = prepared.stat()
    changed = prepared.read_bytes().replace(b"quick", b"quack")
    prepared.write_bytes(changed)
    os.utime(prepared, ns=(before.st_atime_ns, before.st_mtime_ns))
    resume = ("train", "--resume", run, "--backend", "numpy", *STEPS)
    status, out, err = egg(*resume)
    assert status == 0 and "other bytes" in out + err
    name = "checkpoints/step-00000007/model.safetensors"
    assert files(run)[name] == files(whole)[name]
    # The source has changed as well: what the run keeps of its text says so.
    text.write_text(text.read_text().replace("quick", "quack"))
    status, _, err = egg(*resume[:-1], 9)
    assert (status, err.splitlines()[-1].startswith("egg: ")) == (2, True) and "not the text" in err


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 are Linux's")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "utf-8:surrogateescape"])
def test_names_that_are_not_utf8(tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    text, run = (tmp_path / os.fsdecode(name) for name in (b"te\xffxt.txt", b"r\xffun"))
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    command = [sys.executable, ROOT / "train.py", *SMALL, "--data", text, "--steps", "7", "--out", run]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert all((run / name).stat().st_size for name in ("report.html", "loss.png", "run.toml"))
    resume = [sys.executable, ROOT / "train.py", "--resume", run, "--backend", "numpy", "--steps", "9"]
    done = subprocess.run(resume, capture_output=True)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr


def test_compress_leaves_the_files_beside_its_own_alone(train, egg, book, tmp_path):
    train("--steps", 3, "--out", tmp_path / "run")
    beside = {tmp_path / name: name.encode() for name in ("writing-notes.egg", "writing-notes.txt", ".notes.egg")}
    for path, content in beside.items():
        path.write_bytes(content)
    own = ("--model", tmp_path / "run", "--backend", "numpy", "-o")
    assert egg("compress", book, *own, tmp_path / "notes.egg")[0] == 0
    assert egg("decompress", tmp_path / "notes.egg", *own, tmp_path / "notes.txt")[0] == 0
    assert (tmp_path / "notes.txt").read_bytes() == book.read_bytes()
    assert {path: path.read_bytes() for path in beside} == beside
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in beside} | {
        "run",
        "notes.egg",
        "notes.txt",
    }


@pytest.mark.parametrize(
    ("flags", "picture", "saved"),
    [
        ((), "loss.png", "checkpoints/step-00000002"),
        (("--data", "TEXT"), "loss.png", "adapter.safetensors"),
        (("--data", "TEXT", "--rank", "full"), "loss.png", "checkpoints/step-00000002"),
        (("--reward", "egg.rewards:target_length", "--prompts", "TEXT"), "reward.png", "adapter.safetensors"),
    ],
    ids=["train", "adapter", "all weights", "reward"],
)
def test_a_picture_that_fails_fails_no_run(train, egg, book, tmp_path, flags, picture, saved):
    """A folder has the picture's name, so that no file can have it."""
    run, out = tmp_path / "run", tmp_path / "out"
    place = out if flags else run
    (place / picture).mkdir(parents=True)
    told = train("--steps", 2, "--out", run)
    if flags:
        size = ("--population-size", 8, "--length", 8) if "--reward" in flags else ("--streams", 8, "--seq-len", 8)
        flags = [book if flag == "TEXT" else flag for flag in flags]
        status, done, err = egg("adapt", run, *flags, *size, "--tokens", 128, "--out", out, "--backend", "numpy")
        assert status == 0, err
        told = done + err
    assert f"no {picture}" in told and "curve: " not in told
    assert (place / saved).exists()
