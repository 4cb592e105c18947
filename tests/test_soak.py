"""Slow: an hour of training whose memory, files, threads and pace end as they began, and texts of a gigabyte.

EGG_SOAK_SECONDS=600 pytest -m slow tests/test_soak.py -s
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_kills import ROOT, saved_steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="measures processes through /proc"),
]

SECONDS = float(os.environ.get("EGG_SOAK_SECONDS", 3600))
MIB = 1 << 20
EGG = "import sys; from egg.cli.main import main; sys.exit(main(sys.argv[1:]))"
# The wall clock is up to a day off, either way, each time that somebody reads it.
RESTLESS = f"""
import random, time
real = time.time
time.time = lambda: real() + random.uniform(-86400, 86400)
time.time_ns = lambda: int(1e9 * time.time())
{EGG}
"""


def measured(process: int) -> dict[str, int]:
    """What a process holds: resident bytes, open files, threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {
        "resident": int(status["VmRSS"].split()[0]) * 1024,
        "files": len(os.listdir(f"/proc/{process}/fd")),
        "threads": int(status["Threads"]),
    }


def medians(rows: list[dict], begin: float, end: float) -> dict[str, float]:
    """The medians of rows with their ``seconds`` within a part of the soak."""
    part = [row for row in rows if begin * SECONDS <= row["seconds"] < end * SECONDS]
    return {name: statistics.median(row[name] for row in part) for name in part[0]}


def test_an_hour_of_training_ends_as_it_began(tables, tmp_path):
    run = tmp_path / "run"
    flags = (
        "train --hidden-size 64 --num-layers 2 --streams 16 --seq-len 16 --schedule-tokens 100M --log-every 1 "
        "--eval-every 500 --checkpoint-every 500 --backend numba --threads 1"
    ).split()
    warm = [sys.executable, "-c", EGG, *flags, "--data", tables, "--steps", "2", "--out", tmp_path / "warm"]
    subprocess.run(warm, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)  # kernels are compiled, texts prepared
    own = ["--minutes", str(SECONDS / 60), "--data", str(tables), "--out", str(run)]
    rows = []
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        job = subprocess.Popen([sys.executable, "-c", RESTLESS, *flags, *own], cwd=ROOT, stdout=out, stderr=err)
        while not (run / "metrics.jsonl").exists() and job.poll() is None:
            time.sleep(0.1)
        began = time.monotonic()
        while (seconds := time.monotonic() - began) < SECONDS - 1 and job.poll() is None:
            rows.append(measured(job.pid) | {"seconds": seconds})
            time.sleep(min(1.0, SECONDS / 600))
        status = job.wait(timeout=300)
    assert (status, (tmp_path / "err").read_text()) == (0, "")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    paces = [{"seconds": line["seconds"], "step": 256 / line["tokens_per_second"]} for line in lines]
    first, last = (medians(rows, *part) | medians(paces, *part) for part in ((0.1, 0.2), (0.9, 1.0)))
    size = (run / "metrics.jsonl").stat().st_size
    print(f"\n{SECONDS:.0f} s, {lines[-1]['step']:,} steps; metrics.jsonl {size:,} bytes, {len(lines):,} lines")
    for name, part in (("second tenth", first), ("last tenth", last)):
        print(
            f"{name}: {part['resident'] / MIB:.1f} MiB resident, {part['files']:.0f} open files, "
            f"{part['threads']:.0f} threads, {1e3 * part['step']:.3f} ms a step"
        )
    assert last["files"] == first["files"] and last["threads"] == first["threads"]
    assert last["resident"] < first["resident"] + 16 * MIB
    assert last["step"] < 2 * first["step"]  # others may use the machine too
    assert all(a["seconds"] <= b["seconds"] for a, b in zip(lines, lines[1:], strict=False))
    assert abs(lines[-1]["seconds"] - SECONDS) < 10
    # 2 x DENSE lines, then DENSE for each doubling of the steps.
    assert len(lines) < 20_000 + 10_000 * (lines[-1]["step"] // 10_000).bit_length() + 2 * lines[-1]["step"] // 500
    assert len(saved_steps(run)) <= 5


def peak(*arguments) -> int:
    """Run ``egg ARGUMENTS``, which must succeed; returns the most bytes that it had resident."""
    job = subprocess.Popen(
        [sys.executable, "-c", EGG, *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    err = job.stderr.read().decode()
    _, status, usage = os.wait4(job.pid, 0)
    job.returncode = os.waitstatus_to_exitcode(status)
    assert job.returncode == 0, err
    return usage.ru_maxrss * 1024


def gigabyte(path: Path) -> int:
    """One document of 1 GB; returns how many documents there are."""
    with open(path, "wb") as file:
        for number in range(1000):
            file.write((b"%07d " % number) * 125_000)
    return 1


def million(path: Path) -> int:
    """A million documents of a few bytes; returns their number."""
    with open(path, "w", encoding="utf-8") as file:
        for number in range(1_000_000):
            file.write(f'{{"text": "{number}"}}\n')
    return 1_000_000


@pytest.mark.parametrize(("make", "name"), [(gigabyte, "one.txt"), (million, "many.jsonl")])
def test_a_gigabyte_and_a_million_documents(tmp_path, cache, make, name):
    path = tmp_path / name
    documents = make(path)
    began = time.monotonic()
    preparing = peak("data", "prepare", path)
    seconds = time.monotonic() - began
    flags = "train --hidden-size 16 --num-layers 1 --streams 16 --seq-len 8 --steps 9 --backend numpy".split()
    training = peak(*flags, "--eval-bytes", 10_000, "--data", path, "--out", tmp_path / "run")
    told = json.loads((tmp_path / "run" / "config.json").read_text())["corpus"]
    assert sum(told["documents"].values()) == documents
    print(
        f"\n{name}, {path.stat().st_size:,} bytes: prepared in {seconds:.1f} s with {preparing / MIB:.0f} MiB resident "
        f"at the most, trained on with {training / MIB:.0f} MiB"
    )
    assert preparing < 512 * MIB
