"""Stopping and going on: the same bytes as a run that never stopped."""

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
from conftest import SMALL, forge
from safetensors.numpy import load_file, save_file

from egg.evolution.base import Evolution
from egg.model import checkpoint
from egg.model.network import trained_for

ROOT = Path(__file__).parent.parent

TIMES = {"seconds", "tokens_per_second"}


def files(run: Path) -> dict[str, bytes]:
    """All that a run holds, but for the times in its log and the picture of it."""
    content = {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("loss.png", "report.html", "metrics.jsonl")
    }
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    return content | {"metrics.jsonl": records}


@pytest.fixture
def resume(egg):
    def call(run, *arguments):
        return egg("train", "--resume", run, "--backend", "numpy", *arguments)

    return call


RECIPES = {
    "egg": [],
    "sample": ["--hidden-size", "64", "--branches", "16", "--log-every", "3"],
    "stations": ["--credit", "stations"],
    "some stations": ["--credit", "stations", "--stations", "middle,past"],
    "paper": ["--recipe", "paper", "--seq-len", "6"],
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_has_the_bytes_of_one_that_never_stopped(train, resume, tmp_path, recipe):
    # One step short of a checkpoint, and on one; on a measured step, and off one.
    flags = [*RECIPES[recipe], "--checkpoint-every", 5, "--sample-every", 2]
    train(*flags, "--steps", 12, "--out", tmp_path / "whole")
    train(*flags, "--steps", 5, "--out", tmp_path / "parts")
    for steps in (8, 9, 12):
        status, _, err = resume(tmp_path / "parts", "--steps", steps)
        assert status == 0, err
    # Where it ended in between, it has left nothing: checkpoints there were not of the last three.
    parts, whole = files(tmp_path / "parts"), files(tmp_path / "whole")
    # Checkpoints before the last stop hold the stop of their time.
    for content in (parts, whole):
        for name in [n for n in content if n.endswith("config.json") and "00012" not in n]:
            content[name] = json.loads(content[name]) | {"run": None}
        for name in [n for n in content if n.endswith("manifest.json") and "00012" not in n]:
            content[name] = json.loads(content[name])["files"] | {"config.json": None}
    assert parts == whole
    # At every second measurement, and at the end.
    assert [line["step"] for line in whole["metrics.jsonl"] if "sample" in line] == [8, 12]


def test_a_killed_run_goes_on_from_its_checkpoint(train, resume, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train("--steps", 11, "--out", whole)
    shutil.copytree(whole, killed)
    for step in (8, 9, 11):
        shutil.rmtree(killed / "checkpoints" / f"step-{step:08d}", ignore_errors=step == 8)
    # What SIGKILL may leave: lines after the checkpoint, the last of them torn, and half a checkpoint.
    lines = (killed / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:40])
    (killed / "checkpoints" / "writing-step-00000009").mkdir()
    (killed / "checkpoints" / "writing-step-00000009" / "config.json").write_text("{")
    status, out, err = resume(killed)
    assert status == 0, err
    assert "from step 6" in out
    assert files(killed) == files(whole)


def test_patience_ends_a_run_that_gets_no_better_interrupted_or_not(train, resume, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # Steps that are far too large: the first measurements are the best.
    flags = "--patience 3 --step-size 127 --schedule constant --keep all --checkpoint-every 1 --steps 400".split()
    out = train(*flags, "--out", whole)
    log = files(whole)["metrics.jsonl"]
    bits = [line["validation_bits_per_byte"] for line in log if "validation_bits_per_byte" in line]
    best = bits.index(min(bits))
    assert len(bits) == best + 1 + 3 and log[-1]["step"] == 4 * len(bits) < 400
    assert f"no better than {min(bits):.4f} bits per byte in 3 measurements: stopped (--patience)" in out
    assert json.loads((whole / "best.json").read_text())["step"] == 4 * (best + 1)
    for saved in (4 * best + 2, 4 * best + 8, log[-1]["step"] - 1):
        shutil.copytree(whole, killed)
        for path in (killed / "checkpoints").iterdir():
            if checkpoint.step_of(path) > saved:
                shutil.rmtree(path)
        status, out, err = resume(killed)
        assert (status, f"from step {saved:,}," in out) == (0, True), err
        assert files(killed) == files(whole)
        shutil.rmtree(killed)
    status, out, err = resume(whole)
    assert status == 0 and "nothing to do; give a larger --patience" in out, err
    status, out, err = resume(whole, "--patience", 4)
    assert status == 0 and "in 4 measurements" in out and len(files(whole)["metrics.jsonl"]) == len(log) + 4, err


@pytest.mark.parametrize(
    ("at", "damaged"), [(0, b"\xff\n"), (2, b"9" * 200_000 + b"\n"), (6, b"{}\n\n")], ids=["first", "long", "last"]
)
def test_a_damaged_line_of_the_log_costs_no_other(train, resume, tmp_path, damaged, at):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train("--steps", 8, "--out", whole)
    train("--steps", 6, "--out", run)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([*lines[:at], damaged, *lines[at:]]))
    status, out, err = resume(run, "--steps", 8)
    assert status == 0, err
    more = " and 1 more" if damaged.count(b"\n") == 2 else ""
    assert f"{run / 'metrics.jsonl'}: line {at + 1}{more} cannot be read" in out
    kept = (run / "metrics.jsonl").read_bytes()
    assert kept.count(damaged) == 1
    (run / "metrics.jsonl").write_bytes(kept.replace(damaged, b""))
    log = files(run)["metrics.jsonl"]
    if at == 6:  # the line of six steps' end stands before the damaged one, and stays as it is too
        assert log[5].pop("validation_bits_per_byte")
    assert log == files(whole)["metrics.jsonl"]


def test_a_checkpoints_line_is_on_disk_before_it(train, tmp_path, monkeypatch):
    run = tmp_path / "run"
    save, logged = checkpoint.save_checkpoint, []

    def spy(folder, step, *rest):
        logged.append((step, len((run / "metrics.jsonl").read_text().splitlines())))
        return save(folder, step, *rest)

    monkeypatch.setattr(checkpoint, "save_checkpoint", spy)
    train("--steps", 7, "--out", run)
    assert logged == [(3, 3), (4, 4), (6, 6), (7, 7)]  # the first measurement, at 4, is the best yet


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_run_killed_at_any_moment_goes_on(train, tables, tmp_path):
    flags = ["--checkpoint-every", "1", "--steps", "60", "--keep", "all"]
    train(*flags, "--out", tmp_path / "whole")
    run = tmp_path / "run"
    start = [*SMALL, "--data", str(tables), *flags, "--out", str(run)]
    goes_on = ["--resume", str(run), "--backend", "numpy"]
    kills = 0
    for saved in (1, 12, 25, 43):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *(goes_on if kills else start)], stdout=subprocess.DEVNULL
        )
        while process.poll() is None:
            if len(list((run / "checkpoints").glob("step-*"))) >= saved:
                process.kill()
                kills += 1
                break
            time.sleep(0.001)
        process.wait()
    assert kills == 4
    for folder in (run / "checkpoints").glob("step-*"):
        assert len(list(folder.iterdir())) == 4
    subprocess.run([sys.executable, str(ROOT / "train.py"), *goes_on], check=True, stdout=subprocess.DEVNULL)
    assert files(run) == files(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(train, resume, egg, tables, tmp_path, monkeypatch, number):
    run = tmp_path / "a run"
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    step = Evolution.step

    def interrupted(self):
        if self.step_number == 4:
            os.kill(os.getpid(), number)  # in the middle of a step
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Evolution, "step", interrupted)
        flags = "--hidden-size 16 --num-layers 1 --streams 8 --log-every 1 --backend numpy".split()
        status, out, _ = egg("train", *flags, "--steps", 9, "--data", tables, "--out", run)
    assert status == 128 + number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert out.splitlines()[-1].endswith(f"resume with: egg train --resume '{run}'")
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000005"]
    assert "validation_bits_per_byte" not in (run / "metrics.jsonl").read_text()
    assert resume(run)[0] == 0
    whole = tmp_path / "whole"
    assert egg("train", *flags, "--steps", 9, "--data", tables, "--out", whole)[0] == 0
    assert files(run) == files(whole)


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_two_kinds_of_signal_at_once_are_one(egg, tables, tmp_path, monkeypatch, numbers):
    step = Evolution.step

    def both(self):
        for number in numbers:
            signal.raise_signal(number)
        return step(self)

    monkeypatch.setattr(Evolution, "step", both)
    flags = "--hidden-size 16 --num-layers 1 --streams 8 --log-every 1 --backend numpy".split()
    status, out, err = egg("train", *flags, "--steps", 9, "--data", tables, "--out", tmp_path / "run")
    assert status == 128 + numbers[0] and "stopped at step 1, saved" in out and err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("output", ["/dev/full", None])
def test_a_run_whose_output_goes_nowhere_is_finished(tables, tmp_path, output):
    """Whoever read what it prints has gone, or the disk is full: the run itself goes on and is saved."""
    command = [sys.executable, ROOT / "train.py", *SMALL, "--data", tables, "--steps", "9", "--out", tmp_path / "run"]
    reading, writing = os.pipe()
    os.close(reading)  # before the first line
    with os.fdopen(writing, "w") if output is None else open(output, "w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run/checkpoints/step-00000009").is_dir() and (tmp_path / "run/report.html").exists()


def test_a_second_signal_ends_at_once(egg, tables, tmp_path, monkeypatch):
    def twice(self):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" has it ignored
    monkeypatch.setattr(Evolution, "step", twice)
    flags = "--hidden-size 16 --num-layers 1 --streams 8 --log-every 1 --backend numpy".split()
    try:
        status, _, err = egg("train", *flags, "--data", tables, "--out", tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (status, err) == (130, "egg: interrupted\n")


def test_a_finished_run_is_left_alone(train, resume, tmp_path):
    run = tmp_path / "run"
    train("--steps", 3, "--out", run)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file()}
    for arguments in ((), ("--steps", 2), ("--tokens", 384), ("--member-tokens", 384), ("--minutes", 1e-9)):
        status, out, err = resume(run, *arguments)
        assert status == 0, err
        assert "nothing to do" in out
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file()}
    assert before == after


def test_minutes_count_from_the_beginning(train, resume, tmp_path):
    run = tmp_path / "run"
    train("--steps", 3, "--out", run)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1]) | {"seconds": 100.0}
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    assert "nothing to do" in resume(run, "--minutes", 1.6)[1]
    assert resume(run, "--minutes", 100, "--steps", 4)[0] == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 4 and 100 < last["seconds"] < 160


def test_what_a_run_keeps_and_what_may_change(train, resume, tmp_path, tables, book):
    run = tmp_path / "run"
    train("--steps", 2, "--seed", 3, "--out", run)
    for arguments in (
        ["--seed", 4],
        ["--hidden-size", 64],
        ["--num-layers", 2],
        ["--population-size", 64],
        ["--streams", 64],
        ["--branches", 8],
        ["--credit", "wire"],
        ["--seq-len", 4],
        ["--schedule-tokens", 5],
        ["--preset", "base"],
        ["--data", book],
        ["--data-column", "words"],
        ["--recipe", "paper"],
        ["--step-size", 1],
        ["--sigma-shift", 3],
    ):
        status, _, err = resume(run, "--steps", 3, *arguments)
        assert status == 2
        assert arguments[0] in err and err.count("\n") == 1, err
    train("--steps", 2, "--credit", "wire", "--out", tmp_path / "wire")
    status, _, err = resume(tmp_path / "wire", "--steps", 3, "--credit", "stations")
    assert status == 2 and "remove --credit" in err
    status, _, err = resume(run, "--steps", 3, "--out", tmp_path / "elsewhere")
    assert status == 2 and "--out" in err
    assert not (tmp_path / "elsewhere").exists()
    status, _, err = resume(
        run,
        "--steps",
        3,
        "--out",
        f"{run}/",
        "--seed",
        3,
        "--preset",
        "nano",
        "--data",
        tables,
        "--threads",
        1,
        "--eval-every",
        1,
        "--eval-bytes",
        100,
        "--checkpoint-every",
        1,
    )
    assert status == 0, err


def test_what_cannot_be_resumed(train, resume, tmp_path):
    run = tmp_path / "run"
    train("--steps", 2, "--out", run)
    saved = run / "checkpoints" / "step-00000002"
    status, _, err = resume(saved)
    assert status == 2 and f"give its run, {run}" in err
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    assert "has no checkpoint" in resume(bare)[2]


def test_a_run_killed_before_its_first_checkpoint_begins_again(train, resume, tmp_path):
    """At whatever moment: its settings alone are there, or some of its log, or half a checkpoint."""
    train("--steps", 6, "--out", tmp_path / "whole")
    for left in ("config.json", "run.toml", "metrics.jsonl", "checkpoints"):
        run = tmp_path / left
        train("--steps", 4, "--out", run)
        (run / "best.json").unlink()
        shutil.rmtree(run / "checkpoints")
        if left == "checkpoints":
            (run / "checkpoints" / "writing-step-00000003").mkdir(parents=True)
        if left in ("config.json", "run.toml"):
            (run / "metrics.jsonl").unlink()
        if left == "config.json":
            (run / "run.toml").unlink()
        status, out, err = resume(run, "--steps", 6)
        assert status == 0 and "it starts again at step 0" in out, err
        assert files(run) == files(tmp_path / "whole")
    # Another text is refused here too.
    run = tmp_path / "other"
    train("--steps", 1, "--out", run)
    (run / "best.json").unlink()
    shutil.rmtree(run / "checkpoints")
    content = json.loads((run / "config.json").read_text())
    content["corpus"]["fingerprint"] = "0" * 64
    (run / "config.json").write_text(json.dumps(content))
    status, _, err = resume(run, "--steps", 2)
    assert status == 2 and "not the text that the run was started with" in err
    # A run whose checkpoints were taken away keeps its log.
    run = tmp_path / "robbed"
    train("--steps", 2, "--out", run)
    shutil.rmtree(run / "checkpoints")
    log = (run / "metrics.jsonl").read_bytes()
    assert resume(run, "--steps", 3)[0] == 2
    assert (run / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: (d / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda d: (d / "config.json").write_text('{"model": {}}'), "hidden_size"),
        (lambda d: (d / "state.safetensors").unlink(), "no state.safetensors"),
        (lambda d: os.truncate(d / "state.safetensors", 500), "state.safetensors is damaged"),
        (lambda d: os.truncate(d / "model.safetensors", 500), "model.safetensors is damaged"),
        (lambda d: change_state(d, "states", lambda a: a[:-1].copy()), "states"),
        (lambda d: change_state(d, "master", lambda a: a.astype(np.int16)), "master"),
        (lambda d: change_state(d, "master", lambda a: a[::-1].copy()), "not of the same step"),
        (lambda d: change_state(d, "squares", lambda a: a[1:].copy()), "squares"),
        (lambda d: change_state(d, "shifts", lambda a: a + 32), "out of range: shifts"),
        (lambda d: change_state(d, "step", lambda a: a + 1), "not of the same step"),
        (lambda d: change_corpus(d), "not the text that the run was started with"),
    ],
)
def test_damage_is_told_in_one_line(train, resume, tmp_path, damage, says):
    run = tmp_path / "run"
    train("--steps", 2, "--out", run)
    damage(run / "checkpoints" / "step-00000002")
    for forged in (False, True):
        if forged:
            forge(run / "checkpoints" / "step-00000002")
        before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
        status, _, err = resume(run, "--steps", 3)
        assert status == 2
        assert err.startswith("egg: ") and err.count("\n") == 1
        assert (says if forged else "step-00000002") in err
        assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_a_run_goes_on_from_the_newest_complete_checkpoint(train, resume, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train("--steps", 11, "--out", whole)
    train("--steps", 9, "--out", run)
    (run / "checkpoints/step-00000009/state.safetensors").write_bytes(b"torn")
    status, out, err = resume(run, "--steps", 11)
    assert status == 0, err
    assert f"resuming from {run / 'checkpoints/step-00000008'}" in out
    assert "step-00000009/state.safetensors is damaged" in out
    assert (run / "checkpoints/damaged-step-00000009").is_dir()
    shutil.rmtree(run / "checkpoints/damaged-step-00000009")
    name = "checkpoints/step-00000011/model.safetensors"
    assert files(run)[name] == files(whole)[name]


def test_a_run_of_an_older_version_is_read_but_not_trained_on(train, egg, resume, tmp_path, tables):
    run = tmp_path / "run"
    train("--steps", 4, "--out", run)
    for path in run.rglob("config.json"):
        there = json.loads(path.read_text())
        del there["made_with"]
        there["evolution"] = {
            "recipe": "egg",
            "population_size": 32,
            "group_size": 16,
            "seq_len": 4,
            "sigma_shift": None,
            "perturbation": "sign",
            "seed": 0,
            "schedule_tokens": 10_000,
            "step_size": None,
            "schedule": "linear",
            "final_step_share": 0.05,
        }
        stops = {"member_tokens": there["run"].pop("tokens")}
        del there["run"]["log_every"]
        path.write_text(json.dumps(there | {"format": 1, "run": there["run"] | stops}))
    old = {"tokens": "member_tokens", "tokens_per_second": "member_tokens_per_second"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [{old.get(k, k): v for k, v in line.items()} for line in lines]
    for line in lines:
        del line["step_size"]
    text = "".join(json.dumps(line | {"vote_signal_to_noise": -0.1}) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text)
    saved = run / "checkpoints/step-00000004"
    forge(saved)
    for command in (
        ["eval", run, "--backend", "numpy"],
        ["sample", run, "--backend", "numpy", "--length", 9],
        ["export", run, "--to", "c", "--out", tmp_path / "c"],
        ["plot", run],
    ):
        status, _, err = egg(*command)
        assert status == 0, err
    assert trained_for(saved, checkpoint.read_config(saved)) == 4 * 32 * 4
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    status, _, err = resume(run, "--steps", 9)
    assert status == 2 and "older version" in err and err.count("\n") == 1
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def change_state(folder: Path, name: str, change) -> None:
    state = load_file(folder / "state.safetensors")
    state[name] = change(state[name])
    save_file(state, folder / "state.safetensors", {"egg_checkpoint": "2"})


def change_corpus(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["corpus"]["fingerprint"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))


def test_a_resumed_run_may_change_backend_and_threads(train, egg, tmp_path):
    pytest.importorskip("numba")
    train("--steps", 6, "--out", tmp_path / "whole")
    run = tmp_path / "run"
    train("--steps", 3, "--out", run)
    for steps, threads in ((4, 1), (6, 2)):
        status, _, err = egg("train", "--resume", run, "--steps", steps, "--backend", "numba", "--threads", threads)
        assert status == 0, err
    name = "checkpoints/step-00000006/{}.safetensors"
    for part in ("model", "state"):
        one, other = run / name.format(part), tmp_path / "whole" / name.format(part)
        assert one.read_bytes() == other.read_bytes()
